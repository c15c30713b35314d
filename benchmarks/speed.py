"""How much faster than a plain loop: python benchmarks/speed.py SET --suite SUITE --evaluator NAME [--share 0.1] [--fast-share 1]
[--seeds 0] [--again]

Alternates, in one run, the plain loop of the papers' code (`plain_loop.py`) and `mabench eval --engine fast` on the same cell,
each in a process of its own: whole-process seconds, compilation counted, with a compiler cache that starts empty. The plain
loop may run a share of the epochs; what follows its start is then scaled up, and the result says so. So may ours, for cells of
hours: once with the empty cache, then twice with the full one, the last time for half of the share; what lies between these
two is what the epochs left out would have cost.
With several seeds the plain loop runs one of them, scaled to all. With `--again` ours runs a second time, all programs compiled
before. Writes a JSON file to benchmarks/results/ and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

import mabench
from mabench import suites
from mabench.files import cache_folder
from mabench.networks.compiling import processor

HERE = Path(__file__).parent


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Wall seconds, peak memory in bytes of that process, and its standard output."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, env=os.environ | environment, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begun
        out.seek(0)
        if status:
            raise SystemExit(f"failed: {' '.join(command)}")
        return seconds, usage.ru_maxrss * 1024, out.read()


def shortened(suite: str, epochs: int, share: float, folder: Path) -> str:
    """The suite with a share of its epochs, as a suite of one's own; the suite itself where the share is all."""
    if share == 1.0:
        return suite
    paths = [p for name, p in suites.released().items() if name == suite or name.startswith(suite + "@")]
    text = (paths[-1] if paths else Path(suite)).read_text()
    own = folder / "shortened.toml"
    fewer = max(1, round(epochs * share))
    changed, count = re.subn(rf"(?m)^epochs = {epochs}\b", f"epochs = {fewer}", text)
    own.write_text(changed.replace('name = "', 'name = "shortened-', 1))
    assert count == 1 and suites.load(str(own)).suite.recipe.epochs == fewer, f"{suite}: epochs not found"
    return str(own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("set", type=Path)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--evaluator", required=True)
    parser.add_argument("--share", type=float, default=0.1, help="share of the epochs that the plain loop runs")
    parser.add_argument("--fast-share", type=float, default=1.0, help="share of the epochs that our loop runs")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--again", action="store_true", help="time our whole cell from a full compiler cache, too")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--name", required=True, help="name of the result, e.g. convnet3_ipc10_epyc")
    chosen = parser.parse_args()
    if chosen.again and chosen.fast_share < 1.0:
        parser.error("--again times whole cells: leave out --fast-share")
    loaded_suite = suites.load(chosen.suite)
    (recipe,) = [loaded_suite.recipes[t] for t, es in loaded_suite.evaluators.items() for e in es if e.name == chosen.evaluator]
    epochs = max(1, round(recipe.epochs * chosen.share))
    seeds = len(chosen.seeds.split(","))
    plain_seconds, plain_memory, fast_seconds, fast_memory, steady = [], [], [], [], []
    record, again = {}, list[float]()
    for _ in range(chosen.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            job = Path(scratch) / "job.json"
            job.write_text(
                json.dumps({"set": str(chosen.set), "suite": chosen.suite, "evaluator": chosen.evaluator, "epochs": epochs})
            )
            seconds, memory, text = measured([sys.executable, str(HERE / "plain_loop.py"), str(job)], {})
            plain = json.loads(text.splitlines()[-1])
            work = plain["training"] + plain["testing"]
            plain_seconds.append(seconds - work + seeds * work * recipe.epochs / epochs)
            plain_memory.append(memory)
            cache, shares = f"{scratch}/cache", [1.0, 1.0] if chosen.again else [chosen.fast_share]
            if chosen.fast_share < 1.0:  # a shortened cell would not look for its best test batch: what is known of it counts
                cache, shares = str(cache_folder()), [chosen.fast_share, chosen.fast_share, chosen.fast_share / 2]
            elif (known := cache_folder()).exists():  # the datasets, but nothing that was measured
                shutil.copytree(known, cache, ignore=shutil.ignore_patterns("calibration.json", "compiled"))
            runs: list[tuple[float, list[dict[str, Any]]]] = []
            for run, share in enumerate(shares):
                own = shortened(chosen.suite, recipe.epochs, share, Path(scratch))
                out = Path(scratch) / f"out{run}"
                command = [sys.executable, "-m", "mabench.cli.main", "eval", str(chosen.set), "--suite", own]
                command += ["--evaluator", chosen.evaluator, "--seeds", chosen.seeds, "--engine", "fast", "--out", str(out)]
                seconds, memory, _text = measured(
                    command, {"TORCHINDUCTOR_CACHE_DIR": f"{scratch}/compiled", "MABENCH_CACHE": cache}
                )
                records = [json.loads(path.read_text()) for path in sorted((out / "records").iterdir())]
                runs.append((seconds, records))
                fast_memory.append(memory)
            whole, (record, *_) = runs[0]
            again += [seconds for seconds, _ in runs[1:]] if chosen.again else []
            cells = [[r["seconds"] for r in records] for _, records in runs]
            if chosen.fast_share < 1.0:
                whole += (sum(cells[1]) - sum(cells[2])) * (1 - chosen.fast_share) / (chosen.fast_share / 2)
            fast_seconds.append(whole)
            steady.append(cells)
    passes = len(record["curve"])
    result = {
        "what": f"{chosen.evaluator} of {loaded_suite.id} on {chosen.set.name}, {recipe.epochs} epochs, a test pass every {recipe.test_every}",
        "command": " ".join(["python", "benchmarks/speed.py", chosen.set.name, *sys.argv[2:]]),
        "plain_epochs_run": epochs,
        "plain_seconds": plain_seconds,
        "plain_last_run": plain,
        "plain_peak_bytes": max(plain_memory),
        "fast_share": chosen.fast_share,
        "fast_seconds": fast_seconds,
        "fast_seconds_again": again,
        "fast_cell_seconds": steady,
        "fast_peak_bytes": max(fast_memory),
        "ratio": statistics.median(plain_seconds) / statistics.median(fast_seconds),
        "test_images_skipped": 1 - record["images_tested"] / (passes * record["total"]),
        "fast_best_and_last": [max(c for _, c in record["curve"]) / record["total"], record["curve"][-1][1] / record["total"]],
        "arithmetic": record["environment"]["arithmetic"],
        "seeds": seeds,
        "device": record["environment"]["device"],
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mabench": mabench.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    out = HERE / "results" / f"speed_{chosen.name}_{datetime.now(UTC):%Y%m}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    body = [
        ["plain loop", f"{statistics.median(plain_seconds):,.0f}", f"{max(plain_memory) / 2**30:.2f}"],
        ["mabench, fast", f"{statistics.median(fast_seconds):,.0f}", f"{max(fast_memory) / 2**30:.2f}"],
    ]
    print(f"\n{result['what']}")
    if epochs < recipe.epochs:
        print(f"plain loop: {epochs} of {recipe.epochs} epochs run, scaled")
    if chosen.fast_share < 1.0:
        print(f"mabench: {100 * chosen.fast_share:g}% of the epochs run, scaled")
    print(tabulate(body, ["", "seconds", "peak GiB"], disable_numparse=True, colalign=("left", "right", "right")))
    print(f"ratio {result['ratio']:.1f}; test images skipped: {100 * result['test_images_skipped']:.0f}%; written to {out}")


if __name__ == "__main__":
    main()
