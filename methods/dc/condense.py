"""DC: images whose gradients point where real ones do (Zhao, Mopuri & Bilen, ICLR 2021); DSA adds siamese augmentation
(Zhao & Bilen, ICML 2021).

    repeat `iterations` times
        draw a network with fresh weights
        repeat `outer_loop` times
            for every class c: move its images so that the gradient of their loss turns towards that of a real batch of c
            train the network on the images for `inner_loop` epochs            (not after the last of the outer loop)

With one image per class the outer loop has one round, so the network is never trained: pure matching at random weights.
Everything lives in the space that the dataset's mean and std normalise; pixels are never clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import RealData, augment
from mabench.networks.architectures import Network
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet

from .. import kit
from ..kit import MeanGradient, RealImages, Run

Name = Literal["dc", "dsa"]
Initial = Literal["noise", "real"]
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""IPC -> (outer loop, inner loop), DC's released code, get_loops."""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of DC. Defaults: the released code's for CIFAR-10."""

    ipc: int
    iterations: int = 1000
    initial: Initial = "noise"
    """`noise`: standard normal; `real`: random real images."""
    image_rate: float = 0.1
    image_momentum: float = 0.5
    network_rate: float = 0.01
    real_batch: int = 256
    train_batch: int = 256
    augmentation: str = ""
    """DSA's operations joined by _, one of them for the real and the synthetic batch alike; empty = DC."""
    depth: int = 3
    width: int = 128

    def __post_init__(self) -> None:
        kit.check_fields(self)
        augment.operations(self.augmentation)

    @property
    def loops(self) -> tuple[int, int]:
        """Outer and inner loop; between the tabulated budgets the nearest one's."""
        return LOOPS[min(LOOPS, key=lambda ipc: abs(ipc - self.ipc))]


Draw = Callable[[int, torch.Generator], tuple[Network, str | None]]
"""(iteration, generator) -> a fresh network, and its kind where it is used often enough to be compiled."""


def condense(
    train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None, *, method: Name
) -> SyntheticSet:
    """Condense `config.ipc` images per class: float32, pixel space, unclipped, hard labels. `method` names the set and its card."""

    def draw(iteration: int, generator: torch.Generator) -> tuple[Network, str]:
        weights = kit.seed_from(generator)
        network = kit.draw_network(train.dataset, "convnet", weights, depth=config.depth, width=config.width)
        return network, f"convnet{config.depth}x{config.width}_{train.dataset.image_size}"

    card = Card(
        title=f"{method.upper()}, {train.dataset.title}, IPC {config.ipc}, {config.iterations} iterations",
        paper="https://arxiv.org/abs/2102.08259" if method == "dsa" else "https://arxiv.org/abs/2006.05929",
        source_networks=(f"convnet{config.depth}",),
    )
    return match(train, config, seed, device, run or Run(), method=method, draw=draw, identity=config, card=card)


