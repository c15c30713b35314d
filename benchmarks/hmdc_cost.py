"""What a step of HMDC costs on this device: python benchmarks/hmdc_cost.py PRESET... [--steps 11] [--seconds S] --name NAME

Runs the beginning of each preset with random images and random weights in place of real ones: it is the time that counts.
Step 1 is left out, as it pays for libraries and memory. Steps 1, 11, 21, ... sample the gradients and choose the real images, so
steps 2 to 11 hold one such among ten; a run cut short by `--seconds` may hold none, and says so. Writes a JSON file to
benchmarks/results/ and prints a table.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from mabench import training
from mabench.data import DATASETS, RealData
from mabench.errors import Interrupted
from mabench.files import write_text
from mabench.networks.compiling import processor
from mabench.networks.evaluators import EVALUATORS
from mabench.runs.process import resolve_device
from mabench_methods.hmdc.condense import Config, condense
from mabench_methods.hmdc.presets import METHOD
from mabench_methods.kit import Run

HERE = Path(__file__).parent
IMAGES = 50_000


def beginning(train: RealData, config: Config, steps: int, seconds: float, device: torch.device) -> list[float]:
    """Seconds from the start to the end of each of the first steps, no further one begun after so many seconds."""
    begun, times = time.monotonic(), list[float]()

    def note(*_: object) -> None:
        times.append(time.monotonic() - begun)
        print(f"step {len(times)} done after {times[-1]:.1f} s", flush=True)

    run = Run(None, note, lambda: len(times) >= steps or time.monotonic() - begun > seconds)
    with suppress(Interrupted):
        condense(train, config, 0, device, run)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", required=True)
    chosen = parser.parse_args()
    device = resolve_device(chosen.device)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 32, 32), np.uint8)
    train = RealData(pixels, np.arange(IMAGES) % 10, DATASETS["cifar10"], "train", "")
    for name, entry in EVALUATORS.items():
        EVALUATORS[name] = entry.model_copy(update={"pretrained": False})  # type: ignore[index]
    found, body = {}, []
    for preset in chosen.presets:
        config = METHOD.presets[preset].config
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = beginning(train, config, chosen.steps, chosen.seconds, device)
        total = config.pretraining + config.iterations * config.steps
        each = (times[-1] - times[0]) / (len(times) - 1)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        found[preset] = {
            "steps_run": len(times), "ends": times, "steps_of_the_whole": total, "seconds_a_step": each, "seconds_of_the_first": times[0],
            "hours_of_the_whole": each * total / 3600, "peak_bytes_on_device": peak,
        }  # fmt: skip
        body.append(
            [
                preset,
                len(times),
                f"{total:,}",
                f"{each:.2f}{'' if len(times) > config.period else ', none sampled'}",
                f"{each * total / 3600:.1f}",
                f"{peak / 2**30:.1f}",
            ]
        )
    print(tabulate(body, ["preset", "steps run", "of", "seconds a step", "hours the whole", "peak GiB"], disable_numparse=True))
    value = {
        "what": "HMDC, its first steps, random images and random weights",
        "environment": training.environment(device),
        "processor": processor(),
        "date": datetime.now(UTC).date().isoformat(),
        "presets": found,
    }
    write_text(HERE / "results" / f"{chosen.name}.json", json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
