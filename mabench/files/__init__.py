"""A file that exists is complete: every write goes to a temporary file beside its place, then takes its place in one step.

A writer holds a lock on its temporary file, which the system drops when the process dies, however it dies: so the next writer
of the same file can tell what was left behind from what is being written.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock, Timeout

from mabench.digests import canonical_json
from mabench.errors import MabenchError

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "checksum"
CHECKSUM_BYTES = hashlib.sha256().digest_size
MAX_HEADER_BYTES = 2**20  # ours: a safetensors header lists tensors; that of a set takes a kilobyte, of a network 100
WRITABLE = "Name a place that exists, is writable and has space."


def cache_folder() -> Path:
    """Return where datasets and measurements are kept: $MABENCH_CACHE, or ~/.cache/mabench. Not created here."""
    return Path(os.environ.get("MABENCH_CACHE") or "~/.cache/mabench").expanduser()


@contextmanager
def atomic_write(path: Path, cure: str = WRITABLE) -> Iterator[io.BufferedRandom]:
    """Yield a file to write to; on leaving, it becomes `path`, or vanishes if anything went wrong.

    The temporary file is new, has a random name beside `path`, another ending, and is written through its descriptor alone, so nobody
    can plant a link in its place. Missing folders are made. Raises MabenchError, which ends with `cure`, when the disk refuses and
    where `path` is a folder, a link, a pipe or a device.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_replaceable(path, cure)
        remove_stale_partials(path)
        with _new_partial(path) as file:
            partial = Path(file.name)
            yield file
            file.flush()
            _check_replaceable(path, cure)
            os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            with suppress(OSError):  # the folder itself cannot be reached: the first error says why
                partial.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):  # torch reports a full disk as RuntimeError
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise MabenchError(f"{path}: cannot write: {reason}. {cure}") from error
        raise


@contextmanager
def _new_partial(path: Path) -> Iterator[io.BufferedRandom]:
    """A new file `.NAME.RANDOM.partial` beside `path`, locked while it is open."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        with open(partial, "x+b") as file:  # O_EXCL: never an existing file, never through a link
            if _lock(file.fileno()) is not False and _is_at(partial, file.fileno()):  # else it was swept before it was locked
                yield file
                return


def _check_replaceable(path: Path, cure: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "a pipe or a device"
        raise MabenchError(f"{path}: cannot write: this is {kind}, not a regular file. {cure}")


def check_own_kind(path: Path, heads: Sequence[bytes]) -> None:
    """Raise MabenchError where `path` exists and begins with none of `heads`: a file of another kind, which nobody asked to lose."""
    try:
        with path.open("rb") as file:
            begin = file.read(max(map(len, heads))) if stat.S_ISREG(path.lstat().st_mode) else b""
    except FileNotFoundError:
        return
    except OSError as error:
        raise MabenchError(f"{path}: cannot write: {error.strerror}. {WRITABLE}") from error
    if begin and not any(begin.startswith(head) for head in heads):
        raise MabenchError(
            f"{path}: is a file of another kind and is not replaced. Name another file, or remove this one yourself."
        )


def private_folder(name: str) -> Path:
    """Return a folder for code that was compiled: the user's own, closed to others, outside of any cache that is shared.

    `$XDG_CACHE_HOME/mabench-NAME-UID` or `~/.cache/...`; where there is no home, in the folder for temporary files. Raises
    MabenchError where it belongs to somebody else or others may write to it: whoever can write there runs code as this user.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        base.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that is not there
        base = Path(tempfile.gettempdir())
    folder = base / f"mabench-{name}-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise MabenchError(f"{folder}: cannot be made: {error.strerror}. Set XDG_CACHE_HOME to a folder of your own.") from error
    foreign = hasattr(os, "getuid") and (found.st_uid != user or found.st_mode & 0o022)
    if not stat.S_ISDIR(found.st_mode) or foreign:
        raise MabenchError(
            f"{folder}: is not a folder that only you can write to. Remove it, or set XDG_CACHE_HOME to another place."
        )
    return folder


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder to fill; on leaving, it becomes `path`, or vanishes if anything went wrong.

    Where another process has made `path` in the meantime, its folder stays. The folder is private to the user (mode 0700) unless the
    body changes that. Raises OSError when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_partials(path)
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            with try_lock(partial) as held:
                if held is False:  # swept before it was locked
                    continue
                yield partial
                try:
                    partial.rename(path)
                except OSError:
                    if not path.is_dir():
                        raise
                return
        except FileNotFoundError:
            if partial.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str, cure: str = WRITABLE) -> None:
    """Write `text` in UTF-8, completely or not at all. Raises MabenchError when the disk refuses."""
    with atomic_write(path, cure) as file:
        file.write(text.encode())


def write_bytes(path: Path, content: bytes, cure: str = WRITABLE) -> None:
    """Write `content`, completely or not at all. Raises MabenchError when the disk refuses."""
    with atomic_write(path, cure) as file:
        file.write(content)


def copy(source: Path, path: Path, cure: str = WRITABLE) -> None:
    """Copy a file's content, whole or not at all, in pieces: it may be larger than memory."""
    with atomic_write(path, cure) as target, source.open("rb") as file:
        shutil.copyfileobj(file, target, 2**20)


