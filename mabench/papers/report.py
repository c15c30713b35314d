"""The report of a reproduction: our numbers, the paper's beside them, the sets and the commands that repeat it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mabench.files import write_text
from mabench.papers import compare
from mabench.papers.compare import SPREADS, Line
from mabench.results import lifts, tables
from mabench.results.scoring import Row
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite
from mabench_methods import Preset


@dataclass(frozen=True, eq=False)
class Report:
    """What `mabench.reproduce` returns."""

    preset: Preset
    """Of the method, with the fields that were changed."""
    source: str
    """Where the sets come from."""
    sets: tuple[str, ...]
    """sha256 of every set that was evaluated."""
    commands: tuple[str, ...]
    """What repeats it."""
    records: dict[str, tuple[RunRecord, ...]]
    """Suite -> its runs."""
    loaded_suites: dict[str, LoadedSuite]
    """Suite -> what it evaluates."""
    lines: tuple[Line, ...]
    """Our numbers beside the paper's."""
    folder: Path

    @property
    def outside(self) -> list[str]:
        """Numbers of rows that agree in everything, too far from the paper's for chance."""
        return compare.outside(self.lines)

    def rows(self, suite: str) -> list[Row]:
        """One row per evaluator of a suite, and the panel means where they are complete."""
        return lifts.rows(self.loaded_suites[suite], self.records[suite])

    def text(self, width: int | None = None) -> str:
        """The comparison as text of `width` columns; empty where the paper has no row about this dataset, budget and suite."""
        return compare.text(self.lines, width) if self.lines else ""

    def notes(self) -> list[str]:
        """What a reader has to know to trust the comparison."""
        out = [f"images: {self.source} (sha256 {', '.join(digest[:16] for digest in self.sets)})"]
        if any(line.inside is not None for line in self.lines):
            out.append(
                f"allowed: {SPREADS:g} combined standard deviations of single runs, more where they come from few runs "
                "(Student's t); a side that gives none is assumed to vary like the other"
            )
        if self.preset.changes:
            out.append(f"not the preset '{self.preset.name}' any more: {', '.join(self.preset.changes)}")
        elif self.lines and not self.preset.comparable:
            out.append(f"preset '{self.preset.name}' is not a published configuration, so no verdict is given")
        for table, differs in dict.fromkeys((line.table, line.differs) for line in self.lines if line.differs):
            out.append(f"{table}: nearest row, no verdict: {differs}")
        if any(line.telling is False and line.inside for line in self.lines):
            out.append("some numbers are inside, but so would be the baseline: these runs cannot tell the method from it")
        if any(line.inside and line.baseline is None and not line.is_baseline for line in self.lines):
            out.append("some numbers are inside, and no baseline was published: whether the test could have failed is not known")
        if any(line.ours_runs < (line.paper_runs or 0) for line in self.lines):
            out.append("fewer runs than the paper's for some evaluators, see the numbers in brackets")
        if not self.lines:
            out.append("no published number for this method, dataset, budget and suite: nothing is compared")
        return out

    def markdown(self) -> str:
        """The whole report."""
        parts = [f"# {self.preset.method}, preset {self.preset.name}, IPC {self.preset.config.ipc}, {self.preset.dataset}"]
        if self.preset.changes:
            parts.append(f"Changed: {', '.join(f'`{change}`' for change in self.preset.changes)}")
        if self.lines:
            parts.append("## Beside the paper\n\n" + compare.markdown(self.lines))
        parts.append("\n".join(f"- {note}" for note in self.notes()))
        for suite, loaded_suite in self.loaded_suites.items():
            parts.append(f"## {suite}: {loaded_suite.suite.title}\n\n{tables.table(loaded_suite, self.rows(suite), 'markdown')}")
        parts.append("## Sets\n\n" + "\n".join(f"- sha256 `{digest}`" for digest in self.sets))
        parts.append("## Commands\n\n```\n" + "\n".join(self.commands) + "\n```")
        return "\n\n".join(parts) + "\n"

    def json(self) -> dict[str, Any]:
        """For programs; accuracies of lines are percent, as in papers."""
        return {
            "method": self.preset.method,
            "preset": self.preset.name,
            "changes": list(self.preset.changes),
            "config": dataclasses.asdict(cast(Any, self.preset.config)),
            "source": self.source,
            "sets": list(self.sets),
            "commands": list(self.commands),
            "outside": self.outside,
            "lines": [_line(line) for line in self.lines],
            "suites": {
                suite: tables.as_json(self.loaded_suites[suite], self.rows(suite), records)
                for suite, records in self.records.items()
            },
        }

    def write(self) -> None:
        """Write reproduction.md, reproduction.json and, where the paper has numbers, reproduction.png."""
        write_text(self.folder / "reproduction.md", self.markdown())
        write_text(self.folder / "reproduction.json", json.dumps(self.json(), indent=1, default=str) + "\n")
        if self.lines:
            compare.plot(self.folder / "reproduction.png", self.lines)

    def __repr__(self) -> str:
        judged = [line for line in self.lines if line.inside is not None]
        return f"<Report of {self.preset.method} {self.preset.name}: {len(judged)} numbers judged, {len(self.outside)} outside>"


def _line(line: Line) -> dict[str, Any]:
    derived = ("difference", "spread", "allowed", "inside", "telling", "verdict")
    return dataclasses.asdict(line) | {name: getattr(line, name) for name in derived}
