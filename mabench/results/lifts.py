"""Records -> rows with their lift over random real images of the same advantages, and how sure it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from mabench.results import baselines, scoring, uncertainty
from mabench.results.baselines import Matched, RandomImages
from mabench.results.scoring import Baseline, Row
from mabench.results.uncertainty import Estimate, Scores, Spread
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

NOT_RUN = "baseline not run"
"""What a table says where a lift is missing."""


def rows(loaded_suite: LoadedSuite, records: Sequence[RunRecord], hardened: Sequence[RunRecord] = ()) -> list[Row]:
    """The rows of `scoring.rows` of one set, each beside the set's baselines; none beside runs of another edition of the suite.

    `hardened`: records of the same runs with hardened labels, for a column beside the score.
    """
    if not records:
        return []
    matched = matching(loaded_suite, records)
    scores = by_track(records)
    better = {track: matched.better(loaded_suite, track) for track in loaded_suite.evaluators}
    lines = scoring.rows(loaded_suite, records, _means(loaded_suite, better))
    same = {(line.track, line.name): line for line in scoring.rows(loaded_suite, hardened)}
    return [
        replace(
            _compared(loaded_suite, line, matched, better[line.track], scores[line.track]),
            hardened=other.mean if (other := same.get((line.track, line.name))) and other.runs == line.runs else None,
        )
        for line in lines
    ]


def matching(loaded_suite: LoadedSuite, records: Sequence[RunRecord]) -> Matched:
    """The baselines of the set that these records are about, where all were run under the suite as it is."""
    current = all(record.cell.suite_digest == loaded_suite.digest for record in records)
    return baselines.matching(loaded_suite, records[0].synthetic_set) if current else Matched(None, None)


def rows_of_sets(loaded_suite: LoadedSuite, groups: Sequence[Sequence[RunRecord]]) -> list[Row]:
    """The rows of several sets of one method: means over the sets, spread over them, where every set has the row."""
    tables = [{(line.track, line.name): line for line in rows(loaded_suite, records)} for records in groups]
    if len(tables) < 2:
        return list(tables[0].values()) if tables else []
    common = [key for key in tables[0] if all(key in table for table in tables)]
    return [_over_sets([table[key] for table in tables], loaded_suite.suite.std) for key in common]


def _over_sets(lines: Sequence[Row], std: str) -> Row:
    def mean(values: Iterable[float | None]) -> float | None:
        known = list(values)
        return None if None in known else fmean(value for value in known if value is not None)

    return replace(
        lines[0],
        mean=fmean(line.mean for line in lines),
        std=scoring.spread([line.mean for line in lines], std),
        best=fmean(line.best for line in lines),
        plateau=mean(line.plateau for line in lines),
        last=fmean(line.last for line in lines),
        runs=sum(line.runs for line in lines),
        planned=sum(line.planned for line in lines),
        lift_half=None,
        hardened=mean(line.hardened for line in lines),
        second=mean(line.second for line in lines),
        diverged=sum(line.diverged for line in lines),
    )


def by_track(records: Sequence[RunRecord]) -> dict[str, dict[str, dict[int, float]]]:
    """Track -> evaluator -> seed -> score, of one set."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        found[record.cell.track][record.cell.evaluator.name][record.cell.seed] = scoring.score(record)
    return found


def lift(
    loaded_suite: LoadedSuite, track: str, sets: Sequence[Scores], matched: Matched, spreads: Mapping[str, Spread] | None = None
) -> Estimate | None:
    """The lift of a row: its score on a track minus the better baseline; None where one of the two was not run.

    `sets`: the scores of each of its sets. `spreads`: over seeds, pooled over the suite; left out, the known ones are used, and
    for other evaluators the row's own.
    """
    better = matched.better(loaded_suite, track)
    return None if better is None else _lift(loaded_suite, track, sets, scoring.weights(loaded_suite, track), better, spreads)


