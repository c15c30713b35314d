"""What each loss of G-VBSM's `lite` does to accuracy: python benchmarks/gvbsm_control.py OUT [--rows 0,1,2 --seeds 0]

Nine rows: the real images that recovering starts from, cross-entropy alone, then statistics and densification, one after the other. Real
CIFAR-10, IPC 10, `lite`'s three backbones, condensation seeds 0 and 1 (each trains backbones of its own, which its nine rows share), labels of
300 epochs, suite gvbsm_small.toml: its ConvNet and its MLP, two evaluation seeds. About 30 minutes of a core a seed, half of it the backbones.
Whatever is in OUT is not repeated; the table covers what is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch
from tabulate import tabulate

import mabench
import mabench_methods
from mabench.papers import condensing, presets

SUITE = Path(__file__).with_name("gvbsm_small.toml")
EVALUATORS = ("convnet3-scratch", "mlp-scratch")
EVALUATION_SEEDS = (0, 1)
ALONE = ("matching_weight=0.0", "convolution=false")
DENSE = "densification=normalised"
ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the real images", ("initial=real", "iterations=0")),
    ("cross-entropy alone", ALONE),
    ("+ batch norm", ("convolution=false",)),
    ("+ batch norm, convolutions: lite", ()),
    ("lite, first layer not favoured", ("first_weight=1.0",)),
    ("lite, matching ten times as strong", ("matching_weight=0.1",)),
    ("cross-entropy + densification", (*ALONE, DENSE)),
    ("+ batch norm + densification", ("convolution=false", DENSE)),
    ("+ batch norm, convolutions + densification", (DENSE,)),
)


def accuracies(number: int, seed: int, out: Path) -> list[float]:
    """Mean accuracy in percent of each evaluator on one set, which is condensed first where it is not there."""
    method = mabench_methods.load("gvbsm")
    preset = presets.preset(method, "lite", None, ROWS[number][1])
    folder = out / f"row{number}-seed{seed}"
    condensing.condense(method, preset, seed, folder, torch.device("cpu"))
    result = mabench.evaluate(
        folder / "set.safetensors",
        suite=str(SUITE),
        evaluators=EVALUATORS,
        seeds=EVALUATION_SEEDS,
        out=folder / "results",
        engine="reference",
    )
    by_name = {row.name: 100 * row.mean for row in result.rows if not row.panel}
    return [by_name[name] for name in EVALUATORS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default=",".join(map(str, range(len(ROWS)))))
    parser.add_argument("--seeds", default="0,1")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    body = []
    for number in map(int, arguments.rows.split(",")):
        each = [accuracies(number, seed, arguments.out) for seed in seeds]
        columns = [f"{fmean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})" for values in zip(*each, strict=True)]
        body.append([ROWS[number][0], *columns])
        print(tabulate(body[-1:], tablefmt="plain", disable_numparse=True), flush=True)
    print(tabulate(body, ["loss of recover", *EVALUATORS], disable_numparse=True))


if __name__ == "__main__":
    main()
