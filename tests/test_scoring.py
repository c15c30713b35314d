"""Scores against closed forms worked out by hand."""

from __future__ import annotations

import math

import pytest

from mabench import scoring, suites
from mabench.schema import Cell, RunRecord, SetSummary

EXAM = suites.load("digits-agnostic")


def record(evaluator: str, seed: int, counts: list[int], *, total: int = 1000, diverged: int | None = None) -> RunRecord:
    entry = next(e for e in EXAM.evaluators["scratch"] if e.name == evaluator)
    return RunRecord(
        cell=Cell(
            set_sha256="0" * 64, suite=EXAM.id, suite_digest=EXAM.digest, track="scratch", evaluator=entry,
            recipe=EXAM.recipes["scratch"], seed=seed,
        ),
        synthetic_set=SetSummary(
            sha256="0" * 64, name="x", dataset="digits", ipc=1, stored_images=10, decoded_images=10, image_shape=(3, 32, 32),
            image_dtype="uint8", decode="none", labels="hard", stored_bytes=30720,
        ),
        test_sha256="1" * 64, total=total, curve=tuple((10 * (i + 1), c) for i, c in enumerate(counts)),
        diverged_epoch=diverged, environment={}, seconds=1.0, started="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def test_best_last_and_optimism() -> None:
    one = record("mlp-scratch", 0, [100, 300, 300, 250])
    assert (one.best, one.best_epoch, one.last, one.score) == (0.3, 20, 0.25, 0.3)
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
    assert (panel.runs, panel.mean) == (2, pytest.approx(0.15))


def test_divergence_counts_as_the_last_look() -> None:
    (row,) = scoring.rows(EXAM, [record("mlp-scratch", 0, [400, 100], diverged=15)])
    assert row.mean == 0.1


def test_baseline_lift_and_recovery() -> None:
    rows = scoring.rows(EXAM, [record("mlp-scratch", 0, [400])], {"scratch/mlp-scratch": (0.25, 0.01, 3)})
    assert rows[0].lift == pytest.approx(0.15)
    assert scoring.recovery(0.4, 0.2, 0.8) == pytest.approx(1 / 3)
    assert scoring.recovery(0.4, 0.2, 0.21) is None
