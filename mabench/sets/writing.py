"""Safetensors files written tensor by tensor: the library would need all of a set in memory once more."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mabench.digests import canonical_json
from mabench.files import atomic_write

KINDS = {torch.int64: "I64", torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}


def bytes_of(tensor: Tensor) -> memoryview[int]:
    """The bytes of a tensor, not copied."""
    return tensor.contiguous().numpy().reshape(-1).view("u1").data


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as the library does, but its header's keys sorted: the library orders metadata as it pleases.

    Raises MabenchError when the disk refuses."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # the library's own, for alignment
    begin = 0
    for name in order:
        end = begin + tensors[name].nbytes
        header[name] = {"dtype": KINDS[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
        begin = end
    text = canonical_json(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(bytes_of(tensors[name]))
