"""What a set gains that is made for known seeds, and what is left of it when the seeds follow from the set.

    python benchmarks/seed_attack.py --out benchmarks/results/seed_attack_MACHINE.json

Digits, one image a class, an MLP. The attacker knows suite and seeds, and so, where the streams follow from the seed alone, every
initial weight, order and augmentation of the three official runs. He back-propagates through all of their steps into the images;
his loss is that of TRAIN digits, no test image is seen. Three sets are made: real images as they are, one for the known runs, and
one the honest way, with new seeds in every step. Each is then evaluated by the package's own loop on the official seeds and on
fresh ones, under both kinds of streams. A gap is the mean of the official runs minus that of the fresh ones.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench import data, suites, training
from mabench.data import RealData
from mabench.data.augment import augment
from mabench.files import write_text
from mabench.networks import evaluators
from mabench.results import scoring
from mabench.runs.plan import plan
from mabench.schema import Cell, SeedStreams
from mabench.sets.synthetic import SyntheticSet
from mabench.training.provenance import environment
from mabench_methods.baselines.condense import Config, condense

CPU = torch.device("cpu")
SUITE, EVALUATOR = "digits-agnostic", "mlp-scratch"
FIRST_FRESH = 1000  # ours: the first of the seeds that the attacker does not know
RATE = 0.03  # ours: of Adam on the pixels, in units of the pixel range
OUTER = 500  # ours: train digits of which the outer loss is taken in a step


def course(pixels: Tensor, labels: Tensor, cell: Cell, real: RealData) -> tuple[list[Tensor], Any]:
    """Parameters after all steps of this run, differentiable in `pixels` [N,C,S,S], and the network that takes them."""
    recipe, entry = cell.recipe, real.dataset
    model = evaluators.build(
        cell.evaluator,
        num_classes=entry.num_classes,
        channels=entry.channels,
        image_size=entry.image_size,
        seed=cell.stream("init"),
    )
    order = torch.Generator().manual_seed(cell.stream("order"))
    draws = torch.Generator().manual_seed(cell.stream("augment"))
    names = [name for name, _ in model.named_parameters()]
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    momentum = [torch.zeros_like(p) for p in weights]
    rate = recipe.learning_rate or cell.evaluator.learning_rate
    images, targets = normalised(pixels, real), F.one_hot(labels, entry.num_classes).float()

    def forward(parameters: Sequence[Tensor], batch: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), batch)
        return logits

    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(images), generator=order).split(recipe.batch_size):  # type: ignore[no-untyped-call]
            inputs, mixed = augment(images[batch], targets[batch], recipe.augmentation, draws)
            loss = F.cross_entropy(forward(weights, inputs), mixed)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            momentum = [
                recipe.momentum * m + g + recipe.weight_decay * p for m, g, p in zip(momentum, gradients, weights, strict=True)
            ]
            weights = [p - rate * m for p, m in zip(weights, momentum, strict=True)]
    return weights, forward


def normalised(pixels: Tensor, real: RealData) -> Tensor:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (real.dataset.mean, real.dataset.std))
    return (pixels - mean) / std


def attack(start: SyntheticSet, cells: Sequence[Cell], train: RealData, steps: int, *, honest: bool) -> SyntheticSet:
    """Images that do best after the course of `cells`; `honest`: of new seeds in every step instead."""
    pixels = (start.images.float() / 255).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=RATE)
    chance = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for number, cell in enumerate(cells):
            drawn = cell.model_copy(update={"seed": 10_000 + 3 * step + number}) if honest else cell
            weights, forward = course(pixels, start.labels, drawn, train)
            picked = torch.randperm(len(train.labels), generator=chance)[:OUTER].numpy()
            images = normalised(torch.tensor(train.images[picked]).float() / 255, train)
            loss = F.cross_entropy(forward(weights, images), torch.tensor(train.labels[picked])) / len(cells)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}: loss {total:.3f}", file=sys.stderr, flush=True)
    return replace(start, images=pixels.detach().clone(), name="honest" if honest else "made for the official seeds")


def measured(chosen: SyntheticSet, streams: SeedStreams, seeds: Sequence[int], test: RealData) -> list[float]:
    """Scores of this set under these seeds, by the package's own loop."""
    (first,) = plan(suites.load(SUITE), chosen, evaluator=EVALUATOR, seeds=[0])
    cells = [first.model_copy(update={"seed": seed, "seed_streams": streams}) for seed in seeds]
    return [scoring.score(training.run(chosen, cell, test, device=CPU)) for cell in cells]


def gap(official: Sequence[float], fresh: Sequence[float]) -> dict[str, Any]:
    """Official minus fresh, in points, and its standard error by the spread of the fresh runs, which nobody chose."""
    spread = stdev(fresh)
    return {
        "official": [round(100 * value, 2) for value in official],
        "fresh": [round(100 * value, 2) for value in fresh],
        "gap": round(100 * (fmean(official) - fmean(fresh)), 2),
        "standard_error": round(100 * spread * math.sqrt(1 / len(official) + 1 / len(fresh)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of Adam on the images")
    parser.add_argument("--fresh", type=int, default=20, help="seeds that the attacker does not know")
    parser.add_argument("--out", type=Path, help="write the result here; it is always printed")
    options = parser.parse_args()
    loaded_suite = suites.load(SUITE)
    train, test = data.load("digits", "train"), data.load("digits", "test")
    start = condense(train, Config(1, "random"), 0, CPU)
    known = [cell.model_copy(update={"seed_streams": "fixed"}) for cell in plan(loaded_suite, start, evaluator=EVALUATOR)]
    began = time.process_time()
    sets = {
        "real images": start,
        "made for the official seeds": attack(start, known, train, options.steps, honest=False),
        "honest, new seeds in every step": attack(start, known, train, options.steps, honest=True),
    }
    fresh = range(FIRST_FRESH, FIRST_FRESH + options.fresh)
    kinds: tuple[SeedStreams, ...] = ("fixed", "set")
    result = {
        "suite": loaded_suite.id,
        "evaluator": EVALUATOR,
        "steps": options.steps,
        "command": "python benchmarks/seed_attack.py",
        "environment": environment(CPU),
        "sets": {
            name: {
                kind: gap(measured(one, kind, loaded_suite.suite.seeds, test), measured(one, kind, fresh, test)) for kind in kinds
            }
            for name, one in sets.items()
        },
        "processor_seconds": round(time.process_time() - began),
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