def _lift(
    loaded_suite: LoadedSuite, track: str, sets: Sequence[Scores], weights: Mapping[str, float], better: RandomImages,
    spreads: Mapping[str, Spread] | None = None,
) -> Estimate | None:  # fmt: skip
    if spreads is None:
        spreads = uncertainty.pooled((str(k), scores) for k, scores in enumerate(sets)) | baselines.run_spreads(loaded_suite)
    return uncertainty.lift(sets, weights, spreads, {name: better.draws(loaded_suite, track)[name] for name in weights})


def _means(loaded_suite: LoadedSuite, better: Mapping[str, RandomImages | None]) -> Baseline:
    return {
        f"{track}/{name}": (fmean(values), scoring.spread(values, "unbiased"), len(values))
        for track, images in better.items()
        if images is not None
        for name, values in images.draws(loaded_suite, track).items()
    }


def _compared(loaded_suite: LoadedSuite, line: Row, matched: Matched, better: RandomImages | None, scores: Scores) -> Row:
    """The row of an evaluator or of the whole panel with both baselines and the interval of its lift."""
    whole = scoring.headline(loaded_suite, line.track, [line]) is not None
    if line.panel and not whole:
        return line
    weights = scoring.weights(loaded_suite, line.track) if line.panel else {line.name: 1.0}
    found = _lift(loaded_suite, line.track, [scores], weights, better) if better is not None else None
    means = {name: _mean(loaded_suite, line.track, weights, images) for name, images in matched.kinds.items()}
    return replace(
        line, alike=means["packed alike"], same_bytes=means["same bytes"], lift_half=None if found is None else found.half
    )


def _mean(loaded_suite: LoadedSuite, track: str, weights: Mapping[str, float], images: RandomImages | None) -> float | None:
    draws = images.draws(loaded_suite, track) if images is not None else {}
    return sum(weight * fmean(draws[name]) for name, weight in weights.items()) if draws else None


def _by_hand(loaded_suite: LoadedSuite, record: RunRecord, absent: Sequence[str]) -> str:
    """The command that evaluates one draw of the first missing baseline, where the method `random` has a preset for the dataset."""
    import mabench_methods  # torch: only where a command is printed

    summary = record.synthetic_set
    presets = mabench_methods.presets("random")
    preset = next((name for name, each in presets.items() if each.dataset == summary.dataset), None)
    if preset is None or summary.labels != "hard" or not loaded_suite.released:
        return ""
    alike = absent[0] == "packed alike"
    ipc = summary.ipc if alike else baselines.images_of_same_bytes(summary)
    share = {2: "half", 4: "a quarter"}.get(ipc // summary.ipc, "") if not alike else ""
    quantise = (
        f". As uint8 the set takes {share} of its bytes: mabench pack SET -o FILE.safetensors --quantise uint8" if share else ""
    )
    budget = "" if presets[preset].config.ipc == ipc else f" --config ipc={ipc}"
    packed = " --config packed=true" if alike and summary.decode != "none" else ""
    packed += f" --config formation={summary.decode[4:]}" if packed and summary.decode != "grid2" else ""
    return f"{quantise}. One draw of it: mabench reproduce random --preset {preset}{budget}{packed} --suite {loaded_suite.id.partition('@')[0]}"


def notes(loaded_suite: LoadedSuite, records: Sequence[RunRecord]) -> list[str]:
    """For every track that has records: what its lift is taken from, or that a baseline was not run."""
    matched = matching(loaded_suite, records)
    out = []
    for track in loaded_suite.evaluators:
        if not any(record.cell.track == track for record in records):
            continue
        better = matched.better(loaded_suite, track)
        if better is None:
            absent = [
                kind for kind, images in matched.kinds.items() if images is None or images.mean(loaded_suite, track) is None
            ]
            out.append(
                f"{track}: {NOT_RUN} ({' and '.join(absent)}), so there is no lift{_by_hand(loaded_suite, records[0], absent)}"
            )
        else:
            count = len(next(iter(better.draws(loaded_suite, track).values())))
            out.append(f"{track}: lift over {better.title} ({count} draws), the better of the two baselines")
    return out
