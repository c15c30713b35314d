"""Curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench.files import pictures
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_curves(folder: Path, loaded_suite: LoadedSuite, records: Sequence[RunRecord]) -> str | None:
    """Write curves.png and curves.pdf: test accuracy against epoch, a panel a track, a line an evaluator, the mean of its seeds in a
    band from lowest to highest.

    Where test passes were pruned only the best so far is known at every epoch, so that is what the line shows. Returns a warning
    where a picture could not be written, and never raises: the table does not wait for a picture.
    """
    tracks = [t for t in loaded_suite.evaluators if any(r.cell.track == t for r in records)]

    def draw(figure: Figure) -> None:
        for position, track in enumerate(tracks):
            axes = figure.add_subplot(1, len(tracks), position + 1)
            for entry in loaded_suite.evaluators[track]:
                runs = [r for r in records if r.cell.track == track and r.cell.evaluator.name == entry.name]
                if runs:
                    _line(axes, entry.name, runs)
            summary = records[0].synthetic_set
            axes.set_title(f"{summary.name}, IPC {summary.ipc}: {loaded_suite.id}, {track}", fontsize=10)
            axes.set(xlabel="epoch", ylabel="test accuracy, %")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)

    return pictures.write(draw, folder / "curves.png", folder / "curves.pdf", size=(6.5 * len(tracks), 4.5))


def _line(axes: Any, name: str, runs: Sequence[RunRecord]) -> None:
    epochs = [epoch for epoch, _ in runs[0].curve]
    pruned = any(r.upper_bounds for r in runs)
    counts = [list(accumulate((hits for _, hits in r.curve), max if pruned else lambda _, hits: hits)) for r in runs]
    columns = [[100 * c[i] / r.total for c, r in zip(counts, runs, strict=True)] for i in range(len(epochs))]
    label = f"{name}{', best so far' if pruned else ''}{f' ({len(runs)} seeds)' if len(runs) > 1 else ''}"
    means = [sum(column) / len(column) for column in columns]
    (line,) = axes.plot(epochs, means, marker="o" if len(epochs) == 1 else "", label=label)
    if len(runs) > 1:
        axes.fill_between(epochs, [min(c) for c in columns], [max(c) for c in columns], color=line.get_color(), alpha=0.15, lw=0)
