"""Rows -> their places, intervals and differences, within their own table and by the suite's pooled spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from mabench.board.site.sources import loaded_suite
from mabench.board.site.standings import Standing
from mabench.results import baselines, lifts, scoring, uncertainty
from mabench.results.uncertainty import Estimate, Spread
from mabench.schema import RANKED_TIERS


def placed(rows: Iterable[Standing]) -> list[Standing]:
    """All rows of the board with their places: by table, ranked ones first, then by score and key."""
    tables: dict[tuple[str, str, int, str], list[Standing]] = defaultdict(list)
    for row in rows:
        tables[row.table].append(row)
    out = []
    spreads = spread_of(row for group in tables.values() for row in group)
    for name in sorted(tables):
        fit = _most_trusted(row for row in tables[name] if not row.why_unranked)
        places = uncertainty.ranks(
            {row.key: _scores(row) for row in fit.values()},
            scoring.weights(loaded_suite(name[0]), name[1]),
            spreads[name[0], name[1]],
            {row.key: row.identity for row in fit.values()},
        )
        ranked = [
            replace(row, rank=place.place, rank_low=place.low, rank_high=place.high)
            if not row.why_unranked and (place := places.get(fit[row.identity].key)) is not None
            else row
            for row in (_estimated(row, spreads[row.suite, row.track]) for row in tables[name])
        ]
        out += sorted(ranked, key=lambda r: _order(r, fit))
    return out


def _most_trusted(rows: Iterable[Standing]) -> dict[str, Standing]:
    """Of the rows of each set the one that speaks for all, by identity: what others have repeated before what nobody has, then the best."""
    found: dict[str, Standing] = {}
    for row in sorted(rows, key=lambda r: (RANKED_TIERS.index(r.tier), -(r.score or 0.0), r.key)):
        found.setdefault(row.identity, row)
    return found


def _order(row: Standing, fit: Mapping[str, Standing]) -> tuple[object, ...]:
    """Ranked rows by place; rows of one set side by side, the one that speaks for them first."""
    score = (row if row.rank is None else fit[row.identity]).score
    trust = RANKED_TIERS.index(row.tier) if row.rank is not None else 0
    return (row.rank is None, row.rank or 0, score is None, -(score or 0.0), trust, -(row.score or 0.0), row.key)


def _estimated(row: Standing, spreads: Mapping[str, Spread]) -> Standing:
    """The row with the intervals of its score and of its evaluators, from the suite's pooled spread."""
    sets = _scores(row)
    alone = {
        name: uncertainty.of_sets(sets, {name: 1.0}, spreads)
        for name in row.network_results
        if sets and all(name in s for s in sets)
    }
    network_results = {
        name: replace(network_result, half_width=found.half if (found := alone.get(name)) else None)
        for name, network_result in row.network_results.items()
    }
    if row.score is None or not sets:
        return replace(row, network_results=network_results)
    score = uncertainty.of_sets(sets, scoring.weights(loaded_suite(row.suite), row.track), spreads)
    if score is None:
        return replace(row, network_results=network_results, half_width=None)
    matched = baselines.Matched(*(images for _, images in row.baselines)) if row.baselines else baselines.Matched(None, None)
    lift = lifts.lift(loaded_suite(row.suite), row.track, sets, matched, spreads)
    half = None if lift is None else lift.half
    return replace(
        row, network_results=network_results, half_width=score.half, error=score.error, degrees=score.degrees, lift_half=half
    )


MAX_COMPARED = 30  # ours: rows of one table that are compared pair by pair; 30 rows with 15 columns take 300 KB

Difference = tuple[float, float | None, float | None]
"""Mean difference, a fraction; half of its 95 % interval; degrees of freedom of its pooled spread."""


def differences(rows: Sequence[Standing]) -> dict[str, dict[str, dict[str, Difference]]]:
    """Table -> `first second` (keys of two rows) -> evaluator -> first minus second, by the suite's pooled spread.

    A table is `suite/track/IPC/labels`; `panel mean` stands beside its evaluators. The first rows of each table are compared.
    """
    spreads = spread_of(rows)
    tables: dict[str, list[Standing]] = defaultdict(list)
    for row in rows:
        if row.runs and row.tier != "reported":
            tables["/".join(map(str, row.table))].append(row)
    return {
        name: {
            f"{first.key} {second.key}": _differences(first, second, spreads[first.suite, first.track])
            for first, second in combinations(group[:MAX_COMPARED], 2)
        }
        for name, group in tables.items()
        if len(group) > 1
    }


def _differences(first: Standing, second: Standing, spreads: Mapping[str, Spread]) -> dict[str, Difference]:
    """Per evaluator that both have, and for the panel where it is complete."""
    one, other = _scores(first), _scores(second)
    shared = [name for name in first.network_results if all(name in scores for scores in (*one, *other))]
    groups: dict[str, Mapping[str, float]] = {name: {name: 1.0} for name in shared}
    if len(shared) > 1 and first.score is not None and second.score is not None:
        groups["panel mean"] = scoring.weights(loaded_suite(first.suite), first.track)
    out: dict[str, Difference] = {}
    for name, weights in groups.items():
        found = uncertainty.difference(one, other, weights, spreads)
        mean = uncertainty.mean_of_sets(one, weights) - uncertainty.mean_of_sets(other, weights)
        out[name] = (mean, None, None) if found is None else (mean, found.half, round(found.degrees, 1))
    return out


def estimate(row: Standing) -> Estimate | None:
    """What is known of a row's score; None for an incomplete row and where no spread is known."""
    if row.score is None or row.error is None or row.degrees is None:
        return None
    return Estimate(row.score, row.half_width or 0.0, row.error, row.degrees, pooled=len(row.sets) < 2)


def _scores(row: Standing) -> list[dict[str, dict[int, float]]]:
    """Evaluator -> seed -> score, of every set."""
    count = max((len(network_result.sets) for network_result in row.network_results.values()), default=0)
    return [
        {
            name: dict(network_result.sets[k])
            for name, network_result in row.network_results.items()
            if k < len(network_result.sets) and network_result.sets[k]
        }
        for k in range(count)
    ]


def spread_of(rows: Iterable[Standing]) -> dict[tuple[str, str], dict[str, Spread]]:
    """(suite, track) -> evaluator -> spread over seeds, pooled over all rows of the suite; the same set counts once.

    Rows of an earlier edition of the suite do not count, nor those that were challenged or taken back.
    """
    groups: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for row in rows:
        current = row.suite_digest == loaded_suite(row.suite).digest and row.tier in RANKED_TIERS
        groups[row.suite, row.track] += [row] if current else []
    return {
        # a row whose sets share no network has no scores
        key: uncertainty.pooled(pair for row in group for pair in zip(row.sets, _scores(row), strict=False))
        for key, group in groups.items()
    }
