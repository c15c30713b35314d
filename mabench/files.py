"""A file that exists is complete: every write goes to a temporary name beside its place, then takes it in one step."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mabench.schema import MabenchError


@contextmanager
def whole(path: Path, cure: str = "Name a place that exists, is writable and has space.") -> Iterator[Path]:
    """Yield the temporary name to write to; on leaving, it becomes `path`, or vanishes if anything went wrong.

    The body does nothing but write. The folder is made where it is missing. Raises MabenchError, which ends with `cure`, when the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:  # the folder itself cannot be reached: nothing was written, the first error says why
            pass
        if isinstance(error, OSError | RuntimeError):  # torch reports a full disk as RuntimeError
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise MabenchError(f"{path}: cannot write: {reason}. {cure}") from error
        raise


def write_text(path: Path, text: str, cure: str = "Name a place that exists, is writable and has space.") -> None:
    """`text` in UTF-8, whole or not at all. Raises MabenchError when the disk refuses."""
    with whole(path, cure) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """`content`, whole or not at all. Raises MabenchError when the disk refuses."""
    with whole(path) as partial:
        partial.write_bytes(content)


MAX_TOML_BYTES = 64 * 1024  # ours: a card, a suite, a paper's tables are pages of text
MAX_TOML_DOTS = 4000  # ours: the standard library takes 20 s for one key of 32,000 dotted parts, 0.6 s for one of 4,000


def size_of(path: Path) -> int:
    """Bytes of a regular file, links followed. Raises MabenchError for a folder, a pipe or a device (a reader would wait for ever, or
    never come to an end) and OSError where there is nothing."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise MabenchError(f"{path}: is a folder, a pipe or a device, not a file. Put the file itself there.")
    return found.st_size


def read_bytes(path: Path, limit: int, cure: str) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises MabenchError, which ends with `cure`, for anything else."""
    try:
        size = size_of(path)
        if size > limit:
            raise MabenchError(f"{path}: {size:,} bytes; at most {limit:,} are read. {cure}")
        return path.read_bytes()
    except OSError as error:
        raise MabenchError(f"{path}: cannot read: {error.strerror}. {cure}") from error


def parse_toml(content: bytes, path: Path, cure: str) -> dict[str, Any]:
    """The TOML in a file's bytes. Raises MabenchError, which names `path` and ends with `cure`, where it is too large or none."""
    if len(content) > MAX_TOML_BYTES or content.count(b".") > MAX_TOML_DOTS:
        raise MabenchError(f"{path}: more than {MAX_TOML_BYTES:,} bytes or {MAX_TOML_DOTS:,} dots. Keep it to pages of text.")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise MabenchError(f"{path}: not TOML: {error}. {cure}") from error


def read_toml(path: Path, cure: str) -> dict[str, Any]:
    """`parse_toml` of a file. Raises MabenchError, which ends with `cure`, where it cannot be read."""
    return parse_toml(read_bytes(path, MAX_TOML_BYTES, cure), path, cure)
