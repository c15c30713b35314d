"""Zip files of strangers: stored and deflated members, names and sizes that are what they say. Imports no torch."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from mabench.errors import MabenchError, one_line
from mabench.sets import limits

MAX_MEMBERS = 200_000  # ours: ImageNet-1k at 100 images a class has 100,000
MAX_INDEX_BYTES = 32 * 2**20  # ours: the index of so many members


class Members(Mapping[str, zipfile.ZipInfo]):
    """The files in a zip by their names, folders left out."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.entries = {_name(item): item for item in archive.infolist() if not item.is_dir()}

    def __getitem__(self, name: str) -> zipfile.ZipInfo:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, name: str, default: bytes | None = None) -> bytes:
        """Return a member's content, at most as long as the index says. Raises MabenchError where it is absent or not that long."""
        if name not in self.entries:
            if default is not None:
                return default
            raise MabenchError(f"{self.path}: {one_line(name, 80)} is missing in it. Fetch it again.")
        item = self.entries[name]
        with self.archive.open(item) as file:
            content = file.read(item.file_size + 1)
        if len(content) != item.file_size:
            raise MabenchError(
                f"{self.path}: {one_line(name, 80)} does not unpack to the size that the index says. Fetch it again."
            )
        return content


def _name(item: zipfile.ZipInfo) -> str:
    """A member's name; some programs on Windows write its folders with backslashes."""
    return item.filename.replace("\\", "/")


def read_zip(path: Path, file: BinaryIO) -> Members:
    """Return the members of an open zip file, after its index was checked. Raises MabenchError for an index of another kind.

    What all members unpack to is declared to `limits`.
    """
    _check_index_size(path, file)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise MabenchError(f"{path}: truncated or damaged zip file ({error}). Fetch it again.") from error
    names: set[str] = set()
    for item in archive.infolist():
        if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or item.flag_bits & 1:
            raise MabenchError(
                f"{path}: {one_line(item.filename, 80)} is packed or encrypted in a way that sets are not (method "
                f"{item.compress_type}). Pack it as a plain zip, or save it again."
            )
        if _name(item).lower() in names:
            raise MabenchError(f"{path}: holds {one_line(item.filename, 80)} twice, as names without case. Save it again.")
        names.add(_name(item).lower())
    _check_layout(path, archive)
    limits.declare(sum(item.file_size for item in archive.infolist()), path)
    return Members(path, archive)


def _check_layout(path: Path, archive: zipfile.ZipFile) -> None:
    """Members lie one after another from the first byte to the index: no two overlap, and no second archive hides between them."""
    end = 0
    for item in sorted(archive.infolist(), key=lambda each: each.header_offset):
        if item.header_offset < end or (end == 0 and item.header_offset):
            raise MabenchError(f"{path}: its members overlap, or it does not begin with one. Save it again.")
        name = item.orig_filename.encode("utf-8" if item.flag_bits & 0x800 else "cp437")
        end = item.header_offset + 30 + len(name) + item.compress_size
    if end > archive.start_dir:
        raise MabenchError(f"{path}: its members overlap its index. Save it again.")


def _check_index_size(path: Path, file: BinaryIO) -> None:
    """Look at the end record before the library reads all that it points to."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(max(0, size - 66_000))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < 22:
        raise MabenchError(f"{path}: truncated: a zip file without an index. Fetch it again.")
    members, index, start, comment = struct.unpack("<HIIH", tail[place + 10 : place + 22])
    if place + 22 + comment != len(tail):
        raise MabenchError(f"{path}: something follows the index of the zip file. Fetch it again, or save plain tensors.")
    end = size - len(tail) + place
    if tail[max(0, place - 20) : place].startswith(b"PK\x06\x07"):  # zip64: the real numbers stand before
        record = tail[max(0, place - 76) : place - 20]
        if not record.startswith(b"PK\x06\x06"):
            raise MabenchError(f"{path}: the end of the zip file is not where it should be. Fetch it again.")
        members, index, start = struct.unpack("<QQQ", record[32:56])
        end -= 76
    if members > MAX_MEMBERS or index > MAX_INDEX_BYTES:
        raise MabenchError(f"{path}: a zip of {members:,} members; at most {MAX_MEMBERS:,} are read. Unpack it into a folder.")
    if start + index != end:
        raise MabenchError(f"{path}: the index of the zip file is not where its end says. Fetch it again, or save plain tensors.")
    file.seek(0)
