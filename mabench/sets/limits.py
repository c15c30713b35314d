"""What the process that opens strangers' files may take and do. Only `_open_in_child.py` sets limits; elsewhere `declare` just compares."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import struct
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mabench.errors import MabenchError

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit there
    resource = None  # type: ignore[assignment]

SPARE_BYTES = 96 * 2**20  # ours: libraries that are imported late, and their buffers
MAPPED_BYTES = 2**30  # ours
TIMES_DECLARED = 3  # ours: what was packed, what it unpacks to, and one copy in another order


@dataclass
class _Budget:
    max_bytes: int = 2**63
    cpu_seconds: int = 0
    bytes_a_second: int = 1
    declared: int = 0
    limited: bool = False
    scratch: list[IO[bytes]] = field(default_factory=list)
    """Open files for large arrays: images, and once more where the first were grey."""


_BUDGET = _Budget()


def declare(size: int, path: Path) -> None:
    """Say that the contents of `path` take `size` bytes more, before anything is allocated. Raises MabenchError beyond the limit."""
    _BUDGET.declared += size
    if size < 0 or _BUDGET.declared > _BUDGET.max_bytes:
        raise MabenchError(f"{path}: unpacks to {_BUDGET.declared:,} bytes; sets up to {_BUDGET.max_bytes:,} bytes are read.")
    if _BUDGET.limited:
        _grant()


def allocate(shape: tuple[int, ...], kind: str, path: Path) -> Any:
    """Declare and return an empty numpy array for contents of `path`; a large one lies in a temporary file, so that memory holds what
    is in use. The file was opened before this process lost the right to make any."""
    import numpy as np

    size = math.prod(shape) * np.dtype(kind).itemsize
    declare(size, path)
    if size < MAPPED_BYTES:
        return np.empty(shape, kind)
    file = _BUDGET.scratch.pop() if _BUDGET.scratch else tempfile.TemporaryFile()  # noqa: SIM115 - the array keeps it
    return np.memmap(file, kind, "w+", shape=shape)


def start(max_bytes: int) -> None:
    """Begin to count what is declared, up to `max_bytes`."""
    _BUDGET.max_bytes, _BUDGET.declared = max_bytes, 0


def enter(max_bytes: int, cpu_seconds: int, bytes_a_second: int) -> None:
    """Limit this process for good: memory, computing, files, privileges, network, and changes of the file system.

    What the system does not have is left out: resource limits are there on Linux and macOS, the rest on Linux.
    """
    start(max_bytes)
    _BUDGET.cpu_seconds, _BUDGET.bytes_a_second, _BUDGET.limited = cpu_seconds, bytes_a_second, True
    if max_bytes >= MAPPED_BYTES:
        _BUDGET.scratch = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # no child outlives its parent
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # a namespace whose network is empty; root needs no user namespace for it, and would lose its rights to read files in one
        libc.unshare(_CLONE_NEWNET | (0 if os.geteuid() == 0 else _CLONE_NEWUSER))  # refused in some containers
        _landlock(libc)
    if resource is not None:
        largest = TIMES_DECLARED * max_bytes + SPARE_BYTES
        for kind, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_FSIZE, largest)):
            hard = resource.getrlimit(kind)[1]  # a limit of the caller's own may be lower
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
        _grant()


_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same numbers on every architecture
_LANDLOCK_FILES = (
    0x1FF3  # the rights of Landlock's first version except to read a file (4) and a folder (8): run, write, make, remove
)
_LANDLOCK_TCP = 3  # bind and connect


def _landlock(libc: ctypes.CDLL) -> None:
    """Landlock: no file can be written, made, removed or executed any more (Linux 5.13), and no TCP connection made (Linux 6.7).

    What is open already stays usable: the answer can be written.
    """
    for rules in (struct.pack("QQ", _LANDLOCK_FILES, _LANDLOCK_TCP), struct.pack("Q", _LANDLOCK_FILES)):
        number = libc.syscall(_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
        if number >= 0:
            libc.syscall(_LANDLOCK_RESTRICT_SELF, number, 0)
            os.close(number)
            return


def _grant() -> None:
    """Set the limits that follow from what was declared so far."""
    if resource is None:
        return
    seconds = _BUDGET.cpu_seconds + _BUDGET.declared // _BUDGET.bytes_a_second
    _lower(resource.RLIMIT_CPU, seconds)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux; macOS does not enforce it either
        return
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + SPARE_BYTES + TIMES_DECLARED * _BUDGET.declared)


def _lower(kind: int, soft: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
