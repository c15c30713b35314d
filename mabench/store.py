"""Records on disk: one folder holds one set's sitting of one suite. A file that exists is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mabench.files import read_bytes, write_text
from mabench.schema import RECORD_SCHEMA, Cell, MabenchError, RunRecord

MAX_RECORD_BYTES = 2**20  # ours: 2,000 looks with their losses take 100 KB
CURE = "Free some space, make the folder writable, or name another with --out; finished cells are kept."


class Folder:
    """The output folder of one evaluation.

    `evaluation.json` names the set and the suite; `records/<cell>.json` are the results; `checkpoints/` holds cells
    under way. Opening a folder that belongs to another set or suite raises MabenchError and writes nothing.
    """

    def __init__(self, path: Path, set_sha256: str, suite: str, suite_digest: str) -> None:
        self.path = path
        self._owner = {"set_sha256": set_sha256, "suite": suite, "suite_digest": suite_digest}
        if path.exists() and not path.is_dir():
            raise MabenchError(f"{path}: is a file. Name a folder with --out.")
        manifest = path / "evaluation.json"
        if manifest.exists():
            found = _json(manifest)
            for field, what in (("set_sha256", "set"), ("suite", "suite"), ("suite_digest", "version of the suite")):
                if found.get(field) != self._owner[field]:
                    raise MabenchError(
                        f"{path}: holds records of another {what} ({str(found.get(field))[:16]}, "
                        f"not {self._owner[field][:16]}). Name another folder with --out, or move this one away."
                    )
        elif path.exists() and any(path.iterdir()):
            raise MabenchError(f"{path}: is not empty and holds no evaluation.json. Name a new or empty folder with --out.")

    def claim(self, details: dict[str, Any]) -> None:
        """Create the folder and note whose it is; done before the first cell."""
        manifest = self.path / "evaluation.json"
        if not manifest.exists():
            write_text(manifest, json.dumps(self._owner | details, indent=1, sort_keys=True) + "\n", CURE)

    def record_path(self, cell: Cell) -> Path:
        return self.path / "records" / f"{cell.name}.json"

    def checkpoint_path(self, cell: Cell) -> Path:
        return self.path / "checkpoints" / f"{cell.name}.pt"

    def finished(self, cell: Cell) -> RunRecord | None:
        """The record of this cell, or None. A record of another cell under this name raises MabenchError."""
        path = self.record_path(cell)
        if not path.exists():
            return None
        record = read_record(path)
        if record.cell != cell:
            raise MabenchError(
                f"{path}: was made under other settings than the suite asks for now. Name another folder with --out, or delete this file."
            )
        return record

    def save(self, record: RunRecord) -> None:
        """Keep a finished cell and drop its checkpoint, in this order."""
        write_text(self.record_path(record.cell), record.model_dump_json(indent=1) + "\n", CURE)
        self.checkpoint_path(record.cell).unlink(missing_ok=True)


def _json(path: Path) -> dict[str, Any]:
    return _object(read_bytes(path, MAX_RECORD_BYTES, "Make it readable, or name another folder with --out."), path)


def _object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise MabenchError(
            f"{path}: is damaged ({error}). Delete this file and run the same command: its cell runs again."
        ) from error
    if not isinstance(value, dict):
        raise MabenchError(f"{path}: is damaged (no JSON object). Delete this file and run the same command.")
    return value


def read_record(path: Path) -> RunRecord:
    """The record in `path`. Raises MabenchError for damage or for a schema newer than this program reads."""
    return _record(_json(path), path)


def parse_record(content: bytes, path: Path) -> RunRecord:
    """As `read_record`, from a file's bytes; `path` only names it in messages."""
    return _record(_object(content, path), path)


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
        raise MabenchError(
            f"{path}: is not a record ({'.'.join(map(str, first['loc']))}: {first['msg']}). "
            "Delete this file and run the same command: its cell runs again."
        ) from error


def read_records(folder: Path) -> list[RunRecord]:
    """All records of an evaluation folder, in the order of their names."""
    return [read_record(path) for path in sorted((folder / "records").glob("*.json"))]
