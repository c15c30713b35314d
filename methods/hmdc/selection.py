"""K-means on what a network sees: representative real images of a class (Liu et al., DREAM, ICCV 2023), as HMDC's released code
uses them for its initial images and its real batches."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kit
from ..kit import RealImages
from .learners import Learner


def representatives(points: Tensor, count: int, generator: torch.Generator, *, distinct: bool) -> Tensor:
    """Return the numbers of the points [N,D] nearest to `count` k-means centres, [count] on the CPU; with `distinct` every point serves
    one centre. The generator is on the CPU."""
    values = points.cpu().numpy()
    centres, _ = kit.k_means(values, count, kit.seed_from(generator) % 2**32)
    return torch.tensor(kit.nearest(values, centres, distinct=distinct))


@torch.no_grad()
def choose(
    learner: Learner, real: RealImages, label: int, count: int, pool: int, generator: torch.Generator, *, distinct: bool
) -> Tensor:
    """Rows [count] of a class's representative images, among `pool` random ones of the class (0 = all of them)."""
    rows = real.rows[label]
    if pool and pool < len(rows):
        rows = rows[torch.randperm(len(rows), generator=generator)[: max(pool, count)]]
    part = 50 if real.device.type == "cpu" else 1000  # larger parts leave a processor's caches
    learner.network.eval()  # batch norm keeps its running statistics
    with learner.network.configured(once=True):
        points = torch.cat([learner.network.embed(real.at(r)).float() for r in torch.split(rows, part)])
    learner.train()
    return rows[representatives(points, count, generator, distinct=distinct)]
