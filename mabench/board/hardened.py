"""Runs with hardened labels in a submission: under `hardened/`, a record for every record of a set with soft labels.

They show how much of a score is in the labels. They are never ranked, but a set with soft labels is ranked only beside them.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mabench import suites
from mabench.board import gates
from mabench.board.gates import Gate, gate
from mabench.board.submission import Submission
from mabench.results import lifts, scoring
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

NAME = "hardened"
NOT_SCORED = "not scored with hardened labels"
"""Why a row of soft labels is not ranked."""
SAME = ("dataset", "ipc", "stored_images", "decoded_images", "image_shape", "image_dtype", "decode", "learning_rate")
"""In what the hardened set agrees with the one that it was made from."""


def of_records(records: Mapping[str, RunRecord], hardened: Mapping[str, RunRecord], *, kept: bool = False) -> Gate:
    """Runs with hardened labels are runs of the suite, on the same images with hard labels, one such set for every set.

    Both by name, the same for the same run; `kept` as for `gates.suites_known`.
    """
    every = list(hardened.values())
    problems = [
        text
        for each in (gates.suites_known(every, kept=kept), gates.curves(every), gates.plausible(every))
        for text in each.refusals
    ]
    partner: dict[str, str] = {}
    for name, record in hardened.items():
        soft = records.get(name)
        if soft is None or soft.synthetic_set.labels != "soft":
            problems.append(f"{name}: a run with hardened labels, but no record of it with soft ones. Submit both.")
            continue
        if record.cell.model_copy(update={"set_sha256": soft.cell.set_sha256}) != soft.cell:
            problems.append(
                f"{name}: holds the run {record.cell.name}, or was run under another edition of its suite. Run mabench eval again."
            )
            continue
        wrong = [field for field in SAME if getattr(soft.synthetic_set, field) != getattr(record.synthetic_set, field)]
        wrong += ["labels"] if record.synthetic_set.labels != "hard" else []
        wrong += ["set"] if partner.setdefault(soft.cell.set_sha256, record.cell.set_sha256) != record.cell.set_sha256 else []
        if wrong:
            problems.append(
                f"{name}: has other images than the run with soft labels ({', '.join(wrong)}). Run mabench eval again."
            )
    return gate(NAME, f"{len(every)} runs with hardened labels", problems)


def same_images(expected_sha256: str, hardened: Sequence[RunRecord]) -> Gate:
    """The hardened records are about the very set that hardening gives, `expected_sha256`."""
    others = [record for record in hardened if record.cell.set_sha256 != expected_sha256]
    problems = [
        f"{len(others)} of {len(hardened)} runs with hardened labels belong to the set {others[0].cell.set_sha256[:16]}; hardening this set gives "
        f"{expected_sha256[:16]}. Run mabench eval again."
    ] if others else []  # fmt: skip
    return gate(NAME, f"{len(hardened)} runs on the same images with hardened labels", problems)


def lacking(submission: Submission, loaded_suite: LoadedSuite, track: str) -> bool:
    """Whether a track of soft labels has runs that were not scored with hardened ones."""
    return loaded_suite.scores_hardened and any(
        name not in submission.hardened
        for name, record in submission.records.items()
        if (record.cell.suite, record.cell.track) == (loaded_suite.id, track) and record.synthetic_set.labels == "soft"
    )


def score(submission: Submission, loaded_suite: LoadedSuite, track: str) -> float | None:
    """The score of a track with hardened labels, the mean over sets; None where runs are missing."""
    if not submission.hardened or lacking(submission, loaded_suite, track):
        return None
    records = [r for r in submission.hardened.values() if (r.cell.suite, r.cell.track) == (loaded_suite.id, track)]
    if not records or any(record.cell.suite not in suites.released() for record in records):
        return None
    head = scoring.headline(loaded_suite, track, lifts.rows_of_sets(loaded_suite, gates.by_set(records)))
    return None if head is None else head.mean
