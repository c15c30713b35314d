"""Condense with a preset, and estimate what that takes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mabench_methods
from mabench.errors import Interrupted
from mabench.papers.presets import command, preset
from mabench.sets import label_files
from mabench_methods import Method, Preset

if TYPE_CHECKING:
    import torch

    from mabench.sets.synthetic import SyntheticSet

PROBE_STEPS, PROBE_SECONDS = 4, 60.0  # ours: how long a dry run tries a condensation

Progress = Callable[[float, int, Mapping[str, float]], None]
"""(steps done, a fraction within a long one; steps in all; losses by name)."""


def condense(
    method: Method,
    chosen: Preset,
    seed: int,
    folder: Path | None,
    device: torch.device,
    on_progress: Progress = lambda done, total, losses: None,
    should_stop: Callable[[], bool] = lambda: False,
    named: str = "",
) -> SyntheticSet:
    """Return the set that this configuration and seed make; resumes in `folder`. `named`: the method on the command line, if a file.

    A GPU computes as it does for an evaluation (`training.deterministic`); a method that wants TF32 switches it on itself. Raises Interrupted once `should_stop()` returns True.
    """
    from mabench import data, training
    from mabench_methods.kit import Run

    train = data.load(chosen.dataset, "train")
    run = Run(folder, on_progress, should_stop, command(chosen, seed, named))
    with training.deterministic(device):
        synthetic_set = method.condense(train, chosen.config, seed, device, run)
    if folder is not None and label_files.find(folder / label_files.FOLDER):
        synthetic_set = dataclasses.replace(synthetic_set, labels_folder=folder / label_files.FOLDER)
    return synthetic_set


def random_stand_in(chosen: Preset) -> SyntheticSet:
    """Return random real images of the same budget: evaluating them costs what evaluating condensed ones does."""
    import torch

    method = mabench_methods.load("random")
    formation = getattr(chosen.config, "formation", 1) if getattr(chosen.config, "packed", True) else 1
    packing = [f"packed={formation > 1}", *([f"formation={formation}"] if formation > 1 else [])]
    random = preset(method, None, None, [f"ipc={chosen.config.ipc}", *packing])
    return condense(method, dataclasses.replace(random, dataset=chosen.dataset), 0, None, torch.device("cpu"))


def condensation_seconds(method: Method, chosen: Preset, device: torch.device) -> float:
    """Estimate what one condensation takes here from its first steps, compilation included.

    A configuration with a first training (`pretraining` batches) is tried twice: its other steps cost something else.
    """
    early = getattr(chosen.config, "pretraining", 0)
    if early <= PROBE_STEPS:
        return _tried(method, chosen, device)[0]
    config: Any = chosen.config
    shorter = dataclasses.replace(chosen, config=dataclasses.replace(config, pretraining=1))
    return _tried(method, chosen, device)[1] * (early - 1) + _tried(method, shorter, device, skip=1)[0]


def _tried(method: Method, chosen: Preset, device: torch.device, skip: int = 0) -> tuple[float, float]:
    """Estimated seconds of one condensation and of one later step, from its first steps, `skip` of which are of another kind."""
    begun = time.monotonic()
    seen: list[tuple[float, float, int]] = []

    def on_progress(done: float, total: int, losses: Mapping[str, float]) -> None:
        seen.append((time.monotonic() - begun, done, total))

    def enough() -> bool:
        return len(seen) >= PROBE_STEPS + skip or (len(seen) > 2 * skip and seen[-1][0] > PROBE_SECONDS)

    try:
        condense(method, chosen, 0, None, device, on_progress, enough)
    except Interrupted:
        pass
    spent = time.monotonic() - begun
    if not seen or seen[-1][1] >= seen[-1][2]:
        return spent, spent
    (first, done_first, total), (last, done_last, _) = seen[min(skip, len(seen) - 1)], seen[-1]
    each = (last - first) / (done_last - done_first) if done_last > done_first else first / done_first
    return first + each * (total - done_first), each
