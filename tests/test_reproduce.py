"""`mabench reproduce`: presets and their changes, the comparison's arithmetic, the real command on digits and on published sets."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats
import torch
from click.testing import CliRunner

import mabench_methods
from mabench import data, suites
from mabench.cli.main import main as cli
from mabench.errors import MabenchError
from mabench.networks.evaluators import EVALUATORS
from mabench.papers import compare as comparing
from mabench.papers import matching, presets, reproduce
from mabench.papers.compare import Line
from mabench.results import paper_tables as papers
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
    for _, table in papers.read(papers.INSTALLED):
        loaded_suite = suites.load(table.suite)
        names = {e.name for es in loaded_suite.evaluators.values() for e in es}
        assert table.values and set(table.values) <= names <= set(EVALUATORS)
        assert loaded_suite.suite.dataset == table.dataset
        assert set(table.baseline) <= set(table.values) and bool(table.baseline) == bool(table.baseline_name)
        seen += 1
    assert seen >= 120


def rows_of(method: mabench_methods.Method, chosen: mabench_methods.Preset) -> list[tuple[str, str, str]]:
    """(suite, evaluator, title) of every row that judges a preset."""
    found = matching.matches(method, chosen)
    return [(m.table.suite, evaluator, m.table.title) for m in found if not m.differs for evaluator in m.evaluators]


def test_at_most_one_row_of_a_suite_and_evaluator_judges_any_configuration() -> None:
    """Over all rows of all methods, presets or not: two rows with one configuration would give two verdicts."""
    for name in mabench_methods.BUNDLED:
        method = mabench_methods.load(name)
        stated: dict[tuple[str, str, str], str] = {}
        for table in papers.tables(method):
            for row in matching.row_configurations(method, table):
                assert (row.dataset, row.config.ipc) == (table.dataset, table.ipc), table.title
                for evaluator in table.values:
                    key = (table.suite, evaluator, repr(row.config))
                    assert key not in stated, f"{name}: {table.title} and {stated[key]} for {key[:2]}"
                    stated[key] = table.title


def test_which_preset_is_held_against_which_row() -> None:
    """The whole table is a golden file; a row that is gained or lost shows here. Small presets are judged by nothing."""
    table: dict[str, dict[str, list[str]]] = {}
    for name in mabench_methods.BUNDLED:
        method = mabench_methods.load(name)
        for preset in method.presets.values():
            judged = rows_of(method, preset)
            assert preset.comparable or not judged, (name, preset.name)
            for suite, evaluator, title in judged:
                row = table.setdefault(f"{name} {preset.name}", {}).setdefault(f"{suite}: {title}", [])
                row.append(evaluator.removesuffix("-scratch"))
    golden = Path(__file__).parent / "golden" / "paper_rows.json"
    assert json.loads(golden.read_text(encoding="utf-8")) == table


@pytest.mark.parametrize(
    ("method", "name", "changes", "title"),
    [
        # an ablation is held against its own row alone, not against the whole method's
        ("hmdc", "released-ipc10-without-gbm-md-step", [], "Table 2 (neither GBM nor MD)"),
        ("hmdc", "released-ipc10-cnn-cnn", [], "Table 3 (ConvNet and ResNet18)"),
        ("hmdc", "released-ipc10-large", [], "Table 3 (ResNet18 and ViT-small)"),
        # one iteration, or none, is not the paper's method
        ("hmdc", "released-ipc10", ["iterations=1", "steps=1"], None),
        ("hmdc", "paper-ipc10", ["iterations=0"], None),
        ("gvbsm", "paper-ipc10", ["iterations=1"], None),
        ("dc", "paper-ipc1", ["depth=1", "width=8"], None),
        # pools that diverge have rows of their own
        ("model-pool", "total-random-ipc1", [], "Table 5, row 1 (total random), 3,000 iterations"),
        ("model-pool", "main-and-various-ipc10", [], "Table 5, row 2 (w/ main model), 3,000 iterations"),
        ("model-pool", "released-ipc1", ["matching.iterations=1000"], "Table 5, row 3 (w/ main model & similar other models), 1,000 iterations"),
        # what --config makes of a preset is judged by the row that states it
        ("trajectory", "cifar100-paper-ipc10", ["perturbation=none"], "AST, Table 7, + intermediate matching"),
        ("gvbsm", "imagenet1k-released-ipc10", ["momentum=0.0"], "Table 1, alpha 0.0"),
        ("trajectory", "cifar100-paper-ipc10", ["initial=real"] + [f"{k}=none" for k in ("balance", "intermediate", "perturbation", "experts.penalty", "experts.clip")], "AST, Table 6a, momentum"),
        ("gvbsm", "imagenet1k-released-ipc10", ["iterations=1"], None),
        # MTT's number is of whitened images
        ("mtt", "paper-ipc10", [], None),
        ("mtt", "paper-ipc50", [], "MTT, Table 1"),
        # so is AST's, by its released command; of the others its paper says nothing
        ("trajectory", "paper-ipc10", [], None),
        ("trajectory", "released-ipc10", [], None),
        ("trajectory", "released-ipc1", [], "AST, Table 3, Ours"),
        ("random", "packed-ipc10", [], "HMDC, Table 1 (Random)"),
        ("gvbsm", "imagenet1k-released-ipc10", ["label_backbones=2"], "Table 3, 2 backbones in the ensemble"),
        ("sre2l", "cifar100-released-ipc50", [], None),
    ],
)  # fmt: skip
def test_a_set_is_judged_by_its_own_row_or_by_none(method: str, name: str, changes: list[str], title: str | None) -> None:
    runnable = mabench_methods.load(method)
    chosen = presets.preset(runnable, name, None, changes)
    assert {t for _, _, t in rows_of(runnable, chosen)} == ({title} if title else set())


def test_the_whole_method_is_judged_by_one_number_of_every_network() -> None:
    """G-VBSM's headline was held against eleven tables at once, its ResNet-18 against 25.7, 27.2, 27.9 and 31.4."""
    method = mabench_methods.load("gvbsm")
    found = matching.matches(method, method.presets["imagenet1k-released-ipc10"])
    numbers = [
        m.table.values["resnet18_224-scratch"][0]
        for m in found
        if not m.differs and "resnet18_224-scratch" in m.evaluators and m.table.suite == "imagenet1k-gvbsm"
    ]
    assert numbers == [31.4]


