"""The child of `sandbox.py`: reads a request from standard input and writes a safetensors file to standard output."""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
from typing import Any, BinaryIO

NO_ROOM = 73  # as in sandbox.py
MAX_TIMES, FREE_BYTES = 4, 16 * 2**20  # as in pickles.py
MAX_PARTS, MAX_DEPTH, MAX_TEXT = 10**6, 50, 16 * 2**20  # ours: a published DC file with all its accuracies has 10^4 parts


def main() -> None:
    request = json.load(sys.stdin.buffer)
    sys.path[:] = request["sys_path"]
    import importlib

    from mabench.sets import limits

    importlib.import_module(request["module"])  # before memory is limited
    limits.enter(request["max_bytes"], *request["cpu"])
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as file:
            answer(request, file)
    except OSError:  # a full disk: not even the reason can be written
        os._exit(NO_ROOM)


def answer(request: dict[str, Any], file: BinaryIO) -> None:
    """Call the function that was asked for, and write its result, or the reason why there is none."""
    import importlib
    from pathlib import Path

    from mabench.errors import MabenchError

    path = Path(request["path"])
    function = getattr(importlib.import_module(request["module"]), request["function"])
    arrays: dict[str, Any] = {}
    try:
        counted = [0, 0, 0]
        told = {"value": fold(function(path, **request["arguments"]), arrays, counted)}
        if counted[2] > MAX_TIMES * sum(array.nbytes for array in arrays.values()) + FREE_BYTES:
            raise ValueError(f"its arrays unfold to {counted[2]:,} bytes, many times what it holds")
        write(file, told, arrays)
        return
    except MabenchError as error:
        reason = str(error)
    except MemoryError:
        reason = f"{path}: opening it takes more memory than a set of its size can need. Nothing of it was used. Fetch it again."
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):  # of the answer: nothing else is written
            raise
        reason = f"{path}: cannot read: {error.strerror or error}. Name an existing, readable file or folder."
    except Exception as error:  # the libraries raise whatever comes up in a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        reason = f"{path}: truncated or damaged ({first}). Fetch it again."
    file.seek(0)
    file.truncate()
    write(file, {"error": reason}, {})


def fold(value: Any, arrays: dict[str, Any], counted: list[int], depth: int = 0) -> Any:
    """`value` as JSON: containers as {"dict" | "list" | "tuple": [...]}, arrays as {"array": name}, each array once.

    `counted`: parts, characters and bytes of arrays so far, each as often as it is named. Raises ValueError for what is too large, too deep, or of another type.
    """
    import numpy as np

    counted[0] += 1
    if counted[0] > MAX_PARTS or depth > MAX_DEPTH:
        raise ValueError(f"it unfolds to more than {MAX_PARTS:,} objects or {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        counted[1] += len(value)
        if counted[1] > MAX_TEXT:
            raise ValueError(f"it holds more than {MAX_TEXT:,} characters of text")
        return value
    if isinstance(value, np.ndarray):
        name = f"{id(value):x}"  # the array stays alive in `arrays`, so no other gets its number
        arrays[name] = value
        counted[2] += value.nbytes
        return {"array": name}
    if isinstance(value, np.generic):
        return fold(value.item(), arrays, counted, depth)
    if isinstance(value, dict):
        return {"dict": [[fold(k, arrays, counted), fold(v, arrays, counted, depth + 1)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [fold(each, arrays, counted, depth + 1) for each in value]}
    raise ValueError(f"it holds a {type(value).__name__}")


KINDS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


def write(file: BinaryIO, told: dict[str, Any], arrays: dict[str, Any]) -> None:
    """A safetensors file, written array by array: the library would need all of it in memory once more."""
    import numpy as np

    header: dict[str, Any] = {"__metadata__": {"contents": json.dumps(told)}}
    offset = 0
    for name, array in arrays.items():
        kind = getattr(array, "safetensors_kind", None) or KINDS.get(array.dtype.name)
        if kind is None:
            raise ValueError(f"it holds an array of {array.dtype}")
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
    file.flush()


if __name__ == "__main__":
    main()