def match(
    train: RealData,
    config: Config,
    seed: int,
    device: torch.device,
    run: Run,
    *,
    method: str,
    draw: Draw,
    identity: object,
    card: Card,
) -> SyntheticSet:
    """Run the loop of the module's docstring with networks from `draw`. Resumes from the run's checkpoint, to the same images."""
    kit.check_train(train, config.ipc)
    run.begin(method, identity, seed, train)
    if (done := run.finished()) is not None:
        return done
    real = RealImages(train, device)
    streams = kit.generators(seed, ("images", "batches", "networks", "augmentation", "training"))
    images = _initial(real, config, streams["images"]).requires_grad_(True)
    optimizer = torch.optim.SGD([images], lr=config.image_rate, momentum=config.image_momentum)
    state = {"images": images, "optimizer": optimizer, "streams": streams}
    first = run.resume(state)
    labels = torch.arange(train.dataset.num_classes, device=device).repeat_interleave(config.ipc)
    outer_loop, inner_loop = config.loops
    gradients: dict[str | None, MeanGradient] = {}
    steps = config.iterations * outer_loop * train.dataset.num_classes
    worth_compiling = steps * config.real_batch > kit.COMPILE_FROM_IMAGES

    for iteration in range(first, config.iterations):
        network, kind = draw(iteration, streams["networks"])
        network = kit.place(network, device)
        kind = kind if worth_compiling else None
        if kind not in gradients:
            gradients[kind] = MeanGradient(device, kind)
        gradient = gradients[kind]
        network_optimizer = torch.optim.SGD(network.parameters(), lr=config.network_rate)
        total = 0.0
        for outer in range(outer_loop):
            network.train()
            # drawn for every network, so that all networks of a seed meet the same batches; the released code draws them for batch norm only
            some = torch.cat([real.draw(c, 16, streams["batches"]) for c in range(train.dataset.num_classes)])
            kit.freeze_batch_norm(network, some)
            optimizer.zero_grad()
            for label in range(train.dataset.num_classes):
                total += _match_class(network, gradient, real, images, labels, label, config, streams)
            optimizer.step()
            if outer + 1 < outer_loop:
                _train(network, network_optimizer, images.detach(), labels, inner_loop, config, streams)
        mean = total / (outer_loop * train.dataset.num_classes)
        run.step(iteration + 1, config.iterations, {"matching": mean}, state)
    name = f"{method}-ipc{config.ipc}-seed{seed}"
    return run.finish(real.to_set(images, config.ipc, name), card)


def _initial(real: RealImages, config: Config, generator: torch.Generator) -> Tensor:
    """Images [K*ipc,C,S,S] before the first step, class by class."""
    entry = real.dataset
    if config.initial == "real":
        return torch.cat([real.draw(c, config.ipc, generator) for c in range(entry.num_classes)])
    shape = (entry.num_classes * config.ipc, entry.channels, entry.image_size, entry.image_size)
    return torch.randn(shape, generator=generator).to(real.device)


def _match_class(
    network: nn.Module,
    gradient: MeanGradient,
    real: RealImages,
    images: Tensor,
    labels: Tensor,
    label: int,
    config: Config,
    streams: dict[str, torch.Generator],
) -> float:
    """Add the gradient of one class's matching loss to `images.grad`; returns the loss."""
    batch = real.draw(label, config.real_batch, streams["batches"])
    own = images[labels == label]
    if config.augmentation:
        shared = kit.seed_from(streams["augmentation"])  # the same operation and parameters for both batches
        batch, own = (
            augment.dsa(x, config.augmentation, torch.Generator(x.device).manual_seed(shared), siamese=True) for x in (batch, own)
        )
    target = gradient(network, batch, torch.full((len(batch),), label, device=batch.device))
    loss = F.cross_entropy(network(own), torch.full((len(own),), label, device=own.device))
    matched = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    distance = gradient_distance(matched, target)
    (towards,) = torch.autograd.grad(distance, images)
    images.grad = towards if images.grad is None else images.grad + towards
    return float(distance.detach())


def gradient_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Sum over layers and their output units of 1 - cosine (DC, Eq. 10; released code, `distance_wb`).

    A row is what one unit receives: convolution [O,I,h,w] -> O rows of I*h*w, linear [O,I] -> O rows of I, layer norm [C,h,w]
    -> C rows of h*w. Biases and norms with one number a channel do not count.
    """
    total = synthetic[0].new_zeros(())
    for own, target in zip(synthetic, real, strict=True):
        if own.dim() > 1:
            own, target = own.flatten(1), target.flatten(1)
            norms = own.norm(dim=1) * target.norm(dim=1)
            total = total + (1 - (own * target).sum(1) / (norms + 1e-6)).sum()  # 1e-6: released code
    return total


def _train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    config: Config,
    streams: dict[str, torch.Generator],
) -> None:
    """`epochs` epochs on the set as it is now, plain cross-entropy."""
    network.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=streams["training"]), config.train_batch):
            batch = images[rows.to(images.device)]
            if config.augmentation:
                own = torch.Generator(batch.device).manual_seed(kit.seed_from(streams["augmentation"]))
                batch = augment.dsa(batch, config.augmentation, own)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(batch), labels[rows.to(labels.device)]))
            optimizer.step()
