"""Is a training image an image of the test split, whatever was done to it? Likeness that undoes what costs a cheater nothing.

Two measures. `distance` finds copies: root mean square of the pixels. `likeness` finds disguises: correlation of grey images at
low resolution over mirrorings, quarter turns, shifts, zooms, small rotations and inversion, a covered part left out; brightness,
contrast, colour, noise and frames hardly change it. By either an image is leaked only where no train image is as near: CIFAR-10
has twins in both splits, and smooth images are like many. `benchmarks/leaks.py` measures what is caught and what is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import RealData
from mabench.sets.copies import SIDE, chunks, nearest_real

NEAR = 0.04  # ours: two thirds of the smallest distance of 600 real train images to a test image (digits .060, CIFAR-10 .067)
ALIKE = 0.9  # ours, and the next: docs/evidence/leaks.md has what they catch
RATIO = 0.5  # ours: a test image must leave half as much of an image unexplained as any train image does
COARSE, FINE = 8, 16
"""Pixels a side at which candidates are found and at which they are compared."""
CANDIDATES = 8  # ours: images of a split that are compared closely with each image
FRAMES = (2, 4)  # ours: pixels at the border that are not looked at; shifts and frames change them
FLAT, STEP = 5, 0.02  # ours: side of a square that is flat, and how far its values may lie apart
LEAST_FLAT, MOST_FLAT = (
    0.06,
    0.65,
)  # ours: parts of an image that are flat and not looked at; cutout of 16 and a shift by 4 leave 53 %
MOST = 5000  # ours: images of a set that are searched for disguises, 20 to a second
PARTS = 64  # ours: images that are compared at once


@dataclass(frozen=True)
class Leak:
    """A training image that is an image of the test split."""

    image: int
    test_image: int
    how: str
    """What was found: `distance 0.012` or `correlation 0.98 in disguise`."""


@dataclass(frozen=True)
class Report:
    """What was found in the images of a set."""

    leaks: tuple[Leak, ...]
    nearest: float
    """Smallest distance of any image to a test image."""
    most_alike: float
    """Largest correlation of any image with a test image."""
    looked_at: int
    """Images that were searched for disguises."""


class Split:
    """A real split, made ready for the search once it is needed."""

    def __init__(self, real: RealData) -> None:
        self.real = real

    @cached_property
    def looks(self) -> Looks:
        return Looks(self.real)


def find(images: Tensor, test: Split, train: Split, factor: int = 1) -> Report:
    """Look at every training image [M,C,S,S], 1.0 = white; `factor`: tiles a side of the grids that they were stored in.

    Of more than `MOST` images, that many are searched for disguises, drawn so that nobody knows which; for copies all are.
    """
    distances, copied = nearest_real(images, test.real, factor)
    copies = _leaked(distances, NEAR, lambda rows: nearest_real(images[rows], train.real, factor)[0], 1.0)
    taken = drawn(len(images))
    likeness, alike = test.looks.likeness(images[taken])
    disguised = _leaked(
        unexplained(likeness), 1 - ALIKE**2, lambda rows: unexplained(train.looks.likeness(images[taken[rows]])[0]), RATIO
    )
    leaks = {int(taken[k]): Leak(int(taken[k]), int(alike[k]), f"correlation {float(likeness[k]):.3f}") for k in disguised}
    leaks |= {k: Leak(k, int(copied[k]), f"distance {float(distances[k]):.4f} of full range") for k in copies}
    return Report(tuple(leaks[k] for k in sorted(leaks)), float(distances.min()), float(likeness.max()), len(taken))


def drawn(count: int) -> Tensor:
    """Indices of the images that are searched for disguises, in order: all, or `MOST` of them by chance."""
    generator = torch.Generator()
    generator.seed()
    return torch.randperm(count, generator=generator)[:MOST].sort().values


def _leaked(to_test: Tensor, limit: float, to_train: Callable[[Tensor], Tensor], ratio: float) -> list[int]:
    """The one rule of both measures, the smaller the nearer: near to a test image, and not as near to any train image."""
    near = torch.nonzero(to_test < limit).flatten()
    return [int(k) for k in near[to_test[near] < ratio * to_train(near)]] if len(near) else []


def unexplained(likeness: Tensor) -> Tensor:
    """Part of an image's variance that the image most like it leaves open."""
    return 1 - likeness**2


# -- disguises ---------------------------------------------------------------------------------------------------------

WINDOWS = ((28, (0,)), (24, (-4, 0, 4)), (20, (0,)))
"""Of a real image that a training image may show: its side, and shifts of its middle. Smaller ones undo a zoom."""
BETWEEN = (24, (-4, -2, 0, 2, 4))
"""More of them, for images as they are or mirrored, and for those that are flat in places, as a large shift leaves them."""
ZOOMS, TURNS, SHIFTS = (0.75, 0.875, 1.0, 1.125), (-0.2, 0.0, 0.2), (-4, -2, 0, 2, 4)
"""What is undone when two images are compared closely: enlargement, rotation in radians, and a shift in pixels."""
EXACT = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
"""Shifts without enlargement and rotation: the recipe crops by up to 4 of 32 pixels, and undoing exactly that leaves nothing unexplained."""


