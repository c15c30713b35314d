"""What knowledge distillation gives, and what picking its temperature on the test split would: python benchmarks/distillation.py SET
[--evaluator GLOB] [--seeds 0,1,2] [--temperatures 1,2,4,8] [--engine fast] --name NAME

Runs `cifar10-modelpool` (plain cross-entropy) and `cifar10-modelpool-kd` at each temperature on the same set and seeds. The suite's
own temperature is the honest row; the last column is a diagnosis, never a result. Writes a JSON file to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from statistics import fmean, pstdev

from tabulate import tabulate

from mabench import data, suites
from mabench import engine as engines
from mabench.files import write_text
from mabench.results import scoring
from mabench.runs import local
from mabench.runs.folder import Folder
from mabench.runs.plan import plan
from mabench.schema import RunRecord
from mabench.sets import readers as adapters
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import LoadedSuite

HERE = Path(__file__).parent
PLAIN, DISTILLED = "cifar10-modelpool", "cifar10-modelpool-kd"


def at(temperature: float, folder: Path) -> LoadedSuite:
    """The distillation suite with another temperature, as a suite of one's own."""
    (path,) = [p for suite, p in suites.released().items() if suite.startswith(DISTILLED + "@")]
    own = suites.load(DISTILLED).suite.recipe.distillation
    assert own is not None
    text = path.read_text().replace(f"temperature = {own.temperature}", f"temperature = {temperature}")
    mine = folder / f"kd-{temperature:g}.toml"
    mine.write_text(text.replace(f'name = "{DISTILLED}"', f'name = "{DISTILLED}-t{temperature:g}"'.replace(".", "-")))
    return suites.load(str(mine))


def run(
    loaded_suite: LoadedSuite, one: SyntheticSet, evaluator: str, seeds: list[int], engine: str, out: Path
) -> dict[str, list[RunRecord]]:
    cells = plan(loaded_suite, one, evaluator=evaluator, seeds=seeds)
    folder = Folder(out / loaded_suite.id, one.sha256, loaded_suite.id, loaded_suite.digest)
    name = engines.wanted(engine)
    records = local.run(one, cells, folder, data.load("cifar10", "test"), device="auto", engine=name)
    found: dict[str, list[RunRecord]] = {}
    for record in records:
        found.setdefault(record.cell.evaluator.name, []).append(record)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("set", type=Path)
    parser.add_argument("--evaluator", default="*")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--temperatures", default="1,2,4,8")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--out", type=Path, help="keeps the records, so that the script can be interrupted")
    parser.add_argument("--name", required=True)
    chosen = parser.parse_args()
    one = adapters.read(chosen.set)
    seeds = [int(s) for s in chosen.seeds.split(",")]
    temperatures = [float(t) for t in chosen.temperatures.split(",")]
    own = suites.load(DISTILLED).suite.recipe.distillation
    assert own is not None
    with tempfile.TemporaryDirectory() as scratch:
        out = chosen.out or Path(scratch)
        columns: dict[str, dict[str, list[RunRecord]]] = {
            "plain": run(suites.load(PLAIN), one, chosen.evaluator, seeds, chosen.engine, out)
        }
        for t in temperatures:
            loaded_suite = suites.load(DISTILLED) if t == own.temperature else at(t, Path(scratch))
            columns[f"{t:g}"] = run(loaded_suite, one, chosen.evaluator, seeds, chosen.engine, out)
    body, result = [], {}
    environments = {json.dumps(r.environment): r.environment for runs in columns.values() for rs in runs.values() for r in rs}
    for name in columns["plain"]:
        scores = {column: [100 * scoring.score(r) for r in runs[name]] for column, runs in columns.items()}
        assert all(math.isfinite(s) for values in scores.values() for s in values)
        best = max((fmean(v), c) for c, v in scores.items() if c != "plain")
        body.append([name, *(f"{fmean(v):.2f} ({pstdev(v):.2f})" for v in scores.values()), f"{best[0]:.2f} at {best[1]}"])
        diverged = sum(r.diverged_epoch is not None for runs in columns.values() for r in runs[name])
        seconds = {column: [r.seconds for r in runs[name]] for column, runs in columns.items()}
        result[name] = {"accuracies": scores, "diverged": diverged, "seconds": seconds}
    print(tabulate(body, ["student", *columns, "picked on the test split"], disable_numparse=True))
    value = {
        "what": f"distillation at evaluation on {one.name}",
        "set_sha256": one.sha256,
        "suite_temperature": own.temperature,
        "seeds": seeds,
        "engine": chosen.engine,
        "environments": list(environments.values()),
        "students": result,
    }
    write_text(HERE / "results" / f"{chosen.name}.json", json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
