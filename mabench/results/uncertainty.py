"""How sure a number is: pooled spread of runs, t intervals, differences, and ranks that are intervals.

Three runs of one set are no estimate of their spread, so it is pooled per evaluator over all sets of a suite. What is said here
is about one set; a statement about a method takes several sets of it, whose means are compared as draws of their own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, variance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _Numbers = float | NDArray[np.float64]

CONFIDENCE = 0.95  # ours: what every interval on a board means
METHOD_SETS = 3  # sets of one method that a statement about the method takes (protocol, section 3)

Scores = Mapping[str, Mapping[int, float]]
"""Evaluator -> seed -> score of one set, fractions."""


@dataclass(frozen=True)
class Spread:
    """Standard deviation over seeds, a fraction, and the degrees of freedom behind it."""

    std: float
    degrees: int


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, half of its 95 % interval, and the degrees of freedom of its standard error."""

    mean: float
    half: float
    error: float
    degrees: float
    pooled: bool = False
    """Whether the error comes from the suite's pooled spread, which other rows share."""


@dataclass(frozen=True)
class Rank:
    """Place in a table, 1 = highest mean; equal means and equal sets share one.

    `low` to `high` are the places that the runs do not exclude, all pairs of the table tested together (Holm, 5 %); None where
    nothing is known of the spread.
    """

    place: int
    low: int | None
    high: int | None


def pooled(sets: Iterable[tuple[str, Scores]]) -> dict[str, Spread]:
    """(digest of a set, its scores) -> evaluator -> spread. A set that comes several times counts once."""
    squares: dict[str, float] = defaultdict(float)
    degrees: dict[str, int] = defaultdict(int)
    seen: set[tuple[str, str]] = set()
    for digest, scores in sets:
        for name, runs in scores.items():
            if len(runs) > 1 and (digest, name) not in seen:
                seen.add((digest, name))
                degrees[name] += len(runs) - 1
                squares[name] += (len(runs) - 1) * variance(runs.values())
    return {name: Spread(math.sqrt(squares[name] / count), count) for name, count in degrees.items()}


@lru_cache(maxsize=4096)
def quantile(degrees: float, level: float = (1 + CONFIDENCE) / 2) -> float:
    """Student's t below which `level` lies; of a two-sided 95 % interval without one."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, level))


def estimate(mean: float, terms: Iterable[tuple[float, float]]) -> Estimate | None:
    """From (variance, degrees of freedom) of independent terms, by Welch and Satterthwaite; None where a term has none."""
    known = list(terms)
    if any(degrees <= 0 for _, degrees in known):
        return None
    total = sum(value for value, _ in known)
    if total <= 0:
        return Estimate(mean, 0.0, 0.0, sum(degrees for _, degrees in known))
    degrees = total**2 / sum(value**2 / count for value, count in known)
    return Estimate(mean, quantile(degrees) * math.sqrt(total), math.sqrt(total), degrees)


def _terms(scores: Scores, weights: Mapping[str, float], spreads: Mapping[str, Spread]) -> list[tuple[float, float]]:
    return [
        (weight**2 * spreads[name].std ** 2 / len(scores[name]), spreads[name].degrees) if name in spreads else (0.0, 0)
        for name, weight in weights.items()
    ]


def mean_of(scores: Scores, weights: Mapping[str, float]) -> float:
    """The weighted mean over evaluators of the means over seeds."""
    return sum(weight * fmean(scores[name].values()) for name, weight in weights.items())


def of_set(scores: Scores, weights: Mapping[str, float], spreads: Mapping[str, Spread]) -> Estimate | None:
    """The score of one set. None where nothing is known of an evaluator's spread."""
    found = estimate(mean_of(scores, weights), _terms(scores, weights, spreads))
    return None if found is None else replace(found, pooled=True)


def difference(
    first: Sequence[Scores], second: Sequence[Scores], weights: Mapping[str, float], spreads: Mapping[str, Spread]
) -> Estimate | None:
    """First minus second, two rows of one or more sets."""
    one, other = of_sets(first, weights, spreads), of_sets(second, weights, spreads)
    return None if one is None or other is None else between(one, other)


