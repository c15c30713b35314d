"""Presets of HMDC: the paper's and the released code's three budgets, the ablations of Tables 2 and 3, and small ones."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from mabench_methods import Method, Preset, by_name

from .condense import condense
from .config import CHOICES, Config


def released(ipc: int, **changes: Any) -> Config:
    """What the released code runs (its last version)."""
    return replace(Config(ipc), **changes)


def paper(ipc: int, **changes: Any) -> Config:
    """What the paper describes: its rates, and its side of every choice."""
    return released(ipc, rates=(0.001, 0.001), **(dict.fromkeys(CHOICES, "paper") | changes))


SWITCHES = {"gbm": "gradient_balance", "md": "mutual_distillation", "step": "normalised_step"}
ABLATIONS: dict[str, dict[str, Any]] = {
    # every combination but the whole: `without-gbm-step` has neither the module nor the normalised step
    "-".join(("without", *left_out)): {SWITCHES[name]: False for name in left_out}
    for count in (1, 2, 3)
    for left_out in itertools.combinations(SWITCHES, count)
}
TABLE_2 = ("without-md", "without-gbm-step", "without-gbm-md-step")  # released code: the normalised step goes with the module
LITE = Config(
    # ours: what two processor cores bear in some 20 minutes; the choices that the README recommends
    1,
    networks=("convnet3-scratch", "vit_mini-scratch"),
    rates=(0.01, 0.01),
    pretraining=800,
    iterations=2,
    steps=40,
    real_batch=32,
    network_batches=2,
    network_batch=64,
    period=10,
    pool=256,
    image_rate=0.05,
    layer_softmax="paper",
    last_feature="paper",
    convnet_training="paper",
    augmentation="paper",
    bfloat16=True,
)
LITE_EFFICIENTNET = replace(
    LITE,
    networks=("convnet3-scratch", "efficientnet_lite0-pretrained"),
    rates=(0.01, 0.001),
    input_size=64,
    pretraining=0,
    own_statistics=True,
    frozen_batch_norm=True,
    bfloat16=False,  # depthwise convolutions are slower in it
)


SMOKE = replace(
    LITE,
    width=16,
    pretraining=2,
    iterations=1,
    steps=2,
    real_batch=8,
    network_batches=1,
    network_batch=16,
    period=2,
    pool=16,
    bfloat16=False,
)


def _presets() -> list[Preset]:
    # the first of an IPC is the default of `mabench reproduce`
    full = {f"{name}-ipc{ipc}": make(ipc) for name, make in (("released", released), ("paper", paper)) for ipc in (1, 10, 50)}
    full |= {f"released-ipc10-{name}": released(10, **ABLATIONS[name]) for name in TABLE_2}
    # paper, Table 3; section 4.5: with the lower rate of the alignment "larger models can be accommodated"
    full["released-ipc10-cnn-cnn"] = released(10, networks=("convnet3-scratch", "resnet18-pretrained"))
    full["released-ipc10-large"] = released(
        10, networks=("resnet18-pretrained", "vit_small-pretrained"), rates=(0.001, 0.001), alignment_rate=0.001
    )
    small = {"lite": LITE, "lite-efficientnet": LITE_EFFICIENTNET}
    small |= {f"lite-{name}": replace(LITE, **changes) for name, changes in ABLATIONS.items()}
    return [
        *(Preset("hmdc", name, config) for name, config in full.items()),
        *(Preset("hmdc", name, config, comparable=False, runs_on="cpu") for name, config in small.items()),
        Preset("hmdc", "smoke", SMOKE, "digits", comparable=False, runs_on="cpu"),
    ]


METHOD = Method("hmdc", condense, by_name(*_presets()), Path(__file__).with_name("paper.toml"))
