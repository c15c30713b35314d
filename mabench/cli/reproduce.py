"""Condense with a method, evaluate the set, and put the result beside the paper's table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    reading_flags,
    stopped,
)
from mabench.errors import Interrupted, MabenchError

if TYPE_CHECKING:
    from mabench.engine import Wanted
    from mabench.papers.paper_tables import PaperTable
    from mabench.runs.ray_cluster import Ray
    from mabench.sets.synthetic import SyntheticSet
    from mabench.suites import Exam
    from mabench_methods import Method, Preset

FROM_SET = ("set_index", "layout", "space", "decode", "learned_rate")


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
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the condensation.")
@click.option(
    "--sets",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Condense this many sets (seeds SEED, SEED+1, ...) and evaluate each with one of the suite's seeds.",
)
@click.option("--from-set", help="Evaluate this set instead of condensing.")
@reading_flags["set_index"]
@reading_flags["layout"]
@reading_flags["space"]
@reading_flags["decode"]
@reading_flags["learned_rate"]
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

    Every stage resumes: after Ctrl-C or a crash the same command goes on. Exit code 1 when a number lies outside the combined
    spread of the paper's and ours.
    """
    reading = {name: value for name in FROM_SET if (value := options.pop(name)) is not None}
    plan = _planned(method, preset, ipc, changes, reading, options)
    console.say(
        f"{plan.method.name}, preset {plan.preset.name}, IPC {plan.preset.config.ipc}, {plan.preset.dataset}; everything in {plan.path}"
    )
    console.say(f"  {plan.preset.config}\n")
    if options["dry_run"]:
        return _show_cost(plan)
    try:
        made = [plan.given] if plan.given is not None else _condense(plan)
        lines = _evaluate(plan, made)
    except Interrupted as error:
        stopped(plan.path, error)
    return _compare(plan, made, lines)


@dataclass(frozen=True)
class _Plan:
    """A checked command."""

    method: Method
    named: str
    """The method as it was named: a registered name or the path of a file."""
    preset: Preset
    given: SyntheticSet | None
    from_set: str | None
    seed: int
    sets: int
    exams: list[Exam]
    tables: list[PaperTable]
    tracks: tuple[str, ...]
    evaluators: tuple[str, ...]
    seeds: dict[str, list[int] | None]
    path: Path
    device: str
    engine: Wanted
    launcher: Ray | None


def _planned(
    method: str, name: str | None, ipc: int | None, changes: Sequence[str], reading: dict[str, Any], options: dict[str, Any]
) -> _Plan:
    """Everything that can be wrong shows here, before hours of condensing."""
    import mabench_methods
    from mabench import suites
    from mabench.digests import digest
    from mabench.engine import wanted
    from mabench.papers import presets, reproduce
    from mabench.runs.plan import select
    from mabench.runs.process import resolve_device

    runnable = mabench_methods.load(method)
    preset = presets.preset(runnable, name, ipc, changes)
    resolve_device(options["device"])  # of the condensation, which is always made here
    if options["launcher"] is not None:
        options["launcher"].check(options["device"])
    given = _given(options["from_set"], options["sets"], reading, preset)
    tables = reproduce.fitting_tables(preset, from_set=given is not None)
    exams = [suites.load(suite) for suite in reproduce.chosen_suites(preset, options["suite_names"], tables)]
    if given is None:
        for exam in exams:
            reproduce.check_records(preset, exam)
    seeds = {exam.id: _seeds_of(exam, options["seeds"], options["sets"]) for exam in exams}
    for exam in exams:
        select(exam, track=options["tracks"], evaluator=options["evaluators"], seeds=seeds[exam.id])
    identity = digest([repr(preset), options["seed"], options["sets"], None if given is None else given.sha256])
    path = options["out"] or Path("results") / "reproduce" / f"{runnable.name}-{preset.name}-{identity[:8]}"
    return _Plan(
        runnable, method, preset, given, options["from_set"], options["seed"], options["sets"], exams, tables, options["tracks"],
        options["evaluators"], seeds, path, options["device"], wanted(options["engine"]), options["launcher"],
    )  # fmt: skip


def _given(from_set: str | None, sets: int, reading: dict[str, Any], preset: Preset) -> SyntheticSet | None:
    from mabench.sets import readers

    if from_set is None:
        for name in reading:
            raise MabenchError(f"--{name.replace('_', '-')} is about a set that is given. Add --from-set, or leave it out.")
        return None
    if sets > 1:
        raise MabenchError("--sets makes sets and --from-set brings one: leave one of the two out.")
    given = readers.read(from_set, **reading)
    if (given.dataset, given.ipc) != (preset.dataset, preset.config.ipc):
        raise MabenchError(
            f"{from_set}: a set for {given.dataset} with IPC {given.ipc}, but preset '{preset.name}' is about {preset.dataset} with "
            f"IPC {preset.config.ipc}. Name the budget: --ipc {given.ipc}"
        )
    return given


def _seeds_of(exam: Exam, asked: list[int] | None, sets: int) -> list[int] | None:
    """The seeds to evaluate with: those asked for (None = all the suite's), or one of them for each of several sets."""
    if sets == 1:
        return asked
    seeds = list(exam.suite.seeds[:sets] if asked is None else asked)
    if len(seeds) != sets:
        raise MabenchError(
            f"{exam.id} has {len(exam.suite.seeds)} seeds and {len(seeds)} are asked for; --sets {sets} needs as many."
        )
    return seeds


