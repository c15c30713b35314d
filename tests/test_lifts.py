"""Lift: against random real images with the same advantages, with its interval, and said to be missing where it is."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import DIGITS, made_record

from mabench import data
from mabench.cli.main import main
from mabench.papers.presets import preset
from mabench.results import baselines, lifts, tables
from mabench.schema import RunRecord

NETWORKS = [entry.name for entry in DIGITS.evaluators["scratch"]]
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "random_baseline.py"


def entry(ipc: int, decode: str, means: float, draws: int = 5, **changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(ipc)
    scores = {
        f"scratch/{name}": {str(k): [float(v), float(v), float(v)] for k, v in enumerate(generator.normal(means, 0.02, draws))}
        for name in NETWORKS
    }
    value = {"suite_digest": DIGITS.digest, "ipc": ipc, "decode": decode, "labels": "hard", "evaluators": scores}
    return value | changes


def records(accuracy: float = 0.8, **fields: Any) -> list[RunRecord]:
    """A whole track at IPC 10; `fields` of the set's summary."""
    made = [
        made_record(DIGITS, "scratch", name, seed, accuracy + seed / 100, sha="1" * 64) for name in NETWORKS for seed in range(3)
    ]
    summary = made[0].synthetic_set.model_copy(update=fields)
    return [record.model_copy(update={"synthetic_set": summary}) for record in made]


def measured(monkeypatch: pytest.MonkeyPatch, *entries: dict[str, Any]) -> None:
    known = {"baselines.json": list(entries), "spread.json": {}}
    monkeypatch.setattr(baselines, "_data", known.__getitem__)
    baselines._measured.cache_clear()
    monkeypatch.setattr(baselines, "_measured", baselines._measured.__wrapped__)


def test_lift_is_taken_from_the_better_of_packed_alike_and_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed, many = entry(10, "none", 0.5), entry(10, "grid2", 0.6), entry(40, "none", 0.7)
    measured(monkeypatch, plain, packed, many)

    def panel(**fields: Any) -> tuple[float | None, float | None, float | None]:
        line = next(row for row in lifts.rows(DIGITS, records(**fields)) if row.name == "panel mean")
        assert line.random is not None and line.lift == pytest.approx(line.mean - line.random) and line.lift_half is not None
        return line.alike, line.same_bytes, line.random

    def mean(one: dict[str, Any]) -> float:
        return float(np.mean([v[0] for draws in one["evaluators"].values() for v in draws.values()]))

    assert panel() == pytest.approx((mean(plain), mean(plain), mean(plain)))
    assert panel(decode="grid2") == pytest.approx((mean(packed), mean(plain), mean(packed)))
    assert panel(image_dtype="float32") == pytest.approx((mean(plain), mean(many), mean(many)))
    assert panel(decode="grid2", image_dtype="float32") == pytest.approx((mean(packed), mean(many), mean(many)))


@pytest.mark.parametrize(
    ("entries", "absent"),
    [
        ([], "packed alike and same bytes"),
        ([entry(10, "grid2", 0.6)], "same bytes"),
        ([entry(10, "grid2", 0.6), entry(10, "none", 0.5, draws=4)], "same bytes"),
        ([entry(10, "none", 0.5), entry(10, "grid2", 0.6, suite_digest="0" * 64)], "packed alike"),
        ([entry(10, "none", 0.5), entry(10, "grid2", 0.6, labels="soft")], "packed alike"),
    ],
)
def test_what_was_not_run_is_said_and_there_is_no_lift(
    monkeypatch: pytest.MonkeyPatch, entries: list[dict[str, Any]], absent: str
) -> None:
    measured(monkeypatch, *entries)
    made = records(decode="grid2")
    lines = lifts.rows(DIGITS, made)
    assert all(line.lift is None and line.lift_half is None for line in lines)
    (note,) = [note for note in tables.notes(DIGITS, lines, made) if "baseline not run" in note]
    said, _, command = note.partition(". One draw of it: mabench ")
    assert said == f"scratch: baseline not run ({absent}), so there is no lift"
    planned = main.commands["reproduce"].make_context("reproduce", command.split()[1:]).params
    config: Any = preset(planned["method"], planned["preset"], None, planned["changes"]).config
    assert (config.ipc, config.packed) == ((10, True) if absent.startswith("packed") else (10, False))
    assert "lift" not in tables.table(DIGITS, lines)


def test_a_float_set_that_lacks_only_the_larger_baseline_is_told_to_store_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, entry(10, "none", 0.5))
    made = records(image_dtype="float32")
    (note,) = [note for note in tables.notes(DIGITS, lifts.rows(DIGITS, made), made) if "baseline not run" in note]
    assert "(same bytes), so there is no lift. As uint8 the set takes a quarter of its bytes: mabench pack SET" in note
    assert "--config ipc=40 --suite" in note


def test_a_set_packed_more_tightly_is_told_how_to_run_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, entry(10, "none", 0.5))
    made = records(decode="grid4")
    (note,) = [note for note in tables.notes(DIGITS, lifts.rows(DIGITS, made), made) if "baseline not run" in note]
    assert "(packed alike)" in note and "--config packed=true --config formation=4 --suite digits-agnostic" in note
    command = note[note.index("mabench reproduce random") :].split(" ")
    changes = [after for before, after in pairwise(command) if before == "--config"]
    config: Any = preset("random", command[command.index("--preset") + 1], None, changes).config
    assert config.decode == "grid4"


