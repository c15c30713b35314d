"""Fewer bytes for the same images: what `mabench pack --quantise` writes and says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import Command

from mabench.errors import MabenchError
from mabench.sets import quantising, synthetic
from mabench.sets.synthetic import SyntheticSet


def float_set(dtype: torch.dtype = torch.float32) -> SyntheticSet:
    images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    return SyntheticSet(images.to(dtype), torch.arange(10).repeat(2), "cifar10", ipc=2)


def test_pack_quantise_cuts_the_bytes_by_four_and_prints_what_it_loses(mabench: Command, tmp_path: Path) -> None:
    float_set().save(tmp_path / "f.safetensors")
    done = mabench("pack", "f.safetensors", "-o", "q.safetensors", "--quantise", "uint8", "--json")
    assert done.returncode == 0, done.stderr
    before, after = synthetic.load(tmp_path / "f.safetensors"), synthetic.load(tmp_path / "q.safetensors")
    assert (before.stored_bytes, after.stored_bytes) == (20 * 3072 * 4, 20 * 3072) and after.sha256 != before.sha256
    wanted = np.rint(np.clip(before.images.numpy().astype(np.float64), 0, 1) * 255)
    assert np.array_equal(after.images.numpy(), wanted)
    gap = np.abs(before.images.numpy() - wanted / 255)
    said = json.loads(done.stdout)["quantised"]
    assert said["largest_difference"] == pytest.approx(gap.max(), abs=1e-6)
    assert said["mean_difference"] == pytest.approx(gap.mean(), abs=1e-6)
    assert said["outside"] == pytest.approx(1 / 6, abs=0.01), "a tenth of white on either side of 1.2"
    text = mabench("pack", "f.safetensors", "-o", "r.safetensors", "--quantise", "uint8").stdout
    assert "245,760 -> 61,440 bytes" in text and f"{gap.max():.5f} at most" in text and "clipped" in text


def test_a_set_within_range_moves_by_half_a_level_at_most() -> None:
    inside = float_set(torch.float16)
    found = quantising.to_uint8(SyntheticSet(inside.images.clamp(0, 1), inside.labels, "cifar10", ipc=2))
    assert found.largest <= 0.5 / 255 + 1e-6 and found.outside == 0 and "clipped" not in found.loss


def test_what_is_uint8_already_is_refused() -> None:
    small = quantising.to_uint8(float_set()).synthetic_set
    with pytest.raises(MabenchError, match="uint8 already"):
        quantising.to_uint8(small)
