"""Are the set's classes the dataset's, in its order? A second of work, asked by `check`, by every evaluation, and at submission."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mabench import data
from mabench.data import RealData
from mabench.errors import MabenchError, first_line
from mabench.schema import Finding
from mabench.sets.synthetic import SyntheticSet

PROBE_TRAIN = 5000  # ours: real images that the class probe is asked about; their share has a standard error below 0.7 points
PROBE_SIDE = 16  # ours: pixels a side that the probe sees
PROBE_SET = 2000  # ours: images of the set that it learns from, so that its kernel matrix stays small
PROBE_LOSS = (
    0.5  # ours: refuse when the stated order loses half of what the best one gains over chance (random IPC 1: at most .20)
)
PROBE_LOSS_CLEAR = (
    0.15  # ours: ... or this where the probe knows the classes (>= 2x chance, >= 0.25): two swapped of ten lose .20
)
PROBE_NOISE = 0.03  # ours: and never for less than this beyond what the best of all renamings gains by chance
CHUNK = 1000  # ours: real images that become floats at once

Numbers = np.ndarray[Any, np.dtype[np.int64]]


def order_finding(synthetic_set: SyntheticSet) -> Finding | None:
    """What is wrong with the order of the classes, as a finding; None where nothing is, or the train split is not at hand."""
    if not data.at_hand(synthetic_set.dataset, "train"):
        return None
    try:
        _, problem = class_order(synthetic_set, data.load(synthetic_set.dataset, "train", verify=False))
    except MabenchError:  # a damaged copy stops what needs it, not the reading of a set
        return None
    return Finding(field="class order", value="seems wrong", reason=problem) if problem else None


def class_order(synthetic_set: SyntheticSet, train: RealData) -> tuple[str, str]:
    """What a linear probe that learns the set's labels says of their order, and the problem with it: empty where there is none."""
    stated, best, order, by_chance = class_probe(synthetic_set, train)
    found = f"a linear probe agrees with the stated order ({100 * stated:.2f}%, best order {100 * best:.2f}%)"
    chance = 1 / synthetic_set.num_classes
    lost = (best - stated) / max(best - chance, 1e-9)
    clear = best >= max(0.25, 2 * chance)
    if best - stated <= PROBE_NOISE + by_chance or best <= chance or lost <= (PROBE_LOSS_CLEAR if clear else PROBE_LOSS):
        return found, ""
    name = synthetic_set.entry.class_name
    moved = [k for k in range(synthetic_set.num_classes) if order[k] != k]
    renamed = first_line(f"{name(k)} -> {name(order[k])}" for k in moved)
    return found, (
        f"a linear probe that learns the set's labels gets {100 * stated:.2f}% of real training images right, but {100 * best:.2f}% "
        f"if {len(moved)} classes are renamed ({renamed}): the classes seem permuted. Number them as {synthetic_set.dataset} does: "
        f"{first_line(name(k) for k in range(synthetic_set.num_classes))}."
    )


def class_probe(chosen: SyntheticSet, train: RealData) -> tuple[float, float, list[int], float]:
    """Does the set's class k look like the dataset's class k?

    A kernel ridge regression learns the set's labels from its small standardised pixels and is asked about real TRAINING images.
    Returns the accuracy under the stated class order, that under the best one-to-one renaming, the renaming (set class -> dataset
    class), and what the best renaming gains where answers and classes have nothing to do with each other: next to nothing for ten
    classes, much for a thousand. Deterministic.
    """
    images, labels = _sample(chosen)
    targets = labels if labels.dim() == 2 else F.one_hot(labels, chosen.num_classes).float()
    every = max(1, len(train.labels) // PROBE_TRAIN)
    rows = slice(None, None, every) if len(set(train.labels[::every].tolist())) == chosen.num_classes else slice(None)
    known, real, classes = _small(chosen, images), train.images[rows], train.labels[rows]
    asked = torch.cat(
        [_small(chosen, torch.tensor(real[begin : begin + CHUNK]).float() / 255) for begin in range(0, len(real), CHUNK)]
    )
    centre = known.mean(0)
    known, asked = known - centre, asked - centre
    kernel = known @ known.T
    ridge = 0.3 * kernel.diagonal().mean().clamp_min(1e-6)  # ours: a third of an image's own weight
    weights = torch.linalg.solve(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype), targets - targets.mean(0))
    answers = (asked @ known.T @ weights).argmax(1).numpy()
    stated, best, order = _best_renaming(answers, classes, chosen.num_classes)
    unrelated, renamed, _ = _best_renaming(answers, np.random.default_rng(0).permutation(classes), chosen.num_classes)
    return stated, best, order, renamed - unrelated


def _best_renaming(answers: Numbers, classes: Numbers, count: int) -> tuple[float, float, list[int]]:
    """Share of right answers as they are and under the best one-to-one renaming, and that renaming."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((count, count))
    np.add.at(counts, (answers, classes), 1)
    sets, reals = linear_sum_assignment(-counts)
    return float(np.trace(counts) / counts.sum()), float(counts[sets, reals].sum() / counts.sum()), [int(k) for k in reals]


def _sample(chosen: SyntheticSet) -> tuple[Tensor, Tensor]:
    """Up to `PROBE_SET` training images, evenly over the set; large sets are not decoded as a whole."""
    rows = torch.linspace(0, len(chosen.images) - 1, min(len(chosen.images), PROBE_SET)).long()
    if chosen.factor == 1:
        images = chosen.images[rows]
        return (images.float() / 255 if images.dtype == torch.uint8 else images.float()), chosen.labels[rows]
    images, labels = chosen.decoded()
    rows = torch.linspace(0, len(images) - 1, min(len(images), PROBE_SET)).long()
    return images[rows], labels[rows]


def _small(chosen: SyntheticSet, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (chosen.entry.mean, chosen.entry.std))
    return F.adaptive_avg_pool2d((images - mean) / std, PROBE_SIDE).flatten(1)
