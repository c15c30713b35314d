"""On a GPU: recorded steps of the fast engine are plain steps, and every method condenses. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import STRONG, TEST, cell, small_set

import mabench_methods
from mabench import data, engine, training
from mabench.errors import Interrupted
from mabench.schema import Recipe, RunRecord
from mabench_methods.kit import Run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")]
RECIPE = Recipe(
    epochs=30, batch_size=32, test_every=10, score="best", learning_rate=0.02, batch_norm="train", augmentation=STRONG
)  # 40 images: batches of 32 and of 8, each recorded by itself


def sit(name: str = "convnet3-scratch", checkpoint: Path | None = None, stop_after: int = 0) -> RunRecord:
    """One cell with `fast`, uncompiled: too short for anything else."""
    device, calls = torch.device("cuda"), iter(range(1, 10_000))
    with training.deterministic(device):
        return training.run(
            small_set(), cell(RECIPE, name), TEST, device=device, engine="fast", checkpoint=checkpoint,
            should_stop=lambda: next(calls) == stop_after,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["convnet3-scratch", "vit_mini-scratch"])  # SGD and AdamW
def test_recorded_steps_are_plain_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = sit(name)
    monkeypatch.setattr(engine.FastEngine, "graph", engine.Engine.graph)
    plain = sit(name)
    assert "replayed" in recorded.environment["arithmetic"] and "replayed" not in plain.environment["arithmetic"]
    assert (recorded.curve, recorded.train_loss) == (plain.curve, plain.train_loss)


def test_a_resumed_cell_continues_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        sit(checkpoint=tmp_path / "cell.pt", stop_after=33)
    assert sit(checkpoint=tmp_path / "cell.pt").curve == sit().curve


@pytest.mark.parametrize("name", mabench_methods.BUNDLED)
def test_every_method_condenses_and_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preset `smoke`. Interrupted at every step it ends like a run that was not; to rounding, as no kernel is asked to be deterministic."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    method, train, device = mabench_methods.load(name), data.load("digits", "train"), torch.device("cuda")
    config = method.presets["smoke"].config
    whole = method.condense(train, config, 0, device, Run(tmp_path / "whole"))
    assert whole.images.device.type == "cpu" and whole.class_counts == (config.ipc,) * 10
    assert bool(torch.isfinite(whole.images.float()).all())
    for _ in range(200):
        try:
            resumed = method.condense(train, config, 0, device, Run(tmp_path / "cut", should_stop=lambda: True))
            break
        except Interrupted:
            pass
    apart = (resumed.images.float() - whole.images.float()).abs().mean() / (255 if whole.images.dtype == torch.uint8 else 1)
    assert float(apart) < 0.01
