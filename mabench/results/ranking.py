"""Is a track of a set ranked, and if not, why? The one answer, asked by gates, Hub tables, board and reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mabench.data import DATASETS
from mabench.schema import RANKED_TIERS, Evaluator, RunRecord, Tier, cell_name
from mabench.suites import LoadedSuite

EARLIER, ANOTHER = "run under an earlier edition of the suite", "run under another state of the suite"
"""Why rows are not ranked whose records name another digest than the suite's."""


@dataclass(frozen=True)
class Status:
    """What one track of one suite holds of a set's records, and whether that is ranked."""

    suite: str
    track: str
    planned: int
    """Evaluator runs that the suite asks for."""
    missing: tuple[str, ...]
    """Names of the planned runs without a record, in table order."""
    reason: str = ""
    """Why the row is not ranked; empty for a ranked one."""

    @property
    def ranked(self) -> bool:
        return not self.reason

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def finished(self) -> int:
        return self.planned - len(self.missing)

    def __str__(self) -> str:
        return self.reason or "ranked"


def status(loaded_suite: LoadedSuite, track: str, records: Iterable[RunRecord], *, tier: Tier = "self-run") -> Status:
    """The status of one set on one track of a suite.

    `records` may hold other tracks and suites: they are ignored. A row is ranked if its tier is, if every run of the track is
    there under exactly this suite and the dataset's own test split, and if its images per class have a table.
    """
    here = [r for r in records if (r.cell.suite, r.cell.track) == (loaded_suite.id, track)]
    planned = [
        cell_name(track, entry.name, seed) for entry in loaded_suite.evaluators[track] for seed in loaded_suite.suite.seeds
    ]
    finished = {r.cell.name for r in here}
    missing = tuple(name for name in planned if name not in finished)
    reason = _reason(loaded_suite, track, here, tier)
    if not reason and missing:
        reason = f"incomplete: {len(planned) - len(missing)} of {len(planned)} runs"
    if not reason and finished - set(planned):
        reason = "runs that the suite does not ask for"
    if not reason and (ipc := here[0].synthetic_set.ipc) not in loaded_suite.suite.ipcs:
        reason = f"IPC {ipc} has no table in this suite"
    return Status(loaded_suite.id, track, len(planned), missing, reason)


def _reason(loaded_suite: LoadedSuite, track: str, records: list[RunRecord], tier: Tier) -> str:
    """What makes even a complete track unranked, apart from its budget."""
    if tier not in RANKED_TIERS:
        return tier
    if not loaded_suite.released:
        return "not a released suite"
    if any(r.synthetic_set.dataset != loaded_suite.suite.dataset for r in records):
        return "a set of another dataset"
    digests = {r.cell.suite_digest for r in records} - {loaded_suite.digest}
    if digests:
        earlier = digests <= loaded_suite.earlier
        return EARLIER if earlier else ANOTHER
    entries = {entry.name: _without_note(entry) for entry in loaded_suite.evaluators[track]}
    as_planned = (loaded_suite.recipes[track], loaded_suite.suite.seed_streams)
    if any((r.cell.recipe, r.cell.seed_streams) != as_planned for r in records) or any(
        _without_note(r.cell.evaluator) != entries.get(r.cell.evaluator.name) for r in records
    ):
        return "run with other settings than the suite's"
    pinned = DATASETS[loaded_suite.suite.dataset].digests.get("test")
    splits = {r.test_sha256 for r in records}
    if pinned is not None and splits - {pinned}:
        return "tested on another test split"
    return "records disagree about the test split" if len(splits) > 1 else ""


def _without_note(evaluator: Evaluator) -> Evaluator:
    return evaluator.model_copy(update={"note": ""})
