"""How evaluator runs are computed: which program computes a network's outputs, in which batches, in which arithmetic.

`reference` is PyTorch as it comes: eager, float32, every test pass whole. `fast` compiles the network where that pays, computes its
products in bfloat16 where the device has it and 3x3 convolutions by Winograd's algorithm where a processor has not, stops a test
pass once it cannot beat the best so far, and computes once what cannot change. What both have in common (augmentation, loss,
optimizer, order, seeds) is in `mabench.training`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from mabench.engine.cuda_graphs import GraphedStep
from mabench.engine.equivalence import shown_equivalent
from mabench.engine.fast import FastEngine
from mabench.engine.reference import RESIDENT_BYTES, Engine, EngineName, Workload
from mabench.errors import MabenchError
from mabench.schema import Cell

__all__ = [
    "RESIDENT_BYTES",
    "Engine",
    "EngineName",
    "FastEngine",
    "GraphedStep",
    "Wanted",
    "Workload",
    "build",
    "choose",
    "wanted",
]

Wanted = Literal["auto", "reference", "fast"]


def wanted(name: str) -> Wanted:
    """Raise MabenchError for a typo."""
    if name not in ("auto", "reference", "fast"):
        raise MabenchError(f"--engine {name}: unknown. Allowed: auto, reference, fast.")
    return name  # type: ignore[return-value]


def choose(name: Wanted, cell: Cell, device: torch.device) -> EngineName:
    """Resolve `auto`: `fast` where the evidence shows, for this evaluator, recipe and kind of device, that its numbers are the
    reference's; else `reference`."""
    if name != "auto":
        return name
    return "fast" if shown_equivalent(cell.evaluator, cell.recipe, device.type) else "reference"


def build(name: EngineName, model: nn.Module, device: torch.device, workload: Workload) -> Engine:
    """Build the engine called `name` for this network on this device."""
    return (FastEngine if name == "fast" else Engine)(model, device, workload)
