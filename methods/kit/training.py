"""Training of a network on real images: the one loop that experts, teachers and feature networks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .networks import MeanGradient
from .real_images import RealImages

Losses = dict[str, float]


class Training:
    """A network in training, one optimizer step at a time.

        for every epoch
            rate of the optimizer <- rate(epoch)
            shuffle: order(epoch) -> row numbers, cut into batches, the last one as short as it comes out
            for every batch: backward(rows, step) leaves gradients in the network; the optimizer steps

    `state` is what a checkpoint needs beside the generators that `order` and `backward` draw from. Nothing else is kept, so a
    resumed training continues with the same batches.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int,
        images: int,
        batch: int,
        order: Callable[[int], Tensor],
        backward: Callable[[Tensor, int], Losses],
        rate: Callable[[int], float],
    ) -> None:
        """`images`: rows in an epoch, as many as `order` returns."""
        self.network, self.optimizer, self.batch = network, optimizer, batch
        self.order, self.backward, self.rate = order, backward, rate
        self.per_epoch = -(-images // batch)
        self.steps = epochs * self.per_epoch
        self.done = 0
        """Steps taken."""
        self.rows = torch.zeros(0, dtype=torch.int64)
        """Row numbers of the epoch under way, [images] on the CPU."""

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.done // self.per_epoch

    @property
    def position(self) -> int:
        """Batches of the epoch under way that are done."""
        return self.done % self.per_epoch

    def step(self) -> Losses:
        """Take one optimizer step; return what `backward` returned."""
        if self.position == 0:
            self.optimizer.param_groups[0]["lr"] = self.rate(self.epoch)
            self.rows = self.order(self.epoch)
        rows = self.rows[self.position * self.batch : (self.position + 1) * self.batch]
        losses = self.backward(rows, self.done)
        self.optimizer.step()
        self.done += 1
        return losses

    def state(self) -> dict[str, Any]:
        """Return the live objects of a checkpoint."""
        return {"done": self.done, "rows": self.rows, "network": self.network, "optimizer": self.optimizer}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Continue where `state` was copied."""
        self.done, self.rows = int(saved["done"]), saved["rows"]
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])  # the rate is part of it


def train_plainly(
    network: nn.Module,
    real: RealImages,
    epochs: int,
    generator: torch.Generator,
    *,
    kind: str | None = None,
    rate: float = 0.01,  # DC's released evaluation: rate, momentum, weight decay, batch
    batch: int = 256,
    on_batch: Callable[[Tensor, Tensor], None] = lambda rows, hits: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_epoch: Callable[[int, int, float], None] = lambda done, total, accuracy: None,
) -> None:
    """Train with plain cross-entropy on the train split, no augmentation, rate x0.1 after half of the epochs.

    `on_batch(rows [B], hits [B])` is told which images were classified correctly just before their step. After a step
    either `on_step(steps done, in all)` is called or, where an epoch ends, `on_epoch(steps done, in all, share of such images)`.
    """
    gradient = MeanGradient(real.device, kind)
    right = 0

    def backward(rows: Tensor, step: int) -> Losses:
        nonlocal right
        gradients = gradient(network, real.at(rows), real.labels[rows.to(real.device)])
        for parameter, value in zip(network.parameters(), gradients, strict=True):
            parameter.grad = value
        on_batch(rows, gradient.hits.cpu())
        right += int(gradient.hits.sum())
        return {}

    training = Training(
        network,
        torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4),
        epochs=epochs,
        images=len(real.labels),
        batch=batch,
        order=lambda epoch: torch.randperm(len(real.labels), generator=generator),
        backward=backward,
        rate=lambda epoch: rate / 10 if epochs > 1 and epoch >= epochs // 2 else rate,
    )
    network.train()
    while training.done < training.steps:
        training.step()
        if training.position:
            on_step(training.done, training.steps)
        else:
            on_epoch(training.done, training.steps, right / len(real.labels))
            right = 0
