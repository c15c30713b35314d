"""Condense with a method, evaluate the set, compare with the paper: all of `mabench reproduce` but its screen."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mabench_methods
from mabench import suites
from mabench.digests import digest
from mabench.errors import MabenchError
from mabench.files import sha256_of
from mabench.papers.compare import Line, compare
from mabench.papers.condensing import condensation_seconds, condense, random_stand_in
from mabench.papers.matching import Match, matches
from mabench.papers.presets import command, preset
from mabench.papers.report import Report
from mabench.runs.events import Event, Listener
from mabench.sets import recorded
from mabench.suites import LoadedSuite
from mabench_methods import Method, Preset

if TYPE_CHECKING:
    from mabench.engine import Wanted
    from mabench.evaluation.costs import PlanLine
    from mabench.runs.ray_cluster import Ray
    from mabench.schema import RunRecord
    from mabench.sets.synthetic import SyntheticSet


@dataclass(frozen=True)
class Condensing:
    """A condensation has taken a step, or, where steps are long, a part of one: then `done` is a fraction and `losses` is empty."""

    seed: int
    done: float
    total: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Condensed:
    """A set is finished; its folder holds it beside its card, losses and preview."""

    synthetic_set: SyntheticSet
    folder: Path


@dataclass(frozen=True)
class Evaluated:
    """A suite is finished."""

    loaded_suite: LoadedSuite
    records: tuple[RunRecord, ...]


ReproductionEvent = Condensing | Condensed | Evaluated | Event
ReproductionListener = Callable[[ReproductionEvent], None]


def reproduce(
    method: str | Method,
    *,
    preset: str | None = None,
    ipc: int | None = None,
    changes: Sequence[str] = (),
    seed: int = 0,
    sets: int = 1,
    from_set: str | PathLike[str] | None = None,
    reading: Mapping[str, Any] | None = None,
    suites: Sequence[str] = (),
    tracks: str | Sequence[str] | None = None,
    evaluators: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    engine: str = "auto",
    launcher: Ray | None = None,
    on_event: ReproductionListener = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Condense with a method, evaluate the set on the paper's suite and the headline, and hold the result against the paper.

    >>> import mabench
    >>> report = mabench.reproduce("random", preset="smoke", evaluators="mlp*", seeds=[0], out="reproduction")
    >>> report
    <Report of random smoke: 0 numbers judged, 0 outside>

    Args:
        method: a name of `mabench list methods`, the path of a Python file with `METHOD`, or a `mabench_methods.Method`.
        preset, ipc: a configuration; without both the method's first, with a budget the first of that budget.
        changes: `key=value` changes of its fields, as `--config` takes them.
        seed, sets: condense this many sets, with seeds `seed`, `seed` + 1, ...; each is evaluated with one of the suite's seeds.
        from_set, reading: evaluate this set instead; what a reader would guess of it otherwise (see `mabench.load_set`).
        suites: names; empty = the paper's for this budget and the dataset's headline.
        tracks, evaluators, seeds: the part of the suites to run. None = all.
        out: folder of everything; what is finished there is not repeated. None = results/reproduce/METHOD-PRESET-HASH.
        device, engine, launcher: as in `mabench.evaluate`; condensing always happens here.
        on_event: hears of `Condensing`, `Condensed`, `Evaluated` and the events of an evaluation.

    Raises:
        MabenchError: something asked for is not there. Nothing was written.
        Interrupted: `should_stop()` returned True; the same call continues from there.
    """
    planned = plan(
        method, preset=preset, ipc=ipc, changes=changes, seed=seed, sets=sets, from_set=from_set, reading=reading, suites=suites,
        tracks=tracks, evaluators=evaluators, seeds=seeds, out=out, device=device, engine=engine, launcher=launcher,
    )  # fmt: skip
    return planned.run(on_event, should_stop)


