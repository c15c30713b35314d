"""What a board adds to `submissions` and `papers`: which records fit it, what may be shown of a stranger's text, what tiers mean."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

from mabench.board import acceptance
from mabench.board.submission import AUDIT, SLUG, Submission
from mabench.errors import MabenchError
from mabench.schema import RunRecord, Tier
from mabench.suites import LoadedSuite, load

TIERS: dict[Tier, str] = {
    "verified": "every run was repeated by somebody else, and the means agree within one point",
    "spot-checked": "some runs were repeated by somebody else, and the means agree within one point",
    "self-run": "run by the submitter; nobody else has run it yet",
    "challenged": "somebody could not reproduce it; not ranked until that is settled",
    "reported": "copied from a paper; not run here, not ranked",
    "superseded": "the submitter has replaced it; kept for the record, not ranked",
    "withdrawn": "taken back; kept for the record, not ranked",
}

MAX_SHOWN = 400  # ours: characters of one card field that a page shows


def plain(text: str, limit: int = MAX_SHOWN) -> str:
    """One line of `text` fit to be shown: control, direction and zero-width characters become spaces, long text is cut.

    Markup is not touched: whoever writes HTML, Markdown or CSV escapes for that format.
    """
    kept = text[: 8 * limit]
    if not kept.isprintable():  # most text is, and needs no look at every character
        kept = "".join(" " if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c for c in kept)
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


def web_address(text: str) -> str | None:
    """`text` if it is an http(s) address without spaces and quotes, else None: nothing else becomes a link."""
    return text if re.fullmatch(r"https?://[A-Za-z0-9][^\s\"'<>\\`\x00-\x20\x7f-\x9f]{0,2000}", text) else None


def read_submission(path: Path) -> Submission | None:
    """The submission in the folder `path`, None for an unfinished one. Raises MabenchError for a damaged one and for one that a
    gate refuses: its names become headings, file names and commands."""
    return acceptance.read_accepted(path)


def unfinished(folder: Path) -> list[str]:
    """Names of the folders under `folder` that hold no finished submission; hidden ones do not count."""
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(plain(p.name, 80) for p in found if not (SLUG.fullmatch(p.name) and (p / AUDIT).is_file()))


def cells(submission: Submission) -> list[RunRecord]:
    """The records that count by suite, track, evaluator and seed (seed 10 after seed 9): where somebody else ran a cell again, theirs."""
    return sorted(submission.counted.values(), key=lambda r: (r.cell.suite, r.cell.track, r.cell.evaluator.name, r.cell.seed))


@cache
def loaded_suite(name: str) -> LoadedSuite:
    """The released suite `name`. Raises MabenchError, with the nearest name, for one that this program does not have."""
    if name.endswith(".toml"):
        raise MabenchError(f"suite '{plain(name, 80)}' is not released; a board holds released suites only.")
    return load(name)
