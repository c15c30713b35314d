"""Placed rows -> what the pages show: tables with groups, merged sets, words for ranks, gains by family. Nothing is written here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from mabench.board.site import charts, names
from mabench.board.site.sources import loaded_suite
from mabench.board.site.standings import Standing, baselines_of, full_data
from mabench.results import scoring
from mabench.suites import LoadedSuite

SHORT = {"ConvNet": "Conv", "ResNet": "ResN", "MobileNet": "Mob", "AlexNet": "Alex", "LeNet": "LeN"}


@dataclass(frozen=True)
class Family:
    """The networks of one family on one track: their mean accuracy on a set, and that of random real images."""

    track: str
    name: str
    accuracy: float
    random: float | None
    networks: tuple[str, ...]
    half_width: float | None = None
    """Of a family of one network."""

    @property
    def key(self) -> str:
        return f"{self.track}-{self.name}".lower()

    @property
    def gain(self) -> float | None:
        return None if self.random is None else self.accuracy - self.random

    @property
    def title(self) -> str:
        """`ViT`, `ViT, pretrained`."""
        return self.name + (f", {names.track(self.track)}" if self.track == "pretrained" else "")


@dataclass(frozen=True)
class Line:
    """One line of a table: a set, with the rows of other names for the same set folded into it."""

    row: Standing
    same: tuple[Standing, ...]
    families: tuple[Family, ...]
    """Of every track of the suite on which the set was run."""
    place: str
    """In words: `clear`, `tied 2 to 5`, `only one`, or why there is no rank."""
    dot: Markup
    fingerprint: Markup
    has_pictures: bool

    @property
    def name(self) -> str:
        return short_title(self.row)

    def family(self, key: str) -> Family | None:
        return next((family for family in self.families if family.key == key), None)

    @property
    def words(self) -> str:
        """Everything that a search should find the line by."""
        rows = (self.row, *self.same)
        parts = [p for r in rows for p in (r.title, r.key, r.method, r.authors, r.submitter, r.tier, *r.sources)]
        parts += [names.network(n) for n in self.row.network_results]
        return " ".join(dict.fromkeys(" ".join(parts).lower().split()))


class BaselineLine(NamedTuple):
    """Random real images in one form: what every set of that form has to beat."""

    title: str
    score: float
    draws: int


@dataclass(frozen=True)
class Group:
    heading: str
    note: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """The sets of one suite, track and budget."""

    suite: str
    track: str
    ipc: int
    groups: tuple[Group, ...]
    reported: tuple[Line, ...]
    families: tuple[tuple[str, str], ...]
    """(key, title) of the families of this track, in the suite's order."""
    random: float | None
    full: float | None
    bars: int
    baselines: tuple[BaselineLine, ...] = ()
    """Of the sets in it."""

    @property
    def anchor(self) -> str:
        return f"{self.suite.replace('@', '-')}-{self.track}-{self.ipc}"

    @cached_property
    def key(self) -> Markup:
        """The labels of the fingerprints' bars, for the head."""
        return charts.families(gains(slots_of(self.suite), ()), f"key-{self.anchor}")

    @cached_property
    def key_again(self) -> Markup:
        """Their copy for a row."""
        return charts.again(gains(slots_of(self.suite), ()), f"key-{self.anchor}")

    @property
    def dataset(self) -> str:
        return loaded_suite(self.suite).suite.dataset

    @property
    def title(self) -> str:
        return f"{names.dataset(self.dataset)} · {names.images(self.ipc)} · {names.track_title(self.suite, self.track)}"

    @property
    def counts(self) -> str:
        """Which test pass of a run counts: best or last."""
        return loaded_suite(self.suite).recipes[self.track].score

    @property
    def protocol(self) -> str:
        return names.protocol(loaded_suite(self.suite), self.track)

    @cached_property
    def has_gains(self) -> bool:
        """Whether random real images were run for any of its sets."""
        return any(line.fingerprint for line in self.lines)

    @cached_property
    def has_scores(self) -> bool:
        """Whether any of its sets has a score."""
        return any(line.row.score is not None for line in self.lines)

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for group in self.groups for line in group.lines)

    @cached_property
    def ranked(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.row.rank is not None)

    @cached_property
    def places(self) -> dict[str, int]:
        """Key -> place among `ranked`."""
        return {line.row.key: place for place, line in enumerate(self.ranked)}


def short_title(row: Standing) -> str:
    """The title without the budget, which stands above the table."""
    for end in (f", IPC {row.ipc}", f" IPC {row.ipc}", f" (IPC {row.ipc})"):
        if row.title.endswith(end) and len(row.title) > len(end):
            return row.title.removesuffix(end)
    return row.title.replace(f", IPC {row.ipc}, ", ", ")


def tables(rows: Sequence[Standing], drawn: Iterable[str]) -> list[Table]:
    """Every table of the board, suites that rank first; `drawn` are the slugs of the sets whose images are here."""
    pictures = set(drawn)
    everywhere: dict[tuple[str, str, int], list[Standing]] = defaultdict(list)
    grouped: dict[tuple[str, str, int], list[Standing]] = defaultdict(list)
    for row in rows:
        everywhere[row.key, row.suite, row.ipc].append(row)
        grouped[row.suite, row.track, row.ipc].append(row)
    order = {suite: names.suite_order(suite) for suite, _, _ in grouped}

    def place(name: tuple[str, str, int]) -> tuple[object, ...]:
        suite, track, ipc = name
        return order[suite], list(loaded_suite(suite).evaluators).index(track), ipc

    return [_table(name, grouped[name], everywhere, pictures) for name in sorted(grouped, key=place)]


