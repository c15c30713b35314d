"""Read files of `torch.save` from strangers: an unpickler of our own, which can only make containers, numbers, texts and arrays.

No name in a pickle is ever imported, nothing in it is ever called, and torch does not see the file: what is examined is what is loaded.
A pickle may name what `_CALLS`, `_STORAGES` and `_CONSTANTS` list; everything else is refused with its name. Tensors are placed over
their storages only after all bytes were read, so that none has memory that the file did not fill. Imports no torch.
"""

from __future__ import annotations

import io
import math
import pickletools
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mabench.errors import MabenchError, printable
from mabench.sets import archives, limits

MAX_OPERATIONS = 10**6  # ours: two seconds; a published DC file with all its accuracies takes 10^5
MAX_DIMENSIONS = 16  # ours: images have four or five
MAX_TIMES = 4  # ours: tensors may be views of one storage; together they unfold to at most so many times the file
FREE_BYTES = 16 * 2**20  # ours: below this, views cost nothing that matters
MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
ZIP = b"PK\x03\x04"

Array = np.ndarray[Any, np.dtype[Any]]


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
    reader = _Unpickler(path, io.BytesIO(members.read(pickles[0])))
    value = reader.load()
    arrays = {}
    for key, storage in reader.storages.items():
        content = members.read(f"{folder}data/{key}")
        if len(content) != storage.nbytes:
            raise MabenchError(
                f"{path}: storage {printable(key, 20)} holds {len(content):,} bytes, its pickle says {storage.nbytes:,}."
            )
        arrays[key] = np.frombuffer(content, np.uint8)
    return value, arrays


