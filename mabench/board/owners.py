"""What a board says of itself, beside the submissions: who maintains it, and which sets it does not store. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from mabench.errors import MabenchError
from mabench.files import read_toml

BOARD = "board.toml"
"""Beside the submissions: who maintains the board, and which submissions may do without their set."""
MAX_BOARD_BYTES = 2**20  # ours: a list of some 10,000 sets that are kept elsewhere


class BoardFileError(MabenchError):
    """The board's own file is wrong: that is nobody's submission, and no board is built without it."""


@dataclass(frozen=True)
class Board:
    """What `board.toml` says, beside the submissions."""

    maintainers: frozenset[str] = frozenset()
    """The names under which maintainers act, letter by letter."""
    external: Mapping[str, str] = field(default_factory=dict)
    """Slug -> sha256 of a set that its authors publish elsewhere, so that it is not stored here."""


def read_board(root: Path) -> Board:
    """What `root`/board.toml says; nothing where there is no such file. Raises MabenchError for a wrong one."""
    path = root / BOARD
    if not path.is_file():
        return Board()
    found = path.stat()
    return _parsed_board(path, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=2)
def _parsed_board(path: Path, _: tuple[int, int, int]) -> Board:
    """Read once for all submissions beside it: the file of a large board is as long as the board."""
    try:
        value = read_toml(path, "It holds maintainers = [names] and [external] with slug = sha256 of the set.", MAX_BOARD_BYTES)
    except MabenchError as error:
        raise BoardFileError(str(error)) from error
    maintainers, external = value.get("maintainers", []), value.get("external", {})
    texts = [*maintainers, *external.values()] if isinstance(maintainers, list) and isinstance(external, dict) else [0]
    if not all(isinstance(text, str) for text in texts) or set(value) - {"maintainers", "external"}:
        raise BoardFileError(f"{path}: holds maintainers = [names] and [external] with slug = sha256 of the set, nothing else.")
    return Board(frozenset(maintainers), external)
