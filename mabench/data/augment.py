"""Frozen augmentations: batched pure functions on the images' device, every draw from an explicit generator.

Legend: images [N,C,H,W] float in the space of the plan (normalised or pixel), targets [N,K]. Each operation is a pure
function of images and per-sample parameters; `augment` draws the parameters, always in the same order and number, so a
seed gives one sequence whatever the coins say. Definitions of colour, scale, rotate and cutout: DSA (Zhao & Bilen,
ICML 2021); CutMix: Yun et al., ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.errors import MabenchError
from mabench.schema import Augmentation

DSA = "color_crop_cutout_flip_scale_rotate"


def brightness(images: Tensor, shift: Tensor) -> Tensor:
    """Add shift[n] to every value of image n."""
    return images + shift.view(-1, 1, 1, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of each pixel from its own grey (mean over channels) by factor[n]."""
    grey = images.mean(1, keepdim=True)
    return (images - grey) * factor.view(-1, 1, 1, 1) + grey


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance of each value from its image's mean by factor[n]."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * factor.view(-1, 1, 1, 1) + mean


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move image n by whole pixels down[n] and right[n] (negative: up, left); what comes in from outside is zero."""
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) - down.view(-1, 1)  # [N,H]: where each row comes from
    columns = torch.arange(width, device=images.device) - right.view(-1, 1)
    inside = ((rows >= 0) & (rows < height)).view(n, 1, height, 1) & ((columns >= 0) & (columns < width)).view(n, 1, 1, width)
    source = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)  # [N,H,W]
    # over the pixels of a channel: on a processor three times as fast as indexing rows and columns
    moved = images.flatten(2).gather(2, source.view(n, 1, -1).expand(-1, channels, -1))
    return moved.view(images.shape) * inside


def affine(images: Tensor, matrices: Tensor, align_corners: bool = False) -> Tensor:
    """Resample image n through matrices[n] [2,3], bilinear, zeros outside.

    The grid is built with align_corners=True and sampled with the argument's value. HMDC's released code leaves the sampler at its
    default (False); MTT's sets both True and DSA's leaves both False, which look at the same places.
    """
    grid = F.affine_grid(matrices, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)


def scale(images: Tensor, x: Tensor, y: Tensor, align_corners: bool = False) -> Tensor:
    """Grid factors x[n] and y[n]: above 1 shrinks the content."""
    zero = torch.zeros_like(x)
    matrices = torch.stack([torch.stack([x, zero, zero], 1), torch.stack([zero, y, zero], 1)], 1)
    return affine(images, matrices, align_corners)


def rotate(images: Tensor, radians: Tensor, align_corners: bool = False) -> Tensor:
    """Rotate image n about its centre by radians[n]."""
    zero, cos, sin = torch.zeros_like(radians), radians.cos(), radians.sin()
    matrices = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    return affine(images, matrices, align_corners)


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror image n left to right where flipped[n]."""
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def _weights(start: Tensor, length: Tensor, side: int, like: Tensor) -> Tensor:
    """[N,side,side]: how much every source line adds to every line of the enlarged image; lines outside of the box add nothing."""
    start, length = start.to(like).view(-1, 1), length.to(like).view(-1, 1)
    place = ((torch.arange(side).to(like) + 0.5) * length / side - 0.5).clamp(min=0)  # [N,side], half-pixel centres
    low = torch.minimum(place.floor(), length - 1)
    high, share = torch.minimum(low + 1, length - 1), place - low
    out = like.new_zeros(len(start), side, side)
    out.scatter_add_(2, (start + low).long().unsqueeze(2), (1 - share).unsqueeze(2))
    return out.scatter_add_(2, (start + high).long().unsqueeze(2), share.unsqueeze(2))


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Box n (top, left, height, width in pixels: [N,4]) of image n enlarged to the full side, bilinear, borders repeated: what
    `interpolate(align_corners=False)` gives for every cut-out by itself, here in two matrix products for the batch."""
    boxes = boxes.to(images.device)
    side = images.shape[-1]
    rows, columns = (_weights(boxes[:, i], boxes[:, i + 2], side, images) for i in (0, 1))
    return torch.einsum("bih,bchw,bjw->bcij", rows, images, columns)


def box(side: int, low_y: Tensor, high_y: Tensor, low_x: Tensor, high_x: Tensor) -> Tensor:
    """Mask [N,1,side,side], True where low <= index < high on both axes."""
    index = torch.arange(side, device=low_y.device)
    rows = (index >= low_y.view(-1, 1)) & (index < high_y.view(-1, 1))
    columns = (index >= low_x.view(-1, 1)) & (index < high_x.view(-1, 1))
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def cutout(images: Tensor, centre_y: Tensor, centre_x: Tensor, size: int, unless: Tensor | None = None) -> Tensor:
    """Zero a square of `size` pixels around (centre_y[n], centre_x[n]), clipped at the borders; nothing where `unless` [] is True."""
    y, x = centre_y - size // 2, centre_x - size // 2
    mask = box(images.shape[-1], y, y + size, x, x + size)
    return images.masked_fill(mask if unless is None else mask & ~unless, 0.0)


def cutmix(images: Tensor, targets: Tensor, partner: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the masked part (one box [1,1,H,W] for the batch) by that of image partner[n]; targets mix by clipped area. An
    empty mask changes nothing."""
    share = mask.to(targets.dtype).mean()
    return torch.where(mask, images[partner], images), targets * (1 - share) + targets[partner] * share


