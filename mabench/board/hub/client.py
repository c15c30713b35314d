"""Submissions in a dataset repository on the Hugging Face Hub, or on any server that speaks its API: push, pull, refresh.

The repository holds `submissions/<slug>/` as a local folder does, `data/cells.parquet` with a row per evaluator run,
`data/papers.parquet` with the numbers of papers, `data/images/` with the pictures of each set, and a README whose `configs` lead to
them. Tokens are huggingface_hub's business.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import labels, stored
from mabench.board import submission as submissions
from mabench.board.acceptance import accept, named
from mabench.board.hub.commits import Changes, Pushed, Target, account, commit
from mabench.board.hub.errors import explained, failures, status
from mabench.board.hub.tables import small_files, submission_at, tables
from mabench.board.owners import BOARD, BoardFileError
from mabench.board.submission import FOLDER, SET, Submission
from mabench.errors import MabenchError
from mabench.files import copy, sha256_of
from mabench.runs.folder import MAX_RECORD_BYTES
from mabench.sets import label_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Pushed", "account", "pull", "pull_all", "push", "refresh"]

MAX_BYTES = 2**34  # ours: of all files of a submission; ten sets of CIFAR-10 at IPC 50 with recorded labels take 0.4 GB

PATIENCE_SECONDS = 15.0  # ours: for the first answer of the Hub

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
        kept |= {n: c for n, c in added.items() if not submissions.is_set_file(n) and not labels.is_file_of_labels(n)}
        mine = submissions.parse(slug, kept, Path(repo) / FOLDER / slug) if kept else None
        changes, problems = tables(api, repo, head, mine, added.get(SET))
        return files | changes, problems

    return commit(Target(repo, create_pr=create_pr, private=private), build, message, description)


def refresh(repo: str) -> Pushed:
    """Bring the tables and the README up to date with the submissions: what merged pull requests leave to do."""
    return commit(Target(repo), lambda api, head: tables(api, repo, head), "table: up to date with the submissions")


def pull(repo: str, slug: str, root: Path, *, revision: str | None = None) -> tuple[Path, Submission]:
    """Fetch a submission with its set into `root/<slug>`, checked: log chained, records as logged, the set's sha256 the log's.

    Works offline from the Hub cache. Raises MabenchError where anything differs (nothing is then written), and where the
    folder holds another submission or log entries that the repository lacks.
    """
    submissions.check_slug(slug)
    place, _ = _fetched(repo, slug, revision)
    return root / slug, _taken(repo, place / slug, root / slug)


def pull_all(repo: str, root: Path, *, revision: str | None = None) -> tuple[list[Submission], tuple[str, ...]]:
    """`pull` every submission of the repository: those that could be taken, by slug, and why others could not."""
    place, left_out = _fetched(repo, "*", revision)
    found, problems = [], [f"{repo}: {why} It was not fetched." for why in left_out]
    for path in sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else ():
        try:
            found.append(_taken(repo, path, root / submissions.check_slug(path.name)))
        except BoardFileError:
            raise
        except MabenchError as error:
            problems.append(str(error))
    return found, tuple(problems)


def _fetched(repo: str, slug: str, revision: str | None) -> tuple[Path, list[str]]:
    """The repository's folder of submissions in the Hub cache, with all files of these (a glob) brought there; why some are not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    large = [f"{FOLDER}/{slug}/{name}" for name in (SET, "set-*.safetensors", f"labels*/{label_files.PATTERN}")]
    patterns = [*small_files(slug), *large]
    with explained(repo):
        silent = unreachable(repo, revision)
        refused = {} if silent else too_large(repo, slug, revision)
        if refused and slug != "*":
            raise MabenchError(f"{repo}: {next(iter(refused.values()))} Nothing was fetched: tell the repository's owners.")
        left_out = [f"{FOLDER}/{glob.escape(name)}/*" for name in refused]
        try:
            place = snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=left_out or None,
                local_files_only=silent is not None,
            )
        except LocalEntryNotFoundError as error:
            if silent is None:
                raise
            raise silent from error
        return Path(place) / FOLDER, list(refused.values())


