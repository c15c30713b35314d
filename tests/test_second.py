"""The second test set (CIFAR-10.1): read from a folder or the Hub, pinned, tested after the last epoch, shown beside, never ranked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from builders import CPU, DIGITS, TEST, cell, run_record, small_set, write_submission

from mabench import data, training
from mabench.board import cells, gates
from mabench.board import submission as submissions
from mabench.board.site import exports
from mabench.board.site.placing import placed
from mabench.board.site.standings import submitted
from mabench.data import SECOND, second
from mabench.engine import EngineName
from mabench.errors import MabenchError
from mabench.results import lifts, scoring, tables
from mabench.runs import ray_worker
from mabench.runs.folder import parse_record, read_record, record_text
from mabench.schema import RunRecord, SecondResult

ROOT = Path(__file__).parents[1]
NAMES = ("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of the published shape and types, in a folder as their authors' repository has it, and pinned in place of theirs."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "published" / "datasets"
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    np.save(folder / NAMES[0], chance.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8))
    np.save(folder / NAMES[1], np.arange(2000, dtype=np.int32) % 10)
    pin(monkeypatch, "cifar10", folder)
    return folder


def pin(monkeypatch: pytest.MonkeyPatch, dataset: str, folder: Path, size: int = 2000) -> None:
    files = {name: sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setitem(SECOND, dataset, replace(SECOND["cifar10"], size=size, files=files))


def test_the_pinned_files_are_those_of_cifar10_1() -> None:
    """2,000 images of 32 px, 200 of each class: with NumPy's header of 128 bytes, as the authors' file of labels has it."""
    entry = SECOND["cifar10"]
    assert (entry.name, entry.size, tuple(entry.files)) == ("cifar10.1-v6", 2000, NAMES)
    labels = np.zeros(2000, dtype=np.int32)
    assert 128 + labels.nbytes == 8128, "bytes of the published file"
    assert entry.size * 32 * 32 * 3 + 128 < second.MAX_BYTES


def test_it_is_read_from_a_folder_once(published: Path) -> None:
    assert second.at_hand("cifar10") is None
    real = second.install("cifar10", str(published.parent))
    stored = np.load(published / NAMES[0])
    assert real.images.shape == (2000, 3, 32, 32) and real.images[7, 1, 2, 3] == stored[7, 2, 3, 1]
    assert real.labels.dtype == np.int64 and real.labels[:12].tolist() == [*range(10), 0, 1]
    shutil.rmtree(published)
    again = second.at_hand("cifar10")
    assert again is not None and np.array_equal(again.images, real.images) and again.sha256 == SECOND["cifar10"].sha256
    assert second.at_hand("svhn") is None


def test_it_is_read_from_the_hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset repository that holds the two files, as the Hub's cache lays it out."""
    import huggingface_hub

    asked: dict[str, object] = {}

    def snapshot_download(repo: str, **how: object) -> str:
        asked.update(how, repo=repo)
        return str(published.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert len(second.install("cifar10", "org/cifar10.1").labels) == 2000
    assert asked["repo"] == "org/cifar10.1" and asked["repo_type"] == "dataset"
    assert asked["allow_patterns"] == [NAMES[0], f"*/{NAMES[0]}", NAMES[1], f"*/{NAMES[1]}"], "and nothing else is fetched"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / NAMES[1]).unlink(), "has no cifar10.1_v6_labels.npy. Get cifar10.1_v6_data.npy and"),
        (
            lambda folder: np.save(folder / NAMES[0], np.zeros((2000, 32, 32, 3), np.uint8)),
            "is not the published file of CIFAR-10.1",
        ),
        (lambda folder: (folder / NAMES[0]).write_bytes(b"x" * (second.MAX_BYTES + 1)), "bytes"),
    ],
)
def test_other_files_are_refused_and_nothing_is_kept(published: Path, change: Callable[[Path], object], words: str) -> None:
    change(published)
    with pytest.raises(MabenchError, match=words):
        second.install("cifar10", str(published))
    assert second.at_hand("cifar10") is None


def test_a_damaged_copy_is_not_used(published: Path, tmp_path: Path) -> None:
    second.install("cifar10", str(published))
    path = tmp_path / "cache" / "cifar10.1-v6" / NAMES[1]
    path.write_bytes(path.read_bytes()[:-4] + b"\x01\0\0\0")
    with pytest.raises(MabenchError, match="is not the published file"):
        second.at_hand("cifar10")


def test_a_dataset_without_one_is_told_which_have_one(tmp_path: Path) -> None:
    with pytest.raises(
        MabenchError, match=r"--second-test: digits has no second test set. Datasets that have one: cifar10 \(CIFAR-10.1\)"
    ):
        second.install("digits", str(tmp_path))


