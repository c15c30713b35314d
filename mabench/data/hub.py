"""Dataset repositories on the Hugging Face Hub: what is in them, and their files in the Hub cache. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mabench.errors import MabenchError

NEEDED = "Needed: a network and no HF_HUB_OFFLINE, room on the disk, or HF_HUB_CACHE = a Hub cache that holds it"


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    sizes: dict[str, int]
    """Bytes of each file, by its path in the repository."""
    asked: bool
    """False: the Hub was not reached, and this is what the cache knows."""


def list_files(repo: str, revision: str | None) -> Listing:
    """List a dataset repository: from the Hub, or from the cache where the Hub cannot be reached. Raises MabenchError for neither."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        with explained(repo, repo):
            commit = str(HfApi().dataset_info(repo, revision=revision).sha)
            tree = HfApi().list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
            return Listing(commit, {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}, asked=True)
    except MabenchError as refusal:
        if isinstance(refusal.__context__, GatedRepoError | RepositoryNotFoundError | RevisionNotFoundError):
            raise
        cached = _cached_listing(repo, revision)
        if cached is None:
            raise
        return cached


def _cached_listing(repo: str, revision: str | None) -> Listing | None:
    """The files of the repository as of its last download; with an older client, those that were downloaded. None: there was none."""
    import huggingface_hub as client

    none = ["there is no file of this name"]  # so that no file counts as missing
    try:
        snapshot = Path(
            client.snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=none, local_files_only=True)
        )
    except (OSError, ValueError):
        return None
    files = (file for file in snapshot.rglob("*") if file.is_file())
    sizes = {file.relative_to(snapshot).as_posix(): file.stat().st_size for file in files}
    if tree := getattr(client, "get_cached_repo_tree", None):
        with suppress(client.errors.CachedRepoTreeNotFoundError):
            sizes = {entry.path: entry.size for entry in tree(repo, repo_type="dataset", revision=snapshot.name)}
    return Listing(snapshot.name, sizes, asked=False)


def download(repo: str, patterns: Sequence[str], *, title: str, revision: str | None = None) -> Path:
    """Return the snapshot folder in the Hub cache, files that match `patterns` downloaded where missing."""
    from huggingface_hub import snapshot_download

    with explained(title, repo):
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))


@contextmanager
def explained(title: str, repo: str) -> Iterator[None]:
    """Whatever the Hub's client raises, as a MabenchError that says what helps; the client's own traceback is left out."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The bases add what the Hub's HTTP library raises in mid-transfer, without naming that library: it changes with versions.
    failures: tuple[type[BaseException], ...] = (HfHubHTTPError, OSError, ValueError, *HfHubHTTPError.__bases__)
    try:
        yield
    except GatedRepoError:
        raise MabenchError(f"{title} is gated: accept its terms on https://huggingface.co/datasets/{repo}, "
                           "then log in with: hf auth login") from None  # fmt: skip
    except RevisionNotFoundError:
        raise MabenchError(f"{title}: the repository has no such branch, tag or commit. See them: "
                           f"https://huggingface.co/datasets/{repo}/refs") from None  # fmt: skip
    except RepositoryNotFoundError:
        raise MabenchError(f"{title}: the Hub has no dataset repository of this name, or it is private. Check the name; "
                           "for a private one log in with: hf auth login") from None  # fmt: skip
    except failures as problem:
        where = title if title == repo else f"{title} ({repo})"
        raise MabenchError(f"cannot download {where} and the Hub cache has no copy: {type(problem).__name__}: {problem} "
                           f"{NEEDED}") from None  # fmt: skip
