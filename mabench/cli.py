"""The command line: a thin skin. Every command checks its input first and exits with 2 and one paragraph when it is wrong."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import mabench
from mabench.schema import MabenchError

if TYPE_CHECKING:
    from mabench.engine import EngineName
    from mabench.runner import Step
    from mabench.schema import Cell, RunRecord
    from mabench.submissions import Submission
    from mabench.suites import Exam
    from mabench.synthetic import SyntheticSet

F = TypeVar("F", bound=Callable[..., Any])

DAYS_SECONDS = 24 * 3600.0  # a run longer than this is pointed to the lite suite


class Examples(click.Command):
    """A command whose help keeps the example lines as they were written."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write("\nExample:\n")
            for line in self.epilog.splitlines():
                formatter.write(f"  {line.strip()}\n")


class Group(click.Group):
    """The top command: a MabenchError ends any sub-command with its text and exit code 2."""

    command_class = Examples

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MabenchError as error:
            click.echo(f"mabench: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mabench.__version__)
def main() -> None:
    """The benchmark for condensed datasets: a set goes in, a frozen examiner trains every evaluator on it."""


READING = ("dataset", "set_index", "layout", "space", "decode", "ipc")


def path_options(command: F) -> F:
    """SET, and the flags that override what the reader of its file would guess."""
    options = [
        click.argument("set_path", metavar="SET", type=click.Path(path_type=Path)),
        click.option("--dataset", help="The real dataset that the set condenses (default: from the file or its name)."),
        click.option("--set-index", type=int, help="Which set of a file that holds several (default: the last)."),
        click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the image axes."),
        click.option(
            "--space",
            type=click.Choice(["pixel", "normalised", "uint8-range"]),
            help="pixel: 0..1; normalised: by the dataset's mean and std; uint8-range: 0..255.",
        ),
        click.option("--decode", help="none, or grid2 for 2x2 multi-formation, grid3, ..."),
        click.option("--ipc", type=click.IntRange(min=1), help="Stored images per class."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def set_options(command: F) -> F:
    """`path_options`, and the command gets the set that was read."""

    @wraps(command)
    def with_set(set_path: Path, **arguments: Any) -> Any:
        from mabench import adapters

        reading = {k: arguments.pop(k) for k in READING}
        return command(adapters.read(set_path, **reading), **arguments)

    return path_options(with_set)  # type: ignore[return-value]


@main.command("list", epilog="mabench list suites")
@click.argument("what", type=click.Choice(["suites", "evaluators", "datasets", "all"]), default="all")
def list_(what: str) -> None:
    """What there is: suites and what each measures, evaluators, datasets."""
    import textwrap

    from tabulate import tabulate

    from mabench import suites
    from mabench.data import DATASETS
    from mabench.evaluators import EVALUATORS

    if what in ("suites", "all"):
        click.secho("SUITES\n", bold=True)
        for suite_id in suites.released():
            exam = suites.load(suite_id)
            click.secho(f"{suite_id}  {exam.suite.title}", bold=True)
            click.echo(textwrap.indent(textwrap.fill(exam.suite.measures, 100), "  "))
            for track, evaluators in exam.evaluators.items():
                recipe = exam.recipes[track]
                text = f"{track}: {len(evaluators)} evaluators x {len(exam.suite.seeds)} seeds, {recipe.epochs:,} epochs: "
                click.echo(
                    textwrap.fill(
                        text + ", ".join(e.name for e in evaluators), 100, initial_indent="  ", subsequent_indent="    "
                    )
                )
            click.echo()
    if what in ("evaluators", "all"):
        click.secho("EVALUATORS\n", bold=True)
        body = [
            [e.name, e.architecture, e.family, f"{e.input_size} px", f"{e.optimizer} {e.learning_rate:g}"]
            for e in EVALUATORS.values()
        ]
        click.echo(tabulate(body, ["name", "architecture", "family", "input", "rate"]) + "\n")
    if what in ("datasets", "all"):
        click.secho("DATASETS\n", bold=True)
        body = [
            [d.name, f"{d.num_classes:,}", f"{d.image_size} px", f"{d.train_size:,}", f"{d.test_size:,}"]
            for d in DATASETS.values()
        ]
        click.echo(tabulate(body, ["name", "classes", "side", "train", "test"]))


@main.command(epilog="mabench check my_set.pt --dataset cifar10")
@set_options
@click.option(
    "--preview",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the PNG goes (default: SET's name + .preview.png here).",
)
@click.option("--per-class", default=10, show_default=True, type=click.IntRange(1, 100), help="Images per class in the preview.")
def check(synthetic_set: SyntheticSet, preview: Path | None, per_class: int) -> None:
    """Show what is in a set, what was guessed while reading it, and its images as a PNG."""
    from mabench import synthetic

    describe(synthetic_set)
    path = preview or Path(f"{synthetic_set.name}.preview.png")
    synthetic.preview(synthetic_set, path, per_class)
    click.echo(f"\npreview: {path}")


def describe(synthetic_set: SyntheticSet, err: bool = False) -> None:
    """Print a set's facts, then every decision with its reason and the flag that overrides it."""
    summary = synthetic_set.summary()
    images = synthetic_set.images
    channels, height, width = summary.image_shape
    click.secho(f"{summary.name}", bold=True, err=err)
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
    for label, value in facts:
        click.echo(f"  {label:<16} {value}", err=err)
    if synthetic_set.findings:
        click.echo("  read as", err=err)
    for finding in synthetic_set.findings:
        flag = f"  [{finding.flag}]" if finding.flag else ""
        click.echo(f"    {finding.field:<14} {finding.value}: {finding.reason}{flag}", err=err)


@main.command(epilog="mabench pack res_DC_CIFAR10_ConvNet_10ipc.pt -o dc_ipc10.safetensors")
@set_options
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The .safetensors file to write."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def pack(synthetic_set: SyntheticSet, output: Path, force: bool) -> None:
    """Convert a set to the canonical file: safetensors, pixel space, all metadata in its header."""
    if output.suffix != ".safetensors":
        raise MabenchError(f"{output}: the canonical file ends in .safetensors. Use -o {output.with_suffix('.safetensors')}")
    if output.exists() and not force:
        raise MabenchError(f"{output}: exists already. Choose another name, or replace it with --force.")
    synthetic_set.save(output)
    describe(synthetic_set)
    click.echo(f"\nwritten: {output} ({output.stat().st_size:,} bytes)")


@main.command(
    "eval",
    epilog="mabench eval my_set.pt --suite cifar10-agnostic\nmabench eval my_set.pt --suite cifar10-lite --evaluator 'convnet*' --seeds 0",
)
@set_options
@click.option("--suite", "suite_name", required=True, help="A suite of `mabench list`, or a path to your own TOML file.")
@click.option("--track", help="Only this track of the suite.")
@click.option("--evaluator", help="Only evaluators whose name matches this glob, e.g. 'resnet*'.")
@click.option("--seeds", help="Only these of the suite's seeds, e.g. 0,1.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for records and tables (default: results/SET-HASH/SUITE).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="reference (eager float32), fast (bfloat16, compiled, pruned looks), or auto: fast where shown equivalent.",
)
@click.option("--dry-run", is_flag=True, help="Only show the plan: cells, steps, FLOPs and the time they would take here.")
def eval_(
    synthetic_set: SyntheticSet,
    suite_name: str,
    track: str | None,
    evaluator: str | None,
    seeds: str | None,
    out: Path | None,
    device: str,
    engine: str,
    dry_run: bool,
) -> None:
    """Train every evaluator of a suite on SET, from scratch or fine-tuned, and print the table.

    Finished cells are never repeated: after Ctrl-C, a crash or a reboot the same command goes on where it stopped.
    """
    chosen = {"track": track, "evaluator": evaluator, "seeds": seeds}
    sit(synthetic_set, suite_name, **chosen, out=out, device=device, engine=engine, dry_run=dry_run)


@main.command(epilog="mabench demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/demo"),
    show_default=True,
    help="Folder for records and tables.",
)
def demo(out: Path) -> None:
    """Evaluate a bundled set of handwritten digits beside its random baseline: no download, about a minute."""
    from importlib import resources

    from mabench import adapters

    with resources.as_file(resources.files("mabench").joinpath("assets", "digits_kmeans_ipc5.safetensors")) as path:
        synthetic_set = adapters.read(path)
    sit(synthetic_set, "digits-agnostic", out=out, device="cpu")
    click.echo(
        "\nNext: mabench check YOUR_SET, then mabench eval YOUR_SET --suite cifar10-lite  (mabench list shows every suite)"
    )


def sit(
    synthetic_set: SyntheticSet,
    suite_name: str,
    *,
    track: str | None = None,
    evaluator: str | None = None,
    seeds: str | None = None,
    out: Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    dry_run: bool = False,
) -> None:
    """Plan, run and report one evaluation; what `eval` and `demo` share."""
    from mabench import data, report, runner, suites
    from mabench import engine as engines
    from mabench.store import Folder

    exam = suites.load(suite_name)
    cells = runner.plan(exam, synthetic_set, track=track, evaluator=evaluator, seeds=_seeds(seeds))
    where = runner.resolve_device(device)
    chosen = engines.choose(engine, where)
    path = out or runner.default_folder(synthetic_set, exam)
    folder = Folder(path, synthetic_set.sha256, exam.id, exam.digest)
    describe(synthetic_set)
    click.echo(f"\n{exam.id}: {exam.suite.title}\n{len(cells)} cells on {where}, {chosen} engine, records in {path}\n")
    if dry_run:
        show_plan(exam, synthetic_set, cells, folder, device, chosen)
        return
    test = data.load(exam.suite.dataset, "test")
    try:
        records = _run_with_display(exam, synthetic_set, cells, folder, test, device, chosen)
    except _interrupted() as error:
        click.echo(f"\nStopped; everything so far is in {path}. The same command goes on from there.", err=True)
        raise SystemExit(130) from error
    lines = report.write(path, exam, records)
    click.echo("\n" + report.table(exam, lines))
    for note in report.notes(exam, lines, records):
        click.echo(f"  {note}")
    click.echo(f"\nwritten to {path}: table.md results.csv results.json curves.png records/")


def _interrupted() -> type[Exception]:
    from mabench.protocol import Interrupted

    return Interrupted


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise MabenchError(f"--seeds {text}: not numbers. Write them with commas, e.g. --seeds 0,1,2") from error


def _run_with_display(
    exam: Exam, synthetic_set: SyntheticSet, cells: list[Cell], folder: Any, test: Any, device: str, engine: EngineName
) -> list[RunRecord]:
    """Run the cells under one progress bar (terminal) or a line a cell and a minute (log file)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from mabench import report, runner

    console = Console(stderr=True)
    begun = time.monotonic()
    last_line = begun
    resumed: list[str] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%  {task.fields[left]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("starting", total=1.0, left="")

        done_at_start: float | None = None

        def on_step(step: Step) -> None:
            nonlocal last_line, done_at_start
            now = time.monotonic()
            if done_at_start is None:
                done_at_start = step.done
            gained = step.done - done_at_start
            left = duration((now - begun) * (step.total - step.done) / gained) + " left" if gained > 0 else ""
            name = (
                f"{step.index + 1}/{len(cells)} {step.cell.evaluator.name} seed {step.cell.seed} epoch {step.epoch}/{step.epochs}"
            )
            if step.accuracy is not None:
                name += f" {report.percent(step.accuracy)}%"
            progress.update(task, completed=step.done / step.total, description=name, left=left)
            if not console.is_terminal and now - last_line > 60:
                last_line = now
                console.print(f"{name}, {100 * step.done / step.total:.0f}%, {left}", highlight=False, soft_wrap=True)

        def on_record(record: RunRecord, fresh: bool) -> None:
            if not fresh:
                resumed.append(record.cell.name)
                return
            console.print(
                f"{record.cell.evaluator.name} seed {record.cell.seed}: {report.percent(record.score)}% in {duration(record.seconds)}",
                highlight=False,
                soft_wrap=True,
            )

        records = runner.evaluate(
            exam, synthetic_set, cells, folder, test, device=device, engine=engine, on_step=on_step, on_record=on_record
        )
    if resumed:
        click.echo(f"{len(resumed)} of {len(cells)} cells were finished before and not repeated", err=True)
    return records


def show_plan(exam: Exam, synthetic_set: SyntheticSet, cells: list[Cell], folder: Any, device: str, engine: EngineName) -> None:
    """Cells, steps, FLOPs and estimated time per evaluator."""
    from tabulate import tabulate

    from mabench import costs, runner
    from mabench.data import DATASETS

    open_cells = [c for c in cells if folder.finished(c) is None]
    test_images = DATASETS[exam.suite.dataset].test_size
    seconds = costs.estimate(
        open_cells,
        synthetic_set,
        test_images,
        device=runner.resolve_device(device),
        engine=engine,
        on_kind=lambda cell: click.echo(f"measuring {cell.evaluator.name} ...", err=True),
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
    click.echo(tabulate(body, ["track", "evaluator", "cells", "steps each", "FLOPs", "time here"], disable_numparse=True))
    done = len(cells) - len(open_cells)
    click.echo(
        f"\n{len(open_cells)} cells to run ({done} finished), about {duration(total)} on this device (from a few seconds of calibration)"
    )
    if total > DAYS_SECONDS:
        click.echo(
            "That is days on this device. A first look in minutes: "
            f"{'--suite cifar10-lite' if exam.suite.dataset == 'cifar10' else '--suite digits-agnostic with a digits set'}; "
            "for the whole exam use a GPU, or run part of it with --track, --evaluator and --seeds."
        )


ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=Path("submissions"), show_default=True,
    help="The folder of submissions.",
)  # fmt: skip
REPO = click.option("--repo", metavar="ORG/NAME", help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT).")
WHO = click.option("--who", help="Who says so in the audit log (with --repo: the account that is logged in).")


@main.command(
    epilog="mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --dry-run\n"
    "mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --repo org/board --create-pr"
)
@path_options
@click.option(
    "--records", "records", required=True, multiple=True, type=click.Path(path_type=Path, file_okay=False),
    help="What mabench eval wrote: the folder of one suite, or of several. May be given more than once.",
)  # fmt: skip
@click.option(
    "--card", "card_path", type=click.Path(path_type=Path), default=Path("card.toml"), show_default=True,
    help="Who made the set and how: see submissions/README.md.",
)  # fmt: skip
@click.option("--interactive", is_flag=True, help="Ask for what the card lacks, and keep the answers in it.")
@click.option("--dry-run", is_flag=True, help="Only run the gates; nothing is written or sent.")
@ROOT
@REPO
@click.option("--create-pr", is_flag=True, help="With --repo: open a pull request instead of writing to it.")
@click.option("--private", is_flag=True, help="With --repo: if the repository has to be made, make it private.")
def submit(
    set_path: Path,
    records: tuple[Path, ...],
    card_path: Path,
    interactive: bool,
    dry_run: bool,
    root: Path,
    repo: str | None,
    create_pr: bool,
    private: bool,
    **reading: Any,
) -> None:
    """Check a set and its records, and write submissions/SLUG, or send it to a dataset repository on the Hub.

    Every gate runs; what is wrong is printed together, each with its cure. Nothing is written before all gates are open.
    """
    from mabench import hub, report, scoring, submissions
    from mabench import submit as gates

    if repo is None and (create_pr or private):
        raise MabenchError("--create-pr and --private say how to use a Hub repository. Name it with --repo ORG/NAME.")
    fields = _ask(card_path, keep=not dry_run) if interactive else None
    case = gates.examine(
        set_path, records, card_path, card_fields=fields, reading=reading, root=None if repo is not None else root
    )
    for gate in case.gates:
        click.secho(f"  {gate.name:<12} {'' if gate.refusals else 'ok  '}{gate.found}", fg="red" if gate.refusals else None)
    if case.refusals:
        closed = sum(bool(gate.refusals) for gate in case.gates)
        raise MabenchError(
            f"{closed} of {len(case.gates)} gates refuse this submission; nothing was written.\n"
            + "\n".join(f"- {text}" for text in case.refusals)
        )
    assert case.card is not None and case.synthetic_set is not None
    for suite, exam in case.exams.items():
        mine = [r for r in case.records if r.cell.suite == suite]
        lines = scoring.rows(exam, mine, report.known_baseline(exam, mine[0].synthetic_set))
        click.echo(f"\n{suite}\n" + report.table(exam, lines))
    for track in case.tracks:
        if not track.complete:
            click.echo(
                f"\nincomplete: {track.suite}, track {track.track}: {len(track.missing)} of {track.planned} cells are missing "
                f"({', '.join(track.missing[:3])}{', ...' if len(track.missing) > 3 else ''}). The row is shown, but not ranked; "
                f"mabench eval --suite {track.suite} --track {track.track} runs the rest."
            )
    if dry_run:
        click.echo(f"\nall gates are open; without --dry-run this becomes {repo or root / case.slug}")
    elif repo is None:
        changed = gates.changes(case, submissions.read(root / case.slug), who=gates.submitter(case.card))
        submissions.write(root / case.slug, changed)
        click.echo(
            f"\nwritten: {root / case.slug} ({len(changed)} files)" if changed else f"\n{root / case.slug}: nothing to add"
        )
    else:
        who = hub.whoami(repo)
        _sent(
            hub.push(
                repo,
                case.slug,
                lambda existing: gates.changes(case, existing, who=who),
                message=f"submission: {case.slug}",
                description=f"{hub.shown(case.card.title)}: {len(case.records)} cells of {', '.join(case.exams)}; all gates of mabench submit passed.",
                create_pr=create_pr,
                private=private,
            )
        )


def _ask(path: Path, keep: bool) -> dict[str, Any]:
    """The card's fields, asked for where it lacks them; kept in the file."""
    from mabench import files, submissions

    fields = submissions.card_fields(path) if path.exists() else {}
    questions = {
        "title": "Title (one line, as the table shows it)", "authors": "Authors (with commas)",
        "licence": "Licence of the set, e.g. CC-BY-4.0", "method": "Name of the method", "paper": "Address of the paper",
        "code": "Address of the code", "command": "The command that made the set",
        "source_networks": "Networks that it was made with, e.g. convnet3 (with commas)",
    }  # fmt: skip
    for name, question in questions.items():
        if not fields.get(name):
            answer = click.prompt(
                question, default="" if name not in ("title", "authors", "licence") else None, show_default=False
            )
            several = name in ("authors", "source_networks")
            value = [part.strip() for part in answer.split(",") if part.strip()] if several else answer.strip()
            fields |= {name: value} if value else {}
    card = submissions.make_card(fields, path)
    if keep:
        files.write_text(path, submissions.card_toml(card))
    return fields


def _sent(pushed: Any) -> None:
    for problem in pushed.problems:
        click.echo(f"left out of the table: {problem}", err=True)
    if pushed.changed:
        click.echo(f"\nsent: {len(pushed.changed)} files, {pushed.url}")
    else:
        click.echo(f"\nnothing to send, everything is there: {pushed.url}")


@main.command(epilog="mabench pull kmeans-ipc10 --repo org/board")
@click.argument("slug")
@click.option(
    "--repo", metavar="ORG/NAME", required=True, help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT)."
)
@click.option("--revision", help="A branch, tag, commit or refs/pr/N (default: the newest).")
@ROOT
def pull(slug: str, repo: str, revision: str | None, root: Path) -> None:
    """Fetch a submission's set, card, records and log, and check them against their sha256."""
    from mabench import hub

    path, submission = hub.pull(repo, slug, root, revision=revision)
    from mabench import synthetic
    from mabench.submissions import SET

    describe(synthetic.load(path / SET))
    click.echo(f"\n{submission.card.title}: {len(submission.records)} records, tier {submission.tier}, in {path}")


@main.command(epilog="mabench verify kmeans-ipc10 --cells 3 --seed 1 --who 'A. Reader'")
@click.argument("slug")
@click.option("--cells", default=3, show_default=True, type=click.IntRange(min=1), help="How many cells to re-run.")
@click.option("--seed", default=0, show_default=True, help="Which cells: the draw's seed, so that others can repeat it.")
@ROOT
@REPO
@WHO
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the new records here (default: results/verify/SLUG-SEED, removed at the end).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
def verify(
    slug: str, cells: int, seed: int, root: Path, repo: str | None, who: str | None, out: Path | None, device: str
) -> None:
    """Re-run some cells of a submission, compare, and append the outcome to its audit log.

    A cell agrees within one point plus three standard deviations of the difference of two runs. Exits with 1 if any does not.
    """
    import shutil

    from tabulate import tabulate

    from mabench import hub, report, runner, submissions
    from mabench import verify as reruns

    if repo is None and who is None:
        raise MabenchError("the log says who re-ran the cells. Name yourself with --who.")
    if repo is not None:
        who = hub.whoami(repo)
        hub.pull(repo, slug, root)
    assert who is not None
    submission = _local(slug, root)
    chosen = reruns.sample(submission, cells, seed)
    runner.resolve_device(device)
    engine: EngineName = "fast" if all(r.engine == "fast" for r in chosen) else "reference"
    place = out or Path("results") / "verify" / f"{slug}-{seed}"
    try:
        found = reruns.rerun(
            submission,
            root / slug,
            chosen,
            place,
            lambda exam, data, wanted, folder, test: _run_with_display(exam, data, wanted, folder, test, device, engine),
        )
    except _interrupted() as error:
        click.echo(f"\nStopped; everything so far is in {place}. The same command goes on from there.", err=True)
        raise SystemExit(130) from error
    body = [
        [c.name, report.percent(c.recorded), report.percent(c.again), report.percent(c.difference, signed=True),
         report.percent(c.tolerance), "identical" if c.identical else "agrees" if c.agrees else "DIFFERS"]
        for c in found
    ]  # fmt: skip
    click.echo(tabulate(body, ["cell", "recorded %", "again %", "difference", "tolerance", ""], disable_numparse=True))
    entry = reruns.entry(submission, found, who=who, seed=seed)
    if repo is None:
        submissions.write(root / slug, submissions.with_entry(submission, entry))
    else:
        _sent(
            hub.push(
                repo,
                slug,
                lambda existing: submissions.with_entry(
                    _there(existing, slug, repo), reruns.entry(_there(existing, slug, repo), found, who=who, seed=seed)
                ),
                message=f"re-run: {slug}",
            )
        )
        hub.pull(repo, slug, root)
    if out is None:
        shutil.rmtree(place, ignore_errors=True)  # the next re-run of these cells shall be one
    click.echo(f"\n{entry.why}\ntier: {submission.tier} -> {entry.tier}, in {root / slug / submissions.AUDIT}")
    if entry.contradicted:
        raise SystemExit(1)


def _local(slug: str, root: Path) -> Submission:
    from mabench import submissions

    found = submissions.read(root / submissions.check_slug(slug))
    if found is None:
        known = [s.slug for s in submissions.read_all(root)]
        raise MabenchError(
            f"{root / slug}: no submission. Here are: {', '.join(known) or 'none'}. Get it with: mabench pull {slug} --repo ORG/NAME"
        )
    return found


def _there(existing: Submission | None, slug: str, repo: str) -> Submission:
    if existing is None:
        raise MabenchError(f"{repo}: has no submission {slug} (any more).")
    return existing


@main.command(
    epilog="mabench audit kmeans-ipc10\nmabench audit kmeans-ipc10 --tier withdrawn --why 'a bug in the crop' --who 'A. Author'"
)
@click.argument("slug")
@click.option("--tier", type=click.Choice(["challenged", "superseded", "withdrawn"]), help="Append this tier to the log.")
@click.option("--why", help="The reason, one line.")
@ROOT
@REPO
@WHO
def audit(slug: str, tier: Any, why: str | None, root: Path, repo: str | None, who: str | None) -> None:
    """Show a submission's audit log; with --tier and --why, append to it. The log is never shortened or changed."""
    from mabench import hub, submissions

    if (tier is None) != (why is None):
        raise MabenchError("--tier and --why go together: the log says what and why.")
    if repo is not None:
        hub.pull(repo, slug, root)
    submission = _local(slug, root)
    if tier is not None and why is not None:
        from mabench import verify as reruns

        name = hub.whoami(repo) if repo is not None else who
        if name is None:
            raise MabenchError("the log says who decided. Name yourself with --who.")
        if repo is not None:
            _sent(
                hub.push(
                    repo,
                    slug,
                    lambda existing: submissions.with_entry(
                        _there(existing, slug, repo), reruns.decision(_there(existing, slug, repo), tier, who=name, why=why)
                    ),
                    message=f"{tier}: {slug}",
                )
            )
            hub.pull(repo, slug, root)
        else:
            submissions.write(
                root / slug, submissions.with_entry(submission, reruns.decision(submission, tier, who=name, why=why))
            )
        submission = _local(slug, root)
    for entry in submission.audit:
        click.echo(f"{entry.when}  {entry.tier:<12} {entry.who}: {entry.action}, {entry.why}")


@main.command(epilog="mabench refresh --repo org/board")
@click.option(
    "--repo", metavar="ORG/NAME", required=True, help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT)."
)
def refresh(repo: str) -> None:
    """Bring a Hub repository's table and card up to date with its submissions, after pull requests were merged."""
    from mabench import hub

    _sent(hub.refresh(repo))


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


def run() -> None:
    """Entry point: quiet when the reader of our output goes away."""
    try:
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
