"""Which numbers are which colours: every reading of the values is compared with the dataset's own mean and spread."""

from __future__ import annotations

import torch
from torch import Tensor

from mabench.data import Dataset
from mabench.errors import MabenchError
from mabench.sets import zca
from mabench.sets.draft import Draft

SPACES = ("pixel", "normalised", "signed", "imagenet", "zca", "uint8-range")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's ImageNet weights
MEAN_OFF, SPREAD_LOW, SPREAD_HIGH = 0.2, 0.55, 1.9  # ours: published sets lie within .06 of the mean and 0.9 to 1.3 of the spread
EXACT = 2e-3  # ours: values that touch black and white in every channel
FAR_MEAN = 0.4  # ours: no condensed set is so far from its dataset; mistakes are: bytes divided twice, inverted digits
FAR_SPREAD, EXTREME = 0.15, 0.05  # ours: nearly black or white, with next to no contrast
SAMPLE = 2**24  # ours: numbers looked at for a hint; 67 MB as floats
TAILS = 3  # ours: largest deviation in standard deviations; whitened CIFAR-10 images reach 5 to 7, noise in a fixed range 1.7
SMOOTH = 0.65  # ours: correlation of neighbouring pixels; published sets have 0.71 and more, learned whitened ones less


def pixels(
    draft: Draft, images: Tensor, entry: Dataset, space: str | None, own: tuple[list[float], list[float]] | None
) -> Tensor:
    """uint8, float16 or float32 in pixel space. `own`: the mean and std that were named with --mean and --std.

    Raises MabenchError where no reading is plausible, or more than one.
    """
    if images.dtype == torch.uint8:
        if own is None and space is None:
            _check_near(draft, _sample(images).float() / 255, entry, "bytes")
        draft.note("space", "pixel", "uint8")
        return images
    images = images if images.dtype == torch.float16 else images.to(torch.float32)
    finite = images[torch.isfinite(images)].float()
    if len(finite) == 0:
        return images
    low, high = float(finite.min()), float(finite.max())
    values = f"values {low:.3g} to {high:.3g}"
    if own is not None:
        draft.note("space", "normalised", f"named: mean {own[0]}, std {own[1]} undone", "--mean --std")
        return _undone(images, *own)
    if space is not None:
        draft.note("space", space, f"named; {values}", "--space")
        return read_as(images, entry, space)
    if low >= -1e-6 and high <= 1 + 1e-6:
        space, reason = "pixel", values
    elif low >= 0 and 8 < high <= 255.5:
        space, reason = "uint8-range", values
    else:
        space, reason = _only_plausible(draft, images, entry, low, high, values)
    read = read_as(images, entry, space)
    _check_near(draft, _sample(read).float(), entry, f"{values}, read as {space}")
    draft.note("space", space, reason, "--space")
    return read


