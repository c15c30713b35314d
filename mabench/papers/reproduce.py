"""Condense, examine, compare with the paper: what lies behind `mabench reproduce`, without its screen."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tabulate import tabulate

from mabench import suites
from mabench.errors import Interrupted, MabenchError
from mabench.files import atomic_write, write_text
from mabench.papers import paper_tables as papers
from mabench.papers.paper_tables import PaperTable
from mabench.papers.presets import command
from mabench.results.scoring import rows
from mabench.schema import RunRecord
from mabench.sets import recorded
from mabench.suites import Exam
from mabench_methods import Method, Preset

if TYPE_CHECKING:
    import torch

    from mabench.sets.synthetic import SyntheticSet

SPREADS = 2.0  # ours: a difference within two combined standard deviations, were these known exactly, is what chance often makes
PROBE_STEPS, PROBE_SECONDS = 4, 60.0  # ours: how long a dry run tries a condensation


def fitting_tables(chosen: Preset, *, from_set: bool) -> list[PaperTable]:
    """The paper's tables about this method, dataset and budget; of a given set, those about what was published."""
    return [
        table
        for table in papers.tables(chosen.method)
        if (table.dataset, table.ipc) == (chosen.dataset, chosen.config.ipc)
        and (table.published if from_set else all(_at(chosen.config, k) == v for k, v in table.config.items()))
    ]


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def condense(
    method: Method,
    chosen: Preset,
    seed: int,
    folder: Path | None,
    device: torch.device,
    on_progress: Callable[[int, int, Mapping[str, float]], None],
    should_stop: Callable[[], bool],
    named: str = "",
) -> SyntheticSet:
    """The set that this configuration and seed make; resumes in `folder`. `named`: the method on the command line, where it is a file. Raises
    Interrupted once `should_stop()` returns True."""
    from mabench import data
    from mabench_methods.kit import Run

    train = data.load(chosen.dataset, "train")
    run = Run(folder, on_progress, should_stop, command(chosen, seed, named))
    made = method.condense(train, chosen.config, seed, device, run)
    if folder is not None and recorded.files(folder / recorded.FOLDER):
        made = dataclasses.replace(made, labels_folder=folder / recorded.FOLDER)
    return made


def condensation_seconds(method: Method, chosen: Preset, device: torch.device) -> float:
    """Estimate of what one condensation takes here, from its first steps, compilation included.

    A configuration with a first training (`pretraining` batches) is tried twice: its other steps cost something else.
    """
    early = getattr(chosen.config, "pretraining", 0)
    if early <= PROBE_STEPS:
        return _tried(method, chosen, device)[0]
    config: Any = chosen.config
    shorter = dataclasses.replace(chosen, config=dataclasses.replace(config, pretraining=1))
    return _tried(method, chosen, device)[1] * (early - 1) + _tried(method, shorter, device, skip=1)[0]


def _tried(method: Method, chosen: Preset, device: torch.device, skip: int = 0) -> tuple[float, float]:
    """Estimated seconds of one condensation and of one later step, from its first steps, `skip` of which are of another kind."""
    begun = time.monotonic()
    seen: list[tuple[float, int, int]] = []

    def on_progress(done: int, total: int, losses: Mapping[str, float]) -> None:
        seen.append((time.monotonic() - begun, done, total))

    try:
        condense(
            method,
            chosen,
            0,
            None,
            device,
            on_progress,
            lambda: len(seen) >= PROBE_STEPS + skip or (len(seen) > 2 * skip and seen[-1][0] > PROBE_SECONDS),
        )
    except Interrupted:
        pass
    spent = time.monotonic() - begun
    if not seen or seen[-1][1] >= seen[-1][2]:
        return spent, spent
    (first, done_first, total), (last, done_last, _) = seen[min(skip, len(seen) - 1)], seen[-1]
    each = (last - first) / (done_last - done_first) if done_last > done_first else first / done_first
    return first + each * (total - done_first), each


# -- comparison ----------------------------------------------------------------------------------------------------------


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

    @property
    def difference(self) -> float:
        """Ours minus the paper's, points."""
        return self.ours - self.paper

    @property
    def spread(self) -> float | None:
        """Combined standard deviation of single runs, points; where one side has none it is taken to be like the other's."""
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
        """Whether the difference is one that is allowed; None where no spread is known."""
        return None if self.allowed is None else abs(self.difference) <= self.allowed


def compare(tables: Sequence[PaperTable], exam: Exam, records: Sequence[RunRecord]) -> list[Line]:
    """Every number of these tables that this exam's records can be held against, in the paper's order."""
    ours = {row.name: row for row in rows(exam, records) if not row.panel}
    return [
        Line(
            table=table.title,
            suite=exam.id,
            evaluator=evaluator,
            paper=mean,
            paper_std=std,
            paper_runs=table.runs,
            ours=100 * ours[evaluator].mean,
            ours_std=None if ours[evaluator].std is None else 100 * (ours[evaluator].std or 0.0),
            ours_runs=ours[evaluator].runs,
        )
        for table in tables
        if table.suite in (exam.suite.name, exam.id)
        for evaluator, (mean, std) in table.values.items()
        if evaluator in ours
    ]


