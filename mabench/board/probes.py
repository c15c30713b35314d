"""Gates that look at the set's images: pixel values, class order, images of the test split. Need torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mabench import data
from mabench.board.gates import Gate, gate
from mabench.data import RealData
from mabench.schema import Card, RunRecord
from mabench.sets import probes as order_probe
from mabench.sets.synthetic import SyntheticSet

LEAK_RMS = (
    0.04  # ours: two thirds of the smallest distance of 600 real training images to a test image (digits .060, CIFAR-10 .067)
)
LEAK_SIDE = 32  # ours: larger images are averaged down to this side; averaging never makes a distance larger
ALIKE = 0.93  # ours: correlation from which an image may be a disguised test image; see benchmarks/leaks.py
ALIKE_MARGIN = 0.02  # ours: ... where no train image is nearly as like it; smooth images are like many
ALIKE_SIDE = 14  # ours: pixels a side that are compared; finer structure is what noise and patterns change
ALIKE_BORDER = 16  # ours: a frame of 1/16 of the side is not looked at, and a shift by as much is undone
ROWS = 256  # ours: images compared at once with all of a split; 50 MB for 50,000


def of_set(synthetic_set: SyntheticSet, records: Sequence[RunRecord], card: Card | None) -> list[Gate]:
    """All gates that need the set; images of the dataset are fetched where they are not there."""
    return [
        identity(synthetic_set, records),
        budget(synthetic_set, records, card),
        class_order(synthetic_set, data.load(synthetic_set.dataset, "train")),
        leak(synthetic_set, data.load(synthetic_set.dataset, "test"), data.load(synthetic_set.dataset, "train")),
    ]


def pixels(synthetic_set: SyntheticSet, path: object) -> Gate:
    """Values that can be pixels, and class names that are the dataset's."""
    largest = float(synthetic_set.images.float().abs().max())
    limit = 255 if synthetic_set.images.dtype == torch.uint8 else 100  # ours: white is 1.0; a hundred times that is no pixel
    problems = []
    if largest > limit:
        problems.append(f"{path}: pixel values up to {largest:.3g}, where 1.0 is white. Say what they are with --space.")
    entry, names = synthetic_set.entry, tuple(synthetic_set.class_names)
    if names and entry.class_names and names != entry.class_names:
        wrong = [k for k, (a, b) in enumerate(zip(names, entry.class_names, strict=False)) if a != b]
        if wrong:
            first = f"class {wrong[0]} is called {names[wrong[0]]!r}, {synthetic_set.dataset} has {entry.class_names[wrong[0]]!r}"
        else:
            first = f"{len(names)} names for {synthetic_set.num_classes} classes"
        problems.append(
            f"{path}: class names are not {synthetic_set.dataset}'s, in its order: {first}. Sort the classes as the dataset does."
        )
    described = f"{synthetic_set.dataset}, {len(synthetic_set.images)} images, {synthetic_set.label_kind} labels, all finite"
    return gate("set", f"{synthetic_set.sha256[:16]}, {described}", problems)


