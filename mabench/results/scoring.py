"""Records -> numbers: evaluator rows, panel means, intervals and ranks. A pure function of records; nothing is read or run here."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, pstdev, stdev

from mabench.data import DATASETS
from mabench.errors import lookup
from mabench.schema import RunRecord
from mabench.suites import Exam

CONFIDENCE = 0.95  # ours: what every interval on a board means

Baseline = Mapping[str, tuple[float, float | None, int]]
"""`track/evaluator` -> (mean, std, number of runs) of random real images with the same advantages, fractions."""


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
    """Mean of the better of the two baselines of random real images, where both were run."""
    alike: float | None = None
    """Mean of random real images that are packed alike."""
    same_bytes: float | None = None
    """Mean of random real images of the same stored bytes."""
    lift_half: float | None = None
    """Half of the 95 % interval of `lift`: seeds, and draws of the baseline."""
    panel: bool = False
    diverged: int = 0
    """Runs whose loss was not finite; they are in the means with chance level."""

    @property
    def optimism(self) -> float:
        """Score minus last accuracy: what choosing the best look on the test split added."""
        return self.mean - self.last

    @property
    def lift(self) -> float | None:
        """Points above the better of the two baselines of random real images."""
        return None if self.random is None else self.mean - self.random


def spread(values: Sequence[float], kind: str) -> float | None:
    """Standard deviation: `unbiased` (n-1) or `population` (n, as some papers print). None for fewer than two values."""
    if len(values) < 2:
        return None
    return stdev(values) if kind == "unbiased" else pstdev(values)


def chance(record: RunRecord) -> float:
    """Accuracy of guessing, a fraction: one over the number of classes."""
    return 1 / lookup(DATASETS, record.synthetic_set.dataset, "dataset").num_classes


def score(record: RunRecord) -> float:
    """The record's score, `best` or `last` as its recipe says; a diverged cell counts as chance level, however good it had been."""
    if record.diverged_epoch is not None:
        return chance(record)
    return record.best if record.cell.recipe.score == "best" else record.last


def last(record: RunRecord) -> float:
    """The record's last accuracy; a diverged cell counts as chance level here too, so that best - last is 0."""
    return chance(record) if record.diverged_epoch is not None else record.last


def plateau(record: RunRecord) -> float | None:
    """Mean accuracy of the last tenth of the test passes, at least one: no selection, little noise.

    None where one of them was pruned, for then its accuracy is not known. A diverged cell counts as chance level.
    """
    if record.diverged_epoch is not None:
        return chance(record)
    passes = record.curve[-math.ceil(len(record.curve) / 10) :]
    if {epoch for epoch, _ in passes} & set(record.upper_bounds):
        return None
    return fmean(correct for _, correct in passes) / record.total


def diverged(records: Iterable[RunRecord]) -> int:
    """How many of these cells diverged."""
    return sum(record.diverged_epoch is not None for record in records)


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
            table.append(_row(exam, track, entry.name, list(runs.values()), baseline))
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


def _row(exam: Exam, track: str, name: str, runs: Sequence[RunRecord], baseline: Baseline | None) -> Row:
    known = (baseline or {}).get(f"{track}/{name}")
    scores = [score(r) for r in runs]
    return Row(
        track=track,
        name=name,
        mean=fmean(scores),
        std=spread(scores, exam.suite.std),
        last=fmean(last(r) for r in runs),
        runs=len(scores),
        planned=len(exam.suite.seeds),
        random=None if known is None else known[0],
        diverged=diverged(runs),
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
            last=fmean(per_seed(last)),
            runs=len(seeds),
            planned=len(exam.suite.seeds),
            random=fmean(k[0] for k in known if k is not None) if all(k is not None for k in known) else None,
            panel=True,
            diverged=diverged(r[seed] for r in runs.values() for seed in seeds),
        )
    ]


def weights(exam: Exam, track: str) -> dict[str, float]:
    """Evaluator -> its weight in the panel mean."""
    names = [entry.name for entry in exam.evaluators[track]]
    return {name: 1 / len(names) for name in names}


def worst(table: Sequence[Row]) -> Row | None:
    """The evaluator that learns least from the set."""
    return min((row for row in table if not row.panel), key=lambda row: row.mean, default=None)


def recovery(set_mean: float, random_mean: float, full_mean: float) -> float | None:
    """Relative recovery R = (set - random) / (full - random); None where full data gains under 2 points over random."""
    gain = full_mean - random_mean
    return None if gain < 0.02 or math.isnan(gain) else (set_mean - random_mean) / gain


def headline(exam: Exam, track: str, table: Sequence[Row]) -> Row | None:
    """The row that a board sorts a track by: its panel mean, or its only evaluator. None while evaluators are missing."""
    name = "panel mean" if len(exam.evaluators[track]) > 1 else exam.evaluators[track][0].name
    return next((row for row in table if (row.track, row.name) == (track, name)), None)


def seen_and_unseen(exam: Exam, track: str, table: Sequence[Row], sources: Iterable[str]) -> tuple[float | None, float | None]:
    """Mean accuracy of the evaluators whose architecture made the set, and of the others; None where there are none.

    A source network is an evaluator's name, its name without `-scratch` or `-pretrained`, or its architecture.
    """
    made = set(sources)
    if not made:
        return None, None
    seen = {e.name for e in exam.evaluators[track] if made & {e.name, e.name.rpartition("-")[0], e.architecture}}
    here = [row for row in table if row.track == track and not row.panel]
    groups = [row.mean for row in here if row.name in seen], [row.mean for row in here if row.name not in seen]
    return fmean(groups[0]) if groups[0] else None, fmean(groups[1]) if groups[1] else None


@cache
def t_quantile(runs: int) -> float | None:
    """Student's t for a two-sided 95 % interval of a mean of `runs` values; None for fewer than two."""
    from scipy.special import stdtrit

    return float(stdtrit(runs - 1, (1 + CONFIDENCE) / 2)) if runs >= 2 else None


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % t interval of a mean, from the unbiased spread; None for fewer than two values."""
    quantile = t_quantile(len(values))
    return None if quantile is None else quantile * stdev(values) / math.sqrt(len(values))
