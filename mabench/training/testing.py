"""A test pass: count top-1 hits on the test split, over all images or until the best so far can no longer be beaten."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mabench.data import RealData
from mabench.engine import Engine
from mabench.training.material import Material, View
from mabench.training.state import TrainState


class Tester:
    """Tests one network under training."""

    def __init__(self, material: Material, engine: Engine, view: View, pruning: dict[str, Tensor]) -> None:
        self.material, self.engine, self.view = material, engine, view
        self.visiting = VisitingOrder(material.test_labels, pruning)
        self.prepared: Tensor | None = None
        """The whole test split as `engine.predict` takes it, where that is small."""

    def begin(self, state: TrainState) -> None:
        """A test pass is due: nothing has been counted yet."""
        state.tested = 0
        state.correct.zero_()
        self.visiting.begin()

    @torch.inference_mode()
    def run(self, state: TrainState, *, whole: bool, advance: Callable[[float], None]) -> None:
        """From wherever the pass stands to its end. `advance(images)` is called between any two batches, and may raise."""
        self.take_weights()
        count, best = len(self.material.test_labels), max((hits for _, hits in state.curve), default=-1)
        prunes = self.engine.prunes
        while state.tested < count:
            if prunes and not whole and self.visiting.cannot_beat_best(int(state.correct), count - state.tested, best):
                break
            size = self.engine.test_batch
            window = self.visiting.next(size) if prunes else slice(state.tested, min(state.tested + size, count))
            logits = self.logits(window)
            if isinstance(window, Tensor):
                self.visiting.note(window, logits)
            state.correct += (logits.argmax(dim=1) == self.material.test_labels[window]).sum()
            state.tested += len(logits)
            advance(len(logits))
        left = count - state.tested
        if left:
            state.upper_bounds.append(state.epoch)
        state.curve.append((state.epoch, int(state.correct) + left))
        state.images_tested += state.tested
        state.tested = -1
        if left:
            advance(left)

    @torch.inference_mode()
    def hits(self, real: RealData) -> int:
        """Top-1 hits on all of these images with the weights as they are: a pass of its own, outside of the curve."""
        self.take_weights()
        correct, size = 0, self.engine.test_batch
        for first in range(0, len(real.labels), size):
            window = slice(first, first + size)
            stored = torch.tensor(real.images[window], device=self.material.device)
            inputs = self.view(self.material.from_bytes(stored)).to(self.engine.dtype)
            found = self.engine.predict(self.engine.embed(inputs)).argmax(dim=1).cpu()
            correct += int((found == torch.tensor(real.labels[window])).sum())
        return correct

    def take_weights(self) -> None:
        """Call after training steps and before `logits`."""
        self.engine.begin_test_pass()
        if self.engine.tunes_test_batch:
            self.engine.tune_test_batch(self._inputs(slice(0, 1)))

    def logits(self, window: slice | Tensor) -> Tensor:
        """Logits [B,K] for the test images `window`, positions or indices, with the weights last taken."""
        if self.prepared is None and self.engine.reuses:
            images, channels = len(self.material.test_labels), self.material.dataset.channels
            size = images * channels * self.view.evaluator.input_size**2 * self.engine.dtype.itemsize
            if self.engine.head is not None or size <= self.engine.resident_bytes():
                parts = torch.split(torch.arange(images), self.engine.test_batch)
                self.prepared = torch.cat([self.engine.embed(self._inputs(part)) for part in parts])
        if self.prepared is None:
            return self.engine.predict(self.engine.embed(self._inputs(window)))
        return self.engine.predict(self.view.laid_out(self.prepared[window]))

    def _inputs(self, window: slice | Tensor) -> Tensor:
        return self.view(self.material.test_batch(window)).to(self.engine.dtype)


class VisitingOrder:
    """In which order a pruned test pass visits the test images, and when it may stop. Exact: the best score stays what it is.

    Images that will most likely be missed come first. A pass stops when even a hit on every image left could not raise the number
    of hits above the best so far; what it stores is then an upper bound of its own hits, at most the best.

    An image's margin is the logit of its class less the highest of the others. Its expected margin is the running mean of its
    margins, plus what the margins of its class have moved by in the pass so far: from pass to pass a network leans to some classes
    and away from others.
    """

    RECENT = 0.3  # ours: weight of the newest margin in an image's running mean
    SORT_EVERY = 500  # ours: images of a pass after which the rest of it is sorted again
    PRIOR = 20.0  # ours: images of a class that must have been seen before their mean movement counts by half
    WIDEST = 1e4  # ours: of a margin, so that a network on its way to infinity does not spoil the means

    def __init__(self, labels: Tensor, state: dict[str, Tensor] | None = None) -> None:
        """`labels`: classes [N] of the test images; `state`: what `fresh_state` gave, changed in place."""
        self.labels = labels.cpu()
        self.state = self.fresh_state(self.labels) if state is None else state

    @staticmethod
    def fresh_state(labels: Tensor) -> dict[str, Tensor]:
        """Everything that a resumed run needs, before the first test pass."""
        classes = int(labels.max()) + 1
        return {
            "margins": torch.zeros(len(labels)),
            "passes": torch.tensor(0),
            "left": torch.ones(len(labels), dtype=torch.bool),
            "queue": torch.zeros(0, dtype=torch.int64),
            "moved": torch.zeros(classes),
            "seen": torch.zeros(classes),
        }

    def begin(self) -> None:
        """A test pass begins."""
        state = self.state
        state["passes"] += 1
        state["left"].fill_(True)
        state["queue"] = state["queue"][:0]
        state["moved"].zero_()
        state["seen"].zero_()

    def next(self, count: int) -> Tensor:
        """Indices of the next images, at most `count`; each image once a pass; equals in their natural order."""
        state = self.state
        if not len(state["queue"]):
            left = state["left"].nonzero()[:, 0]
            shift = state["moved"] / (state["seen"] + self.PRIOR)
            expected = state["margins"][left] + shift[self.labels[left]]
            state["queue"] = left[torch.argsort(expected, stable=True)][: max(self.SORT_EVERY, count)]
        window, state["queue"] = state["queue"][:count], state["queue"][count:]
        return window

    def note(self, window: Tensor, logits: Tensor) -> None:
        """Images `window` [B] just got `logits` [B,K]."""
        state, logits, labels = self.state, logits.float().cpu(), self.labels[window]
        of_class = logits.gather(1, labels[:, None])[:, 0]
        of_others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
        change = (of_class - of_others).nan_to_num(0.0).clamp(-self.WIDEST, self.WIDEST) - state["margins"][window]
        state["moved"].index_add_(0, labels, change)
        state["seen"].index_add_(0, labels, torch.ones(len(window)))
        state["margins"][window] += (self.RECENT if state["passes"] > 1 else 1.0) * change
        state["left"][window] = False

    @staticmethod
    def cannot_beat_best(hits: int, left: int, best: int) -> bool:
        """Whether `hits` so far and at most `left` more cannot beat `best`."""
        return hits + left <= best
