"""Which real images a set is like in the features of a pretrained network: a report for reviewers, which refuses nothing.

Of as many test as train images, an honest set is nearest to a test image for at most half of its images: what was made from the
train split is like train images, and what is like neither falls to either side by chance. Weak evidence: `docs/evidence/leaks.md`
has how little it tells of single disguises. Needs torch and the weights of `NETWORK`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.board.gates import Gate, gate
from mabench.data import RealData
from mabench.networks import evaluators
from mabench.networks.evaluators import EVALUATORS

NAME = "features"
NETWORK = "efficientnet_lite0-pretrained"
SIDE = 64  # ours: pixels at which images are looked at; 20,000 take about two minutes on one core
REAL = 10_000  # ours: images of each split that are looked at, at most
SHOWN = 5  # ours: images that are named
BATCH = 256


@dataclass(frozen=True)
class Report:
    """What was found."""

    images: int
    nearer: int
    """Images that are nearer to a test image than to any train image, of as many of each."""
    chance: float
    """Probability of so many or more where each image is nearer to either split by the toss of a coin."""
    first: tuple[tuple[int, int, float, float], ...]
    """(image, test image, likeness to it, largest likeness to a train image) of those that stand out most."""

    def __str__(self) -> str:
        text = f"{self.nearer} of {self.images} images are nearer to a test image than to any of as many train images"
        named = ", ".join(f"image {k} to test image {t} ({a:.2f}, train {b:.2f})" for k, t, a, b in self.first)
        return f"{text} (by chance alone: {self.chance:.2g}); most of all {named}"


def report(images: Tensor, test: RealData, train: RealData, real: int = REAL) -> Report:
    """Compare training images [M,C,S,S], 1.0 = white, with `real` images of each split, drawn by a fixed seed."""
    from scipy.stats import binomtest

    count = min(real, len(test.labels), len(train.labels))
    looks = _Features(test.dataset.channels)
    rows = [np.sort(np.random.default_rng(0).permutation(len(split.labels))[:count]) for split in (test, train)]
    own = looks(images)
    likeness = [
        _nearest(own, looks(torch.from_numpy(np.array(split.images[chosen])).float() / 255))
        for split, chosen in zip((test, train), rows, strict=True)
    ]
    (to_test, index), (to_train, _) = likeness
    nearer = int((to_test > to_train).sum())
    order = torch.argsort(to_test - to_train, descending=True)[:SHOWN].tolist()
    first = tuple((k, int(rows[0][index[k]]), float(to_test[k]), float(to_train[k])) for k in order)
    chance = float(binomtest(nearer, len(images), 0.5, alternative="greater").pvalue)
    return Report(len(images), nearer, chance, first)


def as_gate(images: Tensor, test: RealData, train: RealData) -> Gate:
    """The report among the gates: always open."""
    return gate(NAME, str(report(images, test, train)), [])


class _Features:
    """Images -> features of length 1: what the last layer of `NETWORK` is given."""

    def __init__(self, channels: int) -> None:
        entry = EVALUATORS[NETWORK].model_copy(update={"input_size": SIDE})
        self.model = evaluators.build(entry, num_classes=10, channels=channels, image_size=SIDE, seed=0).eval()
        self.mean, self.std = (torch.tensor(values or (0.5,))[:, None, None] for values in (entry.mean, entry.std))
        self.seen: list[Tensor] = []
        evaluators.head(self.model).register_forward_pre_hook(lambda _, given: self.seen.append(given[0]))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """[M,C,S,S], 1.0 = white -> [M,D]."""
        self.seen.clear()
        for part in torch.split(images.clamp(0, 1), BATCH):
            self.model((F.interpolate(part, size=SIDE, mode="bilinear", antialias=True) - self.mean) / self.std)
        return F.normalize(torch.cat(self.seen).flatten(1), dim=1)


def _nearest(own: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of each row of `own` with a row of `real`, and which."""
    found = (own @ real.T).max(1)
    return found.values, found.indices
