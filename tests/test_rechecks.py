"""Records are checked by their first ten steps: what is real passes on any machine, what was invented does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import BUNDLED, CPU, DIGITS, TEST, small_set, write_card

from mabench import training
from mabench.board import gates, rechecks, review, submit, verify
from mabench.board import submission as submissions
from mabench.errors import MabenchError
from mabench.files import write_text
from mabench.runs.folder import record_text
from mabench.runs.plan import plan
from mabench.schema import Augmentation, RunRecord
from mabench.sets import readers, synthetic
from mabench.sets.synthetic import SyntheticSet
from mabench.training import loop

Change = Callable[[RunRecord], dict[str, Any]]


@pytest.fixture(scope="module")
def bundled() -> SyntheticSet:
    return readers.read(BUNDLED)


@pytest.fixture(scope="module")
def honest(bundled: SyntheticSet) -> list[RunRecord]:
    """Two runs of the MLP on the bundled digits."""
    cells = plan(DIGITS, bundled, evaluator="mlp-scratch", seeds=[0, 1])
    return [training.run(bundled, cell, TEST, device=CPU) for cell in cells]


def changed(records: list[RunRecord], change: Change) -> list[RunRecord]:
    return [record.model_copy(update=change(record)) for record in records]


def test_a_real_record_passes(bundled: SyntheticSet, honest: list[RunRecord]) -> None:
    found = rechecks.first_steps(bundled, honest)
    assert not found.refusals and found.found.startswith("mlp-scratch, 2 seeds: the first losses are the same within")
    digest, losses = training.first_losses(bundled, honest[0].cell, TEST, CPU)
    assert (digest, losses) == (honest[0].initial_weights_sha256, honest[0].first_losses) and len(losses) == 10
    same, moved = training.first_losses(bundled, honest[0].cell, TEST, CPU, moved=2.0**-20)
    assert same == digest and moved != losses and moved == pytest.approx(losses, rel=1e-4)


def test_ten_steps_are_taken_and_no_more(bundled: SyntheticSet, honest: list[RunRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    taken, step = [], loop.Trainer.step

    def counted(trainer: Any, batch: torch.Tensor) -> torch.Tensor:
        taken.append(len(batch))
        return step(trainer, batch)

    monkeypatch.setattr(loop.Trainer, "step", counted)
    training.first_losses(bundled, honest[0].cell, TEST, CPU)
    assert len(taken) == 10
    short = honest[0].cell.model_copy(
        update={"recipe": DIGITS.recipes["scratch"].model_copy(update={"epochs": 10, "batch_size": 50})}
    )
    few = short.model_copy(update={"recipe": short.recipe.model_copy(update={"epochs": 2, "test_every": 1})})
    assert len(training.first_losses(bundled, few, TEST, CPU)[1]) == 2
    assert len(training.first_losses(bundled, short, TEST, CPU, enough=lambda losses: len(losses) == 3)[1]) == 3


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("evaluator", ["mlp-scratch", "convnet3-scratch", "vit_mini-scratch"])
def test_other_sums_stay_far_within_the_tolerance(bundled: SyntheticSet, evaluator: str) -> None:
    """Without oneDNN and on another number of threads products are summed in another order, as on another machine."""
    (cell,) = plan(DIGITS, bundled, evaluator=evaluator, seeds=[0])
    _, here = training.first_losses(bundled, cell, TEST, CPU)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        with torch.backends.mkldnn.flags(enabled=False):
            _, there = training.first_losses(bundled, cell, TEST, CPU)
    finally:
        torch.set_num_threads(threads)
    assert there == pytest.approx(here, rel=rechecks.ARITHMETIC["float32"].allowed / 10)


FORGERIES: dict[str, tuple[Change, str]] = {
    "losses that fall as losses do": (
        lambda r: {"first_losses": tuple(2.3 * 0.9**k for k in range(10))},
        "step 2 has the loss .* here, the record says 2.070000 .allowed: 1 %.",
    ),
    "a last loss that is five percent better": (
        lambda r: {"first_losses": (*r.first_losses[:9], 0.95 * r.first_losses[9])},
        "step 10 has the loss",
    ),
    "losses of another seed": (lambda r: {"cell": r.cell.model_copy(update={"seed": 2 - r.cell.seed})}, "step 1 has the loss"),
    "fewer losses": (lambda r: {"first_losses": r.first_losses[:4]}, "holds 4 first losses, the run has 10"),
    "a loss that was not finite": (lambda r: {"first_losses": (-1.0, *r.first_losses[1:])}, "the record says -1.000000"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_first_losses_are_refused(bundled: SyntheticSet, honest: list[RunRecord], name: str) -> None:
    change, words = FORGERIES[name]
    found = rechecks.first_steps(bundled, changed(honest, change))
    assert found.refusals and all("run the cell again" in text for text in found.refusals)
    with pytest.raises(MabenchError, match=words):
        raise MabenchError("\n".join(found.refusals))


def test_forged_curves_with_right_checksums_are_refused_at_submission(
    bundled: SyntheticSet, honest: list[RunRecord], tmp_path: Path
) -> None:
    """Files as `mabench eval` writes them, checksum and all, about a set on which nothing was ever trained."""
    card = write_card(tmp_path / "card.toml")

    def submitted(name: str, records: list[RunRecord]) -> list[str]:
        for record in records:
            write_text(tmp_path / name / "records" / f"{record.cell.name}.json", record_text(record))
        return submit.examine(BUNDLED, [tmp_path / name], card).refusals

    assert submitted("honest", honest) == []
    invented = changed(
        honest,
        lambda r: {
            "curve": tuple((epoch, 480) for epoch, _ in r.curve),
            "first_losses": tuple(2.3 - 0.05 * k for k in range(10)),
        },
    )
    (refused, _) = submitted("forged", invented)
    assert refused.startswith("first steps: scratch--mlp-scratch--seed0: step 2 has the loss")
    without = changed(honest, lambda r: {"first_losses": (), "curve": tuple((epoch, 480) for epoch, _ in r.curve)})
    assert any("losses of the first steps" in text and text.startswith("curves:") for text in submitted("left out", without))


def test_a_rerun_that_nobody_ran_is_refused_in_a_review(bundled: SyntheticSet, honest: list[RunRecord], tmp_path: Path) -> None:
    """Whoever confirms a friend's numbers without running them has to know the first losses; copying the records shows."""
    for record in honest:
        write_text(tmp_path / "run" / "records" / f"{record.cell.name}.json", record_text(record))
    case = submit.examine(BUNDLED, [tmp_path / "run"], write_card(tmp_path / "card.toml"))
    folder = tmp_path / "board" / case.slug
    submissions.write(folder, submit.changes(case, None, who="A. Author"))
    before = submissions.read(folder)
    assert before is not None

    def refused(change: Change) -> list[str]:
        submissions.write(folder, verify.logged(before, changed(honest, change), who="friend", seed=0))
        found = review.review(folder, before=before, account="friend")
        for path in (folder / "reruns").iterdir():
            path.unlink()
        return [f"{gate.name}: {text}" for gate in found.gates for text in gate.refusals]

    assert refused(lambda r: {"seconds": r.seconds + 1}) == []
    (first, _) = refused(lambda r: {"seconds": r.seconds + 1, "first_losses": tuple(x + 0.2 for x in r.first_losses)})
    assert first.startswith("re-runs, first steps: scratch--mlp-scratch--seed0: step 1 has the loss")
    (first, _) = refused(lambda r: {"curve": tuple((e, c + 1) for e, c in r.curve)})
    assert first.startswith("reruns/ runs: ") and "as the submitted record did: a copy" in first


