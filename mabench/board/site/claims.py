"""What papers claim against what was measured: a published file run again, or a set of our own, network by network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from markupsafe import Markup

from mabench.board.site import charts, names
from mabench.board.site.standings import Standing
from mabench.results import scoring
from mabench.results.paper_tables import PaperTable
from mabench.results.works import normal
from mabench.suites import load


@dataclass(frozen=True)
class Pair:
    """One network: the paper's number and ours, fractions."""

    network: str
    claimed: float
    claimed_half: float | None
    measured: float
    measured_half: float | None
    runs: int | None
    dot: Markup | None = None

    @property
    def difference(self) -> float:
        return self.measured - self.claimed

    @property
    def half_width(self) -> float | None:
        """Of the difference; the paper's own spread is part of it where the paper gives spread and number of runs."""
        return None if self.measured_half is None else math.hypot(self.measured_half, self.claimed_half or 0.0)

    @property
    def verdict(self) -> str:
        if self.half_width is None:
            return "one run"
        if abs(self.difference) <= self.half_width:
            return "agrees"
        return "higher" if self.difference > 0 else "lower"


@dataclass(frozen=True)
class Claim:
    """One table or row of a paper and one measured set."""

    table: PaperTable
    row: Standing
    pairs: tuple[Pair, ...]
    dot: Markup | None = None

    @property
    def anchor(self) -> str:
        return f"{self.row.key}-{abs(hash_of(self.table.where)) % 10**6}"

    @property
    def name(self) -> str:
        """The method as a heading begins."""
        return self.row.method[:1].upper() + self.row.method[1:]

    @property
    def what(self) -> str:
        """What was measured."""
        return "the published file, run again" if published(self.row) else "a set condensed again with our implementation"

    @property
    def claimed(self) -> float:
        return fmean(pair.claimed for pair in self.pairs)

    @property
    def measured(self) -> float:
        return fmean(pair.measured for pair in self.pairs)

    @property
    def difference(self) -> float:
        return self.measured - self.claimed

    @property
    def half_width(self) -> float | None:
        """Of the mean difference: networks are independent runs."""
        halves = [pair.half_width for pair in self.pairs]
        return None if None in halves else math.sqrt(sum((h or 0) ** 2 for h in halves)) / len(halves)

    @property
    def agreeing(self) -> int:
        return sum(pair.verdict == "agrees" for pair in self.pairs)


def hash_of(text: str) -> int:
    """A number that names a text, the same in every process."""
    from zlib import crc32

    return crc32(text.encode())


def published(row: Standing) -> bool:
    """Whether the row is about a file that the method's authors publish: a name alone says nothing, the board's list does."""
    return row.key.endswith("-published") and row.elsewhere


def claims(tables: Sequence[tuple[str, PaperTable]], rows: Sequence[Standing], commands: Mapping[str, str]) -> list[Claim]:
    """Every table that some submission measured: same method, suite, budget, labels and configuration.

    A file that authors publish is compared with the rows that say which file they are about; a set of our own, by slug the
    command of its card, with the rows that stand for that command's preset and changes.
    """
    found = []
    for _, table in tables:
        suite = load(table.suite).id
        for row in rows:
            same = (row.suite, row.ipc, row.labels) == (suite, table.ipc, table.labels)
            if (
                row.tier == "reported"
                or not same
                or not _about(table, row)
                or not _configured(table, row, commands.get(row.key, ""))
            ):
                continue
            pairs = tuple(_pair(table, row, name) for name in table.values if name in row.network_results)
            if pairs:
                found.append((table, row, pairs))
    axis = _axis([pair for _, _, pairs in found for pair in pairs])
    drawn = [Claim(t, r, tuple(_drawn(pair, axis) for pair in pairs)) for t, r, pairs in found]
    whole = [Claim(c.table, c.row, c.pairs, charts.difference(axis, c.difference, c.half_width)) for c in drawn]
    return sorted(whole, key=lambda c: (not published(c.row), c.row.method.lower(), c.row.ipc, c.table.where))


def _about(table: PaperTable, row: Standing) -> bool:
    methods = {normal(table.method)}
    if normal(table.method) == "random":
        methods.add("randomrealimages")
    return normal(row.method) in methods


def _configured(table: PaperTable, row: Standing, command: str) -> bool:
    """Whether the row's set is of the table's configuration."""
    if published(row):
        return bool(table.file_sha256)
    words = command.split()
    if "reproduce" not in words or not table.presets:
        return False
    options = list(pairwise(words))
    changes = dict(value.partition("=")[::2] for name, value in options if name == "--config")
    preset = next((value for name, value in options if name == "--preset"), None)
    wanted = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in table.config.items()}
    # without --preset the command takes the first preset of the budget, which is no variant: paper-ipc1, released-ipc10
    plain = any(re.fullmatch(r"[a-z]+-ipc\d+", name) for name in table.presets)
    return changes == wanted and (preset in table.presets if preset else plain)


def _pair(table: PaperTable, row: Standing, name: str) -> Pair:
    mean, std = table.values[name]
    half = None
    if std is not None and table.runs is not None and (quantile := scoring.t_quantile(table.runs)) is not None:
        half = quantile * std / 100 / math.sqrt(table.runs)
    network_result = row.network_results[name]
    return Pair(names.network(name), mean / 100, half, network_result.mean, network_result.half_width, network_result.runs)


def _axis(pairs: Sequence[Pair]) -> charts.Axis:
    reach = max((abs(p.difference) + (p.half_width or 0) for p in pairs), default=0.05)
    reach = min(reach, 0.08)
    return charts.Axis(-reach, reach)


def _drawn(pair: Pair, axis: charts.Axis) -> Pair:
    dot = charts.difference(axis, pair.difference, pair.half_width)
    return Pair(pair.network, pair.claimed, pair.claimed_half, pair.measured, pair.measured_half, pair.runs, dot)