def test_nearest_rows_say_what_differs() -> None:
    method = mabench_methods.load("dc")
    (match,) = matching.matches(method, presets.preset(method, "paper-ipc50", None, ["depth=1"]))
    assert match.table.title == "DC, Table 1" and match.differs == "here depth=1" and match.evaluators == ("convnet3-scratch",)


def test_a_given_set_is_judged_only_where_the_file_is_the_one_that_was_measured(real_data: Path) -> None:
    """A set of DC under a preset of Model Pool passed as Model Pool's before."""
    method = mabench_methods.load("model-pool")
    published = real_data / "sets" / "modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt"
    other = real_data / "sets" / "res_DC_CIFAR10_ConvNet_1ipc_3000.pt"
    agreeing = reproduce.plan("model-pool", ipc=10, from_set=published, suites=["cifar10-modelpool"]).matches
    assert {m.table.title for m in agreeing if not m.differs} == {
        "Table 5, row 3 (w/ main model & similar other models), 3,000 iterations"
    }
    foreign = reproduce.plan(method, preset="total-random-ipc1", from_set=other, suites=["cifar10-modelpool"]).matches
    assert foreign and all(m.differs == "the given set is not known to be the one that was measured" for m in foreign)
    own = reproduce.plan("dc", ipc=1, from_set=other, suites=["cifar10-modelpool"]).matches
    assert {m.table.title for m in own if not m.differs} == {"Model Pool's log of its DC baseline, 3,000 iterations"}
    first = reproduce.plan("dc", ipc=1, from_set=other, reading={"set_index": 0}, suites=["cifar10-modelpool"]).matches
    assert all(m.differs for m in first)


