"""The first steps of an evaluator run, and nothing after them: seconds, for whoever checks a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from mabench.data import RealData
from mabench.errors import Interrupted
from mabench.schema import Cell
from mabench.sets.synthetic import SyntheticSet
from mabench.training.loop import FIRST_LOSSES, Trainer
from mabench.training.material import Material
from mabench.training.progress import Watch


def first_losses(
    synthetic_set: SyntheticSet,
    cell: Cell,
    test: RealData,
    device: torch.device,
    *,
    moved: float = 0.0,
    enough: Callable[[Sequence[float]], bool] = lambda losses: False,
) -> tuple[str, tuple[float, ...]]:
    """Digest of the initial weights and the losses of the first ten steps, -1 where not finite, by the reference engine.

    `moved`: the part of itself by which every initial weight is then raised or lowered, as rounding might have done; which way,
    a fixed draw says. `enough` of the losses so far ends it earlier. For recipes without a teacher. Raises MabenchError where pretrained weights are missing.
    """
    material = Material(synthetic_set, cell, test, device)
    trainer = Trainer(material, cell.evaluator, "reference")
    state = trainer.state
    if moved:
        _move(trainer.model, moved)

    def losses() -> tuple[float, ...]:
        return tuple(loss if math.isfinite(loss) else -1.0 for loss in map(float, state.first_losses))

    def done() -> bool:
        return len(state.first_losses) >= FIRST_LOSSES or enough(losses())

    watch = Watch(cell, "reference", len(material.images), len(material.test_labels), should_stop=done)
    try:
        while state.epoch < cell.recipe.epochs and not done():
            trainer.train_epoch(watch)
    except Interrupted:
        pass
    return state.initial_weights, losses()


@torch.no_grad()
def _move(model: nn.Module, part: float) -> None:
    draw = torch.Generator().manual_seed(0)  # the same draw on every device
    for weight in model.parameters():
        up = torch.randint(0, 2, weight.shape, generator=draw).to(weight)
        weight.mul_(1 + part * (2 * up - 1))
