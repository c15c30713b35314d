"""How first losses differ from machine to machine, and which steps depend on rounding: seed 0 of every network of submissions.

    python benchmarks/first_steps.py herding-ipc1 dm-lite-ipc1

Losses of the record, of a run here, and of one here whose weights were moved by a rounding, into benchmarks/results/first_steps.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mabench import data, training
from mabench.board import rechecks, submission
from mabench.networks.compiling import processor
from mabench.sets import synthetic

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "first_steps.json"


def measured(slug: str) -> list[dict[str, Any]]:
    """One entry per network of a submission's first set."""
    folder = ROOT / "submissions" / slug
    submitted, synthetic_set = submission.read(folder), synthetic.load(folder / submission.SET)
    assert submitted is not None
    test, device = data.load(synthetic_set.dataset, "test"), torch.device("cpu")
    found = []
    for record in submitted.records.values():
        cell = record.cell
        if record.first_losses and cell.seed == 0 and cell.set_sha256 == synthetic_set.sha256:
            moved = rechecks.ARITHMETIC["float32"].moved
            digest, here = training.first_losses(synthetic_set, cell, test, device)
            _, other = training.first_losses(synthetic_set, cell, test, device, moved=moved)
            found.append(
                {
                    "submission": slug,
                    "network": cell.evaluator.name,
                    "processor": record.environment["processor"],
                    "arithmetic": record.environment["arithmetic"],
                    "same_weights": digest == record.initial_weights_sha256,
                    "record": record.first_losses,
                    "here": here,
                    "moved": other,
                }
            )
    return found


if __name__ == "__main__":
    runs = [run for slug in sys.argv[1:] for run in measured(slug)]
    RESULT.write_text(json.dumps({"processor": processor(), "runs": runs}, indent=1) + "\n")
