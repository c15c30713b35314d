"""Open files of strangers in a child process, which may take little memory and time, reach no network and write nowhere.

`_open_in_child.py` is the child. It calls a function of this package, which turns a path into raw contents with numpy alone, and hands
back one safetensors file: arrays, and a JSON text of everything around them. The parent trusts neither.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mabench.errors import MabenchError, printable

WALL_FACTOR, WALL_SECONDS = 4, 60  # ours: a busy machine and a slow disk; the limit on computing is the child's own
CPU_SECONDS, BYTES_A_SECOND = 8, 16 * 2**20  # ours: a tenth of the speed at which one core decodes PNGs of 32 px
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "SYSTEMROOT", "TMPDIR")
"""The child gets no others: tokens among them are none of its business."""
NO_ROOM = 73  # sysexits.h: cannot create output
_CURE = "Nothing of it was used. Fetch the file again, or save plain arrays: torch.save((images, labels), 'set.pt')."


def open_in_child(function: Callable[..., Any], path: Path, max_bytes: int, **arguments: Any) -> Any:
    """Return `function(path, **arguments)`, computed in a child process; arrays come back as tensors on the CPU.

    `function` is at the top of a module that does not import torch. It returns numbers, texts, None, numpy arrays of numbers, and
    dictionaries, lists and tuples of these, and calls `limits.declare` with the bytes that its result is going to take. `arguments`
    are JSON. `max_bytes` bounds what may be declared. Raises MabenchError for whatever goes wrong, within the file or within the child.
    """
    request = {
        "module": function.__module__,
        "function": function.__qualname__,
        "path": os.fspath(path),
        "arguments": arguments,
        "max_bytes": max_bytes,
        "cpu": [CPU_SECONDS, BYTES_A_SECOND],
        "sys_path": sys.path,
    }
    wall = WALL_SECONDS + WALL_FACTOR * (CPU_SECONDS + max_bytes // BYTES_A_SECOND)
    try:
        with tempfile.TemporaryDirectory(prefix="mabench-", ignore_cleanup_errors=True) as folder:
            answer = Path(folder) / "contents.safetensors"
            code = _run(request, answer, wall)
            if code != 0:
                raise MabenchError(f"{path}: {_reason(code)}. {_CURE}")
            return _contents(answer, path)
    except subprocess.TimeoutExpired as error:
        raise MabenchError(f"{path}: opening it took more than {wall} seconds and was stopped. {_CURE}") from error
    except OSError as error:
        raise MabenchError(
            f"{path}: cannot open it in a process of its own: {error.strerror or error}. Free some memory, or set TMPDIR to a folder "
            "with space for its contents."
        ) from error


def _run(request: dict[str, Any], answer: Path, wall: int) -> int:
    """Start the child, wait for it, and return its exit code."""
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    environment |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}
    environment["MALLOC_ARENA_MAX"] = "1"  # each thread's own heap would count as memory
    program = [sys.executable, "-P", str(Path(__file__).with_name("_open_in_child.py"))]
    with answer.open("xb") as file:
        return subprocess.run(
            program,
            input=json.dumps(request).encode(),
            stdout=file,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=wall,
            check=False,
        ).returncode


def _reason(code: int) -> str:
    if code in (-getattr(signal, "SIGXCPU", 24), -getattr(signal, "SIGKILL", 9)):
        return "opening it takes more computing than a set of its size can need, and was stopped"
    if code == NO_ROOM:
        return "there is no room for its contents in the folder for temporary files. Set TMPDIR to another folder"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"exit code {code}"
    return f"opening it breaks the libraries that read it ({name})"


def _contents(answer: Path, path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(answer, framework="pt") as file:
            told = json.loads((file.metadata() or {})["contents"])
            if "error" not in told:
                return _unfold(told["value"], {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise MabenchError(f"{path}: what came back from opening it cannot be read. {_CURE}") from error
    raise MabenchError(printable(str(told["error"]), 2000))


def _unfold(value: Any, tensors: Mapping[str, Any]) -> Any:
    """`_open_in_child.fold`, the way back."""
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "array":
        return tensors[inside]
    if kind == "dict":
        return {key: _unfold(each, tensors) for key, each in inside}
    items = [_unfold(each, tensors) for each in inside]
    return tuple(items) if kind == "tuple" else items
