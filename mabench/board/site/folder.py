"""The folder of a built board: what an earlier build left, writing what changed, removing what is gone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mabench
from mabench.errors import MabenchError
from mabench.files import read_bytes, write_bytes

MANIFEST = "manifest.json"
MAX_BYTES = 2**28  # ours: 100,000 submissions with six files each take 60 MB
CARD = "README.md"
"""The card of the Space: written where there is none, then its owner's."""


@dataclass(frozen=True)
class Earlier:
    """What an earlier build wrote: file -> sha256, and slug -> sha256 of the set whose pictures are there."""

    files: dict[str, str]
    pictures: dict[str, str]


def earlier(out: Path) -> Earlier:
    """What is known of `out`; empty if there was no build. Raises MabenchError for a folder of something else."""
    path = out / MANIFEST
    if not path.exists():
        if (out / "index.html").exists():
            raise MabenchError(f"{out}: holds an index.html that mabench did not build. Name another folder with --out.")
        return Earlier({}, {})
    try:
        value = json.loads(read_bytes(path, MAX_BYTES, f"Delete {out} and build again."))
        files, pictures = dict(value["files"]), dict(value["previews"])
        if not all(re.fullmatch(r"[a-zA-Z0-9_./@-]{1,250}", name) for name in files):
            raise ValueError("names of files that no board has")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MabenchError(
            f"{path}: is damaged ({error}). Delete it and {out / 'index.html'}, and build again; pages of sets that are gone since then stay."
        ) from error
    return Earlier(files, pictures if value.get("mabench") == mabench.__version__ else {})


def write(out: Path, files: Iterable[tuple[str, bytes]], known: Earlier, pictures: dict[str, str]) -> None:
    """Write what changed, then remove what an earlier build wrote and this one did not.

    A manifest comes first, and again at the end: a first build that is killed leaves a folder that is known to be a board's.
    """
    _write_manifest(out, known.files, known.pictures)
    written = {}
    for name, content in files:
        path = out / name
        if name == CARD:  # no part of the manifest: its owner may edit it
            if not path.exists():
                write_bytes(path, content)
            continue
        written[name] = hashlib.sha256(content).hexdigest()
        if not (path.is_file() and path.read_bytes() == content):
            write_bytes(path, content)
    root = out.resolve()
    for name in sorted(set(known.files) - set(written)):
        path = (out / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            path.unlink()
            if path.parent != root and not any(path.parent.iterdir()):
                path.parent.rmdir()
    _write_manifest(out, written, pictures)


def _write_manifest(out: Path, sums: dict[str, str], pictures: dict[str, str]) -> None:
    manifest = {"mabench": mabench.__version__, "files": sums, "previews": pictures}
    write_bytes(out / MANIFEST, (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode())
