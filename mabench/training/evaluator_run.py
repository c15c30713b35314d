"""One evaluator run, from a set and a cell to a record: the teacher if there is one, the loop, the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mabench import engine as engines
from mabench.data import RealData
from mabench.networks.evaluators import EVALUATORS
from mabench.schema import Cell, RunRecord, SecondResult
from mabench.sets.synthetic import SyntheticSet
from mabench.training import distillation, state
from mabench.training.loop import Trainer
from mabench.training.material import Material, choose_engine
from mabench.training.progress import TRAIN_COST, Progress, Watch
from mabench.training.provenance import environment
from mabench.training.state import TrainState
from mabench.training.testing import VisitingOrder


def run(
    synthetic_set: SyntheticSet,
    cell: Cell,
    test: RealData,
    *,
    device: torch.device,
    engine: engines.Wanted = "reference",
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    panel_work: float | None = None,
    whole_test_passes: bool = False,
) -> RunRecord:
    """Train and test one evaluator on a set; return the record.

    With `checkpoint`, the state is saved there at least once a minute and picked up again if the file exists; the resumed curve
    equals the uninterrupted one. `panel_work`: floating-point operations of all runs of this evaluator in this process, which
    share one compilation; None = this run is alone. `whole_test_passes` lets no test pass end early. Raises Interrupted once
    `should_stop()` is True.
    """
    material = Material(synthetic_set, cell, test, device)
    name = choose_engine(engine, cell, test.dataset, len(material.images), len(material.test_labels), device, panel_work)
    saved = state.load(checkpoint, cell, name, VisitingOrder.fresh_state(material.test_labels))
    watch = Watch(
        cell,
        name,
        len(material.images),
        len(material.test_labels),
        checkpoint=checkpoint,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    teacher, before = _teacher(material, name, saved, watch) if cell.recipe.distillation is not None else (None, None)
    if saved is not None and saved["phase"] == "teacher":
        saved = None
    student = Trainer(material, cell.evaluator, name, teacher=teacher, saved=saved, panel_work=panel_work)
    if saved is None and before is not None:
        student.state.started, student.state.seconds, student.state.done = before.started, before.seconds, before.done
    if whole_test_passes:
        student.engine.prunes = False
    student.train(watch)
    watch.tick(student.state)
    return _record(student, None if test.second is None else _second(student, test.second))


def _second(student: Trainer, real: RealData) -> SecondResult:
    """The finished network on the second test set."""
    return SecondResult(name=real.split, sha256=real.sha256, correct=student.tester.hits(real), total=len(real.labels))


def _teacher(
    material: Material, engine: engines.EngineName, saved: dict[str, Any] | None, watch: Watch
) -> tuple[distillation.Teacher, TrainState]:
    """The trained teacher: from the checkpoint, from a run before in this process, or trained now; and its state."""
    assert material.recipe.distillation is not None
    evaluator, key = EVALUATORS[material.recipe.distillation.teacher], distillation.teacher_key(material, engine)
    of_student = saved is not None and saved["phase"] == "student"
    trainer = Trainer(material, evaluator, engine, phase="teacher", saved=None if of_student else saved)
    if saved is not None and of_student:
        trainer.model.load_state_dict(saved["teacher"])
    elif saved is None and (weights := distillation.TRAINED.get(key)) is not None:
        trainer.model.load_state_dict(weights)
        trainer.state.done = material.recipe.epochs * len(material.images) * TRAIN_COST
    else:
        trainer.train(watch)
        watch.tick(trainer.state)
        distillation.TRAINED.remember(key, trainer.model)
    ask_once, batch = trainer.engine.reuses, trainer.engine.test_batch
    return distillation.Teacher(trainer.model, trainer.view, material, ask_once=ask_once, batch=batch), trainer.state


def _record(student: Trainer, second: SecondResult | None) -> RunRecord:
    material, final = student.material, student.state
    losses = torch.stack(final.first_losses).tolist() if final.first_losses else []
    return RunRecord(
        cell=material.cell,
        synthetic_set=material.synthetic_set.summary(replayed=material.recorded is not None),
        test_sha256=material.test.sha256,
        total=len(material.test_labels),
        curve=tuple((int(epoch), int(hits)) for epoch, hits in final.curve),
        train_loss=tuple((int(epoch), float(loss)) for epoch, loss in final.train_loss),
        diverged_epoch=final.diverged_epoch,
        engine=student.engine.name,
        upper_bounds=tuple(final.upper_bounds),
        images_tested=final.images_tested,
        initial_weights_sha256=final.initial_weights,
        first_losses=tuple(loss if math.isfinite(loss) else -1.0 for loss in losses),
        second_test=second,
        environment=environment(material.device, student.engine),
        seconds=round(final.seconds, 3),
        started=final.started,
    )


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Context in which a GPU computes in float32 without TF32, with cuDNN's repeatable kernels; on the CPU nothing needs to be set.

    Afterwards the switches are as before.
    """
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        # `enabled` has to be said: left out, cuDNN is switched off, and an H100 takes five to twelve times as long
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before
