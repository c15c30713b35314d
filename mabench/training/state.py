"""The state of an evaluator run between two steps: exactly what a checkpoint holds, and nothing else."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mabench.engine import EngineName
from mabench.files import append_checksum, atomic_write, read_checksummed
from mabench.schema import Cell

Phase = Literal["teacher", "student"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class TrainState:
    """Every field goes into the checkpoint: a new field needs no further line. Modules, optimizers and generators by their state."""

    phase: Phase
    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    """Draws the order of the images, on the CPU."""
    augment: torch.Generator
    """Draws the augmentation, on the device."""
    loss_sum: Tensor
    """Summed loss of the epoch under way, on the device: reading it would wait for the device."""
    correct: Tensor
    """Hits of the test pass under way, on the device."""
    pruning: dict[str, Tensor]
    """What pruned test passes know of the test images: see `testing.VisitingOrder`."""
    teacher: nn.Module | None = None
    epoch: int = 0
    """Finished epochs."""
    permutation: Tensor | None = None
    """Training images in the order of the epoch under way, int64 [M]; None between epochs."""
    position: int = 0
    """Images of the permutation already used."""
    decayed: bool = False
    """Whether the optimizer is the one after `decay_after`."""
    unread_losses: list[Tensor] = field(default_factory=list)
    """`loss_sum` of the epochs since losses were last read."""
    first_losses: list[Tensor] = field(default_factory=list)
    """Losses of the first steps, on the device."""
    initial_weights: str = ""
    """sha256 of the weights that training began with."""
    tested: int = -1
    """Test images of the pass under way that have been counted; -1 = no test pass under way."""
    curve: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, hits) of every test pass."""
    train_loss: list[tuple[int, float]] = field(default_factory=list)
    upper_bounds: list[int] = field(default_factory=list)
    images_tested: int = 0
    diverged_epoch: int | None = None
    done: float = 0.0
    """Work done, in forward passes of one image, both phases together."""
    seconds: float = 0.0
    started: str = field(default_factory=_now)

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over what `load` returned. The optimizer has to be that of `saved["decayed"]` already."""
        device = self.loss_sum.device
        for name in (f.name for f in fields(self)):
            value, current = saved[name], getattr(self, name)
            if isinstance(current, nn.Module | torch.optim.Optimizer):
                current.load_state_dict(value)
            elif isinstance(current, torch.Generator):
                current.set_state(value)
            elif name in ("loss_sum", "correct"):
                setattr(self, name, value.to(device))
            elif name in ("unread_losses", "first_losses"):
                setattr(self, name, [loss.to(device) for loss in value])
            elif name == "pruning":
                self.pruning.update(value)
            else:
                setattr(self, name, value)


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module | torch.optim.Optimizer):
        return value.state_dict()
    return value.get_state() if isinstance(value, torch.Generator) else value


def save(path: Path, state: TrainState, cell: Cell, engine: EngineName) -> None:
    """Write the checkpoint; an older one stays until the new one is complete."""
    content = {f.name: _plain(getattr(state, f.name)) for f in fields(state)}
    content |= {"cell": cell.model_dump_json(), "engine": engine}
    with atomic_write(
        path, "Free some space or make the folder writable, then run the same command: finished runs are kept."
    ) as file:
        torch.save(content, file)
        append_checksum(file)  # torch itself does not notice a flipped bit


def load(path: Path | None, cell: Cell, engine: EngineName, pruning: dict[str, Tensor]) -> dict[str, Any] | None:
    """Read the checkpoint of exactly this run; None without one. A damaged, foreign or older one is deleted: the run starts again,
    which changes no result. `pruning` says which entries that field has to have."""
    if path is None or not path.exists():
        return None
    try:
        content = read_checksummed(path)
        saved: dict[str, Any] = torch.load(io.BytesIO(content or b""), weights_only=True, map_location="cpu")
        matches = (saved["cell"], saved["engine"]) == (cell.model_dump_json(), engine)
        matches = matches and saved["pruning"].keys() == pruning.keys() and {f.name for f in fields(TrainState)} <= saved.keys()
    except Exception:  # whatever the damage is
        matches = False
    if not matches:
        path.unlink(missing_ok=True)
        return None
    return saved