@pytest.mark.parametrize("engine", ["reference", "fast"])
def test_it_is_the_finished_network_on_other_images(engine: EngineName) -> None:
    """The test split in the second set's place gives the last test pass again, and changes nothing of the run."""
    plain = training.run(small_set(), cell(), TEST, device=CPU, engine=engine)
    both = training.run(small_set(), cell(), replace(TEST, second=replace(TEST, split="again")), device=CPU, engine=engine)
    assert both.second_test == SecondResult(name="again", sha256=TEST.sha256, correct=plain.curve[-1][1], total=500)
    assert both.curve == plain.curve and plain.second_test is None
    text = record_text(both)
    assert parse_record(text.encode(), Path("record.json")) == both and "second_test" not in record_text(plain)


def test_records_of_before_the_field_are_written_as_they_were() -> None:
    for path in sorted(ROOT.glob("submissions/*/records/*seed0.json"))[:5]:
        assert record_text(read_record(path)) == path.read_text()


def with_second(record: RunRecord, hits: int, **changes: object) -> RunRecord:
    entry = SECOND["cifar10"]
    fields: dict[str, object] = {"name": entry.name, "sha256": entry.sha256, "correct": hits, "total": entry.size}
    return record.model_copy(update={"second_test": SecondResult.model_validate(fields | changes)})


def test_the_table_shows_it_where_every_run_has_it() -> None:
    runs = [with_second(run_record("mlp-scratch", seed, [500]), 800 + 100 * seed) for seed in (0, 1, 2)]
    (row,) = lifts.rows(DIGITS, runs)
    assert row.second == pytest.approx(0.45) and row.mean == 0.5
    assert "second test %" in tables.table(DIGITS, [row]) and "45.00" in tables.table(DIGITS, [row])
    assert "second test: cifar10.1-v6 (2,000 images) after the last epoch, never ranked" in tables.notes(DIGITS, [row], runs)
    assert tables.frame(runs)["acc_second"].tolist() == [0.4, 0.45, 0.5]
    some = [*runs[:2], run_record("mlp-scratch", 2, [500])]
    (row,) = lifts.rows(DIGITS, some)
    assert row.second is None and "second test %" not in tables.table(DIGITS, [row])
    assert any(note.endswith("never ranked; 2 of 3 runs were tested on it") for note in tables.notes(DIGITS, [row], some))
    diverged = with_second(run_record("mlp-scratch", 0, [900], diverged=1), 1800)
    assert scoring.second(diverged) == 0.1


def test_the_board_shows_it_and_ranks_without_it(tmp_path: Path) -> None:
    for slug, score in (("first", 0.6), ("second", 0.5)):
        write_submission(tmp_path, slug, score, loaded_suite=DIGITS)
    plain, claimed = submissions.read_all(tmp_path)
    claimed = replace(claimed, records={name: with_second(record, 2000) for name, record in claimed.records.items()})
    rows = placed(row for one in (plain, claimed) for row in submitted(one))
    assert [(row.key, row.rank, row.second) for row in rows] == [("first", 1, None), ("second", 2, 1.0)]
    page = exports.markdown(rows)
    assert "| second test |" in page.replace("  ", "") or "second test" in page
    assert {row.acc_second for row in cells.of_submissions([claimed])} == {1.0}
    assert "second test" not in exports.markdown(placed(submitted(plain)))


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"total": 100, "correct": 100}, {"name": "cifar10.1-v4"}])
def test_other_images_are_not_the_second_test_set(monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    record = run_record("mlp-scratch", 0, [500] * len(DIGITS.recipes["scratch"].test_epochs), total=500)
    honest = with_second(record, 900)
    assert "second test on 2,000 images of 'cifar10.1-v6'" in gates._other_split(honest), "digits have none"
    monkeypatch.setitem(SECOND, "digits", SECOND["cifar10"])
    assert "second test" not in gates._other_split(honest)
    assert "Run the cell again" in gates._other_split(with_second(record, 50, **changes))


def test_more_hits_than_images_are_no_result() -> None:
    with pytest.raises(ValueError, match="2001 of 2000"):
        with_second(run_record("mlp-scratch", 0, [500]), 2001)


def test_it_travels_to_the_workers_of_a_cluster() -> None:
    both = replace(TEST, second=replace(TEST, split="again", images=TEST.images[:7], labels=TEST.labels[:7]))
    there = ray_worker.unpack_test(ray_worker.pack_test(both))
    assert there.second is not None and there.second.split == "again" and np.array_equal(there.second.images, TEST.images[:7])
    assert ray_worker.unpack_test(ray_worker.pack_test(TEST)).second is None


def test_runs_are_tested_on_it_by_default_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits with some of their own train images as the second set: no flag is needed after the first time."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    train = data.load("digits", "train")
    np.save(tmp_path / NAMES[0], train.images[:40].transpose(0, 2, 3, 1))
    np.save(tmp_path / NAMES[1], train.labels[:40].astype(np.int32))
    pin(monkeypatch, "digits", tmp_path, size=40)
    second.install("digits", str(tmp_path))
    from mabench import evaluation

    result = evaluation.evaluate(
        small_set(1), suite="digits-agnostic", evaluators="mlp*", seeds=[0], out=tmp_path / "run", device="cpu"
    )
    (record,) = result.records
    assert record.second_test is not None and record.second_test.total == 40
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text())["cells"][0]["acc_second"] == record.second_test.correct / 40
    )
