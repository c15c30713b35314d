"""Presets of AST and MTT: every setting that was published, and small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mabench_methods import Method, Preset, by_name

from . import settings
from .condense import CLUSTERS, Config, Name, condense
from .experts import ExpertConfig

PAPER = Path(__file__).with_name("paper.toml")
PLAIN = ExpertConfig(100, momentum=0.0, weight_decay=0.0, rate=0.01, clip="none", penalty="none", decay="none")
"""MTT's experts (released code)."""
RELEASED = ExpertConfig(100, clip="released", penalty="released", decay="released")
"""AST's experts with both flags of its released code on; its README asks for 100 of them."""
WITHOUT: dict[str, Any] = {"initial": "real", "balance": "none", "intermediate": "none", "perturbation": "none"}
"""MTT by switches."""


def mtt(dataset: str, ipc: int) -> Config:
    """MTT, without whitening. Raises MabenchError where no setting was published."""
    return Config(ipc, PLAIN, **WITHOUT, **asdict(settings.find(settings.MTT, dataset, ipc)))


def paper(dataset: str, ipc: int) -> Config:
    """AST as its paper describes it; where it is silent (N, M, T+, rates) FTD's settings. Raises MabenchError as `mtt`."""
    return Config(ipc, **asdict(settings.find(settings.FTD, dataset, ipc)))


def released(dataset: str, ipc: int) -> Config:
    """AST as its released code runs it with everything on. Raises MabenchError as `mtt`."""
    return Config(
        ipc,
        RELEASED,
        inner_momentum=0.9,
        initial="paper" if ipc % CLUSTERS else "released",  # at IPC 1 the released selection is empty
        intermediate="released",
        perturbation="released",
        **asdict(settings.find(settings.AST, dataset, ipc)),
    )


def _lite(config: Config) -> Config:
    """Two cores, minutes: ours. Few iterations need a high rate of the images; images of few experts fit no other expert."""
    few = replace(config.experts, count=10, epochs=5, stop_after=3, batch=32, width=32, epoch_images=2560)
    config = replace(config, experts=few, iterations=100, student_steps=10, image_rate=1000.0)
    return replace(config, start_rate=0.02, rate_rate=1e-6, rate_floor=1e-3)


def _smoke(config: Config) -> Config:
    """Digits, seconds: everything once."""
    few = replace(config.experts, count=2, epochs=3, batch=64, width=8, epoch_images=256)
    return replace(config, experts=few, iterations=3, student_steps=4, image_rate=10.0)


def _published(
    method: Name, name: str, table: dict[str, settings.Setting], make: Callable[[str, int], Config]
) -> Iterator[Preset]:
    """Every setting of a table: `NAME-ipcN` on CIFAR-10, `DATASET-NAME-ipcN` elsewhere."""
    for key in table:
        dataset, ipc = key.split()
        prefix = "" if dataset == "cifar10" else f"{dataset}-"
        yield Preset(method, f"{prefix}{name}-ipc{ipc}", make(dataset, int(ipc)), dataset)


def _method(method: Name, small: Config, *published: Preset) -> Method:
    return Method(
        method,
        partial(condense, method=method),
        by_name(
            *sorted(published, key=lambda preset: preset.dataset != "cifar10"),
            Preset(method, "lite", _lite(small), comparable=False, runs_on="cpu"),
            Preset(method, "smoke", _smoke(small), "digits", comparable=False, runs_on="cpu"),
        ),
        PAPER,
    )


AST = _method(
    "trajectory",
    paper("cifar10", 1),
    *_published("trajectory", "paper", settings.FTD, paper),
    *_published("trajectory", "released", settings.AST, released),
)
MTT = _method("mtt", mtt("cifar10", 1), *_published("mtt", "paper", settings.MTT, mtt))
