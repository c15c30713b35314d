"""One condensation in its folder: identity, checkpoint, losses, pictures, card and the finished set."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mabench
from mabench.data import RealData
from mabench.digests import canonical_json
from mabench.errors import Interrupted, MabenchError
from mabench.files import discard, write_text
from mabench.schema import Card
from mabench.sets import synthetic
from mabench.sets.synthetic import SyntheticSet

from .checkpoints import read_state, restore, snapshot, write_state
from .plots import plot

CHECKPOINT_SECONDS = 60.0  # ours: at most this much work is lost
SET, CARD, CHECKPOINT = "set.safetensors", "card.toml", "checkpoint.pt"

LoopState = Mapping[str, Any]
"""Name -> tensor, generator, network, optimizer, number, text, or dictionaries and lists of these."""


class Run:
    """One condensation in its folder: identity, checkpoint, losses, pictures, card and the finished set.

    Without a folder nothing is kept. `on_progress(done, total, losses)` is called after every step, and within a
    long one, with a fraction of it and no losses; once `should_stop()` returns
    True the next step saves a checkpoint and raises Interrupted. `command` goes into the card: what makes the same set again.
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_progress: Callable[[float, int, Mapping[str, float]], None] = lambda done, total, losses: None,
        should_stop: Callable[[], bool] = lambda: False,
        command: str = "",
    ) -> None:
        self.folder, self.on_progress, self.should_stop, self.command = folder, on_progress, should_stop, command
        self.losses: list[tuple[int, dict[str, float]]] = []
        self.identity: dict[str, Any] = {}
        self.seconds = 0.0
        self._clock = self._saved_at = time.monotonic()
        self._checkpoint: dict[str, Any] | None = None

    def begin(self, method: str, config: Any, seed: int, train: RealData) -> dict[str, Any] | None:
        """Claim the folder for this condensation and return the state in its checkpoint, None where there is none.

        Raises MabenchError when the folder holds another condensation.
        """
        self.identity = {
            "method": method,
            "config": json.loads(canonical_json(dataclasses.asdict(config))),
            "seed": seed,
            "train": train.sha256,
        }
        self._clock = self._saved_at = time.monotonic()
        if self.folder is None:
            return None
        checkpoint = read_state(self.folder / CHECKPOINT)
        described = self._described_identity()
        self._refuse_another(described, checkpoint)
        if described is None:
            self._describe()
        try:
            losses = [(int(step), dict(values)) for step, values in checkpoint["losses"]]
            seconds, state = float(checkpoint["seconds"]), dict(checkpoint["state"])
            int(checkpoint["done"])
        except (TypeError, KeyError, ValueError):  # none, a damaged one, or another program's: begin again, to the same images
            return None
        self.losses, self.seconds, self._checkpoint = losses, seconds, checkpoint
        return state

    def _refuse_another(self, described: dict[str, Any] | None, checkpoint: Any) -> None:
        """Raise MabenchError unless the folder is free or holds this condensation."""
        identity = described
        if identity is None and isinstance(checkpoint, dict):
            identity = checkpoint.get("identity")  # a checkpoint knows as well whose it is
        assert self.folder is not None
        if identity is None and (self.folder / SET).exists():
            raise MabenchError(
                f"{self.folder}: holds a set, but its run.json is missing or damaged, so it is unknown how the set was made. "
                "Name another folder with --out, or move this one away."
            )
        if identity is not None and identity != self.identity:
            differing = [key for key in self.identity if identity.get(key) != self.identity[key]]
            raise MabenchError(
                f"{self.folder}: holds another condensation (its {' and '.join(differing)} differ). "
                "Name another folder with --out, or remove this one."
            )

    def _described_identity(self) -> dict[str, Any] | None:
        """Return the identity in run.json; None where it is absent or damaged."""
        assert self.folder is not None
        try:
            identity = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["identity"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return identity if isinstance(identity, dict) else None

    def resume(self, state: LoopState) -> int:
        """Put the checkpoint back into the loop's live objects; return how many steps are done, 0 without a checkpoint."""
        if self._checkpoint is None:
            return 0
        restore(state, self._checkpoint["state"])
        return int(self._checkpoint["done"])

    def step(self, done: int, total: int, losses: Mapping[str, float], state: LoopState) -> None:
        """Record that `done` of `total` steps are done. `state` holds the loop's live objects, copied only when a checkpoint is due.

        Raises MabenchError for a loss that is not finite, Interrupted when the run was asked to stop.
        """
        wrong = [name for name, value in losses.items() if not np.isfinite(value)]
        if wrong:
            raise MabenchError(
                f"step {done} of {total}: the loss '{wrong[0]}' is not finite, so the images are lost. "
                "Lower the rate of the images, or start from real images; the last checkpoint is kept."
            )
        while self.losses and self.losses[-1][0] >= done:  # a step that is taken again, after an interruption
            self.losses.pop()
        self.losses.append((done, dict(losses)))
        self.on_progress(done, total, losses)
        stop = self.should_stop() and done < total
        if self.folder is not None and (stop or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS):
            self._tick()
            checkpoint = {
                "identity": self.identity,
                "losses": self.losses,
                "seconds": self.seconds,
                "done": done,
                "state": snapshot(state),
            }
            write_state(self.folder / CHECKPOINT, checkpoint)
            self._saved_at = time.monotonic()
        if stop:
            raise Interrupted

    def glance(self, done: float, total: int) -> None:
        """Within a step: show how far a long one is; `done` may be a fraction. Raises Interrupted when the run was asked to stop; nothing
        is kept."""
        self.on_progress(done, total, {})
        if self.should_stop():
            raise Interrupted

    def finish(self, synthetic_set: SyntheticSet, card: Card) -> SyntheticSet:
        """Write the set, its card with the command, the losses, a preview and a plot; drop the checkpoint. Returns the set."""
        self._tick()
        if self.folder is None:
            return synthetic_set
        self._describe()
        self._write_losses()
        synthetic.preview(synthetic_set, self.folder / "preview.png")
        write_text(self.folder / CARD, card.model_copy(update={"command": card.command or self.command}).toml())
        synthetic_set.save(self.folder / SET)  # last: its existence marks completion
        discard(self.folder / CHECKPOINT)
        return synthetic_set

    def _write_losses(self) -> None:
        """losses.csv with a column for each loss, and losses.png."""
        assert self.folder is not None
        names = sorted({name for _, values in self.losses for name in values})
        rows = [",".join(["step", *names])]
        rows += [
            ",".join([str(step), *(f"{values[n]:.6g}" if n in values else "" for n in names)]) for step, values in self.losses
        ]
        write_text(self.folder / "losses.csv", "\n".join(rows) + "\n")
        if names:
            lines = {n: [(step, values[n]) for step, values in self.losses if n in values] for n in names}
            every = [value for points in lines.values() for _, value in points]
            # losses of unlike size, or one that falls far, need a logarithmic axis
            plot(self.folder / "losses.png", lines, "step", "loss", log=0 < 100 * min(every) < max(every))

    def finished(self) -> SyntheticSet | None:
        """Return the set, if this condensation has been finished before and its file is whole. Call it after `begin`."""
        if self.folder is None or not (self.folder / SET).exists():
            return None
        try:
            synthetic_set = synthetic.load(self.folder / SET)
        except MabenchError as error:
            warnings.warn(f"{error} It is made again.", stacklevel=2)
            return None
        discard(self.folder / CHECKPOINT)
        return synthetic_set

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _describe(self) -> None:
        assert self.folder is not None
        facts = {
            "identity": self.identity,
            "seconds": round(self.seconds, 1),
            "mabench": mabench.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        write_text(self.folder / "run.json", json.dumps(facts, indent=1) + "\n")