class Looks:
    """A split, ready to be searched for images that look like others."""

    def __init__(self, real: RealData) -> None:
        self.grey = torch.cat([_grey(pixels) for _, pixels in chunks(real.images)])
        self.windows = [self._window(w, y, x) for w, shifts in WINDOWS for y in shifts for x in shifts]
        side, shifts = BETWEEN
        steps = [(y, x) for y in shifts for x in shifts if y % 4 or x % 4]
        self.between = [self._window(side, y, x) for y, x in steps]

    def _window(self, side: int, y: int, x: int) -> Tensor:
        top, left = (SIDE // 2 + shift - side // 2 for shift in (y, x))
        return _small(self.grey[:, top : top + side, left : left + side], COARSE)

    def likeness(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Largest absolute correlation of every image [M,C,S,S] with one of the split, and that one's index."""
        grey, seen = _seen(images)
        flat = (seen < 1).any(2).any(1)
        value, index = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.int64)
        for group in (torch.nonzero(flat).flatten(), torch.nonzero(~flat).flatten()):
            for rows in torch.split(group, PARTS):
                for frame in FRAMES if len(rows) else ():
                    values, places = self._of_part(grey[rows], seen[rows], frame)
                    better = values > value[rows]
                    value[rows[better]], index[rows[better]] = values[better], places[better]
        return value, index

    def _of_part(self, grey: Tensor, seen: Tensor, frame: int) -> tuple[Tensor, Tensor]:
        turned, kept = (torch.stack(_turned(each), 1) for each in (grey, seen))  # [M,8,SIDE,SIDE]
        which, candidates = self._candidates(turned, kept, frame)
        rows = torch.arange(len(grey))
        values = torch.stack(
            [
                _compared(turned[rows, which[:, k]], kept[rows, which[:, k]], self.grey[candidates[:, k]], frame)
                for k in range(candidates.shape[1])
            ],
            1,
        )
        best = values.argmax(1)
        return values[rows, best], candidates[rows, best]

    def _candidates(self, turned: Tensor, kept: Tensor, frame: int) -> tuple[Tensor, Tensor]:
        """[M, CANDIDATES] twice: which way an image is turned, and the image of the split that is then like it from afar."""
        values, images = [], []
        inner, plain = slice(frame, SIDE - frame), bool((kept == 1).all())
        for k in range(turned.shape[1]):
            asked, weights = _pooled(turned[:, k, inner, inner], kept[:, k, inner, inner], COARSE)
            best = torch.zeros(len(turned), len(self.grey))
            for window in self.windows if plain and k not in UPRIGHT else (*self.windows, *self.between):
                torch.maximum(best, _from_afar(asked, weights, window), out=best)
            top = best.topk(min(CANDIDATES, len(self.grey)), 1)
            values.append(top.values)
            images.append(top.indices)
        order = torch.cat(values, 1).topk(values[0].shape[1], 1).indices
        return order // values[0].shape[1], torch.cat(images, 1).gather(1, order)


def _seen(images: Tensor) -> tuple[Tensor, Tensor]:
    """Grey images [M,SIDE,SIDE], and as many weights: 0 where an image is flat, as under cutout and where a shift left nothing.

    Of an image that would lose more than `MOST_FLAT` every pixel counts: there a flat sky is the picture.
    """
    grey = _grey(images)
    pixels = F.adaptive_avg_pool2d(images, SIDE)
    high, low = (F.max_pool2d(sign * pixels, FLAT, 1, FLAT // 2) for sign in (1, -1))
    flat = ((high + low).amax(1, keepdim=True) < STEP).float()  # the middle of a flat square
    flat = F.max_pool2d(flat, FLAT, 1, FLAT // 2)[:, 0]  # all of it
    flat = flat * ((flat.mean((1, 2)) > LEAST_FLAT) & (flat.mean((1, 2)) < MOST_FLAT))[:, None, None]
    return grey, 1 - flat


def _pooled(grey: Tensor, kept: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """[M,H,W] -> [M,side**2]: mean of what counts in each cell, and how much of it counts."""
    weights = F.adaptive_avg_pool2d(kept[:, None], side).flatten(1)
    return F.adaptive_avg_pool2d((grey * kept)[:, None], side).flatten(1) / weights.clamp_min(1e-6), weights


def _from_afar(asked: Tensor, weights: Tensor, window: Tensor) -> Tensor:
    """[M,N]: absolute correlation of images [M,D], weighted [M,D], with all windows [N,D] of a split."""
    if bool((weights == 1).all()):
        return (_standardised(asked) @ window.T).abs_()
    shares = weights / weights.sum(1, keepdim=True)
    middle = asked - (shares * asked).sum(1, keepdim=True)
    spread = (shares * middle**2).sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    of_window = (shares @ (window**2).T - (shares @ window.T) ** 2).clamp_min(1e-12).sqrt_()
    return ((shares * middle / spread) @ window.T).abs_() / of_window


def _grey(images: Tensor) -> Tensor:
    """[M,C,S,S] -> [M,SIDE,SIDE]."""
    return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), SIDE)[:, 0]


UPRIGHT = (0, 4)
"""Of `_turned`: as it is, and mirrored left to right."""


def _turned(grey: Tensor) -> list[Tensor]:
    """The eight mirrorings and quarter turns."""
    turns = [grey.rot90(k, (-2, -1)) for k in range(4)]
    return [*turns, *(image.flip(-1) for image in turns)]


def _small(grey: Tensor, side: int) -> Tensor:
    """[M,H,W] -> [M,side**2] of mean 0 and length 1."""
    return _standardised(F.adaptive_avg_pool2d(grey[:, None], side).flatten(1))


def _standardised(flat: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean 0 and length 1 along the last axis; with weights, so that products of two sum to the weighted correlation."""
    if weights is None:
        return F.normalize(flat - flat.mean(-1, keepdim=True), dim=-1, eps=1e-6)
    middle = (weights * flat).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    return F.normalize((flat - middle) * weights.sqrt(), dim=-1, eps=1e-6)


def _views(shifts: tuple[int, ...], zooms: tuple[float, ...] = ZOOMS, turns: tuple[float, ...] = TURNS) -> Tensor:
    """[V,2,3]: affine views of a real image."""
    return torch.tensor(
        [
            [[zoom * math.cos(turn), -zoom * math.sin(turn), 2 * x / SIDE], [zoom * math.sin(turn), zoom * math.cos(turn), 2 * y / SIDE]]
            for zoom in zooms
            for turn in turns
            for y in shifts
            for x in shifts
        ]
    )  # fmt: skip


def _compared(grey: Tensor, kept: Tensor, real: Tensor, frame: int) -> Tensor:
    """[M]: the largest absolute correlation of each image with the one beside it, over all views and with any part covered.

    `kept` [M,SIDE,SIDE]: weights of the pixels of `grey`.
    """
    inside = slice(frame, SIDE - frame)
    inner, weights = (
        F.interpolate(each[:, :, inside, inside], size=FINE, mode="bilinear")[:, 0].flatten(1)
        for each in (_soft(grey), 1 - F.max_pool2d(1 - kept[:, None], 3, 1, 1))
    )
    soft = _soft(real)
    rows = torch.arange(len(real))
    coarse = _coarse_views()
    view = coarse[_correlations(inner, soft, _coarse_grid(frame).expand(len(real), -1, -1, -1), weights)[0].argmax(1)]
    near = view[:, None] + (_views((-1, 0, 1), (1.0,), (0.0,)) * torch.tensor([[0.0, 0.0, 1.0]]))[None]
    products, seen = _correlations(inner, soft, _grid(near, frame), weights)
    best = products.argmax(1)
    return torch.maximum(products[rows, best], _with_a_hole(inner, seen[rows, best], weights))


def _soft(grey: Tensor) -> Tensor:
    """[M,SIDE,SIDE] -> [M,1,SIDE,SIDE], blurred a little: at half the resolution, noise and a shift by half a pixel count less."""
    return F.avg_pool2d(grey[:, None], 3, 1, 1, count_include_pad=False)


def _grid(views: Tensor, frame: int) -> Tensor:
    """[M,V,2,3] -> [M,V*FINE,FINE,2]: where each view takes its pixels from."""
    count, each = views.shape[:2]
    scale = torch.tensor([1 - 2 * frame / SIDE] * 2 + [1.0])
    grid = F.affine_grid((views * scale).reshape(-1, 2, 3), [count * each, 1, FINE, FINE], align_corners=False)
    return grid.reshape(count, each * FINE, FINE, 2)


@cache
def _coarse_views() -> Tensor:
    """[V,2,3]: the views that every pair of images is compared in."""
    return torch.cat([_views(SHIFTS), _views(EXACT, (1.0,), (0.0,))])


@cache
def _coarse_grid(frame: int) -> Tensor:
    """[1,V*FINE,FINE,2]: where they take their pixels from."""
    return _grid(_coarse_views()[None], frame)


def _correlations(inner: Tensor, soft: Tensor, grid: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(absolute correlations [M,V], pixels [M,V,FINE**2]) of images with views, by their grid, of the images beside them."""
    seen = F.grid_sample(soft, grid, align_corners=False).reshape(len(soft), -1, FINE**2)
    return (_standardised(inner, weights)[:, None] * _standardised(seen, weights[:, None])).sum(-1).abs(), seen


def _with_a_hole(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """[M]: the largest correlation with a quarter of the picture left out, wherever it lies: cutout covers no more.

    Where something is left out already (`weights` below 1), nothing more is.
    """
    best = torch.zeros(len(first))
    half = FINE // 2
    for top in range(0, half + 1, 2):
        for left in range(0, half + 1, 2):
            kept = torch.ones(FINE, FINE, dtype=torch.bool)
            kept[top : top + half, left : left + half] = False
            rows = kept.flatten()
            value = (_standardised(first[:, rows]) * _standardised(second[:, rows])).sum(-1).abs()
            best = torch.maximum(best, value)
    return best * (weights > 1 - 1e-3).all(1)
