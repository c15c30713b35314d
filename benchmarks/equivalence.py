"""Does the fast engine give the reference's accuracies? A paired short course for every network of a suite, on this device.

    python benchmarks/equivalence.py cifar10-agnostic SET --minutes 9    # cheapest network first; the same command continues
    python benchmarks/equivalence.py cifar10-lite SET --evaluator 'vit*'
    python benchmarks/equivalence.py cifar10-agnostic SET --table        # trains nothing: compares the records that are there
    python benchmarks/equivalence.py cifar10-lite --pair REFERENCE FAST  # likewise, records of any sets in two folders

A short course is the suite's own recipe, at most 100 epochs of it with ten test passes, for ten seeds, once with either engine on the
same set. It shows the arithmetic that it was computed in: where only the whole course is long enough to be compiled, give more
`--epochs`. `--pair` takes whole runs instead, of one set and seed in both folders, such as those of `random_baseline.py`. Both engines run on one device. A network is
equivalent where |mean difference| + its standard error stays below 0.3 points (PROTOCOL.md). Records go to
results/equivalence/SUITE/, comparisons of ten pairs and more to benchmarks/results/equivalence.json, and what this file shows to be
equivalent into mabench/suites/equivalence.json, where `--engine auto` looks for evaluator, recipe, kind of device and arithmetic.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from tabulate import tabulate

from mabench import data, suites
from mabench.engine import equivalence
from mabench.errors import Interrupted, MabenchError
from mabench.evaluation.budget import Budget
from mabench.files import write_text
from mabench.networks import sizes
from mabench.results.scoring import score
from mabench.runs import local
from mabench.runs.events import Event, Finished
from mabench.runs.folder import Folder, read_records
from mabench.runs.plan import plan
from mabench.runs.process import stop_on_signal
from mabench.schema import Cell, Recipe, RunRecord
from mabench.sets import readers
from mabench.sets.synthetic import SyntheticSet

RESULTS = Path(__file__).parent / "results" / "equivalence.json"
LIMIT = 0.003  # PROTOCOL.md: |difference| + standard error
SEEDS, EPOCHS, PASSES = 10, 100, 10
ENGINES = ("reference", "fast")
EVIDENCE = (
    "key", "device", "hardware", "evaluator", "suite", "set", "seeds", "epochs", "difference", "standard_error", "arithmetic", "torch",
)  # fmt: skip


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe itself where it is as short, else over `epochs` epochs and ten test passes; a decay at the same share of the course."""
    if epochs >= recipe.epochs:
        return recipe
    decay = recipe.decay_after and max(1, recipe.decay_after * epochs // recipe.epochs)
    return recipe.model_copy(update={"epochs": epochs, "test_every": max(1, epochs // PASSES), "decay_after": decay})


def short_course(loaded_suite: suites.LoadedSuite, epochs: int, seeds: int) -> suites.LoadedSuite:
    """The suite with shortened recipes and more seeds."""
    recipes = {track: shortened(recipe, epochs) for track, recipe in loaded_suite.recipes.items()}
    return replace(
        loaded_suite, suite=loaded_suite.suite.model_copy(update={"seeds": tuple(range(seeds))}), recipes=recipes, released=False
    )


def _show(event: Event) -> None:
    if isinstance(event, Finished):
        r = event.record
        print(f"{r.engine:<9} {r.cell.name} {100 * score(r):.2f}% in {r.seconds:.0f} s", flush=True)


def one_device(pairs: Sequence[tuple[RunRecord, RunRecord]]) -> str:
    """The device on which all of these records were made, as they name it.

    Raises MabenchError for more than one: what a machine or a number of threads changes would count as the engine's doing.
    """
    found: dict[tuple[str, str], str] = {}
    for record in (record for pair in pairs for record in pair):
        device, processor = record.environment["device"], record.environment.get("processor", "unknown")
        on_processor = device.startswith("cpu")
        found.setdefault((device, processor if on_processor else ""), f"{device} ({processor})" if on_processor else device)
    if len(found) > 1:
        raise MabenchError(
            f"{pairs[0][0].cell.evaluator.name}: these pairs come from {len(found)} devices: {'; '.join(sorted(found.values()))}. "
            "Allowed: one, with one number of threads, for all runs of both engines. Run both on one machine "
            "(OMP_NUM_THREADS=1 mabench eval SET --suite SUITE --engine fast --out FOLDER, then --engine reference into another folder)."
        )
    ((device, _),) = found
    return device


def compare(pairs: Sequence[tuple[RunRecord, RunRecord]], *, timed: bool = True) -> dict[str, Any]:
    """What the paired records of one network say; accuracies and differences are shares, not percent.

    `timed`: both sides ran one after the other, so that their seconds can be compared. Raises MabenchError for pairs from more than
    one device.
    """
    hardware = one_device(pairs)
    differences = [score(fast) - score(reference) for reference, fast in pairs]
    mean, error = fmean(differences), stdev(differences) / len(pairs) ** 0.5 if len(pairs) > 1 else None
    reference, fast = pairs[0]
    seconds = [sum(record.seconds for record in side) for side in zip(*pairs, strict=True)]
    return {
        "seeds": len(pairs),
        "epochs": reference.cell.recipe.epochs,
        "acc_reference": fmean(score(record) for record, _ in pairs),
        "acc_fast": fmean(score(record) for _, record in pairs),
        "difference": mean,
        "standard_error": error,
        "equivalent": len(pairs) >= SEEDS and error is not None and abs(mean) + error < LIMIT,
        "differences": differences,
        **({"seconds_reference": round(seconds[0], 1), "seconds_fast": round(seconds[1], 1)} if timed else {}),
        "device": "cpu" if hardware.startswith("cpu") else "cuda",
        "hardware": hardware,
        "arithmetic": "; ".join(sorted({fast.environment["arithmetic"] for _, fast in pairs})),
        "torch": fast.environment["torch"],
    }


def paired(loaded_suite: suites.LoadedSuite, reference: Path, fast: Path) -> dict[str, list[tuple[RunRecord, RunRecord]]]:
    """Whole runs of this suite that lie in both folders, however deep, by evaluator: the same set and seed, either engine."""
    sides = []
    for folder, engine in zip((reference, fast), ENGINES, strict=True):
        records = [record for inner in sorted(folder.rglob("records")) for record in read_records(inner.parent)]
        sides.append({record.cell.model_dump_json(): record for record in records if record.engine == engine})
    pairs: dict[str, list[tuple[RunRecord, RunRecord]]] = {}
    for key, record in sides[0].items():
        if key in sides[1] and record.cell.suite_digest == loaded_suite.digest:
            pairs.setdefault(record.cell.evaluator.name, []).append((record, sides[1][key]))
    return pairs


def _sets(pairs: Sequence[tuple[RunRecord, RunRecord]]) -> str:
    return f"{len({reference.cell.set_sha256 for reference, _ in pairs})} sets"


def keep(loaded_suite: suites.LoadedSuite, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the comparisons into RESULTS and write what follows from it for `auto`. Returns the suite's rows and those of `found`.

    Fewer pairs than the rule asks for show nothing: they are returned, and replace nothing.
    """
    kept = {_place(row): row for row in (json.loads(RESULTS.read_text()) if RESULTS.exists() else [])}
    unkept = []
    for track, entries in loaded_suite.evaluators.items():
        for entry in (entry for entry in entries if entry.name in found):
            key = equivalence.evidence_key(entry, loaded_suite.recipes[track])
            row = {"evaluator": entry.name, "suite": loaded_suite.id, "key": key, **found[entry.name]}
            if row["seeds"] >= SEEDS:
                kept[_place(row)] = row
            else:
                unkept.append(row)
    ordered = [kept[place] for place in sorted(kept)]
    write_text(RESULTS, json.dumps(ordered, indent=1) + "\n")
    write_text(equivalence.FILE, json.dumps(shown(ordered), indent=1) + "\n")
    return [row for row in ordered if row["suite"] == loaded_suite.id] + unkept


def _place(row: dict[str, Any]) -> tuple[str, ...]:
    """What a new comparison replaces: the one of the same network, set, kind of device and arithmetic; of several sets the last."""
    of = "several sets" if re.fullmatch(r"\d+ sets", row["set"]) else row["set"]
    return row["suite"], of, row["evaluator"], row["device"], row["arithmetic"]


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `auto` reads: the rows that say equivalent, unless another row of the same network, device and arithmetic says no."""

    def claims(row: dict[str, Any]) -> set[tuple[str, ...]]:
        return {(row["key"], row["device"], arithmetic) for arithmetic in row["arithmetic"].split("; ")}

    refuted = {claim for row in rows if not row["equivalent"] for claim in claims(row)}
    return [{name: row[name] for name in EVIDENCE} for row in rows if row["equivalent"] and not claims(row) & refuted]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of one suite."""

    def difference(row: dict[str, Any]) -> str:
        error = row["standard_error"]
        return f"{100 * row['difference']:+.2f}" + (f" ± {100 * error:.2f}" if error is not None else "")

    body = [
        [
            row["evaluator"],
            row["seeds"],
            f"{100 * row['acc_reference']:.2f}",
            f"{100 * row['acc_fast']:.2f}",
            difference(row),
            f"{row['seconds_reference'] / row['seconds_fast']:.2f}" if row.get("seconds_fast") else "",
            "yes" if row["equivalent"] else "no",
        ]
        for row in rows
    ]
    headers = ["evaluator", "seeds", "reference %", "fast %", "difference", "times faster", "equivalent"]
    print(tabulate(body, headers, tablefmt="github", disable_numparse=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("set", type=Path, nargs="?")
    parser.add_argument("--pair", type=Path, nargs=2, metavar=("REFERENCE", "FAST"), help="folders of records; train nothing")
    parser.add_argument("--evaluator", action="append", help="only evaluators whose name matches; may be repeated")
    parser.add_argument("--minutes", type=float, help="stop after this time; the same command continues")
    parser.add_argument("--records", type=Path, default=Path("results/equivalence"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="fewer show nothing, but try the script")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="fewer show nothing, but try the script")
    parser.add_argument("--test-images", type=int, help="fewer than the test split has; likewise")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    if (options.set is None) == (options.pair is None):
        parser.error("give a set, or two folders with --pair")
    try:
        run(options)
    except MabenchError as error:
        parser.error(str(error))


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    begun = time.monotonic()
    loaded_suite = suites.load(options.suite)
    if options.pair:
        pairs_of = paired(loaded_suite, *options.pair)
        found = {name: {"set": _sets(pairs), **compare(pairs, timed=False)} for name, pairs in pairs_of.items()}
        show(keep(loaded_suite, found))
        return
    condensed = readers.read(options.set)
    course = short_course(loaded_suite, options.epochs, options.seeds)
    cells: dict[str, list[Cell]] = {}
    for cell in plan(course, condensed, evaluator=options.evaluator):
        cells.setdefault(cell.evaluator.name, []).append(cell)
    dataset, test = data.DATASETS[loaded_suite.suite.dataset], data.load(loaded_suite.suite.dataset, "test")
    cheapest = sorted(cells, key=lambda name: sizes.of(cells[name][0].evaluator, dataset.num_classes, dataset.channels).flops)
    folders = {
        engine: Folder(options.records / loaded_suite.id / engine, condensed.sha256, course.id, course.digest)
        for engine in ENGINES
    }
    with stop_on_signal() as asked:
        should_stop = Budget(begun, options.minutes, asked).should_stop
        try:
            if not options.table:
                train(
                    [cells[name] for name in cheapest], condensed, first_images(test, options.test_images), folders, should_stop
                )
        except Interrupted:
            print("stopped; the same command continues")
    found = {}
    for name in cheapest:
        pairs = [tuple(folders[engine].finished(cell) for engine in ENGINES) for cell in cells[name]]
        whole = [(a, b) for a, b in pairs if a is not None and b is not None]
        if whole:
            found[name] = {"set": condensed.name, **compare(whole)}
    trial = (
        options.seeds < SEEDS
        or options.test_images is not None
        or options.epochs < min(EPOCHS, *(recipe.epochs for recipe in loaded_suite.recipes.values()))
    )
    if trial:
        print("A trial, smaller than the rule asks for: nothing is kept.")
        show([{"evaluator": name, **row} for name, row in found.items()])
    else:
        show(keep(loaded_suite, found))


def first_images(test: data.RealData, count: int | None) -> data.RealData:
    """The first `count` images of the split, or all."""
    if count is None:
        return test
    return replace(test, images=np.asarray(test.images)[:count], labels=np.asarray(test.labels)[:count], sha256="0" * 64)


def train(
    networks: Sequence[list[Cell]],
    condensed: SyntheticSet,
    test: data.RealData,
    folders: dict[str, Folder],
    should_stop: Callable[[], bool],
) -> None:
    """Both engines, network by network, so that a budget of time leaves whole comparisons behind."""
    for cells in networks:
        try:
            for engine in ENGINES:
                how: dict[str, Any] = {"device": "auto", "engine": engine, "on_event": _show, "should_stop": should_stop}
                local.run(condensed, cells, folders[engine], test, **how)
        except Interrupted:
            raise
        except MabenchError as error:  # weights that are not at hand
            print(f"{cells[0].evaluator.name} is left out: {error}", flush=True)


if __name__ == "__main__":
    main()
