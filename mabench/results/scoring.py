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
from mabench.networks.families import family_of
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

CONFIDENCE = 0.95  # ours: what every interval on a board means

Baseline = Mapping[str, tuple[float, float | None, int]]
"""`track/evaluator` -> (mean, std, number of runs) of random real images with the same advantages, fractions."""


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies are fractions in [0,1], `std` is None where one run does not define it."""

    track: str
    name: str
    mean: float
    """Of the scores: best or last, as the suite says."""
    std: float | None
    best: float
    plateau: float | None
    """None where a run of an earlier version ended one of these passes early."""
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
    hardened: float | None = None
    """Mean of the same runs with hardened labels, where the set's are soft and all of these runs are there."""
    second: float | None = None
    """Mean accuracy on the dataset's second test set after the last epoch, where all of these runs were tested on it."""
    panel: bool = False
    """A mean over the networks of a family, or over the families of a track."""
    diverged: int = 0
    """Runs whose loss was not finite; they are in the means with chance level."""

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
    return 1 / lookup(DATASETS, record.synthetic_set.dataset, "dataset", "mabench list").num_classes


def score(record: RunRecord) -> float:
    """The record's score, `best` or `last` as its recipe says; a diverged cell counts as chance level, however good it had been."""
    if record.diverged_epoch is not None:
        return chance(record)
    return record.best if record.cell.recipe.score == "best" else record.last


def best(record: RunRecord) -> float:
    """The record's best accuracy; chance level for a diverged cell."""
    return chance(record) if record.diverged_epoch is not None else record.best


def last(record: RunRecord) -> float:
    """The record's last accuracy; chance level for a diverged cell."""
    return chance(record) if record.diverged_epoch is not None else record.last


def plateau(record: RunRecord) -> float | None:
    """Mean accuracy of the last test passes (`Recipe.plateau_epochs`): no selection, little noise.

    None where one of these passes ended early, for then its accuracy is not known. A diverged cell counts as chance level.
    """
    if record.diverged_epoch is not None:
        return chance(record)
    passes = record.curve[-len(record.cell.recipe.plateau_epochs) :]
    if {epoch for epoch, _ in passes} & set(record.upper_bounds):
        return None
    return fmean(correct for _, correct in passes) / record.total


def second(record: RunRecord) -> float | None:
    """Accuracy on the dataset's second test set after the last epoch; chance level for a diverged cell, None where it was not run."""
    if record.second_test is None:
        return None
    return chance(record) if record.diverged_epoch is not None else record.second_test.correct / record.second_test.total


def diverged(records: Iterable[RunRecord]) -> int:
    """How many of these cells diverged."""
    return sum(record.diverged_epoch is not None for record in records)


PANEL = "panel mean"


