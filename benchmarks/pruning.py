"""Which share of its test passes does a network skip, and is its best score unchanged? python benchmarks/pruning.py SET
[--suite passes.toml] [--evaluator GLOB] --name NAME

Run every cell twice with the fast engine and the same seed, once with pruned test passes and once with whole ones, and compares best
and best epoch, and every pass that was not cut short. Writes a JSON file to benchmarks/results/, again after every cell; exit
code 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from tabulate import tabulate

from mabench import data, suites, training
from mabench.files import write_text
from mabench.runs.plan import plan
from mabench.schema import Cell, RunRecord
from mabench.sets import readers as adapters

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("set", type=Path)
    parser.add_argument("--suite", default=str(HERE / "passes.toml"))
    parser.add_argument("--evaluator", default="*")
    parser.add_argument("--name", required=True)
    chosen = parser.parse_args()
    loaded_suite, condensed = suites.load(chosen.suite), adapters.read(chosen.set)
    test = data.load(loaded_suite.suite.dataset, "test")

    def evaluated(cell: Cell, prunes: bool) -> RunRecord:
        return training.run(condensed, cell, test, device=torch.device("cpu"), engine="fast", whole_test_passes=not prunes)

    rows, body = [], []
    for cell in plan(loaded_suite, condensed, evaluator=chosen.evaluator):
        pruned, whole = evaluated(cell, True), evaluated(cell, False)
        bounded = set(pruned.upper_bounds)
        same = (pruned.best, pruned.best_epoch) == (whole.best, whole.best_epoch) and all(
            (hits >= full if epoch in bounded else hits == full)
            for (epoch, hits), (_, full) in zip(pruned.curve, whole.curve, strict=True)
        )
        skipped = 1 - pruned.images_tested / whole.images_tested
        name, seed = cell.evaluator.name, cell.seed
        rows.append(
            {"evaluator": name, "seed": seed, "passes": len(whole.curve), "skipped": skipped, "same": same}
            | {"best": whole.best, "best_epoch": whole.best_epoch, "arithmetic": whole.environment["arithmetic"]}
        )
        body.append([name, seed, f"{skipped:.0%}", f"{whole.best:.2%}", whole.best_epoch, "yes" if same else "NO"])
        print(tabulate(body, ["network", "seed", "test images skipped", "best", "at epoch", "same without pruning"]), flush=True)
        value = {"set_sha256": condensed.sha256, "suite": loaded_suite.id, "cells": rows, "environment": whole.environment}
        write_text(HERE / "results" / f"{chosen.name}.json", json.dumps(value, indent=1) + "\n")
    sys.exit(not all(row["same"] for row in rows))


if __name__ == "__main__":
    main()
