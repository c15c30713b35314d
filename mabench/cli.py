"""The command line: a thin skin. Every command checks its input first and exits with 2 and one paragraph when it is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

import mabench
from mabench import display
from mabench.schema import Interrupted, MabenchError

if TYPE_CHECKING:
    from mabench.engine import EngineName
    from mabench.reproduce import Preset
    from mabench.submissions import Submission
    from mabench.suites import Exam
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
@click.argument("what", type=click.Choice(["suites", "evaluators", "datasets", "methods", "all"]), default="all")
def list_(what: str) -> None:
    """What there is: suites and what each measures, evaluators, datasets, methods and their presets."""
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
    if what in ("methods", "all"):
        import mabench_methods

        click.secho("METHODS (mabench reproduce NAME)\n", bold=True)
        # presets are code, which imports torch: only when asked for
        presets = {
            n: ", ".join(mabench_methods.module(n).PRESETS[n]) if what == "methods" else "" for n in mabench_methods.METHODS
        }
        click.echo("\n".join(f"{name:<12} {names}" for name, names in presets.items()) + "\n")
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
@click.option("--engine", default="auto", show_default=True, help="Of the examination: auto, reference or fast.")
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
    dry_run: bool,
) -> None:
    """Condense with METHOD, examine the set, and put the result beside the paper's table.

    Every stage resumes: after Ctrl-C or a crash the same command goes on. Exit code 1 when a number lies outside the combined
    spread of the paper's and ours.
    """
    from mabench import data, report, reproduce, runner, suites
    from mabench import engine as engines
    from mabench.schema import digest
    from mabench.store import Folder

    chosen = reproduce.preset(method, preset, ipc, changes)
    where = runner.resolve_device(device)
    engine_name = engines.choose(engine, where)
    if from_set is not None and sets > 1:
        raise MabenchError("--sets makes sets and --from-set brings one: leave one of the two out.")
    from mabench import adapters

    given = None if from_set is None else adapters.read(from_set, set_index=set_index)
    if given is not None and (given.dataset, given.ipc) != (chosen.dataset, chosen.config.ipc):
        raise MabenchError(
            f"{from_set}: a set for {given.dataset} with IPC {given.ipc}, but preset '{chosen.name}' is about {chosen.dataset} with "
            f"IPC {chosen.config.ipc}. Name the budget: --ipc {given.ipc}"
        )
    tables = reproduce.fitting_tables(chosen, from_set=given is not None)
    exams = [suites.load(name) for name in reproduce.chosen_suites(chosen, suite_names, tables)]
    identity = digest([repr(chosen), seed, sets, None if given is None else given.sha256])
    path = out or Path("results") / "reproduce" / f"{method}-{chosen.name}-{identity[:8]}"
    click.echo(f"{method}, preset {chosen.name}, IPC {chosen.config.ipc}, {chosen.dataset}; everything in {path}")
    click.echo(f"  {chosen.config}\n")
    if dry_run:
        _show_reproduction_cost(chosen, given, exams, sets, evaluator, _seeds(seeds), device, engine_name)
        return

    made = [given] if given is not None else []
    if given is None:
        with runner.stop_on_signal() as should_stop, display.condensing(method) as on_progress:
            try:
                for number in range(seed, seed + sets):
                    place = path / f"set-seed{number}"
                    made.append(reproduce.condense(chosen, number, place, where, on_progress, should_stop))
                    click.echo(f"condensed: {place / 'set.safetensors'} (preview.png, losses.png and card.toml beside it)")
            except Interrupted as error:
                _stopped(path, error)
    lines = []
    for exam in exams:
        wanted = _seeds(seeds)
        if sets > 1:
            wanted = list(exam.suite.seeds[:sets] if wanted is None else wanted)
            if len(wanted) != sets:
                raise MabenchError(
                    f"{exam.id} has {len(exam.suite.seeds)} seeds and {len(wanted)} are asked for; --sets {sets} wants as many."
                )
        records = []
        test = data.load(exam.suite.dataset, "test")
        click.echo(f"\n{exam.id}: {exam.suite.title}")
        for position, one in enumerate(made):
            own = wanted if sets == 1 or wanted is None else [wanted[position]]
            cells = runner.plan(exam, one, evaluator=evaluator, seeds=own)
            where_to = path / exam.id / (f"set{position}" if sets > 1 else "")
            folder = Folder(where_to, one.sha256, exam.id, exam.digest)
            try:
                records += display.evaluate(exam, one, cells, folder, test, device, engine_name)
            except Interrupted as error:
                _stopped(path, error)
        click.echo(report.table(exam, report.write(path / exam.id, exam, records)))
        lines += reproduce.compare(tables, exam, records)
    source = (
        f"given as {from_set}" if given is not None else f"made here, seed {seed}" + (f" and on, {sets} sets" if sets > 1 else "")
    )
    due = chosen.comparable and bool(lines)
    reproduce.write(path, chosen, made[0].sha256, lines, source, due)
    click.echo(("\n" + reproduce.text(lines) + "\n") if lines else "")
    for note in reproduce.notes(chosen, made[0].sha256, lines, source):
        click.echo(f"  {note}")
    click.echo(f"\nwritten to {path}: reproduction.md reproduction.json" + (" reproduction.png" if lines else ""))
    if due and reproduce.verdict(lines):
        click.echo(f"outside: {', '.join(reproduce.verdict(lines))}", err=True)
        raise SystemExit(1)


def _stopped(path: Path, error: Exception) -> NoReturn:
    click.echo(f"\nStopped; everything so far is in {path}. The same command goes on from there.", err=True)
    raise SystemExit(130) from error


def _show_reproduction_cost(
    chosen: Preset,
    given: SyntheticSet | None,
    exams: list[Exam],
    sets: int,
    evaluator: str | None,
    seeds: list[int] | None,
    device: str,
    engine: EngineName,
) -> None:
    """Condensation and examination, estimated from their first steps."""
    from tempfile import TemporaryDirectory

    from mabench import reproduce, runner
    from mabench.store import Folder

    total = 0.0
    stand_in = given
    if stand_in is None:
        click.echo(f"condensing: trying the first steps of {chosen.method} ...", err=True)
        each = reproduce.condensation_seconds(chosen, runner.resolve_device(device))
        total += each * sets
        click.echo(f"condensing: about {display.duration(each)}" + (f" for each of {sets} sets" if sets > 1 else ""))
        packed = bool(getattr(chosen.config, "packed", False))
        random = reproduce.preset("random", None, None, [f"ipc={chosen.config.ipc}", f"packed={packed}"])
        random = replace(random, dataset=chosen.dataset)
        stand_in = reproduce.condense(random, 0, None, runner.resolve_device("cpu"), lambda *_: None, lambda: False)
    for exam in exams:
        wanted = seeds if sets == 1 or seeds is not None else list(exam.suite.seeds[:sets])
        cells = runner.plan(exam, stand_in, evaluator=evaluator, seeds=wanted)
        click.echo(f"\n{exam.id}")
        with TemporaryDirectory() as empty:
            total += display.show_plan(
                exam, stand_in, cells, Folder(Path(empty), stand_in.sha256, exam.id, exam.digest), device, engine
            )
    click.echo(f"\nall together about {display.duration(total)} on this device")


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
    help="Folder whose */paper.toml hold papers' numbers (default: those that came with mabench).",
)
@click.option("--open", "open_", is_flag=True, help="Open the page in a browser.")
def leaderboard_build(submissions: Path, out: Path, methods: Path | None, open_: bool) -> None:
    """Make the page from records. Same records, same bytes; what an earlier build left is replaced, other files are kept."""
    from mabench import leaderboard as board
    from mabench import papers

    rows = board.build(submissions, out, methods or papers.INSTALLED)
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
    display.describe(synthetic_set)
    click.echo(f"\n{exam.id}: {exam.suite.title}\n{len(cells)} cells on {where}, {chosen} engine, records in {path}\n")
    if dry_run:
        display.show_plan(exam, synthetic_set, cells, folder, device, chosen)
        return
    test = data.load(exam.suite.dataset, "test")
    try:
        records = display.evaluate(exam, synthetic_set, cells, folder, test, device, chosen)
    except Interrupted as error:
        _stopped(path, error)
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
        files.write_text(path, card.toml())
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

    display.describe(synthetic.load(path / SET))
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
            lambda exam, data, wanted, folder, test: display.evaluate(exam, data, wanted, folder, test, device, engine),
        )
    except Interrupted as error:
        _stopped(place, error)
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


def run() -> None:
    """Entry point: quiet when the reader of our output goes away."""
    try:
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
