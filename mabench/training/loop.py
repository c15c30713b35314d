"""THE loop: train one network on one decoded set, test it every few epochs, keep the whole curve.

Everything that is random comes from the cell through named streams (`init`, `order`, `augment`; see `Cell.stream`), so a run
gives the same record whichever runs came before it and however often it was interrupted.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench import engine as engines
from mabench.data.augment import augment
from mabench.networks import evaluators
from mabench.schema import Evaluator
from mabench.sets import recorded
from mabench.training import optimizers
from mabench.training.distillation import Teacher
from mabench.training.material import Material, build_network, workload
from mabench.training.progress import TRAIN_COST, Watch
from mabench.training.provenance import weights_digest
from mabench.training.state import Phase, TrainState
from mabench.training.testing import Tester, VisitingOrder

FIRST_LOSSES = 10  # steps whose losses a record keeps: enough to see from which step on two machines differ


class Trainer:
    """Trains one network on `material`. Shapes: M decoded images, B images of a batch, K classes, C channels, S side in pixels."""

    def __init__(
        self,
        material: Material,
        evaluator: Evaluator,
        engine: engines.EngineName,
        *,
        phase: Phase = "student",
        teacher: Teacher | None = None,
        saved: dict[str, Any] | None = None,
        panel_work: float | None = None,
    ) -> None:
        """`saved`: a checkpoint of this phase to go on from; `panel_work`: see `training.run`."""
        self.material, self.recipe, self.evaluator, self.teacher = material, material.recipe, evaluator, teacher
        device, stream = material.device, material.cell.stream
        prefix = "teacher-" if phase == "teacher" else ""
        model = build_network(evaluator, self.recipe, material.dataset, stream(prefix + "init")).to(device)
        # ours: same arithmetic, faster convolutions
        self.model = model.to(memory_format=torch.channels_last) if evaluator.family == "cnn" else model
        self.frozen_batch_norm = evaluators.freezes_batch_norm(self.recipe, evaluator)
        images, test_images = len(material.images), len(material.test_labels)
        known = workload(material.cell, evaluator, self.model, material.dataset, images, test_images, panel_work)
        self.engine = engines.build(engine, self.model, device, known)
        self.view = material.view(evaluator)
        self.rate = optimizers.initial_rate(self.recipe, evaluator, material.synthetic_set.learning_rate)
        self.state = TrainState(
            phase=phase,
            model=self.model,
            optimizer=self._optimizer(decayed=saved is not None and saved["decayed"]),
            order=torch.Generator().manual_seed(stream(prefix + "order")),
            augment=torch.Generator(device).manual_seed(stream(prefix + "augment")),
            loss_sum=torch.zeros((), device=device),
            correct=torch.zeros((), dtype=torch.int64, device=device),
            pruning=VisitingOrder.fresh_state(material.test_labels),
            teacher=None if teacher is None else teacher.model,
            initial_weights=weights_digest(self.model) if saved is None else "",
        )
        if saved is not None:
            self.state.restore(saved)
        self.tester = Tester(material, self.engine, self.view, self.state.pruning)
        self.warm_batch_sizes: set[int] = set()  # lengths of batches with which a step has worked
        self.graph = self._graph()

    def train(self, watch: Watch) -> None:
        """From wherever the state stands to the last epoch and its test pass."""
        state, epochs, whole_from = self.state, self.recipe.epochs, self.recipe.plateau_epochs[0]
        while state.epoch < epochs or state.tested >= 0:
            if state.tested >= 0:
                self.tester.run(state, whole=state.epoch >= whole_from, advance=partial(watch.advance, state))
                continue
            self.train_epoch(watch)
            if self.test_is_due():
                self.tester.begin(state)

    def train_epoch(self, watch: Watch) -> None:
        """From wherever the epoch stands to its end."""
        state, recipe = self.state, self.recipe
        self.set_training()
        if state.permutation is None:
            state.permutation = self.next_order()
            state.loss_sum.zero_()
            if recipe.schedule != "constant":
                length = recipe.epochs * (2 if recipe.schedule == "half-cosine" else 1)
                optimizers.set_cosine_rate(state.optimizer, self.rate, state.epoch, length)
        while state.position < len(self.material.images):
            batch = state.permutation[state.position : state.position + recipe.batch_size].to(self.material.device)
            loss = self.graphed_step(batch)
            state.loss_sum += loss * len(batch)
            if len(state.first_losses) < FIRST_LOSSES:
                state.first_losses.append(loss.clone())
            state.position += len(batch)
            watch.advance(state, len(batch) * TRAIN_COST)
        state.epoch += 1
        state.permutation, state.position = None, 0
        state.unread_losses.append(state.loss_sum.clone())
        if self.test_is_due():
            self.read_losses()
        if state.epoch == recipe.decay_after:
            state.decayed, state.optimizer = True, self._optimizer(decayed=True)
            self.graph = self._graph()

    def test_is_due(self) -> bool:
        """Whether the network is tested after the epoch just finished; a teacher never is."""
        epoch = self.state.epoch
        return self.state.phase == "student" and (epoch % self.recipe.test_every == 0 or epoch == self.recipe.epochs)

    def set_training(self) -> None:
        """Training mode, with batch norm as the recipe says."""
        self.model.train()
        evaluators.set_batch_norm(self.model, frozen=self.frozen_batch_norm)

    def graphed_step(self, batch: Tensor) -> Tensor:
        """`step`, replayed where the engine recorded it; the next call overwrites the result."""
        return self.step(batch) if self.graph is None else self.graph(batch)

    def step(self, batch: Tensor) -> Tensor:
        """One optimizer step on the images with these indices, [B]; the mean loss, on the device."""
        if len(batch) in self.warm_batch_sizes:
            return self._step(batch)
        draws = self.state.augment.get_state()
        try:
            loss = self._step(batch)
        except Exception as error:  # the gradient's program is only compiled when it is first needed
            self.engine.fall_back_to_eager(error)
            self.state.augment.set_state(draws)
            loss = self._step(batch)
        self.warm_batch_sizes.add(len(batch))
        return loss

    def _step(self, batch: Tensor) -> Tensor:
        images, targets = self.training_batch(batch)
        inputs, labels = self.view(images), self.material.targets[batch]
        self.state.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.material.device)
        # cut the batch into parts: the recipe's accumulation, and as much as one backward pass takes
        size = self.engine.part_size(-(-len(batch) // self.recipe.accumulate))
        parts = zip(*(torch.split(v, size) for v in (inputs, targets, labels, images, batch)), strict=True)
        for part, part_targets, part_labels, part_images, indices in parts:
            logits = self.engine.logits(part)
            if self.recipe.recorded is not None:
                loss = recorded.loss(logits, part_targets, part_labels, self.recipe.recorded)
            else:
                loss = F.cross_entropy(logits, part_targets)
            if self.teacher is not None:
                loss = self.teacher.mixed_loss(loss, logits, part_images, indices)
            loss = loss * (len(part) / len(batch))  # a part's mean by its share: gradients add up to that of the batch's mean
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.state.optimizer.step()
        return total

    def next_order(self) -> Tensor:
        """Training images [M] in the order of the epoch that begins."""
        if self.material.recorded is not None:
            return self.material.recorded.order(self.state.epoch)
        return torch.randperm(len(self.material.images), generator=self.state.order)

    def training_batch(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B,C,S,S] as the network is to see them, augmented or as recorded, and their targets [B,K]."""
        material, state = self.material, self.state
        if material.recorded is not None:
            views, logits = material.recorded.batch_of(state.epoch, state.position // self.recipe.batch_size)
            return recorded.apply_views(material.images[batch], views), logits.to(material.device)
        plan = self.recipe.augmentation
        mix = self.evaluator.family not in plan.cutmix_except
        return augment(material.images[batch], material.targets[batch], plan, state.augment, mix=mix)

    def read_losses(self) -> None:
        """Wait for the device: note the mean loss of the last epoch, and the first epoch whose loss was not finite."""
        state = self.state
        values = torch.stack(state.unread_losses).tolist()
        finite = [math.isfinite(value) for value in values]
        if state.epoch == self.recipe.epochs:  # no further loss would show what the last step did to the weights
            finite[-1] = finite[-1] and all(bool(p.isfinite().all()) for p in self.model.parameters())
        if not all(finite) and state.diverged_epoch is None:
            state.diverged_epoch = state.epoch - len(values) + 1 + finite.index(False)
        state.unread_losses = []
        loss = float(values[-1]) / len(self.material.images)
        state.train_loss.append((state.epoch, loss if math.isfinite(loss) else -1.0))

    def _optimizer(self, *, decayed: bool) -> torch.optim.Optimizer:
        replayed = self.material.device.type == "cuda" and self.engine.name == "fast"
        return optimizers.build(self.model, self.recipe, self.evaluator, self.rate, decayed=decayed, capturable=replayed)

    def _graph(self) -> engines.GraphedStep | None:
        """The step as a CUDA graph, unless it waits for the processor or changes its numbers from step to step."""
        recipe, plan = self.recipe, self.recipe.augmentation
        stored = not isinstance(self.material.images, Tensor)
        waits = (
            stored or recipe.recorded is not None or recipe.schedule != "constant" or bool(plan.one_of) or plan.geometry_one_of
        )
        return None if waits else self.engine.graph(self.step, self.state.augment)