def _load_stream(path: Path, file: BinaryIO) -> tuple[Any, dict[str, Array]]:
    """Before torch 1.6: magic number, version, system, value and keys, one pickle each; then the storages. Or one bare pickle."""
    value = _Unpickler(path, file).load()
    if value != MAGIC:
        if isinstance(value, int | str) or file.read(1):
            raise MabenchError(f"{path}: is neither a torch file nor one pickle. Fetch it again, or save plain tensors.")
        return value, {}
    _, system = _Unpickler(path, file).load(), _Unpickler(path, file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MabenchError(f"{path}: was written on a big-endian machine, or is damaged. Save it on another one.")
    reader = _Unpickler(path, file)
    value, keys = reader.load(), _Unpickler(path, file).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(reader.storages):
        raise MabenchError(
            f"{path}: its list of storages is not that of its tensors: it would leave memory unfilled. Save it again."
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


# -- what a pickle may name ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A name of the lists below: a text, never an object of Python."""

    text: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * _itemsize(self.dtype)


@dataclass(eq=False)
class _View:
    """A tensor before its storage was read."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False)
class _Dtype:
    """A numpy dtype by its kind and size (`f4`), with its byte order."""

    kind: str
    order: str = "<"


@dataclass(eq=False)
class _NumpyArray:
    """What `numpy._reconstruct` starts and BUILD fills."""

    value: Array | None = None


class _Record(dict[Any, Any]):
    """An object of which only the fields count (argparse.Namespace)."""


_DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1",
    "uint8": "u1", "bool": "b1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
}  # fmt: skip
_STORAGES = {
    f"torch.{name}Storage": _DTYPES[dtype]
    for name, dtype in {
        "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
        "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
    }.items()
} | {"torch.storage.UntypedStorage": "u1"}  # fmt: skip
_NUMPY_KINDS = frozenset(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"])
_RECORDS = frozenset(["argparse.Namespace", "types.SimpleNamespace"])
_NDARRAY = "numpy.ndarray"
_CONSTANTS = frozenset([_NDARRAY, *(f"torch.{name}" for name in _DTYPES)])


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else int(dtype[1:])


class _Refused(Exception):
    """What a pickle wants and may not have."""


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise _Refused("holds a size or position that is not a whole number")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS:
        raise _Refused(f"holds a tensor that has no shape of at most {MAX_DIMENSIONS} dimensions")
    return tuple(_whole(each) for each in value)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _View:
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], _Name):  # version 3 of the function: the dtype follows requires_grad and hooks
        dtype = _DTYPES[rest[2].text.removeprefix("torch.")]
    return _View(storage, dtype, _whole(offset), _sizes(shape), _sizes(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _dtype(text: Any, *_: Any) -> _Dtype:
    if text not in _NUMPY_KINDS:
        raise _Refused(f"holds a numpy dtype {printable(repr(text), 40)}; numbers are read")
    return _Dtype(text)


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return _numpy(content, dtype, ()).item()


def _reconstruct(kind: Any, shape: Any, *_: Any) -> _NumpyArray:
    if kind != _Name(_NDARRAY) or shape != (0,):
        raise _Refused("makes a numpy array in a way that numpy does not write")
    return _NumpyArray()


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, order: Any) -> _NumpyArray:
    return _NumpyArray(_numpy(content, dtype, _sizes(shape), order))


def _numpy(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any = "C") -> Array:
    if not isinstance(content, bytes | bytearray) or len(content) != math.prod(shape) * _itemsize(dtype.kind):
        raise _Refused("holds a numpy array whose content is not what its shape says")
    return np.frombuffer(content, np.dtype(dtype.order + dtype.kind)).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: Any, codec: Any) -> bytes:
    if codec != "latin1" or not isinstance(text, str):  # other codecs can double a text, again and again
        raise _Refused("encodes a text other than as latin1")
    return text.encode("latin1")


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    if items:
        raise _Refused("fills an OrderedDict in a way that no set needs")
    return {}


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes: _sizes(tuple(sizes)),
    "torch.device": lambda kind, *_: str(kind)[:20],
    "_codecs.encode": _encode,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}
"""What a pickle may call, and what is done instead; nothing takes time or memory beyond its arguments."""
NAMES = frozenset([*_CALLS, *_STORAGES, *_CONSTANTS, *_RECORDS])


# -- the unpickler ------------------------------------------------------------------------------------------------------

_LITERALS = frozenset([
    "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "SHORT_BINSTRING",
    "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8",
])  # fmt: skip
_MAKES: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip
_MARK = object()


class _Unpickler:
    """Plays one pickle's operations over objects of this module; `pickletools` splits the bytes into operations."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        """Those that tensors name, by their keys."""

    def load(self) -> Any:
        """Raises MabenchError for what is not allowed and for a damaged pickle."""
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(self.stream)):
                if count > MAX_OPERATIONS:
                    raise _Refused(f"takes more than {MAX_OPERATIONS:,} operations")
                self._play(operation.name, argument)
            return self.stack.pop()
        except _Refused as error:
            raise MabenchError(
                f"{self.path}: its pickle {error}, which is not data. It was NOT executed. If you trust where the file comes from, keep "
                "its tensors alone: python -c \"import sys, torch; d = torch.load(sys.argv[1], 'cpu', weights_only=False); "
                f"torch.save({{'images': d['images'], 'labels': d['labels']}}, 'set.pt')\" {shlex.quote(str(self.path))}"
            ) from None
        except (IndexError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
            first = printable((str(error).strip().splitlines() or [type(error).__name__])[0], 160)
            raise MabenchError(
                f"{self.path}: truncated or not a torch file ({first}). Fetch it again, or save plain tensors."
            ) from error

    def _play(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _MAKES:
            stack.append(_MAKES[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            self._push(tuple(self._marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._push(tuple(self._taken(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            self._append(self._marked() if name == "APPENDS" else self._taken(1))
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(self._marked() if name == "SETITEMS" else self._taken(2))
        elif name == "GLOBAL":
            self._name(argument.replace(" ", ".", 1))
        elif name == "STACK_GLOBAL":
            self._name(".".join(self._taken(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            self._call(*self._taken(2))
        elif name == "BUILD":
            self._build(*self._taken(1))
        elif name == "BINPERSID":
            self._storage(*self._taken(1))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"holds the operation {name}")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _taken(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        if len(values) < count or any(value is _MARK for value in values):
            raise IndexError("an operation finds too few values")
        del self.stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _Refused("appends to something other than a list")
        target += values

    def _set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise _Refused("sets items of something other than a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise _Refused("uses something other than a text or a number as a key")
            target[key] = value

    def _name(self, text: str) -> None:
        if text not in NAMES:
            raise _Refused(f"wants to call {printable(text, 80)}")
        self._push(_Name(text))

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _Refused("calls something other than a function")
        make: Callable[..., Any] | None = _Record if function.text in _RECORDS and not arguments else _CALLS.get(function.text)
        if make is None:
            raise _Refused(f"wants to call {function.text}")
        try:
            self._push(make(*arguments))
        except (TypeError, AttributeError, LookupError) as error:
            raise _Refused(f"wants to call {function.text} in a way that no set needs") from error

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, _NumpyArray) and target.value is None:
            _, shape, dtype, fortran, content = state
            target.value = _numpy(content, dtype, _sizes(shape), "F" if fortran is True else "C")
        elif isinstance(target, _Dtype):
            if not isinstance(state, tuple) or state[1] not in ("<", "|", ">") or state[2:5] != (None, None, None):
                raise _Refused("changes a numpy dtype in a way that no array of numbers needs")
            target.order = state[1]
        elif isinstance(target, _Record):
            target |= {str(key): value for key, value in state.items()}
        elif not isinstance(target, dict):  # the attributes of an OrderedDict are left out: a state_dict's versions
            raise _Refused("changes an object that has no state")

    def _storage(self, named: Any) -> None:
        kind, storage_type, key, _, count = named[:5]
        if kind != "storage" or not isinstance(key, str) or not isinstance(storage_type, _Name) or any(named[5:]):
            raise _Refused("names something other than a storage")
        storage = _Storage(key, _STORAGES[storage_type.text], _whole(count))
        if self.storages.setdefault(key, storage) != storage:
            raise _Refused("names one storage in two ways")
        self._push(storage)


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
        if isinstance(value, _Name):
            return value.text
        if isinstance(value, _Storage | _Dtype | bytes | bytearray):
            return f"<{type(value).__name__.strip('_').lower()}>"
        if not isinstance(value, dict | list | tuple | _View | _NumpyArray):
            return value
        if id(value) not in self.placed:
            self.placed[id(value)] = self._new(value)
        return self.placed[id(value)]

    def _new(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._placed(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._placed(each) for each in value)
        if isinstance(value, _NumpyArray):
            if value.value is None:
                raise MabenchError(f"{self.path}: holds a numpy array without content. Save it again.")
            return value.value
        return self._array(value)

    def _array(self, view: _View) -> Array:
        itemsize, content = _itemsize(view.dtype), self.storages[view.storage.key]
        count = math.prod(view.shape)
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) if count else 0
        if (last + 1) * itemsize > max(len(content), itemsize * (count == 0)):
            raise MabenchError(f"{self.path}: a tensor reaches beyond the end of its storage. Save it again.")
        self.total += count * itemsize
        if self.total > self.limit:
            raise MabenchError(f"{self.path}: its tensors unfold to more than {self.limit:,} bytes; it holds a fraction of that.")
        if not count:
            return np.zeros(view.shape, "f4" if view.dtype == "bfloat16" else view.dtype)
        numbers = content[: len(content) // itemsize * itemsize].view("u2" if view.dtype == "bfloat16" else "<" + view.dtype)
        strides = [stride * itemsize for stride in view.strides]
        array = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides, writeable=False)
        return array.view(BFloat16) if view.dtype == "bfloat16" else array
