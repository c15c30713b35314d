"""Which rows of a paper a set may be held against: those whose whole configuration is the set's, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mabench.papers.paper_tables import PaperTable, tables
from mabench.papers.presets import differences, preset
from mabench_methods import Method, Preset


@dataclass(frozen=True)
class Match:
    """A row of a paper, and in what the set's making differs from it."""

    table: PaperTable
    differs: str = ""
    """Empty where everything agrees: only then is a verdict given."""


def matches(method: Method, chosen: Preset, *, file_sha256: str | None = None) -> list[Match]:
    """Return the rows about a preset's dataset and budget, those that agree in everything first; nearest rows after them.

    A row agrees with a set that was made here when the whole configurations are equal; with a given one (`file_sha256`, empty where
    it is no file) when that is the file whose images the paper measured. Where no row of a suite agrees, its nearest one comes along
    with what differs.
    """
    about = [table for table in tables(method) if (table.dataset, table.ipc) == (chosen.dataset, chosen.config.ipc)]
    if file_sha256 is None:
        found = [Match(table, _difference(method, chosen, table)) for table in about]
    else:
        found = [Match(table, _other_file(table, file_sha256)) for table in about]
    agreeing = [match for match in found if not match.differs]
    judged = {match.table.suite for match in agreeing}
    nearest: dict[str, Match] = {}
    for match in found:
        suite = match.table.suite
        if suite not in judged and (suite not in nearest or _distance(match) < _distance(nearest[suite])):
            nearest[suite] = match
    return agreeing + list(nearest.values())


def row_configurations(method: Method, table: PaperTable) -> list[Preset]:
    """Return the configurations that a row stands for."""
    changes = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in table.config.items()]
    return [preset(method, name, None, changes) for name in table.presets]


def _difference(method: Method, chosen: Preset, table: PaperTable) -> str:
    """What keeps a configuration from being the row's, as text; empty where they are equal."""
    options = [differences(row.config, chosen.config) for row in row_configurations(method, table)]
    if not options:
        return "no configuration here is known to be that row's"
    return _listed(min(options, key=len))


def _other_file(table: PaperTable, file_sha256: str) -> str:
    if table.file_sha256 and table.file_sha256 == file_sha256:
        return ""
    return "the given set is not known to be the one that was measured"


def _listed(changes: Sequence[str], shown: int = 4) -> str:
    rest = f" and {len(changes) - shown} more" if len(changes) > shown else ""
    return "here " + ", ".join(changes[:shown]) + rest if changes else ""


def _distance(match: Match) -> tuple[int, int]:
    """Rows without a configuration come last, then the fewest differences count."""
    known = match.differs.startswith("here ")
    return (0 if known else 1, match.differs.count(",") + match.differs.count(" more") * 100)
