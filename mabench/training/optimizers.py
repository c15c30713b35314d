"""Optimizers and learning rates as a recipe says them."""

from __future__ import annotations

import inspect
import math
from typing import Any, TypeVar

import torch
from torch import nn

from mabench.schema import Evaluator, Recipe

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """torch's optimizer, its methods without their wrappers: these keep torch's compiler from tracing what nobody compiles here,
    and import it when first called, two of the five processor seconds from the command to the first step."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


SGD, AdamW = _without_compiler(torch.optim.SGD), _without_compiler(torch.optim.AdamW)


def initial_rate(recipe: Recipe, evaluator: Evaluator, learned: float | None) -> float:
    """The learning rate at the beginning; `learned` is the set's own, None where it brings none."""
    return (learned if recipe.rate == "learned" else None) or recipe.learning_rate or evaluator.learning_rate


def build(
    model: nn.Module, recipe: Recipe, evaluator: Evaluator, rate: float, *, decayed: bool, capturable: bool
) -> torch.optim.Optimizer:
    """A fresh optimizer of the parameters that are trained; `decayed`: the one after `decay_after`. With `capturable` AdamW counts
    its steps on the GPU, so that a step can be recorded as a CUDA graph."""
    rate = rate * (recipe.decay_factor if decayed else 1.0)
    momentum = recipe.momentum if not decayed or recipe.decay_momentum is None else recipe.decay_momentum
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups: list[dict[str, Any]] = [{"params": list(trained.values())}]
    if recipe.weight_decay_on == "weights":
        weights = {name for name, p in trained.items() if "weight" in name and p.dim() > 1}
        groups = [
            {"params": [p for name, p in trained.items() if name in weights]},
            {"params": [p for name, p in trained.items() if name not in weights], "weight_decay": 0.0},
        ]
    if (recipe.optimizer or evaluator.optimizer) == "sgd":
        return SGD(groups, lr=rate, momentum=momentum, weight_decay=recipe.weight_decay)
    return AdamW(groups, lr=rate, weight_decay=recipe.weight_decay, capturable=capturable)


def set_cosine_rate(optimizer: torch.optim.Optimizer, rate: float, epoch: int, epochs: int) -> None:
    """The rate of the epoch after `epoch` finished ones, on half a wave of the cosine from `rate` to 0 in `epochs`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
