"""Images stored in a byte per value instead of four, and what that loses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mabench.errors import MabenchError
from mabench.schema import Finding
from mabench.sets.synthetic import SyntheticSet


@dataclass(frozen=True)
class Quantised:
    """A set in uint8, another set than before, and how far its pixels moved; differences are parts of black to white."""

    synthetic_set: SyntheticSet
    largest: float
    mean: float
    outside: float
    """Share of values that were darker than black or brighter than white, and are clipped."""
    bytes_before: int

    @property
    def loss(self) -> str:
        """In one line."""
        clipped = (
            f"; {100 * self.outside:.2f} % of the values lay outside black to white and were clipped" if self.outside else ""
        )
        return (
            f"{self.bytes_before:,} -> {self.synthetic_set.stored_bytes:,} bytes; pixels moved by {self.mean:.5f} on average, "
            f"{self.largest:.5f} at most, of 1.0 = black to white{clipped}"
        )


def to_uint8(before: SyntheticSet) -> Quantised:
    """The set with its pixels rounded to 256 levels. Raises MabenchError for one that is stored so already."""
    if before.images.dtype == torch.uint8:
        raise MabenchError(f"{before.name}: its images are uint8 already. Leave --quantise out.")
    pixels = before.images.float()
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    difference = (levels.float() / 255 - pixels).abs()
    outside = ((pixels < 0) | (pixels > 1)).float().mean()
    largest, mean = float(difference.max()), float(difference.double().mean())
    finding = Finding(field="quantised", value="uint8", reason=f"pixels moved by {mean:.5f} on average, {largest:.5f} at most")
    after = replace(before, images=levels, findings=(*before.findings, finding))
    return Quantised(after, largest, mean, float(outside), before.stored_bytes)
