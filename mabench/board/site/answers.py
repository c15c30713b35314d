"""What a reader wants to know first, in words: the best set of a budget, for which networks it is no better, why to trust it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mabench import suites
from mabench.board.site import names
from mabench.board.site.charts import points
from mabench.board.site.views import Family, Line, Table


@dataclass(frozen=True)
class Answer:
    """The best set of one budget on one track."""

    question: str
    line: Line
    sentences: tuple[str, ...]

    @property
    def name(self) -> str:
        """The set's name, short enough for a heading."""
        return self.line.name.partition(",")[0]


@dataclass(frozen=True)
class Best:
    """The best set for one family of networks at one budget."""

    family: str
    family_title: str
    ipc: int
    line: Line
    accuracy: float
    random: float | None

    @property
    def sentence(self) -> str:
        """`k-means: 27.9 %, 4.0 points over random real images.`"""
        return f"{self.line.name}: {100 * self.accuracy:.1f} %, {self.gain}."

    @property
    def gain(self) -> str:
        """`4.0 points over random real images`"""
        if self.random is None:
            return "random real images were not run here"
        gain = self.accuracy - self.random
        if gain <= 0:
            return f"no better than random real images ({100 * self.random:.1f} %)"
        return f"{100 * gain:.1f} points over random real images"


def best_sets(tables: Sequence[Table]) -> list[Answer]:
    """One answer for each budget of the first suite that ranks anything, smallest budget first; hard labels."""
    leading = next((t for t in tables if suites.ranks_methods(t.suite) and t.ranked), None)
    if leading is None:
        return []
    found = []
    for table in tables:
        if (table.suite, table.track) == (leading.suite, leading.track) and table.ranked:
            line = table.ranked[0]
            found.append(Answer(f"Best at {names.images(table.ipc)}, {names.track(table.track)}", line, _about(line)))
    return found


def _about(line: Line) -> tuple[str, ...]:
    row = line.row
    sure = {"clear": "Clear first.", "only one": "The only set so far."}.get(line.place, f"Not alone: {line.place}.")
    first = f"{points(row.lift)} points over random real images. {sure}" if row.lift is not None else sure
    known = [f for f in line.families if f.gain is not None]
    worse = [f for f in known if f.gain is not None and f.gain <= 0]
    unclear = [f for f in known if f.gain is not None and f.half_width is not None and 0 < f.gain <= f.half_width]
    rest = []
    if unclear:
        rest.append(f"Not told apart from random on {_list([_named(f) for f in unclear])}.")
    if worse:
        rest.append(f"No better than random on {_list(with_numbers(worse))}.")
    if known and not rest:
        rest.append("Better than random on every network tried.")
    return (first, " ".join(rest)) if rest else (first,)


def with_numbers(families: Sequence[Family]) -> list[str]:
    """`a ViT (23.8 against 23.9)` for each family."""
    return [f"{_named(f)} ({100 * f.accuracy:.1f} against {100 * (f.random or 0):.1f})" for f in families]


def _named(family: Family) -> str:
    network = names.network(family.networks[0]) if len(family.networks) == 1 else f"{family.name}s"
    return (
        f"a {network}"
        if family.track == "scratch" and len(family.networks) == 1
        else network.replace(", pretrained", " with ImageNet weights")
    )


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def best_by_family(tables: Sequence[Table], suite: str) -> list[tuple[str, str, dict[int, Best]]]:
    """(key, title, budget -> the best set) for every family of a suite: among ranked sets with hard labels."""
    found: dict[str, dict[int, Best]] = defaultdict(dict)
    titles: dict[str, str] = {}
    for table in (t for t in tables if t.suite == suite):
        for key, name in table.families:
            candidates = [(f, line) for line in table.ranked if line.row.labels == "hard" and (f := line.family(key))]
            if candidates:
                family, line = max(candidates, key=lambda c: (c[0].accuracy, c[1].row.key))
                titles[key] = family.title
                found[key][table.ipc] = Best(key, name, table.ipc, line, family.accuracy, family.random)
    return [(key, titles[key], found[key]) for key in found]


@dataclass(frozen=True)
class Trust:
    sets: int
    runs: int
    rerun: int
    """Sets of which somebody else has run at least one evaluator again."""
    newest: str
    """Date of the newest log entry."""