@dataclass(frozen=True)
class Reproduction:
    """A checked reproduction: what would run, and where."""

    method: Method
    named: str
    """The method as it was named: a registered name, or the path of a file."""
    preset: Preset
    given: SyntheticSet | None
    """The set that is evaluated instead of condensing."""
    from_set: str
    reading: Mapping[str, Any]
    """What its reader was told instead of guessing."""
    seed: int
    sets: int
    loaded_suites: tuple[LoadedSuite, ...]
    matches: tuple[Match, ...]
    tracks: str | Sequence[str] | None
    evaluators: str | Sequence[str] | None
    seeds: Mapping[str, list[int] | None]
    """Suite -> its seeds; None = all."""
    folder: Path
    device: str
    engine: Wanted
    launcher: Ray | None

    def run(self, on_event: ReproductionListener = lambda event: None, should_stop: Callable[[], bool] = lambda: False) -> Report:
        """Condense, evaluate, compare; writes the report into the folder and returns it. Resumes. Raises Interrupted."""
        sets = [self.given] if self.given is not None else list(self._condense(on_event, should_stop))
        records = {
            loaded_suite.id: self._evaluate(loaded_suite, sets, on_event, should_stop) for loaded_suite in self.loaded_suites
        }
        lines: list[Line] = []
        for loaded_suite in self.loaded_suites:
            lines += compare(self.matches, loaded_suite, records[loaded_suite.id])
        source = f"given as {self.from_set}"
        if self.given is None:
            source = f"made here, seed {self.seed}" + (f" to {self.seed + self.sets - 1}" if self.sets > 1 else "")
        report = Report(
            self.preset, source, tuple(one.sha256 for one in sets), self._commands(), records, {loaded_suite.id: loaded_suite for loaded_suite in self.loaded_suites},
            tuple(lines), self.folder,
        )  # fmt: skip
        report.write()
        return report

    def condensation_seconds(self) -> float:
        """Estimate what condensing all sets takes here, from the first steps; 0 where a set is given."""
        from mabench.runs.process import resolve_device

        return (
            0.0
            if self.given is not None
            else self.sets * condensation_seconds(self.method, self.preset, resolve_device(self.device))
        )

    def evaluation_lines(self) -> Iterator[tuple[LoadedSuite, Iterator[PlanLine]]]:
        """Estimate, suite by suite, what evaluating takes here: one line per evaluator, each as soon as it was measured."""
        from mabench.evaluation import Job
        from mabench.evaluation.costs import plan_lines
        from mabench.runs import plan as planning

        stand_in = self.given if self.given is not None else random_stand_in(self.preset)
        for loaded_suite in self.loaded_suites:
            if self.given is None:  # nothing is recorded yet; views that are drawn cost what replayed ones do
                loaded_suite = replace(
                    loaded_suite, recipes={t: r.model_copy(update={"recorded": None}) for t, r in loaded_suite.recipes.items()}
                )
            cells = tuple(
                planning.plan(
                    loaded_suite, stand_in, track=self.tracks, evaluator=self.evaluators, seeds=self.seeds[loaded_suite.id]
                )
            )
            yield (
                loaded_suite,
                plan_lines(Job(loaded_suite, stand_in, cells, cells), None, device=self.device, engine=self.engine),
            )

    def _condense(self, on_event: ReproductionListener, should_stop: Callable[[], bool]) -> Iterator[SyntheticSet]:
        from mabench.runs.process import resolve_device

        for number in range(self.seed, self.seed + self.sets):
            folder = self.folder / f"set-seed{number}"

            def on_progress(done: float, total: int, losses: Mapping[str, float], number: int = number) -> None:
                on_event(Condensing(number, done, total, losses))

            synthetic_set = condense(
                self.method, self.preset, number, folder, resolve_device(self.device), on_progress, should_stop, self.named
            )
            on_event(Condensed(synthetic_set, folder))
            yield synthetic_set

    def _evaluate(
        self,
        loaded_suite: LoadedSuite,
        sets: Sequence[SyntheticSet],
        on_event: ReproductionListener,
        should_stop: Callable[[], bool],
    ) -> tuple[RunRecord, ...]:
        """Records of all sets on one suite; records and tables are in the suite's folder."""
        from mabench import data
        from mabench.evaluation import run_cells
        from mabench.results import tables
        from mabench.runs import plan as planning
        from mabench.runs.events import Planned
        from mabench.runs.folder import Folder

        records: list[RunRecord] = []
        seeds, test = self.seeds[loaded_suite.id], data.load(loaded_suite.suite.dataset, "test")
        listener: Listener = on_event
        for position, one in enumerate(sets):
            of_this = seeds if seeds is None or self.sets == 1 else [seeds[position]]
            cells = tuple(planning.plan(loaded_suite, one, track=self.tracks, evaluator=self.evaluators, seeds=of_this))
            path = self.folder / loaded_suite.id / (f"set{position}" if self.sets > 1 else "")
            folder = Folder(path, one.sha256, loaded_suite.id, loaded_suite.digest)
            finished = sum(folder.finished(cell) is not None for cell in cells)
            listener(Planned(loaded_suite, one, cells, finished, self.device, self.engine, self.launcher is not None, path))
            records += run_cells(
                one, cells, folder, test,
                device=self.device, engine=self.engine, launcher=self.launcher, on_event=listener, should_stop=should_stop,
            )  # fmt: skip
        tables.write(self.folder / loaded_suite.id, loaded_suite, records)
        on_event(Evaluated(loaded_suite, tuple(records)))
        return tuple(records)

    def _commands(self) -> tuple[str, ...]:
        """What repeats it, in the order in which it happened. Where runs were launched (`launcher`) is left out: it moves no number."""
        options: list[tuple[str, object]] = []
        if self.given is not None:
            options += [
                ("from-set", self.from_set),
                *((name, value) for name, value in self.reading.items() if value is not None),
            ]
        if self.sets > 1:
            options.append(("sets", self.sets))
        options += [("suite", loaded_suite.id) for loaded_suite in self.loaded_suites]
        for option, names in (("track", self.tracks), ("evaluator", self.evaluators)):
            options += [(option, name) for name in ([names] if isinstance(names, str) else names or ())]
        asked = {",".join(map(str, seeds)) for seeds in self.seeds.values() if seeds is not None}
        options += [("seeds", seeds) for seeds in asked if len(asked) == 1]  # differing ones are every suite's own first
        options += [(name, value) for name, value in (("device", self.device), ("engine", self.engine)) if value != "auto"]
        options.append(("out", self.folder))
        return (" ".join([command(self.preset, self.seed, self.named), *(_option(*option) for option in options)]),)