def _condense(plan: _Plan) -> list[SyntheticSet]:
    from mabench.papers import reproduce
    from mabench.runs.process import resolve_device, stop_on_signal

    made = []
    with stop_on_signal() as should_stop:
        for number in range(plan.seed, plan.seed + plan.sets):
            place = plan.path / f"set-seed{number}"
            with console.condensing(plan.method.name if plan.sets == 1 else f"{plan.method.name} seed {number}") as on_progress:
                made.append(
                    reproduce.condense(
                        plan.method, plan.preset, number, place, resolve_device(plan.device), on_progress, should_stop, plan.named
                    )
                )
            console.say(f"condensed: {place / 'set.safetensors'} (preview.png and card.toml beside it)")
    return made


def _evaluate(plan: _Plan, made: list[SyntheticSet]) -> list[Any]:
    """The comparison's lines; records and tables are in the plan's folder, a folder a suite."""
    from mabench import data
    from mabench.evaluation import run_cells
    from mabench.papers import reproduce
    from mabench.results import tables
    from mabench.results.scoring import rows
    from mabench.runs import plan as planning
    from mabench.runs.folder import Folder
    from mabench.runs.process import stop_on_signal

    lines = []
    for exam in plan.exams:
        records = []
        seeds, test = plan.seeds[exam.id], data.load(exam.suite.dataset, "test")
        console.say(f"\n{exam.id}: {exam.suite.title}")
        for position, one in enumerate(made):
            own = seeds if seeds is None or plan.sets == 1 else [seeds[position]]
            cells = planning.plan(exam, one, track=plan.tracks, evaluator=plan.evaluators, seeds=own)
            folder = Folder(plan.path / exam.id / (f"set{position}" if plan.sets > 1 else ""), one.sha256, exam.id, exam.digest)
            with stop_on_signal() as should_stop, console.screen() as screen:
                screen.runs = len(cells)
                records += run_cells(
                    one, cells, folder, test,
                    device=plan.device, engine=plan.engine, launcher=plan.launcher, on_event=screen, should_stop=should_stop,
                )  # fmt: skip
        tables.write(plan.path / exam.id, exam, records)
        baseline = tables.known_baseline(exam, records[0].synthetic_set)
        console.say(tables.table(exam, rows(exam, records, baseline), width=console.width()))
        lines += reproduce.compare(plan.tables, exam, records)
    return lines


def _compare(plan: _Plan, made: list[SyntheticSet], lines: list[Any]) -> Any:
    from mabench.papers import reproduce

    source = f"given as {plan.from_set}"
    if plan.given is None:
        source = f"made here, seed {plan.seed}" + (f" and on, {plan.sets} sets" if plan.sets > 1 else "")
    due = plan.preset.comparable and bool(lines)
    reproduce.write(plan.path, plan.preset, made[0].sha256, lines, source, due)
    console.say(("\n" + reproduce.text(lines) + "\n") if lines else "")
    for note in reproduce.notes(plan.preset, made[0].sha256, lines, source):
        console.say(f"  {note}")
    console.say(f"\nwritten to {plan.path}: reproduction.md reproduction.json" + (" reproduction.png" if lines else ""))
    outside = reproduce.verdict(lines) if due else []
    value = {"method": plan.method.name, "preset": plan.preset.name, "folder": str(plan.path), "outside": outside}
    if outside:
        console.say(f"outside: {', '.join(outside)}", err=True)
        return Ended(value)
    return value


def _show_cost(plan: _Plan) -> Any:
    """Condensation and evaluation, estimated from their first steps."""
    from mabench.evaluation import Job
    from mabench.evaluation.costs import plan_lines
    from mabench.papers import reproduce
    from mabench.results.tables import duration
    from mabench.runs import plan as planning
    from mabench.runs.process import resolve_device

    total, stand_in, exams = 0.0, plan.given, plan.exams
    if stand_in is None:
        console.say(f"condensing: trying the first steps of {plan.method.name} ...", err=True)
        each = reproduce.condensation_seconds(plan.method, plan.preset, resolve_device(plan.device))
        total += each * plan.sets
        console.say(f"condensing: about {duration(each)}" + (f" for each of {plan.sets} sets" if plan.sets > 1 else ""))
        stand_in = _random_stand_in(plan.preset)
        # nothing is recorded yet; views that are drawn cost what replayed ones do
        exams = [replace(e, recipes={t: r.model_copy(update={"recorded": None}) for t, r in e.recipes.items()}) for e in exams]
    for exam in exams:
        cells = tuple(planning.plan(exam, stand_in, track=plan.tracks, evaluator=plan.evaluators, seeds=plan.seeds[exam.id]))
        console.say(f"\n{exam.id}")
        console.plan_header()
        lines = []
        for line in plan_lines(Job(exam, stand_in, cells, cells), None, device=plan.device, engine=plan.engine):
            console.plan_line(line)
            lines.append(line)
        console.plan_total(lines, 0, exam.suite.dataset)
        total += sum(line.seconds for line in lines)
    console.say(f"\nall together about {duration(total)} on this device")
    return {"method": plan.method.name, "preset": plan.preset.name, "seconds": total}


def _random_stand_in(preset: Preset) -> SyntheticSet:
    """Real images of the same budget cost what condensed ones do."""
    import mabench_methods
    from mabench.papers import presets, reproduce
    from mabench.runs.process import resolve_device

    packed = bool(getattr(preset.config, "packed", False))
    random = presets.preset("random", None, None, [f"ipc={preset.config.ipc}", f"packed={packed}"])
    random = replace(random, dataset=preset.dataset)
    return reproduce.condense(
        mabench_methods.load("random"), random, 0, None, resolve_device("cpu"), lambda *_: None, lambda: False
    )
