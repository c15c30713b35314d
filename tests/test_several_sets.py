"""One submission with several sets of a method: written, read, re-run, ranked as one row, and called one set where it is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import DIGITS, made_record, tree
from scipy import stats

from mabench import data
from mabench.board import acceptance, audit_log, site, submit, verify
from mabench.board import submission as submissions
from mabench.board.submission import Submission
from mabench.errors import MabenchError
from mabench.results import scoring
from mabench.schema import Card, RunRecord
from mabench.sets.synthetic import SyntheticSet

CARD = Card(title="Made, IPC 5", authors=("A. Author",), licence="CC0-1.0", slug="made-ipc5", method="Made")
NETWORKS = [entry.name for entry in DIGITS.evaluators["scratch"]]


def condensed(number: int, ipc: int = 5) -> SyntheticSet:
    train = data.load("digits", "train")
    rows = np.concatenate([np.flatnonzero(train.labels == c)[number * ipc : (number + 1) * ipc] for c in range(10)])
    return SyntheticSet(torch.tensor(train.images[rows]), torch.tensor(train.labels[rows]), "digits", ipc)


def runs(images: SyntheticSet, accuracy: float) -> tuple[RunRecord, ...]:
    summary = images.summary()
    made = [made_record(DIGITS, "scratch", n, s, accuracy + s / 100, sha=images.sha256) for n in NETWORKS for s in range(3)]
    return tuple(record.model_copy(update={"synthetic_set": summary}) for record in made)


def add(root: Path, images: SyntheticSet, accuracy: float, *, another: bool = True, card: Card = CARD) -> Submission:
    """As `mabench submit` writes it, the gates that look at images left out."""
    case = submit.Examination((), card, images, runs(images, accuracy), ())
    place = root / case.slug
    submissions.write(place, submit.changes(case, submissions.read(place), who="A. Author", another=another))
    found = submissions.read(place)
    assert found is not None
    return found


ACCURACIES = (0.60, 0.66, 0.62)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, accuracy in enumerate(ACCURACIES):
        add(tmp_path / "submissions", condensed(number), accuracy)
    return tmp_path / "submissions"


def test_sets_lie_beside_one_another_each_with_its_records(root: Path) -> None:
    files = {path.name for path in (root / "made-ipc5").iterdir()}
    assert files == {"card.toml", "audit.jsonl", "records", "set.safetensors", "set-2.safetensors", "set-3.safetensors"}
    found = acceptance.read_accepted(root / "made-ipc5")
    assert found is not None and found.sets == tuple(condensed(k).sha256 for k in range(3)) and len(found.records) == 36
    (root / "made-ipc5" / "set-2.safetensors").unlink()
    with pytest.raises(MabenchError, match="no set.safetensors|has no"):
        acceptance.read_accepted(root / "made-ipc5")


def test_the_row_is_the_mean_of_the_sets_and_its_interval_is_over_them(root: Path) -> None:
    add(root, condensed(7), 0.5, card=CARD.model_copy(update={"slug": "lone-ipc5", "title": "Lone, IPC 5"}))
    rows = {row.key: row for row in site.build(root, root.parent / "board", None)}
    row, lone = rows["made-ipc5"], rows["lone-ipc5"]
    assert (row.about, lone.about) == ("a method, 3 sets", "one set")
    means = [accuracy + 0.01 for accuracy in ACCURACIES]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(means), scale=stats.sem(means))
    assert row.score == pytest.approx(np.mean(means)) and row.half_width == pytest.approx((high - low) / 2)
    assert row.std == pytest.approx(np.std(means, ddof=1)) and (row.runs, row.planned) == (36, 36)
    assert row.why_unranked == "" and (row.rank, lone.rank) == (1, 2)
    page = (root.parent / "board" / "index.html").read_text() + (
        root.parent / "board" / "suites" / DIGITS.id / "index.html"
    ).read_text()
    table = (root.parent / "board" / "leaderboard.md").read_text()
    assert "a method, 3 sets" in page and "one set" in page
    assert "a method, 3 sets" in table and "one set" in table
    stored = {r["key"]: r for r in json.loads((root.parent / "board" / "leaderboard.json").read_text())["rows"]}
    assert len(stored["made-ipc5"]["sets"]) == 3 and len(stored["made-ipc5"]["evaluators"]["mlp-scratch"]["sets"]) == 3


def test_a_set_without_all_its_runs_leaves_the_row_unranked(root: Path) -> None:
    images = condensed(4)
    case = submit.Examination((), CARD, images, runs(images, 0.6)[:-1], ())
    submissions.write(
        root / "made-ipc5", submit.changes(case, submissions.read(root / "made-ipc5"), who="A. Author", another=True)
    )
    (row,) = site.build(root, root.parent / "board", None)
    assert row.why_unranked == "incomplete: 11 of 12 runs" and row.score is None and (row.runs, row.planned) == (47, 48)


def test_reruns_are_of_one_set_and_all_sets_take_part_in_the_tier(root: Path) -> None:
    place = root / "made-ipc5"

    def repeat(number: int) -> Submission:
        found = submissions.read(place)
        assert found is not None
        again = [record.model_copy(update={"seconds": 9.0}) for record in verify.sample(found, 12, 0, number)]
        assert {r.cell.set_sha256 for r in again} == {found.sets[number - 1]}
        submissions.write(place, verify.logged(found, again, who="R. Reader", seed=0))
        changed = submissions.read(place)
        assert changed is not None and all(scoring.score(r) for r in changed.counted.values())
        return changed

    assert [repeat(number).tier for number in (1, 3, 2)] == ["spot-checked", "spot-checked", "verified"]
    with pytest.raises(MabenchError, match="has no set 4, its sets are 1 to 3"):
        repeat(4)


def test_what_nobody_could_read_is_not_submitted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as a new submission nor by one more set."""
    before, images = tree(root / "made-ipc5"), condensed(6)
    monkeypatch.setattr(submissions, "MAX_BYTES", sum(len(v) for n, v in before.items() if not n.endswith("safetensors")) + 5000)
    with pytest.raises(MabenchError, match="made-ipc5: would have .* bytes without its sets.* Nothing was written"):
        add(root, images, 0.6)
    assert tree(root / "made-ipc5") == before
    monkeypatch.setattr(submissions, "MAX_FILES", 12)
    with pytest.raises(MabenchError, match="and 16 files and folders; at most .* and 12 files are read"):
        submit.changes(submit.Examination((), CARD, images, runs(images, 0.6), ()), None, who="A. Author")


def test_what_does_not_belong_together_is_refused(root: Path) -> None:
    with pytest.raises(MabenchError, match="add it with --another-set"):
        add(root, condensed(5), 0.6, another=False)
    with pytest.raises(MabenchError, match="sets of one submission agree in dataset, ipc, decode, labels, image_dtype"):
        add(root, condensed(0, ipc=10), 0.6)
    found = submissions.read(root / "made-ipc5")
    assert found is not None
    foreign = audit_log.make_entry(who="Anybody", action="re-run", why="x", set_sha256="9" * 64)
    submissions.write(root / "made-ipc5", submissions.with_entry(found, foreign))
    with pytest.raises(MabenchError, match="names a set that was not submitted here"):
        submissions.read(root / "made-ipc5")


def test_the_same_set_elsewhere_is_found_whichever_of_them_it_is(root: Path) -> None:
    assert set(acceptance.same_set(root, "other", {condensed(2).sha256})) == {"made-ipc5"}
    assert not acceptance.same_set(root, "other", {condensed(6).sha256})
