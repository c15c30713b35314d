"""Files of `torch.save` from strangers. What a pickle would do is read off its operations before anything of it is done.

torch's restricted unpickler (`weights_only=True`) runs no code of a file, but it lets a file of a kilobyte ask for any amount of
memory and time: bytearrays, object arrays and codecs of any size, keys whose hash takes years. So a pickle may name, call and do only
what tensors, numpy's arrays and plain containers need, and no object may unfold to more than `MAX_PARTS` parts.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from mabench.errors import MabenchError, printable

MAX_PARTS = 10**7  # ours: a second of work; a published DC file with all its accuracies has 10^4
NUMPY_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")
CALLS = frozenset(
    ["collections.OrderedDict", "torch.Size", "torch.device", "_codecs.encode", "numpy.dtype"]
    + [f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")]
    + [f"{module}.{name}" for module in NUMPY_CORE for name in ("scalar", "_reconstruct")]
)
"""Functions that a pickle may call; none takes time or memory beyond its arguments, two of them only as `_allowed` says."""
NAMES = CALLS | frozenset(
    [
        f"torch.{k}Storage"
        for k in ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped"]
    ]
    + ["torch.storage.UntypedStorage", "torch.storage.TypedStorage", "numpy.ndarray"]
    + [
        f"torch.{k}"
        for k in [
            "float64",
            "float32",
            "float16",
            "bfloat16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "bool",
        ]
    ]
)
"""What a pickle may name."""
OPERATIONS = frozenset(
    [
        "GLOBAL",
        "REDUCE",
        "BUILD",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "MARK",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "NONE",
        "NEWFALSE",
        "NEWTRUE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_SET",
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "BINPERSID",
        "BINGET",
        "LONG_BINGET",
        "BINPUT",
        "LONG_BINPUT",
        "LONG1",
        "PROTO",
        "STOP",
    ]
)
"""What torch's unpickler does, but for NEWOBJ, which sets do not need."""


def load(path: Path, max_bytes: int) -> Any:
    """What `torch.save` wrote into `path`: tensors on the CPU, containers, numpy arrays. Raises MabenchError for anything else.

    `max_bytes`: how much the members of an archive may unpack to, as its index says; torch reads no more than that.
    """
    try:
        for stream, count in _pickles(path, max_bytes):
            for _ in range(count):
                _examine(stream, path)
        with _numpy_names():
            return torch.load(path, map_location="cpu", weights_only=True)
    except (MabenchError, OSError):
        raise
    except Exception as error:  # zipfile, pickletools and torch raise whatever comes up in a damaged file
        raise MabenchError(
            f"{path}: truncated or not a torch file ({first(error)}). Fetch it again, or save plain tensors."
        ) from error


def first(error: BaseException) -> str:
    """The first line of what an error says."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], 160)


def _pickles(path: Path, max_bytes: int) -> Iterator[tuple[IO[bytes], int]]:
    """Where torch would read pickles, and how many one after another."""
    if not zipfile.is_zipfile(path):  # as torch wrote before 1.6: magic number, protocol, system, content, keys; then the numbers
        with path.open("rb") as file:
            yield file, 5
        return
    with zipfile.ZipFile(path) as archive:
        declared = sum(item.file_size for item in archive.infolist())
        if declared > max_bytes:
            raise MabenchError(f"{path}: unpacks to {declared:,} bytes; sets up to {max_bytes:,} bytes are read.")
        for item in archive.infolist():
            if item.filename.endswith(".pkl"):
                yield io.BytesIO(archive.read(item)), 1


@dataclass(frozen=True)
class _Thing:
    """What is known of an object that was not made: how many parts it unfolds to, and its value where that is a constant."""

    parts: int = 1
    value: Any = None


_MARK = _Thing()


def _examine(stream: IO[bytes], path: Path) -> None:
    """Play one pickle's operations without making anything; `pickletools` knows what each takes from the stack and puts there.

    Raises MabenchError for what is not allowed, IndexError and its like for a damaged pickle.
    """
    stack: list[_Thing] = []
    memo: dict[int, _Thing] = {}
    operations: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(stream)
    for operation, argument, _ in operations:
        name = operation.name
        if name not in OPERATIONS:
            raise _refused(path, f"holds the operation {name}")
        if "PUT" in name:
            memo[argument] = stack[-1]
            continue
        if "GET" in name:
            stack.append(memo[argument])
            continue
        value = argument
        if name == "GLOBAL":
            value = argument.replace(" ", ".", 1)
            if value not in NAMES:
                raise _refused(path, f"wants to call {printable(value, 80)}")
        taken: list[_Thing] = []
        for kind in reversed(operation.stack_before):
            if kind is pickletools.stackslice:
                while stack[-1] is not _MARK:
                    taken.insert(0, stack.pop())
            else:
                taken.insert(0, stack.pop())
        if name == "REDUCE" and not _allowed(*(thing.value for thing in taken)):
            raise _refused(path, f"wants to call {printable(str(taken[0].value), 80)} in a way that no set needs")
        parts = 1 + sum(thing.parts for thing in taken)
        if parts > MAX_PARTS:
            raise _refused(path, f"unfolds to more than {MAX_PARTS:,} objects")
        if "TUPLE" in name and len(taken) < 8:
            value = tuple(thing.value for thing in taken if thing is not _MARK)
        for kind in operation.stack_after:
            stack.append(_MARK if kind is pickletools.markobject else _Thing(parts, value))


def _allowed(function: Any, arguments: Any) -> bool:
    if function == "_codecs.encode":  # bytes; other codecs can double a text, again and again
        return isinstance(arguments, tuple) and len(arguments) == 2 and arguments[1] == "latin1"
    if isinstance(function, str) and function.endswith("._reconstruct"):  # an empty array, filled later; another is any size
        return isinstance(arguments, tuple) and arguments[:2] == ("numpy.ndarray", (0,))
    return function in CALLS


def _refused(path: Path, what: str) -> MabenchError:
    return MabenchError(
        f"{path}: its pickle {what}, which is not data. It was NOT executed. Save plain tensors (torch.save((images, labels), ...)) or "
        "convert it where you trust it: mabench pack."
    )


@contextmanager
def _numpy_names() -> Iterator[None]:
    """Lets torch's restricted unpickler rebuild numpy arrays and scalars (DC's files hold accuracies as numpy floats)."""
    core = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    allowed: list[Any] = [np.ndarray, np.dtype]
    for module in NUMPY_CORE:
        allowed += [(core.scalar, f"{module}.scalar"), (core._reconstruct, f"{module}._reconstruct")]
    allowed += [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "bool")]
    with torch.serialization.safe_globals(allowed):
        yield
