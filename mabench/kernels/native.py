"""The C++ programs beside this file: compiled when first wanted, kept in the cache folder, called through ctypes.

They are for processors that multiply bfloat16 in tiles (Intel AMX) and take arrays that lie channels last, their numbers of
channels multiples of 32. Without a compiler, or where the system does not grant the tiles, there is no library, and PyTorch computes.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mabench.compiling import compiler
from mabench.data import cache_folder

SOURCES = [Path(__file__).with_name(name) for name in ("tiles.cpp", "channels.cpp")]
FLAGS = [
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512bf16",
    "-mamx-tile",
    "-mamx-bf16",
]
CHANNELS = 32  # numbers of channels are multiples of it


@cache
def library() -> ctypes.CDLL | None:
    """The compiled programs, from the cache folder or made now; None, with a warning, where that fails."""
    try:
        return _load(_compiled())
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"our programs for tiles cannot be used, PyTorch computes: {told.strip().splitlines()[0]}", stacklevel=2)
        return None


def _compiled() -> Path:
    """The library's file; its name says from what it was made."""
    command = compiler()
    if command is None:
        raise OSError("no C++ compiler (g++ or clang++; $CXX names another)")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    texts = [source.read_text(encoding="utf-8") for source in SOURCES]
    made_from = hashlib.sha256("\0".join([*FLAGS, version, *texts]).encode()).hexdigest()
    path = cache_folder() / "compiled" / f"tiles-{made_from[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            done = [command, *FLAGS, *map(str, SOURCES), "-o", str(made)]
            subprocess.run(done, capture_output=True, text=True, check=True, timeout=300)
            os.replace(made, path)  # two processes at a time make the same file
    return path


def _load(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    if found.mabench_request_tiles():
        raise OSError("the system does not grant this process its tiles")
    return found


def call(name: str, *arguments: Tensor | ctypes.Structure | float | None) -> None:
    """`mabench_NAME` with these arguments and the number of threads; tensors lie as the program wants them."""
    found = library()
    assert found is not None
    given: list[object] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            given.append(ctypes.c_void_p(argument.data_ptr()))
        elif argument is None:
            given.append(ctypes.c_void_p())
        elif isinstance(argument, ctypes.Structure):
            given.append(ctypes.byref(argument))
        else:
            given.append(ctypes.c_float(argument))
    getattr(found, f"mabench_{name}")(*given, ctypes.c_int(torch.get_num_threads()))


def lying(*tensors: Tensor) -> list[Tensor]:
    """bfloat16 [N,C,H,W] each, C a multiple of 32, channels last."""
    for tensor in tensors:
        assert tensor.dtype == torch.bfloat16 and not tensor.shape[1] % CHANNELS, (tensor.dtype, tensor.shape)
    return [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]


def empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Channels last, of this shape [N,C,H,W]."""
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def fields(*names: str) -> list[tuple[str, type]]:
    """Of a structure of whole numbers."""
    return [(name, ctypes.c_int64) for name in names]


def takes(x: Tensor) -> bool:
    """Whether a compiled network may hand these images [N,C,H,W] to our programs."""
    return torch.compiler.is_compiling() and x.dtype == torch.bfloat16 and not x.shape[1] % CHANNELS
