"""Intervals and ranks: against scipy's own tests and by simulation of what they promise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from mabench.results import uncertainty
from mabench.results.uncertainty import Rank, Scores, Spread

EVEN = {"a": 0.5, "b": 0.5}


def drawn(generator: np.random.Generator, truth: float, names: str = "ab", seeds: int = 3, noise: float = 0.01) -> Scores:
    return {name: {s: truth + generator.normal(0, noise) for s in range(seeds)} for name in names}


def ranks_of_single_sets(rows: Mapping[str, Scores], weights: Mapping[str, float]) -> dict[str, Rank]:
    sets = {name: [scores] for name, scores in rows.items()}
    return uncertainty.ranks(sets, weights, uncertainty.pooled(rows.items()), {name: name for name in rows})


def test_one_evaluator_is_the_textbooks_t_test() -> None:
    """With two sets alone the pooled spread is that of Student's test."""
    first, second = {"a": dict(enumerate((0.50, 0.52, 0.51)))}, {"a": dict(enumerate((0.47, 0.49, 0.47)))}
    spreads = uncertainty.pooled([("x", first), ("y", second)])
    found = uncertainty.difference([first], [second], {"a": 1.0}, spreads)
    expected = stats.ttest_ind(list(first["a"].values()), list(second["a"].values()))
    low, high = expected.confidence_interval(0.95)
    assert found is not None and found.degrees == pytest.approx(4)
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low), pytest.approx(high))  # type: ignore[comparison-overlap]
    assert found.mean / found.error == pytest.approx(expected.statistic)


def test_a_rows_interval_over_several_sets_is_that_of_their_means() -> None:
    sets: list[Scores] = [{"a": {0: value, 1: value + 0.02}} for value in (0.40, 0.43, 0.41)]
    found = uncertainty.of_sets(sets, {"a": 1.0}, {})
    low, high = stats.t.interval(0.95, 2, loc=np.mean([0.41, 0.44, 0.42]), scale=stats.sem([0.41, 0.44, 0.42]))
    assert found is not None and not found.pooled
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low), pytest.approx(high))  # type: ignore[comparison-overlap]


def test_two_rows_of_several_sets_are_compared_by_welchs_test() -> None:
    generator = np.random.default_rng(5)
    first, second = [drawn(generator, 0.5) for _ in range(3)], [drawn(generator, 0.4, noise=0.05) for _ in range(4)]
    found = uncertainty.difference(first, second, EVEN, {})
    means = [[uncertainty.mean_of(scores, EVEN) for scores in sets] for sets in (first, second)]
    expected = stats.ttest_ind(*means, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert found is not None and found.degrees == pytest.approx(expected.df)
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low), pytest.approx(high))  # type: ignore[comparison-overlap]


def test_lift_counts_the_baselines_own_error() -> None:
    scores: Scores = {"a": dict(enumerate((0.50, 0.52, 0.51)))}
    spreads = {"a": Spread(0.01, 30)}
    draws = [0.40, 0.38, 0.42, 0.37, 0.43]
    found = uncertainty.lift([scores], {"a": 1.0}, spreads, {"a": draws})
    assert found is not None and found.mean == pytest.approx(0.11)
    assert found.error == pytest.approx(math.sqrt(0.01**2 / 3 + np.var(draws, ddof=1) / 5)) and 4 < found.degrees < 34
    assert uncertainty.lift([scores], {"a": 1.0}, spreads, {}) is None
    assert uncertainty.lift([scores], {"a": 1.0}, {}, {"a": draws}) is None, "a spread that nobody knows gives no interval"


def test_lift_of_several_sets_is_welchs_t_test_against_the_draws() -> None:
    """Two networks that share sets and draws: what is compared are the means over networks."""
    generator = np.random.default_rng(4)
    sets = [drawn(generator, 0.5) for _ in range(3)]
    draws = {name: list(generator.normal(0.4, 0.02, 5)) for name in "ab"}
    found = uncertainty.lift(sets, EVEN, {}, draws)
    expected = stats.ttest_ind(
        [uncertainty.mean_of(scores, EVEN) for scores in sets], [(a + b) / 2 for a, b in zip(*draws.values(), strict=True)],
        equal_var=False,
    )  # fmt: skip
    low, high = expected.confidence_interval(0.95)
    assert found is not None and found.degrees == pytest.approx(expected.df)
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low), pytest.approx(high))  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(("names", "sets"), [("a", 2), ("ab", 2), ("a", 9), ("abcdef", 9)])
def test_equal_sets_are_told_apart_in_at_most_five_percent_of_tables(names: str, sets: int) -> None:
    """Any pair of a table of equal sets, not only a given one."""
    generator = np.random.default_rng(0)
    weights = dict.fromkeys(names, 1 / len(names))
    tables, told = 600, 0
    for _ in range(tables):
        rows = {f"{k}": drawn(generator, 0.5, names) for k in range(sets)}
        found = ranks_of_single_sets(rows, weights)
        told += any((rank.low, rank.high) != (1, sets) for rank in found.values())
    assert told / tables <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables), told


