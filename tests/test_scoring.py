"""Scores against closed forms worked out by hand."""

from __future__ import annotations

import math

import pytest
from builders import DIGITS as EXAM
from builders import run_record as record

from mabench import suites
from mabench.results import scoring
from mabench.schema import Evaluator, Recipe, RunRecord


def test_best_plateau_and_last() -> None:
    one = record("mlp-scratch", 0, [100, 300, 300, 250])
    assert (one.best, one.best_epoch, one.last, scoring.score(one)) == (0.3, 20, 0.25, 0.3)
    (row,) = scoring.rows(EXAM, [one])
    assert (row.mean, row.best, row.plateau, row.last) == (0.3, 0.3, 0.25, 0.25)
    assert (row.std, row.runs, row.planned) == (None, 1, 3)


@pytest.mark.parametrize(
    ("epochs", "every", "first", "count"),
    [(2000, 10, 1810, 20), (100, 25, 100, 1), (300, 10, 280, 3), (2000, 1, 1981, 20), (105, 10, 100, 2), (1, 1, 1, 1)],
)
def test_the_plateau_is_the_last_tenth_and_at_most_twenty_passes(epochs: int, every: int, first: int, count: int) -> None:
    recipe = Recipe(epochs=epochs, batch_size=1, test_every=every, score="best")
    assert (recipe.plateau_epochs[0], len(recipe.plateau_epochs), recipe.plateau_epochs[-1]) == (first, count, epochs)
    made = record("mlp-scratch", 0, [0])
    curve = tuple((epoch, index) for index, epoch in enumerate(recipe.test_epochs))
    made = made.model_copy(update={"curve": curve, "total": 1000, "cell": made.cell.model_copy(update={"recipe": recipe})})
    passes = len(curve)
    assert scoring.plateau(made) == pytest.approx(sum(range(passes - count, passes)) / count / 1000)
    if count > 1:
        assert scoring.plateau(made.model_copy(update={"upper_bounds": (first,)})) is None


def test_std_is_unbiased_or_the_papers() -> None:
    assert scoring.spread([0.1, 0.3], "unbiased") == pytest.approx(math.sqrt(0.02))
    assert scoring.spread([0.1, 0.3], "population") == pytest.approx(0.1)
    assert scoring.spread([0.1], "unbiased") is None


def test_panel_spread_is_over_seed_means() -> None:
    """Two evaluators that move against each other have a panel mean without spread, whatever their own spreads."""
    names = [e.name for e in EXAM.evaluators["scratch"]]
    up, down = [100, 200, 300], [300, 200, 100]
    records = [record(n, s, [(up if i % 2 else down)[s]]) for i, n in enumerate(names) for s in range(3)]
    rows = {r.name: r for r in scoring.rows(EXAM, records)}
    assert rows["panel mean"].mean == pytest.approx(0.2) and rows["panel mean"].std == pytest.approx(0.0)
    assert rows[names[0]].std == pytest.approx(0.1)


def test_an_incomplete_panel_has_no_mean() -> None:
    rows = scoring.rows(EXAM, [record("mlp-scratch", s, [100]) for s in range(3)])
    assert [r.name for r in rows] == ["mlp-scratch"]


def test_a_panel_that_lacks_one_run_has_no_mean() -> None:
    names = [e.name for e in EXAM.evaluators["scratch"]]
    records = [record(n, s, [100 * (s + 1)]) for n in names for s in range(3) if (n, s) != (names[0], 2)]
    rows = scoring.rows(EXAM, records)
    assert not any(row.panel for row in rows) and scoring.headline(EXAM, "scratch", rows) is None
    lite = suites.load("cifar10-lite")
    (one,) = scoring.rows(lite, [_moved(record("mlp-scratch", 0, [100]), "pretrained", lite.evaluators["pretrained"][0])])
    assert scoring.headline(lite, "pretrained", [one]) is None, "one seed of a single network is incomplete too"


def _moved(made: RunRecord, track: str, entry: Evaluator) -> RunRecord:
    return made.model_copy(update={"cell": made.cell.model_copy(update={"track": track, "evaluator": entry})})


def test_families_weigh_alike() -> None:
    """The headline's scratch track: two ResNets share the weight of one family. Worked out by hand."""
    loaded_suite = suites.load("cifar10-agnostic")
    hits = {"convnet3": 500, "resnet18": 400, "resnet50": 200, "mobilenetv2": 300, "vit_tiny": 100, "swin_tiny": 150}
    records = [
        _moved(record("mlp-scratch", seed, [hits[e.name.removesuffix("-scratch")]]), "scratch", e)
        for e in loaded_suite.evaluators["scratch"]
        for seed in range(3)
    ]
    rows = {row.name: row for row in scoring.rows(loaded_suite, records)}
    assert rows["ResNet mean"].mean == pytest.approx(0.3) and rows["ResNet mean"].panel
    assert rows["panel mean"].mean == pytest.approx((0.5 + 0.3 + 0.3 + 0.1 + 0.15) / 5)
    assert [name for name in rows if name.endswith(" mean")] == ["ResNet mean", "panel mean"]
    weights = scoring.weights(loaded_suite, "scratch")
    assert weights["resnet18-scratch"] == weights["resnet50-scratch"] == pytest.approx(0.1)
    assert weights["vit_tiny-scratch"] == pytest.approx(0.2) and sum(weights.values()) == pytest.approx(1)
    pretrained = scoring.weights(loaded_suite, "pretrained")
    assert pretrained["swin_tiny-pretrained"] == pytest.approx(1 / 4) and pretrained["vit_base-pretrained"] == pytest.approx(
        1 / 12
    )


