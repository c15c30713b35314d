"""Choose learning rates without the test split: train on random real subsets, score on held-out TRAIN images.

    python benchmarks/rates.py benchmarks/rates.toml results/rates          # resumes; one small file per run
    python benchmarks/rates.py benchmarks/rates.toml results/rates --table  # what has been run, and the rate it suggests
    python benchmarks/rates.py benchmarks/rates.toml results/rates --shard 0/2 &   # two processes share the runs

The last 5,000 images of a fixed permutation of the train split are held out; random subsets (plain and packed 2x2, IPC 1 and 10) come
from the other 45,000. Every network is trained at every rate of its optimizer's grid with a constant rate, so that one curve shows
every shorter course as well. The suggested rate is the one whose worst rank over the subsets is best; ties go to the higher mean.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from mabench import data, suites, training
from mabench.data import RealData
from mabench.errors import Interrupted
from mabench.files import write_text
from mabench.runs import local as runner
from mabench.schema import Cell
from mabench.sets.synthetic import SyntheticSet
from mabench_methods.baselines.condense import Config, condense

HELD_OUT = 5000
GRIDS = {  # half a decade apart, around the field's usual rates
    ("sgd", False): (3e-3, 1e-2, 3e-2, 1e-1),
    ("adamw", False): (2e-4, 5e-4, 1e-3, 3e-3),
    ("sgd", True): (3e-4, 1e-3, 3e-3, 1e-2),
}
EPOCHS = {1: 200, 10: 100}  # by stored images per class: about the same number of steps


@dataclass(frozen=True)
class Subset:
    """A random real subset: how many stored images per class, packed 2x2 or not."""

    ipc: int
    packed: bool

    @property
    def name(self) -> str:
        return f"ipc{self.ipc}{'-packed' if self.packed else ''}"


SUBSETS = (Subset(10, False), Subset(1, True), Subset(1, False), Subset(10, True))


def parts(dataset: str) -> tuple[RealData, RealData]:
    """(what subsets are drawn from, what they are scored on): both of the train split, disjoint."""
    train = data.load(dataset, "train")
    order = np.random.default_rng(0).permutation(len(train.labels))
    return _part(train, order[:-HELD_OUT]), _part(train, order[-HELD_OUT:])


def _part(train: RealData, rows: np.ndarray) -> RealData:
    return replace(train, images=np.asarray(train.images)[rows], labels=np.asarray(train.labels)[rows], sha256="0" * 64)


def courses(exam: suites.Exam) -> Iterator[tuple[Subset, Cell, float]]:
    """Every run to be made, the cheapest subsets of all networks first."""
    for subset in SUBSETS:
        for track, entries in exam.evaluators.items():
            for entry in entries:
                for rate in GRIDS[entry.optimizer, entry.pretrained]:
                    epochs = EPOCHS[subset.ipc]
                    recipe = exam.recipes[track].model_copy(update={"epochs": epochs, "learning_rate": None})
                    changed = entry.model_copy(update={"learning_rate": rate})
                    yield subset, _cell(exam, track, changed, recipe), rate


def _cell(exam: suites.Exam, track: str, entry: object, recipe: object) -> Cell:
    values = {"set_sha256": "0" * 64, "suite": exam.id, "suite_digest": exam.digest, "track": track, "seed": 0}
    return Cell.model_validate(values | {"evaluator": entry, "recipe": recipe})


def draw(pool: RealData, subset: Subset) -> SyntheticSet:
    return condense(pool, Config(subset.ipc, "random", packed=subset.packed), 0, torch.device("cpu"))


def run(exam: suites.Exam, out: Path, shard: tuple[int, int]) -> None:
    pool, held_out = parts(exam.suite.dataset)
    sets: dict[Subset, SyntheticSet] = {}
    with runner.stop_on_signal() as should_stop:
        for number, (subset, cell, rate) in enumerate(courses(exam)):
            file = out / f"{cell.evaluator.name}--{subset.name}--{rate:g}.json"
            if number % shard[1] != shard[0] or file.exists():
                continue
            drawn = sets.setdefault(subset, sets.get(subset) or draw(pool, subset))
            own = cell.model_copy(update={"set_sha256": drawn.sha256})
            record = training.run(drawn, own, held_out, device=torch.device("cpu"), should_stop=should_stop)
            entry = {
                "evaluator": cell.evaluator.name,
                "subset": subset.name,
                "rate": rate,
                "held_out_images": HELD_OUT,
                "curve": list(record.curve),
                "diverged_epoch": record.diverged_epoch,
                "seconds": record.seconds,
                "environment": record.environment,
            }
            write_text(file, json.dumps(entry) + "\n")
            print(f"{file.stem}: {100 * record.curve[-1][1] / record.total:.2f} in {record.seconds:.0f} s", flush=True)


def table(out: Path) -> None:
    """Accuracy on the held-out images by network, rate and subset, best pass, in percent."""
    found: dict[str, dict[float, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(out.glob("*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        hits = 0 if entry["diverged_epoch"] else max(h for _, h in entry["curve"])
        found[entry["evaluator"]][entry["rate"]][entry["subset"]] = 100 * hits / entry["held_out_images"]
    for evaluator, rates in found.items():
        names = [s.name for s in SUBSETS if any(s.name in values for values in rates.values())]
        print(f"\n{evaluator}\n{'rate':>8}  " + "  ".join(f"{name:>12}" for name in names))
        for rate in sorted(rates):
            print(f"{rate:>8g}  " + "  ".join(f"{rates[rate].get(name, float('nan')):12.2f}" for name in names))
        whole = {rate: values for rate, values in rates.items() if all(name in values for name in names)}
        if whole:
            ranks = {n: sorted(whole, key=lambda r, n=n: -whole[r][n]) for n in names}  # type: ignore[misc]
            chosen = min(whole, key=lambda r: (max(ranks[n].index(r) for n in names), -fmean(whole[r].values())))
            print(f"suggested: {chosen:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="a TOML file")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shard", default="0/1", help="I/N: only every Nth run, from the Ith")
    parser.add_argument("--table", action="store_true", help="print what has been run")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.out)
        return
    index, count = map(int, arguments.shard.split("/"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        run(suites.load(arguments.suite), arguments.out, (index, count))
    except Interrupted:
        print("stopped; the same command continues")


if __name__ == "__main__":
    main()