def test_what_differs_is_found() -> None:
    """Power, stated: two networks, three seeds, spread of a point, nine sets of which one is three points better: 167 of 200."""
    generator = np.random.default_rng(1)
    tables, found = 200, 0
    for _ in range(tables):
        rows = {f"{k}": drawn(generator, 0.53 if k == 0 else 0.50) for k in range(9)}
        first = ranks_of_single_sets(rows, EVEN)["0"]
        found += (first.low, first.high) == (1, 1)
    assert found / tables >= 0.75


def method(generator: np.random.Generator, truth: float = 0.5) -> list[Scores]:
    """Three sets whose own means spread by 1.5 points, with runs that spread by 0.4."""
    return [drawn(generator, truth + generator.normal(0, 0.015), noise=0.004) for _ in range(3)]


@pytest.mark.parametrize("count", [2, 6])
def test_equal_methods_are_told_apart_in_at_most_five_percent(count: int) -> None:
    """Sets of one method differ by more than runs of one set do: ranks over three sets know that. Any pair of a table."""
    generator = np.random.default_rng(2)
    tables, told = 1000, 0
    for _ in range(tables):
        rows = {f"{k}": method(generator) for k in range(count)}
        spreads = uncertainty.pooled((f"{k} {n}", scores) for k, sets in rows.items() for n, scores in enumerate(sets))
        found = uncertainty.ranks(rows, EVEN, spreads, {k: k for k in rows})
        told += any((rank.low, rank.high) != (1, count) for rank in found.values())
    assert told / tables <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables), told


def test_a_method_that_is_eight_points_better_is_found() -> None:
    """Power, stated: two methods of three sets whose means spread by 1.5 points; a gap of 5 points is told in 77 of 100, 8 in 98."""
    generator = np.random.default_rng(6)

    def told(gap: float, pairs: int = 400) -> float:
        found = (uncertainty.difference(method(generator, 0.5 + gap), method(generator), EVEN, {}) for _ in range(pairs))
        return sum(each is not None and abs(each.mean) > each.half for each in found) / pairs

    assert told(0.05) >= 0.7 and told(0.08) >= 0.93


def test_one_set_under_ten_names_has_one_rank_and_pushes_nobody_down() -> None:
    generator = np.random.default_rng(3)
    copied, other = drawn(generator, 0.6), drawn(generator, 0.4)
    rows = {f"copy{k}": copied for k in range(10)} | {"other": other}
    digests = {f"copy{k}": "same" for k in range(10)} | {"other": "other"}
    spread = uncertainty.pooled((digests[k], v) for k, v in rows.items())
    found = uncertainty.ranks({k: [v] for k, v in rows.items()}, EVEN, spread, digests)
    assert {(r.place, r.low, r.high) for k, r in found.items() if k != "other"} == {(1, 1, 1)}
    assert vars(found["other"]) == {"place": 2, "low": 2, "high": 2}
    assert spread["a"].degrees == 4, "ten copies are one estimate"


def test_one_run_each_gives_places_without_intervals() -> None:
    rows: dict[str, Scores] = {"x": {"a": {0: 0.5}}, "y": {"a": {0: 0.4}}, "z": {"a": {0: 0.4}}}
    found = ranks_of_single_sets(rows, {"a": 1.0})
    assert {k: vars(r) for k, r in found.items()} == {
        "x": {"place": 1, "low": None, "high": None},
        "y": {"place": 2, "low": None, "high": None},
        "z": {"place": 2, "low": None, "high": None},
    }
    assert uncertainty.ranks({}, {"a": 1.0}, {}, {}) == {}
