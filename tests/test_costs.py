"""Costs against closed forms, and an estimate that comes from the real code."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from builders import CPU, PLAIN, cell, small_set

from mabench.data import DATASETS
from mabench.engine import Wanted
from mabench.errors import Interrupted
from mabench.evaluation.budget import Budget
from mabench.networks import sizes
from mabench.networks.evaluators import EVALUATORS
from mabench.runs import costs
from mabench.runs.events import Event, Note
from mabench.runs.folder import Folder
from mabench.schema import Cell, Distillation

DIGITS = DATASETS["digits"]


def test_flops_of_an_mlp_are_its_matrix_products() -> None:
    """40 images, 6 epochs, training counted 3 times, 3 passes at 500 images."""
    per_image = 2 * (3 * 32 * 32 * 128 + 128 * 128 + 128 * 10)
    assert costs.flops(cell(), DIGITS, 40, 500) == per_image * (6 * 40 * 3 + 3 * 500)
    distilled = cell(PLAIN.model_copy(update={"distillation": Distillation(teacher="mlp-scratch", alpha=0.5, temperature=2.0)}))
    assert costs.flops(distilled, DIGITS, 40, 500) == per_image * (6 * 40 * 3 + 3 * 500 + 6 * 40 * (3 + 1)), "trained, then asked"


def test_seconds_grow_with_images_epochs_and_passes() -> None:
    speed = costs.Speed(flops=1e6, startup_seconds=5.0, seconds_per_train_image=0.01, seconds_per_test_image=0.001)
    assert speed.seconds(cell(), 40, 500) == pytest.approx(6 * 40 * 0.01 + 3 * 500 * 0.001)
    pruned = costs.Speed(1e6, 5.0, 0.01, 0.001, pruned_share=0.5)
    assert pruned.seconds(cell(), 40, 500) == pytest.approx(6 * 40 * 0.01 + (1 + 2 * 0.5) * 500 * 0.001), (
        "the last test pass is whole"
    )


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_an_estimate_counts_the_startup_once_a_kind(monkeypatch: pytest.MonkeyPatch, engine: Wanted) -> None:
    monkeypatch.setattr(costs, "CALIBRATION_SECONDS", 0.05)
    heard: list[str] = []
    cells = [cell(evaluator="lenet-scratch"), cell(seed=0), cell(seed=1)]
    speeds: dict[costs.Kind, costs.Speed] = {}
    for _ in range(2):
        costs.learn(
            speeds, cells, small_set(), 500, device=CPU, engine=engine, on_kind=lambda one: heard.append(one.evaluator.name)
        )
    assert heard == ["mlp-scratch", "lenet-scratch"], "cheapest first, and never again"
    seconds = costs.estimate(cells, small_set(), 500, speeds, device=CPU, engine=engine)
    assert set(seconds) == {c.name for c in cells}
    assert seconds[cells[1].name] > seconds[cells[2].name] > 0


def test_a_network_that_was_not_measured_costs_its_operations() -> None:
    """Its startup is the one that is known, paid once; its seconds grow with its operations."""
    cells = [cell(), cell(evaluator="convnet3-scratch"), cell(evaluator="convnet3-scratch", seed=1)]
    mlp, convnet = (sizes.of(EVALUATORS[name], 10, 3).flops for name in ("mlp-scratch", "convnet3-scratch"))
    speeds = {("scratch", "mlp-scratch"): costs.Speed(mlp, 7.0, 0.001, 0.01)}
    seconds = costs.estimate(cells, small_set(), 500, speeds, device=CPU, engine="reference")
    alone = 6 * 40 * 0.001 + 3 * 500 * 0.01
    assert [seconds[one.name] for one in cells] == pytest.approx([7 + alone, 7 + alone * convnet / mlp, alone * convnet / mlp])


def ordered(budget: Budget, cells: list[Cell], folder: Path, heard: list[Event]) -> list[Cell]:
    place = Folder(folder, small_set().sha256, "suite", "digest")
    return budget.order(cells, place, small_set(), 500, "cpu", "reference", heard.append)


def test_a_budget_that_fits_no_run_names_the_smallest_that_fits_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """25 s are gone before the first run, the cheaper of two takes 40 s and the end needs 10 s: 75 s, so 2 minutes."""
    cells = [cell(evaluator="lenet-scratch"), cell(evaluator="mlp-scratch")]
    monkeypatch.setattr(costs, "measure", lambda one, *rest: costs.Speed(1e6, 1.0, 1.0, 1.0))
    monkeypatch.setattr(costs, "estimate", lambda *rest, **more: {cells[0].name: 90.0, cells[1].name: 40.0})
    heard: list[Event] = []
    assert ordered(Budget(time.monotonic() - 25, 0.3, lambda: False), cells, tmp_path, heard) == cells[::-1]
    said = [event.text for event in heard if isinstance(event, Note)]
    assert said[0] == "measuring mlp-scratch ..." and re.fullmatch(
        r"0\.3 minutes: no run fits; start and measuring took 2[5-9] s, and the cheapest, mlp-scratch, takes about 40 s\. "
        r"Allow at least 2 minutes, e\.g\. --minutes 2; 1 network was not measured, only predicted",
        said[1],
    )


def test_measuring_takes_a_part_of_a_budget_and_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of three networks takes a fifth of the budget to measure: two commands, two each but the last; a third has nothing to do."""
    measured: list[str] = []

    def measure(one: Cell, *rest: object) -> costs.Speed:
        measured.append(one.evaluator.name)
        now[0] += 12.0
        return costs.Speed(1e6, 1.0, 1e-3, 1e-3)

    now = [1000.0]
    monkeypatch.setattr(costs, "measure", measure)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cells = [cell(evaluator=name) for name in ("convnet3-scratch", "mlp-scratch", "lenet-scratch")]
    heard: list[Event] = []
    for known in (2, 3, 3):
        ordered(Budget(now[0], 1.0, lambda: False), cells, tmp_path, heard)
        assert measured == ["mlp-scratch", "lenet-scratch", "convnet3-scratch"][:known]
    said = [event.text for event in heard if isinstance(event, Note) and "minutes: " in event.text]
    assert ["1 network was not measured" in text for text in said] == [True, False, False]
    (tmp_path / "speeds.json").write_text("{}")
    ordered(Budget(now[0] - 100, 1.0, lambda: False), cells, tmp_path, heard)
    assert measured[3:] == ["mlp-scratch"], "one at least, for a note that says how much is enough"


