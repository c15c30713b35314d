"""What a whole suite costs on this device, network by network: python benchmarks/track.py SET --suite SUITE --name NAME
[--evaluator GLOB]

Every evaluator gets a process. All compile side by side; then, one at a time, each runs the plain loop of the papers' code
(`plain_loop.py`) and ours, each at two lengths after a first run, so that the difference is what an epoch costs, its share of
the test passes included: in the first fifty epochs, where hardly a test image can be skipped. Pretrained networks have random weights:
it is the time that counts. A cell and a track are scaled up from that difference. Writes a JSON file to
benchmarks/results/ and prints a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import plain_loop
import torch
from tabulate import tabulate

from mabench import data, suites, training
from mabench.files import write_text
from mabench.networks import sizes
from mabench.networks.compiling import processor
from mabench.runs import costs
from mabench.runs.plan import plan
from mabench.runs.process import resolve_device
from mabench.schema import Cell, RunRecord
from mabench.sets import readers as adapters

HERE = Path(__file__).parent
SHORT, LONG, PLAIN_LONG = 10, 50, 30  # epochs


def ours(cell: Cell, one: Any, test: data.RealData, device: torch.device, epochs: int, work: float) -> RunRecord:
    recipe = cell.recipe.model_copy(update={"epochs": epochs})
    shortened = cell.model_copy(update={"recipe": recipe})
    return training.run(one, shortened, test, device=device, engine="fast", panel_work=work)


def child(name: str, set_path: str, suite: str, device: torch.device) -> None:
    """Compile, say so, wait for the turn, measure, print one JSON line."""
    loaded_suite, one = suites.load(suite), adapters.read(Path(set_path))
    test = data.load(loaded_suite.suite.dataset, "test")
    (cell, *_) = plan(loaded_suite, one, evaluator=name, seeds=[0])
    cell = costs.with_random_weights(cell)
    decoded = len(one.decoded()[0])
    with training.deterministic(device):
        # whether to compile is decided by the length of the cell: the whole one's
        whole = costs.flops(cell, test.dataset, decoded, len(test.labels))
        begun = time.monotonic()
        ours(cell, one, test, device, SHORT, whole)
        startup = time.monotonic() - begun
        if device.type == "cuda":
            torch.cuda.empty_cache()
        print("ready", flush=True)
        sys.stdin.readline()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        runs = [ours(cell, one, test, device, epochs, whole) for epochs in (SHORT, LONG)]
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    job = {"set": set_path, "suite": suite, "evaluator": name, "device": str(device), "random_weights": True}
    plain_loop.run({**job, "epochs": 3, "test_images": 512})
    plain = [plain_loop.run({**job, "epochs": epochs}) for epochs in (SHORT, PLAIN_LONG)]
    passes = max(1, (LONG - SHORT) // cell.recipe.test_every)
    fast = (runs[1].seconds - runs[0].seconds) / (LONG - SHORT)
    plain_training, plain_testing = (
        (float(str(plain[1][part])) - float(str(plain[0][part]))) / (PLAIN_LONG - SHORT) for part in ("training", "testing")
    )
    flops = sizes.of(cell.evaluator, test.dataset.num_classes, test.dataset.channels).flops
    tested = runs[1].images_tested - runs[0].images_tested
    passes = (LONG - SHORT) * decoded * training.TRAIN_COST + tested
    result = {
        "startup_seconds_beside_the_others": round(startup, 2),
        "fast_seconds_an_epoch": fast,
        "plain_seconds_an_epoch": plain_training + plain_testing,
        "plain_seconds_of_it_testing": plain_testing,
        "ratio": (plain_training + plain_testing) / fast,
        "flops_an_image": flops,
        "fast_flops_a_second": passes * flops / fast / (LONG - SHORT),
        "test_images_skipped": 1 - tested / (passes * len(test.labels)),
        "peak_bytes_on_device": peak,
        "epochs": cell.recipe.epochs,
        "arithmetic": runs[1].environment["arithmetic"],
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("set", type=Path)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--evaluator", default="*")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--wait", type=float, default=240.0, help="seconds that a network may be measured for")
    parser.add_argument("--name", required=True)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    device = resolve_device(chosen.device)
    if chosen.child:
        child(chosen.child, str(chosen.set), chosen.suite, device)
        return
    loaded_suite = suites.load(chosen.suite)
    data.load(loaded_suite.suite.dataset, "test")  # once, not in every process at a time
    names = [(t, e.name) for t, es in loaded_suite.evaluators.items() for e in es if fnmatch(e.name, chosen.evaluator)]
    command = [sys.executable, __file__, str(chosen.set), "--suite", chosen.suite, "--device", chosen.device, "--name", ""]
    children = {
        name: subprocess.Popen([*command, "--child", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _, name in names
    }
    results: dict[str, Any] = {}
    body = []
    for process in children.values():
        assert process.stdout is not None
        process.stdout.readline()
    for track, name in names:
        process = children[name]
        try:
            out, _ = process.communicate("go\n", timeout=chosen.wait)
            results[name] = found = json.loads(out.splitlines()[-1])
        except Exception:
            traceback.print_exc()
            process.kill()
            continue
        cell = found["fast_seconds_an_epoch"] * found["epochs"]
        body.append(
            [
                track, name, f"{found['ratio']:.1f}", f"{1000 * found['fast_seconds_an_epoch']:.1f}", f"{cell / 60:.1f}",
                f"{found['fast_flops_a_second'] / 1e12:.0f}", f"{found['startup_seconds_beside_the_others']:.0f}", found["arithmetic"],
            ]
        )  # fmt: skip
        value = {
            "what": f"{loaded_suite.id} on {chosen.set.name}, epochs {SHORT} to {LONG} (plain: {PLAIN_LONG}) of each network, random weights",
            "environment": training.environment(device),
            "processor": processor(),
            "date": datetime.now(UTC).date().isoformat(),
            "evaluators": results,
        }
        write_text(HERE / "results" / f"{chosen.name}.json", json.dumps(value, indent=1) + "\n")
    head = ["track", "evaluator", "ratio", "ms an epoch", "minutes a cell", "TFLOP/s", "first run, s", "arithmetic"]
    print(tabulate(body, head, disable_numparse=True))
    for track in loaded_suite.evaluators:
        cells = [results[n]["fast_seconds_an_epoch"] * results[n]["epochs"] for t, n in names if t == track and n in results]
        print(f"{track}: {len(cells)} networks, {sum(cells) / 3600:.2f} h a seed, {len(loaded_suite.suite.seeds)} seeds")


if __name__ == "__main__":
    main()
