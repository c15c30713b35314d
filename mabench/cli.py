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


def set_options(command: F) -> F:
    """The flags that override what the reader of a set's file would guess."""
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

    @wraps(command)
    def with_set(set_path: Path, **arguments: Any) -> Any:
        from mabench import adapters

        reading = {k: arguments.pop(k) for k in ("dataset", "set_index", "layout", "space", "decode", "ipc")}
        return command(adapters.read(set_path, **reading), **arguments)

    return with_set  # type: ignore[return-value]


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


@main.group()
def leaderboard() -> None:
    """The board: submissions become one static page that works from a file, with Markdown, CSV, JSON and parquet."""


@leaderboard.command("build", epilog="mabench leaderboard build --submissions submissions --out results/board")
@click.option(
    "--submissions",
    type=click.Path(path_type=Path),
    default=Path("submissions"),
    show_default=True,
    help="A folder a submission: card.toml, set.safetensors, records/, audit.jsonl.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("leaderboard"), show_default=True, help="Where the page goes."
)
@click.option(
    "--methods",
    type=click.Path(path_type=Path),
    help="Folder whose */paper.toml hold papers' numbers (default: methods/, where it exists).",
)
@click.option("--open", "open_", is_flag=True, help="Open the page in a browser.")
def leaderboard_build(submissions: Path, out: Path, methods: Path | None, open_: bool) -> None:
    """Make the page from records. Same records, same bytes; what an earlier build left is replaced, other files are kept."""
    from mabench import leaderboard as board

    if methods is None and Path("methods").is_dir():
        methods = Path("methods")
    rows = board.build(submissions, out, methods)
    ranked = sum(row.rank is not None for row in rows)
    click.echo(f"{len(rows)} rows, {ranked} ranked: {out / 'index.html'}")
    click.echo(
        f"also there: {', '.join(f'leaderboard.{kind}' for kind in ('md', 'csv', 'json', 'parquet'))}, cells.csv, cells.parquet"
    )
    if open_:
        click.launch((out / "index.html").resolve().as_uri())


@leaderboard.command("serve", epilog="mabench leaderboard serve results/board --port 8000")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("leaderboard"))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 chooses a free one.")
def leaderboard_serve(folder: Path, port: int) -> None:
    """Serve a built page on this machine only, until Ctrl-C. A browser can also open its index.html as a file."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (folder / "index.html").exists():
        raise MabenchError(f"{folder}: holds no index.html. Make it first: mabench leaderboard build --out {folder}")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    except OSError as error:
        raise MabenchError(f"port {port}: {error.strerror}. Choose another with --port, or 0 for any free one.") from error
    with server:
        click.echo(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("")


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
