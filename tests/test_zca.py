"""Whitening is undone: images whitened here, by the closed form, come back as the pixels they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from mabench import data
from mabench.sets import readers

Floats = npt.NDArray[np.float64]


def whitened(pixels: Floats, train: Floats) -> Floats:
    """What kornia's ZCAWhitening(eps=0.1), fitted to the rows of `train`, makes of the rows of `pixels`; both 0 to 1."""
    mean = train.mean(0)
    covariance = np.zeros((train.shape[1], train.shape[1]), train.dtype)
    for begin in range(0, len(train), 5000):
        centred = train[begin : begin + 5000] - mean
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance / (len(train) - 1))
    white: Floats = (pixels - mean) @ (vectors / np.sqrt(values.clip(0) + 0.1)) @ vectors.T
    return white


def check(train: data.RealData, folder: Path, dataset: str) -> None:
    chosen = np.concatenate([np.flatnonzero(train.labels == k)[:2] for k in range(train.dataset.num_classes)])
    rows = train.images.reshape(len(train.labels), -1).astype(np.float32) / 255
    white = whitened(rows[chosen], rows).reshape(train.images[chosen].shape).astype(np.float32)
    folder.mkdir()
    torch.save(torch.from_numpy(white), folder / "images_best.pt")
    torch.save(torch.from_numpy(train.labels[chosen]), folder / "labels_best.pt")
    for _ in range(2):  # computed, then from the cache
        read = readers.read(folder, dataset=dataset, space="zca")
        assert np.array_equal(read.labels, train.labels[chosen])
        assert float((read.images.float() * 255 - torch.from_numpy(train.images[chosen]).float()).abs().max()) < 2


def test_small_whitened_images_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 2)):
        for name in ("cats", "dogs"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for k in range(count):
                smooth = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
                Image.fromarray(smooth).resize((8, 8)).save(tmp_path / "photos" / split / name / f"{k}.png")
    described = tmp_path / "pets.toml"
    described.write_text(
        'name = "pets"\nclasses = ["cats", "dogs"]\nimage_size = 8\nmean = [0.3, 0.5, 0.7]\nstd = [0.2, 0.3, 0.4]\nfolder = "photos"\n'
    )
    try:
        data.describe(described)
        check(data.load("pets", "train"), tmp_path / "pets_run", str(described))
    finally:
        data.DATASETS.pop("pets", None)


@pytest.mark.slow
def test_real_whitened_images_come_back(real_data: Path, tmp_path: Path) -> None:
    check(data.load("cifar10", "train"), tmp_path / "cifar10_run", "cifar10")
