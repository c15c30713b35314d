"""A file that exists is complete: every write goes to a temporary name beside its place, then takes it in one step.

A writer holds a lock on its temporary file, which the system drops when the process dies, however it dies: so the next writer
of the same file can tell what was left behind from what is being written.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import shutil
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mabench.digests import canonical_json
from mabench.errors import MabenchError

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "checksum"
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
        with temporary(partial, partial.touch):
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


# -- reading what strangers wrote ------------------------------------------------------------------------------------------

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


def packed(tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> bytes:
    """A safetensors file of these tensors. Its metadata has one entry, `facts`, JSON with one more field: a checksum of all the rest.

    Nothing may follow the tensors of such a file, so `seal` is not for it. One entry, because the library orders several as it
    pleases, and the same content has to be the same bytes.
    """
    from safetensors.torch import save

    bare = save(dict(tensors), {"facts": json.dumps(dict(facts))})
    return save(dict(tensors), {"facts": json.dumps({**facts, CHECKSUM: _checksum(io.BytesIO(bare))[0]})})


def intact(path: Path) -> bool:
    """Whether a safetensors file that can be read is as `packed` made it; also one without a checksum, which others write."""
    try:
        with open(path, "rb") as file:
            found, claimed = _checksum(file)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no facts, or none that `packed` writes
        return False
    return claimed in (None, found)


def _checksum(file: BinaryIO) -> tuple[str, object]:
    """sha256 of a safetensors file, but for the checksum among its facts; and that checksum."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    facts = json.loads(header["__metadata__"]["facts"])
    claimed = facts.pop(CHECKSUM, None)
    own = hashlib.sha256(canonical_json({**header, "__metadata__": facts}).encode())
    while block := file.read(2**20):
        own.update(block)
    return own.hexdigest(), claimed


# -- locks: who is at work, and what did the dead leave behind ----------------------------------------------------------


@contextmanager
def held(path: Path) -> Iterator[bool | None]:
    """Hold the lock of an existing file or folder; whether this process has it: False while another one does and where the file has
    gone since, None where the system or the disk knows no locks. Raises FileNotFoundError where there is none."""
    number = os.open(path, os.O_RDONLY)
    try:
        mine = _locked(number)
        if mine and not _names(path, number):  # its last holder removed it before the lock was ours
            mine = False
        yield mine
    finally:
        os.close(number)


def _names(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(number))
    except FileNotFoundError:
        return False


@contextmanager
def temporary(path: Path, make: Callable[[], object]) -> Iterator[None]:
    """`make` the temporary file or folder `path`, and hold it; again where another process swept it before it was held, so `make`
    has to bear that it is still there."""
    while True:
        make()
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(held(path))
            except FileNotFoundError:
                continue
            if mine is not False:
                yield
                return


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

    Locks save work, no result may depend on them: where there are none, two processes can both be told True.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:  # whoever writes the result says what is wrong with the folder
            yield True
            return
        try:
            mine = stack.enter_context(held(path))
        except FileNotFoundError:  # its holder is just done
            mine = False
        if mine is not False:
            stack.callback(path.unlink, missing_ok=True)  # before the lock is given up
        yield mine is not False


def discard(path: Path) -> None:
    """Remove a file that is needed no more, and what killed writers of it left."""
    path.unlink(missing_ok=True)
    sweep(path)


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