class _Draw:
    """Uniform numbers from one generator; siamese draws one and repeats it for every sample."""

    def __init__(self, images: Tensor, generator: torch.Generator, siamese: bool) -> None:
        self.n, self.like, self.generator, self.siamese = len(images), images, generator, siamese

    def uniform(self, low: float, high: float) -> Tensor:
        """[N] in [low, high)."""
        count = 1 if self.siamese else self.n
        unit = torch.rand(count, generator=self.generator, device=self.like.device, dtype=self.like.dtype)
        return (low + (high - low) * unit).expand(self.n)

    def integers(self, low: int, high: int) -> Tensor:
        """[N] in low..high inclusive."""
        count = 1 if self.siamese else self.n
        return torch.randint(low, high + 1, (count,), generator=self.generator, device=self.like.device).expand(self.n)

    def scalar(self) -> Tensor:
        """One number in [0,1) for the whole batch, []."""
        return torch.rand((), generator=self.generator, device=self.like.device, dtype=self.like.dtype)

    def choice(self, count: int) -> int:
        """One of 0..count-1 for the whole batch; reads the device once."""
        return int(torch.randint(count, (), generator=self.generator, device=self.like.device))


def _color(images: Tensor, draw: _Draw, plan: Augmentation) -> Tensor:
    shifts = draw.uniform(-0.5 * plan.brightness, 0.5 * plan.brightness)
    factors = draw.uniform(0.0, plan.saturation)
    spreads = draw.uniform(plan.contrast, 1.0 + plan.contrast)
    images = brightness(images, shifts)
    return images if plan.color == "brightness-only" else contrast(saturation(images, factors), spreads)


def _geometry(images: Tensor, name: str, draw: _Draw, plan: Augmentation, align_corners: bool = False) -> Tensor:
    side = images.shape[-1]
    if name == "crop":
        most = int(side * plan.crop_ratio + 0.5)
        return shift(images, draw.integers(-most, most), draw.integers(-most, most))
    if name == "scale":
        x, y = (draw.uniform(1 / plan.scale_ratio, plan.scale_ratio) for _ in range(2))
        return scale(images, x, y, align_corners)
    most_radians = math.radians(plan.rotate_degrees)
    return rotate(images, draw.uniform(-most_radians, most_radians), align_corners)


