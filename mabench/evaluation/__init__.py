"""The public call: one set on one suite. No console here: events go to whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Unpack

from mabench import data, suites
from mabench.engine import wanted
from mabench.errors import Interrupted, MabenchError
from mabench.evaluation.budget import Budget
from mabench.evaluation.inputs import Reading, accept
from mabench.evaluation.listeners import Heard, joined
from mabench.evaluation.result import Evaluation
from mabench.results import tables
from mabench.runs import local
from mabench.runs.events import Listener, Note, Planned, silent
from mabench.runs.folder import HARDENED, Folder
from mabench.runs.plan import default_folder, plan, shard
from mabench.runs.process import resolve_device
from mabench.schema import Cell, Finding, RunRecord
from mabench.sets import probes
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import LoadedSuite

if TYPE_CHECKING:
    from mabench.engine import Wanted
    from mabench.runs.ray_cluster import Ray

__all__ = ["Evaluation", "Job", "Reading", "accept", "evaluate", "prepare"]


def evaluate(
    images: Any,
    labels: Any = None,
    suite: str | LoadedSuite | None = None,
    *,
    tracks: str | Sequence[str] | None = None,
    evaluators: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    engine: str = "auto",
    launcher: Ray | None = None,
    minutes: float | None = None,
    part: tuple[int, int] | None = None,
    on_event: Listener | str | Sequence[Listener | str] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    **reading: Unpack[Reading],
) -> Evaluation:
    """Train every evaluator of a suite on a condensed set and return the records with their table.

    >>> import mabench
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> images = digits.images[:10, None].repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1) / 16  # the first of every class
    >>> result = mabench.evaluate(images, digits.target[:10], suite="digits-agnostic", evaluators="mlp*", seeds=[0])
    >>> result
    <Evaluation of set (IPC 1) on digits-agnostic@1: ... %, 1 run, not the whole suite>
    >>> 0.2 < result.score < 1
    True

    Args:
        images: a file, a folder, a Hub id, a SyntheticSet, or images [N,C,H,W] as a tensor, an array or a list of them.
        labels: class numbers [N] or soft labels [N,K] of images in memory; None = the images are in class order.
        suite: a name of `mabench.list_suites()`, the path of a TOML file, or a suite that was loaded. None = the small suite of
            the set's dataset, where there is one.
        tracks, evaluators, seeds: the part of the suite to run; evaluators are globs over names. None = all.
        out: the folder of records, tables and curves; what is finished there is not repeated. None = nothing is kept on disk.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        engine: `auto`, `reference` or `fast`.
        launcher: a `mabench.runs.ray_cluster.Ray`; None = here.
        minutes: a budget. What fits is run, cheapest first; what is left is named and continues with the next call.
        part: (i, n) runs the i-th of n parts, for job arrays; i counts from 1.
        on_event: a function that hears of events (`mabench.runs.events`), the name of a listener (`tensorboard`, `wandb`), or several.
        should_stop: asked between steps; once it answers True a checkpoint is saved and `Interrupted` is raised.
        reading: what the reader would guess otherwise: `space`, `dataset`, `decode`, `ipc`, `layout`, ... as the flags of `mabench eval`.

    Raises:
        MabenchError: the set, the suite or an option is not what it should be. Nothing was written.
        Interrupted: `should_stop()` answered True.

    The caller's random state, grad mode, threads, flags and signal handlers are as they were afterwards, and so are its tensors.
    """
    job = prepare(images, labels, suite, tracks=tracks, evaluators=evaluators, seeds=seeds, part=part, **reading)
    return job.run(
        out, device=device, engine=engine, launcher=launcher, minutes=minutes, on_event=joined(on_event), should_stop=should_stop
    )


def prepare(
    images: Any,
    labels: Any = None,
    suite: str | LoadedSuite | None = None,
    *,
    tracks: str | Sequence[str] | None = None,
    evaluators: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    part: tuple[int, int] | None = None,
    **reading: Unpack[Reading],
) -> Job:
    """Find everything that can be wrong before anything is run; the arguments are those of `evaluate`."""
    loaded_suite = suites.load(suite) if isinstance(suite, str) else suite
    expected = None if loaded_suite is None else loaded_suite.suite.dataset
    synthetic_set = accept(images, labels, expected_dataset=expected, **reading)
    finding = probes.order_finding(synthetic_set)
    if finding is not None:
        synthetic_set = replace(synthetic_set, findings=(*synthetic_set.findings, finding))
    guesses: tuple[str, ...] = ()
    if loaded_suite is None:
        loaded_suite = _small_suite(synthetic_set)
        guesses = (
            f"suite: {loaded_suite.id}, the small suite of {synthetic_set.dataset}. Choose another with --suite (mabench list).",
        )
    cells = plan(loaded_suite, synthetic_set, track=tracks, evaluator=evaluators, seeds=seeds)
    return Job(loaded_suite, synthetic_set, tuple(cells), tuple(cells if part is None else shard(cells, *part)), guesses, finding)


def _small_suite(synthetic_set: SyntheticSet) -> LoadedSuite:
    """The suite for a first number. Raises MabenchError that lists the fitting ones where none is small."""
    small = suites.small(synthetic_set.dataset)
    if small is None:
        fitting = suites.names(synthetic_set.dataset)
        known = (
            f"Suites for {synthetic_set.dataset}: {', '.join(fitting)}."
            if fitting
            else "Write a TOML file and name it with --suite ./FILE.toml."
        )
        raise MabenchError(f"{synthetic_set.name}: no suite was named. Name one with --suite. {known}")
    return suites.load(small)


@dataclass(frozen=True)
class Job:
    """A set and the part of a suite that it is evaluated on, checked and ready to run."""

    loaded_suite: LoadedSuite
    synthetic_set: SyntheticSet
    cells: tuple[Cell, ...]
    """All that were asked for, whichever part is run here: the table shows every one that has a record."""
    here: tuple[Cell, ...]
    """Those that are run here: all, or one part of them."""
    notes: tuple[str, ...] = ()
    """What was decided for the caller."""
    warning: Finding | None = None
    """What looks wrong with the set."""

    @cached_property
    def hardened(self) -> Job | None:
        """The same runs with hardened labels, where the set's are soft and the suite scores such sets so; else None."""
        if self.synthetic_set.label_kind == "hard" or not self.loaded_suite.scores_hardened:
            return None
        hard = self.synthetic_set.hardened()
        cells, here = (
            tuple(cell.model_copy(update={"set_sha256": hard.sha256}) for cell in group) for group in (self.cells, self.here)
        )
        return Job(self.loaded_suite, hard, cells, here)

    @property
    def default_folder(self) -> Path:
        """Where the command line keeps this evaluation: stable, so that the same command resumes."""
        return default_folder(self.synthetic_set, self.loaded_suite)

    def folder(self, path: Path) -> Folder:
        """Raises MabenchError where the folder belongs to another set or suite."""
        return Folder(path, self.synthetic_set.sha256, self.loaded_suite.id, self.loaded_suite.digest)

    def run(
        self,
        out: str | PathLike[str] | None = None,
        *,
        device: str = "auto",
        engine: str = "auto",
        launcher: Ray | None = None,
        minutes: float | None = None,
        begun: float | None = None,
        on_event: Listener = silent,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Evaluation:
        """Run what is not finished in `out`, write the tables beside the records, and return both; see `evaluate`.

        `minutes` are counted from `begun` (of `time.monotonic`), or from now. Runs with hardened labels come last.
        """
        computed_by = _checked(device, engine, launcher, minutes)
        budget = Budget(time.monotonic() if begun is None else begun, minutes, should_stop)
        how: dict[str, Any] = {"kept": out is not None, "device": device, "launcher": launcher, "on_event": on_event}
        how |= {"engine": computed_by, "load_test": cache(lambda: data.load_test(self.loaded_suite.suite.dataset))}
        with ExitStack() as stack:
            path = Path(out) if out is not None else Path(stack.enter_context(TemporaryDirectory(prefix="mabench-")))
            result = self._run(path, budget, **how)
            if self.hardened is not None:
                budget.is_over()  # nothing more begins then
                result = _with_hardened(result, self.hardened._run(path / HARDENED, budget, **how), on_event)
            budget.say_what_is_left(on_event)
        return result

    def _run(
        self,
        path: Path,
        budget: Budget,
        *,
        kept: bool,
        device: str,
        engine: Wanted,
        launcher: Ray | None,
        load_test: Callable[[], data.RealData],
        on_event: Listener,
    ) -> Evaluation:
        """One kind of labels in its folder. Once the budget has ended, what is finished is read and nothing is said or run."""
        folder, heard = self.folder(path), Heard(on_event)
        begins = not budget.ended
        if begins:
            finished = sum(folder.finished(cell) is not None for cell in self.here)
            shown = path if kept else None
            heard(
                Planned(self.loaded_suite, self.synthetic_set, self.here, finished, device, engine, launcher is not None, shown)
            )
            for text in self.notes:
                heard(Note(text))
            if self.warning is not None:
                heard(Note(self.warning.reason, warning=True))
        test = load_test()
        cells = budget.order(self.here, folder, self.synthetic_set, len(test.labels), device, engine, heard)
        if begins:
            try:
                run_cells(
                    self.synthetic_set, cells, folder, test,
                    device=device, engine=engine, launcher=launcher, on_event=heard, should_stop=budget.should_stop,
                )  # fmt: skip
            except Interrupted:
                if not budget.ended:
                    raise
        return self._result(folder, path if kept else None, heard)

    def _result(self, folder: Folder, kept: Path | None, heard: Heard) -> Evaluation:
        records = [record for cell in self.cells if (record := folder.finished(cell)) is not None]
        missing = tuple(cell.name for cell in self.here if not folder.record_path(cell).exists())
        summary = self.synthetic_set.summary()
        result = Evaluation(self.loaded_suite, summary, tuple(records), missing, tuple(heard.failed), kept)
        if kept is not None and records:
            for warning in tables.write(kept, self.loaded_suite, records):
                heard(Note(warning, warning=True))
        return result


def _with_hardened(result: Evaluation, hard: Evaluation, on_event: Listener) -> Evaluation:
    """An evaluation with its column of hardened labels, in its files too."""
    missing = (*result.missing, *(f"{HARDENED}/{name}" for name in hard.missing))
    joined_up = replace(result, hardened=hard.records, missing=missing, failed=(*result.failed, *hard.failed))
    if result.folder is not None and result.records and hard.records:
        for warning in tables.write(result.folder, result.loaded_suite, result.records, hard.records):
            on_event(Note(warning, warning=True))
    return joined_up


def run_cells(
    synthetic_set: SyntheticSet,
    cells: Sequence[Cell],
    folder: Folder,
    test: data.RealData,
    *,
    device: str = "auto",
    engine: Wanted = "auto",
    launcher: Ray | None = None,
    on_event: Listener = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[RunRecord]:
    """Run cells here or on the launcher's cluster; returns the records of all cells that have one, in order."""
    if launcher is None:
        return local.run(
            synthetic_set, cells, folder, test, device=device, engine=engine, on_event=on_event, should_stop=should_stop
        )
    from mabench.runs import ray_cluster

    return ray_cluster.run(
        synthetic_set, cells, folder, test, launcher, device=device, engine=engine, on_event=on_event, should_stop=should_stop
    )


def _checked(device: str, name: str, launcher: Ray | None, minutes: float | None) -> Wanted:
    """The engine that was asked for. Raises MabenchError for what cannot be run here."""
    if launcher is None:
        if resolve_device(device).type == "mps" and name == "fast":
            raise MabenchError("--engine fast: only for cpu and cuda. With --device mps use --engine reference, or leave it out.")
    else:
        launcher.check(device)  # a cluster's devices are not known from here
        if minutes is not None:
            raise MabenchError("--minutes plans for this machine. With --launcher ray leave it out, or use --shard.")
    if minutes is not None and minutes <= 0:
        raise MabenchError(f"--minutes {minutes:g}: nothing fits. Allowed: more than 0.")
    return wanted(name)
