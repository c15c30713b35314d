"""How far HMDC moves its images in 20 steps: python benchmarks/hmdc_movement.py [--steps 20] [--name NAME]

Real CIFAR-10, IPC 1, the ConvNet of width 32 and an untrained vit_mini, the image rate of the presets (5e-3), the paper's and the
released code's side of every choice. A pixel moves at most by rate x std x 255 x (1 + momentum + ...) a step; where the column
`step` falls, the images freeze. Gradients are sampled and networks trained after every step, as late in a long run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tabulate import tabulate

from mabench import data
from mabench.files import write_text
from mabench_methods.hmdc.condense import condense
from mabench_methods.hmdc.config import Config
from mabench_methods.hmdc.presets import paper, released
from mabench_methods.kit import Run

HERE = Path(__file__).parent
SMALL = {
    "networks": ("convnet3-scratch", "vit_mini-scratch"), "width": 32, "iterations": 1, "real_batch": 16, "network_batches": 1, "network_batch": 32,
    "period": 1, "pool": 64,
}  # fmt: skip


def movement(train: data.RealData, config: Config) -> dict[str, object]:
    """Largest and mean distance of a pixel from where it began, in 255ths, and the losses of every step."""
    losses: list[Mapping[str, float]] = []
    run = Run(on_progress=lambda done, total, found: losses.append(found))
    cpu = torch.device("cpu")
    start = condense(train, replace(config, iterations=0), 0, cpu)
    moved = 255 * (condense(train, config, 0, cpu, run).images - start.images).abs()
    return {"largest": float(moved.max()), "mean": float(moved.mean()), "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--name")
    arguments = parser.parse_args()
    train, found, body = data.load("cifar10", "train"), {}, []
    for side, make in (("paper", paper), ("released", released)):
        found[side] = movement(train, make(1, steps=arguments.steps, **SMALL))
        steps = [float(values.get("step", float("nan"))) for values in found[side]["losses"]]  # type: ignore[attr-defined]
        body.append(
            [side, f"{found[side]['largest']:.2f}", f"{found[side]['mean']:.3f}", *(f"{v:.3f}" for v in steps[:1] + steps[-1:])]
        )
    print(tabulate(body, ["side", "largest move /255", "mean move /255", "step at first", "step at last"], disable_numparse=True))
    if arguments.name:
        write_text(HERE / "results" / f"{arguments.name}.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
