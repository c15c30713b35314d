"""Evaluation: the records of one set on one suite, and what people make of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench.results import lifts, scoring, tables
from mabench.results.scoring import Row
from mabench.runs.events import Failed
from mabench.schema import Finding, RunRecord, SetSummary
from mabench.suites import LoadedSuite

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `mabench.evaluate` returns. Accuracies are fractions in [0, 1]; tables print percent."""

    loaded_suite: LoadedSuite
    set: SetSummary
    records: tuple[RunRecord, ...]
    """One a run, in the suite's order."""
    missing: tuple[str, ...] = ()
    """Names of runs that were asked for and have no record."""
    failed: tuple[Failed, ...] = ()
    """Those of them that were tried and did not fit into memory."""
    folder: Path | None = None
    """Where records and tables are; None = they were not kept."""
    hardened: tuple[RunRecord, ...] = ()
    """The same runs with hardened labels, where the set's are soft and the suite asks for them."""

    @property
    def suite(self) -> str:
        """`name@version`."""
        return self.loaded_suite.id

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was guessed while the set was read, on what evidence, and the flag that overrides it."""
        return self.set.findings

    @cached_property
    def rows(self) -> list[Row]:
        """One row an evaluator, and the panel means where they are complete."""
        return lifts.rows(self.loaded_suite, self.records, self.hardened)

    @property
    def complete(self) -> bool:
        """Whether every run of the suite has its record: only then `score` is the suite's number."""
        planned = sum(map(len, self.loaded_suite.evaluators.values())) * len(self.loaded_suite.suite.seeds)
        return len(self.records) == planned

    @property
    def scores(self) -> dict[str, float]:
        """Track -> its panel mean, or the accuracy of its only network; tracks with missing runs are not there."""
        heads = {track: scoring.headline(self.loaded_suite, track, self.rows) for track in self.loaded_suite.evaluators}
        return {track: head.mean for track, head in heads.items() if head is not None}

    @property
    def score(self) -> float:
        """The score of the only track that was run, or the accuracy of the only network; NaN where there is no one number.

        A panel with missing runs has no mean, and neither have two tracks together: see `scores` and `rows`.
        """
        networks = [row for row in self.rows if not row.panel]
        if len(networks) == 1:
            return networks[0].mean
        tracks = sorted({row.track for row in networks})
        return self.scores.get(tracks[0], math.nan) if len(tracks) == 1 else math.nan

    def table(self, style: str = "text", width: int | None = None) -> str:
        """The result as `text`, `markdown`, `latex` or `csv`; text leaves columns out that do not fit into `width` characters."""
        return tables.table(self.loaded_suite, self.rows, style, width)

    def latex(self) -> str:
        """A LaTeX tabular (booktabs)."""
        return self.table("latex")

    def frame(self) -> pandas.DataFrame:
        """One row a run, with set, suite, dataset and IPC, so that several evaluations can be concatenated."""
        return tables.frame(self.records, self.hardened)

    def json(self) -> dict[str, Any]:
        """For programs: set, rows and runs; accuracies are fractions."""
        content = (
            tables.as_json(self.loaded_suite, self.rows, self.records, self.hardened)
            if self.records
            else {"suite": self.suite, "rows": [], "cells": []}
        )
        failed = {one.cell.name: one.reason for one in self.failed}
        return content | {"complete": self.complete, "missing": list(self.missing), "failed": failed}

    def notes(self) -> list[str]:
        """What a reader has to know to trust the table."""
        return tables.notes(self.loaded_suite, self.rows, self.records) if self.records else []

    def __repr__(self) -> str:
        parts = [f"{track} {100 * score:.2f} %" for track, score in self.scores.items()]
        if not parts and not math.isnan(self.score):
            parts = [f"{100 * self.score:.2f} %"]
        if not self.complete:
            count = f"{len(self.records)} run{'s' if len(self.records) != 1 else ''}"
            parts.append(f"{count}, not the whole suite" if self.records else "no runs")
        return f"<Evaluation of {self.set.name} (IPC {self.set.ipc}) on {self.suite}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        from tabulate import tabulate

        headers, body = tables.cells(self.loaded_suite, self.rows)
        return f"<p>{escape(repr(self))}</p>" + str(tabulate(body, headers, tablefmt="html", disable_numparse=True))
