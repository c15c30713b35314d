"""Time as a budget: run what fits, cheapest first; end cleanly and say what is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mabench.data import DATASETS
from mabench.engine import Wanted
from mabench.errors import Interrupted
from mabench.results.tables import duration
from mabench.runs import costs, local
from mabench.runs.events import Listener, Note
from mabench.runs.folder import Folder
from mabench.runs.process import resolve_device
from mabench.schema import Cell
from mabench.sets.synthetic import SyntheticSet

RESERVE_SECONDS = 10.0  # ours: for the last step, its checkpoint, and the tables
RESERVE_SHARE = 0.1  # ours: of budgets below 100 seconds
MEASURING_SHARE = 0.25  # ours: of the time that is left; on a GPU a network takes up to two minutes to compile (docs/speed.md)


@dataclass(frozen=True)
class _Stage:
    """The runs of one folder, those with the set's own labels or those with hardened ones."""

    folder: Folder
    labels: str
    """What is to be said of their labels; empty for the set's own."""
    cells: list[Cell]
    """Unfinished when the stage began, cheapest first."""
    seconds: dict[str, float]
    """Of each, by name."""


class Budget:
    """When an evaluation has to end, hardened labels included. Without `minutes` it never does, and cells keep their order."""

    def __init__(self, begun: float, minutes: float | None, should_stop: Callable[[], bool]) -> None:
        self._begun, self._minutes, self._asked = begun, minutes, should_stop
        seconds = None if minutes is None else 60 * minutes
        self._end = math.inf if seconds is None else begun + seconds - min(RESERVE_SECONDS, RESERVE_SHARE * seconds)
        self._speeds: dict[costs.Kind, costs.Speed] = {}
        self._stages: list[_Stage] = []
        self.ended = False
        """Whether the time is up."""

    def should_stop(self) -> bool:
        """Whether the caller wants to stop, or the time is up."""
        return self._asked() or self.is_over()

    def is_over(self) -> bool:
        """Whether the time is up; if so, `ended` from now on."""
        self.ended = self.ended or time.monotonic() >= self._end
        return self.ended

    def order(
        self,
        cells: Sequence[Cell],
        folder: Folder,
        synthetic_set: SyntheticSet,
        test_images: int,
        device: str,
        engine: Wanted,
        on_event: Listener,
    ) -> list[Cell]:
        """The cells, cheapest first, and a note on what will fit. Called for the set's own labels first, then for hardened ones.

        Networks are measured for some seconds each, as long as a part of the budget lasts, and never twice: what the first call
        measured, also in an earlier command with its folder, holds for the second. Once `ended`, nothing is measured or said.
        Raises Interrupted where the caller asks to stop.
        """
        if self._minutes is None:
            return list(cells)
        where = resolve_device(device)
        unfinished = [cell for cell in cells if folder.finished(cell) is None]
        if not self.ended:
            self._measure(unfinished, folder, synthetic_set, test_images, where, engine, on_event)
        seconds: dict[str, float] = {}
        if self._speeds:
            seconds = costs.estimate(unfinished, synthetic_set, test_images, self._speeds, device=where, engine=engine)
        ordered = sorted(unfinished, key=lambda cell: seconds.get(cell.name, 0.0))
        self._stages.append(_Stage(folder, " with hardened labels" if self._stages else "", ordered, seconds))
        if not self.ended and ordered:
            unknown = len(costs.kinds(ordered, DATASETS[synthetic_set.dataset]).keys() - self._speeds.keys())
            guessed = f"; {unknown} network{'s were' if unknown > 1 else ' was'} not measured, only predicted" if unknown else ""
            on_event(Note(f"{self._minutes:g} minutes: {self._what_fits(self._stages[-1])}{guessed}"))
        return [cell for cell in cells if cell not in unfinished] + ordered

    def _measure(
        self,
        cells: Sequence[Cell],
        folder: Folder,
        synthetic_set: SyntheticSet,
        test_images: int,
        device: torch.device,
        engine: Wanted,
        on_event: Listener,
    ) -> None:
        """Learn speeds for a part of the time that is left; one at least, without which nothing can be said."""
        machine = costs.machine(device, engine)
        if not self._stages:
            self._speeds = costs.read_speeds(folder, machine)
        now = time.monotonic()
        until, before = now + MEASURING_SHARE * (self._end - now), len(self._speeds)
        costs.learn(
            self._speeds,
            cells,
            synthetic_set,
            test_images,
            device=device,
            engine=engine,
            on_kind=lambda cell: on_event(Note(f"measuring {cell.evaluator.name} ...")),
            enough=lambda: self._asked() or (bool(self._speeds) and time.monotonic() >= until),
        )
        if len(self._speeds) > before:
            first = self._stages[0].folder if self._stages else folder
            if first is folder:
                local.claim(folder, synthetic_set)
            costs.keep_speeds(first, machine, self._speeds)
        if self._asked():
            raise Interrupted

    def _what_fits(self, stage: _Stage) -> str:
        left, fitting, seconds = self._end - time.monotonic(), 0, [stage.seconds[cell.name] for cell in stage.cells]
        while fitting < len(seconds) and sum(seconds[: fitting + 1]) <= left:
            fitting += 1
        if not fitting:
            return f"no run fits; {self._least(stage)}"
        rest = f", then a part of {stage.cells[fitting].evaluator.name}" if fitting < len(seconds) else ""
        return (
            f"{fitting} of {len(seconds)} runs{stage.labels} fit, cheapest first (about {duration(sum(seconds[:fitting]))}){rest}"
        )

    def _least(self, stage: _Stage) -> str:
        """Why not even the cheapest run fits, and the smallest budget, in whole minutes, in which it does."""
        cheapest = stage.cells[0]
        gone, running = time.monotonic() - self._begun, stage.seconds[cheapest.name]
        takes = f"the cheapest, {cheapest.evaluator.name}, takes about {duration(running)}"
        if len(self._stages) > 1:  # what is gone went into runs, which the next command does not repeat
            return takes
        minutes = math.ceil((gone + running + RESERVE_SECONDS) / 60)
        return (
            f"start and measuring took {duration(gone)}, and {takes}. Allow at least {minutes} minutes, e.g. --minutes {minutes}"
        )

    def say_what_is_left(self, on_event: Listener) -> None:
        """Where the time was up before everything was finished, one note: how many runs, of which networks, how long."""
        left = [(stage, cell) for stage in self._stages for cell in stage.cells if not stage.folder.record_path(cell).exists()]
        if not self.ended or not left:
            return
        names = ", ".join(dict.fromkeys(cell.evaluator.name for _, cell in left))
        seconds = sum(stage.seconds.get(cell.name, 0.0) for stage, cell in left)
        hardened = sum(bool(stage.labels) for stage, _ in left)
        among = f", {hardened} of them{self._stages[-1].labels}" if hardened else ""
        took = f", up to {duration(seconds)}" if seconds else ""
        one = len(left) == 1
        text = f"{self._minutes:g} min are over; {len(left)} run{' is' if one else 's are'} left{among} ({names}){took}. "
        on_event(Note(text + "The same command continues from there.", warning=True))
