"""A train split as methods use it: by class, normalised, on the device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mabench.data import RealData
from mabench.errors import MabenchError
from mabench.sets.synthetic import SyntheticSet, max_bytes


def check_train(train: RealData, ipc: int, value_bytes: int = 4, *, tiles: int = 1) -> None:
    """Raise MabenchError unless this is a train split that can fill a set of `ipc` stored images per class, and such a set can be read.

    `tiles`: real images that one stored image is made of, so that every class must have `ipc * tiles`. `value_bytes`: bytes of a stored
    value, 4 for float32 and 1 for uint8.
    """
    if train.split != "train":
        raise MabenchError(f"{train.dataset.name}: a set must be made from the train split, not from '{train.split}'.")
    smallest = int(np.bincount(train.labels, minlength=train.dataset.num_classes).min())
    if not 1 <= ipc * tiles <= smallest:
        wanted = f", which takes {ipc * tiles} images of a class," if tiles > 1 else ""
        raise MabenchError(f"{train.dataset.name}: IPC {ipc}{wanted} is impossible, the smallest class has {smallest} images.")
    size, limit = ipc * train.dataset.num_classes * math.prod(train.dataset.shape) * value_bytes, max_bytes(train.dataset)
    if size > limit:
        raise MabenchError(
            f"{train.dataset.name}: a set of IPC {ipc} takes {size:,} bytes; sets up to {limit:,} bytes can be read. Use a lower IPC."
        )


def check_grid(train: RealData, name: str, count: int) -> None:
    """Raise MabenchError where the field `name`, images a side in one stored image, does not divide the side of the dataset's images."""
    side = train.dataset.image_size
    if side % count:
        allowed = ", ".join(str(n) for n in range(2, 9) if side % n == 0)
        raise MabenchError(
            f"{name} = {count} does not divide the side of {side} pixels: a {side} px image cannot hold a {count} x {count} grid. "
            f"Allowed: {allowed}."
        )


class RealImages:
    """A train split by class, normalised by the dataset's mean and std; uint8 on the device where it fits."""

    def __init__(self, train: RealData, device: torch.device) -> None:
        self.dataset, self.device = train.dataset, device
        self.images = torch.tensor(train.images).to(device)
        self.labels = torch.tensor(train.labels).to(device)
        self.mean, self.std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (train.dataset.mean, train.dataset.std))
        by_label = torch.argsort(self.labels, stable=True).cpu()
        counts = torch.bincount(self.labels, minlength=train.dataset.num_classes).tolist()
        self.rows: list[Tensor] = list(torch.split(by_label, counts))
        """Class -> its row numbers, on the CPU."""

    def at(self, rows: Tensor) -> Tensor:
        """Normalised images [B,C,S,S] of these rows."""
        pixels = self.images[rows.to(self.device)].float() / 255
        return (pixels - self.mean) / self.std

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """`count` distinct random images of a class, all of them if it has fewer: [B,C,S,S]. The generator is on the CPU."""
        rows = self.rows[label]
        return self.at(rows[torch.randperm(len(rows), generator=generator)[:count]])

    def to_set(
        self,
        images: Tensor,
        ipc: int,
        name: str,
        *,
        decode: str = "none",
        clamp: bool = False,
        learning_rate: float | None = None,
    ) -> SyntheticSet:
        """Normalised images [K*ipc,C,S,S], class by class, as a set: float32 in pixel space."""
        pixels = images.detach() * self.std + self.mean
        return SyntheticSet(
            images=(pixels.clamp(0, 1) if clamp else pixels).float().cpu().contiguous(),
            labels=torch.arange(self.dataset.num_classes).repeat_interleave(ipc),
            dataset=self.dataset.name,
            ipc=ipc,
            decode=decode,
            class_names=self.dataset.class_names,
            name=name,
            learning_rate=learning_rate,
        )
