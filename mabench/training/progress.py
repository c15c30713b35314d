"""The clock of an evaluator run: progress, checkpoints in time, interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mabench.engine import EngineName
from mabench.errors import Interrupted
from mabench.schema import Cell
from mabench.training import state as states
from mabench.training.state import TrainState

CHECKPOINT_SECONDS = 45.0  # ours: at most a minute of work is lost, with room for one slow step
TRAIN_COST = 3.0  # forward + backward, in forward passes: the usual rule of thumb, used only for time estimates


@dataclass(frozen=True)
class Progress:
    """How far an evaluator run is, in forward passes of one image."""

    done: float
    total: float
    epoch: int
    epochs: int
    accuracy: float | None


def work(cell: Cell, decoded_images: int, test_images: int) -> float:
    """Cost of an evaluator run in forward passes of one image."""
    test_passes = math.ceil(cell.recipe.epochs / cell.recipe.test_every)
    training = cell.recipe.epochs * decoded_images * TRAIN_COST
    return training * (2 if cell.recipe.distillation else 1) + test_passes * test_images


class Watch:
    """Called between any two steps: reports progress, saves a checkpoint when it is time, stops when asked to."""

    def __init__(
        self,
        cell: Cell,
        engine: EngineName,
        decoded_images: int,
        test_images: int,
        *,
        checkpoint: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cell, self.engine, self.test_images = cell, engine, test_images
        self.total = work(cell, decoded_images, test_images)
        self.checkpoint, self.on_progress, self.should_stop = checkpoint, on_progress, should_stop
        self.clock = self.saved_at = time.monotonic()

    def tick(self, state: TrainState) -> None:
        """Add the time since the last tick to the state's seconds."""
        now = time.monotonic()
        state.seconds += now - self.clock
        self.clock = now

    def advance(self, state: TrainState, images: float) -> None:
        """So many forward passes of one image are done. Raises Interrupted, the state saved, once `should_stop()` is True."""
        state.done += images
        if self.on_progress is not None:
            accuracy = state.curve[-1][1] / self.test_images if state.curve else None
            self.on_progress(Progress(state.done, self.total, state.epoch, self.cell.recipe.epochs, accuracy))
        stop = self.should_stop()
        if stop or time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS:
            self.tick(state)
            self.saved_at = time.monotonic()
            if self.checkpoint is not None:
                states.save(self.checkpoint, state, self.cell, self.engine)
        if stop:
            raise Interrupted
