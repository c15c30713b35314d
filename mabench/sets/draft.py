"""A set while it is being read, and what counts as an array in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mabench.errors import one_line
from mabench.schema import Finding

READABLE = (
    ".safetensors, .pt, .pth, .npz, .npy, .parquet, .arrow, .zip, .tar, or a folder with one sub-folder of images per class"
)


@dataclass
class Draft:
    """A set while it is being read: raw arrays and what is known of them so far."""

    path: Path
    images: Tensor
    labels: Tensor | list[str] | None = None
    """Numbers [N], soft labels [N,K], or the name of each image's class."""
    class_major: bool = False
    """Images came as [K,ipc,...] or bare: labels follow from the position."""
    normalised_by_default: bool = False
    """The format is known to store values normalised with the dataset's mean and std."""
    decode: str = "none"
    says_decode: bool = False
    """The format says whether images are packed."""
    factor: int = 0
    """Tiles a side by an entry that may mean this; 0 where there is none."""
    arrays_by_class: int = 0
    """Number of arrays that came class by class without saying which class each is: it has to be the dataset's."""
    class_names: tuple[str, ...] = ()
    learning_rate: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def note(self, name: str, value: object, reason: str, flag: str = "") -> None:
        """Keep one decision, with its evidence and the flag that overrides it."""
        self.findings.append(Finding(field=name, value=one_line(str(value), 400), reason=one_line(reason, 400), flag=flag))


def is_images(value: Any) -> bool:
    """Whether this is an array of images by its dimensions."""
    return isinstance(value, Tensor) and value.dim() >= 4


def as_array(value: Any) -> Tensor | list[str] | None:
    """Arrays, lists of numbers and lists of equal arrays as a tensor; lists of texts as they are; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(each, str) for each in value):
        return [str(each) for each in value]
    if all(isinstance(each, int | float) for each in value):
        return torch.tensor(value)
    parts = [as_array(each) for each in value]
    if all(isinstance(part, Tensor) for part in parts):
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len({(part.shape, part.dtype) for part in tensors}) == 1:
            return torch.stack(tensors)
    return None
