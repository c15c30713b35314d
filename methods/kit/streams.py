"""Named random streams: every draw of a method comes from one, so that nothing global is touched."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mabench.digests import stream


def generators(seed: int, names: Iterable[str]) -> dict[str, torch.Generator]:
    """Return one CPU generator per named stream of a seed. They travel in a checkpoint as part of the loop's state."""
    return {name: torch.Generator().manual_seed(stream(seed, name)) for name in names}


def seed_from(generator: torch.Generator) -> int:
    """Draw a fresh seed for a network or an augmentation."""
    return int(torch.randint(2**62, (), generator=generator))