def rows(loaded_suite: LoadedSuite, records: Iterable[RunRecord], baseline: Baseline | None = None) -> list[Row]:
    """Evaluator rows in table order, each track followed by its panel rows.

    A panel mean is taken per seed, over the networks of each family and then over families, and at last over seeds, so that its
    spread is that of the panel means. Families of two networks and more have a row too. Neither exists while a run of the track is
    missing: a mean over whatever has finished would be another number under the same name.
    """
    by_evaluator: dict[tuple[str, str], dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        by_evaluator[record.cell.track, record.cell.evaluator.name][record.cell.seed] = record
    table: list[Row] = []
    for track, evaluators in loaded_suite.evaluators.items():
        runs = {e.name: found for e in evaluators if (found := by_evaluator.get((track, e.name)))}
        table += [
            _row(loaded_suite, track, name, [found[seed] for seed in sorted(found)], baseline) for name, found in runs.items()
        ]
        complete = len(runs) == len(evaluators) and all(set(loaded_suite.suite.seeds) <= set(found) for found in runs.values())
        if complete and len(evaluators) > 1:
            groups = families(loaded_suite, track)
            shown = {f"{name} mean": dict.fromkeys(members, 1 / len(members)) for name, members in groups.items()}
            shown = {label: group for label, group in shown.items() if 1 < len(group) < len(runs)}
            for label, group in (*shown.items(), (PANEL, weights(loaded_suite, track))):
                table.append(_panel(loaded_suite, track, label, group, runs, baseline))
    return table


def _row(loaded_suite: LoadedSuite, track: str, name: str, runs: Sequence[RunRecord], baseline: Baseline | None) -> Row:
    known = (baseline or {}).get(f"{track}/{name}")
    scores = [score(r) for r in runs]
    return Row(
        track=track,
        name=name,
        mean=fmean(scores),
        std=spread(scores, loaded_suite.suite.std),
        best=fmean(map(best, runs)),
        plateau=_mean(map(plateau, runs)),
        last=fmean(map(last, runs)),
        second=_mean(map(second, runs)),
        runs=len(scores),
        planned=len(loaded_suite.suite.seeds),
        random=None if known is None else known[0],
        diverged=diverged(runs),
    )


def _panel(
    loaded_suite: LoadedSuite,
    track: str,
    label: str,
    group: Mapping[str, float],
    runs: Mapping[str, Mapping[int, RunRecord]],
    baseline: Baseline | None,
) -> Row:
    """A weighted mean over the networks of `group`, seed by seed."""
    seeds = loaded_suite.suite.seeds

    def per_seed(value: Callable[[RunRecord], float | None]) -> list[float | None]:
        return [weighted({name: value(runs[name][seed]) for name in group}, group) for seed in seeds]

    scores = [value for value in per_seed(score) if value is not None]
    known = {name: (baseline or {}).get(f"{track}/{name}") for name in group}
    return Row(
        track=track,
        name=label,
        mean=fmean(scores),
        std=spread(scores, loaded_suite.suite.std),
        best=_mean(per_seed(best)) or 0.0,
        plateau=_mean(per_seed(plateau)),
        last=_mean(per_seed(last)) or 0.0,
        second=_mean(per_seed(second)),
        runs=len(seeds),
        planned=len(seeds),
        random=weighted({name: None if entry is None else entry[0] for name, entry in known.items()}, group),
        panel=True,
        diverged=diverged(runs[name][seed] for name in group for seed in seeds),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None where one of the values is."""
    known = list(values)
    return None if None in known else fmean(value for value in known if value is not None)


def families(loaded_suite: LoadedSuite, track: str) -> dict[str, list[str]]:
    """Family -> names of its networks, both in table order."""
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in loaded_suite.evaluators[track]:
        groups[family_of(entry)].append(entry.name)
    return dict(groups)


def weights(loaded_suite: LoadedSuite, track: str) -> dict[str, float]:
    """Evaluator -> its weight in the panel mean: families weigh alike, and so do the networks of one family."""
    groups = families(loaded_suite, track)
    by_name = {name: 1 / len(groups) / len(members) for members in groups.values() for name in members}
    return {entry.name: by_name[entry.name] for entry in loaded_suite.evaluators[track]}


def weighted(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted mean of one value a network; None where one of them is not known."""
    terms = [(values.get(name), weight) for name, weight in weights.items()]
    return None if any(value is None for value, _ in terms) else math.fsum((value or 0.0) * weight for value, weight in terms)


def worst(table: Sequence[Row]) -> Row | None:
    """The network with the smallest lift: the one to which the set brings least. None where not every lift is known."""
    networks = [row for row in table if not row.panel]
    return None if any(row.lift is None for row in networks) else min(networks, key=lambda row: row.lift or 0.0, default=None)


def recovery(set_mean: float, random_mean: float, full_mean: float) -> float | None:
    """Relative recovery R = (set - random) / (full - random); None where full data gains under 2 points over random."""
    gain = full_mean - random_mean
    return None if gain < 0.02 or math.isnan(gain) else (set_mean - random_mean) / gain


def headline(loaded_suite: LoadedSuite, track: str, table: Sequence[Row]) -> Row | None:
    """The row that a board sorts a track by: its panel mean, or its only evaluator. None while runs are missing."""
    name = PANEL if len(loaded_suite.evaluators[track]) > 1 else loaded_suite.evaluators[track][0].name
    return next((row for row in table if (row.track, row.name) == (track, name) and row.runs >= row.planned), None)


def seen_and_unseen(
    loaded_suite: LoadedSuite, track: str, table: Sequence[Row], sources: Iterable[str]
) -> tuple[float | None, float | None]:
    """Mean accuracy of the evaluators whose architecture made the set, and of the others; None where there are none.

    Within each group the evaluators weigh as in the panel mean, so that three networks of one family count no more than one of another.
    A source network is an evaluator's name, its name without `-scratch` or `-pretrained`, or its architecture.
    """
    made = set(sources)
    if not made:
        return None, None
    seen = {e.name for e in loaded_suite.evaluators[track] if made & {e.name, e.name.rpartition("-")[0], e.architecture}}
    here = {row.name: row.mean for row in table if row.track == track and not row.panel}

    def mean(names: set[str]) -> float | None:
        group = {name: weight for name, weight in weights(loaded_suite, track).items() if name in names}
        return math.fsum(weight * here[name] for name, weight in group.items()) / sum(group.values()) if group else None

    return mean(seen & here.keys()), mean(here.keys() - seen)


@cache
def t_quantile(runs: int) -> float | None:
    """Student's t for a two-sided 95 % interval of a mean of `runs` values; None for fewer than two."""
    from scipy.special import stdtrit

    return float(stdtrit(runs - 1, (1 + CONFIDENCE) / 2)) if runs >= 2 else None


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % t interval of a mean, from the unbiased spread; None for fewer than two values."""
    quantile = t_quantile(len(values))
    return None if quantile is None else quantile * stdev(values) / math.sqrt(len(values))
