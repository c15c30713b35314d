"""Tables that lie beside records, held against the records. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mabench.board.gates import Gate, gate
from mabench.board.submission import record_name
from mabench.files import read_bytes
from mabench.results import scoring
from mabench.results.tables import percent
from mabench.schema import RunRecord
from mabench.suites import load, released

MAX_RESULTS_BYTES = 2**26  # ours: 10,000 cells take 3 MB


def check(folders: Sequence[Path], records: Sequence[RunRecord]) -> Gate:
    """Tables are always made from cells here; one that lies beside them and says otherwise means that a file was edited."""
    problems, compared = [], 0
    for folder in folders:
        path = folder / "results.json"
        if not path.is_file():
            continue
        try:
            value = json.loads(read_bytes(path, MAX_RESULTS_BYTES, "Delete it, or let mabench eval write it again."))
            cells = {
                (c["track"], c["evaluator"], c["seed"]): (c["acc_best"], c["best_epoch"], c["acc_plateau"], c["acc_last"])
                for c in value["cells"]
            }
            said = {(r["track"], r["name"]): (r["mean"], r["std"], r["plateau"], r["last"], r["runs"]) for r in value["rows"]}
            suite = str(value["suite"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"{path}: is damaged ({error}). Delete it, or let mabench eval write it again.")
            continue
        names = {p.stem for p in (folder / "records").glob("*.json")}
        own = [r for r in records if r.cell.suite == suite and {r.cell.name, record_name(r)} & names and _key(r) in cells]
        for record in own:
            if cells[_key(record)] != (record.best, record.best_epoch, scoring.plateau(record), record.last):
                problems.append(
                    f"{record.cell.name}: the record says best {percent(record.best)}, last {percent(record.last)}; {path} says "
                    f"best {percent(cells[_key(record)][0])}, last {percent(cells[_key(record)][3])}. One of them was "
                    "edited: delete the record and run mabench eval again."
                )
        if suite in released():
            for row in scoring.rows(load(suite), own):
                compared += 1
                now = (row.mean, row.std, row.plateau, row.last, row.runs)
                if not problems and not _near(said.get((row.track, row.name)), now):
                    problems.append(
                        f"{path}: {row.track} {row.name} does not follow from the records. Let mabench eval write it again."
                    )
    text = f"{compared} rows recomputed from records agree" if compared else "no table of a released suite beside the records"
    return gate("aggregates", text, problems)


def _key(record: RunRecord) -> tuple[str, str, int]:
    return record.cell.track, record.cell.evaluator.name, record.cell.seed


def _near(said: tuple[Any, ...] | None, own: tuple[Any, ...]) -> bool:
    return said is not None and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, abs_tol=1e-9))
        for a, b in zip(said, own, strict=True)
    )
