"""Measure the random baseline of a suite and budget: python benchmarks/random_baseline.py SUITE IPC OUT

Draw s of random real images is examined with seed s, so the spread covers draws and initial weights alike. Writes the
entry into mabench/suites/baselines.json; the records stay in OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean, stdev

import torch

from mabench import data, suites
from mabench.files import write_text
from mabench.results.scoring import score
from mabench.runs import local
from mabench.runs.events import Event, Finished
from mabench.runs.folder import Folder
from mabench.runs.plan import plan
from mabench.schema import RunRecord
from mabench_methods.baselines.condense import Config, condense

BASELINES = suites.FOLDER / "baselines.json"


def _show(event: Event) -> None:
    if isinstance(event, Finished):
        print(event.record.cell.name, score(event.record))


def main(suite: str, ipc: int, out: Path) -> None:
    exam = suites.load(suite)
    test, train = data.load(exam.suite.dataset, "test"), data.load(exam.suite.dataset, "train")
    records: list[RunRecord] = []
    for seed in exam.suite.seeds:
        drawn = condense(train, Config(ipc, "random"), seed, torch.device("cpu"))
        folder = Folder(out / f"draw{seed}", drawn.sha256, exam.id, exam.digest)
        cells = plan(exam, drawn, seeds=[seed])
        records += local.run(drawn, cells, folder, test, device="auto", on_event=_show)
    scores: dict[str, list[float]] = {}
    for record in records:
        scores.setdefault(f"{record.cell.track}/{record.cell.evaluator.name}", []).append(score(record))
    entry = {
        "suite": exam.id,
        "suite_digest": exam.digest,
        "ipc": ipc,
        "labels": "hard",
        "command": f"python benchmarks/random_baseline.py {suite} {ipc} OUT",
        "environment": records[-1].environment,
        "evaluators": {name: [fmean(v), stdev(v), len(v)] for name, v in scores.items()},
    }
    kept = [e for e in json.loads(BASELINES.read_text()) if (e["suite_digest"], e["ipc"]) != (exam.digest, ipc)]
    write_text(BASELINES, json.dumps([*kept, entry], indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
