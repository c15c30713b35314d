"""How far a submission can be trusted: computed from re-runs by others that are kept in it, and from nobody's word.

A re-run agrees when the mean over a track's networks, weighted as in the panel score, lies within `MARGIN` of the submitter's, a
margin stated beforehand, and so surely that a lie of `LIE` would pass in 5 % of re-runs at most. How far honest runs differ by chance
is taken from the suite's pooled spread, or from the re-run's own seeds, never from the submitter's records; how well that is known
itself counts, by Student's t. A single seed of a network whose spread was never measured says nothing: the answer is open.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from mabench import suites
from mabench.errors import first_line
from mabench.results import scoring
from mabench.results.baselines import UNKNOWN_SPREAD, run_spreads
from mabench.results.uncertainty import CONFIDENCE, Estimate, Spread, estimate, quantile
from mabench.schema import AuditEntry, RunRecord, Tier
from mabench.suites import LoadedSuite

MARGIN = 0.01  # ours: one point; within it no reader of a table would act differently
LIE = 0.015  # ours: a point and a half; a larger one passes in 5 % of re-runs at most (benchmarks/verify_power.py)
BY_HAND: tuple[Tier, ...] = ("challenged", "superseded", "withdrawn", "self-run")
"""What the submitter (superseded, withdrawn) or a maintainer (any) may decide; self-run takes a decision back."""

Verdict = Literal["agrees", "contradicts", "open"]
Track = tuple[str, str]
"""Suite id and name of the track."""


@dataclass(frozen=True)
class Rerun:
    """A record that somebody made of a submitted set, and who."""

    who: str
    record: RunRecord


@dataclass(frozen=True)
class Agreement:
    """Re-run minus recorded on one track: the mean over the networks that were run, a fraction, and its standard error by chance."""

    suite: str
    track: str
    seeds: Literal["official", "fresh"]
    difference: float
    error: float | None
    """None where nothing says how far honest runs differ: a single seed of a network whose spread was never measured."""
    degrees: float
    """Degrees of freedom of the standard error: how well it is known itself."""
    runs: int
    identical: int
    """Runs whose curves are equal, test pass by test pass."""

    @property
    def suite_and_track(self) -> Track:
        return self.suite, self.track

    @property
    def verdict(self) -> Verdict:
        if self.error is None:
            return "open"
        beyond, below = (
            self.error * quantile(self.degrees, level) if self.error else 0.0 for level in ((1 + CONFIDENCE) / 2, CONFIDENCE)
        )
        if abs(self.difference) > MARGIN + beyond:  # two-sided: surely more than the margin
            return "contradicts"
        return "agrees" if abs(self.difference) <= min(MARGIN, LIE - below) else "open"  # one-sided: a lie of LIE is excluded


def agreements(records: Iterable[RunRecord], reruns: Iterable[RunRecord]) -> list[Agreement]:
    """Every track that was run again, set by set: official seeds compared run by run, fresh ones with the mean over official seeds."""
    recorded, again = _by_track(records), _by_track(reruns)
    out = []
    for (suite, track, sha256), runs in sorted(again.items()):
        before = recorded.get((suite, track, sha256))
        if before:
            loaded_suite = suites.load(suite)
            found = (_official(loaded_suite, track, before, runs), _fresh(loaded_suite, track, before, runs))
            out += [agreement for agreement in found if agreement is not None]
    return out


def current(record: RunRecord) -> bool:
    """Whether a record is of a suite as it is now: others rank nothing and cannot be repeated, so no tier is about them."""
    if record.cell.suite not in suites.released():
        return False
    loaded_suite = suites.load(record.cell.suite)
    return record.cell.suite_digest == loaded_suite.digest and record.cell.track in loaded_suite.evaluators


def _by_track(records: Iterable[RunRecord]) -> dict[tuple[str, str, str], list[RunRecord]]:
    """(suite, track, sha256 of the set) -> its current records."""
    groups: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for record in filter(current, records):
        groups[record.cell.suite, record.cell.track, record.cell.set_sha256].append(record)
    return groups


def _by_evaluator(records: Iterable[RunRecord]) -> dict[str, dict[int, RunRecord]]:
    groups: dict[str, dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        groups[record.cell.evaluator.name][record.cell.seed] = record
    return groups


def _official(
    loaded_suite: LoadedSuite, track: str, recorded: Sequence[RunRecord], reruns: Sequence[RunRecord]
) -> Agreement | None:
    """Runs with the same seed, pair by pair; an identical curve has no error of chance."""
    before, after = _by_evaluator(recorded), _by_evaluator(reruns)
    differences, errors, count, same = {}, {}, 0, 0
    for name in sorted(set(before) & set(after)):
        seeds = sorted(set(before[name]) & set(after[name]))
        if not seeds:
            continue
        differences[name] = fmean(scoring.score(after[name][s]) - scoring.score(before[name][s]) for s in seeds)
        identical = sum(after[name][s].curve == before[name][s].curve for s in seeds)
        errors[name] = _error(loaded_suite, name, after[name].values(), 2 * (len(seeds) - identical) / len(seeds) ** 2)
        count, same = count + len(seeds), same + identical
    return _agreement(loaded_suite, track, "official", differences, errors, count, same)


def _fresh(loaded_suite: LoadedSuite, track: str, recorded: Sequence[RunRecord], reruns: Sequence[RunRecord]) -> Agreement | None:
    """Seeds that the suite does not name: what a set that was made for the official ones loses on."""
    before, after = _by_evaluator(recorded), _by_evaluator(reruns)
    differences, errors, count = {}, {}, 0
    for name in sorted(set(before) & set(after)):
        fresh = [r for seed, r in after[name].items() if seed not in loaded_suite.suite.seeds]
        if fresh:
            differences[name] = fmean(map(scoring.score, fresh)) - fmean(map(scoring.score, before[name].values()))
            errors[name] = _error(loaded_suite, name, after[name].values(), 1 / len(fresh) + 1 / len(before[name]))
            count += len(fresh)
    return _agreement(loaded_suite, track, "fresh", differences, errors, count, 0)


def _agreement(
    loaded_suite: LoadedSuite,
    track: str,
    seeds: Literal["official", "fresh"],
    differences: Mapping[str, float],
    errors: Mapping[str, Spread],
    runs: int,
    identical: int,
) -> Agreement | None:
    """The networks together, weighted as in the panel score; None where none was repeated."""
    if not differences:
        return None
    weights = {name: weight for name, weight in scoring.weights(loaded_suite, track).items() if name in differences}
    total = sum(weights.values())
    mean = sum(weight * differences[name] for name, weight in weights.items()) / total
    known = together([(weight / total, errors[name]) for name, weight in weights.items()], mean)
    error, degrees = (None, 0.0) if known is None else (known.error, known.degrees)
    return Agreement(loaded_suite.id, track, seeds, mean, error, degrees, runs, identical)


def together(errors: Iterable[tuple[float, Spread]], mean: float) -> Estimate | None:
    """Of a weighted mean of networks, from (weight, standard error of the network and its degrees of freedom); None where one has none."""
    return estimate(mean, ((weight**2 * each.std**2, each.degrees) for weight, each in errors))


def _error(loaded_suite: LoadedSuite, name: str, reruns: Iterable[RunRecord], factor: float) -> Spread:
    """Standard error of one network's difference, whose variance is `factor` times that of a run; none where all runs are identical."""
    if factor == 0:
        return Spread(0.0, 1)
    spread = spread_of(run_spreads(loaded_suite).get(name), [scoring.score(record) for record in reruns])
    return Spread(math.sqrt(factor) * spread.std, spread.degrees)


