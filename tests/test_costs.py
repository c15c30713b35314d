"""Costs against closed forms, and an estimate that comes from the real code."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from builders import CPU, PLAIN, cell, small_set

from mabench import data
from mabench.data import DATASETS
from mabench.evaluation.budget import Budget
from mabench.runs import costs
from mabench.runs.events import Event, Note
from mabench.runs.folder import Folder
from mabench.schema import Distillation

DIGITS = DATASETS["digits"]


def test_flops_of_an_mlp_are_its_matrix_products() -> None:
    """40 images, 6 epochs, training counted 3 times, 3 passes at 500 images."""
    per_image = 2 * (3 * 32 * 32 * 128 + 128 * 128 + 128 * 10)
    assert costs.flops(cell(), DIGITS, 40, 500) == per_image * (6 * 40 * 3 + 3 * 500)
    distilled = cell(PLAIN.model_copy(update={"distillation": Distillation(teacher="mlp-scratch", alpha=0.5, temperature=2.0)}))
    assert costs.flops(distilled, DIGITS, 40, 500) == per_image * (6 * 40 * 3 + 3 * 500 + 6 * 40 * (3 + 1)), "trained, then asked"


def test_seconds_grow_with_images_epochs_and_passes() -> None:
    speed = costs.Speed(startup_seconds=5.0, seconds_per_train_image=0.01, seconds_per_test_image=0.001)
    assert speed.seconds(cell(), 40, 500) == pytest.approx(6 * 40 * 0.01 + 3 * 500 * 0.001)
    pruned = costs.Speed(5.0, 0.01, 0.001, pruned_share=0.5)
    assert pruned.seconds(cell(), 40, 500) == pytest.approx(6 * 40 * 0.01 + (1 + 2 * 0.5) * 500 * 0.001), (
        "the last test pass is whole"
    )


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_an_estimate_counts_the_startup_once_a_kind(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr(costs, "CALIBRATION_SECONDS", 0.05)
    heard: list[str] = []
    cells = [cell(seed=0), cell(seed=1), cell(evaluator="lenet-scratch")]
    seconds = costs.estimate(
        cells,
        small_set(),
        500,
        device=CPU,
        engine=engine,  # type: ignore[arg-type]
        on_kind=lambda c: heard.append(c.evaluator.name),
    )
    assert heard == ["mlp-scratch", "lenet-scratch"] and set(seconds) == {c.name for c in cells}
    assert seconds[cells[0].name] > seconds[cells[1].name] > 0


def test_a_budget_that_fits_no_run_names_the_smallest_that_fits_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """25 s are gone before the first run, the cheaper of two takes 40 s and the end needs 10 s: 75 s, so 2 minutes."""
    cells = [cell(evaluator="lenet-scratch"), cell(evaluator="mlp-scratch")]
    monkeypatch.setattr(costs, "estimate", lambda *rest, **more: {cells[0].name: 90.0, cells[1].name: 40.0})
    heard: list[Event] = []
    budget = Budget(time.monotonic() - 25, 0.3, lambda: False)
    place = Folder(tmp_path, "set", "suite", "digest")
    assert budget.order(cells, place, small_set(), data.load("digits", "test"), "cpu", "reference", heard.append) == cells[::-1]
    (said,) = [event.text for event in heard if isinstance(event, Note)]
    assert re.fullmatch(
        r"0\.3 minutes: no run fits; start and measuring took 2[5-9] s, and the cheapest run, mlp-scratch, takes about 40 s\. "
        r"Allow at least 2 minutes, e\.g\. --minutes 2",
        said,
    )


def test_a_teacher_is_counted_at_its_own_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Startup of the teacher once, its training (3 forwards an image) once a seed, its answers (1) once a cell, or once an image."""
    speeds = {"mlp-scratch": costs.Speed(1.0, 0.001, 0.01), "convnet3-scratch": costs.Speed(10.0, 0.3, 5.0)}
    monkeypatch.setattr(costs, "measure", lambda one, *rest: speeds[one.evaluator.name])
    recipe = PLAIN.model_copy(update={"distillation": Distillation(teacher="convnet3-scratch", alpha=0.5, temperature=2.0)})
    cells = [cell(recipe, seed=0), cell(recipe, seed=1), cell(recipe, evaluator="convnet3-scratch")]
    seconds = costs.estimate(cells, small_set(), 500, device=CPU, engine="reference")
    images, passes = 6 * 40, 3 * 500
    student, teacher = images * 0.001 + passes * 0.01, images * 0.3 * 4 / 3
    expected = [1 + student + 10 + teacher, student + teacher, images * 0.3 + passes * 5.0 + images * 0.3 / 3]
    assert [seconds[one.name] for one in cells] == pytest.approx(expected)
    once = costs.estimate(cells[:1], small_set(), 500, device=CPU, engine="fast")
    assert once[cells[0].name] == pytest.approx(1 + student + 10 + images * 0.3 + 40 * 0.3 / 3)
