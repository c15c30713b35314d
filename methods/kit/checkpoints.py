"""State of a loop as plain tensors and numbers, and back: what a checkpoint holds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mabench.files import append_checksum, atomic_write, read_checksummed


def snapshot(value: Any) -> Any:
    """Copy the state of a loop: tensors to the CPU, generators as their state, networks and optimizers as their `state_dict()`.

    Dictionaries, lists and tuples are copied part by part; numbers and text stay as they are.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if hasattr(value, "state_dict"):
        return snapshot(value.state_dict())
    if isinstance(value, Mapping):
        return {key: snapshot(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(part) for part in value)
    return value


@torch.no_grad()
def restore(live: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Put what `snapshot(live)` returned back into the same objects: tensors, lists and dictionaries are filled in place.

    Numbers and text have no place to go back to; read them from `saved`.
    """
    for name, value in live.items():
        kept = saved[name]
        if isinstance(value, Tensor):
            value.copy_(kept)
        elif isinstance(value, torch.Generator):
            value.set_state(kept)
        elif hasattr(value, "load_state_dict"):
            value.load_state_dict(kept)
        elif isinstance(value, Mapping):
            restore(value, kept)
        elif isinstance(value, list):
            value[:] = kept


def write_state(path: Path, value: Any) -> None:
    """Write a snapshot with torch, and a checksum: torch itself does not notice a flipped bit."""
    with atomic_write(path) as file:
        torch.save(value, file)
        append_checksum(file)


def read_state(path: Path) -> Any:
    """Return what `write_state` wrote, on the CPU; None where the file is absent or was changed."""
    content = read_checksummed(path)
    try:
        return None if content is None else torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception:  # written by another program, or for another version of torch: as good as absent
        return None
