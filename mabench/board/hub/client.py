"""Sets, records and one tidy table in a dataset repository on the Hugging Face Hub, or on any server that speaks its API.

The repository holds `submissions/<slug>/` as a local folder does, `data/cells.parquet` with a row per evaluator run,
`data/papers.parquet` with the numbers of papers, and a README whose `configs` lead the Hub's viewer and `datasets.load_dataset` to them. A built board goes to
a static Space. Every change is one commit on a known parent: if somebody else was faster, everything is read again, merged again
and sent again. Tokens are huggingface_hub's business.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from mabench.board import cells
from mabench.board import submission as submissions
from mabench.board.cells import CellRow, PaperRow
from mabench.board.submission import AUDIT, CARD, RECORDS, SET, Submission
from mabench.errors import MabenchError
from mabench.papers import paper_tables as papers
from mabench.runs.folder import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FOLDER = "submissions"
TABLE, PAPERS = f"data/{cells.CELLS}", f"data/{cells.PAPERS}"
README = "README.md"
MANIFEST = "manifest.json"
"""In a built board: what the build wrote, with sha256."""
CONFLICTS = 8  # ours: how often somebody else may be faster; each time the work is read, merged and sent again
FAILURES = 3  # ours: the library itself already repeats most requests five times
LONGEST_WAIT_SECONDS = 60.0  # ours: a server that asks for more gets its message shown instead
BEGIN, END = "<!-- mabench: generated -->", "<!-- mabench: end -->"

Kind = Literal["dataset", "space"]

Make = Callable[["Submission | None"], Mapping[str, bytes]]
"""What is there -> the files that change, by path in the submission's folder; empty for nothing."""


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    url: str
    """Of the commit or the pull request; of the repository where nothing had to change."""
    changed: tuple[str, ...]
    removed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Submissions in the repository that could not be read; the table leaves them out."""


# -- the README ---------------------------------------------------------------------------------------------------


def readme(rows: Sequence[CellRow], papers: Sequence[PaperRow] = (), before: str = "") -> str:
    """The repository's card. What people wrote outside the generated part of `before` is kept."""
    lines = [
        BEGIN,
        f"{len({r.slug for r in rows})} submissions, {len(rows):,} evaluator runs. Accuracies are percent; a mean is over evaluators",
        "and seeds, and only ranked rows have one. Columns: `CellRow` in `mabench/board/cells.py`.",
        "",
    ]
    for (suite, track), group in groupby(sorted(rows, key=cells.order), key=lambda r: (r.suite, r.track)):
        lines += _track_table(suite, track, list(group))
    lines += _paper_table(papers)
    generated = "\n".join(lines) + END
    if BEGIN in before and END in before and before.startswith("---\n"):
        head, rest = before.split(BEGIN, 1)
        return head + generated + rest.split(END, 1)[1]
    return HEADER + generated + "\n"


def _track_table(suite: str, track: str, rows: Sequence[CellRow]) -> list[str]:
    """The sets on one track, ranked ones first and the best of them on top."""
    lines = [
        f"## {shown(suite)}, {shown(track)}", "",
        "| set | status | tier | IPC | labels | bytes | runs | mean |", "|---|---|---|--:|---|--:|--:|--:|",
    ]  # fmt: skip
    sets = [list(group) for _, group in groupby(rows, key=lambda r: r.slug)]
    means = {runs[0].slug: fmean(r.score for r in runs) if runs[0].status == "ranked" else None for runs in sets}

    def place(runs: list[CellRow]) -> tuple[float, str]:
        mean = means[runs[0].slug]
        return (1.0 if mean is None else -mean), runs[0].slug

    for runs in sorted(sets, key=place)[:100]:
        row = runs[0]
        mean = means[row.slug]
        lines.append(
            f"| [{shown(row.title)}]({FOLDER}/{row.slug}) | {shown(row.status)} | {row.tier} | {row.ipc} | {row.labels} "
            f"| {row.stored_bytes + row.decoder_bytes:,} | {len(runs)} | {'-' if mean is None else f'{100 * mean:.2f}'} |"
        )
    return [*lines, ""]


HEADER = f"""---
configs:
- config_name: cells
  default: true
  data_files:
  - split: train
    path: {TABLE}
- config_name: papers
  data_files:
  - split: train
    path: {PAPERS}
tags:
- dataset-condensation
- dataset-distillation
- benchmark
---
# Condensed datasets and what networks learn from them

Results of [mabench](https://pypi.org/project/mabench/): one row per set, evaluator and seed in `{TABLE}`, the numbers that papers
report in `{PAPERS}`, and the sets with their records, cards and audit logs in `{FOLDER}/`. `mabench pull SLUG --repo THIS/REPOSITORY`
fetches a set and checks it, `mabench verify SLUG` re-runs some of its cells, `mabench submit` adds your own.

"""


