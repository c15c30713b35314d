"""Presets of the baselines: three budgets, at full resolution and packed."""

from __future__ import annotations

from pathlib import Path

from mabench_methods import Method, Preset, by_name

from .condense import Config, Selection, condense

PAPER = Path(__file__).with_name("paper.toml")


def _method(selection: Selection) -> Method:
    """One selection as a method."""
    full = [Preset(selection, f"paper-ipc{ipc}", Config(ipc, selection), runs_on="cpu") for ipc in (1, 10, 50)]
    packed = [Preset(selection, f"packed-ipc{ipc}", Config(ipc, selection, packed=True), runs_on="cpu") for ipc in (1, 10, 50)]
    smoke = Preset(selection, "smoke", Config(1, selection, epochs=1, width=16), "digits", comparable=False, runs_on="cpu")
    return Method(selection, condense, by_name(*full, *packed, smoke), PAPER)


RANDOM, HERDING, K_CENTER = _method("random"), _method("herding"), _method("k-center")
K_MEANS, FORGETTING = _method("k-means"), _method("forgetting")
