"""Re-run some cells of a submission and say in its log what came out. Nobody raises the tier of his own submission."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mabench import data, suites
from mabench.board import submission as submissions
from mabench.board.submission import SET, Submission, record_name
from mabench.errors import MabenchError, first_line
from mabench.results import scoring
from mabench.results import tables as report
from mabench.runs.folder import Folder
from mabench.runs.plan import plan
from mabench.schema import AuditEntry, RunRecord, Tier
from mabench.sets import synthetic
from mabench.sets.synthetic import SyntheticSet

if TYPE_CHECKING:
    from mabench.data import RealData
    from mabench.schema import Cell
    from mabench.suites import Exam

TOLERANCE = 0.01  # ours: one point; within it no reader of a table would act differently
TOLERANCE_SIGMAS = 3 * math.sqrt(2)  # ours: a re-run elsewhere is an independent draw, so differences spread sqrt(2) as wide

BY_HAND: tuple[Tier, ...] = ("challenged", "superseded", "withdrawn")
"""Tiers that a person may set; the way back is a re-run."""

Evaluate = Callable[["Exam", SyntheticSet, "list[Cell]", Folder, "RealData"], list[RunRecord]]


@dataclass(frozen=True)
class Comparison:
    """One cell, recorded and re-run; scores are fractions."""

    name: str
    recorded: float
    again: float
    tolerance: float
    identical: bool
    """The curves are equal, look by look."""

    @property
    def difference(self) -> float:
        return self.again - self.recorded

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= self.tolerance


def sample(submission: Submission, cells: int, seed: int) -> list[RunRecord]:
    """`cells` of the submission's records, drawn by `seed`; all of them where there are no more."""
    names = sorted(submission.records)
    if not names:
        raise MabenchError(f"{submission.slug}: has no records (tier {submission.tier}): there is nothing to re-run.")
    return [submission.records[n] for n in sorted(random.Random(seed).sample(names, min(cells, len(names))))]


def tolerance(submission: Submission, record: RunRecord) -> float:
    """How far a re-run of this cell may lie from its record, a fraction.

    On one machine with one number of threads records are bit-identical. Elsewhere float32 sums round differently, and a
    network that magnifies rounding ends as another draw of the same distribution (PROTOCOL.md). So: one point plus three
    standard deviations of the difference of two draws, their spread taken from the evaluator's seeds in the submission.
    """
    cell = record.cell
    peers = [
        scoring.score(r)
        for r in submission.records.values()
        if (r.cell.suite, r.cell.track, r.cell.evaluator.name) == (cell.suite, cell.track, cell.evaluator.name)
    ]
    return TOLERANCE + TOLERANCE_SIGMAS * (scoring.spread(peers, "unbiased") or 0.0)


def rerun(submission: Submission, folder: Path, records: Sequence[RunRecord], out: Path, evaluate: Evaluate) -> list[Comparison]:
    """Evaluate the cells of `records` again on the set in `folder`, into `out` (resumable), and compare.

    Raises MabenchError when the set is not the one that was submitted or a suite is not the released one.
    """
    path = folder / SET
    if not path.is_file():
        raise MabenchError(
            f"{path}: is missing. Get it with: mabench pull {submission.slug} --repo ORG/NAME, or, where its authors publish "
            f"it themselves, with: mabench pack THEIR-FILE -o {path}"
        )
    chosen = synthetic.load(path)
    if chosen.sha256 != submission.set_sha256:
        raise MabenchError(
            f"{path}: is {chosen.sha256[:16]}, the submission is about {submission.set_sha256[:16]}. "
            f"Get it again: mabench pull {submission.slug} --repo ORG/NAME"
        )
    found: list[Comparison] = []
    for suite in sorted({r.cell.suite for r in records}):
        exam = suites.load(suite)
        mine = {r.cell.name: r for r in records if r.cell.suite == suite}
        cells = [cell for cell in plan(exam, chosen) if cell.name in mine]
        if [mine[c.name].cell for c in cells] != cells or len(cells) != len(mine):
            raise MabenchError(f"{submission.slug}: its records of {suite} were made under another suite than the released one.")
        place = Folder(out / suite, chosen.sha256, exam.id, exam.digest)
        for new in evaluate(exam, chosen, cells, place, data.load(exam.suite.dataset, "test")):
            old = mine[new.cell.name]
            found.append(
                Comparison(
                    record_name(old), scoring.score(old), scoring.score(new), tolerance(submission, old), old.curve == new.curve
                )
            )
    return found


def mean_agrees(found: Sequence[Comparison]) -> bool:
    """Whether the differences cancel as independent ones do: small lies of one sign in every cell do not."""
    spread = math.sqrt(sum((c.tolerance - TOLERANCE) ** 2 for c in found)) / len(found)
    return abs(sum(c.difference for c in found)) / len(found) <= TOLERANCE + spread


def entry(submission: Submission, found: Sequence[Comparison], *, who: str, seed: int) -> AuditEntry:
    """What the log says of a re-run: the tier follows from it, unless it is the submitter's own."""
    agreed = mean_agrees(found)
    digests = {c.name: submissions.sha256(submissions.record_bytes(submission.records[c.name])) for c in found}
    confirmed = {c.name for c in found if c.agrees and agreed}
    contradicted = {c.name for c in found} - confirmed
    whole = submission.confirmed | confirmed == set(submission.records)
    disputed = (submission.disputed - confirmed) | contradicted
    tier: Tier = "challenged" if disputed else "verified" if whole else "spot-checked"
    own = who in submission.own_names
    if submission.tier in ("superseded", "withdrawn") or (own and not contradicted):
        tier = submission.tier
    largest = max(found, key=lambda c: abs(c.difference))
    why = f"re-ran {len(found)} of {len(submission.records)} cells (seed {seed}): {sum(c.identical for c in found)} identical, "
    why += f"{len(confirmed)} confirmed, {len(contradicted)} not; largest difference {report.percent(largest.difference, signed=True)} "
    why += f"points (tolerance {report.percent(largest.tolerance)})"
    why += "" if agreed else "; all differences point one way"
    why += "; by the submitter: tier unchanged" if own and not contradicted else ""
    return submissions.make_entry(
        who=who,
        action="re-run",
        tier=tier,
        why=why,
        set_sha256=submission.set_sha256,
        records={n: digests[n] for n in sorted(confirmed)},
        contradicted={n: digests[n] for n in sorted(contradicted)},
    )


def decision(submission: Submission, tier: Tier, *, who: str, why: str) -> AuditEntry:
    """A tier set by hand. Raises MabenchError for one that only a re-run or a paper's row can give."""
    if tier not in BY_HAND:
        raise MabenchError(
            f"tier {tier}: is not set by hand. spot-checked and verified come from: mabench verify {submission.slug}. "
            f"Allowed: {first_line(BY_HAND)}"
        )
    return submissions.make_entry(who=who, action="tier", tier=tier, why=why, set_sha256=submission.set_sha256)
