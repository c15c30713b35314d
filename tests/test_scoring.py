"""Scores against closed forms worked out by hand."""

from __future__ import annotations

import math

import pytest
from builders import DIGITS as EXAM
from builders import run_record as record

from mabench import suites
from mabench.results import scoring


def test_best_last_and_optimism() -> None:
    one = record("mlp-scratch", 0, [100, 300, 300, 250])
    assert (one.best, one.best_epoch, one.last, scoring.score(one)) == (0.3, 20, 0.25, 0.3)
    (row,) = scoring.rows(EXAM, [one])
    assert (row.mean, row.last, row.std, row.runs, row.planned) == (0.3, 0.25, None, 1, 3)
    assert row.optimism == pytest.approx(0.05)


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


def test_panel_means_use_only_seeds_that_all_finished() -> None:
    names = [e.name for e in EXAM.evaluators["scratch"]]
    records = [record(n, s, [100 * (s + 1)]) for n in names for s in range(3) if (n, s) != (names[0], 2)]
    panel = next(r for r in scoring.rows(EXAM, records) if r.name == "panel mean")
    assert (panel.runs, panel.mean) == (2, pytest.approx(0.15))  # type: ignore[comparison-overlap]


def test_divergence_counts_as_chance_level() -> None:
    """Neither an early success nor a lucky end of a network that has blown up counts."""
    for counts in ([400, 180], [400, 20]):
        (row,) = scoring.rows(EXAM, [record("mlp-scratch", 0, counts, diverged=15)])
        assert (row.mean, row.last, row.optimism, row.diverged) == (0.1, 0.1, 0.0, 1)
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
    only = scoring.Row("pretrained", "efficientnet_lite0-pretrained", 0.3, None, 0.3, 3, 3)
    assert scoring.headline(lite, "pretrained", [only]) == only


def test_seen_networks_are_told_apart_by_name_stem_or_architecture() -> None:
    names = [e.name for e in EXAM.evaluators["scratch"]]
    table = scoring.rows(EXAM, [record(n, 0, [500 if n == "convnet3-scratch" else 200]) for n in names])
    for source in ("convnet3-scratch", "convnet3", "convnet"):
        assert scoring.seen_and_unseen(EXAM, "scratch", table, [source]) == (0.5, pytest.approx(0.2))  # type: ignore[comparison-overlap]
    assert scoring.seen_and_unseen(EXAM, "scratch", table, ["densenet"]) == (None, pytest.approx(0.275))  # type: ignore[comparison-overlap]
    assert scoring.seen_and_unseen(EXAM, "scratch", table, []) == (None, None)


def test_intervals_are_students() -> None:
    assert scoring.t_quantile(3) == pytest.approx(4.302653, abs=1e-6)  # any table of t, 2 degrees of freedom
    assert scoring.half_width([0.1, 0.2, 0.3]) == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert scoring.half_width([0.1]) is None and scoring.t_quantile(1) is None
