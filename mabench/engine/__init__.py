"""How the loop runs: which program computes a network's outputs, in which batches, and when a look may stop early.

`reference` is PyTorch as it comes: eager, float32, every look whole. `fast` compiles the network where that pays, computes its
products in bfloat16 where the device has it and 3x3 convolutions by Winograd's algorithm where a processor has not, and stops
a look once the best so far can no longer be beaten, and computes once what cannot change. What both have in common, augmentation,
loss, optimizer, order, seeds, stays in `protocol.py`.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mabench.engine.cuda_graphs import GraphedStep
from mabench.engine.kernels import channels, first_block, norms, tiles, winograd
from mabench.errors import MabenchError
from mabench.networks import evaluators
from mabench.networks.compiling import can_compile, fastest, has_bfloat16, has_programs_for_tiles, keep_freed_memory, program
from mabench.schema import Evaluator

EngineName = Literal["reference", "fast"]
Wanted = Literal["auto", "reference", "fast"]
SHOWN_EQUIVALENT = {"cuda": {"convnet3-scratch"}}  # evaluators by device: PROTOCOL.md, rule 17
COMPILE_FROM_FLOPS = {"cpu": 1e13, "cuda": 1e14}  # ours: some ten seconds to half a minute of work, what compiling costs
CALIBRATE_FROM_FLOPS = 1e14  # ours: minutes of work; every test batch that is tried is compiled, 3 to 9 s each
TEST_BATCHES = (32, 64, 128)  # tried on a processor, images up to 64 px
FEATURE_BYTES = 2**30  # ours: features of the test images are kept up to this size; ConvNet-3's of CIFAR-10 take 82 MB
RESIDENT_BYTES = 2**28  # ours: prepared test images are kept up to this size; CIFAR-10 at 32 px takes 61 MB in bfloat16
PRUNE_FROM_FLOPS = 2e13  # ours: of one look on a GPU; below, waiting for the answers costs more than the images that are left out


def wanted(name: str) -> Wanted:
    """Raises MabenchError for a typo."""
    if name not in ("auto", "reference", "fast"):
        raise MabenchError(f"--engine {name}: unknown. Allowed: auto, reference, fast.")
    return name  # type: ignore[return-value]


def choose(name: Wanted, evaluator: Evaluator, device: torch.device) -> EngineName:
    """`auto` is `fast` for the networks and devices for which PROTOCOL.md shows that it is the same exam, else `reference`."""
    if name != "auto":
        return name
    return "fast" if evaluator.name in SHOWN_EQUIVALENT.get(device.type, ()) else "reference"


@dataclass(frozen=True)
class Task:
    """What an engine may know of the cell that it serves."""

    evaluator: Evaluator
    splittable: bool
    """Whether a batch in parts is the same step, which it is not where batch norm sees the batch."""
    work: float
    """What lies ahead, in floating-point operations."""
    test_images: int
    look: float
    """One look at all test images, in floating-point operations."""


class Engine:
    """The reference: eager float32. Also the interface: `logits` while training, `begin_look` then `predict` while testing.

    At most `train_batch` images go through one backward pass; a larger batch of the recipe is split and its gradients
    added, which is the same step, but never where batch norm sees batch statistics: there a split would be another
    network. `test_batch` images go through one forward pass. `dtype` is the type that prepared inputs should have.
    """

    name: EngineName = "reference"
    prunes = False
    """Whether looks may stop early."""
    reuses = False
    """Whether what cannot change is computed once."""
    calibrates = False
    """Whether `settle` wants to be called before the first look."""
    dtype = torch.float32
    head: nn.Linear | None = None
    """Set where only this last layer is trained and `predict` takes what `embed` gives."""

    def __init__(self, model: nn.Module, device: torch.device, task: Task) -> None:
        self.model, self.device = model, device
        keep_freed_memory()
        small = task.evaluator.input_size <= 64
        # measured on two cores without matrix tiles: ConvNet-3 tests 2,520 images/s at 50 and 500 at 200, trains 666 at 25
        # and 395 at 100: the caches decide
        self.test_batch = (50 if small else 16) if device.type == "cpu" else (1000 if small else 250)
        self.train_batch = (25 if small else 16) if device.type == "cpu" and task.splittable else 10**9

    def describe(self) -> str:
        """For the record: the arithmetic that was used."""
        return "float32, eager"

    def resident_bytes(self) -> int:
        """Up to which size the prepared test images are kept."""
        return RESIDENT_BYTES if self.device.type == "cpu" else torch.cuda.mem_get_info(self.device)[0] // 4

    def graph(self, step: Callable[[Tensor], Tensor], generator: torch.Generator) -> GraphedStep | None:
        """`step` as a CUDA graph where this engine wants one: it never waits for the device and draws from `generator` alone."""
        return None

    def parts(self, count: int) -> int:
        """Images per backward pass of a batch of `count`."""
        return min(count, self.train_batch)

    def logits(self, inputs: Tensor) -> Tensor:
        """[B,C,I,I] -> [B,K] float32, differentiable with respect to the model's parameters."""
        outputs: Tensor = self.model(inputs)
        return outputs

    def give_up(self, error: Exception) -> None:
        """A step failed. Mend what can be mended, after which it can be tried again, or raise the error."""
        raise error

    def begin_look(self) -> None:
        """Call after training steps and before `predict`: the weights have changed."""
        self.model.eval()

    def settle(self, image: Tensor) -> None:
        """Try what is fastest here, with one prepared test image [1,C,I,I], after `begin_look`; afterwards `calibrates` is False."""

    def embed(self, inputs: Tensor) -> Tensor:
        """What of a look's work stays the same from look to look: [B,C,I,I] of `dtype` -> the inputs of `predict`."""
        return inputs

    def predict(self, inputs: Tensor) -> Tensor:
        """What `embed` gave -> logits [B,K], with the weights of the last `begin_look`."""
        outputs: Tensor = self.model(inputs)
        return outputs


