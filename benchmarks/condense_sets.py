"""Condense the small sets of every method, one seed of each before the next, cheapest first: python benchmarks/condense_sets.py OUT

    python benchmarks/condense_sets.py OUT --list                  # the sets, what each costs, which are there
    python benchmarks/condense_sets.py OUT --shard 0/2 &           # two processes share them
    python benchmarks/condense_sets.py OUT --only 'hmdc-*' --seeds 0 1 2
    python benchmarks/rows.py cifar10-lite --from OUT/rows         # their rows

Real CIFAR-10; `lite_sets.toml` has the sets. OUT/runs holds one folder a set, as `mabench reproduce` leaves it, OUT/rows a folder for
each row: its card and its sets, `set.safetensors` of seed 0, `set-2.safetensors` of seed 1, and so on. OUT/sets.jsonl gets a line for
each set with its sha256 and its seconds of processor time in this process. The same command resumes. Nothing is evaluated.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import torch

import mabench_methods
from mabench.files import copy, write_text
from mabench.networks.compiling import processor
from mabench.papers import condensing, presets
from mabench.schema import Card

SETS = Path(__file__).with_name("lite_sets.toml")
REAL = "CIFAR-10's own terms: its makers name no licence and ask to be cited"


@dataclass(frozen=True)
class Entry:
    """A row: what to condense, what its card says, and about how long one set takes, in seconds of one EPYC core."""

    slug: str
    name: str
    method: str
    preset: str
    seconds: int
    title: str
    note: str
    config: tuple[str, ...] = ()
    real: bool = False


def entries() -> list[Entry]:
    """Return the sets of `lite_sets.toml`, cheapest first."""
    found = [Entry(**{**each, "config": tuple(each.get("config", ()))}) for each in tomllib.loads(SETS.read_text())["set"]]
    return sorted(found, key=lambda entry: entry.seconds)


def target(entry: Entry, seed: int, out: Path) -> Path:
    """Return where a row's set of this seed lies once it is condensed."""
    return out / "rows" / entry.slug / ("set.safetensors" if seed == 0 else f"set-{seed + 1}.safetensors")


def condense(entry: Entry, seed: int, out: Path) -> None:
    """Condense one set into its folders."""
    folder, place = out / "runs" / f"{entry.slug}-seed{seed}", target(entry, seed, out)
    method = mabench_methods.load(entry.method)
    begun = time.process_time()
    made = condensing.condense(
        method, presets.preset(method, entry.preset, None, entry.config), seed, folder, torch.device("cpu")
    )
    line = {"folder": folder.name, "sha256": made.sha256, "seconds": round(time.process_time() - begun, 1)}
    place.parent.mkdir(parents=True, exist_ok=True)
    if seed == 0:
        write_text(place.with_name("card.toml"), card(entry, folder).toml())
    copy(folder / "set.safetensors", place)
    with (out / "sets.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def card(entry: Entry, folder: Path) -> Card:
    """Return the card that condensing left in `folder`, with what its row says beside."""
    said = {
        "slug": entry.slug, "title": entry.title, "method": entry.name, "authors": ("mabench authors",),
        "licence": REAL if entry.real else "MIT",
        "note": f"{entry.note} Made on one thread of an {processor()}.",
    }  # fmt: skip
    return Card(**tomllib.loads((folder / "card.toml").read_text()) | said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th set, from the i-th")
    parser.add_argument("--only", default="*", help="only rows whose slug matches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of condensing (default: 0 1 2)")
    parser.add_argument("--list", action="store_true", help="condense nothing")
    arguments = parser.parse_args()
    number, count = map(int, arguments.shard.split("/"))
    chosen = [(entry, seed) for seed in arguments.seeds for entry in entries() if fnmatch.fnmatchcase(entry.slug, arguments.only)]
    torch.set_num_threads(1)
    for entry, seed in chosen[number::count]:
        there = target(entry, seed, arguments.out).exists()
        if arguments.list:
            print(f"{entry.seconds:6d} s  {'there  ' if there else 'missing'}  {entry.slug}, seed {seed}")
        elif not there:
            condense(entry, seed, arguments.out)


if __name__ == "__main__":
    main()
