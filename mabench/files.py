"""A file that exists is complete: every write goes to a temporary name beside its place, then takes it in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
