"""Sets in the form of SRe2L, G-VBSM and RDED: the labels recorded for every epoch are part of the submission and of its bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import flipped, listed, records_of, small_set, tree, write_card

from mabench import evaluation, suites
from mabench.board import acceptance, cells, gates, labels, review, site, submit, verify
from mabench.board import submission as submissions
from mabench.board.hub import client
from mabench.board.hub import tables as hub_tables
from mabench.errors import MabenchError
from mabench.evaluation import run_cells
from mabench.sets import label_files, recorded
from mabench.sets.synthetic import SyntheticSet

EPOCHS, BATCH = 4, 20
SUITE = f"""
name = "digits-replayed"
version = 1
title = "Digits with recorded labels"
measures = "A suite of the tests."
dataset = "digits"
seeds = [0, 1]
ipcs = [4]
[tracks]
scratch = ["mlp-scratch"]
[recipe]
epochs = {EPOCHS}
batch_size = {BATCH}
test_every = 2
score = "best"
normalisation = "dataset"
[recipe.augmentation]
space = "normalised"
[recipe.recorded]
loss = "kl"
temperature = 4.0
"""


def recorded_for(synthetic_set: SyntheticSet, folder: Path, seed: int = 0) -> SyntheticSet:
    """The set with labels of whole images in random order: teachers that favour the right class."""
    draws = torch.Generator().manual_seed(seed)
    count, side = len(synthetic_set.images), synthetic_set.entry.image_size
    for first in range(0, EPOCHS, 2):
        order = torch.stack([torch.randperm(count, generator=draws) for _ in range(2)])
        tensors = {
            "order": order.int(),
            "boxes": torch.tensor([0, 0, side, side]).expand(2, count, 4).short(),
            "flipped": torch.zeros(2, count, dtype=torch.uint8),
            "partner": torch.arange(BATCH).repeat(2, count // BATCH).int(),
            "mix": torch.zeros(2, count // BATCH, 4, dtype=torch.int16),
            "logits": (4.0 * torch.eye(10)[synthetic_set.labels[order]] + torch.rand(2, count, 10, generator=draws)).half(),
        }
        recorded.save(folder / label_files.file_name(first), tensors, recorded.header(synthetic_set.sha256, BATCH, first))
    return replace(synthetic_set, labels_folder=folder)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[suites.LoadedSuite]:
    """A released suite that replays labels of four epochs."""
    folder = tmp_path_factory.mktemp("suites")
    (folder / "digits-replayed@1.toml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "FOLDER", folder)
        patch.setattr(suites, "_earlier", dict)
        yield suites.load("digits-replayed")


@pytest.fixture(scope="module")
def made(suite: suites.LoadedSuite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with set.safetensors, labels/ beside it, a card, and the real records of both seeds in run/."""
    place = tmp_path_factory.mktemp("made")
    synthetic_set = recorded_for(small_set(), place / "labels")
    synthetic_set.save(place / "set.safetensors")
    write_card(place / "card.toml")
    evaluation.evaluate(str(place / "set.safetensors"), suite=suite, out=place / "run")
    return place


def examined(made: Path, **reading: Any) -> submit.Examination:
    return submit.examine(made / "set.safetensors", [made / "run"], made / "card.toml", reading=reading)


