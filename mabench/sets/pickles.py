"""Read files of `torch.save` from strangers: an unpickler of our own, which can only make containers, numbers, texts and arrays.

No name in a pickle is ever imported, nothing in it is ever called, and torch does not see the file: what is examined is what is loaded.
A pickle may name what `unpickler.NAMES` lists; everything else is refused with its name. Tensors are placed over
their storages only after all bytes were read, so that none has memory that the file did not fill. Imports no torch.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mabench.errors import MabenchError, printable
from mabench.sets import archives, limits
from mabench.sets.unpickler import Array, Dtype, Name, NumpyArray, Storage, Unpickler, View, itemsize

MAX_TIMES = 4  # ours: tensors may be views of one storage; together they unfold to at most so many times the file
FREE_BYTES = 16 * 2**20  # ours: below this, views cost nothing that matters
MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
ZIP = b"PK\x03\x04"


class BFloat16(np.ndarray[Any, np.dtype[np.uint16]]):
    """Bits of bfloat16 numbers, which numpy does not have."""

    safetensors_kind = "BF16"


def load(path: Path) -> Any:
    """Return what `torch.save` (or pickle) wrote: containers, numbers, texts, and numpy arrays where it wrote tensors or arrays.

    Raises MabenchError for names, calls and sizes that no set needs, and whatever comes up in a damaged file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) == ZIP:  # as torch decides
            return _Shapes(path, size).place(*_load_archive(path, file))
        file.seek(0)
        limits.declare(size, path)
        return _Shapes(path, size).place(*_load_stream(path, file))


# -- containers: where pickles and storages are -------------------------------------------------------------------------


def _load_archive(path: Path, file: BinaryIO) -> tuple[Any, dict[str, Array]]:
    """torch 1.6 and later: a zip of NAME/data.pkl, NAME/byteorder and NAME/data/KEY."""
    members = archives.read_zip(path, file)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise MabenchError(
            f"{path}: a zip file without the one data.pkl that torch.save writes. Save it with torch.save, or unpack it."
        )
    folder = pickles[0].removesuffix("data.pkl")
    if members.read(f"{folder}byteorder", default=b"little") != b"little":
        raise MabenchError(f"{path}: was written on a big-endian machine. Save it on another one.")
    reader = Unpickler(path, io.BytesIO(members.read(pickles[0])))
    value = reader.load()
    arrays = {}
    for key, storage in reader.storages.items():
        content = members.read(f"{folder}data/{key}")
        if len(content) != storage.nbytes:
            raise MabenchError(
                f"{path}: storage {printable(key, 20)} holds {len(content):,} bytes, its pickle says {storage.nbytes:,}. Fetch it again, or save plain tensors."
            )
        arrays[key] = np.frombuffer(content, np.uint8)
    return value, arrays


def _load_stream(path: Path, file: BinaryIO) -> tuple[Any, dict[str, Array]]:
    """Before torch 1.6: magic number, version, system, value and keys, one pickle each; then the storages. Or one bare pickle."""
    value = Unpickler(path, file, loading="pickle.load(open(sys.argv[1], 'rb'))").load()  # torch.load reads no bare pickle
    if value != MAGIC:
        if isinstance(value, int | str) or file.read(1):
            raise MabenchError(f"{path}: is neither a torch file nor one pickle. Fetch it again, or save plain tensors.")
        return value, {}
    _, system = Unpickler(path, file).load(), Unpickler(path, file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MabenchError(f"{path}: was written on a big-endian machine, or is damaged. Save it on another one.")
    reader = Unpickler(path, file)
    value, keys = reader.load(), Unpickler(path, file).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(reader.storages):
        raise MabenchError(
            f"{path}: its list of storages is not that of its tensors: part of its memory would be undefined. Save it again."
        )
    arrays = {}
    for key in keys:
        storage = reader.storages[key]
        count = int.from_bytes(file.read(8), "little")
        content = file.read(storage.nbytes) if count == storage.count else b""
        if len(content) != storage.nbytes:
            raise MabenchError(f"{path}: truncated: storage {printable(key, 20)} is not complete. Fetch it again.")
        arrays[key] = np.frombuffer(content, np.uint8)
    if file.read(1):
        raise MabenchError(f"{path}: holds more than its pickles name. Fetch it again, or save plain tensors.")
    return value, arrays


# -- tensors over storages ----------------------------------------------------------------------------------------------


class _Shapes:
    """Puts arrays in the places of tensors; what they unfold to together is bounded by the file's size."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.limit, self.total = path, MAX_TIMES * size + FREE_BYTES, 0
        self.storages: dict[str, Array] = {}
        self.placed: dict[int, Any] = {}
        """By the identity of what they replace; containers too, so that one that is in many places is walked once."""

    def place(self, value: Any, storages: dict[str, Array]) -> Any:
        self.storages = storages
        try:
            return self._placed(value)
        except RecursionError:
            raise MabenchError(f"{self.path}: holds containers in containers without end. Save plain tensors.") from None

    def _placed(self, value: Any) -> Any:
        if isinstance(value, Name):
            return value.text
        if isinstance(value, Storage | Dtype | bytes | bytearray):
            return f"<{type(value).__name__.strip('_').lower()}>"
        if not isinstance(value, dict | list | tuple | View | NumpyArray):
            return value
        if id(value) not in self.placed:
            self.placed[id(value)] = self._new(value)
        return self.placed[id(value)]

    def _new(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._placed(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._placed(each) for each in value)
        if isinstance(value, NumpyArray):
            if value.value is None:
                raise MabenchError(f"{self.path}: holds a numpy array without content. Save it again.")
            return value.value
        return self._array(value)

    def _array(self, view: View) -> Array:
        width, content = itemsize(view.dtype), self.storages[view.storage.key]
        count = math.prod(view.shape)
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) if count else 0
        if (last + 1) * width > max(len(content), width * (count == 0)):
            raise MabenchError(f"{self.path}: a tensor reaches beyond the end of its storage. Save it again.")
        self.total += count * width
        if self.total > self.limit:
            raise MabenchError(
                f"{self.path}: its tensors unfold to more than {self.limit:,} bytes, many times what it holds. Save plain tensors."
            )
        if not count:
            return np.zeros(view.shape, "f4" if view.dtype == "bfloat16" else view.dtype)
        numbers = content[: len(content) // width * width].view("u2" if view.dtype == "bfloat16" else "<" + view.dtype)
        strides = [stride * width for stride in view.strides]
        array = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides, writeable=False)
        return array.view(BFloat16) if view.dtype == "bfloat16" else array