def _paper_table(rows: Sequence[PaperRow]) -> list[str]:
    """What papers report, in a part of its own: not run here, not ranked, the mean only where a whole track is printed."""
    if not rows:
        return []
    lines = [
        "## Numbers from papers", "",
        "Copied from papers, not run here and not ranked: one row per number, without a seed.", "",
        "| method | suite | IPC | where | numbers | mean |", "|---|---|--:|---|--:|--:|",
    ]  # fmt: skip
    for _, group in groupby(rows, key=lambda r: (r.suite, r.track, r.slug)):
        numbers = list(group)
        row = numbers[0]
        mean = f"{100 * fmean(n.score for n in numbers):.2f}" if row.track_complete else "-"
        place = f"{shown(row.suite)}, {shown(row.track)}"
        lines.append(f"| {shown(row.method)} | {place} | {row.ipc} | {shown(row.where)} | {len(numbers)} | {mean} |")
    return [*lines, ""]


def shown(text: str) -> str:
    """A stranger's text as Markdown that shows it and does nothing else."""
    return re.sub(r"[\\`*_\[\]|#!()~:@]", lambda m: f"&#{ord(m[0])};", html.escape(text))


# -- the repository ------------------------------------------------------------------------------------------------


@contextmanager
def _explained(repo: str, kind: Kind = "dataset") -> Iterator[None]:
    """Whatever the Hub's client raises, as a MabenchError with a cure."""
    try:
        yield
    except MabenchError:
        raise
    except _failures() as error:
        raise _explain(repo, kind, error) from error


def _failures() -> tuple[type[BaseException], ...]:
    """What huggingface_hub raises, its HTTP library included without naming it: that changes with versions."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return (HfHubHTTPError, HFValidationError, OSError, RuntimeError, *HfHubHTTPError.__bases__)


def _explain(repo: str, kind: Kind, error: BaseException) -> MabenchError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, found = _status(error), _first(error)
    if isinstance(error, HFValidationError):
        return MabenchError(f"--repo {repo}: {found}. Write it as ORG/NAME.")
    if isinstance(error, OfflineModeIsEnabled):
        return MabenchError(f"{repo}: offline mode is on. Unset HF_HUB_OFFLINE to reach the Hub.")
    if isinstance(error, LocalEntryNotFoundError):
        return MabenchError(
            f"{repo}: not reachable, and the Hub cache has no copy ({found}). Check the network, HF_ENDPOINT and HF_HUB_OFFLINE."
        )
    if isinstance(error, GatedRepoError):
        return MabenchError(f"{repo}: is gated. Accept its terms on {constants.ENDPOINT}/{kind}s/{repo}, then: hf auth login")
    if isinstance(error, RevisionNotFoundError):
        return MabenchError(f"{repo}: has no such revision ({found}). Leave --revision away for the newest.")
    if isinstance(error, LocalTokenNotFoundError) or (status == 401 and not isinstance(error, RepositoryNotFoundError)):
        return MabenchError(f"{repo}: no valid Hub token. Log in with: hf auth login, or set HF_TOKEN.")
    if isinstance(error, RepositoryNotFoundError):
        return MabenchError(
            f"{repo}: no {kind} repository of this name on {constants.ENDPOINT} that you may read. Check ORG/NAME; for a private one "
            "log in with: hf auth login, or set HF_TOKEN."
        )
    if status == 403:
        request = "Open a pull request with --create-pr, or use" if kind == "dataset" else "Name a Space of your own, or use"
        return MabenchError(f"{repo}: your token may not write there. {request} a token that may write.")
    if status in (409, 412):
        return MabenchError(
            f"{repo}: others changed it {CONFLICTS} times while this was sent. Nothing was lost; run the same command again."
        )
    if status == 429:
        return MabenchError(
            f"{repo}: the Hub asks for a pause ({found}). Run the same command again later; it goes on from there."
        )
    if status is not None:
        return MabenchError(
            f"{repo}: the Hub answered {status} ({found}). Run the same command again; what has arrived is not sent twice."
        )
    return MabenchError(
        f"{repo}: cannot reach {constants.ENDPOINT} ({type(error).__name__}: {found}). Check the network and HF_ENDPOINT, and run the same "
        "command again; what has arrived is not sent twice."
    )


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2] or [type(error).__name__])[:300].rstrip(".")


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, looked for along its causes; None for a connection that failed."""
    seen: BaseException | None = error
    while seen is not None:
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return None


