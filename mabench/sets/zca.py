"""ZCA whitening as trajectory matching used it, and its inverse: kornia's, eps 0.1, on the pixels (0 to 1) of the train split.

Legend: D = C H W values of an image; S, U eigenvalues and eigenvectors of the train split's covariance [D,D] (divided by N - 1).
Whitened = (x - mean) U (S + eps)^-1/2 U^T. Source: MTT's released code (arXiv 2203.11932), whose images are NOT normalised by mean and std
where they are whitened; FTD, TESLA, DATM and DataDAM kept that.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from mabench.data import Dataset, RealData, load
from mabench.errors import MabenchError
from mabench.files import cache_folder, is_intact, write_checksummed

EPS = 0.1
MAX_VALUES = 3072  # ours: the covariance of 32 px images takes seconds, that of 64 px ones half an hour
ROWS = 5000  # ours: images that become floats at once; 60 MB at 32 px


def undo(images: Tensor, entry: Dataset) -> Tensor:
    """Pixels [N,C,H,W] of whitened images. Raises MabenchError for datasets whose images are too large for it."""
    mean, basis, values = statistics(entry)
    flat = ((images.flatten(1) @ basis) * (values + EPS).sqrt()) @ basis.T + mean
    return flat.view(images.shape)


def whitening(entry: Dataset) -> tuple[Tensor, Tensor]:
    """Mean [D] and matrix [D,D] with which `whiten` takes pixels to whitened images. Raises MabenchError as `undo`."""
    mean, basis, values = statistics(entry)
    return mean, (basis / (values + EPS).sqrt()) @ basis.T


def whiten(pixels: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Whitened images of pixels [N,C,H,W], 0 to 1."""
    return ((pixels.flatten(1) - mean) @ matrix).view(pixels.shape)


def statistics(entry: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], U [D,D] and S [D] of the train split; computed once, then kept in the cache folder where that can be written."""
    if entry.channels * entry.image_size**2 > MAX_VALUES:
        raise MabenchError(
            f"ZCA whitening is computed up to 32 px, {entry.name} has {entry.image_size} px. Undo the whitening with the code that made the set, and store pixels."
        )
    train = load(entry.name, "train")
    path = cache_folder() / entry.name / f"zca-pixels-{train.sha256[:16]}.safetensors"
    if path.is_file() and is_intact(path):
        from safetensors.torch import load_file

        stored = load_file(path)
        return stored["mean"], stored["basis"], stored["values"]
    mean, basis, values = _decomposed(train)
    with suppress(MabenchError):  # a cache that others filled and closed: computed again the next time
        write_checksummed(path, {"mean": mean, "basis": basis, "values": values}, {"dataset": entry.name})
    return mean, basis, values


def _decomposed(train: RealData) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], eigenvectors [D,D] in columns, and eigenvalues [D] of the covariance of a split's pixels.

    One half of the symmetric products is computed, and the divide-and-conquer driver taken: CIFAR-10 takes 20 s of one core so,
    35 s with full products and torch's driver.
    """
    from scipy.linalg import blas, eigh

    count, size = len(train.labels), train.images[0].size
    mean = (train.images.reshape(count, size).mean(0, dtype=np.float64) / 255).astype(np.float32)
    products = np.zeros((size, size), np.float32, order="F")
    for begin in range(0, count, ROWS):
        centred = train.images[begin : begin + ROWS].reshape(-1, size).astype(np.float32) / 255 - mean
        products = blas.ssyrk(1.0, centred.T, beta=1.0, c=products, lower=True, overwrite_c=True)
    values, basis = eigh(products / (count - 1), lower=True, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(mean), torch.from_numpy(np.ascontiguousarray(basis)), torch.from_numpy(values).clamp_min(0)
