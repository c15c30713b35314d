"""One iteration of trajectory matching: a student starts at an expert's weights, takes N steps on the synthetic images, and is
compared with where the expert went; the exact gradient of that comparison with respect to images and rate.

Legend: P parameters of the network in one flat vector, B images in an inner batch, S synthetic images, N inner steps, M epochs
of the expert, theta the student's weights, b its momentum buffer (b = gradient where momentum is 0), alpha its rate.

The textbook way keeps the graph of all N steps. Here, unless that is small, only theta_0..theta_N (and b_1..b_N with momentum) are kept,
4 P bytes each; the graph of one step at a time is built once more on the way back. That is the adjoint of the recursion

    b_k = m b_(k-1) + g_k(theta_(k-1), images),    theta_k = theta_(k-1) - alpha b_k

and equals the full unroll up to rounding, second derivatives included (TESLA's constant-memory form leaves those out).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mabench.data import augment
from mabench.errors import MabenchError

THETA = 8.0  # paper, section 4.1: "for the balanced loss, we set theta to 8", Eq. 2
GRAPH_BYTES = 64  # ours: for a pixel of a channel of the first block; measured 7 to 9 MB an image and step at width 128 and 32 px
CPU_GRAPH_BYTES = 2**31  # ours: what any machine can spare
RELEASED_BASE = 5.0  # base of the logarithm of Eq. 2 in the released code; the paper names none


# -- the student ---------------------------------------------------------------------------------------------------------


class Flat:
    """A network as a function of one flat weight vector [P]; the order is that of `network.parameters()`."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names = [name for name, _ in network.named_parameters()]
        self.shapes = [parameter.shape for parameter in network.parameters()]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.total = sum(self.sizes)
        """P."""

    def split(self, weights: Tensor) -> list[Tensor]:
        """One view per parameter, in its own shape."""
        return [part.view(shape) for part, shape in zip(torch.split(weights, self.sizes), self.shapes, strict=True)]

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """The opposite of `split`: a fresh vector [P]."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def __call__(self, weights: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, dict(zip(self.names, self.split(weights), strict=True)), (images,))
        return logits


@dataclass(frozen=True)
class Step:
    """What one inner step draws: rows of the synthetic images, [B] on the CPU, and the seed of its augmentation."""

    rows: Tensor
    seed: int


@dataclass(frozen=True)
class Point:
    """A place where the student is compared: after `step` steps, with `target` [P], the squared distance times `scale`."""

    step: int
    target: Tensor
    scale: float
    """beta / |theta_0 - target|^2 (paper, Eq. 4): a constant."""


@dataclass(frozen=True)
class StepGraph:
    """The graph of one inner step: what its adjoint needs."""

    images: Tensor
    """All synthetic images, a leaf [S,C,H,W]."""
    weights: Tensor
    """theta before the step, a leaf [P]."""
    batch: Tensor
    """The augmented inner batch [B,C,H,W], a function of `images`."""
    parts: Iterable[tuple[Tensor, Tensor]]
    """(gradient [P] of a part's loss, that part of the batch as a leaf), which add up; built one after the other, or all in memory."""

    def adjoint(self, to_slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """g at these weights [P], and what its adjoint `to_slope` becomes: the adjoints of the weights and of all images."""
        slope, to_weights, to_parts = torch.zeros_like(to_slope), torch.zeros_like(to_slope), []
        for own, some in self.parts:
            from_weights, from_some = torch.autograd.grad(own, (self.weights, some), to_slope)
            slope += own.detach()
            to_weights += from_weights
            to_parts.append(from_some)
        (to_images,) = torch.autograd.grad(self.batch, self.images, torch.cat(to_parts))
        return slope, to_weights, to_images


class Student:
    """N steps of SGD on synthetic images, forwards (`walk`) and backwards (`gradient`).

    `part` bounds the images whose graph is alive at once; a batch's loss is a sum over images, so parts only add up. `keeps_graphs`: the
    graphs of all N steps stay in memory, which saves a third of the work; otherwise each is built once more on the way back.
    """

    def __init__(
        self,
        flat: Flat,
        labels: Tensor,
        *,
        momentum: float,
        balance: float,
        strategy: str,
        part: int = 2048,
        keeps_graphs: bool = False,
    ) -> None:
        self.flat, self.labels, self.momentum, self.balance = flat, labels, momentum, balance
        self.strategy, self.part, self.keeps_graphs = strategy, part, keeps_graphs

    def batch(self, images: Tensor, step: Step) -> Tensor:
        """The augmented inner batch [B,C,H,W] of a step: the same one every time it is asked for."""
        own = images[step.rows.to(images.device)]
        if not self.strategy:
            return own
        return augment.dsa(own, self.strategy, torch.Generator(own.device).manual_seed(step.seed))

    def loss(self, weights: Tensor, images: Tensor, labels: Tensor, size: int) -> Tensor:
        """These images' share of nu * mean cross-entropy of a batch of `size` (paper, Eq. 2 and 3)."""
        return self.balance / size * F.cross_entropy(self.flat(weights, images), labels, reduction="sum")

    def walk(
        self, images: Tensor, rate: Tensor, start: Tensor, steps: Sequence[Step], graphs: list[StepGraph] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """theta_0..theta_N and, where there is momentum, b_1..b_N; the graphs of the steps go into `graphs`, if given."""
        weights, buffers = [start.detach()], []
        buffer = torch.zeros_like(start)
        for step in steps:
            if graphs is None:
                slope = self._slope(images, weights[-1], step)
            else:
                built = self._graph(images, weights[-1], step)
                kept = tuple(built.parts)
                graphs.append(replace(built, parts=kept))
                slope = torch.stack([own.detach() for own, _ in kept]).sum(0)
            buffer = self.momentum * buffer + slope
            if self.momentum:
                buffers.append(buffer)
            weights.append(weights[-1] - rate.detach() * buffer)
        return weights, buffers

    def gradient(
        self, images: Tensor, rate: Tensor, start: Tensor, steps: Sequence[Step], points: Sequence[Point]
    ) -> tuple[list[float], Tensor, Tensor]:
        """Every point's loss in order, and the gradients of their sum: with respect to the images [S,C,H,W] and the rate []."""
        graphs: list[StepGraph] | None = [] if self.keeps_graphs else None
        weights, buffers = self.walk(images, rate, start, steps, graphs)
        losses = [float(p.scale * (weights[p.step] - p.target).square().sum()) for p in points]
        rate = rate.detach()
        to_weights, to_buffer = torch.zeros_like(start), torch.zeros_like(start)  # adjoints of theta_k and of b_k
        to_images, to_rate = torch.zeros_like(images), torch.zeros_like(rate)
        for k in range(len(steps), 0, -1):
            for point in points:
                if point.step == k:
                    to_weights += 2 * point.scale * (weights[k] - point.target)
            to_buffer = self.momentum * to_buffer - rate * to_weights
            graph = graphs.pop() if graphs is not None else self._graph(images, weights[k - 1], steps[k - 1])
            slope, from_weights, from_images = graph.adjoint(to_buffer)
            to_rate = to_rate - to_weights @ (buffers[k - 1] if self.momentum else slope)
            to_weights = to_weights + from_weights
            to_images += from_images
        return losses, to_images, to_rate

    def _slope(self, images: Tensor, weights: Tensor, step: Step) -> Tensor:
        """g at these weights, [P]; no graph."""
        with torch.no_grad():
            batch = self.batch(images, step)
        here, slope = weights.detach().requires_grad_(True), torch.zeros_like(weights)
        for some, of in self._parts(batch, step):
            slope += torch.autograd.grad(self.loss(here, some, of, len(batch)), here)[0]
        return slope

    def _graph(self, images: Tensor, weights: Tensor, step: Step) -> StepGraph:
        """The graph of g at these weights, whose parts are built as they are asked for."""
        images, here = images.detach().requires_grad_(True), weights.detach().requires_grad_(True)
        batch = self.batch(images, step)

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for some, of in self._parts(batch.detach(), step):
                some = some.requires_grad_(True)
                (own,) = torch.autograd.grad(self.loss(here, some, of, len(batch)), here, create_graph=True)
                yield own, some

        return StepGraph(images, here, batch, parts())

    def _parts(self, batch: Tensor, step: Step) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of a batch, in parts."""
        labels = self.labels[step.rows.to(self.labels.device)]
        return zip(torch.split(batch, self.part), torch.split(labels, self.part), strict=True)


def keeps_graphs(images: int, steps: int, side: int, width: int, device: torch.device) -> bool:
    """Whether the graphs of N steps on so many images fit into memory beside everything else."""
    cuda = device.type == "cuda"
    free = torch.cuda.get_device_properties(device).total_memory // 2 if cuda else CPU_GRAPH_BYTES
    return images * steps * GRAPH_BYTES * width * side**2 <= free


# -- what surrounds the student --------------------------------------------------------------------------------------------


def balance(start: int, max_start: int, kind: str) -> float:
    """nu of Eq. 2: below 1 for early start epochs, above 1 for late ones. `kind`: none, paper (natural log), released (base 5)."""
    if kind == "none":
        return 1.0
    middle = max_start // 2
    log = math.log(abs(start - middle) + THETA) / (1.0 if kind == "paper" else math.log(RELEASED_BASE))
    return log if start >= middle else 1 / log


def points(expert: Tensor, start: Tensor, steps: int, intermediate: str, weights: str) -> list[Point]:
    """Where and with what the student is compared: with the expert's epochs 1..M after the start, the last one after N steps.

    expert: [M+1,P], the start epoch and the M after it. intermediate: none, paper (after floor(i N / M) steps) or released
    (after i floor(N / M)). weights: `equal` or `varied` (i / M), paper's section 4.1. Distances are divided by that from the
    perturbed start (Eq. 4). Eq. 4 counts the target in student steps, which the expert has none of: epoch i is meant.
    """
    epochs = len(expert) - 1
    found = []
    for i in range(1 if intermediate != "none" else epochs, epochs + 1):
        step = i * steps // epochs if intermediate != "released" else i * (steps // epochs)
        beta = i / epochs if weights == "varied" else 1.0
        distance = float((start - expert[i]).square().sum())
        if not distance > 0:
            raise MabenchError(f"the expert did not move in {i} epochs from its start. Train it at a higher rate.")
        found.append(Point(steps if i == epochs else step, expert[i], beta / distance))
    return found


def perturbed(weights: Tensor, flat: Flat, kind: str, scale: float, generator: torch.Generator) -> Tensor:
    """theta* of Eq. 5, [P]: none; paper (a normal draw per filter, as long as `scale` times the filter); released (convolutions
    only: the weights times a normal draw whose norm over the whole tensor is 1; no scale).

    A filter is what one output unit receives, so rows of the classifier count; biases and norms stay.
    """
    if kind == "none":
        return weights
    moved = []
    for tensor in flat.split(weights):
        if tensor.dim() < 2 or (kind == "released" and tensor.dim() < 4):
            moved.append(tensor)
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
        if kind == "released":
            moved.append(tensor + noise / noise.norm() * tensor)
        else:
            rows = (len(tensor),) + (1,) * (tensor.dim() - 1)
            lengths = tensor.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
            moved.append(tensor + scale * lengths.view(rows) * noise)
    return flat.join(moved)


def inner_batches(total: int, size: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of `count` batches: shuffled chunks of all `total` rows, the last and perhaps short one first, then shuffled again
    (MTT's code). `size` 0 = every batch holds all rows."""
    chunks: list[Tensor] = []
    batches = []
    for _ in range(count):
        if not chunks:
            chunks = list(torch.split(torch.randperm(total, generator=generator), size or total))
        batches.append(chunks.pop())
    return batches
