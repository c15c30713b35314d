"""The fast engine: compiled where that pays, bfloat16 where the device has it, early end of test passes, CUDA graphs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from mabench.engine import kernels as layer_kernels
from mabench.engine.cuda_graphs import REPLAYED, GraphedStep
from mabench.engine.reference import Engine, EngineName, Workload
from mabench.networks import compiling, evaluators
from mabench.networks.batches import SMALL_SIDE, backward_batch, forward_batch

# ours: a minute and a half of eager work on one core, half a minute on a GPU; compiling costs 3 to 10 s, and half a minute there
COMPILE_FROM_FLOPS = {"cpu": 5e12, "cuda": 1e14}
TUNE_FROM_FLOPS = 1e14  # ours: minutes of work; every test batch that is tried is compiled, 3 to 9 s each
BFLOAT16_FROM_FLOPS = 1e7  # ours: of one image; below, a processor tests no faster in bfloat16 (LeNet, MLP)
THIN_CHANNELS = 64  # ours, between resnet20 (16 to 64 channels) and ConvNet-3 (128)
TEST_BATCHES = (32, 64, 128)  # tried on a processor, small images
FEATURE_BYTES = 2**30  # ours: features of the test images are kept up to this size; ConvNet-3's of CIFAR-10 take 82 MB
PRUNE_FROM_FLOPS = (
    2e13  # ours: of one test pass on a GPU; below, waiting for results costs more than the images that are left out
)


class Program(Protocol):
    """A function that computes a network's outputs."""

    def __call__(self, model: nn.Module, inputs: Tensor, /) -> Tensor: ...


def call_eagerly(model: nn.Module, inputs: Tensor) -> Tensor:
    """The program of a network that is not compiled."""
    outputs: Tensor = model(inputs)
    return outputs


@dataclass(frozen=True)
class Arithmetic:
    """In which arithmetic, and by which program, `fast` computes one network. Its text is what records and the evidence name."""

    on_processor: bool
    narrow: bool
    """Whether the device multiplies bfloat16 and the network gains from it: in test passes, and where `trains_narrow` says so."""
    compiled: bool
    """In test passes, and where `train_compiled` says so in training."""
    train_compiled: bool
    head_only: bool
    """Whether only the last layer is trained, on features computed once."""

    @property
    def trains_narrow(self) -> bool:
        """Whether training, too, has products in bfloat16. Eager steps on a processor stay the reference's, bit for bit: bfloat16
        gains little there, and a short course in another arithmetic ends several points away, up or down."""
        return self.narrow and (self.train_compiled or not self.on_processor)

    def __str__(self) -> str:
        tested, trained = (
            f"{'bfloat16' if narrow else 'float32'}, {'compiled' if compiled else 'eager'}"
            for narrow, compiled in ((self.narrow, self.compiled), (self.trains_narrow, self.train_compiled))
        )
        tested += f", trained in {trained}" if trained != tested else ""
        return f"{tested}, tested in float32 on features computed once" if self.head_only else tested


def arithmetic(model: nn.Module, device: torch.device, workload: Workload) -> Arithmetic:
    """What `fast` computes this network in on this machine: its engine and `auto` both ask here.

    Of `model` only the structure counts, so that it may lie on the device "meta".
    """
    on_processor = device.type == "cpu"
    narrow = compiling.has_bfloat16(device) and not (on_processor and workload.test_image < BFLOAT16_FROM_FLOPS)
    trains_eagerly = on_processor and _trains_faster_eagerly(model, workload.evaluator.family)
    # what trains eagerly also tests eagerly in bfloat16: as fast as compiled, and nothing to wait for
    worthwhile = workload.work >= COMPILE_FROM_FLOPS[device.type] and not (trains_eagerly and narrow)
    compiled = worthwhile and compiling.can_compile(device)
    return Arithmetic(on_processor, narrow, compiled, compiled and not trains_eagerly, _trains_only_its_head(model, workload))


