"""The command line: a thin skin. Every command checks its input first and exits with 2 and one paragraph when it is wrong."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import mabench
from mabench.cli import console as display
from mabench.cli import leaderboard as cli_board
from mabench.cli.options import Examples, launcher_options, set_options, stopped
from mabench.errors import Interrupted, MabenchError, printable

if TYPE_CHECKING:
    from mabench.engine import Wanted
    from mabench.runs.ray_cluster import Ray
    from mabench.sets.synthetic import SyntheticSet
    from mabench.suites import Exam
    from mabench_methods import Method, Preset


class Group(click.Group):
    """The top command: a MabenchError ends any sub-command with its text and exit code 2.

    Names of files reach a terminal here, and only as text: a MabenchError sees to its own, click's messages are seen to below.
    """

    command_class = Examples

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MabenchError as error:
            display.say(f"mabench: {error}", err=True)
            ctx.exit(2)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]  # declared final, shown later
            raise


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mabench.__version__)
def main() -> None:
    """The benchmark for condensed datasets: a set goes in, a frozen examiner trains every evaluator on it."""


for command in cli_board.COMMANDS:
    main.add_command(command)


@main.command("list", epilog="mabench list suites")
@click.argument("what", type=click.Choice(["suites", "evaluators", "datasets", "methods", "all"]), default="all")
def list_(what: str) -> None:
    """What there is: suites and what each measures, evaluators, datasets, methods and their presets."""
    import textwrap

    from tabulate import tabulate

    from mabench import suites
    from mabench.data import DATASETS
    from mabench.networks.evaluators import EVALUATORS

    if what in ("suites", "all"):
        display.say("SUITES\n", bold=True)
        for suite_id in suites.released():
            exam = suites.load(suite_id)
            display.say(f"{suite_id}  {exam.suite.title}", bold=True)
            display.say(textwrap.indent(textwrap.fill(exam.suite.measures, 100), "  "))
            for track, evaluators in exam.evaluators.items():
                recipe = exam.recipes[track]
                text = f"{track}: {len(evaluators)} evaluators x {len(exam.suite.seeds)} seeds, {recipe.epochs:,} epochs: "
                display.say(
                    textwrap.fill(
                        text + ", ".join(e.name for e in evaluators), 100, initial_indent="  ", subsequent_indent="    "
                    )
                )
            display.say()
    if what in ("evaluators", "all"):
        display.say("EVALUATORS\n", bold=True)
        body = [
            [e.name, e.architecture, e.family, f"{e.input_size} px", f"{e.optimizer} {e.learning_rate:g}"]
            for e in EVALUATORS.values()
        ]
        display.say(tabulate(body, ["name", "architecture", "family", "input", "rate"]) + "\n")
    if what in ("methods", "all"):
        import mabench_methods

        display.say("METHODS (mabench reproduce NAME)\n", bold=True)
        for method in mabench_methods.METHODS:
            lines = _presets_by_dataset(method) if what == "methods" else [""]
            display.say(f"{method:<13}" + f"\n{'':<13}".join(lines))
        display.say()
    if what in ("datasets", "all"):
        display.say("DATASETS\n", bold=True)
        body = [
            [
                d.name,
                f"{d.num_classes:,}",
                f"{d.image_size} px",
                f"{d.train_size:,}" if d.train_size else "not printed",
                f"{d.test_size:,}",
            ]
            for d in DATASETS.values()
        ]
        display.say(tabulate(body, ["name", "classes", "side", "train", "test"]))


def _presets_by_dataset(method: str) -> list[str]:
    """The presets of a method, those of one dataset together. Presets are code, which imports torch: only when asked for."""
    import mabench_methods

    names: dict[str, list[str]] = {}
    for name, preset in mabench_methods.presets(method).items():
        names.setdefault(preset.dataset if preset.dataset != "digits" else "cifar10", []).append(name)
    return [", ".join(own) for own in names.values()]


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
    from mabench.sets import synthetic

    display.describe(synthetic_set)
    path = preview or Path(f"{synthetic_set.file_stem}.preview.png")
    synthetic.preview(synthetic_set, path, per_class)
    display.say(f"\npreview: {path}")


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
    display.describe(synthetic_set)
    display.say(f"\nwritten: {output} ({output.stat().st_size:,} bytes)")


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
    help="reference (eager float32), fast (compiled, bfloat16 or Winograd, pruned looks), or auto: fast where it was shown to be the same exam, so far ConvNet-3 on a GPU, else reference (PROTOCOL.md, rule 17).",
)
@launcher_options
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
    launcher: Ray | None,
    dry_run: bool,
) -> None:
    """Train every evaluator of a suite on SET, from scratch or fine-tuned, and print the table.

    Finished cells are never repeated: after Ctrl-C, a crash or a reboot the same command goes on where it stopped.
    """
    chosen = {"track": track, "evaluator": evaluator, "seeds": seeds}
    sit(synthetic_set, suite_name, **chosen, out=out, device=device, engine=engine, launcher=launcher, dry_run=dry_run)


@main.command(
    "reproduce",
    epilog="mabench reproduce dc --ipc 1 --dry-run\n"
    "mabench reproduce model-pool --ipc 10 --from-set modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt --suite cifar10-modelpool\n"
    "mabench reproduce random --preset smoke",
)
@click.argument("method")
@click.option("--preset", help="A configuration of the method (default: its first; `mabench list methods` shows all).")
@click.option("--ipc", type=click.IntRange(min=1), help="Stored images per class: the first preset with this budget.")
@click.option("--config", "changes", multiple=True, metavar="KEY=VALUE", help="Change one field of the preset; repeatable.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the condensation.")
@click.option(
    "--sets",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Condense this many sets (seeds SEED, SEED+1, ...) and examine each with one of the suite's seeds.",
)
@click.option("--from-set", type=click.Path(path_type=Path), help="Examine this file instead of condensing.")
@click.option("--set-index", type=int, help="Which set of a --from-set file that holds several (default: the last).")
@click.option("--suite", "suite_names", multiple=True, help="Only this suite (default: the paper's and the headline exam).")
@click.option("--evaluator", help="Only evaluators whose name matches this glob.")
@click.option("--seeds", help="Only these of the suite's seeds, e.g. 0,1.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for everything (default: results/reproduce/METHOD-PRESET-HASH)."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
@click.option(
    "--engine", default="auto", show_default=True, help="Of the examination: auto, reference or fast, as in `mabench eval`."
)
@launcher_options
@click.option("--dry-run", is_flag=True, help="Only show what it would cost here.")
def reproduce_(
    method: str,
    preset: str | None,
    ipc: int | None,
    changes: tuple[str, ...],
    seed: int,
    sets: int,
    from_set: Path | None,
    set_index: int | None,
    suite_names: tuple[str, ...],
    evaluator: str | None,
    seeds: str | None,
    out: Path | None,
    device: str,
    engine: str,
    launcher: Ray | None,
    dry_run: bool,
) -> None:
    """Condense with METHOD, examine the set, and put the result beside the paper's table.

    Every stage resumes: after Ctrl-C or a crash the same command goes on. Exit code 1 when a number lies outside the combined
    spread of the paper's and ours.
    """
    import mabench_methods
    from mabench import data, suites
    from mabench import engine as engines
    from mabench.digests import digest
    from mabench.papers import presets, reproduce
    from mabench.results import tables as report
    from mabench.runs import local as runner
    from mabench.runs.folder import Folder

    runnable = mabench_methods.load(method)
    chosen = presets.preset(runnable, preset, ipc, changes)
    where = runner.resolve_device(device)  # of the condensation, which is always made here
    if launcher is not None:
        launcher.check(device)
    engine_name = engines.wanted(engine)
    if from_set is not None and sets > 1:
        raise MabenchError("--sets makes sets and --from-set brings one: leave one of the two out.")
    from mabench.sets import readers as adapters

    given = None if from_set is None else adapters.read(from_set, set_index=set_index)
    if given is not None and (given.dataset, given.ipc) != (chosen.dataset, chosen.config.ipc):
        raise MabenchError(
            f"{from_set}: a set for {given.dataset} with IPC {given.ipc}, but preset '{chosen.name}' is about {chosen.dataset} with "
            f"IPC {chosen.config.ipc}. Name the budget: --ipc {given.ipc}"
        )
    tables = reproduce.fitting_tables(chosen, from_set=given is not None)
    exams = [suites.load(name) for name in reproduce.chosen_suites(chosen, suite_names, tables)]
    if given is None:
        for exam in exams:
            reproduce.check_records(chosen, exam)
    wanted = {exam.id: _seeds_of(exam, _seeds(seeds), sets) for exam in exams}
    for exam in exams:  # a typo shows before hours of condensing
        runner.select(exam, evaluator=evaluator, seeds=wanted[exam.id])
    identity = digest([repr(chosen), seed, sets, None if given is None else given.sha256])
    path = out or Path("results") / "reproduce" / f"{runnable.name}-{chosen.name}-{identity[:8]}"
    display.say(f"{runnable.name}, preset {chosen.name}, IPC {chosen.config.ipc}, {chosen.dataset}; everything in {path}")
    display.say(f"  {chosen.config}\n")
    if dry_run:
        _show_reproduction_cost(runnable, chosen, given, exams, sets, evaluator, wanted, device, engine_name)
        return

    made = [given] if given is not None else []
    if given is None:
        with runner.stop_on_signal() as should_stop:
            try:
                for number in range(seed, seed + sets):
                    place = path / f"set-seed{number}"
                    with display.condensing(runnable.name if sets == 1 else f"{runnable.name} seed {number}") as on_progress:
                        made.append(reproduce.condense(runnable, chosen, number, place, where, on_progress, should_stop, method))
                    display.say(f"condensed: {place / 'set.safetensors'} (preview.png, losses.png and card.toml beside it)")
            except Interrupted as error:
                stopped(path, error)
    lines = []
    for exam in exams:
        own = wanted[exam.id]
        records = []
        test = data.load(exam.suite.dataset, "test")
        display.say(f"\n{exam.id}: {exam.suite.title}")
        for position, one in enumerate(made):
            cells = runner.plan(exam, one, evaluator=evaluator, seeds=own if own is None or sets == 1 else [own[position]])
            where_to = path / exam.id / (f"set{position}" if sets > 1 else "")
            folder = Folder(where_to, one.sha256, exam.id, exam.digest)
            try:
                records += display.evaluate(exam, one, cells, folder, test, device, engine_name, launcher)
            except Interrupted as error:
                stopped(path, error)
        display.say(report.table(exam, report.write(path / exam.id, exam, records)))
        lines += reproduce.compare(tables, exam, records)
    source = (
        f"given as {from_set}" if given is not None else f"made here, seed {seed}" + (f" and on, {sets} sets" if sets > 1 else "")
    )
    due = chosen.comparable and bool(lines)
    reproduce.write(path, chosen, made[0].sha256, lines, source, due)
    display.say(("\n" + reproduce.text(lines) + "\n") if lines else "")
    for note in reproduce.notes(chosen, made[0].sha256, lines, source):
        display.say(f"  {note}")
    display.say(f"\nwritten to {path}: reproduction.md reproduction.json" + (" reproduction.png" if lines else ""))
    if due and reproduce.verdict(lines):
        display.say(f"outside: {', '.join(reproduce.verdict(lines))}", err=True)
        raise SystemExit(1)


def _seeds_of(exam: Exam, asked: list[int] | None, sets: int) -> list[int] | None:
    """The seeds that a reproduction examines with: those asked for (None = all the suite's), or one of them for each of several sets."""
    if sets == 1:
        return asked
    chosen = list(exam.suite.seeds[:sets] if asked is None else asked)
    if len(chosen) != sets:
        raise MabenchError(
            f"{exam.id} has {len(exam.suite.seeds)} seeds and {len(chosen)} are asked for; --sets {sets} wants as many."
        )
    return chosen


def _show_reproduction_cost(
    method: Method,
    chosen: Preset,
    given: SyntheticSet | None,
    exams: list[Exam],
    sets: int,
    evaluator: str | None,
    wanted: dict[str, list[int] | None],
    device: str,
    engine: Wanted,
) -> None:
    """Condensation and examination, estimated from their first steps."""
    from tempfile import TemporaryDirectory

    import mabench_methods
    from mabench.papers import presets, reproduce
    from mabench.runs import local as runner
    from mabench.runs.folder import Folder

    total = 0.0
    stand_in = given
    if stand_in is None:
        display.say(f"condensing: trying the first steps of {chosen.method} ...", err=True)
        each = reproduce.condensation_seconds(method, chosen, runner.resolve_device(device))
        total += each * sets
        display.say(f"condensing: about {display.duration(each)}" + (f" for each of {sets} sets" if sets > 1 else ""))
        packed = bool(getattr(chosen.config, "packed", False))
        random = presets.preset("random", None, None, [f"ipc={chosen.config.ipc}", f"packed={packed}"])
        random = replace(random, dataset=chosen.dataset)
        stand_in = reproduce.condense(
            mabench_methods.load("random"), random, 0, None, runner.resolve_device("cpu"), lambda *_: None, lambda: False
        )
        # nothing is recorded yet; views that are drawn cost what replayed ones do
        exams = [replace(e, recipes={t: r.model_copy(update={"recorded": None}) for t, r in e.recipes.items()}) for e in exams]
    for exam in exams:
        cells = runner.plan(exam, stand_in, evaluator=evaluator, seeds=wanted[exam.id])
        display.say(f"\n{exam.id}")
        with TemporaryDirectory() as empty:
            total += display.show_plan(
                exam, stand_in, cells, Folder(Path(empty), stand_in.sha256, exam.id, exam.digest), device, engine
            )
    display.say(f"\nall together about {display.duration(total)} on this device")


DEMO_CARD = {
    "title": "k-means on digits, IPC 5",
    "authors": ["mabench maintainers"],
    "licence": "CC-BY-4.0",  # of the UCI digits that the images are means of
    "slug": "digits-kmeans",
    "method": "k-means",
}


@main.command(epilog="mabench demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/demo"),
    show_default=True,
    help="Folder for records and tables.",
)
def demo(out: Path) -> None:
    """Evaluate a bundled set of handwritten digits beside its random baseline and show it on a page: no download, about a minute."""
    from importlib import resources

    from mabench.sets import readers as adapters

    with resources.as_file(resources.files("mabench").joinpath("assets", "digits_kmeans_ipc5.safetensors")) as path:
        synthetic_set = adapters.read(path)
        sit(synthetic_set, "digits-agnostic", out=out, device="cpu")
        page = cli_board.trial_board(path, out, DEMO_CARD)
    display.say(f"\nthe page of this run: {page}  (open it in a browser)")
    display.say(
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
    launcher: Ray | None = None,
    dry_run: bool = False,
) -> None:
    """Plan, run and report one evaluation; what `eval` and `demo` share."""
    from mabench import data, suites
    from mabench import engine as engines
    from mabench.results import tables as report
    from mabench.runs import local as runner
    from mabench.runs.folder import Folder

    exam = suites.load(suite_name)
    cells = runner.plan(exam, synthetic_set, track=track, evaluator=evaluator, seeds=_seeds(seeds))
    if launcher is not None:
        launcher.check(device)
    # a cluster's devices are not known from here, and the driver needs none
    where = runner.resolve_device("cpu" if launcher is not None and not dry_run else device)
    chosen = engines.wanted(engine)
    path = out or runner.default_folder(synthetic_set, exam)
    folder = Folder(path, synthetic_set.sha256, exam.id, exam.digest)
    display.describe(synthetic_set)
    display.say(
        f"\n{exam.id}: {exam.suite.title}\n{len(cells)} cells on {where if launcher is None else 'Ray'}, engine {chosen}, records in {path}\n"
    )
    if dry_run:
        display.show_plan(exam, synthetic_set, cells, folder, device, chosen)
        return
    test = data.load(exam.suite.dataset, "test")
    try:
        records = display.evaluate(exam, synthetic_set, cells, folder, test, device, chosen, launcher)
    except Interrupted as error:
        stopped(path, error)
    lines = report.write(path, exam, records)
    display.say("\n" + report.table(exam, lines))
    for note in report.notes(exam, lines, records):
        display.say(f"  {note}")
    display.say(f"\nwritten to {path}: table.md results.csv results.json curves.png records/")


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
