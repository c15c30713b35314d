"""Everything that a step of HMDC changes: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import kit
from ..kit import RealImages
from .balance import GradientBalance, Record
from .config import Config
from .decomposition import Distillation, shapes
from .images import initial
from .learners import draw_learners
from .selection import choose

STREAMS = ("images", "batches", "networks", "augmentation", "training")


class State:
    """Images, networks, their alignment, the balance, and the random streams of a condensation."""

    def __init__(self, config: Config, real: RealImages, seed: int) -> None:
        self.config, self.real = config, real
        entry = real.dataset
        self.streams = kit.generators(seed, (*STREAMS, *config.pretraining_streams))
        self.learners = draw_learners(config, real, self.streams["networks"])
        self.network_optimizer = self._network_optimizer()
        self.distillation, self.alignment_optimizer = self._alignment()
        self.balance = GradientBalance(
            entry.num_classes, len(config.losses), config.accumulator, config.gradient_balance, real.device
        )
        self.record = Record(config.losses)
        count = min(config.real_batch, *(len(rows) for rows in real.rows)) if config.representatives == "released" else 0
        self.rows = torch.zeros(entry.num_classes, count, dtype=torch.long)
        """Rows of every class's real batch; none where batches are random."""
        shape = (entry.num_classes * config.ipc, entry.channels, entry.image_size, entry.image_size)
        self.images = torch.zeros(shape, device=real.device, requires_grad=True)
        self.image_optimizer = torch.optim.SGD([self.images], lr=config.image_rate, momentum=config.image_momentum)
        self.unit = 1 / real.std if config.image_space == "pixels" else torch.ones_like(real.std)
        """Of the space in which the images move, in that of the images, [1,C,1,1]."""

    def begin(self) -> None:
        """Fill the images with real ones."""
        with torch.no_grad():
            self.images.copy_(initial(self.config, self.real, self.learners[0], self.streams["images"]))

    def renew(self) -> None:
        """Begin an iteration: new networks and alignment, an empty accumulator where it is the released one, clamped images where that is
        done here."""
        for learner in self.learners:
            learner.reset(kit.seed_from(self.streams["networks"]))
        self.network_optimizer = self._network_optimizer()
        self.distillation, self.alignment_optimizer = self._alignment()
        self.balance.restart()
        if self.config.clamp == "iteration":
            self._clamp()

    def choose_representatives(self, turn: int) -> None:
        """Choose every class's real batch anew, as one of the networks sees the class; the networks take turns."""
        learner, count, generator = self.learners[turn % len(self.learners)], self.rows.shape[1], self.streams["batches"]
        for label in range(len(self.rows)):
            self.rows[label] = choose(learner, self.real, label, count, self.config.pool, generator, distinct=False)

    @torch.no_grad()
    def move(self, direction: Tensor) -> Tensor:
        """Take one step of all images against `direction` [K*ipc,C,S,S], which counts in units of `unit`; return how far a pixel moved on
        average, in 255ths, []."""
        before = self.images.detach().clone()
        self.images.grad = direction * self.unit
        self.image_optimizer.step()
        if self.config.clamp == "step":
            self._clamp()
        return 255 * ((self.images - before) * self.real.std).abs().mean()

    @torch.no_grad()
    def _clamp(self) -> None:
        self.images.clamp_((0 - self.real.mean) / self.real.std, (1 - self.real.mean) / self.real.std)

    def live(self, done: int) -> Mapping[str, Any]:
        """Return the live objects of a checkpoint after `done` steps."""
        return {
            "phase": "condensation",
            "done": done,
            "images": self.images,
            "image_optimizer": self.image_optimizer,
            "networks": {str(number): learner.network for number, learner in enumerate(self.learners)},
            "network_optimizer": self.network_optimizer,
            "alignment": self.distillation,
            "alignment_optimizer": self.alignment_optimizer,
            "balance": self.balance.sums,
            "record": self.record.rows,
            "rows": self.rows,
            "streams": self.streams,
        }

    def _network_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        groups = [{"params": learner.trained(), "lr": rate} for learner, rate in zip(self.learners, config.rates, strict=True)]
        return torch.optim.SGD(groups, lr=0.0, momentum=config.network_momentum, weight_decay=config.network_decay)

    @torch.no_grad()
    def _alignment(self) -> tuple[Distillation, torch.optim.Optimizer]:
        """A fresh alignment that fits the shapes of the networks' features, and its optimizer."""
        entry = self.real.dataset
        blank = torch.zeros(1, entry.channels, entry.image_size, entry.image_size, device=self.real.device)
        sizes = [shapes(learner.in_evaluation(blank)[1]) for learner in self.learners]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(kit.seed_from(self.streams["networks"]))
            distillation = Distillation(sizes, self.config.layer_softmax).to(self.real.device)
        parameters = list(distillation.parameters()) or [nn.Parameter(torch.zeros(0))]  # one network has none to align
        if self.config.alignment_optimizer == "released":
            return distillation, torch.optim.Adam(parameters, lr=self.config.alignment_rate)
        return distillation, torch.optim.SGD(parameters, lr=self.config.alignment_rate)
