"""Records -> numbers: per-evaluator rows and panel means. A pure function of records; nothing is read or run here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev, stdev

from mabench.schema import RunRecord
from mabench.suites import Exam

Baseline = Mapping[str, tuple[float, float, int]]
"""`track/evaluator` -> (mean, std, number of runs) of random real images of the same budget, fractions."""


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies are fractions in [0,1], `std` is None where one run does not define it."""

    track: str
    name: str
    mean: float
    std: float | None
    last: float
    runs: int
    planned: int
    """Runs that the suite asks for: a row with fewer is incomplete."""
    random: float | None = None
    """Mean of the random baseline of the same budget, where known."""
    panel: bool = False

    @property
    def optimism(self) -> float:
        """Score minus last accuracy: what choosing the best look on the test split added."""
        return self.mean - self.last

    @property
    def lift(self) -> float | None:
        """Points above random real images of the same budget."""
        return None if self.random is None else self.mean - self.random


def spread(values: Sequence[float], kind: str) -> float | None:
    """Standard deviation: `unbiased` (n-1) or `population` (n, as some papers print). None for fewer than two values."""
    if len(values) < 2:
        return None
    return stdev(values) if kind == "unbiased" else pstdev(values)


def score(record: RunRecord) -> float:
    """The record's score; a diverged cell counts as its last look, which is what its network can do in the end."""
    return record.last if record.diverged_epoch is not None else record.score


def rows(exam: Exam, records: Iterable[RunRecord], baseline: Baseline | None = None) -> list[Row]:
    """Evaluator rows in table order, each track followed by its panel rows.

    A panel mean is taken per seed over the evaluators and then over seeds, so its spread is that of the panel means
    (protocol section 1). Panel rows appear only for evaluator families with at least two evaluators, and only over
    seeds that every one of these evaluators has finished.
    """
    by_evaluator: dict[tuple[str, str], dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        by_evaluator[record.cell.track, record.cell.evaluator.name][record.cell.seed] = record
    table: list[Row] = []
    for track, evaluators in exam.evaluators.items():
        here = [e for e in evaluators if (track, e.name) in by_evaluator]
        for entry in here:
            runs = by_evaluator[track, entry.name]
            table.append(
                _row(exam, track, entry.name, [score(r) for r in runs.values()], [r.last for r in runs.values()], baseline)
            )
        panels = {
            "CNN mean": [e.name for e in here if e.family == "cnn"],
            "transformer mean": [e.name for e in here if e.family == "transformer"],
            "panel mean": [e.name for e in here],
        }
        if len(here) < len(evaluators):
            panels = {}  # a mean over whoever happened to finish would be another number under the same name
        for label, members in panels.items():
            if len(members) >= 2 and not (label != "panel mean" and len(members) == len(here)):
                table += _panel(exam, track, label, {n: by_evaluator[track, n] for n in members}, baseline)
    return table


def _row(exam: Exam, track: str, name: str, scores: list[float], lasts: list[float], baseline: Baseline | None) -> Row:
    known = (baseline or {}).get(f"{track}/{name}")
    return Row(
        track=track,
        name=name,
        mean=fmean(scores),
        std=spread(scores, exam.suite.std),
        last=fmean(lasts),
        runs=len(scores),
        planned=len(exam.suite.seeds),
        random=None if known is None else known[0],
    )


def _panel(
    exam: Exam, track: str, label: str, runs: Mapping[str, Mapping[int, RunRecord]], baseline: Baseline | None
) -> list[Row]:
    seeds = sorted(set.intersection(*(set(r) for r in runs.values())))
    if not seeds:
        return []

    def per_seed(value: Callable[[RunRecord], float]) -> list[float]:
        return [fmean(value(r[seed]) for r in runs.values()) for seed in seeds]

    scores = per_seed(score)
    known = [(baseline or {}).get(f"{track}/{name}") for name in runs]
    return [
        Row(
            track=track,
            name=label,
            mean=fmean(scores),
            std=spread(scores, exam.suite.std),
            last=fmean(per_seed(lambda r: r.last)),
            runs=len(seeds),
            planned=len(exam.suite.seeds),
            random=fmean(k[0] for k in known if k is not None) if all(k is not None for k in known) else None,
            panel=True,
        )
    ]


def worst(table: Sequence[Row]) -> Row | None:
    """The evaluator that learns least from the set."""
    return min((row for row in table if not row.panel), key=lambda row: row.mean, default=None)


def recovery(set_mean: float, random_mean: float, full_mean: float) -> float | None:
    """Relative recovery R = (set - random) / (full - random); None where full data gains under 2 points over random."""
    gain = full_mean - random_mean
    return None if gain < 0.02 or math.isnan(gain) else (set_mean - random_mean) / gain
