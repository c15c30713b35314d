"""Several evaluations side by side: the folders that `mabench eval` wrote become one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mabench import suites
from mabench.errors import MabenchError, lookup
from mabench.results.comparison import Comparison, compare
from mabench.runs.folder import HARDENED, read_records
from mabench.schema import RunRecord


def read(folders: Sequence[Path], suite: str | None = None) -> list[Comparison]:
    """The tables of all evaluations in these folders and below, a table a track of a suite.

    Raises MabenchError for a folder without records, and for records of a suite that is not released or has changed.
    """
    by_suite: dict[str, list[RunRecord]] = {}
    for folder in folders:
        places = list(_evaluations(folder))
        if not places:
            what = "holds no records" if folder.exists() else "no such folder"
            raise MabenchError(f"{folder}: {what}. Name folders that mabench eval wrote, e.g. results/*")
        for place in places:
            for record in read_records(place):
                by_suite.setdefault(record.cell.suite, []).append(record)
    wanted = None if suite is None else suites.load(suite).id
    if wanted is not None:
        by_suite = {wanted: lookup(by_suite, wanted, "suite of these folders", "mabench list")}
    out: list[Comparison] = []
    for name, records in sorted(by_suite.items()):
        loaded_suite = suites.load(name)
        changed = [record for record in records if record.cell.suite_digest != loaded_suite.digest]
        if changed:
            raise MabenchError(
                f"{changed[0].cell.name}: was run under an earlier edition of {name}. Leave its folder out, or run it again: mabench eval SET --suite {name}"
            )
        out += compare(_unique(records), loaded_suite)
    return out


def datasets(results: Path) -> list[str]:
    """The datasets of the released suites that the sets in `results` were evaluated on, each by the default folder's name."""
    known = suites.released()
    names = {path.parent.name for path in results.glob("*/*/evaluation.json")}
    return sorted({suites.load(name).suite.dataset for name in names if name in known})


def _evaluations(folder: Path) -> Iterator[Path]:
    """Folders with records, this one or below it, in the order of their names."""
    if (folder / "records").is_dir():
        yield folder
    else:
        yield from sorted({path.parent for path in folder.glob("**/records") if path.is_dir() and path.parent.name != HARDENED})


def _unique(records: Sequence[RunRecord]) -> list[RunRecord]:
    """One record a run: the same evaluation may lie in two folders."""
    return list({(record.cell.set_sha256, record.cell.name): record for record in records}.values())
