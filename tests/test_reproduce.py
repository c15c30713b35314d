"""`mabench reproduce`: presets and their changes, the comparison's arithmetic, the real command on digits and on published sets."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import pytest
import scipy.stats
import torch

import mabench_methods
from mabench import data, suites
from mabench.errors import MabenchError
from mabench.networks.evaluators import EVALUATORS
from mabench.papers import paper_tables as papers
from mabench.papers import presets, reproduce
from mabench.papers.reproduce import Line
from mabench.sets.synthetic import SyntheticSet


def line(paper: float, paper_std: float | None, ours: float, ours_std: float | None, paper_runs: int | None = None) -> Line:
    return Line("T", "s@1", "mlp-scratch", paper, paper_std, paper_runs, ours, ours_std, 3)


def test_inside_means_within_two_combined_spreads() -> None:
    assert line(30, 0.5, 31.4, None).spread == pytest.approx(math.sqrt(0.5))  # the other side is taken to vary alike
    assert line(30, 0.5, 31.41, None).inside is True and line(30, 0.5, 31.42, None).inside is False
    assert line(30, 0.3, 29.1, 0.4).difference == pytest.approx(-0.9)
    assert line(30, None, 31, None).inside is None


def test_a_spread_from_few_runs_allows_more() -> None:
    of_normal = scipy.stats.norm.cdf(2)
    both = line(30, 0.3, 31, 0.4, paper_runs=10)
    # (0.09 + 0.16)^2 / (0.09^2 / 9 + 0.16^2 / 2) = 4.562 degrees of freedom
    assert both.allowed == pytest.approx(0.5 * scipy.stats.t(4.562044).ppf(of_normal), rel=1e-6)
    alone = line(30, None, 31, 0.4)
    assert alone.allowed == pytest.approx(0.4 * math.sqrt(2) * scipy.stats.t(2).ppf(of_normal))
    assert alone.inside is True and abs(alone.difference) > 2 * 0.4 * math.sqrt(2) * 0.8


def test_every_table_names_a_suite_and_evaluators_that_exist() -> None:
    seen = 0
    for method in mabench_methods.METHODS:
        known = mabench_methods.presets(method)
        for table in papers.tables(method):
            exam = suites.load(table.suite)
            names = {e.name for es in exam.evaluators.values() for e in es}
            assert table.values and set(table.values) <= names <= set(EVALUATORS)
            assert exam.suite.dataset == table.dataset
            config = next(iter(known.values())).config
            assert all(reproduce._at(config, path) is not None for path in table.config), table.title
            seen += 1
    assert seen >= 20


def test_presets_and_changes() -> None:
    assert presets.preset("dc", None, 10).name == "paper-ipc10"
    changed = presets.preset("model-pool", "paper-ipc1", None, ["matching.iterations=7", "main_probability=0.5", "pool=various"])
    assert (changed.config.matching.iterations, changed.config.main_probability, changed.config.pool) == (7, 0.5, "various")
    assert presets.preset("random", None, 1, ["packed=true"]).config.packed is True
    assert not presets.preset("dc", "smoke", None).comparable and presets.preset("dc", "smoke", None).dataset == "digits"
    for bad, message in [
        (("dcc", None, None), "Did you mean 'dc'"),
        (("dc", "papr-ipc1", None), "paper-ipc1"),
        (("dc", None, 7), "no preset for IPC 7"),
        (("dc", "paper-ipc1", 10), "is for IPC 1, not 10"),
        (("dc", None, 1, ["iterations"]), "key=value"),
        (("dc", None, 1, ["iteratons=3"]), "Did you mean 'iterations'"),
        (("dc", None, 1, ["iterations=many"]), "Allowed: a value like 1000"),
        (("random", None, 1, ["packed=1"]), "true or false"),
    ]:
        with pytest.raises(MabenchError, match=message):
            presets.preset(*bad)  # type: ignore[arg-type]


def test_presets_on_other_datasets_have_names_and_suites() -> None:
    tiny = presets.preset("gvbsm", "tinyimagenet-released-ipc100", None, ["iterations=7"])
    assert (tiny.dataset, tiny.config.ipc, tiny.config.iterations) == ("tinyimagenet", 100, 7)
    tables = reproduce.fitting_tables(tiny, from_set=False)
    assert reproduce.chosen_suites(tiny, [], tables) == ["tinyimagenet-gvbsm", "tinyimagenet-agnostic"]
    fruit = presets.preset("trajectory", "imagefruit-paper-ipc10", None)
    assert fruit.config.experts.depth_at(128) == 5
    assert reproduce.chosen_suites(fruit, [], reproduce.fitting_tables(fruit, from_set=False)) == ["imagefruit-ast"]
    assert presets.preset("gvbsm", None, 10).dataset == "cifar10"
    with pytest.raises(MabenchError, match="on CIFAR-10.*--preset tinyimagenet-released-ipc100"):
        presets.preset("gvbsm", None, 100)
    for method in mabench_methods.METHODS:
        assert all(found.dataset in data.DATASETS for found in mabench_methods.presets(method).values())


@pytest.mark.parametrize("method", mabench_methods.METHODS)
def test_a_card_says_what_makes_the_set_again(method: str) -> None:
    """Whatever the configuration, the command of the card is read back as that configuration."""
    for name, preset in mabench_methods.presets(method).items():
        assert parsed(presets.command(preset, 3)) == (preset.config, 3), name
        changed = presets.preset(method, name, None, [ODD.get(method, "ipc=7")])
        assert changed.config != preset.config
        assert parsed(presets.command(changed, 4)) == (changed.config, 4)


ODD = {
    "trajectory": "iterations=17",
    "mtt": "iterations=17",
    "dc": "image_rate=1e-07",
    "model-pool": "matching.iterations=17",
    "hmdc": "image_rate=0.125",
    "gvbsm": "backbones=convnet48,wrn10_1",
    "sre2l": "iterations=17",
}
"""Changes of every type; for the rest of the methods the budget."""


def parsed(command: str) -> tuple[object, int]:
    """The configuration and the seed that `mabench reproduce` would take from this line."""
    program, name, method, *rest = shlex.split(command)
    assert (program, name) == ("mabench", "reproduce") and len(rest) % 2 == 0
    options = list(zip(rest[::2], rest[1::2], strict=True))
    (preset,) = (value for key, value in options if key == "--preset")
    (seed,) = (int(value) for key, value in options if key == "--seed")
    return presets.preset(method, preset, None, [v for k, v in options if k == "--config"]).config, seed


def test_a_suite_that_replays_labels_is_run_where_the_preset_records_them() -> None:
    whole, small = presets.preset("gvbsm", "paper-ipc10", None), presets.preset("gvbsm", "lite", None)
    for chosen, expected in ((whole, ["cifar10-gvbsm", "cifar10-agnostic"]), (small, ["cifar10-lite"])):
        assert reproduce.chosen_suites(chosen, [], reproduce.fitting_tables(chosen, from_set=False)) == expected
    exam = suites.load("cifar10-gvbsm")
    reproduce.check_records(whole, exam)
    with pytest.raises(MabenchError, match="preset 'lite' of gvbsm.*record_epochs=1000"):
        reproduce.check_records(small, exam)


def test_tables_belong_to_a_configuration() -> None:
    long = presets.preset("model-pool", "released-ipc1", None)
    short = presets.preset("model-pool", "released-ipc1", None, ["matching.iterations=1000"])
    assert [t.values["mlp-scratch"][0] for t in reproduce.fitting_tables(long, from_set=False)] == [27.73]
    assert [t.values["mlp-scratch"][0] for t in reproduce.fitting_tables(short, from_set=False)] == [27.24]
    assert [t.values["mlp-scratch"][0] for t in reproduce.fitting_tables(short, from_set=True)] == [27.73]
    packed = presets.preset("random", "packed-ipc10", None)
    assert [t.suite for t in reproduce.fitting_tables(packed, from_set=False)] == ["cifar10-hmdc"]
    assert reproduce.chosen_suites(packed, [], reproduce.fitting_tables(packed, from_set=False)) == [
        "cifar10-hmdc",
        "cifar10-agnostic",
    ]


def test_the_command_condenses_examines_and_goes_on(mabench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = ("reproduce", "dc", "--preset", "smoke", "--evaluator", "mlp*", "--seeds", "0", "--out", "out")
    first = mabench(*command)
    assert first.returncode == 0, first.stderr
    assert "no verdict is due" in first.stdout and "condensed:" in first.stdout
    made = tmp_path / "out" / "set-seed0"
    assert {"set.safetensors", "card.toml", "preview.png", "losses.png", "losses.csv", "run.json"} == {
        p.name for p in made.iterdir()
    }
    assert "mabench reproduce dc --preset smoke --seed 0" in (made / "card.toml").read_text()
    before = {p: p.stat().st_mtime_ns for p in [made / "set.safetensors", *(tmp_path / "out").rglob("records/*.json")]}
    again = mabench(*command)
    assert again.returncode == 0 and "1 of 1 runs were finished before" in again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in before}
    other = mabench(*command, "--config", "iterations=2")
    assert other.returncode == 2 and "holds another condensation" in other.stderr and "Traceback" not in other.stderr
    for typo in (("--evaluator", "mpl-scratch"), ("--evaluator", "mlp*", "--seeds", "99"), ("--suite", "digits-agnostik")):
        refused = mabench("reproduce", "dc", "--preset", "smoke", *typo, "--out", "new")
        assert refused.returncode == 2 and not (tmp_path / "new").exists()  # before anything is condensed


def test_several_sets_are_examined_with_one_seed_each(mabench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = mabench("reproduce", "random", "--preset", "smoke", "--evaluator", "mlp*", "--sets", "2", "--out", "out")
    assert done.returncode == 0, done.stderr
    records = [json.loads(p.read_text()) for p in sorted((tmp_path / "out").rglob("records/*.json"))]
    assert [r["cell"]["seed"] for r in records] == [0, 1]
    assert len({r["synthetic_set"]["sha256"] for r in records}) == 2


def test_a_dry_run_costs_and_changes_nothing(mabench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = mabench("reproduce", "dc", "--preset", "smoke", "--evaluator", "mlp*", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "condensing: about" in done.stdout and "all together about" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_published_set_stands_beside_its_paper(mabench, tmp_path: Path, real_data: Path) -> None:  # type: ignore[no-untyped-def]
    published = real_data / "sets" / "modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt"
    done = mabench(
        "reproduce", "model-pool", "--ipc", "10", "--from-set", published, "--suite", "cifar10-modelpool",
        "--evaluator", "mlp*", "--seeds", "0,1,2", "--out", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (only,) = json.loads((tmp_path / "out" / "reproduction.json").read_text())["lines"]
    assert (only["paper"], only["evaluator"], only["ours_runs"]) == (30.78, "mlp-scratch", 3)
    assert abs(only["difference"]) < 1.0 and only["inside"] is True
    assert "30.78 ± 0.34 (10)" in (tmp_path / "out" / "reproduction.md").read_text()
    assert (tmp_path / "out" / "reproduction.png").stat().st_size > 5000


def test_noise_is_found_outside(mabench, tmp_path: Path, real_data: Path) -> None:  # type: ignore[no-untyped-def]
    entry = data.DATASETS["cifar10"]
    noise = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    SyntheticSet(noise, torch.arange(10), "cifar10", 1, class_names=entry.class_names).save(tmp_path / "noise.safetensors")
    command = ("reproduce", "dc", "--ipc", "1", "--from-set", "noise.safetensors", "--suite", "cifar10-modelpool")
    done = mabench(*command, "--evaluator", "mlp*", "--seeds", "0,1,2,3", "--out", "out")
    assert done.returncode == 1 and "outside: mlp-scratch" in done.stderr
    wrong = mabench("reproduce", "dc", "--ipc", "10", "--from-set", "noise.safetensors", "--out", "new")
    assert wrong.returncode == 2 and "--ipc 1" in wrong.stderr and not (tmp_path / "new").exists()
