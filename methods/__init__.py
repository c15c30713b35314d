"""Candidates: reference implementations of condensation methods. They never see the test split or the examiner.

A method is a module `<folder>/condense.py` with `PRESETS` (method -> preset -> configuration, a frozen dataclass with `ipc`), maybe
`SISTERS` (method -> dataset -> preset -> configuration, for datasets other than CIFAR-10),
and `condense(train, config, seed, device, run=None) -> SyntheticSet`; `<folder>/paper.toml` holds what its paper reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from mabench.errors import lookup

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


@dataclass(frozen=True)
class Preset:
    """A method, one of its configurations, and what it is run on."""

    method: str
    name: str
    config: Any
    dataset: str

    @property
    def comparable(self) -> bool:
        """Whether the paper's numbers are about this configuration: only the small presets are not."""
        return self.name != "smoke" and not self.name.startswith("lite")


def presets(method: str) -> dict[str, Preset]:
    """Every preset of a method by name, CIFAR-10 first; one on another dataset is called `DATASET-NAME`.

    `smoke` runs on the bundled digits. Raises MabenchError for a method that is not there.
    """
    lookup(METHODS, method, "method")
    found = module(method)
    own = {n: Preset(method, n, c, "digits" if n == "smoke" else "cifar10") for n, c in found.PRESETS[method].items()}
    for dataset, sisters in getattr(found, "SISTERS", {}).get(method, {}).items():
        own |= {f"{dataset}-{n}": Preset(method, f"{dataset}-{n}", c, dataset) for n, c in sisters.items()}
    return own
