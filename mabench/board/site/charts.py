"""Numbers as SVG, drawn when the board is built. Colours are classes of the style sheet; every chart says in words what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

AXIS_WIDTH, AXIS_HEIGHT, MARGIN = 210, 28, 7
BAR_HEIGHT, FULL_SCALE, TRACK_GAP = 17, 0.10, 8  # ours: a gain of 10 points fills a bar; larger ones are cut
BASE = BAR_HEIGHT + 2
"""Of the line from which bars rise and fall."""


@dataclass(frozen=True)
class Axis:
    """The common axis of one table, fractions."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float]) -> Axis:
        """An axis that holds the values with a little air, within [0,1]."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        air = max(0.01, 0.06 * (high - low))
        return cls(max(0.0, low - air), min(1.0, high + air))

    def at(self, value: float, width: float = AXIS_WIDTH, margin: float = MARGIN) -> str:
        place = (min(max(value, self.low), self.high) - self.low) / max(self.high - self.low, 1e-9)
        return f"{margin + place * (width - 2 * margin):.1f}"


def points(value: float) -> str:
    """A difference in points with one digit and a true minus sign."""
    text = f"{100 * abs(value):.1f}"
    return ("+" if value >= 0 else "\u2212") + text if text != "0.0" else "0.0"


def interval(axis: Axis, mean: float | None, half: float | None, random: float | None, full: float | None = None) -> Markup:
    """A dot with its interval, random images dashed, full data as a bar; for one row of a table."""
    if mean is None:
        return Markup("")
    words = f"{100 * mean:.1f} percent"
    words += f", 95 percent interval {100 * (mean - half):.1f} to {100 * (mean + half):.1f}" if half is not None else ""
    words += f"; random images {100 * random:.1f}" if random is not None else ""
    words += f"; full data {100 * full:.1f}" if full is not None else ""
    parts = [_level(MARGIN, AXIS_WIDTH - MARGIN, "ax")]
    if random is not None:
        parts.append(_upright(axis.at(random), "rand"))
    if full is not None:
        parts.append(_upright(axis.at(full), "full"))
    if half is not None:
        parts.append(_level(axis.at(mean - half), axis.at(mean + half), "ci"))
    parts.append(_dot(axis.at(mean)))
    return _svg(AXIS_WIDTH, AXIS_HEIGHT, words, parts)


def _level(low: float | str, high: float | str, kind: str) -> str:
    return f'<line x1="{low}" x2="{high}" y1="{AXIS_HEIGHT // 2}" y2="{AXIS_HEIGHT // 2}" class="{kind}"/>'


def _upright(place: float | str, kind: str) -> str:
    return f'<line x1="{place}" x2="{place}" y1="3" y2="{AXIS_HEIGHT - 3}" class="{kind}"/>'


def _dot(place: float | str, kind: str = "") -> str:
    return f'<circle cx="{place}" cy="{AXIS_HEIGHT // 2}" r="5" class="{f"pt {kind}".rstrip()}"/>'


def _gain_bar(place: float, width: float, gain: float, told: str = "") -> str:
    """The bar of one family, up or down from the middle line; it says `told` under the mouse."""
    height = max(1.2, min(abs(gain), FULL_SCALE) / FULL_SCALE * BAR_HEIGHT)
    kind, top = ("up", BASE - height) if gain >= 0 else ("down", BASE)
    return f'<rect x="{place:.1f}" width="{width}" y="{top:.1f}" height="{height:.1f}" class="{kind}"' + (
        f"><title>{escape(told)}</title></rect>" if told else "/>"
    )


def keys() -> dict[str, Markup]:
    """What each mark of a table looks like, for a legend that says in words beside it what it means: the marks themselves."""
    drawn = {
        "interval": (30, [_level(4, 26, "ci"), _dot(15)]),
        "random": (6, [_upright(3, "rand")]),
        "full": (6, [_upright(3, "full")]),
    }
    marks = {name: _svg(width, AXIS_HEIGHT, "", parts, "mark") for name, (width, parts) in drawn.items()}
    line = f'<line x1="0" x2="18" y1="{BASE}" y2="{BASE}" class="ax"/>'
    bars = {name: [line, _gain_bar(4, 10, gain)] for name, gain in (("up", FULL_SCALE), ("down", -FULL_SCALE))}
    return marks | {
        name: _svg(18, BASE + 2, "", parts, "mark", top=BASE - 1 if name == "down" else 0) for name, parts in bars.items()
    }


@dataclass(frozen=True)
class Gain:
    """What one family gains over random images; `value` is None where one of the two was not run."""

    label: str
    """Four letters or so."""
    name: str
    value: float | None
    accuracy: float | None
    random: float | None
    apart: bool = False
    """Belongs to another track than the one before: a gap comes first."""
    under: str = ""
    """A second line under the label."""


def fingerprint(gains: Sequence[Gain], *, labels: bool = True) -> Markup:
    """A bar per family, up where the set beats random images, down where it does not; nothing for a family that was not run.

    Without `labels` the bars stand under the head of their column, which has them.
    """
    if not any(gain.value is not None for gain in gains):
        return Markup("")
    said, parts, x = [], [], 2.0
    bar, width = _bar(gains), _bars(gains)
    for gain in gains:
        x += TRACK_GAP if gain.apart else 0
        if gain.value is None:
            said.append(f"{gain.name}: not run")
        else:
            told = f"{gain.name}: {points(gain.value)} points"
            told += f" ({100 * gain.accuracy:.1f} against {100 * gain.random:.1f})" if gain.accuracy and gain.random else ""
            said.append(told)
            parts.append(_gain_bar(x + 4, bar - 8, gain.value, told))
        x += bar
    parts.insert(0, f'<line x1="0" x2="{width}" y1="{BASE}" y2="{BASE}" class="ax"/>')
    parts += _labels(gains, 2 * BAR_HEIGHT + 13) if labels else []
    height = 2 * BAR_HEIGHT + (4 if not labels else 25 if any(gain.under for gain in gains) else 16)
    return _svg(width, height, "Gain over random images. " + "; ".join(said), parts)


def families(gains: Sequence[Gain], name: str) -> Markup:
    """The labels of `fingerprint` alone, for the head of its column; `name` is what `again` draws them by."""
    if not gains:
        return Markup("")
    labels = [f'<g id="{name}">', *_labels(gains, 10), "</g>"]
    return _svg(*_labels_size(gains), "Families: " + ", ".join(gain.name for gain in gains), labels)


def again(gains: Sequence[Gain], name: str) -> Markup:
    """The same labels in a row, for phones, which do not show the head."""
    width, height = _labels_size(gains)
    return Markup(f'<svg class="gain-key" width="{width}" height="{height}" aria-hidden="true"><use href="#{name}"/></svg>')


def _labels_size(gains: Sequence[Gain]) -> tuple[int, int]:
    return _bars(gains), 22 if any(gain.under for gain in gains) else 12


def _bar(gains: Sequence[Gain]) -> int:
    """Width of a bar with the space beside it."""
    return 30 if len(gains) <= 5 else 27 if len(gains) <= 7 else 23


def _bars(gains: Sequence[Gain]) -> int:
    return len(gains) * _bar(gains) + TRACK_GAP * sum(gain.apart for gain in gains) + 4


def _labels(gains: Sequence[Gain], y: int) -> list[str]:
    texts, x, bar = [], 2.0, _bar(gains)
    kind = "tick" if bar == 30 else "tick tight"
    for gain in gains:
        x += TRACK_GAP if gain.apart else 0
        for text, line in ((gain.label if bar > 23 else gain.label[:3], y), (gain.under, y + 10)):
            if text:
                texts.append(f'<text x="{x + bar / 2:.0f}" y="{line}">{escape(text)}</text>')
        x += bar
    return [f'<g class="{kind}" text-anchor="middle">{"".join(texts)}</g>']


def difference(axis: Axis, value: float, half: float | None) -> Markup:
    """A difference with its interval on an axis that holds zero."""
    kind = "even" if half is not None and abs(value) <= half else "up" if value >= 0 else "down"
    parts = [_level(MARGIN, AXIS_WIDTH - MARGIN, "ax"), _upright(axis.at(0), "full")]
    words = f"difference {points(value)} points"
    if half is not None:
        words += f", 95 percent interval {points(value - half)} to {points(value + half)}"
        parts.append(_level(axis.at(value - half), axis.at(value + half), f"ci {kind}"))
    parts.append(_dot(axis.at(value), kind))
    return _svg(AXIS_WIDTH, AXIS_HEIGHT, words, parts)


@dataclass(frozen=True)
class Line:
    """Mean test accuracy of one network over the epochs of a run, fractions."""

    name: str
    epochs: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def curves(lines: Sequence[Line]) -> Markup:
    """Test accuracy against epoch, a line per network with the band of its seeds; six colours and six dashes."""
    width, height, left, bottom, right = 620, 260, 40, 30, 190
    last = max((line.epochs[-1] for line in lines), default=1)
    first = min((line.epochs[0] for line in lines), default=0)
    axis = Axis.around([value for line in lines for value in (*line.low, *line.high)])

    def x(epoch: float) -> float:
        return left + (epoch - first) / max(last - first, 1) * (width - left - right)

    def y(value: float) -> float:
        return 8 + (axis.high - value) / max(axis.high - axis.low, 1e-9) * (height - bottom - 8)

    parts = []
    for tick in _ticks(axis.low, axis.high):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" class="ax"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" class="tick">{100 * tick:.0f}</text>')
    for epoch in _spread(sorted({epoch for line in lines for epoch in line.epochs}), 4):
        parts.append(f'<text x="{x(epoch):.1f}" y="{height - 10}" text-anchor="middle" class="tick">{epoch:,}</text>')
    ends = _spread_out([y(line.mean[-1]) for line in lines], 15, 12, height - bottom)
    for place, line in enumerate(lines):
        band = [f"{x(e):.1f},{y(v):.1f}" for e, v in zip(line.epochs, line.high, strict=True)]
        band += [f"{x(e):.1f},{y(v):.1f}" for e, v in reversed(list(zip(line.epochs, line.low, strict=True)))]
        path = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in zip(line.epochs, line.mean, strict=True))
        parts.append(f'<polygon points="{" ".join(band)}" class="band c{place % 6}"/>')
        parts.append(f'<polyline points="{path}" class="line c{place % 6}"/>')
        parts.append(
            f'<text x="{width - right + 8}" y="{ends[place] + 4:.1f}" class="name c{place % 6}">{escape(line.name)}</text>'
        )
    told = "; ".join(f"{line.name} ends at {100 * line.mean[-1]:.1f} percent" for line in lines)
    return _svg(width, height, f"Test accuracy against epoch. {told}", parts, "curves")


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most this many of the values, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def _ticks(low: float, high: float) -> list[float]:
    step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6), 0.25)
    first = int(low / step) + 1
    return [round(step * i, 4) for i in range(first, int(high / step) + 1)]


def _spread_out(places: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """The places, moved apart so that labels do not lie on each other."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    lowest = top
    for index in order:
        moved[index] = max(moved[index], lowest)
        lowest = moved[index] + gap
    over = max(0.0, (moved[order[-1]] if order else 0.0) - bottom)
    return [value - over for value in moved]


def _svg(width: float, height: float, words: str, parts: Sequence[str], kind: str = "", *, top: float = 0) -> Markup:
    """A picture that says `words`; without any, one beside words that say it."""
    said = f'role="img" aria-label="{escape(words)}"' if words else 'aria-hidden="true"'
    named = f' class="{kind}"' if kind else ""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 {top:.0f} {width:.0f} {height:.0f}"'
    return Markup(f"<svg {size} {said}{named}>{''.join(parts)}</svg>")
