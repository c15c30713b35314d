"""Plan cells, skip finished ones, run the rest here, with one progress display."""

from __future__ import annotations

import fnmatch
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from mabench.data import DATASETS, RealData
from mabench.errors import Interrupted, MabenchError, first_line, lookup
from mabench.runs.folder import Folder
from mabench.schema import Cell, Evaluator, RunRecord
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import Exam

if TYPE_CHECKING:
    import torch

    from mabench.engine import Wanted

WAIT_SECONDS = 0.5  # ours: between two looks whether another process has finished its cell


def plan(
    exam: Exam,
    synthetic_set: SyntheticSet,
    *,
    track: str | None = None,
    evaluator: str | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """The cells of this set's exam, see `select`. Raises MabenchError for a set that the suite does not admit, too."""
    check_admitted(exam, synthetic_set)
    return [
        Cell(
            set_sha256=synthetic_set.sha256,
            suite=exam.id,
            suite_digest=exam.digest,
            track=name,
            evaluator=entry,
            recipe=exam.recipes[name],
            seed=seed,
            labels_sha256=synthetic_set.recorded.sha256 if exam.recipes[name].recorded is not None else None,
        )
        for name, entry, seed in select(exam, track=track, evaluator=evaluator, seeds=seeds)
    ]


def select(
    exam: Exam, *, track: str | None = None, evaluator: str | None = None, seeds: Sequence[int] | None = None
) -> list[tuple[str, Evaluator, int]]:
    """(track, evaluator, seed), cheapest evaluators in table order, seed by seed within an evaluator.

    `evaluator` is a glob over names. Raises MabenchError for a track, evaluator or seed that the suite does not have.
    """
    if track is not None:
        lookup(exam.evaluators, track, f"track of {exam.id}")
    names = {e.name: e for evaluators in exam.evaluators.values() for e in evaluators}
    if evaluator is not None and not fnmatch.filter(names, evaluator):
        lookup(names, evaluator, f"evaluator of {exam.id}")
    chosen_seeds = exam.suite.seeds if seeds is None else tuple(seeds)
    extra = sorted(set(chosen_seeds) - set(exam.suite.seeds))
    if extra:
        raise MabenchError(
            f"seed {first_line(map(str, extra))} is not one of {exam.id}'s seeds ({first_line(map(str, exam.suite.seeds))}): "
            "a number under other seeds is not comparable"
        )
    return [
        (name, entry, seed)
        for name, entries in exam.evaluators.items()
        if track in (None, name)
        for entry in entries
        if evaluator is None or fnmatch.fnmatchcase(entry.name, evaluator)
        for seed in chosen_seeds
    ]


def check_admitted(exam: Exam, synthetic_set: SyntheticSet) -> None:
    """Raise MabenchError unless the suite is about this set's dataset, admits its balance, and has the labels that it replays."""
    lookup(DATASETS, exam.suite.dataset, "dataset")
    if synthetic_set.dataset != exam.suite.dataset:
        raise MabenchError(
            f"{synthetic_set.name}: is a set for {synthetic_set.dataset}, but {exam.id} examines {exam.suite.dataset}. "
            f"Choose a suite for {synthetic_set.dataset} (mabench list), or correct the guess with --dataset."
        )
    if exam.suite.balanced and not synthetic_set.balanced:
        counts = synthetic_set.class_counts
        raise MabenchError(
            f"{synthetic_set.name}: classes have {min(counts)} to {max(counts)} stored images; {exam.id} wants the same number "
            "for every class. Store equally many, or use a suite of your own with balanced = false."
        )
    for recipe in exam.recipes.values():
        if recipe.recorded is not None:
            synthetic_set.recorded.check(recipe, exam.id)


@dataclass(frozen=True)
class Step:
    """What a display is told while cells run."""

    cell: Cell
    index: int
    """Of this cell among all cells, from 0."""
    done: float
    """Of all unfinished work, in forward-pass equivalents of one image times that network's cost."""
    total: float
    epoch: int
    epochs: int
    accuracy: float | None


def evaluate(
    exam: Exam,
    synthetic_set: SyntheticSet,
    cells: Sequence[Cell],
    folder: Folder,
    test: RealData,
    *,
    device: str,
    engine: Wanted = "reference",
    on_step: Callable[[Step], None] = lambda step: None,
    on_record: Callable[[RunRecord, bool], None] = lambda record, fresh: None,
) -> list[RunRecord]:
    """Run what is not finished; returns the records of all cells, in order.

    `on_record(record, fresh)` hears of every cell once, first of those found on disk (fresh=False). SIGINT or SIGTERM saves a
    checkpoint and raises schema.Interrupted; a second one ends the program at once. Two of these in one folder share the cells.
    """
    from mabench.training import loop as protocol

    where = resolve_device(device)
    finished, cost = begin(synthetic_set, cells, folder, test, on_record)
    total, before = sum(cost.values()), 0.0
    left = [(index, cell) for index, cell in enumerate(cells) if cell.name not in finished]
    with stop_on_signal() as should_stop, protocol.deterministic(where):
        while left:
            busy = []  # cells that other processes run in this folder
            for index, cell in left:
                with folder.working(cell) as mine:
                    if not mine:
                        busy.append((index, cell))
                        continue
                    begun, own = before, cost[cell.name]

                    def report(
                        progress: protocol.Progress,
                        *,
                        cell: Cell = cell,
                        index: int = index,
                        begun: float = begun,
                        own: float = own,
                    ) -> None:
                        share = min(progress.done / progress.total, 1.0)
                        on_step(Step(cell, index, begun + own * share, total, progress.epoch, progress.epochs, progress.accuracy))

                    record = folder.finished(cell)  # by another process, a moment ago
                    fresh = record is None
                    if record is None:
                        record = protocol.run(
                            synthetic_set,
                            cell,
                            test,
                            device=where,
                            engine=engine,
                            checkpoint=folder.checkpoint_path(cell),
                            on_progress=report,
                            should_stop=should_stop,
                        )
                        folder.save(record)
                    finished[cell.name] = record
                    on_record(record, fresh)
                    before += own
            if len(busy) == len(left):
                time.sleep(WAIT_SECONDS)
                if should_stop():
                    raise Interrupted
            left = busy
    return [finished[cell.name] for cell in cells]


def begin(
    synthetic_set: SyntheticSet,
    cells: Sequence[Cell],
    folder: Folder,
    test: RealData,
    on_record: Callable[[RunRecord, bool], None],
) -> tuple[dict[str, RunRecord], dict[str, float]]:
    """By name: the records found on disk, which `on_record` hears of, and the floating-point operations of all other cells.

    Claims the folder. Raises MabenchError where a record or the folder is not what it should be.
    """
    from mabench.runs import costs

    finished = {cell.name: record for cell in cells if (record := folder.finished(cell)) is not None}
    for record in finished.values():
        on_record(record, False)
        with suppress(OSError):  # a folder that cannot be written can still be read
            folder.drop_checkpoint(record.cell)
    decoded = synthetic_set.summary().decoded_images
    cost = {c.name: costs.flops(c, test.dataset, decoded, len(test.labels)) for c in cells if c.name not in finished}
    folder.claim({"set_name": synthetic_set.name, "findings": [f.model_dump() for f in synthetic_set.findings]})
    return finished, cost


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` is the first GPU, else the processor. Raises MabenchError if it is not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MabenchError(f"--device {name}: no such kind of device. Allowed: auto, cpu, cuda, cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise MabenchError(f"--device {name}: not supported. Allowed: auto, cpu, cuda, cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MabenchError(f"--device {name}: this machine has no GPU that torch can use. Use --device cpu, or auto.")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise MabenchError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s), numbered from 0.")
    return device


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within it, the first SIGINT or SIGTERM only sets a flag that the loop reads; the next one acts as usual."""
    caught: list[int] = []
    previous: dict[signal.Signals, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for own, before in previous.items():
            signal.signal(own, before)

    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.signal(signum, handle)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        previous.clear()
    try:
        yield lambda: bool(caught)
    finally:
        for own, before in previous.items():
            signal.signal(own, before)


def default_folder(synthetic_set: SyntheticSet, exam: Exam) -> Path:
    """`results/<set>-<first 8 of its sha256>/<suite>`: stable, so that the same command resumes."""
    return Path("results") / f"{synthetic_set.file_stem}-{synthetic_set.sha256[:8]}" / exam.id
