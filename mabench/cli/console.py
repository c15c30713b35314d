"""What runs look like on a screen: a set's facts, a plan with its cost, one progress bar, or lines for a log file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mabench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from mabench.data import RealData
    from mabench.engine import Wanted
    from mabench.runs.folder import Folder
    from mabench.runs.local import Step
    from mabench.runs.ray_cluster import Ray, Standing
    from mabench.schema import Cell, RunRecord
    from mabench.sets.synthetic import SyntheticSet
    from mabench.suites import Exam

DAYS_SECONDS = 24 * 3600.0  # a run longer than this is pointed to the lite suite
LINE_SECONDS = 60.0  # between two lines of a log file
RECENT_SECONDS, RECENT_SHARE = 30.0, 0.2  # ours: the time left follows the last fifth of a run, at least half a minute


def say(text: str = "", *, err: bool = False, **style: Any) -> None:
    """Print a line, styled as `click.secho` does. Whatever names, cards and records hold, the terminal only shows it."""
    click.secho(printable(text), err=err, **style)


def describe(synthetic_set: SyntheticSet, err: bool = False) -> None:
    """Print a set's facts, then every decision with its reason and the flag that overrides it."""
    from mabench.sets import recorded

    summary = synthetic_set.summary()
    images = synthetic_set.images
    channels, height, width = summary.image_shape
    say(f"{summary.name}", bold=True, err=err)
    facts = [
        ("dataset", f"{summary.dataset}, {synthetic_set.num_classes} classes"),
        ("images", f"{summary.stored_images} stored ({summary.image_dtype}, {channels} x {height} x {width}), IPC {summary.ipc}"),
        ("training images", f"{summary.decoded_images} after decoding ({summary.decode})"),
        ("labels", summary.labels),
        (
            "pixel range",
            f"{float(images.min()):.3g} to {float(images.max()):.3g} ({'255' if summary.image_dtype == 'uint8' else '1.0'} = white)",
        ),
        ("bytes", f"{summary.stored_bytes:,}"),
        ("sha256", summary.sha256),
    ]
    if summary.learning_rate is not None:
        facts.append(("learned rate", f"{summary.learning_rate:.6g}"))
    if synthetic_set.labels_folder is not None:
        weight = sum(path.stat().st_size for path in recorded.files(synthetic_set.labels_folder).values())
        facts.append(("recorded labels", f"{weight:,} bytes in {synthetic_set.labels_folder}, for suites that replay them"))
    for label, value in facts:
        say(f"  {label:<16} {value}", err=err)
    if synthetic_set.findings:
        say("  read as", err=err)
    for finding in synthetic_set.findings:
        flag = f"  [{finding.flag}]" if finding.flag else ""
        say(f"    {finding.field:<14} {finding.value}: {finding.reason}{flag}", err=err)


