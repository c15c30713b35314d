"""Which rows of a paper a set may be held against: those whose whole configuration is the set's, and no other."""

from __future__ import annotations

from dataclasses import dataclass, field

from mabench.papers.presets import differences, preset
from mabench.results.paper_tables import PaperTable, tables
from mabench_methods import Method, Preset

SHOWN = 4  # ours: changed fields that are named before "and N more"


@dataclass(frozen=True)
class Match:
    """A row of a paper, the evaluators it is consulted for, and in what the set's making differs from it."""

    table: PaperTable
    evaluators: tuple[str, ...]
    differs: str = ""
    """Empty where everything agrees: only then is a verdict given."""
    distance: tuple[int, int] = field(default=(0, 0), compare=False)
    """For the choice of the nearest row."""


def matches(method: Method, chosen: Preset, file_sha256: str | None = None) -> list[Match]:
    """Return, for every suite and evaluator with a row about the preset's dataset and budget, the row that agrees, else the nearest.

    A row agrees with a set that was made here when the whole configurations are equal; with a given one (`file_sha256`, empty where it
    is not a file) when that is the file whose images the paper measured.
    """
    about = [table for table in tables(method) if (table.dataset, table.ipc) == (chosen.dataset, chosen.config.ipc)]
    compared = [_compared(method, chosen, table) if file_sha256 is None else _given(table, file_sha256) for table in about]
    best: dict[tuple[str, str], Match] = {}
    for match in sorted(compared, key=lambda match: match.distance):
        for evaluator in match.table.values:
            best.setdefault((match.table.suite, evaluator), match)
    kept = []
    for match in compared:
        evaluators = tuple(e for e in match.table.values if best[match.table.suite, e] is match)
        if evaluators:
            kept.append(Match(match.table, evaluators, match.differs))
    return kept


def row_configurations(method: Method, table: PaperTable) -> list[Preset]:
    """Return the configurations that a row stands for."""
    changes = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in table.config.items()]
    return [preset(method, name, None, changes) for name in table.presets]


def _compared(method: Method, chosen: Preset, table: PaperTable) -> Match:
    """A row beside the configuration of a set that is made here."""
    options = [differences(row.config, chosen.config) for row in row_configurations(method, table)]
    if not options:
        return Match(table, (), "no configuration here is known to be that row's", (1, 0))
    changes = min(options, key=len)
    rest = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return Match(table, (), f"here {', '.join(changes[:SHOWN])}{rest}" if changes else "", (0, len(changes)))


def _given(table: PaperTable, file_sha256: str) -> Match:
    """A row beside a set that somebody brought."""
    if table.file_sha256 and table.file_sha256 == file_sha256:
        return Match(table, ())
    return Match(table, (), "the given set is not known to be the one that was measured", (1 if table.presets else 2, 0))
