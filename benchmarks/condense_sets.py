"""Condense the small sets of every method, one seed of each before the next, cheapest first: python benchmarks/condense_sets.py OUT

    python benchmarks/condense_sets.py OUT --list                  # the sets, what each costs, which are there
    python benchmarks/condense_sets.py OUT --shard 1/2 &           # two processes share them
    python benchmarks/condense_sets.py OUT --only 'hmdc-*' --only 'dc-*' --seeds 0 1 2 --minutes 9
    python benchmarks/rows.py cifar10-lite --from OUT/rows         # their rows

Real CIFAR-10; `lite_sets.toml` has the sets. OUT/runs holds one folder a set, as `mabench reproduce` leaves it, OUT/rows a folder for
each row: its card and its sets, `set.safetensors` of seed 0, `set-2.safetensors` of seed 1, and so on; a set that the row's submission
holds is not made again. OUT/sets.jsonl gets a line for each set with its sha256 and its seconds of processor time in this process. The
same command resumes. Nothing is evaluated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from background import STOPPED, add_options, explained, place

import mabench_methods
from mabench.board import submission as store
from mabench.errors import Interrupted
from mabench.evaluation.budget import Budget
from mabench.files import copy, write_text
from mabench.networks.compiling import processor
from mabench.papers import condensing, presets
from mabench.runs.plan import shard
from mabench.runs.process import stop_on_signal
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
    return out / "rows" / entry.slug / store.set_file(seed + 1)


def condense(entry: Entry, seed: int, out: Path, should_stop: Callable[[], bool]) -> None:
    """Condense one set into its folders."""
    folder, made_at = out / "runs" / f"{entry.slug}-seed{seed}", target(entry, seed, out)
    method = mabench_methods.load(entry.method)
    begun = time.process_time()
    chosen = presets.preset(method, entry.preset, None, entry.config)
    made = condensing.condense(method, chosen, seed, folder, torch.device("cpu"), should_stop=should_stop)
    line = {"folder": folder.name, "sha256": made.sha256, "seconds": round(time.process_time() - begun, 1)}
    made_at.parent.mkdir(parents=True, exist_ok=True)
    if seed == 0 or not made_at.with_name(store.CARD).exists():
        write_text(made_at.with_name(store.CARD), card(entry, folder).toml())
    copy(folder / "set.safetensors", made_at)
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
    parser.add_argument("--only", action="append", default=[], help="only rows whose slug matches; may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of condensing (default: 0 1 2)")
    parser.add_argument("--submissions", type=Path, default=Path("submissions"), help="where rows may lie that have these sets")
    parser.add_argument("--list", action="store_true", help="condense nothing")
    add_options(parser, "the sets")
    arguments = parser.parse_args()
    with explained("condense_sets"):
        sys.exit(run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Condense this part of the sets; the exit code."""
    begun = time.monotonic()
    chosen = [(entry, seed) for seed in arguments.seeds for entry in entries() if place(entry.slug, arguments.only) is not None]
    torch.set_num_threads(1)
    own = shard(chosen, *arguments.shard)

    def there(entry: Entry, seed: int) -> bool:
        places = target(entry, seed, arguments.out), arguments.submissions / entry.slug / store.set_file(seed + 1)
        return any(path.exists() for path in places)

    with stop_on_signal() as asked:
        budget = Budget(begun, arguments.minutes, asked)
        for entry, seed in own:
            if arguments.list:
                print(f"{entry.seconds:6d} s  {'there  ' if there(entry, seed) else 'missing'}  {entry.slug}, seed {seed}")
            elif not there(entry, seed):
                try:
                    condense(entry, seed, arguments.out, budget.should_stop)
                except Interrupted:
                    left = sum(not there(*each) for each in own)
                    print(f"stopped, {left} of {len(own)} sets are left; the same command continues")
                    return STOPPED if asked() else 0
    return 0


if __name__ == "__main__":
    main()
