"""How many images go through a network at once, by device and image size: the one place for these numbers.

Measured; the log in dev/LOG.md has the figures. On a processor the caches decide: ConvNet-3 tests 2,520 images a second in batches
of 50 and 500 in batches of 200. On a GPU larger batches only have to fit into its memory.
"""

from __future__ import annotations

SMALL_SIDE = 64  # px: images up to this side count as small


def forward_batch(device_type: str, side: int, *, compiled: bool = False, bfloat16: bool = False) -> int:
    """Images of `side` px per forward pass without gradients; `device_type` is "cpu" or "cuda"."""
    small = side <= SMALL_SIDE
    if device_type == "cuda":
        if compiled:
            return 2500 if small else 500
        return 1000 if small else 250
    if compiled and small:
        return 25 if bfloat16 else 50
    if bfloat16 and small:
        return 100
    return 50 if small else 16


def backward_batch(device_type: str, side: int, *, compiled: bool = False) -> int:
    """Images of `side` px per backward pass, where a batch may be split: see `networks.evaluators.uses_batch_statistics`."""
    if device_type == "cuda":
        return 2048
    if side > SMALL_SIDE:
        return 16
    return 64 if compiled else 25
