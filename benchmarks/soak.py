"""Does memory stay flat? 200 cells of the digits suite, one after another in one process; prints and keeps the resident memory.

    python benchmarks/soak.py --out benchmarks/results/soak_HARDWARE_YYYYMM.json          # 200 cells, minutes

Every cell goes through `local.run`, as the command does it, with its network built anew, its checkpoints and its record. The
networks take turns, so that nothing of one size serves the next.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import torch

import mabench
from mabench import data, suites
from mabench.runs import local
from mabench.runs.folder import Folder
from mabench.runs.plan import plan
from mabench.sets import readers as adapters
from mabench.training import progress

EVERY = 20
CHECKPOINT_SECONDS = 0.2  # instead of a minute: every cell writes some


def resident_mib() -> float:
    """Memory of this process that lies in RAM, MiB (Linux)."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--evaluator", default="*", help="only networks of digits-agnostic whose name matches this glob")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    progress.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
    loaded_suite, test = suites.load("digits-agnostic"), data.load("digits", "test")
    with resources.as_file(resources.files("mabench").joinpath("assets", "digits_kmeans_ipc5.safetensors")) as path:
        synthetic_set = adapters.read(path)
    cells = plan(loaded_suite, synthetic_set, evaluator=options.evaluator)
    cells.sort(key=lambda cell: (cell.seed, cell.evaluator.name))
    done, begun, table = 0, time.monotonic(), []
    while done < options.cells:
        with tempfile.TemporaryDirectory() as place:  # a fresh folder a round: all cells run again
            for cell in cells[: options.cells - done]:
                folder = Folder(Path(place) / "out", synthetic_set.sha256, loaded_suite.id, loaded_suite.digest)
                local.run(synthetic_set, [cell], folder, test, device="cpu")
                done += 1
                if done % EVERY == 0:
                    gc.collect()
                    table.append((done, round(resident_mib(), 1)))
                    print(f"{done:>4} cells  {table[-1][1]:>8.1f} MiB  {time.monotonic() - begun:>7.0f} s", flush=True)
    first, last = table[0][1], table[-1][1]
    print(f"from {first:.1f} to {last:.1f} MiB: {last - first:+.1f} MiB in {table[-1][0] - table[0][0]} cells")
    facts = {
        "command": f"python benchmarks/soak.py --cells {options.cells} --evaluator '{options.evaluator}'",
        "when": datetime.now(UTC).strftime("%Y-%m"),
        "seconds": round(time.monotonic() - begun),
        "mabench": mabench.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "threads": torch.get_num_threads(),
        "suite": loaded_suite.id,
        "evaluators": sorted({cell.evaluator.name for cell in cells}),
        "cells_and_mib": table,
    }
    if options.out:
        options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