def spread_of(known: Spread | None, scores: Sequence[float]) -> Spread:
    """Of one network's runs over seeds: as measured for the suite; else as the re-run's own seeds say, but no less than usual.

    A single seed has no degrees of freedom.
    """
    if known is not None or len(scores) < 2:
        return known or Spread(UNKNOWN_SPREAD, 0)
    return Spread(max(UNKNOWN_SPREAD, stdev(scores)), len(scores) - 1)


def spread_note(suite: str, evaluators: Collection[str]) -> str:
    """Where the standard error of a re-run of these networks comes from, in one sentence."""
    known = run_spreads(suites.load(suite))
    absent = sorted(set(evaluators) - set(known))
    if not absent:
        degrees = min(known[name].degrees for name in evaluators)
        return f"{suite}: the standard error follows from the suite's pooled spread over seeds ({degrees} degrees of freedom or more)"
    return (
        f"{suite}: no spread over seeds has been measured for {first_line(absent)} in this state of the suite; the re-run's own seeds "
        f"stand in for it, by Student's t, and at least {100 * UNKNOWN_SPREAD:g} point per run; a single seed of a network says nothing"
    )


def decision(audit: Sequence[AuditEntry], owner: str, maintainers: Collection[str]) -> tuple[Tier | None, int]:
    """The last decision that counts, None where there is none, and the place in the log up to which re-runs are settled, or -1.

    The owner may withdraw or supersede their own submission and take that back; a maintainer may decide anything about submissions
    of others, and only the maintainer's reinstatement settles what re-runs found before it. Names count letter by letter. What others write
    stays in the log and decides nothing.
    """
    standing: Tier | None = None
    by_maintainer, settled = False, -1
    for place, entry in enumerate(audit):
        if entry.action != "tier" or entry.tier not in BY_HAND:
            continue
        if entry.who == owner:
            if entry.tier != "challenged" and not (by_maintainer and standing != "self-run"):
                standing, by_maintainer = entry.tier, False
        elif entry.who in maintainers:
            standing, by_maintainer = entry.tier, True
            settled = place if entry.tier == "self-run" else settled
    return standing, settled


