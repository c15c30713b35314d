"""A pull request with submissions, judged as data: nothing of it is run, and every problem is named at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mabench.board import gates, pull_request
from mabench.board.submission import AUDIT, SLUG, read
from mabench.errors import MabenchError
from mabench.files import read_bytes
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

    Files are compared and read, links refused, nothing is run. Raises MabenchError where `head` is no folder.
    """
    if not head.is_dir():
        raise MabenchError(f"{head}: no such folder. Name the folder of submissions of the pull request.")
    names = sorted({path.name for root in (base, head) if root.is_dir() for path in root.iterdir() if path.is_dir()})
    return [_judged(name, base, head) for name in names if _files(base / name) != _files(head / name)]


def _files(folder: Path) -> dict[str, bytes | None]:
    """Path -> content of every file under `folder`; None for what is not a plain file."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            found[path.relative_to(folder).as_posix()] = None
        elif path.is_file():
            found[path.relative_to(folder).as_posix()] = read_bytes(path, MAX_SET_BYTES, "Keep sets small.")
    return found


def _judged(slug: str, base: Path, head: Path) -> Judged:
    is_new = not (base / slug).is_dir()
    if not SLUG.fullmatch(slug):
        return Judged(slug[:80], is_new, ("the folder's name must be 3 to 64 of a-z, 0-9 and '-'.",))
    if not (head / slug).is_dir():
        return Judged(
            slug, False, ("the submission was removed. Withdraw it instead: mabench audit " + slug + " --tier withdrawn",)
        )
    links = [name for name, content in _files(head / slug).items() if content is None]
    if links:
        return Judged(slug, is_new, (f"{', '.join(links[:3])}: not a plain file.",))
    problems, notes = [], []
    try:
        submission = gates.read_accepted(head / slug)
        if submission is None:
            problems.append(f"it has no {AUDIT}: it was never finished. Run mabench submit again.")
        else:
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
