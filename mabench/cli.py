"""The command line: a thin skin. Every command checks its input first and exits with 2 and one paragraph when it is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import mabench
from mabench.schema import Interrupted, MabenchError

if TYPE_CHECKING:
    from mabench.synthetic import SyntheticSet

F = TypeVar("F", bound=Callable[..., Any])


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
    from mabench import display, synthetic

    display.describe(synthetic_set)
    path = preview or Path(f"{synthetic_set.name}.preview.png")
    synthetic.preview(synthetic_set, path, per_class)
    click.echo(f"\npreview: {path}")


@main.command(epilog="mabench pack res_DC_CIFAR10_ConvNet_10ipc.pt -o dc_ipc10.safetensors")
@set_options
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The .safetensors file to write."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def pack(synthetic_set: SyntheticSet, output: Path, force: bool) -> None:
    """Convert a set to the canonical file: safetensors, pixel space, all metadata in its header."""
    from mabench import display

    if output.suffix != ".safetensors":
        raise MabenchError(f"{output}: the canonical file ends in .safetensors. Use -o {output.with_suffix('.safetensors')}")
    if output.exists() and not force:
        raise MabenchError(f"{output}: exists already. Choose another name, or replace it with --force.")
    synthetic_set.save(output)
    display.describe(synthetic_set)
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
    from mabench import data, display, report, runner, suites
    from mabench import engine as engines
    from mabench.store import Folder

    exam = suites.load(suite_name)
    cells = runner.plan(exam, synthetic_set, track=track, evaluator=evaluator, seeds=_seeds(seeds))
    where = runner.resolve_device(device)
    chosen = engines.choose(engine, where)
    path = out or runner.default_folder(synthetic_set, exam)
    folder = Folder(path, synthetic_set.sha256, exam.id, exam.digest)
    display.describe(synthetic_set)
    click.echo(f"\n{exam.id}: {exam.suite.title}\n{len(cells)} cells on {where}, {chosen} engine, records in {path}\n")
    if dry_run:
        display.show_plan(exam, synthetic_set, cells, folder, device, chosen)
        return
    test = data.load(exam.suite.dataset, "test")
    try:
        records = display.evaluate(exam, synthetic_set, cells, folder, test, device, chosen)
    except Interrupted as error:
        click.echo(f"\nStopped; everything so far is in {path}. The same command goes on from there.", err=True)
        raise SystemExit(130) from error
    lines = report.write(path, exam, records)
    click.echo("\n" + report.table(exam, lines))
    for note in report.notes(exam, lines, records):
        click.echo(f"  {note}")
    click.echo(f"\nwritten to {path}: table.md results.csv results.json curves.png records/")


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise MabenchError(f"--seeds {text}: not numbers. Write them with commas, e.g. --seeds 0,1,2") from error


def run() -> None:
    """Entry point: quiet when the reader of our output goes away."""
    try:
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
