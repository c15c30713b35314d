"""Is the fast engine the same exam? python benchmarks/equivalence.py SET OUT --suite SUITE --evaluator GLOB

Sits every cell with both engines (records in OUT/reference and OUT/fast, resumed like any evaluation) and compares them seed by
seed: the mean of the paired differences, its standard error, and the verdict of PROTOCOL.md's rule 17. Merges the rows into
benchmarks/results/equivalence.json, and the evidence of networks that were shown equivalent into the file that `--engine auto` reads
(mabench/suites/equivalence.json).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tabulate import tabulate

from mabench import data, suites
from mabench.engine import equivalence
from mabench.files import write_text
from mabench.results.scoring import score
from mabench.runs import local
from mabench.runs.events import Event, Finished
from mabench.runs.folder import Folder
from mabench.runs.plan import plan
from mabench.schema import Cell
from mabench.sets import readers as adapters

RESULTS = Path(__file__).parent / "results" / "equivalence.json"
EVIDENCE = equivalence.FILE
LIMIT = 0.002  # PROTOCOL.md, rule 17
SEEDS = 10


def _show(event: Event) -> None:
    if isinstance(event, Finished):
        r = event.record
        print(f"{r.engine:<9} {r.cell.name} {100 * score(r):.2f}% in {r.seconds:.0f} s", flush=True)


def keep_evidence(cells: list[Cell], rows: list[dict[str, Any]], suite: str, condensed: str) -> None:
    """Put what was shown into the file that `auto` reads; what is no longer shown leaves it."""
    known = {(row["key"], row["device"]): row for row in json.loads(EVIDENCE.read_text())}
    of_run = {row["evaluator"]: row for row in rows if (row["suite"], row["set"]) == (suite, condensed)}
    for cell in cells:
        row = of_run[cell.evaluator.name]
        device = "cpu" if row["device_fast"].startswith("cpu") else "cuda"
        key = equivalence.evidence_key(cell.evaluator, cell.recipe)
        known.pop((key, device), None)
        if row["equivalent"]:
            facts = {
                name: row[name] for name in ("evaluator", "suite", "seeds", "difference", "standard_error", "arithmetic", "torch")
            }
            known[key, device] = {"key": key, "device": device, "hardware": row["device_fast"], **facts}
    write_text(EVIDENCE, json.dumps(list(known.values()), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("set", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--evaluator", required=True)
    chosen = parser.parse_args()
    exam, condensed = suites.load(chosen.suite), adapters.read(chosen.set)
    cells = plan(exam, condensed, evaluator=chosen.evaluator)
    test = data.load(exam.suite.dataset, "test")
    records = {
        engine: local.run(
            condensed,
            cells,
            Folder(chosen.out / engine, condensed.sha256, exam.id, exam.digest),
            test,
            device="auto",
            engine=engine,
            on_event=_show,
        )
        for engine in ("reference", "fast")
    }
    rows = {
        (row["suite"], row["set"], row["evaluator"]): row for row in (json.loads(RESULTS.read_text()) if RESULTS.exists() else [])
    }
    for name in dict.fromkeys(c.evaluator.name for c in cells):
        pairs = [(a, b) for a, b in zip(*records.values(), strict=True) if a.cell.evaluator.name == name]
        differences = [score(b) - score(a) for a, b in pairs]
        mean = fmean(differences)
        rows[exam.id, condensed.name, name] = {
            "evaluator": name,
            "suite": exam.id,
            "set": condensed.name,
            "seeds": len(pairs),
            "acc_reference": fmean(score(a) for a, _ in pairs),
            "acc_fast": fmean(score(b) for _, b in pairs),
            "difference": mean,
            "standard_error": stdev(differences) / len(pairs) ** 0.5 if len(pairs) > 1 else None,
            "equivalent": len(pairs) >= SEEDS and abs(mean) < LIMIT,
            "differences": differences,
            "device_reference": pairs[0][0].environment["device"],
            "device_fast": pairs[0][1].environment["device"],
            "arithmetic": pairs[0][1].environment["arithmetic"],
            "torch": pairs[0][1].environment["torch"],
        }
    ordered = sorted(rows.values(), key=lambda r: (r["suite"], r["set"], r["evaluator"]))
    write_text(RESULTS, json.dumps(ordered, indent=1) + "\n")
    keep_evidence(cells, ordered, exam.id, condensed.name)
    body = [
        [
            r["suite"],
            r["evaluator"],
            r["seeds"],
            *(f"{100 * r[k]:.2f}" for k in ("acc_reference", "acc_fast")),
            f"{100 * r['difference']:+.2f}" + (f" ± {100 * r['standard_error']:.2f}" if r["standard_error"] is not None else ""),
            "yes" if r["equivalent"] else "no",
        ]
        for r in ordered
    ]
    print(tabulate(body, ["suite", "evaluator", "seeds", "reference %", "fast %", "difference", "equivalent"], tablefmt="github"))


if __name__ == "__main__":
    main()
