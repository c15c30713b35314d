"""K-means on what a network sees: representative real images of a class (Liu et al., DREAM, ICCV 2023), as HMDC's released code
uses them for its initial images and its real batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kit import RealImages
from .pair import Learner

ROUNDS = 100  # released code: Lloyd rounds at most


def k_means(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres [count,D] of points [N,D], on their device: k-means++ seeds (Arthur & Vassilvitskii 2007), then Lloyd's rounds until
    no point changes its centre. A centre without points stays where it is. The generator is on the CPU."""
    squares = (points**2).sum(1)
    picks = [int(torch.randint(len(points), (), generator=generator))]
    nearest = _squared(points, squares, points[picks[0]].unsqueeze(0)).squeeze(1)
    while len(picks) < count:
        # the draw happens on the CPU, so that every device draws the same numbers
        total = nearest.double().cumsum(0)
        draw = float(torch.rand((), generator=generator, dtype=torch.float64)) * float(total[-1])
        picks.append(min(int(torch.searchsorted(total, draw)), len(points) - 1))
        nearest = torch.minimum(nearest, _squared(points, squares, points[picks[-1]].unsqueeze(0)).squeeze(1))
    centres, owner = points[picks].clone(), points.new_full((len(points),), -1, dtype=torch.long)
    for _ in range(ROUNDS):
        before, owner = owner, _squared(points, squares, centres).argmin(1)
        if torch.equal(before, owner):
            break
        sizes = torch.bincount(owner, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = torch.where((sizes > 0).unsqueeze(1), sums / sizes.clamp_min(1).unsqueeze(1), centres)
    return centres


def _squared(points: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [N,count]."""
    return (squares.unsqueeze(1) - 2 * points @ centres.T + (centres**2).sum(1)).clamp_min(0)


def representatives(points: Tensor, count: int, generator: torch.Generator, *, distinct: bool) -> Tensor:
    """Numbers of the points nearest to `count` centres, [count] on the CPU; with `distinct` every point serves one centre."""
    centres = k_means(points, count, generator)
    distance = _squared(points, (points**2).sum(1), centres)
    if not distinct:
        return distance.argmin(0).cpu()
    picks = []
    for centre in range(count):
        picks.append(int(distance[:, centre].argmin()))
        distance[picks[-1]] = torch.inf
    return torch.tensor(picks)


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
    points = torch.cat([learner.network.embed(real.at(r)).float() for r in torch.split(rows, part)])
    learner.train()
    return rows[representatives(points, count, generator, distinct=distinct)]