def between(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, from what is known of each: Welch's t test, or Student's where both draw on one pooled spread."""
    error = math.hypot(first.error, second.error)
    degrees = float(_degrees(first.error, second.error, first.degrees, second.degrees, first.pooled and second.pooled))
    return Estimate(first.mean - second.mean, quantile(degrees) * error, error, degrees, first.pooled and second.pooled)


def _degrees(
    first: _Numbers, second: _Numbers, degrees: _Numbers, others: _Numbers, pooled: NDArray[np.bool_] | bool
) -> NDArray[np.float64]:
    """Of the difference of means with these standard errors: the smaller where both spreads are one estimate, else Welch's."""
    import numpy as np

    total = np.maximum(np.square(first) + np.square(second), 1e-300)
    welch = total**2 / np.maximum(np.square(np.square(first)) / degrees + np.square(np.square(second)) / others, 1e-300)
    smaller = np.minimum(degrees, others)
    return np.asarray(np.where(pooled | (welch < smaller), smaller, welch))


def of_sets(sets: Sequence[Scores], weights: Mapping[str, float], spreads: Mapping[str, Spread]) -> Estimate | None:
    """The score of a row: of its one set, or of the mean over its sets, whose means are then the draws.

    None where nothing is known of a single set's spread.
    """
    if len(sets) == 1:
        return of_set(sets[0], weights, spreads)
    means = [mean_of(scores, weights) for scores in sets]
    return estimate(fmean(means), [(variance(means) / len(means), len(means) - 1)])


def mean_of_sets(sets: Sequence[Scores], weights: Mapping[str, float]) -> float:
    """The mean over sets of `mean_of`."""
    return fmean(mean_of(scores, weights) for scores in sets)


def lift(
    sets: Sequence[Scores], weights: Mapping[str, float], spreads: Mapping[str, Spread], draws: Mapping[str, Sequence[float]]
) -> Estimate | None:
    """Score of a row minus a baseline of evaluator -> score by draw. None where a draw or a spread is missing.

    A draw is a set and a seed at once, so the spread over draws holds that of seeds; draws are averaged over the evaluators
    before they are compared, for all evaluators learned from the same images.
    """
    score = of_sets(sets, weights, spreads)
    if score is None or set(weights) - set(draws):
        return None
    means = [sum(weight * draws[name][k] for name, weight in weights.items()) for k in range(min(map(len, draws.values())))]
    if len(means) < 2:
        return None
    terms = [(score.error**2, score.degrees), (variance(means) / len(means), len(means) - 1)]
    return estimate(score.mean - fmean(means), terms)


def ranks(
    rows: Mapping[str, Sequence[Scores]], weights: Mapping[str, float], spreads: Mapping[str, Spread], digests: Mapping[str, str]
) -> dict[str, Rank]:
    """Row -> place with its interval. `rows`: the scores of each of its sets; `digests`: row -> what names its sets; rows of the same
    sets share the place of the best of them.

    Two rows are told apart where the t test of their difference (`difference`) is significant after Holm's correction for all pairs
    of the table. So on a table of equal sets, or of equal methods with three sets each, any pair is told apart in at most 5 % of tables.
    """
    import numpy as np

    best: dict[str, str] = {}
    for row in sorted(rows, key=lambda name: (-round(mean_of_sets(rows[name], weights), 9), name)):
        best.setdefault(digests[row], row)
    distinct = list(best.values())
    if not distinct:
        return {}
    means = np.array([mean_of_sets(rows[row], weights) for row in distinct])
    places = 1 + (np.round(means, 9)[:, None] < np.round(means, 9)[None, :]).sum(1)
    apart = _apart(means, [of_sets(rows[row], weights, spreads) for row in distinct])
    result = {}
    for row in rows:
        index = distinct.index(best[digests[row]])
        if apart is None:
            result[row] = Rank(int(places[index]), None, None)
            continue
        better = int((apart[index] & (means > means[index])).sum())
        worse = int((apart[index] & (means < means[index])).sum())
        result[row] = Rank(int(places[index]), 1 + better, len(distinct) - worse)
    return result


def _apart(means: NDArray[np.float64], estimates: Sequence[Estimate | None]) -> NDArray[np.bool_] | None:
    """[row, row]: told apart, by Holm over all pairs; None where the spread of an evaluator is not known."""
    import numpy as np
    from scipy.special import stdtr

    if any(estimate is None for estimate in estimates):
        return None
    errors = np.array([e.error for e in estimates if e is not None])
    degrees = np.array([e.degrees for e in estimates if e is not None])
    pooled = np.array([e.pooled for e in estimates if e is not None])
    first, second = np.triu_indices(len(means), 1)
    gap = np.abs(means[first] - means[second])
    error = np.sqrt(errors[first] ** 2 + errors[second] ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(error > 0, gap / error, np.where(gap > 1e-12, np.inf, 0.0))
    both = pooled[first] & pooled[second]
    chance = 2 * stdtr(_degrees(errors[first], errors[second], degrees[first], degrees[second], both), -statistic)
    order = np.argsort(chance, kind="stable")
    limits = (1 - CONFIDENCE) / (len(order) - np.arange(len(order)))
    failed = np.flatnonzero(chance[order] > limits)
    told = order[: failed[0]] if len(failed) else order
    apart = np.zeros((len(means), len(means)), dtype=bool)
    apart[first[told], second[told]] = apart[second[told], first[told]] = True
    return apart
