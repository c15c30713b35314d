"""Functions for `sandbox.open_in_child` that do what files should not be able to. Imports no torch, as formats do not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def spin(path: Path) -> None:
    while True:
        pass


def fill(path: Path) -> None:
    _ = [bytearray(2**20) for _ in range(10**6)]


def crash(path: Path) -> None:
    os.abort()


def connect(path: Path, port: int) -> str:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=5)
    except OSError as error:
        return f"refused: {error.strerror}"
    return "connected"


def write_beside(path: Path) -> list[str]:
    """Everything that changes a file system, and starting a program."""
    import subprocess

    changes: dict[str, Callable[[], Any]] = {
        "write": lambda: path.write_text("changed"),
        "make": lambda: path.with_name("new").touch(),
        "remove": lambda: path.unlink(),
        "rename": lambda: path.rename(path.with_name("other")),
        "folder": lambda: path.with_name("folder").mkdir(),
        "link": lambda: path.with_name("link").symlink_to("/etc/passwd"),
        "run": lambda: subprocess.run(["/bin/true"]),
    }
    done = []
    for name, change in changes.items():
        try:
            change()
            done.append(name)
        except OSError:
            pass
    return done


def look_around(path: Path) -> dict[str, Any]:
    import resource

    return {
        "torch": "torch" in sys.modules,
        "secrets": sorted(name for name in os.environ if "TOKEN" in name),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "status": [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NoNewPrivs")],
    }


def odd(path: Path) -> Any:
    return {
        "a": [1, (2.5, None, "é", True)],
        3: np.arange(4, dtype=">f4")[::2],
        "empty": np.zeros((0, 3)),
        "b": np.array(7, "u1"),
    }