def test_what_cannot_be_checked_is_said(bundled: SyntheticSet, honest: list[RunRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(records: list[RunRecord]) -> gates.Gate:
        return rechecks.first_steps(bundled, records)

    assert (
        answer(changed(honest, lambda r: {"first_losses": ()})).found
        == "not checked: no record holds the losses of its first steps"
    )
    assert rechecks.first_steps(small_set(), honest).found.startswith("not checked"), (
        "records of another set: that gate refuses them"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_gpu = answer(changed(honest, lambda r: elsewhere(r) | {"first_losses": (9.0,) * 10}))
    assert not on_gpu.checked and not on_gpu.line.startswith("first steps  ok") and on_gpu.colour == "yellow"
    assert on_gpu.found.startswith("not checked: runs on a device that is not here")
    forged = honest[1].model_copy(update={"first_losses": (9.0,) * 10})
    beside = answer([honest[0].model_copy(update=elsewhere(honest[0])), forged])
    assert beside.refusals, "one run on a GPU does not excuse those beside it"
    shown = review.Review("made", (on_gpu,))
    assert shown.accepted and shown.verdict == "every gate is open, not checked: first steps"
    assert "| first steps | **not checked** | not checked" in shown.markdown()
    assert "No run was repeated whole: mabench verify made --cells 1" in shown.markdown()

    def missing(*_: Any) -> Any:
        raise MabenchError("the pretrained weights are not in the Hub cache")

    monkeypatch.setattr(training, "first_losses", missing)
    absent = "not checked: the pretrained weights are not in the Hub cache"
    assert answer(honest) == gates.Gate("first steps", absent, checked=False)


def elsewhere(record: RunRecord) -> dict[str, Any]:
    return {"environment": record.environment | {"accelerator": "NVIDIA H100"}}


def test_a_run_on_a_gpu_that_augments_nothing_is_checked_on_a_processor(
    bundled: SyntheticSet, honest: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plain = honest[0].cell.recipe.model_copy(update={"augmentation": Augmentation()})
    absent = honest[0].model_copy(update=elsewhere(honest[0]) | {"cell": honest[0].cell.model_copy(update={"recipe": plain})})
    assert plain.augmentation.absent and rechecks._device(absent) == CPU and rechecks._device(honest[0]) == CPU
    assert rechecks._device(honest[0].model_copy(update=elsewhere(honest[0]))) is None


HERE = tuple(2.4 - 0.1 * k for k in range(10))


def begins(monkeypatch: pytest.MonkeyPatch, steps: dict[str, int]) -> None:
    """Networks that begin with the losses HERE and the digest `same`; rounding doubles those after so many steps."""

    def first_losses(_: Any, cell: Any, *__: Any, moved: float = 0.0, **___: Any) -> tuple[str, tuple[float, ...]]:
        stable = steps[cell.evaluator.name] if moved else 10
        return "same", (*HERE[:stable], *(2 * loss for loss in HERE[stable:]))

    monkeypatch.setattr(training, "first_losses", first_losses)


def test_steps_that_depend_on_rounding_are_not_compared(
    bundled: SyntheticSet, honest: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unstable network's record from another machine passes; one whose first losses are invented does not."""
    begins(monkeypatch, {"mlp-scratch": 3})
    losses = {"honest": (*HERE[:3], *(1.5 * x for x in HERE[3:])), "forged": (HERE[0], 1.02 * HERE[1], *HERE[2:])}
    made = {
        name: [r.model_copy(update={"first_losses": values, "initial_weights_sha256": "same"}) for r in honest]
        for name, values in losses.items()
    }
    found = rechecks.first_steps(bundled, made["honest"])
    assert not found.refusals and found.checked and "in 3 of 10 steps; later ones depend on rounding" in found.found
    assert "step 2 has the loss" in rechecks.first_steps(bundled, made["forged"]).refusals[0]
    begins(monkeypatch, {"mlp-scratch": 0})
    invented = changed(honest, lambda r: {"first_losses": (9.0,) * 10})
    assert "step 1 has the loss" in rechecks.first_steps(bundled, invented).refusals[0], "the first step always counts"
    begins(monkeypatch, {"mlp-scratch": 10})
    assert "step 4 has the loss" in rechecks.first_steps(bundled, made["honest"]).refusals[0]


def test_a_track_is_checked_by_its_cheapest_stable_network(
    bundled: SyntheticSet, honest: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell for name in ("mlp-scratch", "convnet3-scratch") for cell in plan(DIGITS, bundled, evaluator=name, seeds=[0, 1])]
    records = [honest[0].model_copy(update={"cell": c, "first_losses": HERE, "initial_weights_sha256": "same"}) for c in cells]
    for steps, expected in [((10, 10), "mlp"), ((2, 10), "convnet3"), ((2, 2), "mlp")]:
        begins(monkeypatch, dict(zip(("mlp-scratch", "convnet3-scratch"), steps, strict=True)))
        assert rechecks.first_steps(bundled, records).found.startswith(f"{expected}-scratch, 2 seeds")


def test_another_digest_of_the_weights_asks_for_a_closer_first_loss(
    bundled: SyntheticSet, honest: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousandth off at step 1 passes with the same weights, and nowhere else."""
    begins(monkeypatch, {"mlp-scratch": 10})

    def refused(digest: str, part: float) -> tuple[str, ...]:
        near = (HERE[0] * (1 + part), *HERE[1:])
        records = changed(honest, lambda r: {"first_losses": near, "initial_weights_sha256": digest})
        return rechecks.first_steps(bundled, records).refusals

    assert not refused("same", 1e-3) and not refused("another", 1e-6)
    assert "since its initial weights have another digest" in refused("another", 1e-3)[0]


def test_what_is_allowed_follows_from_the_arithmetic_of_training(honest: list[RunRecord]) -> None:
    """Only whoever trained in bfloat16 may be five percent off."""
    texts = {"bfloat16, compiled": 0.05, "bfloat16, eager, trained in float32, eager": 0.01, "float32, eager": 0.01}
    for text, allowed in texts.items():
        fast = honest[0].model_copy(update={"engine": "fast", "environment": {"arithmetic": text}})
        assert rechecks._arithmetic(fast).allowed == allowed
        assert rechecks._arithmetic(fast.model_copy(update={"engine": "reference"})).allowed == 0.01


SUBMISSIONS = Path(__file__).parents[1] / "submissions"


@pytest.mark.slow
@pytest.mark.parametrize("place", sorted(SUBMISSIONS.glob("*/set*.safetensors")), ids=lambda place: place.parent.name)
def test_no_committed_submission_is_refused_on_this_machine(place: Path, real_data: Path) -> None:
    """Their records come from an AMD EPYC and an Intel Xeon."""
    submission, synthetic_set = submissions.read(place.parent), synthetic.load(place)
    assert submission is not None
    found = rechecks.first_steps(synthetic_set, list(submission.records.values()))
    assert not found.refusals
    assert found.checked or not any(record.first_losses for record in submission.records.values())
