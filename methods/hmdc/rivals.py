"""IDC and DREAM: HMDC's loop with one network.

IDC (Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022) matches the gradients of one ConvNet,
which is drawn anew in every iteration and trained on real images after every step, with several tiles in every stored image.
DREAM (Liu et al., "Efficient Dataset Distillation by Representative Matching", ICCV 2023) chooses the initial images and the real
batches of IDC by k-means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from mabench_methods import Method, Preset, by_name

from .condense import condense
from .config import Config


def idc(ipc: int) -> Config:
    """What IDC's released code runs on CIFAR-10 (its `argument.py`, and the options of its commands)."""
    return Config(
        ipc,
        networks=("convnet3-scratch",),
        rates=(0.01,),
        gradient_balance=False,
        normalised_step=False,
        mutual_distillation=False,
        iterations=2000,
        steps=100,
        real_batch=64,
        synthetic_batch=128,
        image_rate=5e-3 * ipc / 10,  # the released code scales it by the budget
        network_batches=32,  # 2,000 images
        network_batch=64,
        network_momentum=0.9,
        network_decay=5e-4,
        initial="paper",
        representatives="paper",
        matched="convolutions",
        last_feature="paper",
        convnet_training="paper",
        augmentation="idc",
        image_space="pixels",
        clamp="iteration",
    )


def dream(ipc: int) -> Config:
    """IDC with what DREAM adds, k-means every 10 steps; batches of 128 and 1,200 iterations as HMDC's released code has them for
    DREAM, whose own release takes 2,000."""
    return replace(idc(ipc), iterations=1200, real_batch=128, period=10, initial="released", representatives="released")


SMALL = {"iterations": 4, "steps": 40, "real_batch": 32, "network_batches": 2, "pool": 256, "image_rate": 5e-3, "bfloat16": True}
SMOKE = {
    "width": 16, "iterations": 1, "steps": 2, "real_batch": 8, "network_batches": 1, "network_batch": 16, "period": 2, "pool": 16,
}  # fmt: skip


def _presets(method: str, make: Callable[[int], Config], release: str, published: bool) -> list[Preset]:
    """`release`: whose released code the settings are from."""
    return [
        *(Preset(method, f"{release}-ipc{ipc}", make(ipc), comparable=published) for ipc in (1, 10, 50)),
        Preset(method, "lite", replace(make(1), **SMALL), comparable=False, runs_on="cpu"),  # type: ignore[arg-type]
        Preset(method, "smoke", replace(make(1), **SMOKE), "digits", comparable=False, runs_on="cpu"),  # type: ignore[arg-type]
    ]


PAPER = Path(__file__).with_name("paper.toml")
IDC = Method("idc", partial(condense, method="idc"), by_name(*_presets("idc", idc, "released", True)), PAPER)
DREAM = Method("dream", partial(condense, method="dream"), by_name(*_presets("dream", dream, "hmdc-release", False)), PAPER)
