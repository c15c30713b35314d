"""Ranked, or not and why: one answer, the same on the Hub, on the board, at the gates and in a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import DIGITS, made_record, pinned_test_split, write_submission

from mabench import suites
from mabench.board import cells, site
from mabench.board import submission as submissions
from mabench.board.hub import cards
from mabench.results import ranking, scoring
from mabench.results import tables as report
from mabench.schema import RunRecord, Tier

SHA = "a" * 64


def whole(ipc: int = 10) -> list[RunRecord]:
    """Every run of the digits suite."""
    return [
        made_record(DIGITS, track, entry.name, seed, 0.5, sha=SHA, ipc=ipc)
        for track, entries in DIGITS.evaluators.items()
        for entry in entries
        for seed in DIGITS.suite.seeds
    ]


def test_a_complete_track_of_a_released_suite_is_ranked() -> None:
    answer = ranking.status(DIGITS, "scratch", whole())
    assert (answer.ranked, answer.complete, answer.planned, answer.finished, str(answer)) == (True, True, 12, 12, "ranked")


@pytest.mark.parametrize("tier", ["challenged", "superseded", "withdrawn", "reported"])
def test_the_tier_decides_first(tier: Tier) -> None:
    assert ranking.status(DIGITS, "scratch", whole()[1:], tier=tier).reason == tier


def test_every_reason_is_said() -> None:
    records = whole()
    first = records[0]
    cell = first.cell

    def instead(**changes: object) -> list[RunRecord]:
        return [first.model_copy(update=changes), *records[1:]]

    other_entry = cell.evaluator.model_copy(update={"learning_rate": 0.5})
    summary = first.synthetic_set.model_copy(update={"dataset": "cifar10"})
    cases = {
        "run under another state of the suite": instead(cell=cell.model_copy(update={"suite_digest": "0" * 64})),
        "run under an earlier edition of the suite": instead(cell=cell.model_copy(update={"suite_digest": min(DIGITS.earlier)})),
        "run with other settings than the suite's": instead(cell=cell.model_copy(update={"evaluator": other_entry})),
        "tested on another test split": instead(test_sha256="f" * 64),
        "a set of another dataset": instead(synthetic_set=summary),
        "incomplete: 11 of 12 runs": records[1:],
        "runs that the suite does not ask for": [
            *records,
            first.model_copy(update={"cell": cell.model_copy(update={"seed": 9})}),
        ],
        "IPC 3 has no table in this suite": whole(ipc=3),
    }
    for reason, changed in cases.items():
        assert ranking.status(DIGITS, "scratch", changed).reason == reason
    known = instead(cell=cell.model_copy(update={"seed_streams": "fixed"}))
    assert ranking.status(DIGITS, "scratch", known).reason == "run with other settings than the suite's"
    noted = cell.model_copy(update={"evaluator": cell.evaluator.model_copy(update={"note": "changed"})})
    assert ranking.status(DIGITS, "scratch", instead(cell=noted)).ranked, "a note is not a setting"
    assert ranking.status(DIGITS, "scratch", records[1:]).missing == (cell.name,)


def test_a_dataset_without_a_pinned_split_needs_agreement() -> None:
    loaded_suite = suites.load("tinyimagenet-agnostic")
    track = next(iter(loaded_suite.evaluators))
    assert pinned_test_split(loaded_suite.suite.dataset) == "1" * 64
    records = [
        made_record(loaded_suite, track, e.name, s, 0.1, sha=SHA, ipc=1)
        for e in loaded_suite.evaluators[track]
        for s in loaded_suite.suite.seeds
    ]
    assert ranking.status(loaded_suite, track, records).ranked
    records[0] = records[0].model_copy(update={"test_sha256": "2" * 64})
    assert ranking.status(loaded_suite, track, records).reason == "records disagree about the test split"


@pytest.mark.parametrize("ipc", [3, 10])
def test_hub_board_and_report_give_the_same_answer(tmp_path: Path, ipc: int) -> None:
    """A budget without a table once had a mean on the Hub and none on the board."""
    folder = write_submission(tmp_path / "s", "three", 0.7, ipc=ipc)
    entry = submissions.read(folder)
    assert entry is not None
    expected = ranking.status(DIGITS, "scratch", entry.records.values())
    assert expected.ranked == (ipc == 10)
    (row,) = site.build(tmp_path / "s", tmp_path / "out")
    assert (row.why_unranked, row.rank is not None) == (expected.reason, expected.ranked)
    rows = cells.of_submissions([entry])
    assert {r.status for r in rows} == {str(expected)}
    line = next(line for line in cards.readme("board/results", rows).splitlines() if "(submissions/three)" in line)
    assert line.endswith("| - |") != expected.ranked and cards.shown(str(expected)) in line
    notes = report.notes(DIGITS, scoring.rows(DIGITS, entry.records.values()), list(entry.records.values()))
    assert any(expected.reason in note for note in notes if "not ranked" in note) != expected.ranked