def _option(name: str, value: object) -> str:
    """An option as it is typed."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"--{name.replace('_', '-')} {shlex.quote(text)}"  # click takes a value that begins with a minus, too


def plan(
    method: str | Method,
    *,
    preset: str | None = None,
    ipc: int | None = None,
    changes: Sequence[str] = (),
    seed: int = 0,
    sets: int = 1,
    from_set: str | PathLike[str] | None = None,
    reading: Mapping[str, Any] | None = None,
    suites: Sequence[str] = (),
    tracks: str | Sequence[str] | None = None,
    evaluators: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    engine: str = "auto",
    launcher: Ray | None = None,
) -> Reproduction:
    """Find everything that can be wrong before hours of condensing; the arguments are those of `reproduce`."""
    from mabench.engine import wanted
    from mabench.runs.plan import select
    from mabench.runs.process import resolve_device

    runnable = method if isinstance(method, Method) else mabench_methods.load(method)
    chosen = _preset(runnable, preset, ipc, changes)
    resolve_device(device)  # of the condensation, which always happens here
    if launcher is not None:
        launcher.check(device)
    given = _given(from_set, sets, reading or {}, chosen)
    file_sha256 = None if given is None else _file_sha256(from_set, reading or {})
    found = matches(runnable, chosen, file_sha256)
    loaded_suites = tuple(_load(name) for name in suites_to_run(chosen, suites, found))
    for loaded_suite in loaded_suites if given is None else ():
        check_records(chosen, loaded_suite)
    of_suite = {loaded_suite.id: _seeds_of(loaded_suite, seeds, sets) for loaded_suite in loaded_suites}
    for loaded_suite in loaded_suites:
        select(loaded_suite, track=tracks, evaluator=evaluators, seeds=of_suite[loaded_suite.id])
    identity = digest([repr(chosen), seed, sets, None if given is None else given.sha256])
    folder = Path(out) if out is not None else Path("results") / "reproduce" / f"{runnable.name}-{chosen.name}-{identity[:8]}"
    return Reproduction(
        runnable, method if isinstance(method, str) else runnable.name, chosen, given, str(from_set or ""), reading or {}, seed, sets, loaded_suites,
        tuple(found), tracks, evaluators, of_suite, folder, device, wanted(engine), launcher,
    )  # fmt: skip


_preset, _load = preset, suites.load  # arguments of the two functions above have these names


def _given(from_set: str | PathLike[str] | None, sets: int, reading: Mapping[str, Any], chosen: Preset) -> SyntheticSet | None:
    """The set to evaluate instead of condensing. Raises MabenchError where it is not of the preset's dataset and budget."""
    from mabench.sets import readers

    if from_set is None:
        for name in reading:
            raise MabenchError(f"--{name.replace('_', '-')} only applies with --from-set. Add --from-set, or leave it out.")
        return None
    if sets > 1:
        raise MabenchError("--sets makes sets and --from-set names one: leave one of the two out.")
    given = readers.read(str(from_set), **reading)
    if (given.dataset, given.ipc) != (chosen.dataset, chosen.config.ipc):
        raise MabenchError(
            f"{from_set}: a set for {given.dataset} with IPC {given.ipc}, but preset '{chosen.name}' is for {chosen.dataset} with "
            f"IPC {chosen.config.ipc}. "
            + (
                f"Name the budget: --ipc {given.ipc}"
                if given.dataset == chosen.dataset
                else f"Choose another with --preset: mabench show {chosen.method}"
            )
        )
    return given


