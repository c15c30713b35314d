"""A file that exists is complete: every write goes to a temporary name beside its place, then takes it in one step.

A writer holds a lock on its temporary file, which the system drops when the process dies, however it dies: so the next writer
of the same file can tell what was left behind from what is being written.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mabench.schema import MabenchError

SEAL_BYTES = hashlib.sha256().digest_size


@contextmanager
def whole(path: Path, cure: str = "Name a place that exists, is writable and has space.") -> Iterator[Path]:
    """Yield the temporary name to write to; on leaving, it becomes `path`, or vanishes if anything went wrong.

    The body does nothing but write; the temporary name has another ending than `path`. The folder is made where it is missing.
    Raises MabenchError, which ends with `cure`, when the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        partial.touch()
        with held(partial):
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


# -- seals: a file that was changed later is told from one that was not -----------------------------------------------


def seal(path: Path) -> None:
    """Append the sha256 of the file to it."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    with open(path, "ab") as file:
        file.write(digest)


def unsealed(path: Path) -> bytes | None:
    """What was in the file when it was sealed; None if it is absent, cannot be read, was cut or has changed by a single bit."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body, digest = content[:-SEAL_BYTES], content[-SEAL_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


# -- locks: who is at work, and what did the dead leave behind ----------------------------------------------------------


@contextmanager
def held(path: Path) -> Iterator[bool | None]:
    """Hold the lock of an existing file or folder; whether this process has it: False while another one does, None where the system
    or the disk knows no locks."""
    number = os.open(path, os.O_RDONLY)
    try:
        yield _locked(number)
    finally:
        os.close(number)


def _locked(number: int) -> bool | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether no other process is at the work that the lock file `path` stands for; the file goes when the work ends.

    Locks save work, no result may depend on them: where there are none, and in the moment when a holder removes the file, two
    processes can both be told True.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:  # whoever writes the result says what is wrong with the folder
        yield True
        return
    with held(path) as mine:
        if mine is False:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove the temporary files and folders, `.NAME.*.partial`, of writers of `path` that were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        try:
            with held(left) as dead:
                if dead and left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                elif dead:  # None: nobody knows
                    left.unlink()
        except OSError:  # somebody else swept it
            pass
