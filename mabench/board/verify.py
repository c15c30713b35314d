"""Run cells of a submission again, keep the records in it, and say so in its log. What follows for its tier is computed."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mabench import data, digests, suites
from mabench.board import audit_log, labels, tiers
from mabench.board import submission as submissions
from mabench.board.submission import RERUNS, Submission, set_file
from mabench.digests import stream
from mabench.errors import MabenchError, first_line
from mabench.results import scoring
from mabench.results.tables import percent
from mabench.runs.folder import Folder
from mabench.runs.plan import plan
from mabench.schema import AuditEntry, RunRecord, Tier
from mabench.sets import synthetic
from mabench.sets.synthetic import SyntheticSet

if TYPE_CHECKING:
    from mabench.data import RealData
    from mabench.schema import Cell
    from mabench.suites import LoadedSuite

FIRST_FRESH = 2**30  # ours: suites name small seeds

Evaluate = Callable[["LoadedSuite", SyntheticSet, "list[Cell]", Folder, "RealData"], list[RunRecord]]


@dataclass(frozen=True)
class Comparison:
    """One cell, recorded and re-run; scores are fractions."""

    name: str
    recorded: float
    again: float
    identical: bool
    """The curves are equal, test pass by test pass."""

    @property
    def difference(self) -> float:
        return self.again - self.recorded


def sample(
    submission: Submission, cells: int, seed: int, number: int = 1, *, suite: str | None = None, tracks: Sequence[str] = ()
) -> list[RunRecord]:
    """`cells` of the records of the submission's set `number`, drawn by `seed`; all of them where there are no more.

    Only of suites as they are now, for others cannot be repeated, and of this `suite` and these `tracks` where they are named. Runs
    of suites that rank come first: the others are drawn where there are no more of these. Raises MabenchError where there are none.
    """
    if not 1 <= number <= len(submission.sets):
        raise MabenchError(
            f"{submission.slug}: has no set {number}, its sets are 1 to {len(submission.sets)}. Name one with --set."
        )
    names = sorted(n for n, r in submission.records.items() if r.cell.set_sha256 == submission.sets[number - 1])
    if not names:
        raise MabenchError(f"{submission.slug}: has no records (tier {submission.tier}): there is nothing to re-run.")
    current = {name: record.cell for name in names if tiers.current(record := submission.records[name])}
    here = [
        n for n, c in current.items() if suite in (None, c.suite, c.suite.partition("@")[0]) and (not tracks or c.track in tracks)
    ]
    if not here:
        chosen = ", ".join([*([f"--suite {suite}"] if suite else []), *(f"--track {track}" for track in tracks)])
        can = "; ".join(" --track ".join(each) for each in sorted({(f"--suite {c.suite}", c.track) for c in current.values()}))
        raise MabenchError(
            f"{submission.slug}: {f'none of its runs with {chosen}' if chosen else f'none of its {len(names)} runs'} can be repeated here: only "
            "those under a suite as it is now, not under an earlier edition. "
            + (f"Allowed: {can}" if can else "Verify a submission that the board ranks: mabench leaderboard build lists them.")
        )
    draw, picked = random.Random(seed), list[str]()
    for group in ([n for n in here if suites.ranks_methods(current[n].suite) == ranks] for ranks in (True, False)):
        picked += draw.sample(group, min(cells - len(picked), len(group)))
    return [submission.records[name] for name in sorted(picked)]


def draw_of(slug: str, place: Path) -> int:
    """A seed for `sample` that nobody could know before: of a re-run of `slug` that was begun in `place`, or a random one.

    Whoever knows which runs are repeated tells the truth in these alone.
    """
    begun = [path.name.removeprefix(f"{slug}-") for path in sorted(place.glob(f"{slug}-*")) if path.is_dir()]
    return next((int(rest) for rest in begun if rest.isascii() and rest.isdecimal()), secrets.randbelow(FIRST_FRESH))


def with_fresh(records: Sequence[RunRecord], fresh: int, seed: int) -> list[Cell]:
    """The cells of these records, and each evaluator's under `fresh` seeds that no suite names, drawn by `seed`."""
    cells = [record.cell for record in records]
    first = {(cell.suite, cell.track, cell.evaluator.name): cell for cell in cells}
    drawn = [FIRST_FRESH + stream(seed, f"fresh {number}") % FIRST_FRESH for number in range(fresh)]
    return cells + [cell.model_copy(update={"seed": number}) for cell in first.values() for number in drawn]


