"""Which files are recorded labels, in what order, and what identifies them; their content is `recorded`'s. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mabench.digests import digest
from mabench.files import sha256_of

FOLDER = "labels"
"""Where they lie beside a set."""
PATTERN = "labels-*.safetensors"
"""Matches every file of recorded labels, and others: `first_epoch` decides."""
_NAME = re.compile(r"labels-([0-9]{5,9})\.safetensors")


def file_name(first_epoch: int) -> str:
    """Return the name of the file that begins with this epoch."""
    return f"labels-{first_epoch:05d}.safetensors"


def first_epoch(name: str) -> int | None:
    """Return the epoch that a file of this name begins with; None for a name that `file_name` does not give."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and file_name(int(match[1])) == name else None


def find(folder: Path) -> dict[int, Path]:
    """First epoch -> file, in order; empty where there are none."""
    try:
        paths = {epoch: p for p in folder.glob(PATTERN) if p.is_file() and (epoch := first_epoch(p.name)) is not None}
    except OSError:  # a name that is too long
        return {}
    return dict(sorted(paths.items()))


def identity(paths: Iterable[Path]) -> str:
    """Return the digest of the files' own sha256, in order."""
    return digest([sha256_of(path) for path in paths])
