"""What a board is made of: submissions (card, set, records, audit log) and the tables of papers. Everything is checked on reading."""

from __future__ import annotations

import math
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mabench.papers import PaperTable
from mabench.schema import Card, MabenchError, RunRecord, lookup
from mabench.store import read_records
from mabench.suites import Exam, load

Tier = Literal["reported", "self-run", "spot-checked", "verified", "challenged", "superseded", "withdrawn"]

TIERS: dict[str, str] = {
    "verified": "every cell was run again by the maintainers and agreed within tolerance",
    "spot-checked": "sampled cells were run again by the maintainers and agreed within tolerance",
    "self-run": "run by the submitter with this examiner; nobody else has run it yet",
    "challenged": "somebody could not reproduce it; not ranked until that is settled",
    "reported": "copied from a paper; not run here, not ranked",
    "superseded": "the submitter has replaced it; kept for the record, not ranked",
    "withdrawn": "taken back; kept for the record, not ranked",
}
RANKED_TIERS = ("verified", "spot-checked", "self-run")

MAX_TEXT_BYTES = 2**20  # ours: a card or an audit log is prose; a megabyte of it is an attack or a mistake
MAX_SHOWN = 400  # ours: characters of one card field that a page shows

M = TypeVar("M", bound=BaseModel)


class AuditLine(BaseModel):
    """What a page shows of one line of `audit.jsonl`: who said when that a submission stands at which tier, and why."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    when: str
    who: str
    tier: Tier
    why: str
    records: tuple[str, ...] = ()
    """Names of the records that it is about; in the file a list, or an object with their names as keys."""

    @field_validator("records", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Submission:
    """One folder of `submissions/`."""

    slug: str
    card: Card
    records: tuple[RunRecord, ...]
    audit: tuple[AuditLine, ...]
    set_path: Path | None
    """None where the set itself is kept elsewhere."""

    @property
    def tier(self) -> str:
        """That of the last line of the audit log; `self-run` without one."""
        return self.audit[-1].tier if self.audit else "self-run"


def plain(text: str, limit: int = MAX_SHOWN) -> str:
    """One line of `text` fit to be shown: control, direction and zero-width characters become spaces, long text is cut.

    Markup is not touched: whoever writes HTML, Markdown or CSV escapes for that format.
    """
    kept = "".join(" " if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c for c in text[: 8 * limit])
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


def web_address(text: str) -> str | None:
    """`text` if it is an http(s) address without spaces and quotes, else None: nothing else becomes a link."""
    return text if re.fullmatch(r"https?://[A-Za-z0-9][^\s\"'<>\\`\x00-\x20\x7f-\x9f]{0,2000}", text) else None


def read_submissions(folder: Path) -> list[Submission]:
    """Every submission under `folder`, by slug. Raises MabenchError for a folder that cannot be read as one."""
    if not folder.is_dir():
        raise MabenchError(f"{folder}: no such folder. Name the folder of submissions with --submissions.")
    return [_submission(path) for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _submission(path: Path) -> Submission:
    if not re.fullmatch(r"[a-z0-9-]{3,64}", path.name):
        raise MabenchError(
            f"{path}: '{plain(path.name, 80)}' is no slug. Allowed: 3 to 64 of a-z, 0-9 and '-'. Rename the folder or move it away."
        )
    if not (path / "card.toml").exists():
        raise MabenchError(f"{path}: holds no card.toml. A submission has card.toml, records/ and the set.")
    card = _checked(Card, _toml(path / "card.toml"), path / "card.toml")
    records = sorted(read_records(path), key=lambda r: (r.cell.suite, r.cell.track, r.cell.evaluator.name, r.cell.seed))
    if not records:
        raise MabenchError(f"{path}: has no records. Put what `mabench eval` wrote to records/ there.")
    seen: set[tuple[str, str, str, int]] = set()
    for record in records:
        _known(path, record)
        name = (record.cell.suite, record.cell.track, record.cell.evaluator.name, record.cell.seed)
        if name in seen:
            raise MabenchError(f"{path}: two records for {' '.join(map(str, name))}. Keep the one that was submitted.")
        seen.add(name)
    shas = {sha for r in records for sha in (r.cell.set_sha256, r.synthetic_set.sha256)}
    set_path = path / "set.safetensors"
    if set_path.exists():
        shas.add(_stated_sha(set_path))
    if len(shas) > 1:
        raise MabenchError(
            f"{path}: records and set name {len(shas)} different sets ({', '.join(sorted(s[:16] for s in shas))}). "
            "One submission is one set: run the suite on set.safetensors again, or put back the set that was examined."
        )
    return Submission(path.name, card, tuple(records), _audit(path / "audit.jsonl"), set_path if set_path.exists() else None)


def _known(path: Path, record: RunRecord) -> None:
    """Refuse a record whose names are not the suite's: they become headings, file names and commands."""
    cell = record.cell
    chosen = exam(cell.suite)
    try:
        if chosen.id != cell.suite:
            raise MabenchError(f"suite '{plain(cell.suite, 80)}' has no version; the suite of today is {chosen.id}.")
        entries = lookup(chosen.evaluators, plain(cell.track, 80), "track")
        lookup({e.name: e for e in entries}, plain(cell.evaluator.name, 80), "evaluator")
        if record.synthetic_set.dataset != chosen.suite.dataset:
            raise MabenchError(
                f"a set of {plain(record.synthetic_set.dataset, 80)}; {chosen.id} is about {chosen.suite.dataset}."
            )
        if not re.fullmatch(r"[0-9a-f]{64}", cell.set_sha256) or not math.isfinite(record.seconds):
            raise MabenchError("its set_sha256 is no sha256 or its seconds are no number.")
    except MabenchError as error:
        raise MabenchError(f"{path}: a record does not fit {chosen.id}: {error} Submit what `mabench eval` wrote.") from error


