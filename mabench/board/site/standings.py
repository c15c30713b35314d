"""Submissions and papers' tables -> the rows of the board, ranked within their own table. Nothing is read or written here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mabench.board import hardened
from mabench.board.cells import status_of
from mabench.board.gates import by_set
from mabench.board.site.sources import cells, loaded_suite, plain, web_address
from mabench.board.submission import Submission
from mabench.errors import MabenchError
from mabench.results import lifts, ranking, scoring
from mabench.results.baselines import RandomImages, known_full_data
from mabench.results.paper_tables import PaperTable
from mabench.results.uncertainty import METHOD_SETS
from mabench.schema import RunRecord, Tier
from mabench.suites import LoadedSuite


@dataclass(frozen=True)
class NetworkResult:
    """One evaluator's results on one set: fractions in [0,1]; `seeds` is (seed, score) of every run."""

    mean: float
    std: float | None
    runs: int | None
    half_width: float | None = None
    best: float | None = None
    plateau: float | None = None
    last: float | None = None
    seeds: tuple[tuple[int, float], ...] = ()
    """Of the first set."""
    sets: tuple[tuple[tuple[int, float], ...], ...] = ()
    """`seeds` of every set."""
    diverged: int = 0
    """Runs whose loss was not finite: they count as chance level."""
    random: float | None = None
    """Mean of the better of the set's two baselines of random real images; None where one was not run."""


@dataclass(frozen=True)
class Standing:
    """One row of the board: a set on one track of one suite. Accuracies are fractions in [0,1]; None = not known."""

    key: str
    """The submission's slug, or `paper.<method>.<number>` for a paper's row."""
    suite: str
    track: str
    ipc: int
    labels: str
    dataset: str
    tier: Tier
    title: str
    authors: str
    paper: str | None
    code: str | None
    sources: tuple[str, ...]
    network_results: dict[str, NetworkResult]
    why_unranked: str = ""
    """Empty for a ranked row."""
    where: str = ""
    """For a paper's row: table and row."""
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    score: float | None = None
    """Panel mean, or the only evaluator's mean; None while evaluators are missing."""
    claimed: float | None = None
    """The score by the submitter's own records, where others' re-runs count instead; None where they are the same."""
    std: float | None = None
    half_width: float | None = None
    """Half of the score's 95 % interval, from the suite's pooled spread."""
    error: float | None = None
    """Standard error of the score."""
    degrees: float | None = None
    """Degrees of freedom of that error."""
    best: float | None = None
    plateau: float | None = None
    last: float | None = None
    families: Mapping[str, float] = field(default_factory=dict)
    """Family -> mean of its networks; empty while runs of the track are missing."""
    worst_lift: float | None = None
    """The smallest lift of a network; None where not every one is known."""
    worst_evaluator: str = ""
    random: float | None = None
    """Score of the better of the two baselines of random real images; None where one was not run."""
    lift_half: float | None = None
    """Half of the 95 % interval of `lift`: seeds of the set, draws of the baseline."""
    baselines: tuple[tuple[str, RandomImages | None], ...] = ()
    """What each baseline shares with the set, and the baseline; None where it was not run."""
    hardened: float | None = None
    """The score with hardened labels, for a set with soft ones; by the submitter's runs, never ranked."""
    second: float | None = None
    """Accuracy on the dataset's second test set after the last epoch; None where a run was not tested on it. Never ranked."""
    recovery: float | None = None
    seen: float | None = None
    unseen: float | None = None
    runs: int = 0
    planned: int = 0
    stored_bytes: int | None = None
    """Images, labels where they are soft, and recorded labels that its runs replayed."""
    decoder_bytes: int = 0
    """Of a decoder that the set cannot be trained without, as its card says."""
    decoded_images: int | None = None
    decode: str = ""
    set_sha256: str = ""
    """Of the first set."""
    sets: tuple[str, ...] = ()
    """sha256 of every set that the row is the mean of."""
    engine: str = ""
    seconds: float | None = None
    diverged: int = 0
    """Runs of all evaluators whose loss was not finite."""
    method: str = ""
    suite_digest: str = ""
    """Of the edition of the suite that its runs were made under."""
    submitter: str = ""
    submitted: str = ""
    """UTC date of the first entry of the log."""
    changed: str = ""
    """UTC date of its last entry."""
    elsewhere: bool = False
    """Whether the board's maintainers list its set as published by its authors."""

    @property
    def outdated(self) -> bool:
        """Whether it was run under other rules than the suite's of today, so that nothing current is comparable with it."""
        return self.why_unranked in (ranking.EARLIER, ranking.ANOTHER)

    @property
    def lift(self) -> float | None:
        """Points above the better of the two baselines of random real images."""
        return None if self.score is None or self.random is None else self.score - self.random

    @property
    def about(self) -> str:
        """What the row speaks of: `one set`, `2 sets`, or, from three on, `a method, 3 sets`."""
        count = len(self.sets)
        return "one set" if count < 2 else f"{'a method, ' if count >= METHOD_SETS else ''}{count} sets"

    @property
    def identity(self) -> str:
        """Rows with the same one hold the same sets."""
        return " ".join(sorted(self.sets)) or self.set_sha256

    @property
    def gap(self) -> float | None:
        """What evaluators of the source architecture gain over the others."""
        return None if self.seen is None or self.unseen is None else self.seen - self.unseen

    @property
    def bytes(self) -> int | None:
        """What has to be kept to train on the set: images, soft labels, decoder."""
        return None if self.stored_bytes is None else self.stored_bytes + self.decoder_bytes

    @property
    def table(self) -> tuple[str, str, int, str]:
        """Rows are ranked among those that agree in all of this: suite, track, IPC, kind of labels."""
        return (self.suite, self.track, self.ipc, self.labels)


