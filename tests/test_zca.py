"""Whitening is undone: images whitened here, by the closed form, come back as the pixels they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from builders import PLAIN, cell
from PIL import Image
from pydantic import ValidationError

from mabench import data
from mabench.schema import Augmentation, Recipe
from mabench.sets import readers
from mabench.sets.synthetic import SyntheticSet
from mabench.training.material import Material

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


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The description of a dataset of 120 smooth images of 8 px, which is known while the test runs."""
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
    data.describe(described)
    yield described
    data.DATASETS.pop("pets", None)


def test_small_whitened_images_come_back(pets: Path, tmp_path: Path) -> None:
    check(data.load("pets", "train"), tmp_path / "pets_run", str(pets))


def test_a_whitened_recipe_trains_and_tests_on_whitened_images(pets: Path) -> None:
    """Against the closed form; the network sees what is augmented, without another normalisation."""
    train, test = data.load("pets", "train"), data.load("pets", "test")
    made = SyntheticSet(torch.tensor(train.images[[0, 60]]), torch.tensor([0, 1]), "pets", 1, name="two")
    recipe = PLAIN.model_copy(update={"normalisation": "zca", "augmentation": Augmentation(space="normalised")})
    run = cell(recipe).model_copy(update={"set_sha256": made.sha256})
    material = Material(made, run, test, torch.device("cpu"))
    rows = train.images.reshape(120, -1).astype(np.float64) / 255
    for found, pixels in (
        (material.images[torch.arange(2)], train.images[[0, 60]]),
        (material.test_batch(slice(0, 4)), test.images),
    ):
        expected = whitened(pixels.reshape(len(pixels), -1).astype(np.float64) / 255, rows).reshape(pixels.shape)
        assert float((found.double() - torch.from_numpy(expected)).abs().max()) < 1e-4
        evaluator = run.evaluator.model_copy(update={"input_size": 8, "mean": (0.1, 0.1, 0.1), "std": (0.5, 0.5, 0.5)})
        assert torch.equal(material.view(evaluator)(found), found)


def test_whitening_and_views_of_pixels_do_not_go_together() -> None:
    fields = PLAIN.model_dump() | {"normalisation": "zca"}
    with pytest.raises(ValidationError, match='set space = "normalised"'):
        Recipe.model_validate(fields)


@pytest.mark.slow
def test_real_whitened_images_come_back(real_data: Path, tmp_path: Path) -> None:
    check(data.load("cifar10", "train"), tmp_path / "cifar10_run", "cifar10")
