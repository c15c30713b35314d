"""The suite's pooled spread: recomputed by its script from records, used where it is there, and said where it is not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from builders import DIGITS, records_of, write_submission

from mabench import suites
from mabench.board import tiers
from mabench.results import baselines, scoring
from mabench.results.uncertainty import Spread

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "pooled_spread.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pooled_spread", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    script.main()


def reference(folder: Path) -> dict[str, tuple[float, int]]:
    """Raw JSON, numpy, nothing of the package."""
    best: dict[str, dict[str, dict[int, float]]] = {}
    for path in folder.glob("*/records/*.json"):
        record: dict[str, Any] = json.loads(path.read_text())
        cell = record["cell"]
        top = max(correct for _, correct in record["curve"]) / record["total"]
        best.setdefault(cell["evaluator"]["name"], {}).setdefault(cell["set_sha256"], {})[cell["seed"]] = top
    out = {}
    for name, sets in best.items():
        deviations = np.concatenate([np.array([*runs.values()]) - np.mean([*runs.values()]) for runs in sets.values()])
        degrees = len(deviations) - len(sets)
        out[name] = (float(np.sqrt((deviations**2).sum() / degrees)), degrees)
    return out


def test_the_script_pools_the_records_of_the_suites_as_they_are(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A set in two folders counts once, other suites' entries stay, those of a suite that has changed go."""
    first = write_submission(tmp_path / "a", "one", 0.5)
    write_submission(tmp_path / "a", "two", 0.6)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    stale = next(iter(suites.load("digits-agnostic").earlier))
    other = suites.load("cifar10-modelpool").digest
    into = tmp_path / "spread.json"
    into.write_text(json.dumps({stale: {"x": [0.1, 9]}, other: {"y": [0.2, 8]}}))
    run(script, monkeypatch, tmp_path / "a", tmp_path / "b", "--into", into)
    found = json.loads(into.read_text())
    assert set(found) == {DIGITS.digest, other} and found[other] == {"y": [0.2, 8]}
    expected = reference(tmp_path / "a")
    assert set(found[DIGITS.digest]) == set(expected)
    for name, (std, degrees) in expected.items():
        assert found[DIGITS.digest][name] == [pytest.approx(std, abs=1e-5), degrees] and degrees == 4
    path = next((first / "records").glob("*.json"))
    path.write_text("{}")
    run(script, monkeypatch, tmp_path / "a", "--into", into)
    assert min(degrees for _, degrees in json.loads(into.read_text())[DIGITS.digest].values()) == 4, "too few: no entry"


def test_the_file_is_what_the_committed_records_give(script: ModuleType) -> None:
    """Of every suite that has rows here; a suite without rows of its present state has no entry."""
    known = json.loads(script.OUT.read_text())
    assert set(known) <= {suites.load(name).digest for name in suites.released()}
    found = script.pooled(script.records([SCRIPT.parents[1] / "submissions"]))
    for digest, spreads in found.items():
        if digest in known:
            assert {name: list(value) for name, value in spreads.items()} == known[digest]


def test_without_a_measured_spread_the_reruns_own_seeds_stand_in_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records_of(write_submission(tmp_path, "one", 0.5))
    names = {record.cell.evaluator.name for record in records}
    monkeypatch.setattr(baselines, "_data", lambda _: {})
    assert "no spread over seeds has been measured for convnet3-scratch" in tiers.spread_note(DIGITS.id, names)
    mlp = [scoring.score(record) for record in records if record.cell.evaluator.name == "mlp-scratch"]
    assert tiers.spread_of(None, mlp) == Spread(baselines.UNKNOWN_SPREAD, 2), "never less than a point"
    assert tiers.spread_of(None, [0.3, 0.5]).std == pytest.approx(0.2 / 2**0.5)
    assert tiers.spread_of(None, mlp[:1]).degrees == 0, "one seed says nothing"
    monkeypatch.setattr(baselines, "_data", lambda _: {DIGITS.digest: {name: [0.02, 12] for name in names}})
    assert "pooled spread over seeds (12 degrees of freedom or more)" in tiers.spread_note(DIGITS.id, names)
    assert tiers.spread_of(baselines.run_spreads(DIGITS)["mlp-scratch"], mlp[:1]) == Spread(0.02, 12)
