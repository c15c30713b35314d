"""What runs look like on a screen: a set's facts, a plan with its cost, one progress bar, or lines for a log file. Draws only."""

from __future__ import annotations

import shutil
import textwrap
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mabench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    from mabench.evaluation.costs import PlanLine
    from mabench.runs.events import Event, Finished, Planned
    from mabench.sets.synthetic import SyntheticSet

DAYS_SECONDS = 24 * 3600.0  # a run longer than this is pointed to the lite suite
LINE_SECONDS = 60.0  # between two lines of a log file
RECENT_SECONDS, RECENT_SHARE = 30.0, 0.2  # ours: the time left follows the last fifth of a run, at least half a minute
_MUTED = "mabench.muted"
_STARTED = "mabench.started"


@contextmanager
def muted(yes: bool) -> Iterator[None]:
    """Within it, where `yes`, only warnings and errors are printed and no bar is drawn."""
    context = click.get_current_context()
    before = context.meta.get(_MUTED, False)
    context.meta[_MUTED] = yes
    try:
        yield
    finally:
        context.meta[_MUTED] = before


def note_start() -> None:
    """Called as a command begins, before torch is imported."""
    click.get_current_context().meta.setdefault(_STARTED, time.monotonic())


def started() -> float:
    """When the command began: a budget of minutes counts the imports too."""
    return float(click.get_current_context().meta[_STARTED])


def is_muted() -> bool:
    """Whether `--json` or `--quiet` was given."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_MUTED))


def say(text: str = "", *, err: bool = False, **style: Any) -> None:
    """Print a line, styled as `click.secho` does. Whatever names, cards and records hold, the terminal only shows it."""
    if err or not is_muted():
        click.secho(printable(text), err=err, **style)


def paragraph(text: str) -> None:
    """Print text in lines that end between words; a no-break space keeps an option and its value on one line."""
    say(textwrap.fill(text, width(), break_on_hyphens=False, break_long_words=False).replace("\u00a0", " "))


def width() -> int:
    """Columns of the terminal; 120 where the output is a file."""
    return shutil.get_terminal_size((120, 24)).columns


def describe(synthetic_set: SyntheticSet, err: bool = False) -> None:
    """Print a set's facts, then every decision with its reason and the flag that overrides it."""
    say(f"{synthetic_set.name}", bold=True, err=err)
    for label, value in facts(synthetic_set).items():
        say(f"  {label:<16} {value}", err=err)
    if synthetic_set.findings:
        say("  read as", err=err)
    for finding in synthetic_set.findings:
        flag = f"  [{finding.flag}]" if finding.flag else ""
        say(f"    {finding.field:<14} {finding.value}: {finding.reason}{flag}", err=err)


def facts(synthetic_set: SyntheticSet) -> dict[str, str]:
    """What there is to know of a set, by label."""
    from mabench.sets import label_files

    summary, images = synthetic_set.summary(), synthetic_set.images
    channels, height, width = summary.image_shape
    white = "255" if summary.image_dtype == "uint8" else "1.0"
    out = {
        "dataset": f"{summary.dataset}, {synthetic_set.num_classes} classes",
        "images": f"{summary.stored_images} stored ({summary.image_dtype}, {channels} x {height} x {width}), IPC {summary.ipc}",
        "training images": f"{summary.decoded_images} ({'not packed' if summary.decode == 'none' else f'packed as {summary.decode}'})",
        "labels": summary.labels,
        "pixel range": f"{round(float(images.min()), 3) + 0.0:g} to {round(float(images.max()), 3) + 0.0:g} ({white} = white)",
        "bytes": f"{summary.stored_bytes:,}",
        "sha256": summary.sha256,
    }
    if summary.learning_rate is not None:
        out["learned rate"] = f"{summary.learning_rate:.6g}"
    if synthetic_set.labels_folder is not None:
        weight = sum(path.stat().st_size for path in label_files.find(synthetic_set.labels_folder).values())
        out["recorded labels"] = f"{weight:,} bytes in {synthetic_set.labels_folder}, for suites that replay them"
    return out


