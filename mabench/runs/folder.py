"""Records on disk: one folder holds one set's evaluation on one suite. A file that exists is complete."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mabench.digests import digest
from mabench.errors import MabenchError
from mabench.files import CHECKSUM, discard, exclusive, read_bytes, write_text
from mabench.schema import RECORD_SCHEMA, Cell, RunRecord

MAX_RECORD_BYTES = 2**20  # ours: 2,000 looks with their losses take 100 KB
HARDENED = "hardened"
"""Inside the folder of an evaluation: the same runs with the set's soft labels hardened, an evaluation of its own."""
LAST_CHECKSUM = re.compile(rb',\s*"checksum": "[0-9a-f]{64}"\s*\}\s*$')
CURE = "Free some space, make the folder writable, or name another with --out; finished cells are kept."
AGAIN = "Run the same mabench eval: what is damaged is made again, finished cells are kept."


class Damaged(MabenchError):
    """A file that is not as it was written. What can be made again from the set is made again."""


class Folder:
    """The output folder of one evaluation.

    `evaluation.json` names the set and the suite; `records/<cell>.json` are the results; `checkpoints/` holds cells
    under way; `speeds.json` is what a budget of minutes measured. Opening a folder that belongs to another set or suite raises MabenchError and writes nothing. Several processes
    may work in one folder: each cell is one process's at a time.
    """

    def __init__(self, path: Path, set_sha256: str, suite: str, suite_digest: str) -> None:
        self.path = path
        self._owner = {"set_sha256": set_sha256, "suite": suite, "suite_digest": suite_digest}
        if path.exists() and not path.is_dir():
            raise MabenchError(f"{path}: is a file. Name a folder with --out.")
        self.damaged: dict[str, str] = {}
        """What was found damaged, by the name of its cell: these cells run again."""
        manifest = path / "evaluation.json"
        self._claimed = manifest.exists()
        if self._claimed:
            try:
                found = _json(manifest)
            except Damaged:  # the records know as well whose they are
                found, self._claimed = self._owner_of_records(), False
            for field, what in (("set_sha256", "set"), ("suite", "suite"), ("suite_digest", "version of the suite")):
                if found.get(field) != self._owner[field]:
                    raise MabenchError(
                        f"{path}: holds records of another {what} ({str(found.get(field))[:16]}, "
                        f"not {self._owner[field][:16]}). Name another folder with --out, or move this one away."
                    )
        elif path.exists() and any(not p.name.startswith(f".{manifest.name}.") for p in path.iterdir()):
            raise MabenchError(f"{path}: is not empty and holds no evaluation.json. Name a new or empty folder with --out.")

    def claim(self, details: dict[str, Any]) -> None:
        """Create the folder and note whose it is; done before the first cell."""
        if not self._claimed:
            write_text(self.path / "evaluation.json", sealed_json(self._owner | details), CURE)
            self._claimed = True

    def _owner_of_records(self) -> dict[str, Any]:
        """Whose folder this is as its first whole record says; ours where there is none."""
        for path in sorted((self.path / "records").glob("*.json")):
            try:
                return {name: getattr(read_record(path).cell, name) for name in self._owner}
            except Damaged:
                continue
        return self._owner

    def record_path(self, cell: Cell) -> Path:
        return self.path / "records" / f"{cell.name}.json"

    def checkpoint_path(self, cell: Cell) -> Path:
        return self.path / "checkpoints" / f"{cell.name}.pt"

    def speeds(self) -> dict[str, Any]:
        """What `keep_speeds` wrote; empty where that is absent or damaged, for it can be measured again."""
        path = self.path / "speeds.json"
        with suppress(Damaged):
            return _json(path) if path.exists() else {}
        return {}

    def keep_speeds(self, speeds: dict[str, Any]) -> None:
        """Keep measured speeds; the folder was claimed before."""
        write_text(self.path / "speeds.json", sealed_json(speeds), CURE)

    def working(self, cell: Cell) -> AbstractContextManager[bool]:
        """Within it, whether no other process runs this cell here."""
        return exclusive(self.path / "checkpoints" / f"{cell.name}.lock")

    def finished(self, cell: Cell) -> RunRecord | None:
        """The record of this cell, or None; a damaged one is noted in `damaged` and does not count.

        A record of another cell under this name raises MabenchError.
        """
        path = self.record_path(cell)
        if not path.exists():
            return None
        try:
            record = read_record(path)
        except Damaged as error:
            self.damaged[cell.name] = str(error)
            return None
        if record.cell != cell:
            raise MabenchError(
                f"{path}: was made under other settings than the suite asks for now. Name another folder with --out, or delete this file."
            )
        return record

    def save(self, record: RunRecord) -> None:
        """Keep a finished cell and drop its checkpoint, in this order."""
        write_text(self.record_path(record.cell), record_text(record), CURE)
        self.drop_checkpoint(record.cell)

    def drop_checkpoint(self, cell: Cell) -> None:
        """Remove what a finished cell needs no more; also what stayed where a process was killed right after its record."""
        discard(self.checkpoint_path(cell))


def record_text(record: RunRecord) -> str:
    """The record's file: the same record gives the same text, whose last field is a checksum of all others."""
    return sealed_json(record.model_dump(mode="json"))


def sealed_json(value: dict[str, Any]) -> str:
    """`value` as JSON with one more field, `checksum`: the digest of what is there before it."""
    return json.dumps(value | {CHECKSUM: digest(value)}, indent=1) + "\n"


def _json(path: Path) -> dict[str, Any]:
    value = _object(read_bytes(path, MAX_RECORD_BYTES, "Make it readable, or name another folder with --out."), path)
    checksum = value.pop(CHECKSUM, None)  # files of other programs, and hand-made ones, have none
    try:
        unchanged = checksum is None or checksum == digest(value)
    except (ValueError, RecursionError):  # this program writes no NaN
        unchanged = False
    if not unchanged:
        raise Damaged(f"{path}: is damaged (its checksum does not match: it was changed after it was written). {AGAIN}")
    return value


def _object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: is damaged ({error}). {AGAIN}") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path}: is damaged (no JSON object). {AGAIN}")
    return value


def read_record(path: Path) -> RunRecord:
    """The record in `path`. Raises MabenchError for damage or for a schema newer than this program reads."""
    return _record(_json(path), path)


def parse_record(content: bytes, path: Path) -> RunRecord:
    """As `read_record`, from a file's bytes whose sha256 was found right; `path` only names it in messages."""
    try:
        return RunRecord.model_validate_json(LAST_CHECKSUM.sub(b"}", content))  # four times as fast; what it refuses ...
    except ValidationError:
        value = _object(content, path)  # ... the slow way explains
    value.pop(CHECKSUM, None)
    return _record(value, path)


def _record(value: dict[str, Any], path: Path) -> RunRecord:
    schema = value.get("record_schema")
    if isinstance(schema, int) and schema > RECORD_SCHEMA:
        raise MabenchError(
            f"{path}: record uses schema {schema}; this mabench reads up to {RECORD_SCHEMA}. Upgrade: pip install -U mabench"
        )
    try:
        return RunRecord.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{path}: is not a record ({'.'.join(map(str, first['loc']))}: {first['msg']}). {AGAIN}") from error


def read_records(folder: Path) -> list[RunRecord]:
    """All records of an evaluation folder, in the order of their names."""
    return [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
