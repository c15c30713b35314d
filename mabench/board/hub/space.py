"""A built board goes to a static Space: one commit with what differs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board.hub.commits import Changes, Pushed, Target, commit, file_at, whoami
from mabench.board.hub.errors import explained
from mabench.errors import MabenchError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

README = "README.md"
MANIFEST = "manifest.json"
"""In a built board: what the build wrote, with sha256."""


def publish(repo: str, folder: Path, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Bring a static Space up to date with the board built in `folder`: what its manifest names, the manifest and README.md.

    A Space that does not exist is made. Only files that differ are sent, what an earlier board left there is removed, other files
    of the Space are kept, all in one commit. `dry_run` reads and changes nothing. Raises MabenchError for a folder that
    does not hold an intact board, for a Space of another kind or of something else, and for everything that the Hub may answer.
    """
    board = _board(folder)

    def build(api: HfApi, head: str) -> tuple[Changes, tuple[str, ...]]:
        if not head:
            return dict(board), ()
        info = api.space_info(repo, revision=head)
        if info.sdk != "static":
            raise MabenchError(f"{repo}: is a Space of kind {info.sdk}, the board needs a static one. Name another.")
        before = file_at(repo, "space", MANIFEST, head)
        if before is None and api.file_exists(repo, "index.html", repo_type="space", revision=head):
            raise MabenchError(
                f"{repo}: holds an index.html that mabench did not build. Name another Space, or delete that file there first."
            )
        try:
            left = set(json.loads(before.read_bytes())["files"] if before else ()) - set(board)
        except (ValueError, KeyError, TypeError) as error:
            raise MabenchError(f"{repo}: its {MANIFEST} is damaged ({error}). Delete that file and index.html there.") from error
        return board | dict.fromkeys(left), ()

    message = "board: up to date with the records"
    whoami(repo, "space")  # a missing login is said first, even by a dry run
    return commit(Target(repo, "space", private=private, dry_run=dry_run), build, message)


def shows_a_board(repo: str) -> bool:
    """Whether the Space is there and shows a board that a build made. Raises MabenchError for everything else that the Hub may answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with explained(repo, "space"):
        try:
            return bool(HfApi().get_paths_info(repo, [MANIFEST], repo_type="space"))
        except RepositoryNotFoundError:
            return False


def _board(folder: Path) -> Changes:
    """The files of a built board, checked against its manifest."""
    cure = f"Build it: mabench leaderboard build --out {folder}"
    try:
        named = dict(json.loads((folder / MANIFEST).read_bytes())["files"])
    except OSError as error:
        raise MabenchError(f"{folder}: holds no built board ({MANIFEST}: {error.strerror}). {cure}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MabenchError(f"{folder / MANIFEST}: is damaged ({error}). Delete it and index.html. {cure}") from error
    files: Changes = {}
    for name in sorted({*named, MANIFEST, README}):
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            what = (
                "the Space's card is missing; copy the one of the repository"
                if name == README
                else "a file of the board is missing"
            )
            raise MabenchError(f"{path}: {what}. {cure}")
        content = path.read_bytes()
        if name in named and hashlib.sha256(content).hexdigest() != named[name]:
            raise MabenchError(f"{path}: was changed after it was built. {cure}")
        files[name] = content
    head = (folder / README).read_text(encoding="utf-8", errors="replace").split("---\n")
    if len(head) < 3 or "sdk: static" not in head[1].splitlines():
        raise MabenchError(f"{folder / README}: is not the card of a static Space. Begin it with lines ---, sdk: static, ---.")
    return files
