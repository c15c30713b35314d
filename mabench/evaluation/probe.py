"""Probe: a cheap evaluator for the inside of a condensation loop. Its number is never a suite's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from mabench import data, suites
from mabench.data import RealData
from mabench.engine import wanted
from mabench.errors import MabenchError
from mabench.evaluation.inputs import accept
from mabench.runs.plan import select
from mabench.runs.process import resolve_device, undisturbed
from mabench.schema import Cell, Recipe
from mabench.suites import LoadedSuite

MARK = "probe, not a suite's number"
NAME = "probe"  # in place of a suite's id: no table, gate or board takes such a run for a suite's


class ProbeScore(float):
    """Mean test accuracy, a fraction; prints in percent, as what it is."""

    def __new__(cls, accuracies: Mapping[str, float]) -> ProbeScore:
        score = super().__new__(cls, fmean(accuracies.values()))
        score.accuracies = dict(accuracies)
        return score

    accuracies: dict[str, float]
    """Evaluator -> test accuracy after its last epoch."""

    def __repr__(self) -> str:
        return f"{100 * self:.2f} % ({MARK})"

    __str__ = __repr__


class Probe:
    """A few epochs of a suite's evaluators, one seed, one test pass at the end: seconds, for the inside of a condensation loop.

    >>> import mabench, torch
    >>> probe = mabench.Probe("digits-agnostic", evaluators="mlp*", epochs=3)
    >>> images = torch.rand(10, 3, 32, 32, requires_grad=True)  # being condensed
    >>> str(probe(images, torch.arange(10)))
    "... % (probe, not a suite's number)"

    The recipe is the suite's, shortened: what follows the epoch (a decay of the rate) keeps its place in the course. The test
    split stays in memory between calls. `test_images` takes the first so many of a random order of the test split.
    """

    def __init__(
        self,
        suite: str | LoadedSuite,
        evaluators: str | Sequence[str] = "convnet3*",
        *,
        epochs: int = 30,
        seed: int = 0,
        test_images: int | None = None,
        device: str = "auto",
        engine: str = "auto",
    ) -> None:
        self._loaded_suite = suites.load(suite) if isinstance(suite, str) else suite
        self._parts = select(self._loaded_suite, evaluator=evaluators, seeds=self._loaded_suite.suite.seeds[:1])
        self._recipes = {track: _shortened(self._loaded_suite, track, epochs) for track, _, _ in self._parts}
        self._seed = seed
        self._device = resolve_device(device)
        self._engine = wanted(engine)
        self._test = _in_memory(data.load(self._loaded_suite.suite.dataset, "test"), test_images)

    def __call__(self, images: Any, labels: Any = None, *, space: str | None = None) -> ProbeScore:
        """Test accuracy of networks trained on these images, as `mabench.evaluate` takes them. The caller's state stays as it is."""
        from mabench import training

        with undisturbed():
            synthetic_set = accept(images, labels, expected_dataset=self._loaded_suite.suite.dataset, space=space)
            accuracies: dict[str, float] = {}
            with training.deterministic(self._device):
                for track, evaluator, _ in self._parts:
                    cell = Cell(  # fixed streams: two steps of a loop differ in their images alone
                        set_sha256=synthetic_set.sha256,
                        suite=NAME,
                        suite_digest=self._loaded_suite.digest,
                        track=track,
                        evaluator=evaluator,
                        recipe=self._recipes[track],
                        seed=self._seed,
                    )
                    record = training.run(synthetic_set, cell, self._test, device=self._device, engine=self._engine)
                    diverged = record.diverged_epoch is not None
                    accuracies[evaluator.name] = 1 / self._test.dataset.num_classes if diverged else record.last
            return ProbeScore(accuracies)

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(evaluator.name for _, evaluator, _ in self._parts))
        epochs = ", ".join(sorted({str(recipe.epochs) for recipe in self._recipes.values()}))
        return f"<Probe of {self._loaded_suite.id}: {names}, {epochs} epochs ({MARK})>"


def _shortened(loaded_suite: LoadedSuite, track: str, epochs: int) -> Recipe:
    recipe = loaded_suite.recipes[track]
    if epochs < 1:
        raise MabenchError(f"a probe of {epochs} epochs learns nothing. Allowed: 1 and more.")
    if recipe.recorded is not None:
        raise MabenchError(
            f"{loaded_suite.id}: replays labels recorded for its own epochs, which a probe cannot shorten. Choose another suite."
        )
    decay = recipe.decay_after and max(1, round(recipe.decay_after * epochs / recipe.epochs))
    changes = {"epochs": epochs, "test_every": epochs, "score": "last", "decay_after": decay}
    return Recipe.model_validate(recipe.model_dump() | changes)


def _in_memory(test: RealData, count: int | None) -> RealData:
    """The test split, or `count` images of it, as arrays of our own."""
    if count is None:
        return RealData(np.array(test.images), np.array(test.labels), test.dataset, test.split, test.sha256)
    order = np.sort(np.random.default_rng(0).permutation(len(test.labels))[:count])
    return RealData(np.asarray(test.images[order]), np.asarray(test.labels[order]), test.dataset, test.split, f"{NAME}-{count}")
