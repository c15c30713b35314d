"""Presets of RDED: the released scripts' settings, and small ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mabench_methods import Method, Preset, by_name

from ..gvbsm.teachers import Squeeze
from .condense import Config, condense

EPOCHS = 300
"""Of a student (released code), so of the labels that are recorded for it."""
RECORD_BATCH = {1: 10, 10: 50, 50: 100}
"""IPC -> images in a batch of a student on CIFAR-10 (released code, argument.py)."""
LITE = Config(10, "convnet48_bn", Squeeze(8, schedule="cosine", held_out=500))
"""Ours: the first teacher of G-VBSM's `lite`, which is trained once for both."""
SMOKE = Config(2, "convnet8_bn", Squeeze(1, batch=32, held_out=10), pool=20, crops=2, factor=2, record_epochs=2, record_batch=8)
IMAGENET = Config(10, "torchvision-resnet18", factor=2, record_epochs=EPOCHS, record_batch=100)


def released(ipc: int, teacher: str) -> Config:
    """CIFAR-10 as the released scripts have it."""
    return Config(ipc, teacher, record_epochs=EPOCHS, record_batch=RECORD_BATCH[ipc])


METHOD = Method(
    "rded",
    condense,
    by_name(
        *(Preset("rded", f"released-ipc{ipc}", released(ipc, "resnet18")) for ipc in (1, 10, 50)),
        *(Preset("rded", f"released-convnet-ipc{ipc}", released(ipc, "convnet128_bn")) for ipc in (1, 10, 50)),
        Preset("rded", "lite", LITE, comparable=False, runs_on="cpu"),
        Preset("rded", "lite-ipc1", replace(LITE, ipc=1), comparable=False, runs_on="cpu"),
        Preset("rded", "lite-mosaic", replace(LITE, factor=2), comparable=False, runs_on="cpu"),
        Preset("rded", "smoke", SMOKE, "digits", comparable=False, runs_on="cpu"),
        Preset("rded", "imagenet1k-released-ipc10", IMAGENET, "imagenet1k"),
    ),
    Path(__file__).with_name("paper.toml"),
)
