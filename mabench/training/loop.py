"""THE loop: train one evaluator on one decoded set, test it every few epochs, keep the whole curve.

Everything that is random comes from one integer seed through named streams (`init`, `order`, `augment`), so a cell
gives the same record whichever cells run before it and however often it was interrupted.
"""

from __future__ import annotations

import io
import math
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mabench
from mabench import engine as engines
from mabench.data import DATASETS, RealData
from mabench.data.augment import augment
from mabench.digests import stream
from mabench.engine import PrunedLooks, Wanted
from mabench.errors import Interrupted, MabenchError
from mabench.files import append_checksum, atomic_write, read_checksummed
from mabench.networks import evaluators
from mabench.schema import Cell, Evaluator, Recipe, RunRecord
from mabench.sets import recorded
from mabench.sets.recorded import RecordedLabels
from mabench.sets.synthetic import SyntheticSet

CHECKPOINT_SECONDS = 45.0  # ours: at most a minute of work is lost, with room for one slow step
TRAIN_COST = 3.0  # forward + backward, in forward passes: the usual rule of thumb, used only for time estimates


@dataclass(frozen=True)
class Progress:
    """How far a cell is, in forward-pass equivalents of one image."""

    done: float
    total: float
    epoch: int
    epochs: int
    accuracy: float | None


def work(cell: Cell, decoded_images: int, test_images: int) -> float:
    """Cost of a cell in forward-pass equivalents of one image."""
    looks = math.ceil(cell.recipe.epochs / cell.recipe.test_every)
    training = cell.recipe.epochs * decoded_images * TRAIN_COST
    return training * (2 if cell.recipe.distillation else 1) + looks * test_images


def environment(device: torch.device, arithmetic: str) -> dict[str, str]:
    """What a reader needs to judge or repeat a number: versions, device, threads, arithmetic."""
    import timm

    return {
        "mabench": mabench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "platform": f"{platform.system()}-{platform.machine()}-{''.join(platform.libc_ver())}",  # no kernel: it names the host
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "arithmetic": arithmetic,
    }