def _wait(error: BaseException, attempt: int) -> float | None:
    """Seconds until the next attempt, or None where another would fail in the same way."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    status = _status(error)
    if isinstance(error, HFValidationError | LocalTokenNotFoundError | OfflineModeIsEnabled):
        return None
    if status in (409, 412):
        return 0.05 * attempt
    if status == 429:
        headers = getattr(getattr(error, "response", None), "headers", {})
        asked = headers.get("Retry-After", "")
        seconds = float(asked) if asked.isdigit() else 2.0**attempt
        return seconds if seconds <= LONGEST_WAIT_SECONDS else None
    if status is not None and status != 408 and status < 500:
        return None
    return 2.0 ** (attempt - 1)


def whoami(repo: str, kind: Kind = "dataset") -> str:
    """The account that huggingface_hub's token belongs to; `repo` only names what it is wanted for."""
    from huggingface_hub import HfApi

    with _explained(repo, kind):
        return str(HfApi().whoami()["name"])


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
        existing = _remote(api, repo, slug, head)
        changes = dict(make(existing))
        files: Changes = {f"{FOLDER}/{slug}/{name}": content for name, content in changes.items()}
        if create_pr:
            return files, ()
        kept = dict(existing.files) if existing is not None else {}
        kept |= {n: c for n, c in changes.items() if n != SET}
        mine = submissions.parse(slug, kept, Path(repo) / FOLDER / slug) if kept else None
        tables, problems = _tables(api, repo, head, mine)
        return files | tables, problems

    return _commit(repo, build, message, description, create_pr=create_pr, private=private)


def refresh(repo: str) -> Pushed:
    """Bring the table and the README up to date with the submissions: what merged pull requests leave to do."""
    return _commit(repo, lambda api, head: _tables(api, repo, head, None), "table: up to date with the submissions", "")


Changes = dict[str, bytes | None]
"""Path in the repository -> its new content; None removes it."""


