"""The project's one error, its one lookup of names, and how text of strangers is shown. Imports no torch."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def printable(text: str, limit: int | None = None) -> str:
    """`text` as a terminal may show it: control characters, direction overrides and lone surrogates are written out (`\\x1b`), line
    ends are kept; cut after `limit` characters."""
    text = text if limit is None or len(text) <= limit else text[:limit] + "..."
    hidden = {c for c in text if unicodedata.category(c) in _HIDDEN and c != "\n"}
    return text.translate({ord(c): c.encode("unicode_escape", "surrogatepass").decode() for c in hidden})


def one_line(text: str, limit: int = 160) -> str:
    """`text` in one line of at most `limit` characters: what names of strangers become, and errors of libraries."""
    return printable(" ".join(text[: 4 * limit].split()), limit)


_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats (direction, zero width), surrogates, line and paragraph separators


class MabenchError(Exception):
    """A mistake that the user can fix. The command line prints its text without a traceback and exits with 2.

    The text says what was found, where, what is allowed, and the command that fixes it. It quotes names and values from files of
    strangers: whatever a terminal would obey instead of show is written out here, once for all messages.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(without_secrets(text)))

    def __str__(self) -> str:
        """The text; where the Hub refused for too many requests, what helps comes first: other advice is for other troubles."""
        text = super().__str__()
        return (
            f"{RATE_LIMITED} ({text})"
            if _is_rate_limited(self.__cause__ or self.__context__) and RATE_LIMITED not in text
            else text
        )


def without_secrets(text: str) -> str:
    """`text` without tokens: libraries quote the headers of a request that failed, and messages end up in logs that others read."""
    for name, value in os.environ.items():
        if len(value) >= 8 and re.search("TOKEN|SECRET|PASSWORD|API_?KEY", name):
            text = text.replace(value, "[secret]")
    return re.sub(r"(Bearer |Basic )[^\s'\",)]+|\bhf_[A-Za-z0-9]{16,}", lambda found: (found[1] or "") + "[secret]", text)


RATE_LIMITED = (
    "the Hub answers 429, too many requests: wait some minutes and run the same command, or log in first: hf auth login"
)


def _is_rate_limited(error: BaseException | None) -> bool:
    """Whether a server's 429 is among the causes of this error."""
    for _ in range(20):  # chains are short; a circle of causes would not end
        if error is None:
            return False
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 429 or "429 Too Many Requests" in str(error):  # where the cache is asked next only the text is kept
            return True
        error = error.__cause__ or error.__context__
    return False


class Interrupted(Exception):
    """The work was asked to stop; its checkpoint is on disk and the same command continues from there."""


def lookup(table: Mapping[str, T], name: str, kind: str, listing: str = "") -> T:
    """`table[name]`, or a MabenchError that names the nearest known name and all of them; `listing` is the command that prints them."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name[:80], list(table), n=1, cutoff=0.4)  # a stranger's name can have any length
    hint = f" Did you mean '{near[0]}'?" if near else ""
    more = f"  ({listing})" if listing else ""
    raise MabenchError(f"unknown {kind} '{printable(name, 80)}'.{hint} Known: {', '.join(sorted(table))}{more}")


def first_line(items: Iterable[str]) -> str:
    """Comma-separated names for messages, each in one line, cut after twelve."""
    names = list(items)
    return ", ".join(one_line(name, 200) for name in names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
