"""Images that come class by class, and what only looks like it: one set at several steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mabench.errors import MabenchError, first_line
from mabench.sets.draft import Draft

RESEMBLE, ALIKE = 200, 0.8  # ours: images compared, and their correlation; snapshots of one run have above 0.9


def join(path: Path, classes: Mapping[str, Tensor]) -> Draft:
    """Name or number of a class -> images of that class. Raises MabenchError for snapshots of one set."""
    numbered = all(key.isdecimal() for key in classes)
    order = sorted(classes, key=int) if numbered else [*classes]
    _check_no_snapshots(path, [classes[key] for key in order], order)
    if len({tuple(classes[k].shape[1:]) for k in order}) != 1:
        raise MabenchError(f"{path}: images of different classes have different shapes. Store arrays of one shape.")
    draft = Draft(path, torch.cat([classes[k] for k in order]))
    counts = torch.tensor([len(classes[k]) for k in order])
    if numbered:
        draft.labels = torch.tensor([int(k) for k in order]).repeat_interleave(counts)
    else:
        draft.labels = [k for k, count in zip(order, counts.tolist(), strict=True) for _ in range(count)]
    draft.note("format", "images by class", f"{len(order)} arrays, one per class, called {order[0]} to {order[-1]}")
    return draft


def _check_no_snapshots(path: Path, arrays: Sequence[Tensor], names: Sequence[str]) -> None:
    """Arrays of different classes do not resemble each other image by image; the states of one set as it was condensed do."""
    if not _resemble(arrays):
        return
    raise MabenchError(
        f"{path}: {len(arrays)} arrays of images ({first_line(names)}) that resemble each other image by image: they seem to be one set "
        "at several steps, not one array per class. Name one of a list with --set-index, or save the one that you mean: "
        "torch.save((images, labels), 'set.pt')."
    )


def _resemble(arrays: Sequence[Tensor]) -> bool:
    if len(arrays) < 2 or len({array.shape for array in arrays}) > 1:
        return False
    first, second = (array[:RESEMBLE].flatten(1).double() for array in (arrays[0], arrays[1]))
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    alike = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1)).clamp_min(1e-12)
    return float(alike.median()) > ALIKE


def join_pairs(path: Path, parts: Sequence[tuple[Tensor, Tensor | list[str] | None]]) -> Draft | None:
    """[[images of class 0, its labels], ...]: every entry has one class, and no two the same."""
    labels = [each for _, each in parts if isinstance(each, Tensor) and each.dim() == 1 and len(each) and each.eq(each[0]).all()]
    if not 1 < len(labels) == len(parts) == len({int(each[0]) for each in labels}):
        return None
    if len({images.shape[1:] for images, _ in parts}) != 1 or any(
        len(x) != len(y) for (x, _), y in zip(parts, labels, strict=True)
    ):
        raise MabenchError(f"{path}: pairs [images, labels] of one class each, whose shapes differ. Store arrays of one shape.")
    draft = Draft(path, torch.cat([images for images, _ in parts]), torch.cat(labels))
    draft.note("format", "images by class", f"{len(parts)} pairs [images, labels], one per class")
    return draft
