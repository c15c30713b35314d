"""Networks of a method: drawn from a seed, placed on the device, and the gradients of real batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import Dataset
from mabench.networks import architectures as networks
from mabench.networks import compiling
from mabench.networks.batches import SMALL_SIDE, backward_batch, forward_batch

from .real_images import RealImages

Placed = TypeVar("Placed", bound=nn.Module)
COMPILE_FROM_IMAGES = 100_000  # ours: compiling takes about as long as the gradients of these on two cores


def draw_network(dataset: Dataset, architecture: str, seed: int, **arguments: Any) -> networks.Network:
    """A network of `networks.py` for this dataset, its weights drawn from `seed` and from nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.build(
            architecture,
            num_classes=dataset.num_classes,
            channels=dataset.channels,
            image_size=dataset.image_size,
            **arguments,
        )


def place(network: Placed, device: torch.device) -> Placed:
    """Move a network to the device, its convolutions in the layout that they like (channels last)."""
    network.to(device)
    for parameter in network.parameters():  # Module.to(memory_format=...) has no typed form
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


class MeanGradient:
    """Gradient of the mean cross-entropy of a batch of real images, in the largest parts that the caches like.

    `kind` names a sort of network that is used often enough to be compiled; where the device multiplies bfloat16 its products
    are then in bfloat16 and its sums in float32. Without `kind`, or where it cannot be compiled, everything is eager float32.
    """

    def __init__(self, device: torch.device, kind: str | None = None) -> None:
        self.device = device
        compiling.prepare_process()
        self._compile(kind if compiling.can_compile(device) else None)
        self.hits = torch.zeros(0, dtype=torch.bool)
        """Which images of the last call were classified correctly, [B]."""

    def _compile(self, kind: str | None) -> None:
        self.compiled = kind is not None
        self.part = backward_batch(self.device.type, SMALL_SIDE, compiled=self.compiled)
        self.forward: Callable[[nn.Module, Tensor], Tensor] = lambda network, images: network(images)
        self.narrow = False
        if kind is not None:
            self.forward, self.narrow = compiling.program(kind), compiling.has_bfloat16(self.device)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        """One detached tensor per parameter. Parts are for networks without batch statistics only: others go in one piece."""
        try:
            return self._gradient(network, images, labels)
        except Exception as error:
            if not self.compiled:
                raise
            compiling.warn_or_raise(error)
            self._compile(None)
        return self._gradient(network, images, labels)

    def _gradient(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        parameters = list(network.parameters())
        whole_batch = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in network.modules())
        count = 1 if whole_batch else -(-len(images) // self.part)
        total: list[Tensor] | None = None
        hits = []
        images = images.contiguous(memory_format=torch.channels_last)
        for part, target in zip(images.tensor_split(count), labels.tensor_split(count), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
                logits = self.forward(network, part).float()
            loss = F.cross_entropy(logits, target, reduction="sum") / len(images)
            hits.append(logits.detach().argmax(1) == target)
            gradient = torch.autograd.grad(loss, parameters)
            total = [g + new for g, new in zip(total, gradient, strict=True)] if total else list(gradient)
        assert total is not None
        self.hits = torch.cat(hits)
        return [g.detach() for g in total]


@torch.no_grad()
def embed(network: networks.Network, real: RealImages, rows: Tensor) -> Tensor:
    """What enters the classifier for these rows: [len(rows),D], on the CPU."""
    network.eval()
    part = forward_batch(real.device.type, SMALL_SIDE)
    return torch.cat(
        [network.embed(real.at(r).contiguous(memory_format=torch.channels_last)).cpu() for r in torch.split(rows, part)]
    )


def freeze_batch_norm(network: nn.Module, images: Tensor) -> None:
    """Give batch norm layers the running statistics of one real batch, then let them use these (DC's released code)."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if layers:
        network.train()
        with torch.no_grad():
            network(images)
        for layer in layers:
            layer.eval()
