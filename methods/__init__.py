"""Candidates: reference implementations of condensation methods. They never see the test split or the examiner.

A method is a module `<folder>/condense.py` with `PRESETS` (method -> preset -> configuration, a frozen dataclass with `ipc`), maybe
`SISTERS` (method -> dataset -> preset -> configuration, for datasets other than CIFAR-10),
and `condense(train, config, seed, device, run=None) -> SyntheticSet`; `<folder>/paper.toml` holds what its paper reports.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

METHODS: dict[str, str] = {
    # name on the command line -> folder
    "random": "baselines",
    "herding": "baselines",
    "k-center": "baselines",
    "k-means": "baselines",
    "forgetting": "baselines",
    "dc": "dc",
    "dsa": "dc",
    "model-pool": "model_pool",
    "hmdc": "hmdc",
    "trajectory": "trajectory",
    "mtt": "trajectory",
    "gvbsm": "gvbsm",
    "sre2l": "gvbsm",
}


def module(method: str) -> ModuleType:
    """The module of a method of `METHODS`; KeyError for another name."""
    return import_module(f"mabench_methods.{METHODS[method]}.condense")
