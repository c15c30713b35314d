"""Pictures are written last and may fail: what goes wrong in matplotlib, its fonts or its caches costs a warning, never a result.

The object interface only: no back end of a notebook or a screen is asked for. No dates and no versions in a file, so the same numbers
give the same bytes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench.files import atomic_write, private_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"dpi": 120, "metadata": {"Software": None}},
    ".pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


def write(draw: Callable[[Figure], None], *paths: Path, size: tuple[float, float]) -> str | None:
    """Let `draw` fill a new figure of `size` (width and height in inches) and write it to `paths`, each .png or .pdf.

    Returns what went wrong as one line for the user, or None. Never raises.
    """
    try:
        with _matplotlib():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            figure = Figure(figsize=size, layout="constrained")
            FigureCanvasAgg(figure)
            draw(figure)
            for path in paths:
                with atomic_write(path) as file:
                    figure.savefig(file, format=path.suffix[1:], **FORMATS[path.suffix])
    except Exception as error:  # matplotlib, its fonts and its caches fail in many ways
        text = " ".join(str(error).split())[:200].rstrip(".")
        return f"no picture {paths[0].name}: {type(error).__name__}: {text}. Everything else was written."
    return None


def write_or_warn(draw: Callable[[Figure], None], *paths: Path, size: tuple[float, float]) -> None:
    """`write`, with a Python warning for what went wrong: where no list of notes waits for it."""
    if warning := write(draw, *paths, size=size):
        warnings.warn(warning, stacklevel=3)


@contextmanager
def _matplotlib() -> Iterator[None]:
    """Within it, matplotlib can be imported whatever MPLBACKEND names, and by a user without a home."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        Path.home()
    except RuntimeError:
        os.environ.setdefault("MPLCONFIGDIR", str(private_folder("matplotlib")))
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
