"""Presets of Model Pool: the paper's and the released code's three budgets, the pools of Table 5, and small ones."""

from __future__ import annotations

from pathlib import Path

from mabench_methods import Method, Preset, by_name

from ..dc import condense as dc
from .condense import Config, condense


def released(ipc: int, iterations: int = 3000) -> Config:
    """What the released code runs: similar networks of depth 1, after 501 iterations without any."""
    return Config(dc.Config(ipc, iterations))


def paper(ipc: int, iterations: int = 3000) -> Config:
    """What the paper describes: similar networks of the main one's depth, from the first iteration."""
    return Config(dc.Config(ipc, iterations), similar_depth=3, warm_up=0)


def total_random(ipc: int) -> Config:
    """Table 5, row 1: ConvNet, LeNet, AlexNet and VGG11 with probability 0.25 each."""
    return Config(dc.Config(ipc, 3000), main_probability=0.25, warm_up=0, pool="various")


def main_and_various(ipc: int) -> Config:
    """Table 5, row 2: the main ConvNet with 0.9; LeNet, AlexNet and VGG11 share the rest."""
    return Config(dc.Config(ipc, 3000), warm_up=0, pool="various")


LITE = Config(dc.Config(1, iterations=100, width=64), warm_up=50)
SMOKE = Config(dc.Config(1, iterations=4, real_batch=16, width=16), main_probability=0.5, warm_up=1)

METHOD = Method(
    "model-pool",
    condense,
    by_name(
        *(Preset("model-pool", f"released-ipc{ipc}", released(ipc)) for ipc in (1, 10, 50)),
        *(Preset("model-pool", f"paper-ipc{ipc}", paper(ipc)) for ipc in (1, 10, 50)),
        *(Preset("model-pool", f"total-random-ipc{ipc}", total_random(ipc)) for ipc in (1, 10)),
        *(Preset("model-pool", f"main-and-various-ipc{ipc}", main_and_various(ipc)) for ipc in (1, 10)),
        Preset("model-pool", "lite", LITE, comparable=False, runs_on="cpu"),
        Preset("model-pool", "smoke", SMOKE, "digits", comparable=False, runs_on="cpu"),
    ),
    Path(__file__).with_name("paper.toml"),
)