def run(
    synthetic_set: SyntheticSet,
    cell: Cell,
    test: RealData,
    *,
    device: torch.device,
    engine: Wanted = "reference",
    checkpoint: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunRecord:
    """Sit one cell of the exam and return its record.

    With `checkpoint`, the state is saved there at least once a minute and picked up again if the file exists; the
    resumed curve equals the uninterrupted one. Raises Interrupted once `should_stop()` answers True.
    """
    return Sitting(synthetic_set, cell, test, device, engine, checkpoint, on_progress, should_stop).finish()


@dataclass(frozen=True)
class View:
    """How a network takes images: its size and layout, and scale and shift from the space in which they are augmented."""

    evaluator: Evaluator
    scale: Tensor | None = None
    shift: Tensor | None = None


class Sitting:
    """One cell under way: its state between two steps. Shapes: M decoded images, K classes, C channels, S side in pixels."""

    def __init__(
        self,
        synthetic_set: SyntheticSet,
        cell: Cell,
        test: RealData,
        device: torch.device,
        engine: Wanted = "reference",
        checkpoint: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.cell, self.recipe, self.device, self.checkpoint = cell, cell.recipe, device, checkpoint
        self.engine_name = engines.choose(engine, cell.evaluator, device)
        self.on_progress, self.should_stop = on_progress, should_stop
        self.synthetic_set, self.test = synthetic_set, test
        dataset = test.dataset
        self.num_classes = dataset.num_classes
        images, labels = synthetic_set.decoded()  # [M,C,S,S], 1.0 = white
        self.mean, self.std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (dataset.mean, dataset.std))
        self.normalise_first = self.recipe.augmentation.space == "normalised"
        self.images = images.to(device)
        if self.normalise_first:
            self.images = (self.images - self.mean) / self.std
        hard = labels.dim() == 1
        self.targets = (F.one_hot(labels, self.num_classes).float() if hard else labels.float()).to(device)  # [M,K]
        self.record = self._record()
        # uint8 [N,C,S,S]: resident on a GPU; on the CPU it stays memory-mapped and batches are copied out
        self.test_images = torch.tensor(test.images, device=device) if device.type == "cuda" else None
        self.test_labels = torch.tensor(test.labels, device=device)
        self.looks = PrunedLooks(self.test_labels)

        self.phases = ("teacher", "student") if self.recipe.distillation else ("student",)
        self.teacher: nn.Module | None = None
        self.lessons: Tensor | None = None  # [M,K]: the teacher's logits, where every epoch asks for the same
        self.curve: list[tuple[int, int]] = []
        self.train_loss: list[tuple[int, float]] = []
        self.upper_bounds: list[int] = []
        self.images_tested = 0
        self.diverged_epoch: int | None = None
        self.seconds = 0.0
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.done = 0.0
        self.total = work(cell, len(self.images), len(self.test_labels))
        self._enter(self.phases[0])

    # -- the course of a cell ------------------------------------------------------------------------------------

    def finish(self) -> RunRecord:
        self._resume()
        self._clock = self._saved_at = time.monotonic()
        while True:
            self._train_phase()
            if self.phase == "student":
                break
            _remember(self._teacher_key(), self.model)
            self._graduate()
        self._tick()
        return RunRecord(
            cell=self.cell,
            synthetic_set=self.synthetic_set.summary(replayed=self.record is not None),
            test_sha256=self.test.sha256,
            total=len(self.test_labels),
            curve=tuple(self.curve),
            train_loss=tuple(self.train_loss),
            diverged_epoch=self.diverged_epoch,
            engine=self.engine.name,
            upper_bounds=tuple(self.upper_bounds),
            images_tested=self.images_tested,
            environment=environment(self.device, self.engine.describe()),
            seconds=round(self.seconds, 3),
            started=self.started,
        )

    def _enter(self, phase: str) -> None:
        """Fresh network, optimizer and streams for the teacher (distillation only) or for the evaluator itself."""
        self.phase = phase
        evaluator, seed = self.cell.evaluator, self.cell.seed
        prefix = ""
        if phase == "teacher":
            assert self.recipe.distillation is not None
            evaluator, prefix = evaluators.EVALUATORS[self.recipe.distillation.teacher], "teacher-"
        self.evaluator = evaluator
        self.model = build(evaluator, self.recipe, self.test.dataset.name, stream(seed, prefix + "init")).to(self.device)
        if evaluator.family == "cnn":
            self.model = self.model.to(memory_format=torch.channels_last)  # ours: same arithmetic, faster convolutions
        splittable = self._batch_norm_frozen() or not any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()
        )
        flops = evaluators.flops(self.model, image_size=evaluator.input_size, channels=self.test.dataset.channels)
        self.engine = engines.build(
            self.engine_name,
            self.model,
            evaluator,
            self.device,
            splittable=splittable,
            work=self.total * flops,
            test_images=len(self.test_labels),
            look=len(self.test_labels) * flops,
        )
        self.prepared: Tensor | None = None  # the whole test split as the network takes it, where that is small
        self.view = self._view(evaluator)
        self.order = torch.Generator().manual_seed(stream(seed, prefix + "order"))
        self.augment = torch.Generator(self.device).manual_seed(stream(seed, prefix + "augment"))
        self.proven: set[int] = set()  # lengths of batches with which a step has worked
        self.epoch = 0  # finished epochs
        self.permutation: Tensor | None = None  # of the epoch under way
        self.position = 0  # images of it already used
        self.loss_sum = torch.zeros((), device=self.device)
        self.losses: list[Tensor] = []  # loss_sum of the epochs since they were last read: reading waits for the device
        self.tested = -1  # images of the look under way, -1 = no look under way
        self.correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._new_optimizer(decayed=False)
        if phase == "teacher" and (known := _TEACHERS.get(self._teacher_key())) is not None:
            self.model.load_state_dict(known)
            self.epoch = self.recipe.epochs
            self.done += self.epoch * len(self.images) * TRAIN_COST

    def _graduate(self) -> None:
        """The network trained so far becomes the teacher; its student, the evaluator, enters."""
        self.teacher, self.teacher_view = self.model.eval().requires_grad_(False), self.view
        if self.engine.reuses and self.recipe.augmentation.absent and self.recipe.recorded is None:
            with torch.no_grad():
                answers = [self.teacher(self._inputs(part)) for part in torch.split(self.images, self.engine.test_batch)]
            self.lessons = torch.cat(answers)
        self._enter("student")

    def _teacher_key(self) -> str:
        """Cells with this in common train the same teacher."""
        assert self.recipe.distillation is not None
        engine = (self.engine_name, self.device, torch.get_num_threads())
        named = (self.synthetic_set.sha256, self.recipe.distillation.teacher, self.cell.seed, *engine)
        return f"{named} {self.recipe.model_copy(update={'distillation': None}).model_dump_json()}"

    def _train_phase(self) -> None:
        while self.epoch < self.recipe.epochs or self.tested >= 0:
            if self.tested >= 0:
                self._look()
                continue
            self._epoch()
            if self._look_is_due():
                self.tested = 0
                self.correct.zero_()
                self.looks.begin()

    def _look_is_due(self) -> bool:
        """Whether the epoch just finished is one after which the evaluator is tested; a teacher never is."""
        return self.phase == "student" and (self.epoch % self.recipe.test_every == 0 or self.epoch == self.recipe.epochs)

    def _epoch(self) -> None:
        """From wherever the epoch stands to its end."""
        self.set_training()
        if self.permutation is None:
            self.permutation = self._next_order()
            self.loss_sum.zero_()
            if self.recipe.schedule == "cosine":
                for group in self.optimizer.param_groups:
                    group["lr"] = self._rate() * (1 + math.cos(math.pi * self.epoch / self.recipe.epochs)) / 2
        while self.position < len(self.images):
            batch = self.permutation[self.position : self.position + self.recipe.batch_size].to(self.device)
            self.loss_sum += self.again(batch) * len(batch)
            self.position += len(batch)
            self._advance(len(batch) * TRAIN_COST)
        self.epoch += 1
        self.permutation, self.position = None, 0
        self.losses.append(self.loss_sum.clone())
        if self._look_is_due():
            loss = self._read_losses()
            self.train_loss.append((self.epoch, loss if math.isfinite(loss) else -1.0))
        if self.epoch == self.recipe.decay_after:
            self._new_optimizer(decayed=True)

    def _read_losses(self) -> float:
        """Note the first epoch whose loss was not finite; the mean loss of the last one."""
        values = torch.stack(self.losses).tolist()
        finite = [math.isfinite(value) for value in values]
        if self.epoch == self.recipe.epochs:  # no further loss would show what the last step did to the weights
            finite[-1] = finite[-1] and all(bool(p.isfinite().all()) for p in self.model.parameters())
        if not all(finite) and self.phase == "student" and self.diverged_epoch is None:
            self.diverged_epoch = self.epoch - len(values) + 1 + finite.index(False)
        self.losses = []
        return float(values[-1]) / len(self.images)

    def set_training(self) -> None:
        """Training mode, with batch norm as the recipe wants it."""
        self.model.train()
        evaluators.set_batch_norm(self.model, frozen=self._batch_norm_frozen())

    def again(self, batch: Tensor) -> Tensor:
        """`step`, replayed where the engine recorded it; the next call overwrites the result."""
        return self.step(batch) if self.graph is None else self.graph(batch)

    def step(self, batch: Tensor) -> Tensor:
        """One optimizer step on the images with these indices; returns the mean loss, on the device."""
        if len(batch) in self.proven:
            return self._step(batch)
        state = self.augment.get_state()
        try:
            loss = self._step(batch)
        except Exception as error:  # the gradient's program is only made when it is first wanted
            self.engine.give_up(error)
            self.augment.set_state(state)
            loss = self._step(batch)
        self.proven.add(len(batch))
        return loss

    def _step(self, batch: Tensor) -> Tensor:
        images, targets = self._seen(batch)
        inputs, truth = self._inputs(images), self.targets[batch]
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        size = self.engine.parts(-(-len(batch) // self.recipe.accumulate))
        together = (inputs, targets, truth, batch, images)
        for part, wanted, true, which, seen in zip(*(torch.split(v, size) for v in together), strict=True):
            logits = self.engine.logits(part)
            if self.recipe.recorded is not None:
                loss = recorded.loss(logits, wanted, true, self.recipe.recorded)
            else:
                loss = F.cross_entropy(logits, wanted)
            if self.phase == "student" and self.recipe.distillation is not None:
                loss = self._distilled(loss, logits, seen, which)
            loss = loss * (len(part) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.optimizer.step()
        return total

    def _next_order(self) -> Tensor:
        """Training images [M] in the order of the epoch that begins."""
        if self.record is not None:
            return self.record.order(self.epoch)
        return torch.randperm(len(self.images), generator=self.order)

    def _seen(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The batch as the network is to see it, augmented or as recorded, and what is asked of it: [B,C,S,S], [B,K]."""
        if self.record is not None:
            views, logits = self.record.batch_of(self.epoch, self.position // self.recipe.batch_size)
            return recorded.apply_views(self.images[batch], views), logits.to(self.device)
        plan = self.recipe.augmentation
        mix = self.evaluator.family not in plan.cutmix_except
        return augment(self.images[batch], self.targets[batch], plan, self.augment, mix=mix)

    def _distilled(self, loss: Tensor, logits: Tensor, images: Tensor, which: Tensor) -> Tensor:
        """Model Pool, Eq. 1, in log space: a student probability that underflows gives no NaN.

        `images` [B,C,S,S] are those that the student sees, before its own resize and normalisation; `which` [B] their indices.
        """
        distillation = self.recipe.distillation
        assert distillation is not None and self.teacher is not None
        tau = distillation.temperature
        with torch.no_grad():
            taught = self.teacher(self._inputs(images, self.teacher_view)) if self.lessons is None else self.lessons[which]
            target = F.log_softmax(taught / tau, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / tau, dim=1), target, log_target=True, reduction="batchmean")
        return (1 - distillation.alpha) * loss + distillation.alpha * tau**2 * divergence

    @torch.inference_mode()
    def _look(self) -> None:
        """Count top-1 hits on the test split, from wherever the look stands, until the end or until it cannot be the best."""
        self.begin_look()
        count, best = len(self.test_labels), max((hits for _, hits in self.curve), default=-1)
        may_stop = self.engine.prunes and self.epoch < self.recipe.epochs  # the last look is whole
        while self.tested < count and not (may_stop and self.looks.hopeless(int(self.correct), count - self.tested, best)):
            size = self.engine.test_batch
            window = self.looks.next(size) if self.engine.prunes else slice(self.tested, min(self.tested + size, count))
            logits = self.answers(window)
            if isinstance(window, Tensor):
                self.looks.note(window, logits)
            self.correct += (logits.argmax(dim=1) == self.test_labels[window]).sum()
            self.tested += len(logits)
            self._advance(len(logits))
        left = count - self.tested
        if left:
            self.upper_bounds.append(self.epoch)
        self.curve.append((self.epoch, int(self.correct) + left))
        self.images_tested += self.tested
        self.tested = -1
        if left:
            self._advance(left)

    def begin_look(self) -> None:
        """Call after training steps and before `answers`."""
        self.engine.begin_look()
        if self.engine.calibrates:
            self.engine.settle(self._prepare(slice(0, 1)))

    def answers(self, window: slice | Tensor) -> Tensor:
        """Logits [B,K] of the network of the last `begin_look` for the test images `window`, positions or indices."""
        if self.prepared is None and self.engine.reuses:
            numbers = self.test.dataset.channels * self.evaluator.input_size**2
            size = len(self.test_labels) * numbers * self.engine.dtype.itemsize
            if self.engine.head is not None or size <= self.engine.resident_bytes():
                parts = torch.split(torch.arange(len(self.test_labels)), self.engine.test_batch)
                self.prepared = torch.cat([self.engine.embed(self._prepare(part)) for part in parts])
        if self.prepared is None:
            return self.engine.predict(self.engine.embed(self._prepare(window)))
        return self.engine.predict(_laid_out(self.prepared[window], self.evaluator))

    def _prepare(self, window: slice | Tensor) -> Tensor:
        if self.test_images is not None:
            stored = self.test_images[window]
        else:
            stored = torch.tensor(self.test.images[window if isinstance(window, slice) else window.numpy()])
        pixels = stored.float() / 255
        images = (pixels - self.mean) / self.std if self.normalise_first else pixels
        return self._inputs(images).to(self.engine.dtype)

    # -- pieces --------------------------------------------------------------------------------------------------

    def _view(self, evaluator: Evaluator) -> View:
        """How this network wants the images that the recipe augments."""
        mean, std = self.mean, self.std
        if self.recipe.normalisation == "evaluator" and evaluator.mean is not None and evaluator.std is not None:
            mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (evaluator.mean, evaluator.std))
        elif self.normalise_first:
            return View(evaluator)
        if self.normalise_first:
            return View(evaluator, self.std / std, (self.mean - mean) / std)
        return View(evaluator, 1 / std, -mean / std)

    def _inputs(self, images: Tensor, view: View | None = None) -> Tensor:
        """[B,C,S,S] in augmentation space -> [B,C,I,I] in the network's, bilinear."""
        view = view or self.view
        if view.scale is not None and view.shift is not None:
            images = images * view.scale + view.shift
        size = view.evaluator.input_size
        if images.shape[-1] != size:
            # antialias only where the image shrinks: a plain bilinear would skip pixels there
            images = F.interpolate(
                images,
                size=(size, size),
                mode="bilinear",
                align_corners=self.recipe.resize_align_corners,
                antialias=images.shape[-1] > size and not self.recipe.resize_align_corners,
            )
        return _laid_out(images, view.evaluator)

    def _batch_norm_frozen(self) -> bool:
        mode = self.recipe.batch_norm
        return mode == "frozen" or (mode == "frozen-if-pretrained" and self.evaluator.pretrained)

    def _record(self) -> RecordedLabels | None:
        """The labels that the recipe replays. Raises MabenchError when they are not those that the cell names."""
        if self.recipe.recorded is None:
            return None
        found = self.synthetic_set.recorded
        if found.sha256 != self.cell.labels_sha256:
            raise MabenchError(
                f"{found.folder}: another record of labels ({found.sha256[:16]}) than this cell's ({str(self.cell.labels_sha256)[:16]}). "
                "Put the former one back, or name another output folder with --out."
            )
        return found

    def _rate(self) -> float:
        """The learning rate at the beginning."""
        learned = self.synthetic_set.learning_rate if self.recipe.rate == "learned" else None
        return learned or self.recipe.learning_rate or self.evaluator.learning_rate

    def _new_optimizer(self, *, decayed: bool) -> None:
        recipe, rate = self.recipe, self._rate() * (self.recipe.decay_factor if decayed else 1.0)
        momentum = recipe.momentum if not decayed or recipe.decay_momentum is None else recipe.decay_momentum
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = [{"params": list(trained.values())}]
        if recipe.weight_decay_on == "weights":
            heavy = {name for name, p in trained.items() if "weight" in name and p.dim() > 1}
            groups = [
                {"params": [p for name, p in trained.items() if name in heavy]},
                {"params": [p for name, p in trained.items() if name not in heavy], "weight_decay": 0.0},
            ]
        self.decayed = decayed
        recordable = self.device.type == "cuda" and self.engine.name == "fast"  # AdamW's count of steps then lies on the GPU
        self.optimizer: torch.optim.Optimizer
        if (recipe.optimizer or self.evaluator.optimizer) == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, weight_decay=recipe.weight_decay)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=recipe.weight_decay, capturable=recordable)
        plan = recipe.augmentation
        waits = recipe.recorded is not None or recipe.schedule != "constant" or bool(plan.one_of) or plan.geometry_one_of
        self.graph = None if waits else self.engine.graph(self.step, self.augment)

    # -- clock, checkpoint, interruption -------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _advance(self, images: float) -> None:
        """Called between any two steps: progress, checkpoint when it is time, stop when asked to."""
        self.done += images
        if self.on_progress is not None:
            accuracy = self.curve[-1][1] / len(self.test_labels) if self.curve else None
            self.on_progress(Progress(self.done, self.total, self.epoch, self.recipe.epochs, accuracy))
        stop = self.should_stop()
        if stop or time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._save()
        if stop:
            raise Interrupted

    # attributes that a checkpoint keeps as they are
    _PLAIN = (
        "phase", "epoch", "position", "loss_sum", "tested", "correct", "permutation", "decayed",
        "curve", "train_loss", "diverged_epoch", "seconds", "started", "done", "upper_bounds", "images_tested",
    )  # fmt: skip

    def _save(self) -> None:
        self._tick()
        self._saved_at = time.monotonic()
        if self.checkpoint is None:
            return
        if self.losses:
            self._read_losses()
        state: dict[str, Any] = {name: getattr(self, name) for name in self._PLAIN}
        state |= {
            "cell": self.cell.model_dump_json(),
            "engine": self.engine.name,
            "looks": self.looks.state,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "augment": self.augment.get_state(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
        }
        with atomic_write(
            self.checkpoint, "Free some space or make the folder writable, then run the same command: finished cells are kept."
        ) as file:
            torch.save(state, file)
            append_checksum(file)  # torch itself does not notice a flipped bit

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        try:
            content = read_checksummed(self.checkpoint)
            state = torch.load(io.BytesIO(content or b""), weights_only=True, map_location="cpu")
            matches = (state["cell"], state["engine"]) == (self.cell.model_dump_json(), self.engine_name)
            # another version's checkpoint may hold other things
            matches = matches and state["looks"].keys() == self.looks.state.keys() and all(name in state for name in self._PLAIN)
        except Exception:  # any damage at all means the same: this cell starts again, which changes no result
            matches = False
        if not matches:
            self.checkpoint.unlink(missing_ok=True)
            return
        if state["phase"] != self.phase:
            self.model.load_state_dict(state["teacher"])
            self._graduate()
        if state["decayed"]:
            self._new_optimizer(decayed=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        self.augment.set_state(state["augment"])
        for name in self._PLAIN:
            value = state[name]
            on_device = isinstance(value, Tensor) and name != "permutation"
            setattr(self, name, value.to(self.device) if on_device else value)
        self.looks.state = state["looks"]
        self.curve = [(int(e), int(c)) for e, c in self.curve]
        self.train_loss = [(int(e), float(loss)) for e, loss in self.train_loss]


_TEACHERS: dict[str, dict[str, Tensor]] = {}  # trained in this process, for the next student of the same seed
TEACHERS_BYTES = 2**28  # ours: fifty ConvNets and more; beyond it the oldest go


def _remember(key: str, teacher: nn.Module) -> None:
    _TEACHERS[key] = {name: value.to("cpu", copy=True) for name, value in teacher.state_dict().items()}
    while len(_TEACHERS) > 1 and sum(v.nbytes for state in _TEACHERS.values() for v in state.values()) > TEACHERS_BYTES:
        del _TEACHERS[next(iter(_TEACHERS))]


def build(evaluator: Evaluator, recipe: Recipe, dataset: str, seed: int) -> nn.Module:
    """The evaluator's network for this dataset, with only the recipe's trainable part requiring gradients."""
    entry = DATASETS[dataset]
    model = evaluators.build(
        evaluator, num_classes=entry.num_classes, channels=entry.channels, image_size=evaluator.input_size, seed=seed
    )
    if evaluator.name in recipe.classifier_only:
        model.requires_grad_(False)
        evaluators.head(model).requires_grad_(True)
    return model


def _laid_out(images: Tensor, evaluator: Evaluator) -> Tensor:
    maps = evaluator.family == "cnn" and images.dim() == 4
    return images.contiguous(memory_format=torch.channels_last) if maps else images


def deterministic(device: torch.device) -> Any:
    """Context in which cuDNN picks repeatable float32 kernels; on the CPU nothing needs to be set."""
    if device.type != "cuda":
        return nullcontext()
    torch.backends.cuda.matmul.allow_tf32 = False
    # `enabled` has to be said: left out, cuDNN is switched off, and an H100 takes five to twelve times as long
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
