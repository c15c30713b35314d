"""Sets of real images: right count, right classes, really from the train split."""

from __future__ import annotations

import numpy as np
import pytest

from mabench import data
from mabench.schema import MabenchError
from mabench_methods.baselines.condense import kmeans_real, random_real


@pytest.mark.parametrize("make", [random_real, kmeans_real])
def test_images_are_distinct_real_images_of_their_class(make: object) -> None:
    train = data.load("digits", "train")
    chosen = make(train, 3, 0)  # type: ignore[operator]
    assert chosen.class_counts == (3,) * 10
    where = {image.tobytes(): int(label) for image, label in zip(train.images, train.labels, strict=True)}
    keys = [image.numpy().tobytes() for image in chosen.images]
    assert [where[k] for k in keys] == chosen.labels.tolist() and len(set(keys)) == 30


def test_the_seed_decides() -> None:
    train = data.load("digits", "train")
    assert random_real(train, 2, 1).sha256 == random_real(train, 2, 1).sha256 != random_real(train, 2, 2).sha256


def test_kmeans_of_one_is_the_image_nearest_to_the_class_mean() -> None:
    train = data.load("digits", "train")
    chosen = kmeans_real(train, 1, 0)
    for label in range(10):
        mine = train.images[train.labels == label].astype(np.float64)
        nearest = ((mine - mine.mean(0)) ** 2).sum((1, 2, 3)).argmin()
        assert np.array_equal(chosen.images[label].numpy(), mine[nearest].astype(np.uint8))


def test_misuse_is_refused() -> None:
    with pytest.raises(MabenchError, match="train split"):
        random_real(data.load("digits", "test"), 1, 0)
    with pytest.raises(MabenchError, match="smallest class"):
        random_real(data.load("digits", "train"), 5000, 0)
