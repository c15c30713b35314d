"""What a change does to a submission, for its reviewer to read: paths that differ, and fields of the card, old and new."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mabench.board.names import skeleton
from mabench.board.submission import HARDENED, RECORDS, RERUNS, Submission
from mabench.errors import one_line

MOST_PATHS = 30  # ours: a screen of them; a complete submission of the headline suite adds 42 records
LEAD = 40  # ours: characters of a long field that are shown before the first one that differs

_ORDER = ("removed", "changed", "added")
_RECORDS = re.compile("|".join(map(re.escape, (RECORDS, HARDENED, RERUNS))))


def kinds(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> dict[str, str]:
    """Path -> `removed`, `changed` or `added`, of every path whose content differs.

    Contents are named by a digest; None for what is not a plain file.
    """
    gone = {path: "removed" for path in before if path not in after}
    return gone | {
        path: "changed" if path in before else "added" for path in after if path not in before or after[path] != before[path]
    }


def of_paths(kinds: Mapping[str, str]) -> list[str]:
    """`removed: set.safetensors` for every path of `kinds`, records last, then how many more there are."""
    paths = sorted(kinds, key=lambda path: (_RECORDS.search(path) is not None, _ORDER.index(kinds[path]), path))
    left = Counter(kinds[path] for path in paths[MOST_PATHS:])
    more = [f"and {left.total()} more: " + ", ".join(f"{left[kind]} {kind}" for kind in _ORDER if left[kind])] if left else []
    return [f"{kinds[path]}: {one_line(path)}" for path in paths[:MOST_PATHS]] + more


def of_cards(before: Submission | None, after: Submission) -> tuple[str, ...]:
    """`card, title: 'old' -> 'new'` for every field that differs; of long ones the part that does. None for a new submission."""
    new = after.card.model_dump(mode="json")
    old = new if before is None else before.card.model_dump(mode="json")
    return tuple(f"card, {name}: {_from_to(_text(old[name]), _text(new[name]))}" for name in new if old[name] != new[name])


def _text(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else str(value)


def _from_to(old: str, new: str) -> str:
    same = next((k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - LEAD) if max(len(old), len(new)) > 3 * LEAD else 0
    lead = "..." if start else ""
    written = ascii if skeleton(old) == skeleton(new) else repr  # else a reader would see the same twice
    return " -> ".join(written(lead + one_line(text[start:])) for text in (old, new))