def test_a_verdict_says_whether_the_test_could_have_failed() -> None:
    base = Line("T", "s@1", "mlp-scratch", 27.73, 0.94, 10, 26.23, 0.9, 3, baseline=26.50, baseline_name="DC")
    assert base.inside and base.telling is False and base.verdict == "inside, but so would be DC (26.50)"
    far = dataclasses.replace(base, baseline=14.4, baseline_name="random")
    assert far.telling is True and far.verdict == "inside; random (14.40) would not be"
    assert dataclasses.replace(far, ours=10.0).verdict == "OUTSIDE"
    unknown = dataclasses.replace(base, baseline=None, baseline_name="")
    assert unknown.verdict == "inside; baseline not known" and unknown.short_verdict == "inside"
    nearest = dataclasses.replace(far, differs="here depth=1")
    assert nearest.inside is None and nearest.verdict == "nearest row, no verdict" and comparing.outside([nearest]) == []


def test_only_random_is_inside_without_a_word_on_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all rows that judge a configuration, each met exactly; those whose baseline no paper at hand prints are named here."""
    monkeypatch.setattr(comparing, "rows", lambda _, met: met)
    unknown = set()
    for name in mabench_methods.BUNDLED:
        for table in papers.tables(name):
            if table.presets:
                met = [SimpleNamespace(name=e, mean=v[0] / 100, std=0.001, runs=3, panel=False) for e, v in table.values.items()]
                lines = comparing.compare([matching.Match(table, tuple(table.values))], suites.load(table.suite), met)  # type: ignore[arg-type]
                assert lines and all((line.verdict == "inside") == (name == "random") for line in lines), table.title
                unknown |= {(name, line.evaluator) for line in lines if line.verdict == "inside; baseline not known"}
    beside_the_convnet = {("dc", f"{e}-scratch") for e in ("mlp", "lenet", "alexnet", "vgg11_in", "resnet18_in")}
    assert unknown == beside_the_convnet | {("rded", "convnet3-scratch"), ("rded", "resnet18-scratch")}


def test_rows_are_complete() -> None:
    """Numbers as the papers print them, counted: those that are compared and those that are only cited."""
    counts = {}
    for name in ("hmdc", "model_pool", "gvbsm", "trajectory", "rded"):
        content = tomllib.loads((papers.INSTALLED / name / "paper.toml").read_text(encoding="utf-8"))
        counts[name] = {kind: sum(len(row["values"]) for row in content.get(kind, [])) for kind in ("table", "cited", "full")}
    assert counts["hmdc"] == {
        "table": (3 * 5 + 3 + 2) * 7,
        "cited": 14,
        "full": 0,
    }  # Table 1 but Random, which stands with the baselines; IDC's own numbers
    assert counts["model_pool"] == {
        "table": 18 * 5 + 2,
        "cited": 6 * (6 + 5 + 5 + 5),
        "full": 0,
    }  # + ConvNet of two published files
    assert sum(counts["gvbsm"].values()) == 139 - 2  # two points of Figure 5 repeat Table 4
    assert counts["rded"] == {"table": 2, "cited": 7 * 9 - 2, "full": 0}  # Table 2: seven datasets, three budgets, three networks
    assert counts["trajectory"] == {"table": 55 + 6, "cited": 92, "full": 7}  # AST, and MTT's own Table 1 on CIFAR


def test_presets_and_changes() -> None:
    assert presets.preset("dc", None, 10).name == "paper-ipc10"
    changed: Any = presets.preset(
        "model-pool", "paper-ipc1", None, ["matching.iterations=7", "main_probability=0.5", "pool=various"]
    )
    assert (changed.config.matching.iterations, changed.config.main_probability, changed.config.pool) == (7, 0.5, "various")
    assert presets.preset("random", None, 1, ["packed=true"]).changes == ("packed=true",)
    assert not presets.preset("dc", "smoke", None).comparable and presets.preset("dc", "smoke", None).dataset == "digits"
    for bad, message in [
        (("dcc", None, None), "Did you mean 'dc'"),
        (("dc", "papr-ipc1", None), "paper-ipc1"),
        (("dc", None, 7), "no preset for IPC 7"),
        (("dc", "paper-ipc1", 10), "is for IPC 1, not 10"),
        (("dc", None, 1, ["iterations"]), "key=value"),
        (("dc", "smok", None), r"Did you mean 'smoke'.*\(mabench show dc\)"),
        (("dc", None, 1, ["iteratons=3"]), "Did you mean 'iterations'"),
        (("dc", None, 1, ["iterations=many"]), "Allowed: a value like 1000"),
        (("random", None, 1, ["packed=1"]), "true or false"),
    ]:
        with pytest.raises(MabenchError, match=message):
            presets.preset(*bad)  # type: ignore[arg-type]


def suites_of(chosen: mabench_methods.Preset) -> list[str]:
    """What `mabench reproduce` runs without --suite."""
    return reproduce.suites_to_run(chosen, [], matching.matches(mabench_methods.load(chosen.method), chosen))


def test_presets_on_other_datasets_have_names_and_suites() -> None:
    tiny = presets.preset("gvbsm", "tinyimagenet-released-ipc100", None, ["iterations=7"])
    config: Any = tiny.config
    assert (tiny.dataset, config.ipc, config.iterations, tiny.changes) == ("tinyimagenet", 100, 7, ("iterations=7",))
    assert suites_of(tiny) == ["tinyimagenet-gvbsm", "tinyimagenet-agnostic"]
    fruit: Any = presets.preset("trajectory", "imagefruit-paper-ipc10", None)
    assert fruit.config.experts.depth_at(128) == 5
    assert suites_of(fruit) == ["imagefruit-ast", "imagefruit-agnostic"]
    assert presets.preset("gvbsm", None, 10).dataset == "cifar10"
    firsts = {name: presets.preset(name, None, 10).name for name in ("gvbsm", "hmdc", "model-pool", "trajectory")}
    assert firsts == dict.fromkeys(("gvbsm", "hmdc", "model-pool"), "released-ipc10") | {"trajectory": "paper-ipc10"}
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
    "rded": "label_temperature=2.5",
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


def test_the_commands_of_a_report_plan_the_same_again(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every argument that moves a number: `--seeds` was lost where there were several sets, what the reader was told and the engine always."""
    published = str(real_data / "sets" / "res_DC_CIFAR10_ConvNet_1ipc_3000.pt")
    several = reproduce.plan(
        "random", preset="smoke", sets=2, seeds=[2, 1], evaluators="mlp*", engine="fast", device="cpu", out=tmp_path / "a b"
    )
    assert "--seeds 1,2" in several._commands()[0]
    given = reproduce.plan(
        "dc", ipc=1, from_set=published, reading={"set_index": 0, "mean": [-0.5, 0.25, 0.5], "std": [0.25, 0.5, 1.0], "learned_rate": 0.02},
        suites=["cifar10-lite"], tracks="scratch", engine="reference",
    )  # fmt: skip
    spaced = reproduce.plan("dc", ipc=1, from_set=published, reading={"space": "signed", "labels_key": None}, seeds=[2, 0])
    for planned in (several, given, spaced):
        (text,) = planned._commands()
        assert dataclasses.replace(of_command_line(text, monkeypatch), given=None) == dataclasses.replace(
            planned, given=None, reading={k: v for k, v in planned.reading.items() if v is not None}
        ), text


