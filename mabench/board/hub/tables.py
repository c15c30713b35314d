"""The repository's tables and README, made from the submissions in it; only what changed is fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import cells
from mabench.board import submission as submissions
from mabench.board.acceptance import accept, named
from mabench.board.cells import CellRow, PaperRow
from mabench.board.hub import images
from mabench.board.hub.cards import PAPERS, README, TABLE, readme
from mabench.board.hub.commits import Changes, file_at
from mabench.board.labels import expected_sizes, is_file_of_labels
from mabench.board.owners import BOARD, BoardFileError
from mabench.board.submission import AUDIT, CARD, FOLDER, HARDENED, RECORDS, RERUNS, SET, Submission, is_set_file
from mabench.errors import MabenchError
from mabench.results import paper_tables as papers
from mabench.runs.folder import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def small_files(slug: str) -> list[str]:
    """Patterns of a submission's card, log and records, and of the board's own file: without sets and labels."""
    parts = (CARD, AUDIT, f"{RECORDS}*.json", f"{RERUNS}*.json", f"{HARDENED}*.json")
    return [*(f"{FOLDER}/{slug}/{name}" for name in parts), f"{FOLDER}/{BOARD}"]


def submission_at(api: HfApi, repo: str, slug: str, revision: str) -> Submission | None:
    """The submission at this commit, without its set; None where there is none."""
    return _read(api, repo, slug, revision)[0]


def _read(api: HfApi, repo: str, slug: str, revision: str) -> tuple[Submission | None, dict[str, int]]:
    """The submission at this commit, and the bytes of every file in its folder, those that are not fetched too."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    place = f"{FOLDER}/{slug}"
    try:
        tree = list(api.list_repo_tree(repo, place, recursive=True, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return None, {}
    there = {entry.path.removeprefix(f"{place}/"): int(entry.size) for entry in tree if hasattr(entry, "size")}
    for name, size in there.items():
        if not is_set_file(name) and not is_file_of_labels(name) and size > MAX_RECORD_BYTES:
            raise MabenchError(f"{repo}: {place}/{name} has {size:,} bytes; at most {MAX_RECORD_BYTES:,} are read.")
    fetched = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=small_files(slug))
    with named(slug):
        return submissions.read(Path(fetched) / place, links=True), there


def _accepted(api: HfApi, repo: str, slug: str, revision: str) -> list[Submission]:
    """The submission at this commit, if it is finished. Raises MabenchError where a gate is closed, or a set or its labels are not there."""
    submission, there = _read(api, repo, slug, revision)
    if submission is None:
        return []
    label_bytes: Counter[str] = Counter()
    for name, size in there.items():
        if is_file_of_labels(name):
            label_bytes[name.rpartition("/")[0]] += size
    has_set = all(name in there for name in submission.set_files)
    with named(slug):
        return [accept(submission, has_set=has_set, label_bytes=label_bytes)]


def _add(rows: list[CellRow], problems: list[str], slug: str, accepted: Callable[[], list[Submission]]) -> None:
    """Add the rows of a submission, or why the tables leave it out."""
    try:
        found = accepted()
        with named(slug):
            rows += cells.of_submissions(found)
    except BoardFileError:
        raise
    except MabenchError as error:
        problems.append(str(error))


def _with_set(api: HfApi, repo: str, head: str, slugs: list[str]) -> dict[str, int]:
    """Slugs of the submissions that lie there with their set -> its bytes."""
    paths = [f"{FOLDER}/{slug}/{SET}" for slug in slugs]
    return {
        entry.path.split("/")[1]: int(getattr(entry, "size", 0))
        for begin in range(0, len(paths), 100)
        for entry in api.get_paths_info(repo, paths[begin : begin + 100], repo_type="dataset", revision=head)
    }


def tables(
    api: HfApi, repo: str, head: str, mine: Submission | None = None, own_set: bytes | None = None, page: str = ""
) -> tuple[Changes, tuple[str, ...]]:
    """Tables and README for the submissions at `head`, with `mine` in its new state, and for what papers report.

    `own_set` is the set of `mine` where it is sent with this commit; `page` the Space that a new README leads to. Only what
    changed is fetched.
    """
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.hf_api import RepoFolder  # the oldest version allowed does not export it

    try:
        listed = list(api.list_repo_tree(repo, FOLDER, repo_type="dataset", revision=head))
    except EntryNotFoundError:
        listed = []
    slugs = sorted({e.path.rpartition("/")[2] for e in listed if isinstance(e, RepoFolder)} - {mine.slug if mine else ""})
    blobs: dict[str, str] = {}
    for begin in range(0, len(slugs), 100):
        paths = [f"{FOLDER}/{slug}/{AUDIT}" for slug in slugs[begin : begin + 100]]
        for entry in api.get_paths_info(repo, paths, repo_type="dataset", revision=head):
            blobs[entry.path.split("/")[1]] = str(getattr(entry, "blob_id", ""))
    stored = _with_set(api, repo, head, [*slugs, *([mine.slug] if mine else [])])
    before = file_at(repo, "dataset", TABLE, head)
    known: dict[str, list[CellRow]] = {}
    for row in cells.read(before) if before else []:
        known.setdefault(row.slug, []).append(row)
    rows: list[CellRow] = []
    problems: list[str] = []
    if mine:
        _add(rows, problems, mine.slug, lambda: [accept(mine, has_set=True, label_bytes=expected_sizes(mine))])
    for slug in slugs:
        if slug in known and {r.audit_blob for r in known[slug]} == {blobs.get(slug)}:
            rows += known[slug]
            continue
        _add(rows, problems, slug, partial(_accepted, api, repo, slug, head))
    rows.sort(key=cells.order)
    own = {mine.slug: own_set} if mine and own_set is not None else {}
    drawn = {slug for slug, size in stored.items() if size <= images.MAX_SET_BYTES} | set(own)
    wanted: dict[str, list[str]] = {}
    for slug, sha256 in sorted({(r.slug, r.set_sha256) for r in rows if r.slug in drawn and r.tier != "withdrawn"}):
        wanted.setdefault(slug, []).append(sha256)
    shown, changes, more = images.update(api, repo, head, wanted, own)
    printed = cells.of_papers(papers.read(papers.INSTALLED))
    old = file_at(repo, "dataset", README, head)
    card = old.read_text(encoding="utf-8", errors="replace") if old else ""
    text = readme(repo, rows, printed, shown, card, page)
    changes |= {TABLE: cells.parquet(rows, CellRow), PAPERS: cells.parquet(printed, PaperRow), README: text.encode()}
    return changes, (*problems, *more)
