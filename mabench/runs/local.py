"""Run cells here, one after the other: skip finished ones, save each record as it comes, and go on when one does not fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mabench.data import RealData
from mabench.errors import Interrupted
from mabench.runs.events import Finished, Listener, Note, Progress, silent
from mabench.runs.folder import Folder
from mabench.runs.memory import failure, give_back, is_out_of_memory
from mabench.runs.process import resolve_device, undisturbed
from mabench.schema import Cell, RunRecord
from mabench.sets.synthetic import SyntheticSet

if TYPE_CHECKING:
    import torch

    from mabench import training
    from mabench.engine import Wanted

WAIT_SECONDS = 0.5  # ours: between two looks whether another process has finished its cell


def run(
    synthetic_set: SyntheticSet,
    cells: Sequence[Cell],
    folder: Folder,
    test: RealData,
    *,
    device: str,
    engine: Wanted = "reference",
    on_event: Listener = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[RunRecord]:
    """Run what is not finished; returns the records of all cells that have one, in order.

    A cell that runs out of memory is reported as `Failed` and left out; its batch is never changed. Raises Interrupted once
    `should_stop()` answers True: the cell under way has its checkpoint then, and no other begins. Two of these in one folder share the cells.
    """
    work = _Work(synthetic_set, cells, folder, test, resolve_device(device), engine, on_event, should_stop)
    with undisturbed():
        work.run_all()
    return [work.finished[cell.name] for cell in cells if cell.name in work.finished]


class _Work:
    """The cells that one process works off."""

    def __init__(
        self,
        synthetic_set: SyntheticSet,
        cells: Sequence[Cell],
        folder: Folder,
        test: RealData,
        device: torch.device,
        engine: Wanted,
        on_event: Listener,
        should_stop: Callable[[], bool],
    ) -> None:
        from mabench.runs import costs

        self.synthetic_set, self.folder, self.test = synthetic_set, folder, test
        self.device, self.engine, self.on_event, self.should_stop = device, engine, on_event, should_stop
        self.finished, self.cost = begin(synthetic_set, cells, folder, test, on_event)
        decoded = synthetic_set.summary().decoded_images
        self.panel_work = costs.panel_work(cells, test.dataset, decoded, len(test.labels))
        self.count, self.total, self.done = len(cells), sum(self.cost.values()), 0.0
        self.left = [(index, cell) for index, cell in enumerate(cells) if cell.name in self.cost]

    def run_all(self) -> None:
        """Round by round: what another process is working on is asked for again in the next round."""
        from mabench import training

        with training.deterministic(self.device):
            while self.left:
                busy = [(index, cell) for index, cell in self.left if not self._claim_and_run(index, cell)]
                if len(busy) == len(self.left):
                    time.sleep(WAIT_SECONDS)
                    if self.should_stop():
                        raise Interrupted
                self.left = busy

    def _claim_and_run(self, index: int, cell: Cell) -> bool:
        """False where another process is working on this cell in the same folder."""
        with self.folder.working(cell) as claimed:
            if not claimed:
                return False
            record = self.folder.finished(cell)  # by another process, a moment ago
            fresh = record is None
            if record is None:
                if self.should_stop():  # before a network is built and compiled for a single step
                    raise Interrupted
                record = self._run(index, cell)
            if record is not None:
                self.finished[cell.name] = record
                self.on_event(Finished(record, resumed=not fresh))
            self.done += self.cost[cell.name]
            return True

    def _run(self, index: int, cell: Cell) -> RunRecord | None:
        """The record of a cell, saved; None where its memory was not enough."""
        from mabench import training

        begun, cost = self.done, self.cost[cell.name]

        def on_progress(progress: training.Progress) -> None:
            done = begun + cost * min(progress.done / progress.total, 1.0)
            self.on_event(Progress(cell, index, self.count, done, self.total, progress.epoch, progress.epochs, progress.accuracy))

        try:
            record = training.run(
                self.synthetic_set,
                cell,
                self.test,
                device=self.device,
                engine=self.engine,
                checkpoint=self.folder.checkpoint_path(cell),
                on_progress=on_progress,
                should_stop=self.should_stop,
                panel_work=self.panel_work[cell.name],
            )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.on_event(failure(cell, error, self.device.type))
        else:
            self.folder.save(record)
            return record
        give_back(self.device)  # outside of the handler, whose traceback holds the network
        return None


def begin(
    synthetic_set: SyntheticSet, cells: Sequence[Cell], folder: Folder, test: RealData, on_event: Listener
) -> tuple[dict[str, RunRecord], dict[str, float]]:
    """By name: the records found on disk, which `on_event` hears of, and the floating-point operations of all other cells.

    Claims the folder. Raises MabenchError where a record or the folder is not what it should be.
    """
    from mabench.runs import costs

    finished = {cell.name: record for cell in cells if (record := folder.finished(cell)) is not None}
    for record in finished.values():
        on_event(Finished(record, resumed=True))
        with suppress(OSError):  # a folder that cannot be written can still be read
            folder.drop_checkpoint(record.cell)
    for text in folder.damaged.values():
        on_event(Note(f"computed again: {text}", warning=True))
    decoded = synthetic_set.summary().decoded_images
    cost = {c.name: costs.flops(c, test.dataset, decoded, len(test.labels)) for c in cells if c.name not in finished}
    claim(folder, synthetic_set)
    return finished, cost


def claim(folder: Folder, synthetic_set: SyntheticSet) -> None:
    """Create the folder, if need be, and note whose it is."""
    folder.claim({"set_name": synthetic_set.name, "findings": [f.model_dump() for f in synthetic_set.findings]})
