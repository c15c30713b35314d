"""The fast engine on a GPU: recorded steps are plain steps. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import STRONG, TEST, cell, small_set

from mabench import engine, training
from mabench.errors import Interrupted
from mabench.schema import Recipe, RunRecord

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
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


def test_a_resumed_cell_goes_on_where_it_stood(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        sit(checkpoint=tmp_path / "cell.pt", stop_after=33)
    assert sit(checkpoint=tmp_path / "cell.pt").curve == sit().curve
