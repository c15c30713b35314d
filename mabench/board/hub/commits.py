"""Commits to a repository on the Hub: each on a known parent, read, merged and sent again where somebody was faster."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board.cells import blob_id
from mabench.board.hub.errors import CONFLICTS, Kind, explained, failures, status, wait

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FAILURES = 3  # ours: the library itself already repeats most requests five times

Changes = dict[str, bytes | None]
"""Path in the repository -> its new content; None removes it."""

Build = Callable[["HfApi", str], tuple[Changes, tuple[str, ...]]]
"""The client and the repository's head -> what to change, and problems to report."""


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    url: str
    """Of the commit or the pull request; of the repository where nothing had to change."""
    changed: tuple[str, ...]
    removed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Submissions in the repository that could not be read; the table leaves them out."""


def whoami(repo: str, kind: Kind = "dataset") -> str:
    """The account that huggingface_hub's token belongs to; `repo` only names what it is wanted for."""
    from huggingface_hub import HfApi

    with explained(repo, kind):
        return str(HfApi().whoami()["name"])


def account(repo: str, *, create_pr: bool) -> str:
    """The account that will write to `repo`, or with `create_pr` open a pull request: asked before anything is computed.

    Raises MabenchError, with a cure, where there is none or where its token may not write. A server that does not answer that
    question, or a client too old to ask it, is found out when something is sent.
    """
    from huggingface_hub import HfApi

    with explained(repo):
        try:
            if not create_pr:
                HfApi().auth_check(repo, repo_type="dataset", write=True)
        except TypeError:
            pass
        except failures() as error:
            if status(error) in (401, 403):
                raise
    return whoami(repo)


@dataclass(frozen=True)
class Target:
    """Where a commit goes and how."""

    repo: str
    kind: Kind = "dataset"
    create_pr: bool = False
    private: bool = False
    """If the repository has to be made."""
    dry_run: bool = False


def commit(target: Target, build: Build, message: str, description: str = "") -> Pushed:
    """Commit what `build` makes of the repository's head (empty: there is none yet) until nobody else was faster."""
    from huggingface_hub import HfApi

    api, plain = HfApi(), False
    conflicts = attempts = 0
    with explained(target.repo, target.kind):
        while True:
            try:
                return _attempt(api, target, build, (message, description), plain)
            except failures() as error:
                if not plain and status(error) is None and "xet" in f"{type(error).__name__} {error}".lower():
                    plain = True  # a server without Xet storage: binary streams go the way that every Hub knows
                    continue
                conflict = status(error) in (409, 412)
                conflicts, attempts = conflicts + conflict, attempts + (not conflict)
                pause = wait(error, conflicts if conflict else attempts)
                if pause is None or conflicts >= CONFLICTS or attempts >= FAILURES:
                    raise
                time.sleep(pause)


def _attempt(api: HfApi, target: Target, build: Build, text: tuple[str, str], plain: bool) -> Pushed:
    """Read the head, build on it, commit what differs. `plain` sends bytes as streams."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo, kind = target.repo, target.kind
    revision = _open_pull_request(api, repo, text[0]) if target.create_pr else None
    head = _head(api, target, revision)
    files, problems = build(api, head)
    files = _differing(api, repo, kind, head, files)
    written = {path: content for path, content in files.items() if content is not None}
    removed = tuple(path for path in files if path not in written)
    if not files or target.dry_run:
        url = f"{api.endpoint}/{kind}s/{repo}" + (f"/discussions/{revision.rpartition('/')[2]}" if revision else "")
        return Pushed(url, tuple(written), removed, problems)
    added = [CommitOperationAdd(path, io.BytesIO(content) if plain else content) for path, content in written.items()]
    info = api.create_commit(
        repo,
        [*added, *(CommitOperationDelete(path) for path in removed)],
        commit_message=text[0],
        commit_description=text[1],
        repo_type=kind,
        revision=revision,
        create_pr=target.create_pr and revision is None,
        parent_commit=head,
    )
    return Pushed(info.pr_url or info.commit_url, tuple(written), removed, problems)


def _head(api: HfApi, target: Target, revision: str | None) -> str:
    """The newest commit of the repository, which is made if it may be; empty where it is not there and must not be made."""
    from huggingface_hub.errors import RepositoryNotFoundError

    repo, kind = target.repo, target.kind
    try:
        return str(api.repo_info(repo, repo_type=kind, revision=revision).sha)
    except RepositoryNotFoundError:
        if target.create_pr:
            raise
    if target.dry_run:
        return ""
    sdk = "static" if kind == "space" else None
    api.create_repo(repo, repo_type=kind, space_sdk=sdk, private=target.private, exist_ok=True)  # somebody may be faster
    return str(api.repo_info(repo, repo_type=kind).sha)


def _open_pull_request(api: HfApi, repo: str, message: str) -> str | None:
    own = str(api.whoami()["name"])
    found = api.get_repo_discussions(
        repo, repo_type="dataset", author=own, discussion_type="pull_request", discussion_status="open"
    )
    return next((d.git_reference for d in found if d.title == message), None)


def _differing(api: HfApi, repo: str, kind: Kind, head: str, files: Changes) -> Changes:
    """Of these changes those that are not yet true of the repository at `head`."""
    there = {}
    names = sorted(files) if head else []
    for begin in range(0, len(names), 100):
        for entry in api.get_paths_info(repo, names[begin : begin + 100], repo_type=kind, revision=head):
            lfs = getattr(entry, "lfs", None)
            there[entry.path] = lfs.sha256 if lfs else getattr(entry, "blob_id", None)

    def differs(name: str, content: bytes | None) -> bool:
        if content is None:
            return name in there
        return there.get(name) not in (blob_id(content), hashlib.sha256(content).hexdigest())

    return {name: content for name, content in files.items() if differs(name, content)}


def file_at(repo: str, kind: Kind, name: str, head: str) -> Path | None:
    """A file of the repository at this commit, in the Hub cache; None where the commit has none of this name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, repo_type=kind, revision=head))
    except LocalEntryNotFoundError:
        raise  # not reachable at the moment, which says nothing about what is there
    except EntryNotFoundError:
        return None