# -- reading what strangers wrote ------------------------------------------------------------------------------------------

MAX_TOML_BYTES = 64 * 1024  # ours: a card, a suite, a paper's tables are pages of text
MAX_TOML_DOTS = 4000  # ours: the standard library takes 20 s for one key of 32,000 dotted parts, 0.6 s for one of 4,000


def sha256_of(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def check_header(path: Path) -> None:
    """Raise MabenchError where the header of a safetensors file is longer than any of ours, before the library parses it.

    One that is longer than its file is the library's to refuse, which it does at once.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < size <= path.stat().st_size:
        raise MabenchError(
            f"{path}: a safetensors header of {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read. Fetch it again, or save it again."
        )


def parse_toml(content: bytes, path: Path, cure: str, most: int = MAX_TOML_BYTES) -> dict[str, Any]:
    """The TOML in a file's bytes. Raises MabenchError, which names `path` and ends with `cure`, where it is too large or none."""
    if len(content) > most or content.count(b".") > MAX_TOML_DOTS:
        raise MabenchError(f"{path}: more than {most:,} bytes or {MAX_TOML_DOTS:,} dots. Keep it to pages of text.")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # Windows editors write a byte order mark, and CRLF, which TOML allows
    except (ValueError, RecursionError) as error:
        raise MabenchError(f"{path}: not TOML: {error}. {cure}") from error


def read_toml(path: Path, cure: str, most: int = MAX_TOML_BYTES) -> dict[str, Any]:
    """`parse_toml` of a file of at most `most` bytes. Raises MabenchError, which ends with `cure`, where it cannot be read."""
    return parse_toml(read_bytes(path, most, cure), path, cure, most)


# -- checksums: a file that was changed later is told from one that was not -------------------------------------------


def append_checksum(file: io.BufferedRandom) -> None:
    """Append the sha256 of what was written to a file that `atomic_write` opened."""
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0, os.SEEK_END)
    file.write(digest)


def read_checksummed(path: Path) -> bytes | None:
    """Return what preceded the checksum; None if the file is absent, unreadable, cut, or differs from what was written by a bit."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body, digest = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def write_checksummed(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write a safetensors file of these tensors. Its metadata has one entry, `facts`, JSON with one more field: a checksum of all
    the rest.

    Nothing may follow the tensors of such a file, so `append_checksum` is not for it. One entry, because the library orders several
    as it pleases, and the same content has to be the same bytes.
    """
    from safetensors.torch import save

    bare = save(dict(tensors), {"facts": json.dumps(dict(facts))})
    write_bytes(path, save(dict(tensors), {"facts": json.dumps({**facts, CHECKSUM: _checksum(io.BytesIO(bare))[0]})}))


def is_intact(path: Path) -> bool:
    """Whether a readable safetensors file is as `write_checksummed` made it; also True for one without a checksum (others write
    those)."""
    try:
        with open(path, "rb") as file:
            computed, stored = _checksum(file)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no facts, or not those of `write_checksummed`
        return False
    return stored in (None, computed)


def _checksum(file: BinaryIO) -> tuple[str, object]:
    """sha256 of a safetensors file, except the checksum among its facts; and that checksum."""
    size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {size:,} bytes")
    header = json.loads(file.read(size))
    facts = json.loads(header["__metadata__"]["facts"])
    stored = facts.pop(CHECKSUM, None)
    hasher = hashlib.sha256(canonical_json({**header, "__metadata__": facts}).encode())
    while block := file.read(2**20):
        hasher.update(block)
    return hasher.hexdigest(), stored


# -- locks: who is at work, and what killed processes left behind -------------------------------------------------------


@contextmanager
def try_lock(path: Path) -> Iterator[bool | None]:
    """Try to lock an existing file or folder; yield whether this process holds it: False while another process does and where the file
    has gone since, None where the system or the disk has no locks. Raises OSError where there is no such file or it is a link."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        held = _lock(number)
        if held and not _is_at(path, number):  # its last holder removed it before the lock was ours
            held = False
        yield held
    finally:
        os.close(number)


def _is_at(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(number))
    except FileNotFoundError:
        return False


def _lock(number: int) -> bool | None:
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
def exclusive(path: Path) -> Iterator[bool]:
    """Yield whether no other process is at the work that the lock file `path` stands for; the file goes when the work ends.

    Locks save work, no result may depend on them: where there are none, two processes can both be told True.
    """
    lock = FileLock(path, blocking=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):  # whoever writes the result says what is wrong with the folder
        yield True
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # before the lock is given up
        lock.release()


def discard(path: Path) -> None:
    """Remove a file that is no longer needed, and what killed writers of it left."""
    path.unlink(missing_ok=True)
    remove_stale_partials(path)


def remove_stale_partials(path: Path) -> None:
    """Remove the temporary files and folders, `.NAME.*.partial`, of writers of `path` that were killed."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        try:
            with try_lock(partial) as held:
                if held and partial.is_dir():
                    shutil.rmtree(partial, ignore_errors=True)
                elif held:  # None: nobody knows
                    partial.unlink()
        except OSError:  # somebody else removed it, or it is a link
            pass