def _sample(images: Tensor) -> Tensor:
    """Images evenly over the set, about `SAMPLE` numbers in all: large sets are mapped, and not read as a whole for a hint."""
    return images[:: max(1, images.numel() // SAMPLE)]


def _check_near(draft: Draft, read: Tensor, entry: Dataset, what: str) -> None:
    """Raise MabenchError where pixels are as dark or as bright as no set of this dataset is; one even colour is nobody's mistake."""
    mean, spread = float(read.mean()), float(read.std())
    own_mean, own_spread = (sum(numbers) / len(numbers) for numbers in (entry.mean, entry.spread))
    flat = spread < FAR_SPREAD * own_spread and not EXTREME < mean < 1 - EXTREME
    if (flat or abs(mean - own_mean) > FAR_MEAN) and float(read.min()) < float(read.max()):
        raise MabenchError(
            f"{draft.path}: {what}: pixels have mean {mean:.3f} and spread {spread:.3f}; {entry.name} itself has {own_mean:.2f} and "
            f"{own_spread:.2f}. Were they divided by 255 twice, cut to 0 and 1, inverted? If they are right: --space pixel."
        )


def read_as(images: Tensor, entry: Dataset, space: str) -> Tensor:
    """Pixels of images in a named space."""
    if space == "pixel":
        return images
    if space == "uint8-range":
        return images.float() / 255
    if space == "signed":
        return (images.float() + 1) / 2
    if space == "imagenet":
        return _undone(images, *IMAGENET)
    if space == "zca":
        return zca.undo(images.float(), entry)
    return _undone(images, entry.mean, entry.std)


def _undone(images: Tensor, mean: tuple[float, ...] | list[float], std: tuple[float, ...] | list[float]) -> Tensor:
    if not len(mean) == len(std) == images.shape[1]:
        raise MabenchError(f"{len(mean)} means and {len(std)} stds for {images.shape[1]} channels. Name one of each per channel.")
    shift, scale = (torch.tensor(list(v), dtype=torch.float32).view(1, -1, 1, 1) for v in (mean, std))
    return images.float() * scale + shift


def _only_plausible(draft: Draft, images: Tensor, entry: Dataset, low: float, high: float, values: str) -> tuple[str, str]:
    readings = ["pixel", "normalised"]
    if entry.channels == 3 and (entry.mean, entry.std) != IMAGENET:
        readings.append("imagenet")
    if low >= -1 - EXACT and high <= 1 + EXACT:
        readings.append("signed")
    seen = {name: read_as(images, entry, name).float() for name in readings}
    exact = [name for name, read in seen.items() if name != "pixel" and _touches_both_ends(read)]
    plausible = exact if len(exact) == 1 else [name for name, read in seen.items() if _plausible(read, entry)]
    small = entry.channels == 3 and entry.channels * entry.image_size**2 <= zca.MAX_VALUES
    if "normalised" in plausible and not exact and small and _may_be_whitened(_sample(images).float()):
        plausible.append("zca")
    if draft.normalised_by_default and "normalised" in plausible and "zca" not in plausible:
        return "normalised", f"{values}, as this format stores them (mean {entry.mean}, std {entry.std} undone)"
    if len(plausible) == 1:
        how = "black and white are reached exactly" if exact else "the only reading whose mean and spread are the dataset's"
        undone = f" (mean {entry.mean}, std {entry.std} undone)" if plausible[0] == "normalised" else ""
        return plausible[0], f"{values}: {how}{undone}"
    spreads = ", ".join(f"{name} {float(read.std()):.2f}" for name, read in seen.items())
    which = " and ".join(plausible) if plausible else "no reading"
    raise MabenchError(
        f"{draft.path}: {values}: {which} would be plausible (spread of pixels: {spreads}; {entry.name} itself has "
        f"{sum(entry.spread) / len(entry.spread):.2f}). Name what the values are: --space {' | '.join(SPACES)}, or --mean and --std. "
        "Sets of MTT and its descendants on CIFAR are often whitened: --space zca."
    )


def _may_be_whitened(x: Tensor) -> bool:
    """Whether values have long tails and neighbouring pixels differ, as in whitened images and unlike in plain ones."""
    if float((x - x.mean()).abs().max()) < TAILS * float(x.std()):
        return False
    x = x - x.mean((2, 3), keepdim=True)
    products, squares = (x[..., 1:] * x[..., :-1]).sum(), (x[..., 1:].square().sum() * x[..., :-1].square().sum()).sqrt()
    return bool(products <= SMOOTH * squares)


def _touches_both_ends(read: Tensor) -> bool:
    by_channel = read.transpose(0, 1).flatten(1)
    ends = by_channel.amin(1), by_channel.amax(1) - 1
    return all(bool((end.abs() < EXACT).all()) for end in ends)


def _plausible(read: Tensor, entry: Dataset) -> bool:
    by_channel = read.transpose(0, 1).flatten(1)
    mean = (by_channel.mean(1) - torch.tensor(entry.mean)).abs().max()
    ratio = by_channel.std(1) / torch.tensor(entry.spread)
    return bool(mean < MEAN_OFF) and bool(ratio.min() > SPREAD_LOW) and bool(ratio.max() < SPREAD_HIGH)
