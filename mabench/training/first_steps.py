"""The first steps of an evaluator run, and nothing after them: seconds, for whoever checks a record."""

from __future__ import annotations

import math

import torch

from mabench.data import RealData
from mabench.errors import Interrupted
from mabench.schema import Cell
from mabench.sets.synthetic import SyntheticSet
from mabench.training.loop import FIRST_LOSSES, Trainer
from mabench.training.material import Material
from mabench.training.progress import Watch


def first_losses(synthetic_set: SyntheticSet, cell: Cell, test: RealData, device: torch.device) -> tuple[str, tuple[float, ...]]:
    """Digest of the initial weights and the losses of the first ten steps, -1 where not finite, by the reference engine.

    For recipes without a teacher. Raises MabenchError where pretrained weights are missing.
    """
    material = Material(synthetic_set, cell, test, device)
    trainer = Trainer(material, cell.evaluator, "reference")
    state = trainer.state

    def enough() -> bool:
        return len(state.first_losses) >= FIRST_LOSSES

    watch = Watch(cell, "reference", len(material.images), len(material.test_labels), should_stop=enough)
    try:
        while state.epoch < cell.recipe.epochs and not enough():
            trainer.train_epoch(watch)
    except Interrupted:
        pass
    losses = [float(loss) for loss in state.first_losses]
    return state.initial_weights, tuple(loss if math.isfinite(loss) else -1.0 for loss in losses)