def verdict(lines: Sequence[Line]) -> list[str]:
    """Names of the numbers that lie outside."""
    return [f"{line.evaluator} ({line.table})" for line in lines if line.inside is False]


def text(lines: Sequence[Line], style: str = "simple") -> str:
    """The comparison as a table; `style` is a tabulate format."""

    def number(mean: float, std: float | None, runs: int | None) -> str:
        spread = "" if std is None else f" ± {std:.2f}"
        return f"{mean:.2f}{spread}" + ("" if runs is None else f" ({runs})")

    words = {True: "inside", False: "OUTSIDE", None: "no spread known"}
    body = [
        [
            line.table,
            line.evaluator,
            number(line.paper, line.paper_std, line.paper_runs),
            number(line.ours, line.ours_std, line.ours_runs),
            f"{line.difference:+.2f}",
            "-" if line.allowed is None else f"{line.allowed:.2f}",
            words[line.inside],
        ]
        for line in lines
    ]
    headers = [
        "paper's table",
        "evaluator",
        "paper % (runs)",
        "paper's protocol, ours % (runs)",
        "difference",
        "allowed",
        "verdict",
    ]
    return tabulate(body, headers, tablefmt=style, disable_numparse=True, colalign=["left", "left"] + ["right"] * 4 + ["left"])


def notes(chosen: Preset, set_sha256: str, lines: Sequence[Line], source: str) -> list[str]:
    """What a reader has to know to trust the comparison."""
    out = [
        f"images: {source} (sha256 {set_sha256[:16]})",
        f"allowed: {SPREADS:g} combined standard deviations of single runs, more where they come from few runs (Student's t); "
        "a side that gives none is taken to vary like the other",
    ]
    if not chosen.comparable:
        out.append(f"preset '{chosen.name}' is smaller than the paper's: no verdict is due")
    if any(line.ours_runs < (line.paper_runs or 0) for line in lines):
        out.append("fewer runs than the paper's for some evaluators, see the numbers in brackets")
    if not lines:
        out.append("the paper reports nothing for this method, budget and suite that could be compared")
    return out


def write(folder: Path, chosen: Preset, set_sha256: str, lines: Sequence[Line], source: str, settled: bool) -> None:
    """Write reproduction.md, reproduction.json and reproduction.png."""
    explained = notes(chosen, set_sha256, lines, source)
    title = f"# {chosen.method}, preset {chosen.name}, IPC {chosen.config.ipc}"
    parts = [title, "", text(lines, "github") if lines else "", "", *(f"- {note}" for note in explained)]
    write_text(folder / "reproduction.md", "\n".join(parts) + "\n")
    value = {
        "method": chosen.method,
        "preset": chosen.name,
        "config": dataclasses.asdict(cast(Any, chosen.config)),
        "set_sha256": set_sha256,
        "source": source,
        "verdict_is_due": settled,
        "outside": verdict(lines),
        "lines": [
            dataclasses.asdict(line)
            | {"difference": line.difference, "spread": line.spread, "allowed": line.allowed, "inside": line.inside}
            for line in lines
        ],
    }
    write_text(folder / "reproduction.json", json.dumps(value, indent=1) + "\n")
    if lines:
        plot(folder / "reproduction.png", lines)


def plot(path: Path, lines: Sequence[Line]) -> None:
    """PNG: the paper's and our mean with their standard deviations, one panel per table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = list(dict.fromkeys(line.table for line in lines))
    figure = Figure(figsize=(7, 1.2 + 0.42 * len(lines) + 0.6 * len(titles)), layout="constrained")
    FigureCanvasAgg(figure)
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
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})


def chosen_suites(chosen: Preset, named: Sequence[str], tables: Sequence[PaperTable]) -> list[str]:
    """Suites to run: those named, else the paper's for this budget, where the preset records what they replay, and the dataset's
    headline exam, where it has one. A small preset sits the dataset's small exam alone: it is made where the others take years."""
    if named:
        return list(named)
    released = {i.partition("@")[0] for i in suites.released()}
    small, headline = f"{chosen.dataset}-lite", f"{chosen.dataset}-agnostic"
    if not chosen.comparable and small in released:
        return [small]
    papers_own = (t.suite for t in tables if _records_for(chosen, t.suite))
    return list(dict.fromkeys([*papers_own, *({headline} & released)]))


def check_records(chosen: Preset, exam: Exam) -> None:
    """Raise MabenchError where this exam replays labels that the preset does not record: said before hours of condensing."""
    for recipe in exam.recipes.values():
        if recipe.recorded is not None:
            epochs, batch = getattr(chosen.config, "record_epochs", 0), getattr(chosen.config, "record_batch", recipe.batch_size)
            recorded.check(recipe, exam.id, epochs=epochs, batch=batch, where=f"preset '{chosen.name}' of {chosen.method}")


def _records_for(chosen: Preset, suite: str) -> bool:
    try:
        check_records(chosen, suites.load(suite))
    except MabenchError:
        return False
    return True
