"""ZCA whitening as trajectory matching used it, and its inverse: kornia's, eps 0.1, on the normalised train split.

Legend: D = C H W values of an image; S, U eigenvalues and eigenvectors of the train split's covariance [D,D] (divided by N - 1).
Whitened = (x - mean) U (S + eps)^-1/2 U^T; x is normalised by the dataset's mean and std. Source: MTT's released code (arXiv 2203.11932).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mabench.data import Dataset, load
from mabench.errors import MabenchError
from mabench.files import cache_folder, is_intact, write_checksummed

EPS = 0.1
MAX_VALUES = 3072  # ours: the covariance of 32 px images takes seconds, that of 64 px ones half an hour


def undo(images: Tensor, entry: Dataset) -> Tensor:
    """Pixels [N,C,H,W] of whitened images. Raises MabenchError for datasets whose images are too large for it."""
    mean, basis, values = statistics(entry)
    flat = ((images.flatten(1) @ basis) * (values + EPS).sqrt()) @ basis.T + mean
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (entry.mean, entry.std))
    return flat.view(images.shape) * scale + shift


def whiten(pixels: Tensor, entry: Dataset) -> Tensor:
    """Whitened images [N,C,H,W] of pixels."""
    mean, basis, values = statistics(entry)
    flat = ((_normalised(pixels, entry) - mean) @ basis * (values + EPS).rsqrt()) @ basis.T
    return flat.view(pixels.shape)


def _normalised(pixels: Tensor, entry: Dataset) -> Tensor:
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (entry.mean, entry.std))
    return ((pixels - shift) / scale).flatten(1)


def statistics(entry: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], U [D,D] and S [D] of the train split; computed once, then kept in the cache folder."""
    if entry.channels * entry.image_size**2 > MAX_VALUES:
        raise MabenchError(
            f"--space zca: whitening is undone up to 32 px, {entry.name} has {entry.image_size} px. Undo it yourself."
        )
    train = load(entry.name, "train")
    path = cache_folder() / entry.name / f"zca-{train.sha256[:16]}.safetensors"
    if path.is_file() and is_intact(path):
        from safetensors.torch import load_file

        kept = load_file(path)
        return kept["mean"], kept["basis"], kept["values"]
    size = entry.channels * entry.image_size**2
    total, products = torch.zeros(size), torch.zeros(size, size)
    for begin in range(0, len(train.labels), 5000):
        flat = _normalised(torch.tensor(train.images[begin : begin + 5000]).float() / 255, entry)
        total += flat.sum(0)
        products += flat.T @ flat
    count = len(train.labels)
    mean = total / count
    values, basis = torch.linalg.eigh((products - count * torch.outer(mean, mean)) / (count - 1))
    values = values.clamp_min(0)
    write_checksummed(path, {"mean": mean, "basis": basis.contiguous(), "values": values}, {"dataset": entry.name})
    return mean, basis, values
