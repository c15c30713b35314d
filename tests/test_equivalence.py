"""benchmarks/equivalence.py, which decides what `--engine auto` may use: what it keeps, what it replaces, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builders import made_record

from mabench import suites
from mabench.engine import equivalence
from mabench.errors import MabenchError
from mabench.schema import RunRecord

ROOT = Path(__file__).resolve().parent.parent
LITE = suites.load("cifar10-lite")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with files of its own, which begin as the real ones."""
    spec = importlib.util.spec_from_file_location("equivalence_benchmark", ROOT / "benchmarks" / "equivalence.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for holder, name in ((module, "RESULTS"), (equivalence, "FILE")):
        own = tmp_path / f"{name}.json"
        own.write_bytes(getattr(holder, name).read_bytes())
        monkeypatch.setattr(holder, name, own)
    return module


def evidence() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(equivalence.FILE.read_text())
    return rows


def comparison(**changes: Any) -> dict[str, Any]:
    """Of ResNet-20 on one set, ten pairs."""
    row = {
        "set": "another", "seeds": 10, "epochs": 100, "acc_reference": 0.2, "acc_fast": 0.2, "difference": 0.0, "standard_error": 1e-4,
        "equivalent": True, "differences": [0.0] * 10, "device": "cpu", "hardware": "cpu, 1 threads",
        "arithmetic": "bfloat16, eager, trained in float32, eager", "torch": "2.15.0",
    }  # fmt: skip
    return row | changes


def test_the_packaged_evidence_is_what_the_script_writes(script: ModuleType) -> None:
    before = script.RESULTS.read_bytes(), equivalence.FILE.read_bytes()
    script.keep(LITE, {})
    assert (script.RESULTS.read_bytes(), equivalence.FILE.read_bytes()) == before


def test_fewer_pairs_than_the_rule_asks_for_replace_nothing(script: ModuleType) -> None:
    """A trial that was stopped early, and one on the very set that was measured."""
    before = script.RESULTS.read_bytes(), equivalence.FILE.read_bytes()
    for of in ("another", "11 sets"):
        few = comparison(set=of, seeds=9, equivalent=False, differences=[0.01] * 9)
        rows = script.keep(LITE, {"resnet20-scratch": few})
        assert rows[-1]["evaluator"] == "resnet20-scratch" and rows[-1]["seeds"] == 9, "it is shown"
        assert (script.RESULTS.read_bytes(), equivalence.FILE.read_bytes()) == before


def of_resnet() -> list[tuple[str, str]]:
    rows = [row for row in evidence() if row["evaluator"] == "resnet20-scratch"]
    return [(row["set"], row["arithmetic"]) for row in rows]


def test_ten_pairs_count_for_their_own_set_device_and_arithmetic(script: ModuleType) -> None:
    narrow = "bfloat16, eager, trained in float32, eager"
    others = [row for row in evidence() if row["evaluator"] != "resnet20-scratch"]
    script.keep(LITE, {"resnet20-scratch": comparison()})
    assert of_resnet() == [("another", narrow), ("11 sets", narrow)], "beside the other set's"
    script.keep(LITE, {"resnet20-scratch": comparison(set="14 sets")})
    assert of_resnet() == [("another", narrow), ("14 sets", narrow)], "of several sets the last comparison stays"
    apart = {"equivalent": False, "difference": 0.01, "differences": [0.01] * 10}
    script.keep(LITE, {"resnet20-scratch": comparison(arithmetic="float32, compiled", **apart)})
    script.keep(LITE, {"resnet20-scratch": comparison(device="cuda", hardware="NVIDIA T4", **apart)})
    assert len(of_resnet()) == 2, "another arithmetic and another device say nothing about this one"
    script.keep(LITE, {"resnet20-scratch": comparison(set="third", **apart)})
    assert of_resnet() == [], "one set on which it differs is enough"
    assert [row for row in evidence() if row["evaluator"] != "resnet20-scratch"] == others


def pairs(*devices: tuple[str, str]) -> list[tuple[RunRecord, RunRecord]]:
    """Pairs of equal runs; two `(device, processor)` a pair, reference and fast."""
    found = []
    for device, processor in devices:
        plain = made_record(LITE, "scratch", "resnet20-scratch", 0, 0.2, sha="0" * 64)
        facts = plain.environment | {"device": device, "processor": processor}
        found.append(plain.model_copy(update={"environment": facts}))
    return list(zip(found[::2], found[1::2], strict=True))


def test_all_pairs_come_from_one_device(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, gpu = ("cpu, 1 threads", "AMD EPYC"), ("cpu, 1 threads", "Intel Xeon"), ("NVIDIA T4", "AMD EPYC")
    assert script.compare(pairs(*[one] * 20))["equivalent"]
    assert script.compare(pairs(*[gpu, ("NVIDIA T4", "Intel Xeon")] * 10))["device"] == "cuda", "a GPU's host does not matter"
    for mixed in ([one, gpu] * 10, [one] * 18 + [other] * 2, [one] * 18 + [("cpu, 2 threads", "AMD EPYC")] * 2):
        with pytest.raises(
            MabenchError, match=r"resnet20-scratch: these pairs come from 2 devices: .*cpu, 1 threads \(AMD EPYC\)"
        ):
            script.compare(pairs(*mixed))
    before = script.RESULTS.read_bytes(), equivalence.FILE.read_bytes()
    monkeypatch.setattr(script, "paired", lambda *given: {"resnet20-scratch": pairs(*[one, gpu] * 10)})
    monkeypatch.setattr(sys, "argv", ["equivalence.py", "cifar10-lite", "--pair", "a", "b"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "2 devices: NVIDIA T4; cpu, 1 threads (AMD EPYC)" in said and "Allowed: one" in said
    assert (script.RESULTS.read_bytes(), equivalence.FILE.read_bytes()) == before
