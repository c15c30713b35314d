"""What does it cost that HMDC's released evaluator trains the ConvNet's classifier alone? python benchmarks/classifier_only.py FOLDER
[--sets 3] [--engine fast] [--collect]

Evaluate packed Random, IPC 10, in `cifar10-hmdc` and in `hmdc_every_layer.toml`, which differs in this alone: N draws, each with one
of the suite's seeds. Resumes in FOLDER; `--collect` runs nothing and takes the runs that are there. Prints the table, draws the
curves into docs/assets/, writes every test pass into results/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, pstdev

from matplotlib.figure import Figure
from tabulate import tabulate

from mabench.files import write_text
from mabench.results import scoring
from mabench.runs.folder import read_record
from mabench.schema import RunRecord

HERE = Path(__file__).parent
EXAMS = {
    # what is trained -> suite, colour of its curves
    "classifier only": ("cifar10-hmdc", "#c44e52"),
    "every layer": (str(HERE / "hmdc_every_layer.toml"), "#4c72b0"),
}
PUBLISHED = 36.45  # HMDC, Table 1: Random, IPC 10, ConvNet


def evaluated(suite: str, folder: Path, sets: int, engine: str, collect: bool) -> list[RunRecord]:
    command = [sys.executable, "-m", "mabench.cli.main", "reproduce", "random", "--preset", "packed-ipc10", "--sets", str(sets)]
    command += ["--suite", suite, "--evaluator", "convnet3-scratch", "--engine", engine, "--out", str(folder)]
    if not collect:
        subprocess.run(command, check=False)  # exit code 1: a number lies outside, which the table will show
    found = [read_record(p) for p in sorted(folder.glob("*@*/**/records/*.json"))]
    assert len(found) == sets or (collect and found), f"{folder}: {len(found)} of {sets} runs are there"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--engine", default="fast")
    parser.add_argument("--collect", action="store_true")
    chosen = parser.parse_args()
    runs = {
        name: evaluated(suite, chosen.folder / name.replace(" ", "-"), chosen.sets, chosen.engine, chosen.collect)
        for name, (suite, _) in EXAMS.items()
    }
    body = []
    for name, records in runs.items():
        best, last = [100 * scoring.score(r) for r in records], [100 * scoring.last(r) for r in records]
        body.append([name, *(f"{fmean(v):.2f} ({pstdev(v):.2f})" for v in (best, last)), len(records)])
    print(tabulate(body, ["trained", "best pass %", "last pass %", "runs"], disable_numparse=True))

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, records in runs.items():
        for number, record in enumerate(records):
            whole = [(e, 100 * c / record.total) for e, c in record.curve if e not in record.upper_bounds]
            label = f"{name} (whole test passes)" if number == 0 else None
            axes.plot(*zip(*whole, strict=True), ".-", color=EXAMS[name][1], linewidth=0.8, markersize=3, label=label)
    axes.axhline(PUBLISHED, color="#555555", linestyle=":", linewidth=1.2, label=f"published: {PUBLISHED}")
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="packed Random, IPC 10, ConvNet of HMDC's suite")
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(HERE.parent / "docs" / "assets" / "hmdc_classifier_only.png", dpi=120, metadata={"Software": None})

    value = {
        "what": "packed Random, IPC 10, ConvNet of cifar10-hmdc@1 and of hmdc_every_layer.toml; `curve` is epoch and hits of 10,000",
        "command": " ".join(["python", "benchmarks/classifier_only.py", "FOLDER", *sys.argv[2:]]),
        "published": PUBLISHED,
        "runs": {
            name: [
                {
                    "set_sha256": r.cell.set_sha256,
                    "seed": r.cell.seed,
                    "best": 100 * scoring.score(r),
                    "last": 100 * scoring.last(r),
                    "curve": r.curve,
                    "upper_bounds": r.upper_bounds,
                    "images_tested": r.images_tested,
                    "seconds": r.seconds,
                    "environment": r.environment,
                }
                for r in records
            ]
            for name, records in runs.items()
        },
    }
    write_text(HERE / "results" / "classifier_only_packed_random_ipc10.json", json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
