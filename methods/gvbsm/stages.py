"""Stages of one run: how far each is, and the part of the checkpoint that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mabench.errors import MabenchError

from ..kit import LoopState, Run

State = dict[str, Any]


class Stages:
    """Steps of all stages in a row. A checkpoint holds the state of the stage that was at work and the backbones' digests."""

    def __init__(self, run: Run, steps: Mapping[str, int], saved: State | None) -> None:
        self.run, self.steps, self.saved = run, dict(steps), saved
        self.total = max(1, sum(steps.values()))
        self.teachers: dict[str, str] = {}
        """Backbone -> sha256 of its weights, as far as they are known."""

    def resume(self, stage: str) -> State | None:
        """What this stage saved when it was interrupted; None where it starts from the beginning."""
        if self.saved is None or self.saved["stage"] != stage:
            return None
        found: State = self.saved["state"]
        return found

    def identify(self, name: str, sha256: str) -> None:
        """The backbone `name` has these weights. Raises MabenchError when the checkpoint was made with others."""
        self.teachers[name] = sha256
        known = (self.saved or {}).get("teachers", {}).get(name, sha256)
        if known != sha256:
            raise MabenchError(
                f"backbone {name} has weights {sha256[:16]}, this run's checkpoint was made with {known[:16]}: the cached "
                "backbone was removed and trained again elsewhere. Remove the run's checkpoint.pt to begin again with this one."
            )

    def tell(self, stage: str, done: int, losses: Mapping[str, float], state: LoopState) -> None:
        """Record that `done` steps of this stage are done; save and interrupt as `Run.step` does."""
        before = 0
        for name, steps in self.steps.items():
            if name == stage:
                break
            before += steps
        checkpoint = {"stage": stage, "state": state, "teachers": dict(self.teachers)}
        self.run.step(before + done, self.total, losses, checkpoint)
