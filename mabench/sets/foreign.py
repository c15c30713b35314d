"""Files that are no sets, told by their first bytes, and what to do with each. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from mabench.errors import MabenchError

_ARRAYS = "Load it where it comes from, and save plain arrays: numpy.savez('set.npz', images=images, labels=labels)."
_UNPACK = "Unpack it, and name what was inside."
_ONE_IMAGE = "Name a folder with one sub-folder of images per class."
LFS = b"version https://git-lfs"
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (LFS, "a Git LFS pointer, not the set", "Run `git lfs pull` where it comes from."),
    (b"MATLAB 5.0", "a MATLAB file", _ARRAYS),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (h5py, Keras, MATLAB 7.3)", _ARRAYS),
    (b"SQLite format 3", "an SQLite database", _ARRAYS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd", _UNPACK),
    (b"\x89PNG\r\n", "one PNG image", _ONE_IMAGE),
    (b"\xff\xd8\xff", "one JPEG image", _ONE_IMAGE),
    (b"GIF8", "one GIF image", _ONE_IMAGE),
    (b"%PDF", "a PDF document", "Name the set itself."),
)  # fmt: skip
_TEXT = bytes(range(32, 127)) + b"\t\r\n"


def check(path: Path, head: bytes) -> None:
    """Raise MabenchError that names what a file is where its first 512 bytes say that it is not a set."""
    if head.lstrip()[:1] == b"<":
        raise MabenchError(
            f"{path}: is an HTML page, not a set: the download was answered with a web page. Fetch the file itself."
        )
    for begin, name, cure in KINDS:
        if head.startswith(begin):
            raise MabenchError(f"{path}: is {name}. {cure}")
    if len(head) > 8 and not head.translate(None, _TEXT):
        raise MabenchError(f"{path}: is a text file (a table, JSON, code), not a set. {_ARRAYS}")
