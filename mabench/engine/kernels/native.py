"""The C++ programs beside this file: compiled when first wanted, kept, called through ctypes.

They are for processors that multiply bfloat16 in tiles (Intel AMX) and take arrays that lie channels last, their numbers of
channels multiples of 32. Without a compiler, or where the system does not grant the tiles, there is no library, and PyTorch computes.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mabench.errors import MabenchError
from mabench.files import write_bytes

SOURCES = [Path(__file__).with_name(name) for name in ("tiles.cpp", "channels.cpp", "first_block.cpp")]
HEADERS = [Path(__file__).with_name(name) for name in ("tiles.h", "pixels.h")]
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

_LOADED: list[ctypes.CDLL] = []


@cache
def load(compiler: str | None, folder: Path) -> bool:
    """Load the compiled programs from `folder`, or compile them now: whether `call` works from here on. A warning says why not."""
    try:
        found = ctypes.CDLL(str(_compiled(compiler, folder)))
        if found.mabench_request_tiles():
            raise OSError("the system does not grant this process its tiles")
    except (OSError, subprocess.SubprocessError, MabenchError) as error:
        told = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"our programs for tiles cannot be used, PyTorch computes: {told.strip().splitlines()[0]}", stacklevel=2)
        return False
    _LOADED[:] = [found]
    return True


def _compiled(compiler: str | None, folder: Path) -> Path:
    """The library's file; its name says from what it was made."""
    if compiler is None:
        raise OSError("no C++ compiler (g++ or clang++; $CXX names another)")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    texts = [source.read_text(encoding="utf-8") for source in (*SOURCES, *HEADERS)]
    made_from = hashlib.sha256("\0".join([*FLAGS, version, *texts]).encode()).hexdigest()
    path = folder / f"tiles-{made_from[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / path.name
            command = [compiler, *FLAGS, *map(str, SOURCES), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            write_bytes(path, made.read_bytes())  # two processes at a time write the same file
    return path


def call(name: str, *arguments: Tensor | ctypes.Structure | float | None) -> None:
    """`mabench_NAME` with these arguments and the number of threads; tensors lie as the program wants them."""
    (found,) = _LOADED
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
