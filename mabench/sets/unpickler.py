"""An unpickler that can only make containers, numbers, texts, arrays and `View`s of storages; used by `pickles.py`. Imports no torch.

No name in a pickle is ever imported, and nothing in it is ever called: names stay texts, calls are looked up in a table of our own.
"""

from __future__ import annotations

import math
import pickletools
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mabench.errors import MabenchError, printable

MAX_OPERATIONS = 10**6  # ours: two seconds; a published DC file with all its accuracies takes 10^5
MAX_KEY = 200  # ours: bytes of a key that is no text
MAX_DIMENSIONS = 16  # ours: images have four or five

Array = np.ndarray[Any, np.dtype[Any]]


# -- what a pickle may name ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """A name of the lists below: a text, never an object of Python."""

    text: str


@dataclass(frozen=True)
class Storage:
    key: str
    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * itemsize(self.dtype)


@dataclass(eq=False)
class View:
    """A tensor before its storage was read."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False)
class Dtype:
    """A numpy dtype by its kind and size (`f4`), with its byte order."""

    kind: str
    order: str = "<"


@dataclass(eq=False)
class NumpyArray:
    """What `numpy._reconstruct` starts and BUILD fills."""

    value: Array | None = None


class _Record(dict[Any, Any]):
    """An object of which only the fields count (argparse.Namespace, TensorDataset)."""


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
_RECORDS = frozenset(["argparse.Namespace", "types.SimpleNamespace", "torch.utils.data.dataset.TensorDataset"])
_NDARRAY = "numpy.ndarray"
_CONSTANTS = frozenset([_NDARRAY, *(f"torch.{name}" for name in _DTYPES)])


def itemsize(dtype: str) -> int:
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


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> View:
    dtype = storage.dtype
    if len(rest) > 2 and isinstance(rest[2], Name):  # version 3 of the function: the dtype follows requires_grad and hooks
        dtype = _DTYPES[rest[2].text.removeprefix("torch.")]
    return View(storage, dtype, _whole(offset), _sizes(shape), _sizes(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _dtype(text: Any, *_: Any) -> Dtype:
    if text not in _NUMPY_KINDS:
        raise _Refused(f"holds a numpy dtype {printable(repr(text), 40)} where numbers belong")
    return Dtype(text)


def _scalar(dtype: Dtype, content: Any) -> Any:
    return _numpy(content, dtype, ()).item()


def _reconstruct(kind: Any, shape: Any, *_: Any) -> NumpyArray:
    if kind != Name(_NDARRAY) or shape != (0,):
        raise _Refused("makes a numpy array in a way that numpy does not write")
    return NumpyArray()


def _frombuffer(content: Any, dtype: Dtype, shape: Any, order: Any) -> NumpyArray:
    return NumpyArray(_numpy(content, dtype, _sizes(shape), order))


def _numpy(content: Any, dtype: Dtype, shape: tuple[int, ...], order: Any = "C") -> Array:
    if not isinstance(content, bytes | bytearray) or len(content) != math.prod(shape) * itemsize(dtype.kind):
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


class Unpickler:
    """Plays one pickle's operations over objects of this module; `pickletools` splits the bytes into operations.

    `loading`: the call that loads such a file where it is trusted, for a refusal.
    """

    def __init__(self, path: Path, stream: BinaryIO, loading: str = "torch.load(sys.argv[1], 'cpu', weights_only=False)") -> None:
        self.path, self.stream, self.loading = path, stream, loading
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
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
                f'its arrays and numbers alone: python -c "import sys, pickle, torch; d = {self.loading}; d = d if isinstance(d, dict) '
                "else dict(enumerate(d)); torch.save({k: v for k, v in d.items() if hasattr(v, 'shape') or isinstance(v, (list, float))}, "
                f"'set.pt')\" {shlex.quote(str(self.path))}"
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
            if isinstance(key, bytes) and len(key) <= MAX_KEY:
                key = key.decode("latin1")  # a dictionary that Python 2 wrote: CIFAR-10's own batches
            if not isinstance(key, str | int | float | None):
                raise _Refused("uses something other than a text or a number as a key")
            target[key] = value

    def _name(self, text: str) -> None:
        if text.startswith("__torch__."):
            raise MabenchError(
                f"{self.path}: is a program (torch.jit.save), not data. It was NOT executed. Save its tensors: torch.save((images, labels), "
                "'set.pt')."
            )
        if text not in NAMES:
            raise _Refused(f"calls {printable(text, 80)}")
        self._push(Name(text))

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise _Refused("calls something other than a function")
        make: Callable[..., Any] | None = _Record if function.text in _RECORDS and not arguments else _CALLS.get(function.text)
        if make is None:
            raise _Refused(f"calls {function.text}")
        try:
            self._push(make(*arguments))
        except (TypeError, AttributeError, LookupError) as error:
            raise _Refused(f"calls {function.text} in a way that no set needs") from error

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, NumpyArray) and target.value is None:
            _, shape, dtype, fortran, content = state
            target.value = _numpy(content, dtype, _sizes(shape), "F" if fortran is True else "C")
        elif isinstance(target, Dtype):
            if not isinstance(state, tuple) or state[1] not in ("<", "|", ">") or state[2:5] != (None, None, None):
                raise _Refused("changes a numpy dtype in a way that no array of numbers needs")
            target.order = state[1]
        elif isinstance(target, _Record):
            target |= {str(key): value for key, value in state.items()}
        elif not isinstance(target, dict):  # the attributes of an OrderedDict are left out: a state_dict's versions
            raise _Refused("changes an object that has no state")

    def _storage(self, named: Any) -> None:
        kind, storage_type, key, _, count = named[:5]
        if kind != "storage" or not isinstance(key, str) or not isinstance(storage_type, Name) or any(named[5:]):
            raise _Refused("names something other than a storage")
        storage = Storage(key, _STORAGES[storage_type.text], _whole(count))
        if self.storages.setdefault(key, storage) != storage:
            raise _Refused("names one storage in two ways")
        self._push(storage)