class FastEngine(Engine):
    """Compiled where the cell is long enough to pay for it, else eager, in float32 on a processor and bfloat16 on a GPU.

    On a GPU training steps are replayed as CUDA graphs. Looks are pruned, on a GPU only where a look is long.

    Compiled training: float32 weights and sums, products in bfloat16 (autocast). Compiled testing: a twin whose convolutions
    and linear layers hold bfloat16 weights, everything else float32. A processor without bfloat16 products stays in float32
    and saves multiplications instead. How the layers of a compiled network compute is in `kernels`.
    """

    name: EngineName = "fast"
    reuses = True

    def __init__(self, model: nn.Module, device: torch.device, task: Task) -> None:
        super().__init__(model, device, task)
        self.prunes = device.type == "cpu" or task.look >= PRUNE_FROM_FLOPS
        self.compiled = task.work >= COMPILE_FROM_FLOPS[device.type] and can_compile(device)
        last = evaluators.head(model)
        only_last = {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in last.parameters()}
        fits = 4 * task.test_images * last.in_features <= FEATURE_BYTES
        # `splittable`: no statistics of batch norm move either
        self.head = last if only_last and task.splittable and fits else None
        # measured, EfficientNet-Lite0 at 224 px on a processor: trains 15 images/s compiled in bfloat16, 27 in float32, 28 eager
        self.train_compiled = self.compiled and not (device.type == "cpu" and _has_depthwise(model))
        self._make_twin()
        if device.type == "cpu" and task.evaluator.input_size <= 64 and self.compiled:
            # measured, ConvNet-3 compiled: tests 6,532 images/s at 25 and 3,495 at 200, trains 1,155 at 50 and 1,032 at 100;
            # with Winograd's convolutions tests 542, 594 and 533 at 25, 50 and 100
            # with tiles ResNet-18 (instance norm) tests 1,200 at 25 and 1,570 at 64, trains 194 at 50 and 203 at 100
            self.test_batch = 64 if self.tiled else 50 if self.winograd else 25
            if task.splittable and self.train_compiled:
                self.train_batch = 128 if self.tiled else 64
            self.calibrates = task.work >= CALIBRATE_FROM_FLOPS and self.head is None
        elif device.type == "cuda":
            # measured, H100, a look compiled, at 1,000 and 2,500: ConvNet-3 13.3 and 12.9 ms, ResNet18 38 and 36; 224 px at 250
            # and 500: ResNet18 189 and 183 ms
            self.test_batch = 2500 if task.evaluator.input_size <= 64 else 500
        self.graphed: GraphedStep | None = None
        self.kind = f"{task.evaluator.name}_{task.evaluator.input_size}"
        self._train = program(self.kind + "_train") if self.train_compiled else _call
        self._test = program(self.kind + "_test") if self.compiled else _call

    def _make_twin(self) -> None:
        # uncompiled, bfloat16 is slower than float32 on a processor: its norms are not fused
        self.narrow = (self.compiled or self.device.type == "cuda") and has_bfloat16(self.device)
        self.dtype = torch.bfloat16 if self.narrow and self.head is None else torch.float32
        for way in (winograd, tiles, first_block, channels, norms):
            way.release(self.model)
        # measured on an H100: Triton makes norms as fast by itself, and could not build ours into ConvNet-3's gradient
        if self.compiled and self.device.type == "cpu":
            norms.adopt(self.model)
        self.tiled = self.compiled and self.narrow and has_programs_for_tiles(self.device)
        if self.tiled:
            tiles.adopt(self.model)
            first_block.adopt(self.model)
            channels.adopt(self.model)
        saves = self.compiled and not self.narrow and self.device.type == "cpu"
        self.winograd = winograd.adopt(self.model) if saves else 0
        self.twin = copy.deepcopy(self.model).eval().requires_grad_(False)
        channels.release(self.twin)  # without a gradient the compiler's own norms are as fast
        if self.narrow:
            for module in self.twin.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)

    def describe(self) -> str:
        arithmetic = f"{'bfloat16' if self.narrow else 'float32'}, {'compiled' if self.compiled else 'eager'}"
        arithmetic += ", trained in float32, eager" if self.compiled and not self.train_compiled else ""
        arithmetic += f", {self.winograd} Winograd convolutions" if self.winograd else ""
        arithmetic += ", steps replayed" if self.graphed is not None and self.graphed.recorded else ""
        return arithmetic if self.head is None else f"{arithmetic}, tested in float32 on features computed once"

    def parts(self, count: int) -> int:
        """Equal parts when compiled: every other size is another compilation."""
        if not self.train_compiled:
            return super().parts(count)
        return -(-count // -(-count // self.train_batch))

    def graph(self, step: Callable[[Tensor], Tensor], generator: torch.Generator) -> GraphedStep | None:
        """On a GPU."""
        self.graphed = GraphedStep(step, generator) if self.device.type == "cuda" else None
        return self.graphed

    def _autocast(self, compiled: bool) -> torch.autocast:
        narrow = self.narrow and (compiled or self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=narrow)

    def logits(self, inputs: Tensor) -> Tensor:
        with self._autocast(self.train_compiled):
            return self._run("_train", self.model, inputs).float()

    @torch.no_grad()
    def begin_look(self) -> None:
        self.model.eval()
        if self.head is not None:
            return
        for own, trained in zip(self.twin.state_dict().values(), self.model.state_dict().values(), strict=True):
            own.copy_(trained)

    def settle(self, image: Tensor) -> None:
        """Find the test batch that is fastest on this machine, or recall it."""
        self.calibrates = False
        self.predict(image)
        if not self.compiled:  # it could not be compiled, which is only found out now
            return

        def seconds(size: int) -> float:
            self.test_batch = size
            batch = image.expand(size, -1, -1, -1).contiguous(memory_format=_layout(image))
            self.predict(batch)
            best = float("inf")
            for _ in range(5):
                begun = time.perf_counter()
                self.predict(batch)
                best = min(best, time.perf_counter() - begun)
            return best / size

        self.test_batch = fastest(f"{self.kind} test batch, {self.describe()}", TEST_BATCHES, seconds)

    def embed(self, inputs: Tensor) -> Tensor:
        """Where only the head is trained: what enters it, [B,D], from the network itself, uncompiled: once is cheap."""
        if self.head is None:
            return inputs
        entered: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0]))
        try:
            self.model(inputs)
        finally:
            handle.remove()
        return entered[0]

    def predict(self, inputs: Tensor) -> Tensor:
        if self.head is not None:
            outputs: Tensor = self.head(inputs)
            return outputs
        missing = self.test_batch - len(inputs)
        inputs = inputs.to(self.dtype)
        padded = inputs if missing <= 0 or not self.compiled else torch.cat([inputs, inputs[:1].expand(missing, -1, -1, -1)])
        padded = padded.contiguous(memory_format=_layout(inputs))
        with self._autocast(self.compiled):
            return self._run("_test", self.twin, padded)[: len(inputs)].float()

    def _run(self, which: str, model: nn.Module, inputs: Tensor) -> Tensor:
        outputs: Tensor
        try:
            outputs = getattr(self, which)(model, inputs)
        except Exception as error:
            self.give_up(error)
            with self._autocast(compiled=False):
                outputs = (self.twin if which == "_test" else model)(inputs.to(self.dtype))
        return outputs

    def give_up(self, error: Exception) -> None:
        """No compiler, no headers, an operation it cannot handle: uncompiled from here on, and the record says so."""
        if not self.compiled or "torch._" not in type(error).__module__:
            raise error
        warnings.warn(f"this network is not compiled here: {str(error).splitlines()[0]}", stacklevel=3)
        self.compiled = self.train_compiled = False
        self._train = self._test = _call
        self._make_twin()


