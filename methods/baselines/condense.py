"""Baselines made of real images: random draws, and the images nearest to k-means centres of each class."""

from __future__ import annotations

import numpy as np
import torch

from mabench.data import RealData
from mabench.schema import MabenchError
from mabench.synthetic import SyntheticSet


def _by_class(train: RealData, ipc: int) -> list[np.ndarray]:
    if train.split != "train":
        raise MabenchError(f"{train.dataset.name}: a set must be made from the train split, not from '{train.split}'.")
    rows = [np.flatnonzero(train.labels == label) for label in range(train.dataset.num_classes)]
    smallest = min(len(r) for r in rows)
    if not 1 <= ipc <= smallest:
        raise MabenchError(f"{train.dataset.name}: IPC {ipc} is impossible, the smallest class has {smallest} images.")
    return rows


def _set(train: RealData, index: np.ndarray, ipc: int, name: str) -> SyntheticSet:
    entry = train.dataset
    return SyntheticSet(
        images=torch.tensor(train.images[index]),
        labels=torch.arange(entry.num_classes).repeat_interleave(ipc),
        dataset=entry.name,
        ipc=ipc,
        class_names=entry.class_names,
        name=name,
    )


def random_real(train: RealData, ipc: int, seed: int) -> SyntheticSet:
    """`ipc` random real images of every class, uint8, class by class. Raises MabenchError for a test split or too large an ipc."""
    generator = np.random.Generator(np.random.PCG64(seed))
    index = np.concatenate([generator.choice(rows, ipc, replace=False) for rows in _by_class(train, ipc)])
    return _set(train, index, ipc, f"random-ipc{ipc}-seed{seed}")


def kmeans_real(train: RealData, ipc: int, seed: int) -> SyntheticSet:
    """The real image nearest to each of `ipc` k-means centres of its class, in pixel space; each image is used once."""
    from sklearn.cluster import KMeans

    chosen: list[int] = []
    for rows in _by_class(train, ipc):
        flat = train.images[rows].reshape(len(rows), -1).astype(np.float32) / 255
        centres = KMeans(ipc, n_init=4, random_state=seed).fit(flat).cluster_centers_
        free = np.ones(len(rows), dtype=bool)
        for centre in centres:
            distance = np.where(free, ((flat - centre) ** 2).sum(1), np.inf)
            nearest = int(distance.argmin())
            free[nearest] = False
            chosen.append(int(rows[nearest]))
    return _set(train, np.array(chosen), ipc, f"kmeans-ipc{ipc}-seed{seed}")
