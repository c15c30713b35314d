"""The audit log of a submission: append-only, one entry a line, each chained to the one before it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mabench.digests import canonical_json, digest, sha256
from mabench.errors import MabenchError
from mabench.runs.folder import MAX_RECORD_BYTES
from mabench.schema import AuditEntry


def again(slug: str) -> str:
    """What to do with files that are not those of the board."""
    return f"Move the folder away and get it again: mabench pull {slug} --repo ORG/NAME"


def now() -> str:
    """UTC to the second, as the log writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_entry(**fields: Any) -> AuditEntry:
    """A log entry of this moment. Raises MabenchError for text that no log may hold."""
    try:
        return AuditEntry(when=now(), **fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise MabenchError(
            f"audit log: {'.'.join(map(str, first['loc']))}: {first['msg']}. Say it in one line of up to 300 characters."
        ) from error


def line(entry: AuditEntry) -> str:
    """One line of JSON without its line end, checksum filled in: canonical, so that its sha256 is a property of the entry."""
    bare = entry.model_dump(mode="json", exclude_unset=True) | {"checksum": ""}
    return canonical_json(bare | {"checksum": digest(bare)})


def appended(audit: Iterable[AuditEntry], entry: AuditEntry) -> bytes:
    """The log's bytes with one more entry, chained to the last. Raises MabenchError for a log that nobody would read again."""
    lines = [line(e) for e in audit]
    last = sha256(lines[-1].encode()) if lines else ""
    lines.append(line(entry.model_copy(update={"previous": last})))
    content = "".join(f"{each}\n" for each in lines).encode()
    if len(content) > MAX_RECORD_BYTES:
        raise MabenchError(
            f"audit log: would have {len(content):,} bytes; at most {MAX_RECORD_BYTES:,} are read. Nothing was written: ask the "
            "board's maintainers to begin a new slug for this set."
        )
    return content


def cards(audit: Sequence[AuditEntry]) -> list[str]:
    """sha256 of every card that the log names, oldest first."""
    return [entry.card_sha256 for entry in audit if entry.card_sha256 and entry.action in ("submitted", "changed")]


@lru_cache(maxsize=1)  # whoever reads a submission asks twice: which files it names, then what it says
def parse(content: bytes, path: Path) -> tuple[AuditEntry, ...]:
    """The log's entries. Raises MabenchError where a line was changed after it was written, or lines are missing between two."""
    entries: list[AuditEntry] = []
    last = ""
    for number, text in enumerate(content.decode(errors="replace").splitlines(), 1):
        try:
            entry = AuditEntry.model_validate_json(text)
        except ValidationError as error:
            raise MabenchError(
                f"{path}: line {number} is not an audit entry ({error.errors()[0]['msg']}). {again(path.parent.name)}"
            ) from error
        if entry.previous != last or text != line(entry):
            what = "does not follow from the line before it" if entry.previous != last else "does not match its checksum"
            raise MabenchError(
                f"{path}: line {number} {what}: the log was edited or damaged. It is append-only. {again(path.parent.name)}. Entries are added with "
                "mabench audit SLUG --tier TIER --why REASON --who NAME"
            )
        last = sha256(text.encode())
        entries.append(entry)
    if not entries:
        raise MabenchError(f"{path}: is empty. {again(path.parent.name)}")
    return tuple(entries)
