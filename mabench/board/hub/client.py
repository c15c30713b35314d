"""Submissions in a dataset repository on the Hugging Face Hub, or on any server that speaks its API: push, pull, refresh.

The repository holds `submissions/<slug>/` as a local folder does, `data/cells.parquet` with a row per evaluator run,
`data/papers.parquet` with the numbers of papers, and a README whose `configs` lead to them. Tokens are huggingface_hub's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import submission as submissions
from mabench.board.gates import accept
from mabench.board.hub.commits import Changes, Pushed, Target, commit, may_write, whoami
from mabench.board.hub.errors import explained
from mabench.board.hub.tables import submission_at, tables
from mabench.board.submission import AUDIT, BOARD, CARD, FOLDER, RECORDS, RERUNS, SET, Submission
from mabench.errors import MabenchError
from mabench.files import write_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Pushed", "may_write", "pull", "pull_all", "push", "refresh", "whoami"]

Make = Callable[["Submission | None"], Mapping[str, bytes]]
"""What is there -> the files that change, by path in the submission's folder; empty for nothing."""


def push(
    repo: str, slug: str, make: Make, *, message: str, description: str = "", create_pr: bool = False, private: bool = False
) -> Pushed:
    """Commit what `make` says of the submission that is there, and the table and README with it.

    A repository that does not exist is made (`private` or not), except for a pull request. A pull request holds the
    submission alone (two tables would conflict); `refresh` brings the table up to date after the merge. An open one of the
    same message by the same account is continued, not doubled. Only files that differ are sent. Raises MabenchError with a
    cure for everything that the Hub may answer; repeating the same call after any failure completes it.
    """
    submissions.check_slug(slug)

    def build(api: HfApi, head: str) -> tuple[Changes, tuple[str, ...]]:
        existing = submission_at(api, repo, slug, head)
        added = dict(make(existing))
        files: Changes = {f"{FOLDER}/{slug}/{name}": content for name, content in added.items()}
        if create_pr:
            return files, ()
        kept = dict(existing.files) if existing is not None else {}
        kept |= {n: c for n, c in added.items() if n != SET}
        mine = submissions.parse(slug, kept, Path(repo) / FOLDER / slug) if kept else None
        changes, problems = tables(api, repo, head, mine)
        return files | changes, problems

    return commit(Target(repo, create_pr=create_pr, private=private), build, message, description)


def refresh(repo: str) -> Pushed:
    """Bring the table and the README up to date with the submissions: what merged pull requests leave to do."""
    return commit(Target(repo), lambda api, head: tables(api, repo, head, None), "table: up to date with the submissions")


def pull(repo: str, slug: str, root: Path, *, revision: str | None = None) -> tuple[Path, Submission]:
    """Fetch a submission with its set into `root/<slug>`, checked: log chained, records as logged, the set's sha256 the log's.

    Works offline from the Hub cache. Raises MabenchError where anything differs (nothing is then written), and where the
    folder holds another submission or log entries that the repository lacks.
    """
    submissions.check_slug(slug)
    place = _fetched(repo, slug, revision)
    return root / slug, _taken(repo, place / slug, root / slug)


def pull_all(repo: str, root: Path, *, revision: str | None = None) -> tuple[list[Submission], tuple[str, ...]]:
    """`pull` every submission of the repository: those that could be taken, by slug, and why others could not."""
    place = _fetched(repo, "*", revision)
    found, problems = [], []
    for path in sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else ():
        try:
            found.append(_taken(repo, path, root / submissions.check_slug(path.name)))
        except MabenchError as error:
            problems.append(str(error))
    return found, tuple(problems)


def _fetched(repo: str, slug: str, revision: str | None) -> Path:
    """The repository's folder of submissions in the Hub cache, with all files of these (a glob) brought there."""
    from huggingface_hub import snapshot_download

    patterns = [f"{FOLDER}/{slug}/{name}" for name in (CARD, AUDIT, f"{RECORDS}*.json", f"{RERUNS}*.json", SET)]
    patterns.append(f"{FOLDER}/{BOARD}")
    with explained(repo):
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)) / FOLDER


def _taken(repo: str, source: Path, target: Path) -> Submission:
    """Check the submission in `source` of the Hub cache, then write it to `target`."""
    submission = submissions.read(source, links=True)
    if submission is None:
        raise MabenchError(f"{repo}: has no submission {source.name}. Its table and {FOLDER}/ list those that it has.")
    if not (source / SET).is_file():
        raise MabenchError(f"{repo}: submission {source.name} has no {SET}. Tell its submitter.")
    accept(submission, has_set=True)
    local = submissions.read(target)
    if local is not None and local.audit != submission.audit[: len(local.audit)]:
        raise MabenchError(
            f"{target}: holds log entries that {repo} lacks. Send them first, or move the folder away, and pull again."
        )
    from mabench.sets import synthetic  # torch: only when there is a set to read

    chosen = synthetic.load(source / SET)
    if chosen.sha256 != submission.set_sha256:
        raise MabenchError(
            f"{repo}: the set of {source.name} is {chosen.sha256[:16]}, its audit log says {submission.set_sha256[:16]}. Do not use it; "
            "tell the repository's owners."
        )
    board = source.parent / BOARD
    if board.is_file():
        write_bytes(target.parent / BOARD, board.read_bytes())
    submissions.write(target, {**submission.files, SET: (source / SET).read_bytes()})
    return submission
