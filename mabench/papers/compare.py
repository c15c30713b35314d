"""Our numbers beside a paper's: the difference, how much chance alone explains, and whether the test could have failed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from mabench.files import pictures
from mabench.papers.matching import Match
from mabench.results.scoring import rows
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPREADS = 2.0  # ours: a difference within two combined standard deviations, were these known exactly, is what chance often makes

BASELINE = "random"  # ours: the method that the others have to be told from


@dataclass(frozen=True)
class Line:
    """One number of the paper beside ours; percent, standard deviations None where one run or the paper gives none."""

    table: str
    suite: str
    evaluator: str
    paper: float
    paper_std: float | None
    paper_runs: int | None
    ours: float
    ours_std: float | None
    ours_runs: int
    differs: str = ""
    """What keeps our set from being the row's; empty where everything agrees. With any difference there is no verdict."""
    baseline: float | None = None
    """Mean of what the method has to be told from, on the same suite; None = not published."""
    baseline_name: str = ""
    is_baseline: bool = False
    """Random real images, which other methods are told from and themselves have no baseline."""

    @property
    def difference(self) -> float:
        """Ours minus the paper's, points."""
        return self.ours - self.paper

    @property
    def spread(self) -> float | None:
        """Combined standard deviation of single runs, points; where one side has none it is assumed to be like the other's."""
        known = [s for s in (self.paper_std, self.ours_std) if s is not None]
        return None if not known else math.sqrt(sum(s * s for s in known) * 2 / len(known))

    @property
    def allowed(self) -> float | None:
        """Largest difference that is inside, points: `SPREADS` combined spreads, widened by Student's t for spreads from few runs.

        Degrees of freedom after Welch and Satterthwaite; a spread from an unstated number of runs is taken as exact.
        """
        if self.spread is None:
            return None
        sides = [(s, n) for s, n in ((self.paper_std, self.paper_runs), (self.ours_std, self.ours_runs)) if s is not None]
        uncertain = sum(s**4 / (n - 1) for s, n in sides if n is not None and n > 1)
        if not uncertain:
            return SPREADS * self.spread
        from scipy.special import ndtr, stdtrit

        freedom = sum(s * s for s, _ in sides) ** 2 / uncertain
        return float(stdtrit(freedom, ndtr(SPREADS))) * self.spread

    @property
    def inside(self) -> bool | None:
        """Whether the difference is one that is allowed; None where no spread is known or the row is about another configuration."""
        return None if self.allowed is None or self.differs else abs(self.difference) <= self.allowed

    @property
    def telling(self) -> bool | None:
        """Whether the test can tell the method from its baseline: the baseline itself would be outside. None = not known."""
        if self.baseline is None or self.allowed is None:
            return None
        return abs(self.baseline - self.paper) > self.allowed

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.differs:
            return "nearest row, no verdict"
        if self.inside is None:
            return "no spread known"
        if not self.inside:
            return "OUTSIDE"
        if self.baseline is None:
            return "inside" if self.is_baseline else "inside; baseline not known"
        about = f"{self.baseline_name} ({self.baseline:.2f})"
        return f"inside; {about} would not be" if self.telling else f"inside, but so would be {about}"

    @property
    def short_verdict(self) -> str:
        """The outcome in a word or two, for a narrow terminal."""
        return "no verdict" if self.inside is None else self.verdict.partition(";")[0].partition(",")[0]


def compare(matches: Sequence[Match], loaded_suite: LoadedSuite, records: Sequence[RunRecord]) -> list[Line]:
    """Return every number of these rows that this suite's records can be held against, in the paper's order."""
    ours = {row.name: row for row in rows(loaded_suite, records) if not row.panel}
    return [
        Line(
            table=match.table.title,
            suite=loaded_suite.id,
            evaluator=evaluator,
            paper=match.table.values[evaluator][0],
            paper_std=match.table.values[evaluator][1],
            paper_runs=match.table.runs,
            ours=100 * ours[evaluator].mean,
            ours_std=None if ours[evaluator].std is None else 100 * (ours[evaluator].std or 0.0),
            ours_runs=ours[evaluator].runs,
            differs=match.differs,
            baseline=match.table.baseline.get(evaluator),
            baseline_name=match.table.baseline_name,
            is_baseline=match.table.method == BASELINE,
        )
        for match in matches
        if match.table.suite in (loaded_suite.suite.name, loaded_suite.id)
        for evaluator in match.evaluators
        if evaluator in ours
    ]