@pytest.fixture(scope="module")
def written(made: Path) -> Path:
    """The submission of it, every gate open."""
    case = examined(made)
    assert not case.refusals, case.refusals
    assert "of recorded labels" in next(gate.found for gate in case.gates if gate.name == "budget")
    assert "mlp-scratch, 2 seeds" in next(gate.found for gate in case.gates if gate.name == "first steps"), "replayed here too"
    assert submit.changes(case, None, who="A. Author").keys() >= {"labels/labels-00000.safetensors", "set.safetensors"}
    submissions.write(made / "submissions" / case.slug, submit.changes(case, None, who="A. Author"))
    return made / "submissions" / case.slug


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it, alone on its board."""
    return Path(shutil.copytree(written, tmp_path / "submissions" / written.name))


def test_the_labels_lie_in_the_submission_and_their_bytes_count(folder: Path, made: Path) -> None:
    assert {name: content for name, content in tree(folder).items() if name.startswith("labels/")} == {
        f"labels/{path.name}": path.read_bytes() for path in sorted((made / "labels").iterdir())
    }
    submission = acceptance.read_accepted(folder)
    assert submission is not None
    size = sum(path.stat().st_size for path in (made / "labels").iterdir())
    (needed,) = labels.needed(submission)
    assert (needed.folder, needed.bytes) == ("labels", size)
    assert needed.sha256 == replace(small_set(), labels_folder=folder / "labels").recorded.sha256, "the digest without torch"
    (row,) = site.standings.submitted(submission)
    images = small_set().images.nbytes
    assert (row.why_unranked, row.labels, row.bytes) == ("", "soft", images + size)
    assert {(r.status, r.labels, r.stored_bytes) for r in cells.of_submissions([submission])} == {
        ("ranked", "soft", images + size)
    }


def test_anybody_repeats_the_runs_from_the_submission_alone(folder: Path) -> None:
    submission = submissions.read(folder)
    assert submission is not None
    chosen = verify.with_fresh(verify.sample(submission, 2, 0), 0, 0)

    def evaluate(_: Any, synthetic_set: Any, wanted: Any, place: Any, test: Any) -> Any:
        return run_cells(synthetic_set, wanted, place, test, device="cpu", engine="reference")

    again = verify.rerun(submission, folder, chosen, folder.parent.parent / "again", evaluate)
    assert len(again) == 2 and all(each.identical for each in verify.comparisons(submission, again))
    submissions.write(folder, verify.logged(submission, again, who="R. Reader", seed=0))
    now = acceptance.read_accepted(folder)
    assert now is not None and now.tier == "verified"
    found = review.review(folder, images=True)
    assert not [text for gate in found.gates for text in gate.refusals if gate.name in ("set", "budget", "stored", "first steps")]


def _remove(place: Path) -> None:
    for path in (place / "labels").iterdir():
        path.unlink()


def _shorten(place: Path) -> None:
    (place / "labels" / label_files.file_name(2)).unlink()


def _flip(place: Path) -> None:
    path = place / "labels" / label_files.file_name(0)
    path.write_bytes(flipped(path.read_bytes(), -1))


@pytest.mark.parametrize(("change", "words"), [(_remove, "has no labels/"), (_shorten, "labels/: "), (_flip, "labels/: ")])
def test_labels_that_are_missing_or_changed_are_found(folder: Path, change: Callable[[Path], None], words: str) -> None:
    change(folder)
    submission = submissions.read(folder)
    assert submission is not None
    with pytest.raises(MabenchError, match=words):
        labels.check(folder, submission)
    if change is not _flip:  # the size tells; every build looks at it
        with pytest.raises(MabenchError, match=words):
            acceptance.read_accepted(folder)
    assert not review.review(folder, images=True).accepted
    with pytest.raises(MabenchError, match=words):
        client._taken("org/board", folder, folder.parent.parent / "pulled" / folder.name)
    listed(folder.parent, folder.name, submission.set_sha256)
    (folder / "set.safetensors").unlink()
    assert acceptance.read_accepted(folder) is not None, "published elsewhere: nothing of it lies here"


def test_a_pull_brings_the_labels(folder: Path, tmp_path: Path) -> None:
    client._taken("org/board", folder, tmp_path / "pulled" / folder.name)
    assert tree(tmp_path / "pulled" / folder.name) == tree(folder)


def test_records_of_other_labels_are_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels than the records', more than a submission holds, and records that name none."""
    recorded_for(small_set(), tmp_path / "others", seed=1)
    said = examined(made, recorded_labels=tmp_path / "others").refusals
    assert any("replayed other labels" in text for text in said), said
    monkeypatch.setattr(labels, "MAX_BYTES", 100)
    with pytest.raises(MabenchError, match="a submission holds at most 100"):
        labels.read(made / "labels", "labels")
    record = records_of(made / "run")[0]
    silent = record.model_copy(update={"cell": record.cell.model_copy(update={"labels_sha256": None})})
    (text,) = gates.suites_known([silent]).refusals
    assert "the record names none" in text
    (text,) = gates.one_set(
        [record, record.model_copy(update={"cell": record.cell.model_copy(update={"labels_sha256": "0" * 64})})]
    ).refusals
    assert "2 different records of labels" in text


def test_no_files_are_never_the_labels_that_records_replayed(tmp_path: Path) -> None:
    """Records may say 0 bytes and the digest of nothing."""
    assert "has no labels/" in labels.lacking(labels.Needed("labels", label_files.identity([]), 0), {})
    assert "at most" in labels.lacking(labels.Needed("labels", "0" * 64, labels.MAX_BYTES + 1), {})


def test_files_beside_the_labels_are_neither_sent_nor_accepted(folder: Path) -> None:
    base = folder.parent.parent / "base"
    base.mkdir()
    assert review.of_folders(base, folder.parent, images=False)[0].refusals == []
    for name in (
        "labels/labels-junk.safetensors",
        "labels/labels-0.safetensors",
        "labels/labels-\u0660\u0660\u0660\u0660\u0660.safetensors",  # digits of another script
        "labels/labels-000001.safetensors",
        "labels-2/labels-00000.safetensors",
        "records/x/labels/labels-00000.safetensors",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
        assert path not in label_files.find(folder / "labels").values()
        (one,) = review.of_folders(base, folder.parent, images=False)
        assert one.refusals == [f"contents: {name}: neither the log nor a record names it. Remove it."]
        assert [g.name for g in review.review(folder, images=False).gates if g.refusals] == ["contents"]
        path.unlink()
    (folder / "labels" / "labels-00009.safetensors").symlink_to("/etc/hostname")
    assert not review.review(folder, images=False).accepted


def test_labels_of_the_right_size_that_are_others_are_found_in_a_checkout(folder: Path) -> None:
    _flip(folder)
    (one,) = review.of_folders(folder.parent.parent / "none", folder.parent)
    assert len(one.refusals) == 1 and "not the labels its records replayed" in one.refusals[0]


def test_a_table_of_the_hub_leaves_out_a_submission_without_its_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not fetched is looked for in the repository's list of files."""
    entries = [SimpleNamespace(path=f"submissions/{folder.name}/{name}", size=len(c)) for name, c in tree(folder).items()]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **named: str(folder.parent.parent))

    def accepted(without: str) -> list[submissions.Submission]:
        there = [entry for entry in entries if without not in entry.path]
        api: Any = SimpleNamespace(list_repo_tree=lambda *args, **named: there)
        return hub_tables._accepted(api, "org/board", folder.name, "main")

    assert [each.slug for each in accepted("nothing")] == [folder.name]
    for gone, words in (
        ("/labels/", "has no labels/"),
        ("labels-00002", "not the labels"),
        ("set.safetensors", "has no set.saf"),
    ):
        with pytest.raises(MabenchError, match=words):
            accepted(gone)


def test_labels_are_counted_together_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = [SimpleNamespace(path=f"submissions/a-slug/labels/labels-{k:05d}.safetensors", size=2**29) for k in range(3)]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_tree", lambda *args, **named: tree)
    assert "in all" in client.too_large("org/board", "a-slug", None)["a-slug"]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_tree", lambda *args, **named: tree[:2])
    assert client.too_large("org/board", "a-slug", None) == {}
