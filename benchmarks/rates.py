"""Choose learning rates without the test split: train on random real subsets, score on held-out TRAIN images.

    python benchmarks/rates.py benchmarks/rates.toml results/rates          # resumes; one small file per run
    python benchmarks/rates.py benchmarks/rates.toml results/rates --shard 1/2 &   # two processes share the runs
    python benchmarks/rates.py cifar10-agnostic results/rates-headline --track scratch --minutes 9
    python benchmarks/rates.py benchmarks/rates.toml results/rates --table  # what has been run, the rates it suggests, a picture
    python benchmarks/rates.py benchmarks/rates.toml results/rates --table --epochs 100   # the same for courses of 100 epochs

The last 5,000 images of a fixed permutation of the train split are held out; random subsets (plain and packed 2x2, IPC 1, 10, 50)
come from the rest. OUT/material/ keeps both, so that a machine without the train split can continue from a copy of that folder.
Every network is trained at every rate of its optimizer's grid with a constant rate, so that one curve shows every shorter course
as well. The suggested rate is the one whose worst rank over the subsets is best; ties go to the higher mean.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import torch
from background import STOPPED, add_options, explained

from mabench import data, suites, training
from mabench.data import RealData
from mabench.errors import Interrupted
from mabench.evaluation.budget import Budget
from mabench.files import write_bytes, write_text
from mabench.runs.plan import shard
from mabench.runs.process import resolve_device, stop_on_signal
from mabench.schema import Cell
from mabench.sets import readers
from mabench.sets.synthetic import SyntheticSet
from mabench_methods.baselines.condense import Config, condense

HELD_OUT = 5000
ENGINE: dict[str, Literal["reference", "fast"]] = {"cpu": "reference", "cuda": "fast"}  # rates differ by far more than engines do
GRIDS = {  # half a decade apart, around the field's usual rates
    ("sgd", False): (3e-3, 1e-2, 3e-2, 1e-1),
    ("adamw", False): (2e-4, 5e-4, 1e-3, 3e-3),
    ("sgd", True): (3e-4, 1e-3, 3e-3, 1e-2),
}
EPOCHS = {1: 200, 4: 200, 10: 100, 40: 50, 50: 40, 200: 20}  # by decoded images per class: until curves have flattened
HOPELESS = 0.03  # a rate that is this far below the best on the first subset is not tried on the others
TEST_EVERY = 50  # epochs


@dataclass(frozen=True)
class Subset:
    """A random real subset: how many stored images per class, packed 2x2 or not."""

    ipc: int
    packed: bool

    @property
    def epochs(self) -> int:
        return EPOCHS[4 * self.ipc if self.packed else self.ipc]

    @property
    def name(self) -> str:
        return f"ipc{self.ipc}{'-packed' if self.packed else ''}"


SUBSETS = (Subset(10, False), Subset(1, True), Subset(1, False), Subset(10, True), Subset(50, False), Subset(50, True))


class Material:
    """The held-out images and the subsets: from OUT/material where they are there, else drawn from the train split."""

    def __init__(self, dataset: str, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder
        self._pool: RealData | None = None

    def held_out(self) -> RealData:
        file = self.folder / "held_out.npz"
        if not file.exists():
            part = self._part(slice(-HELD_OUT, None))
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, _npz(part))
        with np.load(file) as arrays:
            return RealData(arrays["images"], arrays["labels"], data.DATASETS[self.dataset], "train", "0" * 64)

    def subset(self, subset: Subset) -> SyntheticSet:
        file = self.folder / f"{subset.name}.safetensors"
        if not file.exists():
            self._pool = self._pool or self._part(slice(None, -HELD_OUT))
            condense(self._pool, Config(subset.ipc, "random", packed=subset.packed), 0, torch.device("cpu")).save(file)
        return readers.read(file)

    def _part(self, rows: slice) -> RealData:
        train = data.load(self.dataset, "train")
        chosen = np.random.default_rng(0).permutation(len(train.labels))[rows]
        return replace(train, images=np.asarray(train.images)[chosen], labels=np.asarray(train.labels)[chosen], sha256="0" * 64)


def _npz(part: RealData) -> bytes:
    out = io.BytesIO()
    np.savez(out, images=part.images, labels=part.labels)
    return out.getvalue()


def courses(loaded_suite: suites.LoadedSuite, tracks: Sequence[str], glob: str) -> Iterator[tuple[Subset, Cell]]:
    """Every run to be made, the cheapest subsets of all networks first."""
    for subset in (subset for subset in SUBSETS if subset.ipc in loaded_suite.suite.ipcs):
        for track in tracks or loaded_suite.evaluators:
            for entry in loaded_suite.evaluators[track]:
                for rate in GRIDS[entry.optimizer, entry.pretrained] if fnmatch.fnmatchcase(entry.name, glob) else ():
                    course = {"epochs": subset.epochs, "test_every": min(TEST_EVERY, subset.epochs), "learning_rate": None}
                    values = {
                        "set_sha256": "0" * 64,
                        "suite": loaded_suite.id,
                        "suite_digest": loaded_suite.digest,
                        "track": track,
                        "evaluator": entry.model_copy(update={"learning_rate": rate}),
                        "recipe": loaded_suite.recipes[track].model_copy(update=course),
                        "seed": 0,
                    }
                    yield subset, Cell.model_validate(values)


def file_of(out: Path, subset: Subset, cell: Cell) -> Path:
    return out / f"{cell.evaluator.name}--{subset.name}--{cell.evaluator.learning_rate:g}.json"


def is_hopeless(out: Path, cell: Cell) -> bool:
    """Whether this rate lost the first subset by so much that the others need not be run."""
    found = {path.stem.rpartition("--")[2]: _best(path) for path in out.glob(f"{cell.evaluator.name}--{SUBSETS[0].name}--*.json")}
    own = found.get(f"{cell.evaluator.learning_rate:g}")
    return own is not None and own < max(found.values()) - HOPELESS


def _best(path: Path, epochs: float = math.inf) -> float:
    """The best accuracy of a run in its first `epochs` epochs, a share; nothing where it diverged."""
    entry = json.loads(path.read_text(encoding="utf-8"))
    hits = [hits for epoch, hits in entry["curve"] if epoch <= epochs]
    return 0.0 if entry["diverged_epoch"] else max(hits) / float(entry["held_out_images"])


def run(
    runs: Sequence[tuple[Subset, Cell]], material: Material, out: Path, device: torch.device, should_stop: Callable[[], bool]
) -> None:
    """Make the runs that have no file yet."""
    held_out = material.held_out()
    for subset, cell in runs:
        file = file_of(out, subset, cell)
        if file.exists() or is_hopeless(out, cell):
            continue
        drawn = material.subset(subset)
        own = cell.model_copy(update={"set_sha256": drawn.sha256})
        record = training.run(drawn, own, held_out, device=device, engine=ENGINE[device.type], should_stop=should_stop)
        entry = {
            "evaluator": cell.evaluator.name,
            "subset": subset.name,
            "rate": cell.evaluator.learning_rate,
            "held_out_images": HELD_OUT,
            "curve": list(record.curve),
            "diverged_epoch": record.diverged_epoch,
            "engine": record.engine,
            "seconds": record.seconds,
            "environment": record.environment,
        }
        write_text(file, json.dumps(entry) + "\n")
        print(f"{file.stem}: {100 * record.curve[-1][1] / record.total:.2f} in {record.seconds:.0f} s", flush=True)


def plot(found: Mapping[str, Mapping[float, Mapping[str, float]]], path: Path) -> None:
    """One panel a network: accuracy on the held-out images over the rate, one line a subset."""
    from matplotlib.figure import Figure

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (evaluator, rates) in zip(axes, found.items(), strict=False):
        for name in (subset.name for subset in SUBSETS):
            points = sorted((rate, values[name]) for rate, values in rates.items() if name in values)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.set(xscale="log", title=evaluator, xlabel="learning rate", ylabel="held-out accuracy %")
        axis.grid(alpha=0.3)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def table(out: Path, epochs: int | None) -> None:
    """Accuracy on the held-out images by network, rate and subset, best pass (of the first `epochs` epochs), in percent."""
    found: dict[str, dict[float, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(out.glob("*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        found[entry["evaluator"]][entry["rate"]][entry["subset"]] = 100 * _best(file, epochs or math.inf)
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
    if found and epochs is None:
        plot(found, out / "rates.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="a TOML file or the name of a suite")
    parser.add_argument("out", type=Path)
    parser.add_argument("--track", action="append", default=[], help="only this track; may be repeated")
    parser.add_argument("--evaluator", default="*", help="only evaluators whose name matches")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--material", action="store_true", help="only draw the subsets into OUT/material")
    parser.add_argument("--table", action="store_true", help="print and draw what has been run")
    parser.add_argument("--epochs", type=int, help="with --table: what the first N epochs of each run say")
    add_options(parser, "the runs")
    options = parser.parse_args()
    with explained("rates"):
        sys.exit(measure(options))


def measure(options: argparse.Namespace) -> int:
    """What the flags ask for; the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table:
        table(options.out, options.epochs)
        return 0
    loaded_suite, begun = suites.load(options.suite), time.monotonic()
    material = Material(loaded_suite.suite.dataset, options.out / "material")
    runs = list(courses(loaded_suite, options.track, options.evaluator))
    if options.material:
        material.held_out()
        for subset in dict.fromkeys(subset for subset, _ in runs):
            material.subset(subset)
        return 0
    own = shard(runs, *options.shard)
    with stop_on_signal() as asked:
        budget = Budget(begun, options.minutes, asked)
        try:
            run(own, material, options.out, resolve_device(options.device), budget.should_stop)
        except Interrupted:
            left = sum(
                not file_of(options.out, subset, cell).exists() and not is_hopeless(options.out, cell) for subset, cell in own
            )
            print(f"stopped, {left} of {len(own)} runs are left; the same command continues")
        return STOPPED if asked() else 0


if __name__ == "__main__":
    main()