def test_the_table_shows_both_baselines_and_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, entry(10, "none", 0.5), entry(10, "grid2", 0.6))
    made = records(decode="grid2")
    text = tables.table(DIGITS, lifts.rows(DIGITS, made), "csv")
    header, *rows = [line.split(",") for line in text.splitlines()]
    assert header[-3:] == ["alike %", "same bytes %", "lift +- 95 %"]
    assert all("+-" in row[-1] for row in rows if row[0] in (*NETWORKS, "panel mean")) and len(rows) > len(NETWORKS)
    assert "lift" in tables.table(DIGITS, lifts.rows(DIGITS, made), width=60), "lift is the last column to go"


def test_the_script_adds_draws_to_those_of_another_machine_and_runs_only_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script: Any = importlib.import_module("random_baseline")
    into, out = tmp_path / "baselines.json", tmp_path / "out"
    about: dict[str, Any] = {"suite": DIGITS.id, "environment": {"processor": "a; b"}, "command": ""}
    held, mark = entry(1, "none", 0.5, draws=3, **about), entry(1, "none", 0.9, draws=1, **about) | {"ipc": None}
    earlier = entry(1, "none", 0.5, **about, suite_digest="0" * 64)
    into.write_text(json.dumps([earlier, mark, held]))
    draws = script.wanted([1], ["plain", "packed"], ["hard"], 4)
    assert [draw.name for draw in script.lacking(DIGITS, draws, into)] == [
        *(f"hard-ipc1-grid2-draw{k}" for k in range(3)),
        "hard-ipc1-draw3",
        "hard-ipc1-grid2-draw3",
    ]
    record = made_record(DIGITS, "scratch", NETWORKS[0], 0, 0.7, sha="1" * 64)
    summary = record.synthetic_set.model_copy(update={"ipc": 1})
    record = record.model_copy(update={"synthetic_set": summary, "environment": {"processor": "c"}})
    (out / "hard-ipc1-draw3" / "records").mkdir(parents=True)
    (out / "hard-ipc1-draw3" / "records" / "one.json").write_text(record.model_dump_json())
    script.collect(DIGITS, out, into)
    kept, joined = json.loads(into.read_text())
    assert kept == mark and joined["environment"] == {"processor": "a; b; c"}
    first = f"scratch/{NETWORKS[0]}"
    assert joined["evaluators"].pop(first) == {**held["evaluators"].pop(first), "3": [0.7, 0.68, 0.68]}
    assert joined["evaluators"] == held["evaluators"]


def test_the_full_data_mark_is_run_recorded_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training image, the suite's recipe shortened; a second network joins the first, and the draws beside them stay."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script: Any = importlib.import_module("full_data")
    out, into = tmp_path / "out", tmp_path / "baselines.json"
    draws = entry(1, "none", 0.5)
    into.write_text(json.dumps([draws]))

    def run(*arguments: str) -> None:
        command = ["full_data.py", "digits-agnostic", "--epochs", "2", "--out", str(out), "--into", str(into), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == 0

    run("--evaluator", "mlp*")
    (path,) = out.glob("*/records/*.json")
    record = json.loads(path.read_text())
    recipe = record["cell"]["recipe"]
    assert (recipe["epochs"], [epoch for epoch, _ in record["curve"]], record["cell"]["seed"]) == (2, [1, 2], 0)
    assert record["synthetic_set"]["stored_images"] == 10 * min(Counter(data.load("digits", "train").labels.tolist()).values())
    run("--evaluator", "lenet*")
    kept, mark = json.loads(into.read_text())
    best = max(correct for _, correct in record["curve"]) / record["total"]
    assert kept == draws and mark["ipc"] is None and mark["epochs"] == 2
    assert set(mark["evaluators"]) == {"scratch/lenet-scratch", "scratch/mlp-scratch"}
    monkeypatch.setattr(baselines, "_data", lambda name: json.loads(into.read_text()))
    full = baselines.known_full_data(DIGITS)
    assert full is not None and full["scratch/mlp-scratch"][0] == round(best, 6)


@pytest.mark.slow
def test_the_script_measures_resumes_and_shares_its_draws(tmp_path: Path) -> None:
    """Killed after its first draw and started again as two shards: every draw has one record, and the package gets an entry."""
    command = [sys.executable, str(SCRIPT), "digits-agnostic", "--ipc", "1", "--forms", "plain", "packed", "--draws", "2"]
    command += ["--evaluator", "mlp*", "--out", str(tmp_path / "out"), "--into", str(tmp_path / "baselines.json")]
    (tmp_path / "baselines.json").write_text("[]")
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and "mlp-scratch" in first.stdout.readline()
    first.send_signal(signal.SIGTERM)
    rest, _ = first.communicate()
    assert "stopped, 3 of these runs are left; the same command continues" in rest and first.returncode == 130
    before = {path: path.read_bytes() for path in tmp_path.glob("out/*/*/records/*.json")}
    shards = [subprocess.Popen([*command, "--shard", f"{i}/2"], stdout=subprocess.DEVNULL) for i in (1, 2)]
    assert [shard.wait() for shard in shards] == [0, 0]
    after = {path: path.read_bytes() for path in tmp_path.glob("out/*/*/records/*.json")}
    assert before and before.items() <= after.items() and len(after) == 4
    found = json.loads((tmp_path / "baselines.json").read_text())
    assert {(e["ipc"], e["decode"], len(e["evaluators"]["scratch/mlp-scratch"])) for e in found} == {
        (1, "none", 2),
        (1, "grid2", 2),
    }
    seeds = {path.parts[-3]: json.loads(text)["cell"]["seed"] for path, text in after.items()}
    assert seeds == {f"hard-ipc1{form}-draw{k}": k for form in ("", "-grid2") for k in range(2)}