def test_the_worst_network_is_the_one_with_the_smallest_lift() -> None:
    records = [record(e.name, 0, [500 - 100 * i]) for i, e in enumerate(EXAM.evaluators["scratch"])]
    known = {f"scratch/{e.name}": (0.3 if i == 0 else 0.05, 0.0, 3) for i, e in enumerate(EXAM.evaluators["scratch"])}
    known["scratch/convnet3-scratch"] = (0.48, 0.0, 3)
    low = scoring.worst(scoring.rows(EXAM, records, known))
    assert low is not None and low.name == "convnet3-scratch" and low.lift == pytest.approx(0.02)
    del known["scratch/mlp-scratch"]
    assert scoring.worst(scoring.rows(EXAM, records, known)) is None


def test_divergence_counts_as_chance_level() -> None:
    """Neither an early success nor a lucky end of a network that has blown up counts."""
    for counts in ([400, 180], [400, 20]):
        (row,) = scoring.rows(EXAM, [record("mlp-scratch", 0, counts, diverged=15)])
        assert (row.mean, row.best, row.plateau, row.last, row.diverged) == (0.1, 0.1, 0.1, 0.1, 1)
    (row,) = scoring.rows(EXAM, [record("mlp-scratch", 0, [400], diverged=15), record("mlp-scratch", 1, [300])])
    assert row.mean == pytest.approx(0.2) and row.diverged == 1


def test_baseline_lift_and_recovery() -> None:
    rows = scoring.rows(EXAM, [record("mlp-scratch", 0, [400])], {"scratch/mlp-scratch": (0.25, 0.01, 3)})
    assert rows[0].lift == pytest.approx(0.15)
    assert scoring.recovery(0.4, 0.2, 0.8) == pytest.approx(1 / 3)
    assert scoring.recovery(0.4, 0.2, 0.21) is None


def test_the_headline_of_a_track_is_its_panel_or_its_only_evaluator() -> None:
    names = [e.name for e in EXAM.evaluators["scratch"]]
    whole = scoring.rows(EXAM, [record(n, s, [100]) for n in names for s in range(3)])
    row = scoring.headline(EXAM, "scratch", whole)
    assert row is not None and row.name == "panel mean"
    assert scoring.headline(EXAM, "scratch", scoring.rows(EXAM, [record(names[0], 0, [100])])) is None
    lite = suites.load("cifar10-lite")
    only = scoring.Row("pretrained", "efficientnet_lite0-pretrained", 0.3, None, 0.3, 0.3, 0.3, 3, 3)
    assert scoring.headline(lite, "pretrained", [only]) == only


def test_seen_networks_are_told_apart_by_name_stem_or_architecture() -> None:
    names = [e.name for e in EXAM.evaluators["scratch"]]
    table = scoring.rows(EXAM, [record(n, 0, [500 if n == "convnet3-scratch" else 200]) for n in names])
    for source in ("convnet3-scratch", "convnet3", "convnet"):
        assert scoring.seen_and_unseen(EXAM, "scratch", table, [source]) == pytest.approx((0.5, 0.2))
    assert scoring.seen_and_unseen(EXAM, "scratch", table, ["densenet"]) == (None, pytest.approx(0.275))  # type: ignore[comparison-overlap]
    assert scoring.seen_and_unseen(EXAM, "scratch", table, []) == (None, None)


def test_families_weigh_alike_among_the_seen_and_among_the_unseen() -> None:
    """Two ResNets that made the set count no more than the ConvNet that did."""
    headline = suites.load("cifar10-agnostic")
    scores = {"convnet3-scratch": 0.9, "resnet18-scratch": 0.2, "resnet50-scratch": 0.4}
    table = [
        scoring.Row("scratch", e.name, s := scores.get(e.name, 0.1), None, s, s, s, 3, 3) for e in headline.evaluators["scratch"]
    ]
    made, family = ["convnet3", "resnet18", "resnet50"], ["resnet18", "vit_tiny"]
    assert scoring.seen_and_unseen(headline, "scratch", table, made) == pytest.approx((0.6, 0.1))
    seen, unseen = scoring.seen_and_unseen(headline, "scratch", table, family)
    assert (seen, unseen) == pytest.approx(((0.2 / 2 + 0.1) / 1.5, (0.4 / 2 + 0.9 + 0.1 + 0.1) / 3.5))


def test_intervals_are_students() -> None:
    assert scoring.t_quantile(3) == pytest.approx(4.302653, abs=1e-6)  # any table of t, 2 degrees of freedom
    assert scoring.half_width([0.1, 0.2, 0.3]) == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert scoring.half_width([0.1]) is None and scoring.t_quantile(1) is None
