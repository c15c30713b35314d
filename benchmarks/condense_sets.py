"""Condense the small sets of every method, cheapest first: python benchmarks/condense_sets.py OUT [--shard 0/2] [--only dm] [--list]

Real CIFAR-10, seeds 0, 1 and 2, one folder a set, `OUT/METHOD-PRESET-ipcN-seedS`, as `mabench reproduce` leaves it. The same command
resumes: finished sets are skipped, the set under way continues from its checkpoint. OUT/sets.jsonl gets a line for each set with its
sha256 and its seconds of processor time in this process. Nothing is evaluated.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import mabench_methods
from mabench.papers import condensing, presets


@dataclass(frozen=True)
class Entry:
    """A preset to condense, and about how long one set takes, in seconds of one EPYC core without other work."""

    method: str
    preset: str
    seconds: int
    changes: tuple[str, ...] = ()


ENTRIES = (
    Entry("dm", "lite-ipc1", 160),
    Entry("dsa", "lite", 160),
    Entry("dc", "lite", 170),
    Entry("dm", "lite", 200),
    Entry("model-pool", "lite", 220),
    Entry("rded", "lite", 260),
    Entry("rded", "lite-ipc1", 261),
    Entry("rded", "lite-mosaic", 262),
    Entry("idc", "lite", 400),
    Entry("dream", "lite", 400),
    Entry("trajectory", "lite", 450),
    Entry("mtt", "lite", 450),
    Entry("hmdc", "lite", 850),
    Entry("gvbsm", "lite", 900),
    Entry("dc", "lite", 1000, ("ipc=10", "iterations=10")),
    Entry("idc", "lite", 1000, ("ipc=10",)),
    Entry("dream", "lite", 1000, ("ipc=10",)),
    Entry("dsa", "narrow", 1530),
    Entry("hmdc", "lite", 2500, ("ipc=10",)),
)
SEEDS = (0, 1, 2)


def jobs() -> list[tuple[Entry, int]]:
    """Return every entry with every seed, cheapest first."""
    return [(entry, seed) for entry in sorted(ENTRIES, key=lambda entry: entry.seconds) for seed in SEEDS]


def condense(entry: Entry, seed: int, out: Path) -> None:
    """Condense one set into its folder, unless it is there."""
    method = mabench_methods.load(entry.method)
    preset = presets.preset(method, entry.preset, None, entry.changes)
    folder = out / f"{entry.method}-{entry.preset.removesuffix('-ipc1')}-ipc{preset.config.ipc}-seed{seed}"
    if (folder / "set.safetensors").exists():
        return
    begun = time.process_time()
    made = condensing.condense(method, preset, seed, folder, torch.device("cpu"))
    line = {"folder": folder.name, "sha256": made.sha256, "seconds": round(time.process_time() - begun, 1)}
    with (out / "sets.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th set, from the i-th")
    parser.add_argument("--only", default="", help="a method's name")
    parser.add_argument("--list", action="store_true", help="print the sets and their cost")
    arguments = parser.parse_args()
    number, count = map(int, arguments.shard.split("/"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for entry, seed in jobs()[number::count]:
        if arguments.only in ("", entry.method):
            if arguments.list:
                print(f"{entry.seconds:6d} s  {entry.method} {entry.preset} {' '.join(entry.changes)} seed {seed}")
            else:
                condense(entry, seed, arguments.out)


if __name__ == "__main__":
    main()