def derive(
    records: Mapping[str, RunRecord], others: Sequence[tuple[str, Rerun]], own: Sequence[tuple[str, Rerun]] = ()
) -> dict[Track, Tier]:
    """The tier of every track with records of the suite as it is now, whatever its re-runs say of other tracks.

    `others`: (record name, re-run) by others than the submitter, oldest first; `own`: by the submitter. The last re-run of a run
    counts, but what one account found is not undone by another: that takes a maintainer.
    """
    by_account: dict[str, dict[str, RunRecord]] = defaultdict(dict)
    for name, rerun in (*others, *own):
        by_account[rerun.who][name] = rerun.record
    latest = {name: rerun.record for name, rerun in others}
    found = agreements(records.values(), latest.values())
    each = [agreement for runs in by_account.values() for agreement in agreements(records.values(), runs.values())]
    challenged = {a.suite_and_track for a in (*found, *each) if a.verdict == "contradicts"}
    agreed = {a.suite_and_track for a in found if a.verdict == "agrees"}
    doubtful = {a.suite_and_track for a in found if a.seeds == "official" and a.verdict != "agrees"}
    here = {name: (r.cell.suite, r.cell.track) for name, r in records.items() if current(r)}
    missed = {track for name, track in here.items() if name not in latest}

    def tier(track: Track) -> Tier:
        if track in challenged or track not in agreed:
            return "challenged" if track in challenged else "self-run"
        return "spot-checked" if track in doubtful | missed else "verified"

    return {track: tier(track) for track in sorted(set(here.values()))}


def of_all(decided: Tier | None, tracks: Collection[Tier]) -> Tier:
    """The tier of a submission: as decided by hand, challenged as soon as a track is, verified where all tracks are."""
    if decided is not None and decided != "self-run":
        return decided
    if "challenged" in tracks or len(set(tracks)) == 1:
        return "challenged" if "challenged" in tracks else next(iter(tracks))
    return "spot-checked" if tracks else "self-run"