def baselines_of(rows: Iterable[Standing]) -> list[RandomImages]:
    """The baselines of random real images that any of these rows is compared with, each once."""
    found = {images.title: images for row in rows for _, images in row.baselines if images is not None}
    return sorted(found.values(), key=lambda images: (images.ipc, images.decode))


def submitted(submission: Submission) -> list[Standing]:
    """A row for every suite and track of a submission, not placed yet."""
    tracks: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in cells(submission):
        tracks[record.cell.suite, record.cell.track].append(record)
    return [_standing(submission, loaded_suite(suite), track, records) for (suite, track), records in sorted(tracks.items())]


def _standing(submission: Submission, chosen: LoadedSuite, track: str, records: Sequence[RunRecord]) -> Standing:
    card, summary = submission.card, records[0].synthetic_set
    groups = by_set(records)
    lines = lifts.rows_of_sets(chosen, groups)
    scores = [lifts.by_track(group)[track] for group in groups]
    network_results = {
        line.name: NetworkResult(
            mean=line.mean,
            std=line.std,
            runs=line.runs,
            best=line.best,
            plateau=line.plateau,
            last=line.last,
            seeds=tuple(sorted(scores[0].get(line.name, {}).items())),
            sets=tuple(tuple(sorted(of_set.get(line.name, {}).items())) for of_set in scores),
            diverged=line.diverged,
            random=line.random,
        )
        for line in lines
        if not line.panel
    }
    status = status_of(submission, chosen, track)
    head = scoring.headline(chosen, track, lines)
    worst = scoring.worst(lines)
    seen, unseen = scoring.seen_and_unseen(chosen, track, lines, card.source_networks)
    full = full_data(chosen, track)
    recovered = None
    if head is not None and head.random is not None and full is not None:
        recovered = scoring.recovery(head.mean, head.random, full)
    return Standing(
        key=submission.slug,
        suite=chosen.id,
        track=track,
        ipc=summary.ipc,
        labels=summary.taught,
        dataset=summary.dataset,
        tier=submission.tier_of(chosen.id, track),
        title=plain(card.title, 120) or submission.slug,
        authors=plain(", ".join(card.authors), 200),
        paper=web_address(card.paper),
        code=web_address(card.code),
        sources=tuple(plain(s, 60) for s in card.source_networks),
        network_results=network_results,
        why_unranked=status.reason,
        score=head.mean if head else None,
        claimed=_claimed(submission, chosen, track) if head else None,
        std=head.std if head else None,
        best=head.best if head else None,
        plateau=head.plateau if head else None,
        last=head.last if head else None,
        families=_family_means(chosen, track, {n: s.mean for n, s in network_results.items()}) if head else {},
        worst_lift=worst.lift if worst and head else None,
        worst_evaluator=worst.name if worst and head else "",
        random=head.random if head else None,
        baselines=tuple(lifts.matching(chosen, records).kinds.items()),
        hardened=hardened.score(submission, chosen, track),
        second=head.second if head else None,
        recovery=recovered,
        seen=seen if head else None,
        unseen=unseen if head else None,
        runs=len(records),
        planned=status.planned * len(groups),
        engine=", ".join(sorted({r.engine for r in records})),
        seconds=sum(r.seconds for r in records),
        stored_bytes=summary.bytes,
        decoder_bytes=card.decoder_bytes,
        decoded_images=summary.decoded_images,
        decode=plain(summary.decode, 20),
        set_sha256=summary.sha256,
        sets=tuple(group[0].cell.set_sha256 for group in groups),
        diverged=scoring.diverged(records),
        suite_digest=next((d for d in (r.cell.suite_digest for r in records) if d != chosen.digest), chosen.digest),
        method=plain(card.method, 80),
        submitter=plain(submission.owner, 80),
        submitted=submission.audit[0].when[:10],
        changed=submission.audit[-1].when[:10],
        elsewhere=submission.board.external.get(submission.slug) in submission.sets,
    )


