"""Sets with soft labels are scored with hardened ones too: in the table, the files, the submission and on the board; never ranked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from builders import DIGITS, records_of, run_record, small_set, tree, write_card

from mabench import evaluation, suites
from mabench.board import acceptance, cells, hardened, review, site, submit
from mabench.board import submission as submissions
from mabench.errors import MabenchError
from mabench.evaluation import Evaluation, folders
from mabench.evaluation.costs import plan_lines
from mabench.results import lifts, scoring, tables
from mabench.runs import costs
from mabench.runs.events import Event, Note, Planned
from mabench.runs.folder import HARDENED, record_text
from mabench.schema import Cell, RunRecord
from mabench.sets.synthetic import SyntheticSet


def soft_set(ipc: int = 4) -> SyntheticSet:
    """Labels that favour the right class a little, and in one image a wrong one: hardening makes the classes uneven."""
    hard = small_set(ipc)
    labels = 0.05 + 0.5 * torch.eye(10)[hard.labels]
    labels[0] = labels[4]
    return replace(hard, labels=labels / labels.sum(1, keepdim=True), name="soft")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Two real seeds of the MLP on soft labels and on hardened ones."""
    place = tmp_path_factory.mktemp("soft")
    soft_set().save(place / "soft.safetensors")
    write_card(place / "card.toml")
    return evaluation.evaluate(
        str(place / "soft.safetensors"), suite="digits-agnostic", evaluators="mlp*", seeds=[0, 1], out=place / "run"
    )


def folder_of(run: Evaluation) -> Path:
    assert run.folder is not None
    return run.folder


def test_hardening_takes_the_largest_entry_and_nothing_else() -> None:
    soft = soft_set()
    hard = soft.hardened()
    assert hard.label_kind == "hard" and torch.equal(hard.images, soft.images) and not hard.balanced
    assert hard.labels.tolist() == [int(np.argmax(row)) for row in soft.labels.numpy()]
    tied = replace(soft, labels=torch.full((40, 10), 0.1)).hardened()
    assert tied.labels.tolist() == [0] * 40, "of equal entries the first"


def test_the_column_is_an_evaluation_of_the_hardened_set(run: Evaluation) -> None:
    """The same records as `mabench eval` writes for the set with hard labels, and their mean beside the score."""
    assert len(run.records) == len(run.hardened) == 2 and run.complete is False
    assert {r.cell.set_sha256 for r in run.hardened} == {soft_set().hardened().sha256}
    alone = evaluation.evaluate(soft_set().hardened(), suite=unbalanced(), evaluators="mlp*", seeds=[0])
    assert [curve.curve for curve in alone.records] == [run.hardened[0].curve]
    (row,) = run.rows
    assert (
        row.hardened is not None
        and row.hardened == np.mean([scoring.score(r) for r in run.hardened])
        and row.mean != row.hardened
    )
    assert "hardened %" in run.table() and any("never ranked" in note for note in run.notes())
    folder = folder_of(run)
    assert f"{100 * row.hardened:.2f}" in (folder / "table.md").read_text()
    assert json.loads((folder / "results.json").read_text())["rows"][0]["hardened"] == row.hardened
    assert pandas.read_csv(folder / "results.csv")["hardened"].tolist() == [scoring.score(r) for r in run.hardened]
    assert sorted(path.name for path in (folder / HARDENED / "records").iterdir()) == sorted(
        path.name for path in (folder / "records").iterdir()
    )


def unbalanced() -> suites.LoadedSuite:
    """The digits suite, but it admits uneven classes; streams follow from name and set, so the runs are the same."""
    return replace(DIGITS, suite=DIGITS.suite.model_copy(update={"balanced": False}))


def test_paper_suites_and_hard_labels_have_no_such_runs() -> None:
    assert evaluation.prepare(small_set(1), None, "digits-agnostic").hardened is None
    assert suites.load("cifar10-agnostic").scores_hardened and suites.load("cifar10-lite").scores_hardened
    assert not any(suites.load(name).scores_hardened for name in ("cifar10-dsa", "cifar10-mtt", "cifar10-gvbsm"))
    line = tables.table(DIGITS, lifts.rows(DIGITS, [run_record("mlp-scratch", 0, [500])]))
    assert "hardened" not in line


