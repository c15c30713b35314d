"""Plots of a run: one line per name, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mabench.files import pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, *, log: bool = False) -> None:
    """Write a PNG with one line per name through its (x, y) points; many points are averaged in windows of one hundredth of them.

    Warns where it could not be written.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, points in lines.items():
            values = np.array(points, dtype=float).reshape(-1, 2)
            window = max(1, len(values) // 100)
            usable = len(values) // window * window
            smooth = values[:usable].reshape(-1, window, 2).mean(1)
            axes.plot(smooth[:, 0], smooth[:, 1], label=name)
        axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=8)

    pictures.write_or_warn(draw, path, size=(7, 4.2))
