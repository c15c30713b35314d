"""Real batches, and the views of images that the stages look at: shifts, flips, wrap-around jitter, resized crops, CutMix.

Draws come from CPU generators, images may live on any device. Legend: B images, C channels, S side in pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mabench.data import Dataset, RealData, augment
from mabench.digests import stream
from mabench.sets.recorded import Views

AREA = (0.08, 1.0)  # torchvision's RandomResizedCrop, as in the released code: share of the image's area,
RATIO = (3 / 4, 4 / 3)  # and width over height


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator that depends on these names alone, so that any step can be repeated without its predecessors."""
    return torch.Generator().manual_seed(stream(seed, "/".join(map(str, names))))


def normalisation(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """The dataset's mean and std, each [1,C,1,1]."""
    mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (dataset.mean, dataset.std))
    return mean, std


def normalised(pixels: Tensor, dataset: Dataset) -> Tensor:
    """Images [B,C,S,S] in 0..255 (uint8) or 0..1 (float), normalised by the dataset's mean and std, channels last."""
    mean, std = normalisation(dataset, pixels.device)
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)


def real_pixels(train: RealData, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [B,C,S,S] and labels [B] of these rows, read where they lie: ImageNet-1k is never held in memory."""
    where = rows.numpy()
    return torch.tensor(train.images[where]).to(device), torch.tensor(train.labels[where]).to(device)


def training_view(pixels: Tensor, dataset: Dataset, crop: str, padding: int, draws: torch.Generator) -> Tensor:
    """Normalised images as the teachers see them in training: a crop of every image's own, and a flip in half of the cases.

    `shift` pads with black by `padding` pixels, before normalisation (torchvision's order).
    """
    values = pixels.float() / 255
    if crop == "shift":
        down, right = torch.randint(-padding, padding + 1, (2, len(values)), generator=draws).to(values.device)
        values = augment.shift(values, down, right)
    else:
        values = augment.resized_crop(values, draw_boxes(len(values), values.shape[-1], draws))
    flipped = torch.rand(len(values), generator=draws) < 0.5
    return normalised(augment.flip(values, flipped.to(values.device)), dataset)


def recover_view(images: Tensor, crop: str, padding: int, jitter: int, draws: torch.Generator) -> Tensor:
    """One crop, one flip and one wrap-around translation of up to `jitter` pixels, the same for the whole batch.

    `shift` pads with zeros in normalised space, that is with the mean colour (released code). `none`: the translation alone.
    """
    side = images.shape[-1]
    down, right = torch.randint(-padding, padding + 1, (2,), generator=draws)
    box = draw_boxes(1, side, draws)
    mirrored = bool(torch.rand((), generator=draws) < 0.5)
    roll = torch.randint(0, jitter + 1, (2,), generator=draws).tolist()
    if crop == "shift":
        images = augment.shift(images, *(v.expand(len(images)).to(images.device) for v in (down, right)))
    elif crop == "resized":
        images = augment.resized_crop(images, box.expand(len(images), 4))
    images = images.flip(3) if mirrored and crop != "none" else images
    return images.roll(roll, (2, 3)).contiguous(memory_format=torch.channels_last)


# -- resized crops and CutMix --------------------------------------------------------------------------------------------


def draw_boxes(
    count: int,
    side: int,
    draws: torch.Generator,
    area: tuple[float, float] = AREA,
    ratio: tuple[float, float] = RATIO,
) -> Tensor:
    """Boxes int64 [count,4] = top, left, height, width: ten tries each at a random area and ratio, then the whole image."""
    pixels = torch.empty(count, 10).uniform_(*area, generator=draws) * side * side
    shape = torch.empty(count, 10).uniform_(*map(math.log, ratio), generator=draws).exp()
    where = torch.rand(2, count, generator=draws)
    width, height = (pixels * shape).sqrt().round(), (pixels / shape).sqrt().round()
    fits = (width >= 1) & (width <= side) & (height >= 1) & (height <= side)
    first = fits.int().argmax(1, keepdim=True)  # the first that fits; row 0 where none does
    height, width = (
        torch.where(fits.any(1), v.gather(1, first).squeeze(1), torch.tensor(float(side))).long() for v in (height, width)
    )
    top, left = (where[0] * (side - height + 1)).long(), (where[1] * (side - width + 1)).long()
    return torch.stack([top, left, height, width], 1)


def draw_views(count: int, side: int, draws: torch.Generator, area: tuple[float, float] = AREA) -> Views:
    """Crop, flip, and CutMix with lambda ~ Beta(1,1) (released relabel stage)."""
    boxes = draw_boxes(count, side, draws, area)
    flipped = torch.rand(count, generator=draws) < 0.5
    partner = torch.randperm(count, generator=draws)
    kept, y, x = torch.rand(3, generator=draws, dtype=torch.float64).tolist()
    half, centre = int(side * math.sqrt(1 - kept)) // 2, (int(y * side), int(x * side))
    corners = [min(max(c + sign * half, 0), side) for sign in (-1, 1) for c in centre]
    return Views(boxes, flipped, partner, torch.tensor(corners))
