"""A pull request of a Hub repository with one submission, before it is taken: reviewed as data, and answered in one comment."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import differences
from mabench.board import submission as submissions
from mabench.board.acceptance import named
from mabench.board.gates import Gate, gate
from mabench.board.owners import BOARD
from mabench.board.review import Review, review
from mabench.board.submission import SLUG
from mabench.errors import MabenchError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MARK = "<!-- mabench review -->"
"""By this line a bot finds its own comment again."""


def changed_paths(paths: Mapping[str, bytes | None] | list[str], slug: str) -> Gate:
    """A pull request touches one submission and nothing else."""
    outside = sorted(path for path in paths if not path.startswith(f"{submissions.FOLDER}/{slug}/"))
    text = f"{first_line(outside)}: outside of {submissions.FOLDER}/{slug}/. A pull request holds one submission; {BOARD} is a maintainer's."
    return gate("files", f"{len(list(paths))} files of {slug}", [text] if outside else [])


def of_pull_request(repo: str, number: int, scratch: Path, *, images: bool = True) -> Review:
    """Review a pull request of a Hub repository: its files are fetched into `scratch` and read as data only.

    What it changes is taken against the commit that it branched off; what it changes it to is judged against the board of today.
    Raises MabenchError for everything that the Hub may answer.
    """
    from huggingface_hub import HfApi, snapshot_download

    from mabench.board.hub import client, tables
    from mabench.board.hub.errors import explained

    api, revision = HfApi(), f"refs/pr/{number}"
    with explained(repo):
        account = api.get_discussion_details(repo, number, repo_type="dataset").author
        before, after = (_blobs(api, repo, at) for at in (_branched_off(api, repo, revision), revision))
        kinds = differences.kinds(before, after)
        changed, paths = sorted(kinds), differences.of_paths(kinds)
        slugs = sorted(
            {path.split("/")[1] for path in changed if path.startswith(f"{submissions.FOLDER}/") and path.count("/") > 1}
        )

        def refused(name: str, text: str) -> Review:
            return Review(name, (gate("files", "", [text]),), changes=tuple(paths))

        if len(slugs) != 1:
            return refused(f"{repo}#{number}", f"touches {len(slugs)} submissions: {first_line(slugs) or 'none'}")
        slug = slugs[0]
        if not SLUG.fullmatch(slug):
            return refused(f"{repo}#{number}", f"{slug[:80]!r}: the folder's name must be 3 to 64 of a-z, 0-9 and '-'.")
        if why := client.too_large(repo, slug, revision).get(slug):  # before anything is fetched
            return refused(slug, why)
        for side, at in (("main", "main"), ("request", revision)):
            # the board's own list is main's: a request cannot bring maintainers along; main's sets and labels stay where they are
            patterns = [f"{submissions.FOLDER}/{slug}/*"] if side == "request" else tables.small_files("*")
            snapshot_download(repo, repo_type="dataset", revision=at, allow_patterns=patterns, local_dir=scratch / side)
    base, place = scratch / "main" / submissions.FOLDER, scratch / "request" / submissions.FOLDER
    if (base / BOARD).is_file():
        (place / BOARD).write_bytes((base / BOARD).read_bytes())
    with named(slug):
        known = submissions.read(base / slug)
    found = review(place / slug, before=known, account=account, images=images, root=base)
    return replace(found, gates=(changed_paths(changed, slug), *found.gates), changes=(*paths, *found.changes))


def reviewed(repo: str, number: int | None, say: bool, *, images: bool = True) -> list[Review]:
    """Reviews of one pull request of a Hub repository, or of all open ones; said there too with `say`.

    Of all, one that cannot be fetched or answered does not hide the others: it counts as refused.
    """
    found = []
    for each in [number] if number else opened(repo):
        try:
            with tempfile.TemporaryDirectory() as scratch:
                found.append(of_pull_request(repo, each, Path(scratch), images=images))
            if say:
                post(repo, each, found[-1].markdown())
        except MabenchError as error:
            if number:
                raise
            found.append(Review(f"{repo}#{each}", (gate("request", "", [str(error)]),)))
    return found


def _blobs(api: HfApi, repo: str, revision: str) -> dict[str, str]:
    """Path -> git id of every file at this revision."""
    tree = api.list_repo_tree(repo, recursive=True, repo_type="dataset", revision=revision)
    return {entry.path: entry.blob_id for entry in tree if hasattr(entry, "blob_id")}


def _branched_off(api: HfApi, repo: str, revision: str) -> str:
    """The newest commit of a pull request that main has too."""
    main = {commit.commit_id for commit in api.list_repo_commits(repo, repo_type="dataset")}
    own = api.list_repo_commits(repo, repo_type="dataset", revision=revision)
    return next((commit.commit_id for commit in own if commit.commit_id in main), "main")


def opened(repo: str) -> list[int]:
    """Numbers of the open pull requests, oldest first."""
    from huggingface_hub import HfApi

    from mabench.board.hub.errors import explained

    with explained(repo):
        found = HfApi().get_repo_discussions(repo, repo_type="dataset", discussion_type="pull_request", discussion_status="open")
        return sorted(discussion.num for discussion in found)


def post(repo: str, number: int, text: str) -> None:
    """Say `text` in the pull request: one comment of this account, which is edited when the review changes."""
    from huggingface_hub import DiscussionComment, HfApi

    from mabench.board.hub.errors import explained

    api, content = HfApi(), f"{MARK}\n{text}"
    with explained(repo):
        account = api.whoami()["name"]
        events = api.get_discussion_details(repo, number, repo_type="dataset").events
        said = [e for e in events if isinstance(e, DiscussionComment) and e.author == account and e.content.startswith(MARK)]
        if not said:
            api.comment_discussion(repo, number, content, repo_type="dataset")
        elif said[-1].content != content:
            api.edit_discussion_comment(repo, number, said[-1].id, content, repo_type="dataset")
