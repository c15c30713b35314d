"""Presets of DC and DSA: the released code's three budgets, and small ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mabench.data import augment
from mabench_methods import Method, Preset, by_name

from .condense import Config, Initial, Name, condense

PAPER = Path(__file__).with_name("paper.toml")


def _method(name: Name, augmentation: str, initial: Initial) -> Method:
    base = Config(1, initial=initial, augmentation=augmentation)
    lite = replace(base, iterations=100, width=64)
    narrow = replace(base, width=64, image_rate=0.15)  # ours: at half the width an image's gradient is 0.64 times as large
    smoke = replace(base, iterations=3, real_batch=16, width=16)
    return Method(
        name,
        partial(condense, method=name),
        by_name(
            *(Preset(name, f"paper-ipc{ipc}", replace(base, ipc=ipc)) for ipc in (1, 10, 50)),
            Preset(name, "lite", lite, comparable=False, runs_on="cpu"),
            Preset(name, "narrow", narrow, comparable=False, runs_on="cpu"),
            Preset(name, "smoke", smoke, "digits", comparable=False, runs_on="cpu"),
        ),
        PAPER,
    )


DC, DSA = _method("dc", "", "noise"), _method("dsa", augment.DSA, "real")