def _table(
    name: tuple[str, str, int],
    rows: Sequence[Standing],
    everywhere: dict[tuple[str, str, int], list[Standing]],
    pictures: set[str],
) -> Table:
    suite, track, ipc = name
    measured = [row for row in rows if row.tier != "reported"]
    random = next((row.random for row in measured if row.random is not None), None)
    full = full_data(loaded_suite(suite), track)
    spans = [(row.score or 0) + side * (row.half_width or 0) for row in measured if row.score is not None for side in (-1, 1)]
    axis = charts.Axis.around([*spans, *([random] if random is not None else []), *([full] if full is not None else [])])

    slots = slots_of(suite)
    ranked: dict[str, set[str]] = defaultdict(set)
    """Kind of labels -> the sets that are ranked."""
    for row in measured:
        if row.rank is not None:
            ranked[row.labels].add(row.identity)

    def line(row: Standing, same: Sequence[Standing]) -> Line:
        families = families_of(everywhere[row.key, row.suite, row.ipc])
        dot = charts.interval(axis, row.score, row.half_width, row.random, None if row.outdated else full)
        alone = len(ranked[row.labels]) == 1
        bars = charts.fingerprint(gains(slots, families), labels=False)
        return Line(row, tuple(same), families, place_in_words(row, alone=alone), dot, bars, row.key in pictures)

    groups = _groups(measured, line)
    reported = tuple(line(row, ()) for row in rows if row.tier == "reported")
    return Table(
        suite,
        track,
        ipc,
        tuple(group for group in groups if group.lines),
        reported,
        tuple((f"{track}-{family}".lower(), family) for family in scoring.families(loaded_suite(suite), track)),
        random,
        full,
        len(slots),
        _baselines(loaded_suite(suite), track, measured),
    )


def _groups(measured: Sequence[Standing], line: object) -> list[Group]:
    """The lines of a table under their headings; what an earlier edition of the suite ran comes last."""
    outdated = [r for r in measured if r.outdated]
    current = [r for r in measured if r not in outdated]
    return [
        Group("Hard labels", "one class per image", _merged([r for r in current if r.labels == "hard"], line)),
        Group(
            "Soft labels",
            "they carry a teacher's knowledge, so they are ranked apart",
            _merged([r for r in current if r.labels == "soft"], line),
        ),
        Group(
            "Earlier edition of the suite",
            "run under other rules than today's: not comparable with other rows, and not ranked",
            _merged(sorted(outdated, key=lambda r: (-(r.score or 0), r.key)), line),
        ),
    ]


def _baselines(chosen: LoadedSuite, track: str, rows: Sequence[Standing]) -> tuple[BaselineLine, ...]:
    """The baselines of these rows that were run whole."""
    return tuple(
        BaselineLine(
            images.title.removeprefix("random real images, "), mean, len(next(iter(images.draws(chosen, track).values())))
        )
        for images in baselines_of(rows)
        if (mean := images.mean(chosen, track)) is not None
    )


def _merged(rows: Sequence[Standing], line: object) -> tuple[Line, ...]:
    """Lines in the order of the rows, one a set: what has the same sha256 is one line with several names."""
    assert callable(line)
    by_set: dict[str, list[Standing]] = {}
    for row in rows:
        settled = row.rank is not None or row.outdated
        by_set.setdefault(row.identity if settled and row.set_sha256 else f"{row.key}:", []).append(row)
    return tuple(line(first, rest) for first, *rest in by_set.values())


def families_of(rows: Sequence[Standing]) -> tuple[Family, ...]:
    """The families of one set in one suite, every track that was run, in the suite's order."""
    found = []
    for row in sorted(rows, key=lambda r: list(loaded_suite(r.suite).evaluators).index(r.track)):
        for name, networks in scoring.families(loaded_suite(row.suite), row.track).items():
            here = [row.network_results[n] for n in networks if n in row.network_results]
            if len(here) < len(networks):
                continue  # a mean over whichever networks were run would be another number
            randoms = [s.random for s in here if s.random is not None]
            found.append(
                Family(
                    row.track,
                    name,
                    fmean(s.mean for s in here),
                    fmean(randoms) if len(randoms) == len(here) else None,
                    tuple(networks),
                    here[0].half_width if len(here) == 1 else None,
                )
            )
    return tuple(found)


def fingerprint(families: Sequence[Family]) -> Markup:
    """The gains of a set over random images by family, with their labels."""
    return charts.fingerprint(gains([(f.track, f.name) for f in families], families))


def gains(slots: Sequence[tuple[str, str]], families: Sequence[Family]) -> list[charts.Gain]:
    """What each of these (track, family) gains; one that was not run keeps its place."""
    known = {(family.track, family.name): family for family in families}
    made, before = [], slots[0][0] if slots else ""
    for track, name in slots:
        family = known.get((track, name)) or Family(track, name, 0.0, None, ())
        made.append(
            charts.Gain(
                SHORT.get(name, name[:4]),
                family.title,
                family.gain,
                family.accuracy,
                family.random,
                apart=track != before,
                under="pre" if track == "pretrained" else "",
            )
        )
        before = track
    return made


def slots_of(suite: str) -> list[tuple[str, str]]:
    """(track, family) of everything that the suite trains, in its order."""
    found = loaded_suite(suite)
    return [(track, family) for track in found.evaluators for family in scoring.families(found, track)]


def place_in_words(row: Standing, *, alone: bool) -> str:
    """How sure the rank is: `clear`, `tied 2 to 5`; why there is none."""
    if row.rank is None:
        return "not ranked" if row.outdated else row.why_unranked
    if alone:
        return "only one"
    if row.rank_low is None or row.rank_high is None:
        return "one seed: no interval"
    return "clear" if row.rank_low == row.rank_high else f"tied {row.rank_low} to {row.rank_high}"
