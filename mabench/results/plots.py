"""Curves as a picture. The object interface only: no back end of a notebook or a screen is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from mabench.files import atomic_write
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

FORMATS: dict[str, dict[str, Any]] = {  # no dates and no versions: the same records give the same file
    "png": {"dpi": 120, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


@contextmanager
def drawing() -> Iterator[None]:
    """Within it, matplotlib can be imported whatever MPLBACKEND names: a notebook's back end need not be installed here."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def write_curves(folder: Path, loaded_suite: LoadedSuite, records: Sequence[RunRecord]) -> str | None:
    """Write curves.png and curves.pdf; returns a warning where that failed, and never raises: the table does not wait for a picture."""
    try:
        with drawing():
            figure = curves(loaded_suite, records)
            for kind, options in FORMATS.items():
                with atomic_write(folder / f"curves.{kind}") as file:
                    figure.savefig(file, format=kind, **options)
    except Exception as error:  # matplotlib, its fonts and its caches fail in many ways
        text = " ".join(str(error).split())[:200]
        return f"no picture of the curves: {type(error).__name__}: {text}. Everything else was written."
    return None


def curves(loaded_suite: LoadedSuite, records: Sequence[RunRecord]) -> Any:
    """Test accuracy against epoch, a panel a track, a line an evaluator: the mean of its seeds in a band from lowest to highest.

    Where test passes were pruned only the best so far is known at every epoch, so that is what the line shows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tracks = [t for t in loaded_suite.evaluators if any(r.cell.track == t for r in records)]
    figure = Figure(figsize=(6.5 * len(tracks), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
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
    return figure


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
