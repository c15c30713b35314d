"""The synthetic images of HMDC: where they begin, the tiles that they hold, and the augmentation of every batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import augment
from mabench.sets.synthetic import pack_grid

from .. import kit
from ..kit import RealImages
from .config import PLANS, Config
from .learners import Learner
from .selection import choose


def initial(config: Config, real: RealImages, learner: Learner, generator: torch.Generator) -> Tensor:
    """Return the stored images [K*ipc,C,S,S] before the first step: real ones, packed, class by class."""
    count, packed = config.ipc * config.formation**2, []
    for label in range(real.dataset.num_classes):
        if config.initial == "paper":
            images = real.draw(label, count, generator)
        else:
            images = real.at(choose(learner, real, label, count, config.pool, generator, distinct=True))
        packed.append(pack_grid(images, config.formation))
    return torch.cat(packed)


def tiles(images: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Return what stored images [ipc,C,S,S] hold, in the order of `SyntheticSet.decoded`; a random part where that is much."""
    factor, side = config.formation, images.shape[-1] // config.formation
    parts = [
        images[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
        for column in range(factor)
        for row in range(factor)
    ]
    cut = torch.cat(parts)
    if len(cut) > config.synthetic_batch:
        cut = cut[torch.randperm(len(cut), generator=generator)[: config.synthetic_batch].to(cut.device)]
    return F.interpolate(cut, size=images.shape[-1], mode="bilinear", align_corners=True) if factor > 1 else cut


def augmented(
    config: Config, images: Tensor, targets: Tensor | None, seed: int, *, siamese: bool = False
) -> tuple[Tensor, Tensor]:
    """Augment images [B,C,S,S] and targets [B,K] by the configuration's plan, every draw from `seed`. Without targets CutMix mixes
    within a class, or where nothing reads the labels."""
    plan = PLANS["idc, networks" if config.augmentation == "idc" and not siamese else config.augmentation]
    mix = config.evaluators[0].family not in plan.cutmix_except
    generator = torch.Generator(images.device).manual_seed(seed)
    labels = images.new_zeros(len(images), 1) if targets is None else targets
    return augment.augment(images, labels, plan, generator, mix=mix, siamese=siamese)


def class_batches(
    config: Config, real: RealImages, images: Tensor, label: int, rows: Tensor, streams: dict[str, torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Return a real batch [R,C,S,S] of a class and the tiles [B,C,S,S] of its stored images, under the same augmentation.

    `rows` are the class's representatives; without any, random images of the class are drawn.
    """
    batch = real.at(rows) if len(rows) else real.draw(label, config.real_batch, streams["batches"])
    synthetic = tiles(images[label * config.ipc : (label + 1) * config.ipc], config, streams["batches"])
    shared = kit.seed_from(streams["augmentation"])
    batch, synthetic = (augmented(config, x, None, shared, siamese=True)[0] for x in (batch, synthetic))
    return batch, synthetic
