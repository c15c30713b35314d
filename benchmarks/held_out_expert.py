"""What each component of AST does to an expert that the images have not seen: python benchmarks/held_out_expert.py RECORDS [--variant NAME --seed 0]

Preset `lite` (CIFAR-10, IPC 1, a ConvNet of width 32, ten experts) and its ablations, condensation seeds 0, 1 and 2: the same initial images, experts,
start epochs and noise for every variant, so differences are paired. Measure: from every start epoch of two further experts of the same
pool a student takes the N steps of the condensation at the learned rate, unperturbed, on its inner loss; squared distance from where the expert went,
as a part of the expert's own way. 1 = the images lead nowhere. RECORDS (JSON lines) gets a line for each variant and seed; what is there is not
repeated. Without --variant everything that is missing is made, and the table is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import scipy.stats
import torch
from tabulate import tabulate

from mabench import data
from mabench.files import cache_folder
from mabench.networks.batches import backward_batch
from mabench_methods import kit
from mabench_methods.trajectory import experts, matching
from mabench_methods.trajectory.condense import Config, match
from mabench_methods.trajectory.experts import Expert
from mabench_methods.trajectory.matching import Flat, Step, Student
from mabench_methods.trajectory.presets import AST

HELD_OUT = 2  # ours: experts that no condensation sees
AUGMENTATIONS = 4  # ours: draws of the students' augmentation, the same for every variant
SEEDS = (0, 1, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "one iteration": {"iterations": 1},
    "lite": {},
    "initial=real": {"initial": "real"},
    "balance=none": {"balance": "none"},
    "intermediate=none": {"intermediate": "none"},
    "intermediate=none, image_rate x2": {"intermediate": "none", "image_rate": 2000.0},
    "perturbation=released": {"perturbation": "released"},
    "perturbation=none": {"perturbation": "none"},
}
CPU = torch.device("cpu")


def distance(expert: Expert, images: torch.Tensor, rate: float, config: Config, flat: Flat, part: int) -> float:
    """Mean over start epochs and augmentations of |theta_N - theta_(t+M)|^2 / |theta_t - theta_(t+M)|^2."""
    labels = torch.arange(10).repeat_interleave(config.ipc)
    found = []
    for start in range(config.max_start):
        path = expert.rows(start, start + config.expert_epochs)
        balance = matching.balance(start, config.max_start, config.balance)
        student = Student(flat, labels, momentum=config.inner_momentum, balance=balance, strategy=config.augmentation, part=part)
        for draw in range(AUGMENTATIONS):
            steps = [Step(torch.arange(len(labels)), 1000 * draw + k) for k in range(config.student_steps)]
            weights, _ = student.walk(images, torch.tensor(rate), path[0], steps)
            found.append(float((weights[-1] - path[-1]).square().sum() / (path[0] - path[-1]).square().sum()))
    return fmean(found)


def measure(name: str, seed: int) -> dict[str, Any]:
    """Condense one variant with one seed and measure it."""
    train = data.load("cifar10", "train")
    real, config = kit.RealImages(train, CPU), AST.presets["lite"].config
    assert isinstance(config, Config)
    config, part = replace(config, **VARIANTS[name]), backward_batch("cpu", 32)
    count = config.experts.count
    folder = cache_folder() / "experts" / experts.folder_name(config.experts, train)
    pool = experts.train_pool(train, real, replace(config.experts, count=count + HELD_OUT), folder, part=part)
    begun, losses = time.process_time(), [0.0]
    images, rate = match(
        real, pool[:count], config, seed, part, lambda done, values, state: losses.append(values["last point"]), None
    )
    seconds = time.process_time() - begun
    flat = Flat(kit.draw_network(train.dataset, "convnet", 0, depth=config.experts.depth_at(32), width=config.experts.width))
    held_out = [distance(expert, images, rate, config, flat, part) for expert in pool[count:]]
    seen = [distance(expert, images, rate, config, flat, part) for expert in pool[:HELD_OUT]]
    return {
        "variant": name, "seed": seed, "held_out": held_out, "seen": seen, "rate": rate,
        "loss": fmean(losses[-10:]), "seconds": round(seconds, 1),
    }  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    """Means over seeds, and the paired difference from `lite` with a 95 % interval."""
    found = {(line["variant"], line["seed"]): line for line in lines}
    body = []
    for name in VARIANTS:
        seeds = [seed for seed in SEEDS if (name, seed) in found]
        if not seeds:
            continue
        values = [fmean(found[name, seed]["held_out"]) for seed in seeds]
        row = [name, len(seeds), f"{fmean(values):.3f}", f"{fmean(fmean(found[name, seed]['seen']) for seed in seeds):.3f}"]
        paired = [
            value - fmean(found["lite", seed]["held_out"])
            for value, seed in zip(values, seeds, strict=True)
            if ("lite", seed) in found
        ]
        if name != "lite" and len(paired) > 1:
            half = float(scipy.stats.t.ppf(0.975, len(paired) - 1) * scipy.stats.sem(paired))
            row += [f"{fmean(paired):+.3f}", f"{half:.3f}"]
        body.append(row)
    headers = ["variant", "seeds", "held-out experts", "experts seen", "difference from lite", "95 % +-"]
    return tabulate(body, headers, disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("--variant", choices=[*VARIANTS])
    parser.add_argument("--seed", type=int, choices=SEEDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in arguments.records.read_text().splitlines()] if arguments.records.exists() else []
    there = {(line["variant"], line["seed"]) for line in lines}
    for seed in SEEDS:
        for name in VARIANTS:
            asked = arguments.variant in (None, name) and arguments.seed in (None, seed)
            if asked and (name, seed) not in there:
                lines.append(measure(name, seed))
                with arguments.records.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