def publish(repo: str, folder: Path, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Bring a static Space up to date with the board built in `folder`: what its manifest names, the manifest and README.md.

    A Space that does not exist is made. Only files that differ are sent, what an earlier board left there is removed, other files
    of the Space are kept, all in one commit. `dry_run` reads and changes nothing. Raises MabenchError for a folder that is no
    intact board, for a Space of another kind or of something else, and for everything that the Hub may answer.
    """
    board = _board(folder)

    def build(api: HfApi, head: str) -> tuple[Changes, tuple[str, ...]]:
        if not head:
            return dict(board), ()
        info = api.space_info(repo, revision=head)
        if info.sdk != "static":
            raise MabenchError(f"{repo}: is a Space of kind {info.sdk}, the board needs a static one. Name another.")
        before = _file(repo, "space", MANIFEST, head)
        if before is None and api.file_exists(repo, "index.html", repo_type="space", revision=head):
            raise MabenchError(
                f"{repo}: holds an index.html that is not of a board. Name another Space, or delete that file there first."
            )
        try:
            left = set(json.loads(before.read_bytes())["files"] if before else ()) - set(board)
        except (ValueError, KeyError, TypeError) as error:
            raise MabenchError(f"{repo}: its {MANIFEST} is damaged ({error}). Delete that file and index.html there.") from error
        return board | dict.fromkeys(left), ()

    message = "board: up to date with the records"
    whoami(repo, "space")  # a missing login is said first, even by a dry run
    return _commit(repo, build, message, "", kind="space", private=private, dry_run=dry_run)


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
        raise MabenchError(f"{folder / README}: is no card of a static Space. Begin it with lines ---, sdk: static, ---.")
    return files


def _commit(
    repo: str,
    build: Callable[[HfApi, str], tuple[Changes, tuple[str, ...]]],
    message: str,
    description: str,
    *,
    kind: Kind = "dataset",
    create_pr: bool = False,
    private: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Commit what `build` makes of the repository's head (empty: there is none yet) until nobody else was faster."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, plain = HfApi(), False
    conflicts = failures = 0
    with _explained(repo, kind):
        while True:
            try:
                revision = _open_pull_request(api, repo, message) if create_pr else None
                head = _head(api, repo, kind, revision, private=private, may_create=not create_pr, dry_run=dry_run)
                files, problems = build(api, head)
                files = _differing(api, repo, kind, head, files)
                written = {path: content for path, content in files.items() if content is not None}
                removed = tuple(path for path in files if path not in written)
                if not files or dry_run:
                    url = f"{api.endpoint}/{kind}s/{repo}" + (f"/discussions/{revision.rpartition('/')[2]}" if revision else "")
                    return Pushed(url, tuple(written), removed, problems)
                added = [CommitOperationAdd(path, io.BytesIO(content) if plain else content) for path, content in written.items()]
                info = api.create_commit(
                    repo,
                    [*added, *(CommitOperationDelete(path) for path in removed)],
                    commit_message=message,
                    commit_description=description,
                    repo_type=kind,
                    revision=revision,
                    create_pr=create_pr and revision is None,
                    parent_commit=head,
                )
                return Pushed(info.pr_url or info.commit_url, tuple(written), removed, problems)
            except _failures() as error:
                if not plain and _status(error) is None and "xet" in f"{type(error).__name__} {error}".lower():
                    plain = True  # a server without Xet storage: binary streams go the way that every Hub knows
                    continue
                conflict = _status(error) in (409, 412)
                conflicts, failures = conflicts + conflict, failures + (not conflict)
                wait = _wait(error, conflicts if conflict else failures)
                if wait is None or conflicts >= CONFLICTS or failures >= FAILURES:
                    raise
                time.sleep(wait)


def _head(api: HfApi, repo: str, kind: Kind, revision: str | None, *, private: bool, may_create: bool, dry_run: bool) -> str:
    """The newest commit of the repository, which is made if it may be; empty where it is not there and must not be made."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return str(api.repo_info(repo, repo_type=kind, revision=revision).sha)
    except RepositoryNotFoundError:
        if not may_create:
            raise
    if dry_run:
        return ""
    sdk = "static" if kind == "space" else None
    api.create_repo(repo, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True)  # somebody may be faster
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
        return there.get(name) not in (cells.blob_id(content), hashlib.sha256(content).hexdigest())

    return {name: content for name, content in files.items() if differs(name, content)}


def _file(repo: str, kind: Kind, name: str, head: str) -> Path | None:
    """A file of the repository at this commit, in the Hub cache; None where the commit has none of this name."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, repo_type=kind, revision=head))
    except LocalEntryNotFoundError:
        raise  # not reachable at the moment, which says nothing about what is there
    except EntryNotFoundError:
        return None


def _remote(api: HfApi, repo: str, slug: str, revision: str) -> Submission | None:
    """The submission at this commit, without its set; None where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        tree = list(api.list_repo_tree(repo, f"{FOLDER}/{slug}", recursive=True, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return None
    for entry in tree:
        if not entry.path.endswith(SET) and getattr(entry, "size", 0) > MAX_RECORD_BYTES:
            raise MabenchError(
                f"{repo}: {entry.path} has {getattr(entry, 'size', 0):,} bytes; at most {MAX_RECORD_BYTES:,} are read."
            )
    patterns = [f"{FOLDER}/{slug}/{name}" for name in (CARD, AUDIT, f"{RECORDS}*.json")]
    place = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)
    return submissions.read(Path(place) / FOLDER / slug, links=True)


def _tables(api: HfApi, repo: str, head: str, mine: Submission | None) -> tuple[Changes, tuple[str, ...]]:
    """Table and README for the submissions at `head`, with `mine` in its new state, and for what papers report.

    Only what changed is fetched.
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
    before = _file(repo, "dataset", TABLE, head)
    known: dict[str, list[CellRow]] = {}
    for row in cells.read(before) if before else []:
        known.setdefault(row.slug, []).append(row)
    rows = cells.of_submissions([mine]) if mine else []
    problems = []
    for slug in slugs:
        if slug in known and {r.audit_blob for r in known[slug]} == {blobs.get(slug)}:
            rows += known[slug]
            continue
        try:
            submission = _remote(api, repo, slug, head)
        except MabenchError as error:
            problems.append(str(error))
            continue
        rows += cells.of_submissions([submission]) if submission is not None else []
    rows.sort(key=cells.order)
    printed = cells.of_papers(papers.read(papers.INSTALLED))
    old = _file(repo, "dataset", README, head)
    text = readme(rows, printed, old.read_text(encoding="utf-8", errors="replace") if old else "")
    tables: Changes = {TABLE: cells.parquet(rows, CellRow), PAPERS: cells.parquet(printed, PaperRow), README: text.encode()}
    return tables, tuple(problems)


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
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        try:
            found.append(_taken(repo, path, root / submissions.check_slug(path.name)))
        except MabenchError as error:
            problems.append(str(error))
    return found, tuple(problems)


def _fetched(repo: str, slug: str, revision: str | None) -> Path:
    """The repository's folder of submissions in the Hub cache, with all files of these (a glob) brought there."""
    from huggingface_hub import snapshot_download

    patterns = [f"{FOLDER}/{slug}/{name}" for name in (CARD, AUDIT, f"{RECORDS}*.json", SET)]
    with _explained(repo):
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)) / FOLDER


def _taken(repo: str, source: Path, target: Path) -> Submission:
    """Check the submission in `source` of the Hub cache, then write it to `target`."""
    submission = submissions.read(source, links=True)
    if submission is None:
        raise MabenchError(f"{repo}: has no submission {source.name}. Its table and {FOLDER}/ list those that it has.")
    if not (source / SET).is_file():
        raise MabenchError(f"{repo}: submission {source.name} has no {SET}. Tell its submitter.")
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
    submissions.write(target, {**submission.files, SET: (source / SET).read_bytes()})
    return submission
