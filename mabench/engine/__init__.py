"""How evaluator runs are computed: which program computes a network's outputs, in which batches, in which arithmetic.

`reference` is PyTorch as it comes: eager, float32, every test pass whole. `fast` compiles the network where that pays, computes its
products in bfloat16 where the device has it and 3x3 convolutions by Winograd's algorithm where a processor has not, stops a test
pass once it cannot beat the best so far, and computes once what cannot change. What both have in common (augmentation, loss,
optimizer, order, seeds) is in `mabench.training`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from mabench.engine.cuda_graphs import GraphedStep
from mabench.engine.equivalence import shown_equivalent
from mabench.engine.fast import FastEngine, arithmetic
from mabench.engine.reference import REFERENCE_ARITHMETIC, RESIDENT_BYTES, Engine, EngineName, Workload
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
    "arithmetic",
    "build",
    "choose",
    "may_be_fast",
    "wanted",
]

Wanted = Literal["auto", "reference", "fast"]


def wanted(name: str) -> Wanted:
    """Raise MabenchError for a typo."""
    if name not in ("auto", "reference", "fast"):
        raise MabenchError(f"--engine {name}: unknown. Allowed: auto, reference, fast.")
    return name  # type: ignore[return-value]


def choose(name: Wanted, cell: Cell, device: torch.device, would_be: Callable[[], str]) -> EngineName:
    """Resolve `auto`: `fast` where the evidence covers this evaluator, recipe and kind of device, in the arithmetic that `fast` would
    have here; else `reference`. Where there is any evidence, the reference's own arithmetic needs no more.

    `would_be` names the arithmetic that `fast` would have for this cell on this machine; it is asked where there is evidence.
    """
    if name != "auto":
        return name
    shown = shown_equivalent(cell.evaluator, cell.recipe, device.type)
    return "fast" if shown and would_be() in {REFERENCE_ARITHMETIC, *shown} else "reference"


def may_be_fast(name: Wanted, cell: Cell, device_type: str) -> bool:
    """Whether `choose` gives `fast` on some machine with this kind of device."""
    return name == "fast" or (name == "auto" and bool(shown_equivalent(cell.evaluator, cell.recipe, device_type)))


def build(name: EngineName, model: nn.Module, device: torch.device, workload: Workload) -> Engine:
    """Build the engine called `name` for this network on this device."""
    return (FastEngine if name == "fast" else Engine)(model, device, workload)