class FastEngine(Engine):
    """Compiled where that pays, else eager; products in bfloat16 where the device has them, except in eager training on a processor.

    On a GPU training steps are replayed as CUDA graphs. Test passes are pruned, on a GPU only where a test pass is long.

    Training in bfloat16: float32 weights and sums, products in bfloat16 (autocast). Testing in bfloat16: a copy whose convolutions
    and linear layers hold bfloat16 weights, everything else float32. A processor without bfloat16 products stays in float32 and,
    compiled, saves multiplications instead. `mabench.engine.kernels` has the layers of compiled networks.
    """

    name: EngineName = "fast"
    reuses = True

    def __init__(self, model: nn.Module, device: torch.device, workload: Workload) -> None:
        super().__init__(model, device, workload)
        side, on_processor = workload.evaluator.input_size, device.type == "cpu"
        self.prunes = on_processor or workload.test_pass >= PRUNE_FROM_FLOPS
        self.arithmetic = arithmetic(model, device, workload)
        narrow, compiled, train_compiled = self.arithmetic.narrow, self.arithmetic.compiled, self.arithmetic.train_compiled
        self.head = evaluators.head(model) if self.arithmetic.head_only else None
        self.dtype = torch.bfloat16 if narrow and self.head is None else torch.float32
        self.kernels = layer_kernels.adopt(model, device, bfloat16=narrow) if compiled else ()
        self.inference_copy = self._copy_for_inference()
        if compiled or not on_processor:
            self.test_batch = forward_batch(device.type, side, compiled=True, bfloat16=narrow)
        elif narrow:
            self.test_batch = forward_batch(device.type, side, bfloat16=True)
        if train_compiled and not workload.uses_batch_statistics:
            self.train_batch = backward_batch(device.type, side, compiled=True)
        small = on_processor and side <= SMALL_SIDE
        self.tunes_test_batch = small and compiled and workload.work >= TUNE_FROM_FLOPS and self.head is None
        self.graphed: GraphedStep | None = None
        self.kind = f"{workload.evaluator.name}_{side}"
        self.train_program: Program = compiling.program(self.kind + "_train") if train_compiled else call_eagerly
        self.test_program: Program = compiling.program(self.kind + "_test") if compiled else call_eagerly

    def _copy_for_inference(self) -> nn.Module:
        replica = copy.deepcopy(self.model).eval().requires_grad_(False)
        if self.arithmetic.narrow:
            for module in replica.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        # measured eagerly on a processor, ConvNet-3 in bfloat16: 0.96 ms an image, 1.7 channels last
        eager = self.arithmetic.on_processor and self.arithmetic.narrow and not self.arithmetic.compiled
        plain = eager and any(isinstance(m, nn.GroupNorm) for m in replica.modules())
        self.test_layout = torch.contiguous_format if plain else None
        return replica.to(memory_format=self.test_layout) if self.test_layout is not None else replica

    def describe(self) -> str:
        replayed = self.graphed is not None and bool(self.graphed.recorded)
        return f"{self.arithmetic}{REPLAYED if replayed else ''}"

    def part_size(self, count: int) -> int:
        """Equal parts when compiled: every other size is another compilation."""
        if not self.arithmetic.train_compiled:
            return super().part_size(count)
        return -(-count // -(-count // self.train_batch))

    def graph(self, step: Callable[[Tensor], Tensor], generator: torch.Generator) -> GraphedStep | None:
        """On a GPU."""
        self.graphed = GraphedStep(step, generator) if self.device.type == "cuda" else None
        return self.graphed

    def _autocast(self, narrow: bool) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=narrow)

    def logits(self, inputs: Tensor) -> Tensor:
        with self._autocast(self.arithmetic.trains_narrow):
            try:
                return self.train_program(self.model, inputs).float()
            except Exception as error:
                self.fall_back_to_eager(error)
        with self._autocast(self.arithmetic.trains_narrow):
            return call_eagerly(self.model, inputs).float()

    @torch.no_grad()
    def begin_test_pass(self) -> None:
        self.model.eval()
        if self.head is not None:
            return
        weights = zip(self.inference_copy.state_dict().values(), self.model.state_dict().values(), strict=True)
        for copied, trained in weights:
            copied.copy_(trained)

    def tune_test_batch(self, image: Tensor) -> None:
        """Find the test batch that is fastest on this machine, or recall it."""
        self.tunes_test_batch = False
        self.predict(image)
        if not self.arithmetic.compiled:  # it could not be compiled, which is only found out now
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

        self.test_batch = compiling.fastest(f"{self.kind} test batch, {self.describe()}", TEST_BATCHES, seconds)

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
        whole = missing <= 0 or not self.arithmetic.compiled
        padded = inputs if whole else torch.cat([inputs, inputs[:1].expand(missing, -1, -1, -1)])
        padded = padded.contiguous(memory_format=self.test_layout or _layout(inputs))
        with self._autocast(self.arithmetic.narrow):
            try:
                return self.test_program(self.inference_copy, padded)[: len(inputs)].float()
            except Exception as error:
                self.fall_back_to_eager(error)
        with self._autocast(self.arithmetic.narrow):
            return call_eagerly(self.inference_copy, padded)[: len(inputs)].float()

    def fall_back_to_eager(self, error: Exception) -> None:
        """No compiler, no headers, an operation it cannot handle: uncompiled from here on, and the record says so."""
        if not self.arithmetic.compiled:
            raise error
        compiling.warn_or_raise(error)
        self.arithmetic = replace(self.arithmetic, compiled=False, train_compiled=False)
        self.train_program = self.test_program = call_eagerly
        layer_kernels.release(self.model)
        self.kernels = ()
        self.inference_copy = self._copy_for_inference()


def _trains_only_its_head(model: nn.Module, workload: Workload) -> bool:
    """Return whether nothing but the head changes in training and the features of all test images fit into memory."""
    head = evaluators.head(model)
    only_head = {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in head.parameters()}
    fits = 4 * workload.test_images * head.in_features <= FEATURE_BYTES
    return only_head and fits and not workload.uses_batch_statistics


def _trains_faster_eagerly(model: nn.Module, family: str) -> bool:
    """Return whether compiling slows training down on a processor: transformers, depthwise convolutions, thin networks.

    Measured in images a second, eager in float32, then compiled in bfloat16: vit_mini 91 and 62, EfficientNet-Lite0 at 224 px
    28 and 15, resnet20 116 and 112 (and 10 s to compile); ConvNet-3, 128 channels wide, 207 and 294.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    depthwise = any(1 < m.groups == m.in_channels for m in convolutions)
    thin = bool(convolutions) and sum(m.out_channels for m in convolutions) / len(convolutions) < THIN_CHANNELS
    return family != "cnn" or depthwise or thin


def _layout(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