def identity(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> Gate:
    """The records are about this set."""
    sha = synthetic_set.sha256
    others = [r for r in records if {r.cell.set_sha256, r.synthetic_set.sha256} != {sha}]
    problems = [
        f"{len(others)} of {len(records)} records are about another set ({r.cell.set_sha256[:16]}, SET is {sha[:16]}), the first is "
        f"{r.cell.name}. Name the set's own records with --records, or run mabench eval."
        for r in others[:1]
    ]
    return gate("identity", f"set and records are {sha[:16]}", problems)


def budget(synthetic_set: SyntheticSet, records: Sequence[RunRecord], card: Card | None) -> Gate:
    """What the records say of the set is true of it."""
    true = synthetic_set.summary().model_dump(exclude={"name", "findings", "recorded_bytes"})
    problems = []
    for record in records:
        said = record.synthetic_set.model_dump(exclude={"name", "findings"})
        wrong = [f"{k} {said[k]} instead of {true[k]}" for k in true if said[k] != true[k] and k != "sha256"]
        if wrong:
            problems.append(f"{record.cell.name}: says {', '.join(wrong)}. Run the cell again: mabench eval.")
    images, decoder = synthetic_set.images.nbytes, card.decoder_bytes if card else 0
    labels = synthetic_set.stored_bytes - images
    found = f"IPC {synthetic_set.ipc}, {images:,} bytes of images, {labels:,} of labels, {decoder:,} of a decoder"
    return gate("budget", found, problems)


def class_order(synthetic_set: SyntheticSet, train: RealData) -> Gate:
    """A linear probe that learns the set's labels knows the dataset's classes by their own numbers."""
    found, problem = order_probe.class_order(synthetic_set, train)
    return gate("class order", found, [problem] if problem else [])


def _pixels(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.array(images)).float() / 255


def _chunks(images: np.ndarray[Any, np.dtype[np.uint8]], size: int = 1000) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [images[i : i + size] for i in range(0, len(images), size)]


def leak(synthetic_set: SyntheticSet, test: RealData, train: RealData) -> Gate:
    """No training image is an image of the test split. One that is nearer to the train split may be: CIFAR-10 has twins."""
    images, _ = synthetic_set.decoded()
    distances, nearest = nearest_real(images, test, synthetic_set.factor)
    close = torch.nonzero(distances < LEAK_RMS).flatten()
    problems = []
    if len(close):
        to_train, _ = nearest_real(images[close], train, synthetic_set.factor)
        leaked = close[distances[close] < to_train]
        problems = [
            f"{len(leaked)} of {len(images)} training images are images of the TEST split (the first is image {first}, test image "
            f"{int(nearest[first])}, distance {float(distances[first]):.4f} of full range; allowed from {LEAK_RMS}, or nearer to the "
            "train split). Make the set from the train split only."
            for first in leaked[:1].tolist()
        ]
    found = f"the nearest of all images to the test split has distance {float(distances.min()):.3f} of full range"
    return gate("test images", found, problems)


def nearest_real(images: Tensor, real: RealData, factor: int = 1) -> tuple[Tensor, Tensor]:
    """Root-mean-square distance, 1.0 = black to white, of every image [M,C,S,S] to the nearest of a real split, and its index.

    Mirrored images count too; for a set that stores grids, so do real images shrunk to a tile and enlarged again, with and
    without antialiasing. Above 32 px both sides are averaged to 32 px, which can only make distances smaller.
    """
    side = min(images.shape[-1], LEAK_SIDE)

    def flat(batch: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(batch, side).flatten(1)

    queries = torch.cat([flat(images), flat(images.flip(-1))])
    best = torch.full((len(queries),), math.inf)
    index = torch.zeros(len(queries), dtype=torch.int64)
    size = images.shape[-1]
    norms = (queries**2).sum(1, keepdim=True)
    for number, part in enumerate(_chunks(real.images)):
        pixels = _pixels(part)
        variants = [pixels]
        if factor > 1:
            for antialias in (False, True):
                small = F.interpolate(
                    pixels, size=(size // factor,) * 2, mode="bilinear", align_corners=not antialias, antialias=antialias
                )
                variants.append(F.interpolate(small, size=(size, size), mode="bilinear", align_corners=True))
        for variant in variants:
            candidates = flat(variant)
            squares = norms + (candidates**2).sum(1)[None] - 2 * queries @ candidates.T
            values, places = squares.min(1)
            # the expanded square cancels near zero: the winners' distances are taken again from their differences
            exact = ((queries - candidates[places]) ** 2).mean(1).sqrt()
            better = exact < best
            best[better], index[better] = exact[better], places[better] + 1000 * number
            del values
    rows = torch.stack([best[: len(images)], best[len(images) :]])
    chosen = rows.argmin(0)
    return rows.min(0).values, torch.where(chosen == 0, index[: len(images)], index[len(images) :])


def disguises(synthetic_set: SyntheticSet, test: RealData, train: RealData) -> Gate:
    """No training image is a test image that was shifted, mirrored, framed, brightened, inverted or covered with noise.

    The recipe's own augmentation undoes all of these, so they would cost a cheater nothing. Not asked by default: its thresholds
    wait for `benchmarks/leaks.py` on real images.
    """
    images, _ = synthetic_set.decoded()
    likeness, nearest = most_alike(images, small_and_grey(test))
    close = torch.nonzero(likeness > ALIKE).flatten()
    problems = []
    if len(close):
        to_train, _ = most_alike(images[close], small_and_grey(train))
        leaked = close[likeness[close] > to_train + ALIKE_MARGIN]
        problems = [
            f"{len(leaked)} of {len(images)} training images are images of the TEST split in disguise (the first is image {first}, test "
            f"image {int(nearest[first])}, correlation {float(likeness[first]):.3f}; no train image is as like it). Make the set from "
            "the train split only."
            for first in leaked[:1].tolist()
        ]
    found = f"the image most like a test image has correlation {float(likeness.max()):.3f}"
    return gate("disguises", found, problems)


def small_and_grey(real: RealData) -> Tensor:
    """The split's images [N, ALIKE_SIDE**2] as `most_alike` compares them."""
    frame = max(1, real.images.shape[-1] // ALIKE_BORDER)
    return torch.cat([_standardised(_pixels(part), frame, (0, 0)) for part in _chunks(real.images)])


def most_alike(images: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Largest absolute correlation of every image [M,C,S,S] with one of a split (`small_and_grey`), and that image's index.

    In grey, at `ALIKE_SIDE` pixels, each standardised, over shifts by up to a frame's width and over mirrorings in both directions.
    """
    frame = max(1, images.shape[-1] // ALIKE_BORDER)
    variants = [
        _standardised(view, frame, shift)
        for view in (images, images.flip(-1), images.flip(-2), images.flip(-1, -2))
        for shift in ((y, x) for y in (-frame, 0, frame) for x in (-frame, 0, frame))
    ]
    best, index = torch.full((len(images),), -1.0), torch.zeros(len(images), dtype=torch.int64)
    for variant in variants:
        for begin in range(0, len(images), ROWS):
            rows = slice(begin, begin + ROWS)
            values, places = (variant[rows] @ known.T).abs().max(1)
            better = values > best[rows]
            best[rows][better], index[rows][better] = values[better], places[better]
    return best, index


def _standardised(images: Tensor, frame: int, shift: tuple[int, int]) -> Tensor:
    """[M,C,S,S] without its frame, moved by `shift` pixels -> [M, ALIKE_SIDE**2] of mean 0 and length 1."""
    inner = images.shape[-1] - 2 * frame
    top, left = frame + shift[0], frame + shift[1]
    grey = images.mean(1, keepdim=True)[..., top : top + inner, left : left + inner]
    flat = F.adaptive_avg_pool2d(grey, ALIKE_SIDE).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return F.normalize(flat, dim=1, eps=1e-6)
