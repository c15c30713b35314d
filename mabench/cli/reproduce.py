"""Condense with a method, evaluate the set, and put the result beside the paper's table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console
from mabench.cli.options import (
    FROM_SET,
    Command,
    Ended,
    device_option,
    engine_option,
    from_set_options,
    launcher_options,
    names,
    out_option,
    part_options,
    stopped,
)
from mabench.errors import Interrupted

if TYPE_CHECKING:
    from mabench.papers.report import Report
    from mabench.papers.reproduce import Reproduction, ReproductionEvent


@click.command(
    cls=Command,
    short_help="Condense with a method, evaluate, compare with its paper.",
    epilog="mabench reproduce dc --ipc 1 --dry-run\n"
    "mabench reproduce model-pool --ipc 10 --from-set modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt --suite cifar10-modelpool\n"
    "mabench reproduce random --preset smoke",
)
@click.argument("method", shell_complete=lambda *given: names("method", *given))
@click.option("--preset", help="A configuration of the method (default: its first; `mabench show METHOD` lists all).")
@click.option("--ipc", type=click.IntRange(min=1), help="Stored images per class: the first preset with this budget.")
@click.option("--config", "changes", multiple=True, metavar="KEY=VALUE", help="Change one field of the preset; may be repeated.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the condensation.")
@click.option(
    "--sets",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Condense this many sets (seeds SEED, SEED+1, ...) and evaluate each with one of the suite's seeds.",
)
@click.option("--from-set", help="Evaluate this set instead of condensing.")
@from_set_options
@click.option(
    "--suite", "suite_names", multiple=True, help="Only this suite; may be repeated (default: the paper's and the headline)."
)
@part_options
@out_option("results/reproduce/METHOD-PRESET-HASH")
@device_option
@engine_option
@launcher_options
@click.option("--dry-run", is_flag=True, help="Only show what it would cost here.")
def reproduce(method: str, preset: str | None, ipc: int | None, changes: tuple[str, ...], **options: Any) -> Any:
    """Condense with METHOD, evaluate the set, and put the result beside the paper's table.

    Every stage resumes: after Ctrl-C or a crash the same command continues. Exit code 1 when a number is outside the combined
    spread of the paper's and ours.
    """
    from mabench.papers.reproduce import plan
    from mabench.runs.process import stop_on_signal

    reading = {name: value for name in FROM_SET if (value := options.pop(name)) is not None}
    dry_run, suite_names = options.pop("dry_run"), options.pop("suite_names")
    planned = plan(method, preset=preset, ipc=ipc, changes=changes, reading=reading, suites=suite_names, **options)
    found = planned.preset
    console.say(f"{found.method}, preset {found.name}, IPC {found.config.ipc}, {found.dataset}; everything in {planned.folder}")
    console.say(f"  {found.config}\n")
    if dry_run:
        return _show_cost(planned)
    try:
        with stop_on_signal() as should_stop, console.screen() as screen:
            report = planned.run(_Screen(screen, planned), should_stop)
    except Interrupted as error:
        stopped(planned.folder, error)
    return _show(report)


class _Screen:
    """Shows a reproduction: a bar while it condenses, then the screen of an evaluation, and every suite's table."""

    def __init__(self, evaluation: console.Screen, planned: Reproduction) -> None:
        self.evaluation, self.planned = evaluation, planned

    def __call__(self, event: ReproductionEvent) -> None:
        from mabench.papers.reproduce import Condensed, Condensing, Evaluated
        from mabench.results import lifts, tables

        if isinstance(event, Condensing):
            values = ", ".join(f"{key} {value:.4g}" for key, value in event.losses.items())
            name = self.planned.method.name + (f" seed {event.seed}" if self.planned.sets > 1 else "")
            self.evaluation.bar.update(f"{name} {round(event.done, 2)}/{event.total} {values}", event.done, event.total)
        elif isinstance(event, Condensed):
            console.say(f"condensed: {event.folder / 'set.safetensors'} (preview.png and card.toml beside it)")
        elif isinstance(event, Evaluated) and event.records:
            console.say(tables.table(event.loaded_suite, lifts.rows(event.loaded_suite, event.records), width=console.width()))
        elif not isinstance(event, Evaluated):
            self.evaluation(event)


def _show(report: Report) -> Any:
    """The comparison; a number outside ends the command with 1."""
    console.say(("\n" + report.text(console.width()) + "\n") if report.lines else "")
    for note in report.notes():
        console.say(f"  {note}")
    console.say(
        f"\nwritten to {report.folder}: reproduction.md reproduction.json" + (" reproduction.png" if report.lines else "")
    )
    value = {
        "method": report.preset.method,
        "preset": report.preset.name,
        "folder": str(report.folder),
        "sets": list(report.sets),
        "outside": report.outside,
    }
    if report.outside:
        console.say(f"outside: {', '.join(report.outside)}", err=True)
        return Ended(value)
    made = sorted(report.folder.glob("set-seed*"))
    if made:
        console.say(
            f"Next: mabench submit {_quoted(made[0] / 'set.safetensors')} --records {_quoted(report.folder)} --card {_quoted(made[0] / 'card.toml')} --dry-run"
        )
    return value


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _show_cost(planned: Reproduction) -> Any:
    """Condensation and evaluation, estimated from their first steps."""
    from mabench.results.tables import duration

    total = 0.0
    if planned.given is None:
        console.say(f"condensing: trying the first steps of {planned.method.name} ...", err=True)
        total = planned.condensation_seconds()
        each = duration(total / planned.sets)
        console.say(f"condensing: about {each}" + (f" for each of {planned.sets} sets" if planned.sets > 1 else ""))
    for loaded_suite, measured in planned.evaluation_lines():
        console.say(f"\n{loaded_suite.id}")
        console.plan_header()
        lines = []
        for line in measured:
            console.plan_line(line)
            lines.append(line)
        console.plan_total(lines, 0, loaded_suite.suite.dataset)
        total += sum(line.seconds for line in lines)
    console.say(f"\nall together about {duration(total)} on this device")
    return {"method": planned.preset.method, "preset": planned.preset.name, "seconds": total}