class Bar:
    """One progress display: a bar with the time left on a terminal, a line a minute in a log file."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self.console, self.progress = console, progress
        self.task = progress.add_task("starting", total=1.0, left="")
        self.begun = self.last_line = time.monotonic()
        self.seen: deque[tuple[float, float]] = deque()
        """(time, done) of the updates that the time left is estimated from."""

    def update(self, text: str, done: float, total: float) -> None:
        """`done` of `total`, in any unit that grows with time. Stages differ in speed, so the time left follows the latest."""
        now = time.monotonic()
        self.seen.append((now, done))
        while len(self.seen) > 2 and self.seen[1][0] < now - max(RECENT_SECONDS, (now - self.begun) * RECENT_SHARE):
            self.seen.popleft()
        (since, before) = self.seen[0]
        left = duration((now - since) * (total - done) / (done - before)) + " left" if done > before else ""
        self.progress.update(self.task, completed=done / total, description=text, left=left)
        if not self.console.is_terminal and now - self.last_line > LINE_SECONDS:
            self.last_line = now
            self.line(f"{text}, {100 * done / total:.0f}%, {left}")

    def line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar() -> Iterator[Bar]:
    """A Bar on standard error that vanishes at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%  {task.fields[left]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        yield Bar(console, progress)


def evaluate(
    exam: Exam,
    synthetic_set: SyntheticSet,
    cells: Sequence[Cell],
    folder: Folder,
    test: RealData,
    device: str,
    engine: Wanted,
    launcher: Ray | None = None,
) -> list[RunRecord]:
    """Run the cells here, or on the launcher's cluster, under one bar; every finished cell leaves a line."""
    from mabench.results import scoring
    from mabench.results import tables as report
    from mabench.runs import local as runner

    resumed: list[str] = []
    with bar() as shown:

        def on_step(step: Step) -> None:
            text = (
                f"{step.index + 1}/{len(cells)} {step.cell.evaluator.name} seed {step.cell.seed} epoch {step.epoch}/{step.epochs}"
            )
            if step.accuracy is not None:
                text += f" {report.percent(step.accuracy)}%"
            shown.update(text, step.done, step.total)

        def on_record(record: RunRecord, fresh: bool) -> None:
            if not fresh:
                resumed.append(record.cell.name)
                return
            cell, took = record.cell, duration(record.seconds)
            outcome = f"{report.percent(scoring.score(record))}%"
            if record.diverged_epoch is not None:
                outcome = f"diverged in epoch {record.diverged_epoch}, counts as chance level ({outcome}),"
            shown.line(f"{cell.evaluator.name} seed {cell.seed}: {outcome} in {took}")

        def on_standing(now: Standing) -> None:
            nodes = f"{now.nodes} node" + ("s" if now.nodes != 1 else "")
            shown.update(f"{now.finished}/{now.cells} finished, {now.running} running on {nodes}", now.done, now.total)

        if launcher is None:
            records = runner.evaluate(
                exam, synthetic_set, cells, folder, test, device=device, engine=engine, on_step=on_step, on_record=on_record
            )
        else:
            from mabench.runs import ray_cluster as cluster

            records = cluster.evaluate(
                exam,
                synthetic_set,
                cells,
                folder,
                test,
                launcher,
                device=device,
                engine=engine,
                on_standing=on_standing,
                on_record=on_record,
                on_event=shown.line,
            )
    for text in folder.damaged.values():
        say(f"made again: {text}", err=True)
    if resumed:
        say(f"{len(resumed)} of {len(cells)} cells were finished before and not repeated", err=True)
    return records


@contextmanager
def condensing(name: str) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A bar for a condensation: what it yields takes steps done, steps in all, and the losses by name."""
    with bar() as shown:

        def on_progress(done: int, total: int, losses: Mapping[str, float]) -> None:
            values = ", ".join(f"{key} {value:.4g}" for key, value in losses.items())
            shown.update(f"{name} {done}/{total} {values}", done, total)

        yield on_progress


def show_plan(
    exam: Exam, synthetic_set: SyntheticSet, cells: Sequence[Cell], folder: Folder, device: str, engine: Wanted
) -> float:
    """Print cells, steps, FLOPs and estimated time per evaluator; returns the seconds of all."""
    from tabulate import tabulate

    from mabench.data import DATASETS
    from mabench.runs import costs
    from mabench.runs import local as runner

    open_cells = [c for c in cells if folder.finished(c) is None]
    test_images = DATASETS[exam.suite.dataset].test_size
    seconds = costs.estimate(
        open_cells,
        synthetic_set,
        test_images,
        device=runner.resolve_device(device),
        engine=engine,
        on_kind=lambda cell: say(f"measuring {cell.evaluator.name} ...", err=True),
    )
    decoded = synthetic_set.summary().decoded_images
    body, total = [], 0.0
    for track, entries in exam.evaluators.items():
        for entry in entries:
            mine = [c for c in open_cells if (c.track, c.evaluator.name) == (track, entry.name)]
            if not mine:
                continue
            recipe = mine[0].recipe
            steps = recipe.epochs * -(-decoded // recipe.batch_size)
            flops = sum(costs.flops(c, DATASETS[exam.suite.dataset], decoded, test_images) for c in mine)
            time_here = sum(seconds[c.name] for c in mine)
            total += time_here
            body.append([track, entry.name, len(mine), f"{steps:,}", f"{flops:.1e}", duration(time_here)])
    say(tabulate(body, ["track", "evaluator", "cells", "steps each", "FLOPs", "time here"], disable_numparse=True))
    done = len(cells) - len(open_cells)
    say(
        f"\n{len(open_cells)} cells to run ({done} finished), about {duration(total)} on this device (from a few seconds of calibration)"
    )
    if total > DAYS_SECONDS:
        say(
            "That is days on this device. A first look in minutes: "
            f"{'--suite cifar10-lite' if exam.suite.dataset == 'cifar10' else '--suite digits-agnostic with a digits set'}; "
            "for the whole exam use a GPU, or run part of it with --track, --evaluator and --seeds."
        )
    return total


def duration(seconds: float) -> str:
    """3,725 -> '1 h 02 min'."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.1f} days"
