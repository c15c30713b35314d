"""How smooth are experts, and how good? python benchmarks/expert_smoothness.py FOLDER [--width 32 --epochs 10 ...]

Trains pools of experts four ways (AST's Table 6: plain SGD, momentum, momentum with penalty, momentum with penalty and growing
loss; and the control that the paper lacks, momentum with AST's weight decay but MTT's rate) and prints Avg Var, what share
of it the first epoch makes, and the accuracy on the test split, which the method itself never sees. Experts already in FOLDER
are not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from tabulate import tabulate

from mabench import data
from mabench.networks import architectures as networks
from mabench_methods import kit
from mabench_methods.trajectory import experts
from mabench_methods.trajectory.experts import Expert, ExpertConfig
from mabench_methods.trajectory.presets import PLAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    for name, default in (
        ("count", 1),
        ("epochs", 10),
        ("width", 32),
        ("batch", 64),
        ("epoch-images", 5120),
        ("test-images", 10000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    size = {"count": chosen.count, "epochs": chosen.epochs, "width": chosen.width, "batch": chosen.batch}
    size["epoch_images"] = chosen.epoch_images
    ast = ExpertConfig(**size)
    kinds = {
        "plain SGD (MTT)": replace(PLAIN, **size),
        "momentum, rate 0.01": replace(ast, rate=PLAIN.rate, clip="none", penalty="none"),
        "momentum": replace(ast, clip="none", penalty="none"),
        "momentum, penalty": replace(ast, clip="none"),
        "momentum, penalty, growing loss (AST)": ast,
    }
    train, test = data.load("cifar10", "train"), data.load("cifar10", "test")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    real = kit.RealImages(train, device)
    rows = []
    for kind, config in kinds.items():
        folder = chosen.folder / experts.folder_name(config, train)
        pool = experts.train_pool(train, real, config, folder, part=64 if device.type == "cpu" else 2048)
        right = [accuracy(expert, config, test, chosen.test_images) for expert in pool]
        first = fmean(e.variation[0] / sum(e.variation) for e in pool)
        rows.append([kind, f"{fmean(e.average_variation for e in pool):.4f}", f"{100 * first:.0f}", f"{100 * fmean(right):.1f}"])
        print(tabulate(rows[-1:], tablefmt="plain", disable_numparse=True), flush=True)
    headers = ["experts", "Avg Var", "of it in the first epoch %", "test accuracy %"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


@torch.no_grad()
def accuracy(expert: Expert, config: ExpertConfig, test: data.RealData, count: int) -> float:
    """Of the expert's last weights on the first `count` test images."""
    entry = test.dataset
    network: networks.Network = kit.draw_network(entry, "convnet", 0, depth=config.depth_at(entry.image_size), width=config.width)
    torch.nn.utils.vector_to_parameters(expert.rows(-1, -1)[0], network.parameters())
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (entry.mean, entry.std))
    right = 0
    for at in range(0, count, 250):
        images = (torch.tensor(test.images[at : min(at + 250, count)]).float() / 255 - mean) / std
        right += int((network(images).argmax(1) == torch.tensor(test.labels[at : at + len(images)])).sum())
    return right / count


if __name__ == "__main__":
    main()
