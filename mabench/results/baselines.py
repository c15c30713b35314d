"""Numbers measured beforehand, as data beside the suites: random real images, full data, and how far runs of one evaluator spread.

A set is compared with random real images that have the same advantages: packed alike, and of the same stored bytes
(`matching`). Both are measured by `benchmarks/random_baseline.py`, for exactly one state of a suite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import fmean
from typing import Any, NamedTuple

from mabench.results import scoring
from mabench.results.scoring import Baseline, spread
from mabench.results.uncertainty import Spread
from mabench.schema import SetSummary
from mabench.suites import LoadedSuite

UNKNOWN_SPREAD = 0.01  # ours: about what the evaluators whose spread is known have
DRAWS = 5
"""Draws of random images that a baseline takes at least."""
VALUE_BYTES = {"uint8": 1, "float16": 2, "float32": 4}
"""Of one value of an image as a set stores it."""


class Measured(NamedTuple):
    """What one evaluator learned from one draw; fractions. `plateau` is None where a test pass was pruned."""

    score: float
    plateau: float | None
    last: float


@dataclass(frozen=True)
class RandomImages:
    """Random real images in one form, and what the evaluators of a suite learned from each draw."""

    ipc: int
    """Stored images per class."""
    decode: str
    labels: str
    """`hard`, or `soft`: labelled by the suite's teacher."""
    measured: Mapping[str, Mapping[int, Measured]]
    """`track/evaluator` -> draw -> accuracies."""

    @property
    def title(self) -> str:
        """`random real images, packed 2 x 2`, `random real images, 4 per class`."""
        packed = f", packed {self.decode[4:]} x {self.decode[4:]}" if self.decode.startswith("grid") else ""
        labels = ", labelled by the teacher" if self.labels == "soft" else ""
        return f"random real images, {self.ipc} per class{packed}{labels}"

    def runs(self, loaded_suite: LoadedSuite, track: str) -> dict[str, list[Measured]]:
        """Evaluator -> run by draw, the draws that every evaluator of the track has; empty for fewer than DRAWS."""
        names = [entry.name for entry in loaded_suite.evaluators[track]]
        found = [self.measured.get(f"{track}/{name}", {}) for name in names]
        common = sorted(set.intersection(*(set(draws) for draws in found)))
        return (
            {name: [draws[k] for k in common] for name, draws in zip(names, found, strict=True)} if len(common) >= DRAWS else {}
        )

    def draws(self, loaded_suite: LoadedSuite, track: str) -> dict[str, list[float]]:
        """Evaluator -> score by draw; the draws of `runs`."""
        return {name: [run.score for run in runs] for name, runs in self.runs(loaded_suite, track).items()}

    def mean(self, loaded_suite: LoadedSuite, track: str) -> float | None:
        """The panel score of a track; None where it was not run whole."""
        means = self.means(loaded_suite, track)
        return None if means is None else means.score

    def means(self, loaded_suite: LoadedSuite, track: str) -> Measured | None:
        """The panel means of a track, over draws; None where it was not run whole."""
        runs, weights = self.runs(loaded_suite, track), scoring.weights(loaded_suite, track)
        if not runs:
            return None
        over_draws = {name: mean(of_network) for name, of_network in runs.items()}
        score, plateau, last = (scoring.weighted({n: means[k] for n, means in over_draws.items()}, weights) for k in range(3))
        assert score is not None and last is not None, "only a plateau may be unknown"
        return Measured(score, plateau, last)


@dataclass(frozen=True)
class Matched:
    """The two baselines of a set; None where a baseline was not run for this state of the suite."""

    alike: RandomImages | None
    """Packed the same way: as many decoded images a class, the same kind of labels."""
    same_bytes: RandomImages | None
    """As many uint8 images, unpacked, as take the bytes of the set's images; the same kind of labels."""

    @property
    def kinds(self) -> dict[str, RandomImages | None]:
        """In words: what each baseline shares with the set."""
        return {"packed alike": self.alike, "same bytes": self.same_bytes}

    def better(self, loaded_suite: LoadedSuite, track: str) -> RandomImages | None:
        """The one that a track's lift is taken from: the higher panel score. None while one of the two has not been run."""
        means = [(each.mean(loaded_suite, track), each) for each in self.kinds.values() if each is not None]
        known = [(mean, each) for mean, each in means if mean is not None]
        return max(known, key=lambda pair: pair[0])[1] if len(known) == len(self.kinds) else None


def mean(runs: Sequence[Measured]) -> Measured:
    """Over draws; the plateau is None where that of one draw is."""
    plateaus = [run.plateau for run in runs if run.plateau is not None]
    plateau = fmean(plateaus) if len(plateaus) == len(runs) else None
    return Measured(fmean(run.score for run in runs), plateau, fmean(run.last for run in runs))


@cache
def _data(name: str) -> Any:
    return json.loads(resources.files("mabench.suites").joinpath(name).read_text(encoding="utf-8"))


def measured(loaded_suite: LoadedSuite) -> list[RandomImages]:
    """Every form of random real images that was run for exactly this state of the suite."""
    return _measured(loaded_suite.digest)


@cache
def _measured(suite_digest: str) -> list[RandomImages]:
    return [
        RandomImages(
            entry["ipc"],
            entry["decode"],
            entry["labels"],
            {name: {int(k): Measured(*v) for k, v in draws.items()} for name, draws in entry["evaluators"].items()},
        )
        for entry in _data("baselines.json")
        if entry["suite_digest"] == suite_digest and entry["ipc"] is not None
    ]


def matching(loaded_suite: LoadedSuite, summary: SetSummary) -> Matched:
    """The baselines of a set."""
    found = {(each.ipc, each.decode, each.labels): each for each in measured(loaded_suite)}
    ipc = images_of_same_bytes(summary)
    return Matched(found.get((summary.ipc, summary.decode, summary.labels)), found.get((ipc, "none", summary.labels)))


def images_of_same_bytes(summary: SetSummary) -> int:
    """How many uint8 images a class take the bytes of the set's images."""
    return summary.ipc * VALUE_BYTES.get(summary.image_dtype, 1)


def known_full_data(loaded_suite: LoadedSuite) -> Baseline | None:
    """The whole real training split under this suite: the entry of `suites/baselines.json` whose `ipc` is null; None if never run."""
    for entry in _data("baselines.json"):
        if entry["suite_digest"] == loaded_suite.digest and entry["ipc"] is None:
            scores = {name: [Measured(*v).score for v in draws.values()] for name, draws in entry["evaluators"].items()}
            return {name: (fmean(values), spread(values, "unbiased"), len(values)) for name, values in scores.items()}
    return None


def run_spread(loaded_suite: LoadedSuite, evaluator: str) -> float:
    """Standard deviation over seeds of one evaluator on one set, a fraction, pooled over many sets (`suites/spread.json`).

    Never taken from the submission that is judged by it. `UNKNOWN_SPREAD` where it was never measured.
    """
    known = run_spreads(loaded_suite).get(evaluator)
    return UNKNOWN_SPREAD if known is None else known.std


def run_spreads(loaded_suite: LoadedSuite) -> dict[str, Spread]:
    """Evaluator -> spread over seeds as pooled over many sets, where it was measured for this state of the suite."""
    spreads: dict[str, tuple[float, int]] = _data("spread.json").get(loaded_suite.digest, {})
    return {name: Spread(std, degrees) for name, (std, degrees) in spreads.items()}
