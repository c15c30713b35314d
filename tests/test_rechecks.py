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
from mabench.schema import RunRecord
from mabench.sets import readers
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
    assert there == pytest.approx(here, rel=rechecks.TOLERANCE["reference"] / 10)


FORGERIES: dict[str, tuple[Change, str]] = {
    "losses that fall as losses do": (
        lambda r: {"first_losses": tuple(2.3 * 0.9**k for k in range(10))},
        "step 2 has the loss .* here, the record says 2.0700 .allowed: 1 %.",
    ),
    "a last loss that is five percent better": (
        lambda r: {"first_losses": (*r.first_losses[:9], 0.95 * r.first_losses[9])},
        "step 10 has the loss",
    ),
    "losses of another seed": (lambda r: {"cell": r.cell.model_copy(update={"seed": 2 - r.cell.seed})}, "step 1 has the loss"),
    "fewer losses": (lambda r: {"first_losses": r.first_losses[:4]}, "holds 4 first losses, the run has 10"),
    "a loss that was not finite": (lambda r: {"first_losses": (-1.0, *r.first_losses[1:])}, "the record says -1.0000"),
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
    if not torch.cuda.is_available():
        on_gpu = changed(honest, lambda r: {"environment": r.environment | {"accelerator": "NVIDIA H100"}})
        assert "was run on a GPU" in answer(on_gpu).found

    def missing(*_: Any) -> Any:
        raise MabenchError("the pretrained weights are not in the Hub cache")

    monkeypatch.setattr(training, "first_losses", missing)
    assert answer(honest) == gates.Gate("first steps", "not checked: the pretrained weights are not in the Hub cache")