def rerun(submission: Submission, folder: Path, cells: Sequence[Cell], out: Path, evaluate: Evaluate) -> list[RunRecord]:
    """Evaluate these cells, all of one set, again on that set in `folder`, into `out` (resumable).

    Raises MabenchError when the set is not the one that was submitted or a suite is not the released one.
    """
    sha256 = cells[0].set_sha256
    number = submission.sets.index(sha256) + 1
    path = folder / set_file(number)
    if not path.is_file():
        raise MabenchError(
            f"{path}: is missing. Get it with: mabench pull {submission.slug} --repo ORG/NAME, or, where its authors publish "
            f"it themselves, with: mabench pack THEIR-FILE -o {path}"
        )
    synthetic_set = replace(synthetic.load(path), labels_folder=folder / labels.folder_of(number))
    if synthetic_set.sha256 != sha256:
        raise MabenchError(
            f"{path}: holds the set {synthetic_set.sha256[:16]}, the submission is for {sha256[:16]}. "
            f"Get it again: mabench pull {submission.slug} --repo ORG/NAME"
        )
    records: list[RunRecord] = []
    for suite in sorted({cell.suite for cell in cells}):
        loaded_suite = suites.load(suite)
        planned = {cell.name: cell for cell in plan(loaded_suite, synthetic_set)}
        here = [cell for cell in cells if cell.suite == suite]
        if any(cell.name in planned and planned[cell.name] != cell for cell in here):
            raise MabenchError(
                f"{submission.slug}: its records of {suite} were made under an earlier edition of the suite, or with other recorded labels, and "
                "cannot be repeated here. Verify a submission that the board ranks."
            )
        place = Folder(out / suite, synthetic_set.sha256, loaded_suite.id, loaded_suite.digest)
        records += evaluate(loaded_suite, synthetic_set, here, place, data.load_test(loaded_suite.suite.dataset))
    if any(record in submission.records.values() for record in records):
        raise MabenchError(f"{out}: holds the submitted records themselves. Name a new or empty folder with --out.")
    return records


def comparisons(submission: Submission, reruns: Sequence[RunRecord]) -> list[Comparison]:
    """Run by run, those that the submission holds a record of."""
    return [
        Comparison(name, scoring.score(old), scoring.score(new), old.curve == new.curve)
        for new in reruns
        if (old := submission.records.get(name := submission.name_of(new))) is not None
    ]


def logged(submission: Submission, reruns: Sequence[RunRecord], *, who: str, seed: int) -> dict[str, bytes]:
    """The files that a re-run adds to a submission: its records, and a line of the log. The tier follows from them.

    Nothing where the log names these very records already: a command that was killed after it had sent them is repeated. Raises
    MabenchError where the log or the submission would grow beyond what is read.
    """
    known = {digest for entry in submission.audit if entry.who == who for digest in entry.reruns.values()}
    if reruns and all(digests.sha256(submissions.record_bytes(record)) in known for record in reruns):
        return {}
    found = comparisons(submission, reruns)
    number = len(submission.audit)
    files = {
        f"{RERUNS}{submissions.rerun_name(submission.name_of(record), number)}.json": submissions.record_bytes(record)
        for record in reruns
    }
    why = f"re-ran {len(found)} of {len(submission.records)} cells (seed {seed}): {sum(c.identical for c in found)} identical"
    if found:
        largest = max(found, key=lambda c: abs(c.difference))
        why += f"; largest difference {percent(largest.difference, signed=True)} points"
    if len(reruns) > len(found):
        why += f"; {len(reruns) - len(found)} under fresh seeds"
    entry = audit_log.make_entry(
        who=who,
        action="re-run",
        why=why,
        set_sha256=reruns[0].cell.set_sha256,
        reruns={name.removeprefix(RERUNS).removesuffix(".json"): digests.sha256(content) for name, content in files.items()},
    )
    return submissions.with_entry(submission, entry, files)


def check_room(submission: Submission, cells: Sequence[Cell], *, who: str, seed: int) -> None:
    """Raise MabenchError where a re-run of these cells would not fit into the submission, before it is computed.

    Its records are taken to be as large as those that they repeat.
    """
    like = {(r.cell.suite, r.cell.track, r.cell.evaluator.name): r for r in submission.records.values()}
    stand_ins = [like[c.suite, c.track, c.evaluator.name].model_copy(update={"cell": c}) for c in cells]
    logged(submission, stand_ins, who=who, seed=seed)


def decision(submission: Submission, tier: Tier, *, who: str, why: str) -> AuditEntry:
    """A tier set by hand; self-run takes an earlier decision back. Raises MabenchError for whoever may not decide it."""
    if tier not in tiers.BY_HAND:
        raise MabenchError(
            f"tier {tier}: is not set by hand. spot-checked and verified come from: mabench verify {submission.slug} --who NAME. "
            f"Allowed: {first_line(tiers.BY_HAND)}"
        )
    maintainer = who in submission.board.maintainers and who != submission.owner
    if not maintainer and (who != submission.owner or tier == "challenged"):
        raise MabenchError(
            f"{submission.slug}: {who} may not decide '{tier}'. Its submitter, {submission.owner}, may withdraw or supersede it and take that "
            f"back; a maintainer (board.toml names them) may also challenge it. Anybody may re-run it: mabench verify {submission.slug} --who NAME"
        )
    return audit_log.make_entry(who=who, action="tier", tier=tier, why=why, set_sha256=submission.set_sha256)
