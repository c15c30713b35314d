"""Evaluate a set, the demo, and tables over several evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console
from mabench.cli.options import (
    Command,
    Ended,
    device_option,
    engine_option,
    launcher_options,
    names,
    out_option,
    part_options,
    reading_options,
    shard_of,
    stopped,
)
from mabench.errors import Interrupted

if TYPE_CHECKING:
    from mabench.evaluation import Evaluation, Job
    from mabench.runs.ray_cluster import Ray


@click.command(
    "eval",
    cls=Command,
    short_help="Evaluate a set on a suite: train every evaluator, print the table.",
    epilog="mabench eval my_set.pt --suite cifar10-lite\n"
    "mabench eval my_set.pt --suite cifar10-agnostic --evaluator 'convnet*' --evaluator 'vit*' --seeds 0-1\n"
    "mabench eval my_set.pt --suite cifar10-agnostic --minutes 25",
)
@reading_options
@click.option(
    "--suite",
    shell_complete=lambda *given: names("suite", *given),
    help="A suite of `mabench list`, or a path to your own TOML file (default: the small suite of the set's dataset).",
)
@part_options
@out_option("results/SET-HASH/SUITE")
@device_option
@engine_option
@launcher_options
@click.option("--minutes", type=float, help="Run what fits into this time, cheapest first, and list the rest.")
@click.option("--shard", callback=shard_of, metavar="I/N", help="Run only part I of N, e.g. 2/8 in a job array.")
@click.option("--listener", "listeners", multiple=True, help="Also report to tensorboard or wandb; may be repeated.")
@click.option(
    "--second-test",
    metavar="FOLDER|ORG/NAME",
    help="Folder or Hub dataset with the files of CIFAR-10.1: test on it too, after the last epoch. Name it once.",
)
@click.option("--dry-run", is_flag=True, help="Only show the plan: runs, steps, FLOPs and the time they would take here.")
def eval_(
    set_path: str,
    reading: dict[str, Any],
    suite: str | None,
    tracks: tuple[str, ...],
    evaluators: tuple[str, ...],
    seeds: list[int] | None,
    out: Path | None,
    device: str,
    engine: str,
    launcher: Ray | None,
    minutes: float | None,
    shard: tuple[int, int] | None,
    listeners: tuple[str, ...],
    second_test: str | None,
    dry_run: bool,
) -> Any:
    """Train every evaluator of a suite on SET, from scratch or fine-tuned, and print the table.

    Finished runs are never repeated: after Ctrl-C, a crash or a reboot the same command continues where it stopped.
    """
    from mabench import evaluation
    from mabench.data import second

    job = evaluation.prepare(set_path, None, suite, tracks=tracks, evaluators=evaluators, seeds=seeds, part=shard, **reading)
    if second_test is not None:
        second.install(job.loaded_suite.suite.dataset, second_test)
    path = out or job.default_folder
    if dry_run:
        return show_plan(job, path, device=device, engine=engine)
    how: dict[str, Any] = {
        "device": device,
        "engine": engine,
        "launcher": launcher,
        "minutes": minutes,
        "begun": console.started(),
    }
    return show_result(run_on_screen(job, path, listeners, **how))


def run_on_screen(job: Job, path: Path, listeners: tuple[str, ...] = (), **how: Any) -> Evaluation:
    """Run a job under one bar; a signal ends the command after a checkpoint."""
    from mabench.evaluation.listeners import joined
    from mabench.runs.process import stop_on_signal

    try:
        with stop_on_signal() as should_stop, console.screen() as screen:
            return job.run(path, on_event=joined([screen, *listeners]), should_stop=should_stop, **how)
    except Interrupted as error:
        stopped(path, error)


def show_plan(job: Job, path: Path, *, device: str, engine: str) -> Any:
    """Print a job's cost, an evaluator at a time."""
    from mabench.evaluation.costs import plan_lines

    console.describe(job.synthetic_set)
    console.say(f"\n{job.loaded_suite.id}: {job.loaded_suite.suite.title}\n")
    console.plan_header()
    lines = []
    for line in plan_lines(job, path, device=device, engine=engine):
        console.plan_line(line)
        lines.append(line)
    planned = len(job.here) * (1 if job.hardened is None else 2)
    console.plan_total(lines, planned - sum(line.runs for line in lines), job.loaded_suite.suite.dataset)
    return {"suite": job.loaded_suite.id, "plan": [vars(line) for line in lines]}


def show_result(result: Evaluation, following: bool = True) -> Any:
    """Print the table, what it lacks and, where `following`, what to do next; exit code 1 where a run did not fit into memory."""
    if result.records:
        console.say("\n" + result.table(width=console.width()))
    for note in result.notes():
        console.say(f"  {note}")
    if result.records:
        console.say(f"\nwritten to {result.folder}: table.md table.tex results.csv results.json curves.pdf records/")
        if result.loaded_suite.released and following:
            more = f", or mabench submit SET --records {result.folder} --card card.toml" if result.complete else ""
            console.say(f"Next: mabench table {result.folder} OTHERS --format latex{more}")
    for failed in result.failed:
        console.say(f"missing: {failed.cell.name}: {failed.reason}. {failed.cure}", err=True)
    value = result.json() | {"folder": str(result.folder)}
    return Ended(value) if result.failed else value


@click.command(
    cls=Command,
    short_help="Run a bundled set of digits end to end: no download, about a minute.",
    epilog="mabench demo",
)
@out_option("results/demo")
@device_option
def demo(out: Path | None, device: str) -> Any:
    """Evaluate a bundled set of handwritten digits beside its random baseline and show it on a page: no download, about a minute."""
    from mabench import evaluation
    from mabench.board.trial import trial_page
    from mabench.evaluation.demo import CARD, bundled_set

    path = out or Path("results/demo")
    with bundled_set() as set_path:
        result = run_on_screen(
            evaluation.prepare(set_path, None, "digits-agnostic"), path, device="cpu" if device == "auto" else device
        )
        value = show_result(result, following=False)
        page = trial_page(set_path, path, CARD)
    console.say(f"\nthe page of this run: {page}  (open it in a browser)")
    console.say(
        "\nNext: mabench check YOUR_SET, then mabench eval YOUR_SET --suite cifar10-lite  (mabench list shows every suite)"
    )
    return value


@click.command(
    cls=Command,
    short_help="Put several evaluations into one table: text, Markdown, LaTeX or CSV.",
    epilog="mabench table results/dc-1a2b3c4d results/mine-5e6f7a8b --format latex",
)
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--suite", help="Only this suite (default: every suite in the folders, one table each).")
@click.option("--format", "style", default="text", show_default=True, help="text, markdown, latex or csv.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the table into this file instead.")
def table(results: tuple[Path, ...], suite: str | None, style: str, out: Path | None) -> Any:
    """Print sets as rows and networks as columns: mean and standard deviation over seeds, the best of each column and IPC in bold.

    Plateau and last stand beside the panel mean; CSV has them of every network.
    RESULTS are folders that `mabench eval` wrote, or folders above them.
    """
    from mabench import files
    from mabench.evaluation import folders

    tables = folders.read(results, suite)
    text = "\n\n".join(one.draw(style, console.width() if out is None else None) for one in tables)
    if out is None:
        console.say(text)
    else:
        files.write_text(out, text + "\n")
        console.say(f"written: {out}")
    return [one.json() for one in tables]