def build(
    name: EngineName,
    model: nn.Module,
    evaluator: Evaluator,
    device: torch.device,
    *,
    splittable: bool,
    work: float,
    test_images: int,
    look: float,
) -> Engine:
    """The engine called `name` for this network; the rest is a `Task`."""
    kind = FastEngine if name == "fast" else Engine
    return kind(model, device, Task(evaluator, splittable, work, test_images, look))


class PrunedLooks:
    """Exact pruned testing: in which order a look visits the test images, and when it may stop.

    Images that will most likely be missed come first. A look stops when even a hit on every image left could not raise the
    number of hits above the best so far; what it stores is then an upper bound of its own hits, at most the best.

    An image's margin is the logit of its class less the highest of the others. What is expected of it is the running mean
    of its margins, plus what the margins of its class have moved by in the look so far: from look to look a network leans
    to some classes and away from others.
    """

    RECENT = 0.3  # ours: weight of the newest margin in an image's running mean
    SORT_EVERY = 500  # ours: images of a look after which the rest of it is sorted anew
    PRIOR = 20.0  # ours: images of a class that must have been seen before their mean movement counts by half
    WIDEST = 1e4  # ours: of a margin, so that a network on its way to infinity does not spoil the means

    def __init__(self, labels: Tensor) -> None:
        """`labels`: classes [N] of the test images."""
        self.labels = labels.cpu()
        classes = int(self.labels.max()) + 1
        self.state = {
            "margins": torch.zeros(len(labels)),
            "looks": torch.tensor(0),
            "left": torch.ones(len(labels), dtype=torch.bool),
            "queue": torch.zeros(0, dtype=torch.int64),
            "moved": torch.zeros(classes),
            "seen": torch.zeros(classes),
        }
        """Everything that a resumed cell needs."""

    def begin(self) -> None:
        """A look begins."""
        state = self.state
        state["looks"] += 1
        state["left"].fill_(True)
        state["queue"] = state["queue"][:0]
        state["moved"].zero_()
        state["seen"].zero_()

    def next(self, count: int) -> Tensor:
        """Indices of the next images, at most `count`; each image once a look; equals in their natural order."""
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
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
        change = (own - others).nan_to_num(0.0).clamp(-self.WIDEST, self.WIDEST) - state["margins"][window]
        state["moved"].index_add_(0, labels, change)
        state["seen"].index_add_(0, labels, torch.ones(len(window)))
        state["margins"][window] += (self.RECENT if state["looks"] > 1 else 1.0) * change
        state["left"][window] = False

    @staticmethod
    def hopeless(hits: int, left: int, best: int) -> bool:
        """Whether `hits` so far and at most `left` more cannot beat `best`."""
        return hits + left <= best


def _has_depthwise(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())


def _layout(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _call(model: nn.Module, inputs: Tensor) -> Tensor:
    outputs: Tensor = model(inputs)
    return outputs