def _cutout(images: Tensor, draw: _Draw, plan: Augmentation, beyond: int = 0, unless: Tensor | None = None) -> Tensor:
    """Centres on the image's pixels, and `beyond` pixels further to the bottom and right."""
    side = images.shape[-1]
    y, x = draw.integers(0, side - 1 + beyond), draw.integers(0, side - 1 + beyond)
    return cutout(images, y, x, int(side * plan.cutout_ratio + 0.5), unless)


def _one_of(images: Tensor, names: Sequence[str], draw: _Draw, plan: Augmentation) -> Tensor:
    """One operation for the whole batch, its parameters per sample, as DSA's released code has them in AST and MTT."""
    name = names[draw.choice(len(names))]
    if name == "color":
        return _color(images, draw, plan)
    if name == "flip":
        return flip(images, draw.uniform(0.0, 1.0) < 0.5)
    if name == "cutout":
        even = int(images.shape[-1] * plan.cutout_ratio + 0.5) % 2 == 0
        return _cutout(images, draw, plan, beyond=int(even))  # the square may lie as far out on either side
    return _geometry(images, name, draw, plan, align_corners=True)


def augment(
    images: Tensor,
    targets: Tensor,
    plan: Augmentation,
    generator: torch.Generator,
    *,
    mix: bool = True,
    siamese: bool = False,
) -> tuple[Tensor, Tensor]:
    """Augmented images [N,C,H,W] and targets [N,K]; inputs stay untouched.

    Order: colour, geometry, flip (or flip first, as the plan says), cutout, CutMix. `mix=False` leaves CutMix out;
    `siamese` uses one draw of every parameter for the whole batch. The generator must live on the images' device.
    """
    draw = _Draw(images, generator, siamese)
    if plan.one_of:
        return _one_of(images, plan.one_of, draw, plan), targets
    flipped = draw.uniform(0.0, 1.0) < plan.flip
    if plan.flip and plan.flip_first:
        images = flip(images, flipped)
    if plan.color != "none":
        images = _color(images, draw, plan)
    if plan.geometry_one_of and plan.geometry:
        images = _geometry(images, plan.geometry[draw.choice(len(plan.geometry))], draw, plan)
    else:
        for name in plan.geometry:
            images = _geometry(images, name, draw, plan)
    if plan.flip and not plan.flip_first:
        images = flip(images, flipped)

    mixed = draw.scalar() < (plan.cutmix if mix else 0.0)  # [] on the device, and part of the masks: no wait for it
    if plan.cutout != "never":
        images = _cutout(images, draw, plan, unless=mixed if plan.cutout == "unless-cutmix" else None)
    if plan.cutmix:
        side = images.shape[-1]
        half = side * (1 - draw.scalar()).sqrt() / 2  # lambda ~ Beta(1,1); the box covers 1 - lambda of the image
        centre_y, centre_x = (torch.floor(draw.scalar() * side) for _ in range(2))
        mask = box(side, *((c + s * half).round().clamp(0, side).view(1) for c in (centre_y, centre_x) for s in (-1, 1)))
        partner = torch.rand(len(images), generator=generator, device=images.device).argsort()
        images, targets = cutmix(images, targets, partner, mask & mixed)
    return images, targets


def operations(strategy: str) -> tuple[str, ...]:
    """Return the operations of a strategy, whose names are joined by _. Raises MabenchError for a name that is none of DSA's."""
    names = tuple(strategy.split("_")) if strategy else ()
    for name in names:
        if name not in DSA.split("_"):
            raise MabenchError(
                f"augmentation = '{strategy}': unknown operation '{name}'. Allowed: {', '.join(DSA.split('_'))}, joined by _; or "
                "nothing, for no augmentation."
            )
    return names


def dsa(images: Tensor, strategy: str, generator: torch.Generator, *, siamese: bool = False) -> Tensor:
    """DSA: one of the operations of `strategy` (names joined by _) for the whole batch, its parameters per sample."""
    return _one_of(images, operations(strategy), _Draw(images, generator, siamese), Augmentation())