def unreachable(repo: str, revision: str | None) -> BaseException | None:
    """Why the Hub does not answer, so that only its cache is left to read; None where it does.

    Asked once: what lists files would try a dead address for half a minute.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().repo_info(repo, repo_type="dataset", revision=revision, timeout=PATIENCE_SECONDS)
    except failures() as error:  # an answer that refuses is explained by whoever asks for the files
        return error if status(error) is None else None
    return None


def too_large(repo: str, slug: str, revision: str | None) -> dict[str, str]:
    """Submissions that are not fetched, and why: sizes are looked at before anything is."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    from mabench.sets.synthetic import MAX_BYTES

    root = FOLDER if slug == "*" else f"{FOLDER}/{slug}"
    try:
        tree = list(HfApi().list_repo_tree(repo, root, recursive=True, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return {}
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for entry in tree:
        parts, size = entry.path.split("/"), getattr(entry, "size", 0)
        limit = MAX_BYTES if submissions.is_set_file(parts[-1]) else MAX_RECORD_BYTES
        limit = labels.MAX_BYTES if labels.is_file_of_labels(entry.path) else limit
        if len(parts) < 3:
            continue
        counts[parts[1]] += 1
        if size > limit:
            found[parts[1]] = f"{entry.path} has {size:,} bytes; at most {limit:,} are read."
        together = {"/".join(parts[:2]): MAX_BYTES}
        together |= {entry.path.rpartition("/")[0]: labels.MAX_BYTES} if labels.is_file_of_labels(entry.path) else {}
        for place, most in together.items():
            sizes[place] += size
            if sizes[place] > most:
                found[parts[1]] = f"{place} has more than {most:,} bytes in all; at most that much is read."
        if counts[parts[1]] > submissions.MAX_FILES:
            found[parts[1]] = f"{'/'.join(parts[:2])} has more than {submissions.MAX_FILES:,} files."
    return found


def _taken(repo: str, source: Path, target: Path) -> Submission:
    """Check the submission in `source` of the Hub cache, then write it to `target`."""
    with named(source.name):
        submission = submissions.read(source, links=True)
    if submission is None:
        raise MabenchError(f"{repo}: has no submission {source.name}. Its table and {FOLDER}/ list those that it has.")
    for name in submission.set_files:
        if not (source / name).is_file():
            raise MabenchError(f"{repo}: submission {source.name} has no {name}. Tell its submitter.")
    with named(source.name):
        accept(submission, has_set=True, label_bytes=labels.sizes(source, submission))
        labels.check(source, submission)
    local = submissions.read(target)
    if local is not None and local.audit != submission.audit[: len(local.audit)]:
        raise MabenchError(
            f"{target}: holds log entries that {repo} lacks. Send them first, or move the folder away, and pull again."
        )
    from mabench.sets import synthetic  # torch: only when there is a set to read

    files: dict[str, bytes | Path] = dict(submission.files)
    for name, sha256 in submission.set_files.items():
        chosen = synthetic.load(source / name)
        if chosen.sha256 != sha256:
            raise MabenchError(
                f"{repo}: the set {name} of {source.name} is {chosen.sha256[:16]}, its audit log says {sha256[:16]}. Do not use it; "
                "tell the repository's owners."
            )
        files[name] = source / name
    stored.check(source, stored.summaries(submission))
    for each in labels.needed(submission):
        files |= {f"{each.folder}/{path.name}": path for path in label_files.find(source / each.folder).values()}
    if local is None:
        _check_nothing_is_lost(target, files)
    board = source.parent / BOARD
    if board.is_file():
        copy(board, target.parent / BOARD)
    submissions.write(target, files)
    return submission


def _check_nothing_is_lost(target: Path, files: Mapping[str, bytes | Path]) -> None:
    """Raise MabenchError where a folder without a log holds a file of the user's own; what an interrupted pull left is the same."""
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if path.is_file() and not name.endswith(".partial") and not _is_same(path, files.get(name)):
            raise MabenchError(f"{path}: was never submitted, and pulling would replace it. Move {target} away, and pull again.")


def _is_same(path: Path, content: bytes | Path | None) -> bool:
    """Whether the file holds this content, or that of this other file."""
    if isinstance(content, Path):
        return path.stat().st_size == content.stat().st_size and sha256_of(path) == sha256_of(content)
    return content is not None and path.read_bytes() == content
