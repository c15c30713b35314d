"""What cells cost: floating-point operations, and seconds on this device, measured on the beginning of the real thing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from mabench import evaluators, protocol
from mabench.data import DATASETS, Dataset, RealData
from mabench.engine import EngineName
from mabench.schema import Cell, Evaluator
from mabench.synthetic import SyntheticSet

CALIBRATION_SECONDS = 1.5  # ours: long enough for a slow step, short enough for a suite of fourteen networks
STAND_IN_IMAGES = 1000  # ours: a look over so many amortises what a look costs once, as a real one does


def flops(cell: Cell, dataset: Dataset, decoded_images: int, test_images: int) -> float:
    """Floating-point operations of a cell: those of one image times the images that pass, training counted 3 times."""
    per_image = _flops_per_image(cell.evaluator.model_dump_json(), dataset.num_classes, dataset.channels)
    return per_image * protocol.work(cell, decoded_images, test_images)


@lru_cache
def _flops_per_image(evaluator_json: str, num_classes: int, channels: int) -> float:
    evaluator = Evaluator.model_validate_json(evaluator_json).model_copy(update={"pretrained": False})  # same cost, no download
    size = evaluator.input_size
    model = evaluators.build(evaluator, num_classes=num_classes, channels=channels, image_size=size, seed=0)
    return float(evaluators.flops(model, image_size=size, channels=channels))


@dataclass(frozen=True)
class Speed:
    """What a cell of one kind costs on a device."""

    startup_seconds: float
    """Building, the first step and the first test batch: compilation is in here. Paid once per kind and process."""
    seconds_per_train_image: float
    seconds_per_test_image: float

    def seconds(self, cell: Cell, decoded_images: int, test_images: int) -> float:
        """Estimate without the startup. Looks count whole: what pruning saves depends on the set."""
        recipe = cell.recipe
        training = recipe.epochs * decoded_images * (2 if recipe.distillation else 1)
        looks = math.ceil(recipe.epochs / recipe.test_every)
        return training * self.seconds_per_train_image + looks * test_images * self.seconds_per_test_image


def estimate(
    cells: Sequence[Cell],
    synthetic_set: SyntheticSet,
    test_images: int,
    *,
    device: torch.device,
    engine: EngineName,
    on_kind: Callable[[Cell], None] = lambda cell: None,
) -> dict[str, float]:
    """Seconds of every cell (by name) on this device, from the first steps and test batches of each evaluator.

    Nothing is fetched for an estimate: random weights and random test images cost the same as real ones.
    `on_kind` hears of each evaluator before it is measured.
    """
    decoded = synthetic_set.summary().decoded_images
    speeds: dict[tuple[str, str], Speed] = {}
    seconds: dict[str, float] = {}
    for cell in cells:
        kind = (cell.track, cell.evaluator.name)
        startup = 0.0
        if kind not in speeds:
            on_kind(cell)
            speeds[kind] = measure(cell, synthetic_set, device, engine)
            startup = speeds[kind].startup_seconds
        seconds[cell.name] = startup + speeds[kind].seconds(cell, decoded, test_images)
    return seconds


def measure(cell: Cell, synthetic_set: SyntheticSet, device: torch.device, engine: EngineName) -> Speed:
    """Run the beginning of a cell, with random weights, and throw the result away."""
    recipe = cell.recipe
    if cell.evaluator.pretrained and recipe.batch_norm == "frozen-if-pretrained":
        recipe = recipe.model_copy(update={"batch_norm": "frozen"})  # what these words mean for the real weights
    plain = cell.model_copy(update={"evaluator": cell.evaluator.model_copy(update={"pretrained": False}), "recipe": recipe})
    dataset = DATASETS[synthetic_set.dataset]
    shape = (STAND_IN_IMAGES, dataset.channels, dataset.image_size, dataset.image_size)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    begun = time.monotonic()
    sitting = protocol.Sitting(
        synthetic_set, plain, RealData(noise, np.zeros(len(noise), np.int64), dataset, "test", ""), device, engine
    )
    batch = torch.arange(min(recipe.batch_size, len(sitting.images)), device=device)
    part = sitting.engine.test_batch

    def train() -> int:
        sitting.set_training()
        sitting.step(batch)
        return len(batch)

    @torch.inference_mode()
    def test(first: int) -> int:
        hits = sitting.hits(slice(first, min(first + part, len(noise))))
        return len(hits)

    train()
    sitting.engine.begin_look()
    test(0)
    _wait(device)
    startup = time.monotonic() - begun

    begun, images = time.monotonic(), 0
    while images == 0 or time.monotonic() - begun < CALIBRATION_SECONDS:
        images += train()
        _wait(device)
    per_train_image = (time.monotonic() - begun) / images

    begun, images = time.monotonic(), 0
    sitting.engine.begin_look()
    while images == 0 or time.monotonic() - begun < CALIBRATION_SECONDS:
        images += test(images % (len(noise) - part))
        _wait(device)
    return Speed(startup, per_train_image, (time.monotonic() - begun) / images)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
