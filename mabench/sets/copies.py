"""The nearest real image of every training image, pixel by pixel: copies of a split are found by it. `leaks` decides."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import RealData

SIDE = 32  # ours: larger images are averaged down to this side; averaging never makes a distance larger
VALUES = 3_000_000  # ours: of a split, in memory at once; 1,000 images of CIFAR-10


def nearest_real(images: Tensor, real: RealData, factor: int = 1) -> tuple[Tensor, Tensor]:
    """Root-mean-square distance, 1.0 = black to white, of every image [M,C,S,S] to the nearest of a real split, and its index.

    Mirrored images count too; for a set that stores grids, so do real images shrunk to a tile and enlarged again, with and
    without antialiasing. Above 32 px both sides are averaged to 32 px, which can only make distances smaller.
    """
    side, size = min(images.shape[-1], SIDE), images.shape[-1]

    def flat(batch: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(batch, side).flatten(1)

    queries = torch.cat([flat(images), flat(images.flip(-1))])
    best = torch.full((len(queries),), math.inf)
    index = torch.zeros(len(queries), dtype=torch.int64)
    norms = (queries**2).sum(1, keepdim=True)
    for first, pixels in chunks(real.images):
        for variant in (pixels, *_through_a_tile(pixels, size, factor)):
            candidates = flat(variant)
            places = (norms + (candidates**2).sum(1)[None] - 2 * queries @ candidates.T).argmin(1)
            # the expanded square cancels near zero: the winners' distances are taken again from their differences
            exact = ((queries - candidates[places]) ** 2).mean(1).sqrt()
            better = exact < best
            best[better], index[better] = exact[better], places[better] + first
    rows = torch.stack([best[: len(images)], best[len(images) :]])
    return rows.min(0).values, torch.where(rows.argmin(0) == 0, index[: len(images)], index[len(images) :])


def _through_a_tile(pixels: Tensor, size: int, factor: int) -> Iterator[Tensor]:
    """As a grid of `factor` x `factor` stores and decodes them, shrunk with and without antialiasing."""
    if factor > 1:
        for antialias in (False, True):
            small = F.interpolate(
                pixels, size=(size // factor,) * 2, mode="bilinear", align_corners=not antialias, antialias=antialias
            )
            yield F.interpolate(small, size=(size, size), mode="bilinear", align_corners=True)


def chunks(images: npt.NDArray[np.uint8]) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, pixels) of a split, some at a time."""
    size = max(1, VALUES // images[0].size)
    for first in range(0, len(images), size):
        yield first, torch.from_numpy(np.array(images[first : first + size])).float() / 255