class Bar:
    """One progress display: a bar with the time left on a terminal, a line a minute in a log file."""

    def __init__(self, console: Console, progress: RichProgress) -> None:
        self.console, self.progress = console, progress
        self.task = progress.add_task("starting", total=1.0, left="")
        self.begun = self.last_line = time.monotonic()
        self.seen: deque[tuple[float, float]] = deque()
        """(time, done) of the updates that the time left is estimated from."""

    def update(self, text: str, done: float, total: float) -> None:
        """`done` of `total`, in any unit that grows with time. Stages differ in speed, so the time left follows the latest."""
        from mabench.results.tables import duration

        now = time.monotonic()
        self.seen.append((now, done))
        while len(self.seen) > 2 and self.seen[1][0] < now - max(RECENT_SECONDS, (now - self.begun) * RECENT_SHARE):
            self.seen.popleft()
        (since, before) = self.seen[0]
        left = duration((now - since) * (total - done) / (done - before)) + " left" if done > before else ""
        self.progress.update(self.task, completed=done / total, description=text, left=left)
        if not self.console.is_terminal and now - self.last_line > LINE_SECONDS:
            self.last_line = now
            self.line(f"{text}, {100 * done / total:.0f}% done, {left}")

    def line(self, text: str) -> None:
        """A line that stays."""
        if not is_muted():
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar() -> Iterator[Bar]:
    """A Bar on standard error that vanishes at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True, quiet=is_muted())
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.percentage:3.0f}% done  {task.fields[left]}"),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal or is_muted(), transient=True) as progress:
        yield Bar(console, progress)


class Screen:
    """Shows the events of an evaluation: the set and the plan first, then one bar, and a line for every finished run."""

    def __init__(self, shown: Bar) -> None:
        self.bar = shown
        self.resumed = 0
        self.runs = 0

    def __call__(self, event: Event) -> None:
        from mabench.results.tables import percent
        from mabench.runs import events

        if isinstance(event, events.Planned):
            self.plan(event)
        elif isinstance(event, events.Progress):
            cell = event.cell
            text = f"{event.index + 1}/{event.cells} {cell.evaluator.name} seed {cell.seed} epoch {event.epoch}/{event.epochs}"
            text += f" {percent(event.accuracy)}%" if event.accuracy is not None else ""
            self.bar.update(text, event.done, event.total)
        elif isinstance(event, events.ClusterProgress):
            nodes = f"{event.nodes} node" + ("s" if event.nodes != 1 else "")
            self.bar.update(
                f"{event.finished}/{event.cells} finished, {event.running} running on {nodes}", event.done, event.total
            )
        elif isinstance(event, events.Finished):
            self.finished(event)
        elif isinstance(event, events.Failed):
            say(f"{event.cell.evaluator.name} seed {event.cell.seed}: {event.reason}. {event.cure}", err=True)
        else:
            say(event.text, err=True) if event.warning else self.bar.line(event.text)

    def plan(self, event: Planned) -> None:
        from mabench.runs.process import resolve_device

        describe(event.synthetic_set)
        where = "Ray" if event.cluster else resolve_device(event.device)
        kept = f"records in {event.folder}" if event.folder is not None else "nothing is kept"
        seeds = ", ".join(map(str, sorted({cell.seed for cell in event.cells})))
        self.runs += len(event.cells)
        say(f"\n{event.loaded_suite.id}: {event.loaded_suite.suite.title}")
        count = f"{len(event.cells)} evaluator run{'s' if len(event.cells) != 1 else ''}"
        say(f"{count}, seed{'s' if ',' in seeds else ''} {seeds}, on {where}, engine {event.engine}, {kept}\n")

    def finished(self, event: Finished) -> None:
        from mabench.results import scoring
        from mabench.results.tables import duration, percent

        record = event.record
        if event.resumed:
            self.resumed += 1
            return
        outcome = f"{percent(scoring.score(record))}%"
        if record.diverged_epoch is not None:
            outcome = f"diverged in epoch {record.diverged_epoch}, counts as chance level ({outcome}),"
        self.bar.line(f"{record.cell.evaluator.name} seed {record.cell.seed}: {outcome} in {duration(record.seconds)}")


@contextmanager
def screen() -> Iterator[Screen]:
    """A listener that shows an evaluation; says at the end what was not repeated."""
    with bar() as shown:
        listener = Screen(shown)
        yield listener
    if listener.resumed and not is_muted():
        say(f"{listener.resumed} of {listener.runs or listener.resumed} runs were finished before and not repeated", err=True)


def plan_line(line: PlanLine) -> None:
    """One evaluator of a plan, as soon as it was measured."""
    from mabench.results.tables import duration

    say(f"{line.track:<11} {line.evaluator:<30} {line.runs:>4} {line.steps:>10,} {line.flops:>9.1e} {duration(line.seconds):>11}")


def plan_header() -> None:
    """The columns of `plan_line`."""
    say(f"{'track':<11} {'evaluator':<30} {'runs':>4} {'steps each':>10} {'FLOPs':>9} {'time here':>11}")
    say("-" * 80)


def plan_total(lines: Sequence[PlanLine], finished: int, dataset: str) -> None:
    """What all of it would take, and what to do where that is days."""
    from mabench import suites
    from mabench.results.tables import duration

    seconds, runs = sum(line.seconds for line in lines), sum(line.runs for line in lines)
    say()
    count = f"{runs} {'run' if runs == 1 else 'runs'} to do ({finished} finished)"
    paragraph(f"{count}, about {duration(seconds)} on this device (from a few seconds of calibration)")
    if seconds > DAYS_SECONDS:
        small = suites.small(dataset)
        first = f" A first number in minutes: --suite\u00a0{small}." if small else ""
        paragraph(
            f"This would take more than a day here.{first} For the whole suite use a GPU, or run part of it "
            "with --track, --evaluator, --seeds, or --minutes."
        )
