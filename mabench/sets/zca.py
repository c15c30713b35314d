"""ZCA whitening as trajectory matching used it, and its inverse: kornia's, eps 0.1, on the pixels (0 to 1) of the train split.

Legend: D = C H W values of an image; S, U eigenvalues and eigenvectors of the train split's covariance [D,D] (divided by N - 1).
Whitened = (x - mean) U (S + eps)^-1/2 U^T. Source: MTT's released code (arXiv 2203.11932), whose images are NOT normalised by mean and std
where they are whitened; FTD, TESLA, DATM and DataDAM kept that.
"""

from __future__ import annotations

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
    """Mean [D], U [D,D] and S [D] of the train split; computed once, then kept in the cache folder."""
    if entry.channels * entry.image_size**2 > MAX_VALUES:
        raise MabenchError(
            f"ZCA whitening is computed up to 32 px, {entry.name} has {entry.image_size} px. Bring the pixels of a whitened set."
        )
    train = load(entry.name, "train")
    path = cache_folder() / entry.name / f"zca-pixels-{train.sha256[:16]}.safetensors"
    if path.is_file() and is_intact(path):
        from safetensors.torch import load_file

        stored = load_file(path)
        return stored["mean"], stored["basis"], stored["values"]
    mean, covariance = _moments(train)
    values, basis = torch.linalg.eigh(covariance)
    values = values.clamp_min(0)
    write_checksummed(path, {"mean": mean, "basis": basis.contiguous(), "values": values}, {"dataset": entry.name})
    return mean, basis, values


def _moments(train: RealData) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D,D] of all pixels of a split."""
    count, size = len(train.labels), train.images[0].size
    mean = torch.from_numpy(train.images.reshape(count, size).mean(0) / 255).float()
    products = torch.zeros(size, size, dtype=torch.float32)
    for begin in range(0, count, ROWS):
        centred = torch.tensor(train.images[begin : begin + ROWS]).flatten(1).float() / 255 - mean
        products += centred.T @ centred
    return mean, products / (count - 1)
