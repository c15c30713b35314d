"""What makes a device fast: bfloat16, a compiler whose programs are kept, memory that stays with the process, and what was
measured on this machine before."""

from __future__ import annotations

import ctypes
import getpass
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mabench.errors import MabenchError
from mabench.files import cache_folder, private_folder, write_text


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; where it only emulates, float32 is faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # older PyTorch may lack one
    return any(bool(getattr(torch.cpu, name)()) for name in names if hasattr(torch.cpu, name))


def prepare_process() -> None:
    """Call before a network is trained: the C library keeps freed memory, and the compiler has a folder.

    PyTorch 2.10 names the compiler's folder after the user as soon as an optimizer is built, compiled or not; the user of a
    container may have no name.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        _set_compiler_folder()
    _keep_freed_memory()


def _set_compiler_folder() -> None:
    """Keep compiled programs in a folder of the user's own, because what lies there is run; a folder that the user names stays.

    PyTorch writes its own choice, a folder among the temporary files, into the environment as soon as an optimizer is built.
    """
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    torchs_own = Path(named).name.startswith("torchinductor_") and Path(named).parent == Path(tempfile.gettempdir())
    if not named or torchs_own:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private_folder("compiled"))


def _keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next step instead of giving them back to the system.

    Measured on two cores, ConvNet-3 forward and backward: 22% of the processor time went into clearing pages that had been
    given back a moment before. Changes no result. Without glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((-1, 2**31 - 1), (-2, 2**26), (-4, 0)):  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
        mallopt(option, value)


def can_compile(device: torch.device) -> bool:
    """Whether a compiler is there; on a processor PyTorch wants a C++ compiler."""
    if device.type == "cuda":
        return True
    return compiler() is not None


def compiler() -> str | None:
    """A C++ compiler: $CXX, g++ or clang++."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def fastest(what: str, candidates: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The candidate for which `seconds` is least, measured once per machine, number of threads and PyTorch.

    Kept in `calibration.json` beside the cached datasets; to measure again, delete it.
    """
    path = cache_folder() / "calibration.json"
    machine = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        found = known.get(machine, {}).get(what)
    except (OSError, ValueError, AttributeError):  # none yet, or damaged: made anew
        known, found = {}, None
    if found in candidates:
        return int(found)
    best = min(candidates, key=seconds)
    known[machine] = {**known.get(machine, {}), what: best}
    try:
        write_text(path, json.dumps(known, indent=1) + "\n")
    except (OSError, MabenchError):  # a folder that cannot be written to costs a measurement next time
        pass
    return best


def warn_or_raise(error: Exception) -> None:
    """Warn that a network is not compiled here, if it was the compiler that failed; else raise the error."""
    if "torch._" not in type(error).__module__:
        raise error
    # a process that was killed while it compiled leaves half a file behind, which fails until it is gone
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "the compiler's cache")
    warnings.warn(
        f"this network is not compiled here: {str(error).splitlines()[0]} (if a compiler is there, delete {folder})", stacklevel=4
    )


_PROGRAMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {}


def program(kind: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """One compiled `(model, inputs) -> outputs` per kind of network: the second cell of a kind finds it compiled.

    Across processes the compiler's own cache on disk serves, in a folder of the user's own: what lies there is run.
    """
    if kind not in _PROGRAMS:
        # a CUDA toolkit without a GPU is no news while a processor's program is compiled
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        _set_compiler_folder()

        def forward(model: nn.Module, inputs: Tensor) -> Tensor:
            outputs: Tensor = model(inputs)
            return outputs

        # the compiler keeps few programs per code object, so each kind gets its own
        forward.__code__ = forward.__code__.replace(co_name=f"forward_{''.join(c if c.isalnum() else '_' for c in kind)}")
        compiled: Any = torch.compile(forward, dynamic=False)
        _PROGRAMS[kind] = compiled
    return _PROGRAMS[kind]