def _stated_sha(path: Path) -> str:
    """The sha256 in the header of a canonical set; its content is compared with it when the images are drawn."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return str((file.metadata() or {})["sha256"])
    except (SafetensorError, KeyError, OSError) as error:
        raise MabenchError(f"{path}: not a complete mabench set ({error}). Fetch or pack it again.") from error


def _audit(path: Path) -> tuple[AuditLine, ...]:
    if not path.exists():
        return ()
    lines = enumerate(_text(path).splitlines(), 1)
    return tuple(_checked(AuditLine, line, f"{path}, line {number}") for number, line in lines if line.strip())


def where(table: PaperTable) -> str:
    """Title, settings and note of a paper's table on one line."""
    settings = ", ".join(f"{k} {str(v).lower() if isinstance(v, bool) else v}" for k, v in table.config.items())
    return plain("; ".join(part for part in (table.title, settings, table.note) if part), 300)


@cache
def exam(name: str) -> Exam:
    """The released suite `name`. Raises MabenchError, with the nearest name, for one that this program does not have."""
    if name.endswith(".toml"):
        raise MabenchError(f"suite '{plain(name, 80)}' is a file of somebody's own; a board holds released suites only.")
    return load(name)


def track_of(chosen: Exam, evaluator: str) -> str:
    """The track of a suite that holds an evaluator. Raises MabenchError, with the nearest name, where none does."""
    return lookup({e.name: track for track, entries in chosen.evaluators.items() for e in entries}, evaluator, "evaluator")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise MabenchError(f"{path}: {path.stat().st_size:,} bytes; text up to {MAX_TEXT_BYTES:,} bytes is read. Shorten it.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MabenchError(f"{path}: cannot read: {error}. Make it a readable UTF-8 file.") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise MabenchError(f"{path}: not TOML: {error}. Mend that line.") from error


def _checked(model: type[M], value: Any, where: Path | str) -> M:
    try:
        return model.model_validate_json(value) if isinstance(value, str) else model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise MabenchError(
            f"{where}: {'.'.join(map(str, first['loc'])) or model.__name__}: {first['msg']}. Fields: {', '.join(model.model_fields)}."
        ) from error
