"""What a cell costs beside its own work, plain and as a task of Ray: python benchmarks/ray_overhead.py (needs mabench[ray])

Runs the cells of `digits-agnostic` on the bundled digits twice, one thread and one cell at a time: by `mabench eval`, and by the same
command on a fresh Ray cluster of one processor. A cell's overhead is the time from the record before to its own, less the seconds
that the cell itself says it took; startup is the time to the first record, less that cell's seconds. Prints JSON, medians first.
On a busy machine both grow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import resources
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ray.cluster_utils import Cluster

from mabench.runs.folder import read_record

SET = resources.files("mabench").joinpath("assets", "digits_kmeans_ipc5.safetensors")


def run(out: Path, *flags: str) -> dict[str, Any]:
    """Startup and every cell's overhead, seconds."""
    command = [
        sys.executable,
        "-m",
        "mabench.cli.main",
        "eval",
        str(SET),
        "--suite",
        "digits-agnostic",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    begun = time.time()
    subprocess.run([*command, *flags], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    ended = time.time()
    written = sorted((path.stat().st_mtime, read_record(path).seconds) for path in (out / "records").glob("*.json"))
    over = [at - before - seconds for (before, _), (at, seconds) in pairwise(written)]
    return {
        "overhead_seconds_median": round(median(over), 3),
        "overhead_seconds": [round(value, 3) for value in over],
        "cell_seconds_median": round(median(seconds for _, seconds in written), 2),
        "startup_seconds": round(written[0][0] - begun - written[0][1], 1),
        "command_seconds": round(ended - begun, 1),
        "cells": len(written),
    }


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # workers inherit the node's environment
    load = os.getloadavg()[0]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with tempfile.TemporaryDirectory() as scratch:
            plain = run(Path(scratch) / "plain")
            through = run(Path(scratch) / "ray", "--launcher", "ray", "--address", cluster.address)
    finally:
        cluster.shutdown()
    print(json.dumps({"plain": plain, "ray": through, "load_average_before": round(load, 1), "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