def _claimed(submission: Submission, chosen: LoadedSuite, track: str) -> float | None:
    """The score by the submitter's own records, where re-runs by others count in the row."""
    if submission.counted == dict(submission.records):
        return None
    head = scoring.headline(chosen, track, lifts.rows_of_sets(chosen, by_set(_of_track(submission, chosen, track))))
    return head.mean if head else None


def _of_track(submission: Submission, chosen: LoadedSuite, track: str) -> list[RunRecord]:
    return [r for r in submission.records.values() if (r.cell.suite, r.cell.track) == (chosen.id, track)]


def of_paper(key: str, table: PaperTable) -> list[Standing]:
    """A row for every track of a paper's table. Raises MabenchError where its suite is about another dataset."""
    chosen = loaded_suite(table.suite)
    if table.dataset != chosen.suite.dataset:
        raise MabenchError(
            f"{key}: a table of {plain(table.dataset, 80)}; {chosen.id} is for {chosen.suite.dataset}. Fix paper.toml."
        )
    tracks: dict[str, dict[str, tuple[float, float | None]]] = defaultdict(dict)
    for name, values in table.values.items():
        tracks[chosen.track_of(name)][name] = values
    out = []
    for track, evaluators in sorted(tracks.items()):
        order = [e.name for e in chosen.evaluators[track] if e.name in evaluators]
        means = {name: evaluators[name][0] / 100 for name in order}
        whole = len(order) == len(chosen.evaluators[track])
        score, rule = scoring.weighted(means, scoring.weights(chosen, track)), chosen.recipes[track].score
        out.append(
            Standing(
                key=key if len(tracks) == 1 else f"{key}.{track}",
                suite=chosen.id,
                track=track,
                ipc=table.ipc,
                labels=table.labels,
                dataset=table.dataset,
                tier="reported",
                title=plain(table.method, 120),
                authors="",
                paper=None,
                code=None,
                sources=(),
                network_results={
                    n: NetworkResult(means[n], None if (std := evaluators[n][1]) is None else std / 100, table.runs)
                    for n in order
                },
                why_unranked="reported",
                where=plain(table.where, 300),
                method=plain(table.method, 80),
                score=score,
                best=score if rule == "best" else None,
                last=score if rule == "last" else None,
                families=_family_means(chosen, track, means) if whole else {},
                runs=(table.runs or 0) * len(order),
                planned=len(chosen.evaluators[track]) * len(chosen.suite.seeds),
            )
        )
    return out


def _family_means(chosen: LoadedSuite, track: str, means: Mapping[str, float]) -> dict[str, float]:
    """Family -> mean of its networks, all of which have one."""
    return {name: fmean(means[n] for n in members) for name, members in scoring.families(chosen, track).items()}


def full_data(chosen: LoadedSuite, track: str) -> float | None:
    """Panel mean of the whole training split, where every network was trained on it."""
    full = known_full_data(chosen) or {}
    weights = scoring.weights(chosen, track)
    return scoring.weighted({name: full[f"{track}/{name}"][0] for name in weights if f"{track}/{name}" in full}, weights)