def of_command_line(text: str, monkeypatch: pytest.MonkeyPatch) -> reproduce.Reproduction:
    """What the program would run for this line, its names as Python gives them."""
    plan, found = reproduce.plan, []

    def noted(method: str, **arguments: Any) -> None:
        arguments |= {
            k: v for k in ("tracks", "evaluators") for v in [arguments[k][0] if len(arguments[k]) == 1 else arguments[k] or None]
        }
        found.append(plan(method, **arguments))
        raise MabenchError("planned")

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "plan", noted)
        done = CliRunner().invoke(cli, shlex.split(text)[1:])
    assert done.exit_code == 2 and done.output == "mabench: planned\n", done.output
    return found[0]


def test_a_suite_that_replays_labels_is_run_where_the_preset_records_them() -> None:
    whole, small = presets.preset("gvbsm", "paper-ipc10", None), presets.preset("gvbsm", "lite", None)
    assert suites_of(whole) == ["cifar10-gvbsm", "cifar10-agnostic"] and suites_of(small) == ["cifar10-lite"]
    loaded_suite = suites.load("cifar10-gvbsm")
    reproduce.check_records(whole, loaded_suite)
    with pytest.raises(MabenchError, match="preset 'lite' of gvbsm.*record_epochs=1000"):
        reproduce.check_records(small, loaded_suite)


