"""A pull request with submissions, judged as data: nothing of it is run, and every problem is named at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mabench.board import gates, labels, pull_request
from mabench.board.submission import AUDIT, BOARD, MAX_FILES, SLUG, read, read_board
from mabench.errors import MabenchError
from mabench.files import read_bytes, sha256_of
from mabench.runs.folder import MAX_RECORD_BYTES

MAX_SET_BYTES = 2**30  # ours: a condensed set in a git repository is small


@dataclass(frozen=True)
class Judged:
    """One submission of the pull request."""

    slug: str
    is_new: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.problems


def review(base: Path, head: Path) -> list[Judged]:
    """Judge every submission that differs between two folders of submissions: `base` as it is, `head` as it would be.

    Files are compared and read, links refused, nothing is run. Raises MabenchError where `head` is not a folder.
    """
    if not head.is_dir():
        raise MabenchError(f"{head}: no such folder. Name the folder of submissions of the pull request.")
    names = sorted({path.name for root in (base, head) if root.is_dir() for path in root.iterdir() if path.is_dir()})
    judged = []
    for name in names:
        try:
            now = _files(head / name)
            if _files(base / name) != now:
                judged.append(_judged(name, base, head, now))
        except MabenchError as error:  # one that cannot be read does not hide the others
            judged.append(Judged(name[:80], not (base / name).is_dir(), (str(error),)))
    return judged


def _files(folder: Path) -> dict[str, str | None]:
    """Path -> sha256 of every file under `folder`; None for what is not a plain file. Raises MabenchError where it is too much."""
    found: dict[str, str | None] = {}
    for path in folder.rglob("*") if folder.is_dir() and not folder.is_symlink() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            found[name] = None
        elif path.is_file():
            if path.stat().st_size > MAX_SET_BYTES:
                raise MabenchError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_SET_BYTES:,} are read. Keep sets small.")
            found[name] = sha256_of(path)
        if len(found) > MAX_FILES:
            raise MabenchError(f"{folder}: more than {MAX_FILES:,} files. Remove those that the log does not name.")
    return found


def _judged(slug: str, base: Path, head: Path, files: Mapping[str, str | None]) -> Judged:
    is_new = not (base / slug).is_dir()
    if not SLUG.fullmatch(slug):
        return Judged(slug[:80], is_new, ("the folder's name must be 3 to 64 of a-z, 0-9 and '-'.",))
    if not (head / slug).is_dir():
        return Judged(
            slug, False, ("the submission was removed. Withdraw it instead: mabench audit " + slug + " --tier withdrawn",)
        )
    if (head / slug).is_symlink():
        return Judged(slug, is_new, ("not a plain folder.",))
    links = sorted(name for name, content in files.items() if content is None)
    if links:
        return Judged(slug, is_new, (f"{', '.join(links[:3])}: not a plain file.",))
    problems, notes = [], []
    try:
        submission = gates.read_accepted(head / slug)
        if submission is None:
            problems.append(f"it has no {AUDIT}: it was never finished. Run mabench submit again.")
        else:
            if (submission.board.external.get(slug),) != submission.sets:  # else its authors publish set and labels themselves
                labels.check(head / slug, submission)
            problems += pull_request.contents(head / slug, submission).refusals
            listed = read_board(base)  # a request does not say who maintains the board, nor bring its own list along unseen
            submission = replace(submission, board=replace(submission.board, maintainers=listed.maintainers))
            if submission.board.external.get(slug) != listed.external.get(slug):
                notes.append(
                    f"{BOARD} of this request, not the board's, says where the set is published: a maintainer has to agree"
                )
            notes.append(f"{len(submission.records)} runs of {', '.join(submission.suites)}, tier {submission.tier}")
            others = [other for other in gates.same_set(head, slug, submission.sets)]
            before = None if is_new else read(base / slug)
            checks = [] if is_new else [pull_request.grown(submission, before), pull_request.allowed(submission, before, None)]
            problems += [text for gate in checks for text in gate.refusals]
            problems += [f"it holds the same set as {', '.join(sorted(others))}."] if others and is_new else []
    except MabenchError as error:
        problems.append(str(error))
    if not is_new and not _log_grew(base / slug / AUDIT, head / slug / AUDIT):
        problems.append(f"{AUDIT} is append-only, and lines of it were changed or removed.")
    return Judged(slug, is_new, tuple(problems), tuple(notes))


def _log_grew(before: Path, after: Path) -> bool:
    """Whether the log still begins with everything that it held."""
    if not before.is_file():
        return True
    if not after.is_file():
        return False
    cure = "Fetch the log again."
    return read_bytes(after, MAX_RECORD_BYTES, cure).startswith(read_bytes(before, MAX_RECORD_BYTES, cure))


def comment(judged: list[Judged]) -> str:
    """What a bot says in the pull request, as Markdown; the first line lets it find its own comment again."""
    from mabench.board.hub.cards import shown

    lines = ["<!-- mabench review -->"]
    if not judged:
        return "\n".join([*lines, "No submission was changed.", ""])
    bad = sum(not one.accepted for one in judged)
    lines += [f"**{'All gates are open' if not bad else f'{bad} of {len(judged)} submissions are refused'}.**", ""]
    lines += ["| submission | | what was found |", "|---|---|---|"]
    for one in judged:
        found = "<br>".join(shown(text) for text in (*one.problems, *one.notes))
        lines.append(
            f"| {shown(one.slug)}{' (new)' if one.is_new else ''} | {'ok' if one.accepted else '**refused**'} | {found} |"
        )
    lines += ["", "The gates read the files; they do not train anything. `mabench verify` repeats runs."]
    return "\n".join(lines) + "\n"