def outside(lines: Sequence[Line]) -> list[str]:
    """Return the names of the numbers that lie outside."""
    return [f"{line.evaluator} ({line.table})" for line in lines if line.inside is False]


def number(mean: float, std: float | None, runs: int | None, sign: str = "±") -> str:
    """Return a mean as tables print it: `30.78 ± 0.34 (10)`."""
    spread = "" if std is None else f" {sign} {std:.2f}"
    return f"{mean:.2f}{spread}" + ("" if runs is None else f" ({runs})")


def markdown(lines: Sequence[Line]) -> str:
    """Return the comparison as one table."""
    headers = ["paper's table", "evaluator", *(f"{whose}: % ± std (runs)" for whose in ("paper", "ours"))]
    headers += ["difference", "allowed", "verdict"]
    body = [[line.table, *_cells(line, "±"), line.verdict] for line in lines]
    return tabulate(body, headers, tablefmt="github", disable_numparse=True, colalign=["left", "left", *["right"] * 4, "left"])


def text(lines: Sequence[Line], width: int | None = None) -> str:
    """Return the comparison as text, a table under the title of each of the paper's.

    What does not fit into `width` is left out: first the reasons of verdicts, then what is allowed.
    """
    titles = list(dict.fromkeys(line.table for line in lines))
    for reasons, allowed in ((True, True), (False, True), (False, False)):
        parts = [_text([line for line in lines if line.table == title], reasons, allowed, width) for title in titles]
        if width is None or max(len(row) for part in parts for row in part.splitlines()) <= width:
            break
    return "\n\n".join(parts)


def _text(lines: Sequence[Line], reasons: bool, allowed: bool, width: int | None) -> str:
    headers = ["evaluator", "paper % (runs)", "ours % (runs)", *(["difference", "allowed"] if allowed else ["diff"]), "verdict"]
    body = []
    for line in lines:
        cells = _cells(line, "+-")[: 5 if allowed else 4]
        body.append([*cells, line.verdict if reasons else line.short_verdict])
    align = ["left", *["right"] * (len(headers) - 2), "left"]
    title = textwrap.fill(lines[0].table, width or 10_000, break_on_hyphens=False)
    return f"{title}\n{tabulate(body, headers, tablefmt='simple', disable_numparse=True, colalign=align)}"


def _cells(line: Line, sign: str) -> list[str]:
    """Evaluator, paper, ours, difference and what is allowed."""
    return [
        line.evaluator,
        number(line.paper, line.paper_std, line.paper_runs, sign),
        number(line.ours, line.ours_std, line.ours_runs, sign),
        f"{line.difference:+.2f}",
        "-" if line.allowed is None or line.differs else f"{line.allowed:.2f}",
    ]


def plot(path: Path, lines: Sequence[Line]) -> None:
    """PNG: the paper's and our mean with their standard deviations, one panel per table. Warns where it could not be written."""
    titles = list(dict.fromkeys(line.table for line in lines))

    def draw(figure: Figure) -> None:
        heights = [sum(line.table == t for line in lines) + 1 for t in titles]
        panels = figure.subplots(len(titles), 1, squeeze=False, sharex=True, height_ratios=heights)
        for axes, title in zip(panels[:, 0], titles, strict=True):
            mine = [line for line in lines if line.table == title]
            for offset, color, marker, label, means, stds in (
                (-0.12, "#0072b2", "o", "paper", [x.paper for x in mine], [x.paper_std for x in mine]),
                (0.12, "#d55e00", "s", "ours", [x.ours for x in mine], [x.ours_std for x in mine]),
            ):
                where = [i + offset for i in range(len(mine))]
                axes.errorbar(means, where, xerr=[s or 0 for s in stds], fmt=marker, color=color, label=label, capsize=3)
            axes.set_yticks(range(len(mine)), [line.evaluator for line in mine])
            axes.set_ylim(len(mine) - 0.5, -0.5)
            axes.set_title(title, fontsize=9)
            axes.grid(alpha=0.3)
        panels[0, 0].legend(fontsize=8)
        panels[-1, 0].set_xlabel("test accuracy, %")

    pictures.write_or_warn(draw, path, size=(7, 1.2 + 0.42 * len(lines) + 0.6 * len(titles)))
