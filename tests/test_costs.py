"""Costs against closed forms, and an estimate that comes from the real code."""

from __future__ import annotations

import pytest
from builders import CPU, PLAIN, cell, small_set

from mabench.data import DATASETS
from mabench.runs import costs
from mabench.schema import Distillation

DIGITS = DATASETS["digits"]


def test_flops_of_an_mlp_are_its_matrix_products() -> None:
    """40 images, 6 epochs, training counted 3 times, 3 looks at 500 images."""
    per_image = 2 * (3 * 32 * 32 * 128 + 128 * 128 + 128 * 10)
    assert costs.flops(cell(), DIGITS, 40, 500) == per_image * (6 * 40 * 3 + 3 * 500)
    distilled = cell(PLAIN.model_copy(update={"distillation": Distillation(teacher="mlp-scratch", alpha=0.5, temperature=2.0)}))
    assert costs.flops(distilled, DIGITS, 40, 500) == per_image * (6 * 40 * 3 + 3 * 500 + 6 * 40 * (3 + 1)), "trained, then asked"


def test_seconds_grow_with_images_epochs_and_looks() -> None:
    speed = costs.Speed(startup_seconds=5.0, seconds_per_train_image=0.01, seconds_per_test_image=0.001)
    assert speed.seconds(cell(), 40, 500) == pytest.approx(6 * 40 * 0.01 + 3 * 500 * 0.001)
    pruned = costs.Speed(5.0, 0.01, 0.001, pruned_share=0.5)
    assert pruned.seconds(cell(), 40, 500) == pytest.approx(6 * 40 * 0.01 + (1 + 2 * 0.5) * 500 * 0.001), "the last look is whole"


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


def test_a_teacher_is_counted_at_its_own_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Startup of the teacher once, its training (3 forwards an image) once a seed, its answers (1) once a cell, or once an image."""
    speeds = {"mlp-scratch": costs.Speed(1.0, 0.001, 0.01), "convnet3-scratch": costs.Speed(10.0, 0.3, 5.0)}
    monkeypatch.setattr(costs, "measure", lambda one, *rest: speeds[one.evaluator.name])
    recipe = PLAIN.model_copy(update={"distillation": Distillation(teacher="convnet3-scratch", alpha=0.5, temperature=2.0)})
    cells = [cell(recipe, seed=0), cell(recipe, seed=1), cell(recipe, evaluator="convnet3-scratch")]
    seconds = costs.estimate(cells, small_set(), 500, device=CPU, engine="reference")
    images, looks = 6 * 40, 3 * 500
    student, teacher = images * 0.001 + looks * 0.01, images * 0.3 * 4 / 3
    expected = [1 + student + 10 + teacher, student + teacher, images * 0.3 + looks * 5.0 + images * 0.3 / 3]
    assert [seconds[one.name] for one in cells] == pytest.approx(expected)
    once = costs.estimate(cells[:1], small_set(), 500, device=CPU, engine="fast")
    assert once[cells[0].name] == pytest.approx(1 + student + 10 + images * 0.3 + 40 * 0.3 / 3)
