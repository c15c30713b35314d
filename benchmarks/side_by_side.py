"""Are several small runs side by side on one GPU faster than one after the other? python benchmarks/side_by_side.py SUITE SET --name NAME

    python benchmarks/side_by_side.py cifar10-agnostic submissions/random-ipc1/set.safetensors --evaluator convnet3-scratch --name NAME

Runs the same seeds through Ray with a whole GPU a run, a half and a third, each time as one `mabench eval` on a cluster of its own, and
writes the seconds of each to benchmarks/results/NAME.json: of the whole command, and from the first run's start to the last record.
A share that is in the file is not run again, so the same command continues. Without a GPU, runs share the processor's cores instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from background import STOPPED, call, explained

from mabench import training
from mabench.errors import MabenchError
from mabench.files import write_text
from mabench.runs.folder import read_record
from mabench.runs.process import resolve_device, stop_on_signal

HERE = Path(__file__).parent
SHARES = {1.0: 1, 0.5: 2, 0.33: 3}
"""GPUs a run -> runs side by side."""


def measure(options: argparse.Namespace, share: float) -> dict[str, Any] | None:
    """One share: seconds, and what every run took by itself; None where a signal came first."""
    threads = max(1, (os.cpu_count() or 1) // SHARES[share])
    gpu = torch.cuda.is_available()
    each = ["--gpus-per-cell", f"{share:g}"] if gpu else ["--cpus-per-cell", str(threads)]
    with tempfile.TemporaryDirectory() as scratch, stop_on_signal() as asked:
        begun = time.time()
        command = [sys.executable, "-m", "mabench.cli.main", "eval", str(options.set), "--suite", options.suite]
        command += [part for glob in options.evaluator for part in ("--evaluator", glob)]
        command += ["--launcher", "ray", "--address", "local", *each, "--out", scratch, "--quiet"]
        code, ended = call(command, asked), time.time()
        if asked():
            return None
        if code:
            raise MabenchError(
                f"mabench eval ended with exit code {code}, see above. Run it alone: mabench {' '.join(command[3:])}"
            )
        files = sorted((Path(scratch) / "records").glob("*.json"), key=lambda path: path.stat().st_mtime)
        records = [read_record(path) for path in files]
        first = min(path.stat().st_mtime - record.seconds for path, record in zip(files, records, strict=True))
        return {
            "each": " ".join(each), "runs": len(records), "seconds": ended - begun,
            "seconds_of_the_runs": files[-1].stat().st_mtime - first, "seconds_of_each": [record.seconds for record in records],
            "engine": records[0].engine,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("set", type=Path)
    parser.add_argument("--evaluator", action="append", default=[], help="only evaluators whose name matches; may be repeated")
    parser.add_argument("--name", required=True, help="of the file in benchmarks/results/")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    file = options.results / f"{options.name}.json"
    value: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"shares": {}}
    value |= {
        "what": "the same runs through Ray, with a whole GPU each, a half and a third", "suite": options.suite, "set": str(options.set),
        "evaluators": options.evaluator, "environment": training.environment(resolve_device("auto")),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    with explained("side_by_side"):
        for share, together in SHARES.items():
            if str(together) not in value["shares"]:
                found = measure(options, share)
                if found is None:
                    print("stopped; the same command continues")
                    sys.exit(STOPPED)
                value["shares"][str(together)] = found
                write_text(file, json.dumps(value, indent=1) + "\n")
            row = value["shares"][str(together)]
            print(
                f"{together} side by side: {row['runs']} runs in {row['seconds_of_the_runs']:.1f} s, {row['seconds']:.1f} s in all",
                flush=True,
            )


if __name__ == "__main__":
    main()