def test_a_table_of_folders_shows_the_set_once_and_a_plan_counts_both(run: Evaluation) -> None:
    (comparison,) = folders.read([folder_of(run).parent], "digits-agnostic")
    assert [line.name for line in comparison.lines] == ["soft"]
    job = evaluation.prepare(soft_set(), None, "digits-agnostic", evaluators="mlp*", seeds=[0])
    assert [(line.evaluator, line.runs) for line in plan_lines(job, None, device="cpu")] == [
        ("mlp-scratch", 1),
        ("mlp-scratch, hardened", 1),
    ]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks whose speed was measured, in order; each claims ten seconds a run, and measuring takes no time."""
    names: list[str] = []

    def measure(cell: Cell, *rest: object) -> costs.Speed:
        names.append(cell.evaluator.name)
        return costs.Speed(1e6, 0.0, 10 / (cell.recipe.epochs * 40), 0.0)

    monkeypatch.setattr(costs, "measure", measure)
    return names


def heard_within(minutes: float, evaluators: str, out: Path) -> tuple[Evaluation, list[Event]]:
    events: list[Event] = []
    result = evaluation.evaluate(
        soft_set(), suite="digits-agnostic", evaluators=evaluators, seeds=[0, 1], minutes=minutes, out=out, on_event=events.append
    )
    return result, events


def test_a_budget_covers_both_kinds_of_labels(measured: list[str], tmp_path: Path) -> None:
    """Over at once: one note counts all eight runs, and the hardened ones are neither begun nor measured."""
    result, events = heard_within(1e-6, "[lm]*", tmp_path)
    assert [e.text for e in events if isinstance(e, Note) and e.warning and "left" in e.text] == [
        "1e-06 min are over; 8 runs are left, 4 of them with hardened labels (mlp-scratch, lenet-scratch), up to 2 min. "
        "The same command continues from there."
    ]
    assert len([e for e in events if isinstance(e, Planned)]) == 1 and not (tmp_path / HARDENED).exists()
    assert measured == ["mlp-scratch"] and len(result.missing) == 8


def test_hardened_runs_go_at_the_speed_of_the_others(measured: list[str], tmp_path: Path) -> None:
    result, events = heard_within(60, "mlp*", tmp_path)
    assert measured == ["mlp-scratch"] and not result.missing and len(result.hardened) == 2
    said = [e.text for e in events if isinstance(e, Note) and "minutes: " in e.text]
    assert said == [
        "60 minutes: 2 of 2 runs fit, cheapest first (about 20 s)",
        "60 minutes: 2 of 2 runs with hardened labels fit, cheapest first (about 20 s)",
    ]
    assert not any("left" in e.text for e in events if isinstance(e, Note))
    job = evaluation.prepare(soft_set(), None, "digits-agnostic", evaluators="mlp*", seeds=[0])
    assert [line.seconds for line in plan_lines(job, None, device="cpu")] == pytest.approx([10, 10])
    assert measured == ["mlp-scratch"] * 2, "a plan measures once too"


def examined(run: Evaluation) -> submit.Examination:
    place = folder_of(run).parent
    return submit.examine(place / "soft.safetensors", [place / "run"], place / "card.toml")


@pytest.fixture(scope="module")
def case(run: Evaluation) -> submit.Examination:
    return examined(run)


@pytest.fixture
def folder(case: submit.Examination, tmp_path: Path) -> Path:
    assert not case.refusals, case.refusals
    assert next(each.found for each in case.gates if each.name == "hardened").startswith("2 runs on the same images")
    submissions.write(tmp_path / case.slug, submit.changes(case, None, who="A. Author"))
    return tmp_path / case.slug


def test_a_submission_holds_the_runs_and_the_board_shows_them(folder: Path, case: submit.Examination) -> None:
    assert sum(name.startswith("hardened/") for name in tree(folder)) == 2
    submission = acceptance.read_accepted(folder)
    assert submission is not None and set(submission.hardened) == set(submission.records)
    rows = cells.of_submissions([submission])
    assert [row.hardened for row in rows] == [scoring.score(submission.hardened[name]) for name in submission.records]
    assert {row.status for row in rows} == {"incomplete: 2 of 12 runs"}
    assert submit.changes(case, submission, who="A. Author") == {}, "nothing to add"
    found = review.review(folder)
    assert not [text for gate in found.gates for text in gate.refusals]


def complete(labels: str) -> dict[str, RunRecord]:
    """Every run of the digits suite, by name."""
    made = {}
    for entry in DIGITS.evaluators["scratch"]:
        for seed in DIGITS.suite.seeds:
            record = run_record(entry.name, seed, [500 + 10 * seed] * 10)
            summary = record.synthetic_set.model_copy(update={"labels": labels})
            made[submissions.record_name(record)] = record.model_copy(update={"synthetic_set": summary})
    return made


def test_soft_labels_are_ranked_only_beside_hardened_ones(folder: Path) -> None:
    submission = submissions.read(folder)
    assert submission is not None
    soft, hard = complete("soft"), complete("hard")
    whole = replace(
        submission, records=soft, hardened=hard, audit=(submission.audit[0].model_copy(update={"set_sha256": "0" * 64}),)
    )
    (row,) = site.standings.submitted(whole)
    expected = np.mean([scoring.score(record) for record in hard.values()])
    assert row.hardened == pytest.approx(expected) and row.why_unranked != hardened.NOT_SCORED
    for lacking in ({}, dict(list(hard.items())[1:])):
        part = replace(whole, hardened=lacking)
        assert hardened.lacking(part, DIGITS, "scratch") and hardened.score(part, DIGITS, "scratch") is None
    assert not hardened.lacking(replace(whole, records=hard, hardened={}), DIGITS, "scratch"), "hard labels need none"


def _soft(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"synthetic_set": record.synthetic_set.model_copy(update={"labels": "soft"})})


def _other(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"synthetic_set": record.synthetic_set.model_copy(update={"ipc": 7})})


def _passes(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"curve": record.curve[:3]})


@pytest.mark.parametrize(("change", "words"), [(_soft, "labels"), (_other, "ipc"), (_passes, "test passes")])
def test_what_is_no_run_with_hardened_labels_is_refused(
    run: Evaluation, change: Callable[[RunRecord], RunRecord], words: str
) -> None:
    records = {submissions.record_name(r): r for r in run.records}
    harder = {submissions.record_name(r): r for r in run.hardened}
    name = next(iter(harder))
    assert not hardened.of_records(records, harder).refusals
    refused = hardened.of_records(records, harder | {name: change(harder[name])}).refusals
    assert refused and words in refused[0], refused
    (text,) = hardened.of_records({}, {name: harder[name]}).refusals
    assert "no record of it with soft ones" in text
    assert hardened.same_images("0" * 64, list(harder.values())).refusals


def test_every_run_stands_under_its_own_name(run: Evaluation) -> None:
    """Else the best hardened run under all names would be a column, and a set with soft labels be ranked without having run."""
    records = {submissions.record_name(r): r for r in run.records}
    refused = hardened.of_records(records, dict.fromkeys(records, run.hardened[0])).refusals
    assert len(refused) == 1 and "holds the run" in refused[0]
    earlier = [r.model_copy(update={"cell": r.cell.model_copy(update={"suite_digest": "0" * 64})}) for r in run.hardened]
    refused = hardened.of_records(records, {submissions.record_name(r): r for r in earlier}).refusals
    assert any("another edition of its suite" in text for text in refused)


def test_hardened_runs_that_nobody_ran_are_found(folder: Path, case: submit.Examination) -> None:
    """Their first losses are repeated, on the submitter's machine and in a review."""
    invented = [r.model_copy(update={"first_losses": tuple(2 * x for x in r.first_losses)}) for r in case.hardened]
    forged = replace(case, hardened=tuple(invented))
    shutil.rmtree(folder)
    submissions.write(folder, submit.changes(forged, None, who="A. Author"))
    refused = {gate.name for gate in review.review(folder).gates if gate.refusals}
    assert refused == {"hardened, first steps"}
    assert "hardened, first steps" in {gate.name for gate in case.gates}


def test_a_record_that_was_changed_is_found(folder: Path, run: Evaluation) -> None:
    path = next((folder / "hardened").iterdir())
    path.write_text(record_text(_passes(run.hardened[0])))
    with pytest.raises(MabenchError, match="was changed after it was submitted"):
        submissions.read(folder)
    assert len(records_of(folder)) == 2
