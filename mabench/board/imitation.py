"""Names of a submission that read like somebody else's: the gate of a review that compares what looks alike and is spelled differently."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from mabench.board import submission as submissions
from mabench.board.acceptance import named
from mabench.board.gates import Gate, gate
from mabench.board.names import skeleton
from mabench.board.submission import Submission
from mabench.errors import MabenchError, first_line


def of_names(submission: Submission, before: Submission | None, root: Path) -> Gate:
    """No name that is new here looks like a maintainer's in other letters; those that look like another submission's are told.

    Names are the owner's, the card's authors and submitter, and the method. `root`: the folder of all submissions. Capitals, spaces
    and punctuation are no letters: `a author` is `A. Author`.
    """
    new = _names(submission) - (_names(before) if before is not None else set())
    imitated = _alike(new, submission.board.maintainers, "a maintainer")
    problems = [f"{text}. Write the name as it is, or choose another one." for text in imitated]
    found = [text for other in _others(root, submission.slug) for text in _alike(new, _names(other), other.slug)]
    return gate("names", f"warning: {first_line(found)}" if found else "none looks like another's", problems)


def _names(submission: Submission) -> set[str]:
    return {*submission.own_names, submission.owner, submission.card.method} - {""}


def _others(root: Path, slug: str) -> Iterable[Submission]:
    """The other submissions under `root` that can be read."""
    for folder in submissions.folders(root):
        try:
            with named(folder.name):
                other = submissions.read(folder)
        except MabenchError:
            continue
        if other is not None and other.slug != slug:
            yield other


def _alike(new: Iterable[str], known: Iterable[str], whose: str) -> list[str]:
    """What a reader is told of every new name with the skeleton of a known one and other letters; both in ASCII, to be told apart."""
    by_skeleton: dict[str, set[str]] = {}
    for name in known:
        by_skeleton.setdefault(skeleton(name), set()).add(name)
    return [
        f"{name!a} looks like {min(same)!a} ({whose}) in other letters"
        for name in sorted(new)
        if (same := by_skeleton.get(skeleton(name))) and _letters(name) not in map(_letters, same)
    ]


def _letters(name: str) -> str:
    """Letters, digits and accents of a name, in lower case."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LNM")
