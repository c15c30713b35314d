"""What is said while cells run. Runs know of no console: whoever wants to show, log or count something listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.schema import Cell, RunRecord

if TYPE_CHECKING:
    from mabench.sets.synthetic import SyntheticSet
    from mabench.suites import LoadedSuite


@dataclass(frozen=True)
class Planned:
    """Said once, before the first cell: what will run, where, and how much of it was finished before."""

    loaded_suite: LoadedSuite
    synthetic_set: SyntheticSet
    cells: tuple[Cell, ...]
    """Those that are run here, in order."""
    finished: int
    """How many of them have a record already."""
    device: str
    engine: str
    """As it was asked for: `auto`, `reference` or `fast`."""
    cluster: bool
    folder: Path | None
    """Where records go; None = they are kept in memory only."""


@dataclass(frozen=True)
class Progress:
    """How far the cell that runs now is, and all the work with it."""

    cell: Cell
    index: int
    """Of this cell among all cells, from 0."""
    cells: int
    done: float
    """Of the unfinished work, in floating-point operations."""
    total: float
    epoch: int
    epochs: int
    accuracy: float | None
    """Of the latest test pass, a fraction; None before the first."""


@dataclass(frozen=True)
class ClusterProgress:
    """How far a cluster is, which runs several cells at once."""

    finished: int
    """Cells with a record, those found on disk included."""
    running: int
    cells: int
    done: float
    """Of the unfinished work, in floating-point operations."""
    total: float
    nodes: int


@dataclass(frozen=True)
class Finished:
    """A cell has its record."""

    record: RunRecord
    resumed: bool
    """Whether the record was found on disk."""


@dataclass(frozen=True)
class Failed:
    """A cell could not be run here; the others go on."""

    cell: Cell
    reason: str
    cure: str


@dataclass(frozen=True)
class Note:
    """A sentence that a reader should see."""

    text: str
    warning: bool = False


Event = Planned | Progress | ClusterProgress | Finished | Failed | Note
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that does nothing."""
