"""The full-data mark of a suite: every network trained on the whole training split: python benchmarks/full_data.py SUITE

    python benchmarks/full_data.py cifar10-lite                              # every network; the same command continues
    python benchmarks/full_data.py cifar10-lite --evaluator 'convnet3-*'     # one of them
    python benchmarks/full_data.py cifar10-lite --shard 1/2 &                # two processes share the networks
    python benchmarks/full_data.py cifar10-agnostic --minutes 9              # on a GPU that is lent for ten minutes
    python benchmarks/full_data.py cifar10-lite --collect                    # only write what has been run into the package

The suite's own recipe, but 20 epochs long, with as many test passes as the suite has, and its first seed. A run is saved once a minute,
and one that was stopped continues. Finished networks go into mabench/suites/baselines.json, the entry whose `ipc` is null: the upper end
of *recovery*, and what no condensed set may exceed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from background import explained, in_time, parser_of
from random_baseline import PACKAGED, accuracies, entry, joined, write

from mabench import data, suites
from mabench.results import scoring
from mabench.runs import local
from mabench.runs.events import Event, Finished, Progress
from mabench.runs.folder import Folder, read_record
from mabench.runs.plan import plan, select, shard
from mabench.suites import LoadedSuite
from mabench_methods.baselines.condense import Config, condense
from mabench_methods.kit import Run

EPOCHS = 20
SAY_SECONDS = 60.0


def shortened(loaded_suite: LoadedSuite, epochs: int) -> LoadedSuite:
    """The suite with `epochs` epochs a run and as many test passes as before."""
    recipes = {
        track: recipe.model_copy(update={"epochs": epochs, "test_every": max(1, epochs // len(recipe.test_epochs))})
        for track, recipe in loaded_suite.recipes.items()
    }
    return replace(loaded_suite, recipes=recipes, released=False)


def run(loaded_suite: LoadedSuite, out: Path, arguments: argparse.Namespace, should_stop: Callable[[], bool]) -> None:
    train, test = (data.load(loaded_suite.suite.dataset, split) for split in ("train", "test"))
    per_class = min(Counter(train.labels.tolist()).values())
    every = condense(train, Config(per_class, "random"), 0, torch.device("cpu"), Run(None))
    cells = shard(plan(loaded_suite, every, evaluator=arguments.evaluator, seeds=loaded_suite.suite.seeds[:1]), *arguments.shard)
    said = time.monotonic()

    def show(event: Event) -> None:
        nonlocal said
        if isinstance(event, Finished) and not event.resumed:
            score = 100 * scoring.score(event.record)
            print(f"{event.record.cell.name}: {score:.2f} in {event.record.seconds:.0f} s", flush=True)
        elif isinstance(event, Progress) and time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            print(f"{event.cell.name}: epoch {event.epoch} of {event.epochs}", flush=True)

    folder = Folder(out, every.sha256, loaded_suite.id, loaded_suite.digest)
    local.run(
        every, cells, folder, test, device=arguments.device, engine=arguments.engine, on_event=show, should_stop=should_stop
    )


def collect(loaded_suite: LoadedSuite, out: Path, epochs: int, into: Path) -> None:
    """Add the finished networks to the suite's entry; the other entries stay."""
    records = [read_record(path) for path in sorted((out / "records").glob("*.json"))]
    entries: list[dict[str, Any]] = json.loads(into.read_text())
    mark = next((e for e in entries if e["suite_digest"] == loaded_suite.digest and e["ipc"] is None), None)
    kept = [e for e in entries if e is not mark]
    if records:
        evaluators = {f"{r.cell.track}/{r.cell.evaluator.name}": {str(r.cell.seed): accuracies(r)} for r in records}
        new = entry(
            loaded_suite, (None, "none", "hard"), "full_data", evaluators, [r.environment for r in records], epochs=epochs
        )
        mark = joined(mark, new)
        write(into, [*kept, mark])
    for name, marks in sorted(mark["evaluators"].items()) if mark else ():
        print(f"{name}: {100 * next(iter(marks.values()))[0]:.2f}")


def main() -> None:
    parser = parser_of(__doc__, "results/full-data", PACKAGED, "the networks")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    with explained("full_data"):
        sys.exit(measure(arguments, time.monotonic()))


def measure(arguments: argparse.Namespace, begun: float) -> int:
    """Run this part of the networks, add what is finished to the entry, say what is left; the exit code."""
    loaded_suite = suites.load(arguments.suite)
    out = arguments.out / f"{loaded_suite.id}-{loaded_suite.digest[:8]}-{arguments.epochs}-epochs"
    chosen = select(loaded_suite, evaluator=arguments.evaluator, seeds=loaded_suite.suite.seeds[:1])
    names = [evaluator.name for _, evaluator, _ in shard(chosen, *arguments.shard)]

    def left() -> str:
        finished = {read_record(path).cell.evaluator.name for path in (out / "records").glob("*.json")}
        absent = [name for name in names if name not in finished]
        return f"{len(absent)} networks are left ({', '.join(absent)})"

    return in_time(
        arguments,
        begun,
        lambda should_stop: run(shortened(loaded_suite, arguments.epochs), out, arguments, should_stop),
        lambda: collect(loaded_suite, out, arguments.epochs, arguments.into),
        left,
    )


if __name__ == "__main__":
    main()
