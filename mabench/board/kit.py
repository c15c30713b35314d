"""What the owner of a new board gets: the dataset and the Space on the Hub, and a folder with workflows to keep them current."""

from __future__ import annotations

import json
import shlex
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import site
from mabench.board.hub import commits, space
from mabench.board.hub.commits import Pushed
from mabench.board.hub.tables import tables
from mabench.board.owners import BOARD
from mabench.board.submission import FOLDER
from mabench.errors import MabenchError
from mabench.files import write_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WORKFLOWS = ("review-submission.yml", "board.yml")
BOARD_TOML = """# Who maintains this board, and which sets are not stored here because their authors publish them themselves.
maintainers = []

[external]
# slug = "sha256 of the set"
"""


@dataclass(frozen=True)
class Made:
    """What `init` made."""

    dataset: Pushed
    page: Pushed
    files: tuple[Path, ...]


def init(repo: str, page: str, out: Path, *, title: str = "", private: bool = False) -> Made:
    """Make the dataset `repo` and the static Space `page`, and write the workflows to `out`; what is there already is kept.

    The page of a new Space is that of a board without a set; one that shows a board already is left to the next build. Raises
    MabenchError for a name that is not ORG/NAME and for everything that the Hub may answer.
    """
    if repo == page:
        raise MabenchError(f"{repo}: is named for both. Give the Space another name with --space ORG/NAME.")
    dataset = _dataset(repo, page, private)
    if space.shows_a_board(page):
        return Made(dataset, Pushed(f"https://huggingface.co/spaces/{page}", ()), write_files(out, repo, page, title))
    owner = site.Site(title=title or site.Site.title, dataset=repo, address=address_of(page))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "submissions").mkdir()
        site.build(Path(scratch) / "submissions", Path(scratch) / "board", site=owner)
        published = space.publish(page, Path(scratch) / "board", private=private)
    return Made(dataset, published, write_files(out, repo, page, title))


def address_of(page: str) -> str:
    """Where the Hub shows a static Space without its own frame."""
    return f"https://{page.replace('/', '-').replace('_', '-').replace('.', '-').lower()}.static.hf.space/"


def _dataset(repo: str, page: str, private: bool) -> Pushed:
    """Tables, card and list of maintainers, in one commit; whoever makes the board is its first maintainer."""
    allowed, account = f"{FOLDER}/{BOARD}", commits.whoami(repo)

    def build(api: HfApi, head: str) -> tuple[commits.Changes, tuple[str, ...]]:
        changes, problems = tables(api, repo, head, page=page)
        if commits.file_at(repo, "dataset", allowed, head) is None:
            changes[allowed] = BOARD_TOML.replace("[]", json.dumps([account])).encode()
        return changes, problems

    return commits.commit(commits.Target(repo, private=private), build, "board: tables, card and list of maintainers")


def write_files(out: Path, repo: str, page: str, title: str = "") -> tuple[Path, ...]:
    """Write the workflows and the list of maintainers to `out`, but over nothing that is there; returns what was written."""
    folder = resources.files("mabench.board").joinpath("workflows")
    wanted = {out / ".github" / "workflows" / name: folder.joinpath(name).read_text(encoding="utf-8") for name in WORKFLOWS}
    wanted[out / "submissions" / "board.toml"] = BOARD_TOML
    values = {"ORG/BOARD": repo, "ORG/PAGE": page, "PAGE_ADDRESS": address_of(page)}
    # the last one: nothing is replaced within a title
    values["BOARD_TITLE"] = shlex.quote(" ".join(title.split()) or site.Site.title)
    written = []
    for path, text in wanted.items():
        if not path.exists():
            for name, value in values.items():
                text = text.replace(name, value)
            write_text(path, text)
            written.append(path)
    return tuple(written)
