"""The reference engine: PyTorch as it comes, eager and float32. Also the interface that every engine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mabench.engine.cuda_graphs import GraphedStep
from mabench.networks.batches import backward_batch, forward_batch
from mabench.networks.compiling import prepare_process
from mabench.schema import Evaluator

EngineName = Literal["reference", "fast"]
REFERENCE_ARITHMETIC = "float32, eager"
RESIDENT_BYTES = 2**28  # ours: prepared test images are kept up to this size; CIFAR-10 at 32 px takes 61 MB in bfloat16


@dataclass(frozen=True)
class Workload:
    """What an engine may know of the evaluator run that it computes."""

    evaluator: Evaluator
    uses_batch_statistics: bool
    """Whether batch norm sees the batch: then a batch in parts is another step."""
    work: float
    """Floating-point operations of all runs that will use this network's program."""
    test_images: int
    test_pass: float
    """Floating-point operations of one test pass over all test images."""

    @property
    def test_image(self) -> float:
        """Floating-point operations of one forward pass of one image."""
        return self.test_pass / max(1, self.test_images)


class Engine:
    """The reference: eager float32. Also the interface: `logits` while training, `begin_test_pass` then `predict` while testing.

    At most `train_batch` images go through one backward pass. A larger batch of the recipe is split and its gradients are added,
    which is the same step, except where batch norm sees batch statistics: there the engine never splits a batch (a recipe's
    `accumulate` does). `test_batch` images go through one forward pass. `dtype` is the type that prepared test images should have.
    """

    name: EngineName = "reference"
    reuses = False
    """Whether what cannot change is computed once."""

    def __init__(self, model: nn.Module, device: torch.device, workload: Workload) -> None:
        prepare_process()
        side = workload.evaluator.input_size
        self.model, self.device = model, device
        self.test_batch = forward_batch(device.type, side)
        self.train_batch = 10**9 if workload.uses_batch_statistics else backward_batch(device.type, side)
        self.prunes = False
        """Whether test passes may stop early."""
        self.tunes_test_batch = False
        """Whether `tune_test_batch` should be called before the first test pass."""
        self.dtype = torch.float32
        self.kernels: tuple[str, ...] = ()
        """What replaces layers of the network, by name and number, for the record."""
        self.head: nn.Linear | None = None
        """Set where only this last layer is trained and `predict` takes what `embed` gives."""

    def describe(self) -> str:
        """Name the arithmetic that was used, for the record."""
        return REFERENCE_ARITHMETIC

    def resident_bytes(self) -> int:
        """Return the size up to which prepared test images are kept."""
        return torch.cuda.mem_get_info(self.device)[0] // 4 if self.device.type == "cuda" else RESIDENT_BYTES

    def graph(self, step: Callable[[Tensor], Tensor], generator: torch.Generator) -> GraphedStep | None:
        """Return `step` as a CUDA graph if this engine uses them. `step` never waits for the device and draws from `generator` alone."""
        return None

    def part_size(self, count: int) -> int:
        """Return the images per backward pass of a batch of `count`."""
        return min(count, self.train_batch)

    def logits(self, inputs: Tensor) -> Tensor:
        """[B,C,I,I] -> [B,K] float32, differentiable with respect to the model's parameters."""
        outputs: Tensor = self.model(inputs)
        return outputs

    def fall_back_to_eager(self, error: Exception) -> None:
        """A step failed: stop compiling, after which it can be tried again, or raise the error."""
        raise error

    def begin_test_pass(self) -> None:
        """Take over the trained weights: call after training steps and before `predict`."""
        self.model.eval()

    def tune_test_batch(self, image: Tensor) -> None:
        """Find the fastest `test_batch` with one prepared test image [1,C,I,I], after `begin_test_pass`; once per run."""

    def embed(self, inputs: Tensor) -> Tensor:
        """Compute what stays the same from test pass to test pass: [B,C,I,I] of `dtype` -> the inputs of `predict`."""
        return inputs

    def predict(self, inputs: Tensor) -> Tensor:
        """What `embed` gave -> logits [B,K], with the weights of the last `begin_test_pass`."""
        outputs: Tensor = self.model(inputs)
        return outputs