def test_the_command_condenses_evaluates_and_resumes(mabench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = ("reproduce", "dc", "--preset", "smoke", "--evaluator", "mlp*", "--seeds", "0", "--out", "out")
    first = mabench(*command)
    assert first.returncode == 0, first.stderr
    assert "nothing is compared" in first.stdout and "condensed:" in first.stdout
    report = (tmp_path / "out" / "reproduction.md").read_text()
    digest = json.loads((tmp_path / "out" / "reproduction.json").read_text())["sets"][0]
    assert f"sha256 `{digest}`" in report and "mabench reproduce dc --preset smoke --seed 0 --suite digits-agnostic@1" in report
    assert "mlp" in report.split("## digits-agnostic@1")[1], "our numbers stand there without a row of the paper, too"
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


def test_a_set_that_nobody_measured_gets_no_verdict(mabench, tmp_path: Path, real_data: Path) -> None:  # type: ignore[no-untyped-def]
    entry = data.DATASETS["cifar10"]
    noise = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    SyntheticSet(noise, torch.arange(10), "cifar10", 1, class_names=entry.class_names).save(tmp_path / "noise.safetensors")
    command = ("reproduce", "dc", "--ipc", "1", "--from-set", "noise.safetensors", "--suite", "cifar10-modelpool")
    done = mabench(*command, "--evaluator", "mlp*", "--seeds", "0,1", "--out", "out")
    assert done.returncode == 0 and "nearest row, no verdict" in done.stdout and "not known to be the one" in done.stdout
    wrong = mabench("reproduce", "dc", "--ipc", "10", "--from-set", "noise.safetensors", "--out", "new")
    assert wrong.returncode == 2 and "--ipc 1" in wrong.stderr and not (tmp_path / "new").exists()


METHOD_OF_TWO = """
from pathlib import Path
from mabench_methods import Method, Preset, by_name
from mabench_methods.baselines.condense import Config, condense
METHOD = Method("two", condense, by_name(Preset("two", "claim", Config(1, "random"), "digits")), Path(__file__).with_name("paper.toml"))
"""
CLAIM = """
[[table]]
method = "two"
title = "Table 1"
dataset = "digits"
ipc = 1
suite = "digits-agnostic"
presets = ["claim"]
runs = 5
values.mlp-scratch = [99.0, 0.1]
"""


def test_a_number_outside_ends_the_command_with_1(mabench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A method in a file, with a paper of its own that claims too much; changed, it is no longer what the paper is about."""
    (tmp_path / "two.py").write_text(METHOD_OF_TWO)
    (tmp_path / "paper.toml").write_text(CLAIM)
    command = ("reproduce", "./two.py", "--suite", "digits-agnostic", "--evaluator", "mlp*")
    done = mabench(*command, "--out", "out")
    assert done.returncode == 1 and "outside: mlp-scratch (Table 1)" in done.stderr, done.stdout + done.stderr
    changed = mabench(*command, "--config", "packed=true", "--out", "other")
    assert changed.returncode == 0 and "nearest row, no verdict: here packed=true" in changed.stdout
    assert "not the preset 'claim' any more: packed=true" in (tmp_path / "other" / "reproduction.md").read_text()