def _file_sha256(from_set: str | PathLike[str] | None, reading: Mapping[str, Any]) -> str:
    """Digest of a given file, whose last set is what papers measured; empty for anything else."""
    path = Path(str(from_set))
    return "" if reading or not path.is_file() else sha256_of(path)


def _seeds_of(loaded_suite: LoadedSuite, asked: Sequence[int] | None, sets: int) -> list[int] | None:
    """The seeds to evaluate with: those asked for (None = all the suite's), or one of them for each of several sets."""
    if sets == 1 and asked is None:
        return None
    seeds = list(loaded_suite.suite.seeds[:sets]) if asked is None else sorted(set(asked))  # in the order of `--seeds`
    if sets > 1 and len(seeds) != sets:
        raise MabenchError(
            f"{loaded_suite.id} has {len(loaded_suite.suite.seeds)} seeds, and --sets {sets} needs one per set, not {len(seeds)}. Name as many with --seeds, or make fewer sets."
        )
    return seeds


def suites_to_run(chosen: Preset, named: Sequence[str], found: Sequence[Match]) -> list[str]:
    """Return the suites named; without any the paper's for this budget, where the preset records what they replay, and the headline
    of the dataset, where it has one.

    A small preset gets the dataset's small suite alone: it is made where the others take years.
    """
    if named:
        return list(named)
    small = suites.small(chosen.dataset)
    if not chosen.comparable and small is not None:
        return [small]
    released, headline = {name.partition("@")[0] for name in suites.released()}, f"{chosen.dataset}-agnostic"
    of_paper = (match.table.suite for match in found if _records_for(chosen, match.table.suite))
    return list(dict.fromkeys([*of_paper, *({headline} & released)]))


def check_records(chosen: Preset, loaded_suite: LoadedSuite) -> None:
    """Raise MabenchError where a suite replays labels that the preset does not record: said before hours of condensing."""
    for recipe in loaded_suite.recipes.values():
        if recipe.recorded is not None:
            epochs, batch = getattr(chosen.config, "record_epochs", 0), getattr(chosen.config, "record_batch", recipe.batch_size)
            recorded.check(
                recipe, loaded_suite.id, epochs=epochs, batch=batch, where=f"preset '{chosen.name}' of {chosen.method}"
            )


def _records_for(chosen: Preset, suite: str) -> bool:
    try:
        check_records(chosen, suites.load(suite))
    except MabenchError:
        return False
    return True
