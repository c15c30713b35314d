"""Time as a budget: run what fits, cheapest first; end cleanly and say what is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from mabench.data import RealData
from mabench.engine import Wanted
from mabench.results.tables import duration
from mabench.runs import costs
from mabench.runs.events import Listener, Note
from mabench.runs.folder import Folder
from mabench.runs.process import resolve_device
from mabench.schema import Cell
from mabench.sets.synthetic import SyntheticSet

RESERVE_SECONDS = 10.0  # ours: for the last step, its checkpoint, and the tables
RESERVE_SHARE = 0.1  # ours: of budgets below 100 seconds


class Budget:
    """When a run has to end. Without `minutes` it never does, and cells keep their order."""

    def __init__(self, begun: float, minutes: float | None, should_stop: Callable[[], bool]) -> None:
        self._begun, self._minutes, self._asked = begun, minutes, should_stop
        seconds = None if minutes is None else 60 * minutes
        self._end = None if seconds is None else begun + seconds - min(RESERVE_SECONDS, RESERVE_SHARE * seconds)
        self._seconds: dict[str, float] = {}
        self.ended = False
        """Whether the budget, and not the caller, stopped the run."""

    def should_stop(self) -> bool:
        """Whether the caller wants to stop, or the time is up."""
        if self._asked():
            return True
        self.ended = self.ended or (self._end is not None and time.monotonic() >= self._end)
        return self.ended

    def order(
        self,
        cells: Sequence[Cell],
        folder: Folder,
        synthetic_set: SyntheticSet,
        test: RealData,
        device: str,
        engine: Wanted,
        on_event: Listener,
    ) -> list[Cell]:
        """The cells, cheapest first, and a note on what will fit; measuring takes some seconds an evaluator."""
        if self._end is None:
            return list(cells)
        unfinished = [cell for cell in cells if folder.finished(cell) is None]
        self._seconds = costs.estimate(
            unfinished,
            synthetic_set,
            len(test.labels),
            device=resolve_device(device),
            engine=engine,
            on_kind=lambda cell: on_event(Note(f"measuring {cell.evaluator.name} ...")),
        )
        ordered = sorted(unfinished, key=lambda cell: self._seconds[cell.name])
        left, fitting = self._end - time.monotonic(), 0
        for cell in ordered:
            left -= self._seconds[cell.name]
            fitting += left >= 0
        taken = sum(self._seconds[cell.name] for cell in ordered[:fitting])
        if fitting or not ordered:
            rest = f", then a part of {ordered[fitting].evaluator.name}" if fitting < len(ordered) else ""
            fit = f"{fitting} of {len(ordered)} runs fit, cheapest first (about {duration(taken)}){rest}"
        else:
            fit = f"no run fits; {self._least(ordered[0])}"
        on_event(Note(f"{self._minutes:g} minutes: {fit}"))
        return [cell for cell in cells if cell not in unfinished] + ordered

    def _least(self, cheapest: Cell) -> str:
        """Why not even the cheapest run fits, and the smallest budget, in whole minutes, in which it does."""
        measuring, running = time.monotonic() - self._begun, self._seconds[cheapest.name]
        minutes = math.ceil((measuring + running + RESERVE_SECONDS) / 60)
        return (
            f"start and measuring took {duration(measuring)}, and the cheapest run, {cheapest.evaluator.name}, takes about "
            f"{duration(running)}. Allow at least {minutes} minutes, e.g. --minutes {minutes}"
        )

    def say_what_is_left(self, cells: Sequence[Cell], folder: Folder, on_event: Listener) -> None:
        """One note: which evaluators, how many runs, how long."""
        left = [cell for cell in cells if folder.finished(cell) is None]
        names = ", ".join(dict.fromkeys(cell.evaluator.name for cell in left))
        seconds = sum(self._seconds.get(cell.name, 0.0) for cell in left)
        text = f"{self._minutes:g} min are over; {len(left)} runs are left ({names}), up to {duration(seconds)}. "
        on_event(Note(text + "The same command continues from there.", warning=True))
