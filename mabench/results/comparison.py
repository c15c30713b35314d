"""Several evaluations in one table: sets as rows, networks as columns, the best of each column in bold."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mabench.results.scoring import PANEL, Row, rows
from mabench.results.tables import draw, percent, plus_minus, plus_minus_sign
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

MEAN = "mean"
KINDS = ("mean", "std", "best", "plateau", "last", "runs")
"""What CSV says of every network."""


@dataclass(frozen=True)
class Line:
    """One set of the table."""

    name: str
    ipc: int
    sha256: str
    columns: dict[str, Row]
    """Network (`mean` for a panel) -> its row; what was not run is absent."""


@dataclass(frozen=True)
class Comparison:
    """The sets that have records of one track of one suite."""

    suite: str
    track: str
    counts: str
    """Which test pass of a run counts: best or last."""
    networks: tuple[str, ...]
    lines: tuple[Line, ...]

    def draw(self, style: str = "text", width: int | None = None) -> str:
        """The table; a text table that is wider than `width` is drawn with networks as rows instead."""
        headers, body = self._cells(style)
        text = draw(headers, body, style, left=1)
        if style == "text" and width is not None and max(map(len, text.splitlines())) > width:
            turned = [list(column) for column in zip(headers, *body, strict=True)]
            text = draw(turned[0], turned[1:], style, left=1)
        if style == "csv":
            return text
        spread = f"standard deviation over seeds ({plus_minus_sign(style)})"
        rule = f"accuracy in %, {self.counts} test pass of each run, mean and {spread}"
        title = f"{self.suite}, {self.track}: {rule}{self._said_of_beside()}{self._incomplete(style)}"
        if style == "text" and width is not None:
            title = textwrap.fill(title, width, break_on_hyphens=False)
        return f"% {title}\n{text}" if style == "latex" else f"{title}\n\n{text}"

    def _cells(self, style: str) -> tuple[list[str], list[list[str]]]:
        if style == "csv":
            of_networks = (f"{'panel' if name == MEAN else name} {kind}" for name in self.networks for kind in KINDS)
            return ["suite", "track", "counts", "set", "ipc", *of_networks], [self._plain(line) for line in self.lines]
        headers = ["set", "IPC", *self.networks, *self._beside]
        body = []
        for line in self.lines:
            cells = [self._cell(line.columns.get(name), self._best(name, line.ipc), style) for name in self.networks]
            whole = line.columns.get(self.networks[-1])
            cells += [percent(None if whole is None else getattr(whole, kind)) for kind in self._beside]
            body.append([line.name, str(line.ipc), *cells])
        return headers, body

    @property
    def _beside(self) -> tuple[str, ...]:
        """What stands beside the last column's mean: plateau and whichever of best and last does not count.

        Nothing where several networks have no panel mean; CSV and JSON have these numbers of every network.
        """
        one_number = self.networks[-1] == MEAN or len(self.networks) == 1
        return tuple(kind for kind in ("best", "plateau", "last") if kind != self.counts) if one_number else ()

    def _said_of_beside(self) -> str:
        whole = "the mean" if self.networks[-1] == MEAN else self.networks[-1]
        return f"; {' and '.join(self._beside)} are of {whole}" if self._beside else ""

    def _best(self, network: str, ipc: int) -> float | None:
        """The highest mean of a column among sets of one budget; None where there is nothing to compare."""
        means = [line.columns[network].mean for line in self.lines if line.ipc == ipc and network in line.columns]
        return max(means) if len(means) > 1 else None

    def _plain(self, line: Line) -> list[str]:
        values: list[str] = [self.suite, self.track, self.counts, line.name, str(line.ipc)]
        for name in self.networks:
            row = line.columns.get(name)
            if row is None:
                values += [""] * len(KINDS)
                continue
            numbers = (row.mean, row.std, row.best, row.plateau, row.last)
            values += ["" if number is None else f"{100 * number:.4f}" for number in numbers] + [str(row.runs)]
        return values

    def _cell(self, row: Row | None, best: float | None, style: str) -> str:
        if row is None:
            return "-"
        text = plus_minus(row.mean, row.std, style) + ("" if row.runs == row.planned else "*")
        if row.mean != best:
            return text
        return {"markdown": f"**{text}**", "latex": rf"\textbf{{{text}}}"}.get(style, f"> {text}")

    def _incomplete(self, style: str) -> str:
        marked = any(row.runs < row.planned for line in self.lines for row in line.columns.values())
        best = "; > marks the best of a network and IPC" if style == "text" and len(self.lines) > 1 else ""
        return best + ("; * fewer seeds than the suite asks for" if marked else "")

    def json(self) -> dict[str, Any]:
        """For programs: fractions, not percent."""
        lines = [
            {
                "set": line.name,
                "ipc": line.ipc,
                "sha256": line.sha256,
                "networks": {n: vars(row) for n, row in line.columns.items()},
            }
            for line in self.lines
        ]
        return {"suite": self.suite, "track": self.track, "lines": lines}


def compare(records: Sequence[RunRecord], loaded_suite: LoadedSuite) -> list[Comparison]:
    """A table for each track of this suite; sets in the order in which their records come."""
    by_set: dict[str, list[RunRecord]] = {}
    for record in records:
        by_set.setdefault(record.cell.set_sha256, []).append(record)
    table_rows = {sha256: rows(loaded_suite, same) for sha256, same in by_set.items()}
    out = []
    for track, evaluators in loaded_suite.evaluators.items():
        lines = []
        for sha256, same in by_set.items():
            here = [row for row in table_rows[sha256] if row.track == track and (not row.panel or row.name == PANEL)]
            columns = {MEAN if row.panel else row.name: row for row in here}
            if columns:
                lines.append(Line(same[0].synthetic_set.name, same[0].synthetic_set.ipc, sha256, columns))
        seen = {name for line in lines for name in line.columns}
        networks = tuple(name for name in (*(e.name for e in evaluators), MEAN) if name in seen)
        if lines:
            out.append(Comparison(loaded_suite.id, track, loaded_suite.recipes[track].score, networks, tuple(lines)))
    return out