def test_who_asks_to_stop_waits_for_no_measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def measure(one: Cell, *rest: object) -> costs.Speed:
        asked.append(True)
        return costs.Speed(1e6, 1.0, 1.0, 1.0)

    monkeypatch.setattr(costs, "measure", measure)
    with pytest.raises(Interrupted):
        ordered(Budget(time.monotonic(), 60.0, lambda: bool(asked)), [cell(), cell(evaluator="lenet-scratch")], tmp_path, [])
    assert len(asked) == 1


def test_a_teacher_is_counted_at_its_own_cost() -> None:
    """Startup of the teacher once, its training (3 forwards an image) once a seed, its answers (1) once a cell, or once an image."""
    speeds = {
        ("scratch", "mlp-scratch"): costs.Speed(1e6, 1.0, 0.001, 0.01),
        ("scratch", "convnet3-scratch"): costs.Speed(1e8, 10.0, 0.3, 5.0),
    }
    recipe = PLAIN.model_copy(update={"distillation": Distillation(teacher="convnet3-scratch", alpha=0.5, temperature=2.0)})
    cells = [cell(recipe, seed=0), cell(recipe, seed=1), cell(recipe, evaluator="convnet3-scratch")]
    assert list(costs.kinds(cells[:2], DIGITS)) == list(speeds), "the teacher is measured too"
    seconds = costs.estimate(cells, small_set(), 500, speeds, device=CPU, engine="reference")
    images, passes = 6 * 40, 3 * 500
    student, teacher = images * 0.001 + passes * 0.01, images * 0.3 * 4 / 3
    expected = [1 + student + 10 + teacher, student + teacher, images * 0.3 + passes * 5.0 + images * 0.3 / 3]
    assert [seconds[one.name] for one in cells] == pytest.approx(expected)
    once = costs.estimate(cells[:1], small_set(), 500, speeds, device=CPU, engine="fast")
    assert once[cells[0].name] == pytest.approx(1 + student + 10 + images * 0.3 + 40 * 0.3 / 3)
