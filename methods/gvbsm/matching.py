"""What is matched: statistics of every layer's input, in the form of score distillation; and data densification.

Legend: B images of a batch, C channels, S side of a map in pixels, p side of a tile, T = ceil(S/p)^2 tiles, n images of a class.
"Input" is what enters a layer: the released code hooks the inputs of convolutions; the paper does not say which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.errors import MabenchError

from .. import kit

Statistics = tuple[Tensor, ...]
"""Channel mean [C] and variance [C]; of a convolution then patch mean [T] and variance [T], tiles row by row."""
KINDS = ("channel_mean", "channel_variance", "patch_mean", "patch_variance")
DENSIFICATION_SIDE = 32  # Eq. 4


def channel_statistics(x: Tensor) -> Statistics:
    """Mean and biased variance of each channel of [B,C,S,S] over images and pixels (Eq. 1)."""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return mean, variance


def layer_statistics(x: Tensor, side: int) -> Statistics:
    """All four statistics of [B,C,S,S] (Eq. 9 and 10); patches are over images, channels and the tile's `side` x `side` pixels.

    A map that tiles do not fill is enlarged bilinearly for its patches, as in the released code. Where they fill it one reduction
    per channel and tile serves both: the variance over a union of equal parts is the mean of theirs plus that of their means.
    """
    height, width = (-(-s // side) * side for s in x.shape[-2:])
    filled = (height, width) == tuple(x.shape[-2:])
    centre = x.detach().mean((0, 2, 3), keepdim=True)  # variances as mean of squares lose digits far from zero
    centred = (x if filled else F.interpolate(x, size=(height, width), mode="bilinear")) - centre
    mean = F.avg_pool2d(centred, side).mean(0)  # [C,rows,columns]
    variance = F.avg_pool2d(centred.square(), side).mean(0) - mean.square()
    offset = centre.view(-1, 1, 1)
    patch_mean = (mean + offset).mean(0)
    patch_variance = variance.mean(0) + (mean + offset - patch_mean).square().mean(0)
    if filled:
        channel_mean = mean.mean((1, 2))
        channel_variance = variance.mean((1, 2)) + (mean - channel_mean.view(-1, 1, 1)).square().mean((1, 2))
        channels: Statistics = (channel_mean + centre.flatten(), channel_variance)
    else:
        channels = channel_statistics(x)
    return *channels, patch_mean.flatten(), patch_variance.flatten()


# -- layers and the one pass through the real images -----------------------------------------------------------------------


def layers(teacher: nn.Module, *, convolution: bool) -> dict[str, nn.Module]:
    """Name -> batch norm layers with running statistics, and convolutions where wanted, in the order of `named_modules`."""
    return {
        name: module
        for name, module in teacher.named_modules()
        if (isinstance(module, nn.BatchNorm2d) and module.track_running_stats) or (convolution and isinstance(module, nn.Conv2d))
    }


@contextmanager
def tapped(chosen: Mapping[str, nn.Module], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While it lasts, `take(name, input)` hears of the input of every chosen layer, just before the layer runs."""

    def tap(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: take(name, inputs[0])

    handles = [module.register_forward_pre_hook(tap(name)) for name, module in chosen.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Recorder:
    """The statistics of every convolution over a dataset: the mean over batches of those within a batch, weighted by the
    batch's share of the images (Eq. 9). What differs between batches is therefore no part of a variance."""

    def __init__(self, teacher: nn.Module, side: int) -> None:
        self.teacher, self.side = teacher, side
        self.layers = {n: m for n, m in layers(teacher, convolution=True).items() if isinstance(m, nn.Conv2d)}
        self.totals: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, images: Tensor, share: float) -> None:
        """A batch of normalised images that is `share` of all of them; shares sum to 1."""

        def take(name: str, x: Tensor) -> None:
            for index, value in enumerate(layer_statistics(x, self.side)):
                mine = self.totals.setdefault(name, [])
                if index == len(mine):
                    mine.append(torch.zeros_like(value, dtype=torch.float64))
                mine[index] += value.double() * share

        with tapped(self.layers, take):
            self.teacher(images)

    def result(self) -> dict[str, Statistics]:
        """Name of a convolution -> its four statistics, float32."""
        return {name: tuple(v.float() for v in values) for name, values in self.totals.items()}


# -- matching --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """How statistics are held against their targets."""

    convolution: bool
    """Match convolutions too (GSM); without it only batch norm, as SRe2L does."""
    side: int
    """Side of a tile (the paper's N_p)."""
    norm: Literal["released", "paper"]
    """`released`: Euclidean distance; `paper`: its square (Eq. 6 and 10)."""
    momentum: float
    """The paper's alpha: how much of the statistics of past batches is kept; 0 = none."""
    momentum_start: Literal["released", "paper"]
    """`released`: past statistics begin at zero; `paper`: at the first ones seen (Eq. 6 has no other beginning)."""
    drop: float
    """The paper's beta_dr: probability that a convolution is left out of a step."""
    first_weight: float
    """Weight of the first layer of a backbone: 10 in the released code, not in the paper."""

    def __post_init__(self) -> None:
        kit.check_fields(self)
        for name in ("momentum", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise MabenchError(f"{name} = {getattr(self, name)}: allowed is 0 to 1.")


def smoothed(past: Tensor, now: Tensor) -> Tensor:
    """Value of `past`, gradient of `now`: matching in the form of score distillation (Eq. 6)."""
    return past + now - now.detach()


def distances(difference: Tensor, sizes: Sequence[int], weights: Tensor, norm: str) -> Tensor:
    """The sum of the Euclidean norms (`released`) of the parts of a vector, or of their squares (`paper`), each times its weight.

    `sizes`: of the parts, which lie in a row. A part of zeros has no gradient.
    """
    factors = weights
    if norm == "released":  # |d| = d . d / |d|, whose second factor is the gradient
        norms = torch.stack(torch._foreach_norm(torch.split(difference.detach(), list(sizes))))
        factors = torch.where(norms > 0, weights / norms, 0.0)
    every = factors.repeat_interleave(torch.tensor(sizes, device=factors.device), output_size=len(difference))
    return (difference * difference.detach() * every).sum() if norm == "released" else (difference.square() * every).sum()


def in_a_row(layers: Iterable[Statistics]) -> Tensor:
    """All statistics of these layers as one vector."""
    return torch.cat([value for statistics in layers for value in statistics])


def apart(vector: Tensor, like: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """The way back: the parts of the vector by layer, shaped `like` these."""
    parts = iter(torch.split(vector, [len(value) for statistics in like.values() for value in statistics]))
    return {name: tuple(next(parts) for _ in statistics) for name, statistics in like.items()}


class Matcher:
    """One backbone with its targets: images -> logits and the matching loss of all its layers."""

    def __init__(self, teacher: nn.Module, convolutions: Mapping[str, Statistics], rules: Rules) -> None:
        self.teacher, self.rules = teacher, rules
        self.layers = layers(teacher, convolution=rules.convolution)
        self.targets: dict[str, Statistics] = {}
        for name, module in self.layers.items():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                self.targets[name] = (module.running_mean, module.running_var)
            else:
                self.targets[name] = convolutions[name]
        self.weights = {name: rules.first_weight if i == 0 else 1.0 for i, name in enumerate(self.layers)}
        self.past: dict[str, Statistics] = {}
        """Layer -> running average of the images' statistics; part of a checkpoint."""

    def __call__(self, images: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Logits [B,K] and loss []. Convolutions are dropped at random, neither matched nor averaged; batch norm never is."""
        kept = torch.rand(len(self.layers), generator=draws) >= self.rules.drop
        chosen = {
            name: module
            for (name, module), keep in zip(self.layers.items(), kept.tolist(), strict=True)
            if keep or isinstance(module, nn.BatchNorm2d)
        }
        found: dict[str, Statistics] = {}

        def take(name: str, x: Tensor) -> None:
            batch_norm = isinstance(self.layers[name], nn.BatchNorm2d)
            found[name] = channel_statistics(x) if batch_norm else layer_statistics(x, self.rules.side)

        with tapped(chosen, take):
            logits: Tensor = self.teacher(images)
        return logits, self._loss(found) if found else logits.new_zeros(())

    def _loss(self, found: Mapping[str, Statistics]) -> Tensor:
        """The weighted distances of all layers, in one vector: layer by layer they would be thousands of small operations a step."""
        now, target = in_a_row(found.values()), in_a_row(self.targets[name] for name in found)
        difference = smoothed(self._update(found, now.detach()), now) - target
        sizes = [len(value) for statistics in found.values() for value in statistics]
        weights = difference.new_tensor([self.weights[name] for name, statistics in found.items() for _ in statistics])
        return distances(difference, sizes, weights, self.rules.norm)

    def _update(self, found: Mapping[str, Statistics], now: Tensor) -> Tensor:
        """The running average of these layers with the present in it; `now`, its parts in a row, has no graph."""
        momentum, present = self.rules.momentum, apart(now, found)
        if self.rules.momentum_start == "paper":
            before = {name: self.past.get(name, values) for name, values in present.items()}
        else:
            before = {name: self.past.get(name) or tuple(torch.zeros_like(v) for v in values) for name, values in present.items()}
        after = momentum * in_a_row(before.values()) + (1 - momentum) * now
        self.past.update(apart(after, found))
        return after


# -- densification ---------------------------------------------------------------------------------------------------------


def densification(images: Tensor, classes: Sequence[Tensor], temperature: float, *, normalised: bool) -> Tensor:
    """Data densification, Eq. 5: sum over classes of KL(softmax(l / temperature), held fixed || softmax(l)), where l are the
    eigenvalues [n] of the class's Gram matrix at 32 px. `classes`: the rows of each, see `same_sized`.

    As published (`normalised=False`) eigenvalues are in the thousands for 32 px images, both distributions are one-hot in
    float32, and loss and gradient are exactly zero. `normalised` divides l by its mean: independent of contrast and resolution,
    and alive as long as one direction dominates. Zero for a class with one image.
    """
    side = min(DENSIFICATION_SIDE, images.shape[-1])
    flat = F.adaptive_avg_pool2d(images, side).flatten(1)
    total = images.new_zeros(())
    for rows in classes:
        own = flat[rows]  # [k,n,D]
        values = torch.linalg.eigvalsh(own @ own.mT)
        if normalised:
            values = values / values.mean(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
        target = F.log_softmax(values.detach() / temperature, 1)
        total = total + F.kl_div(F.log_softmax(values, 1), target, reduction="sum", log_target=True)
    return total


def same_sized(labels: Tensor) -> list[Tensor]:
    """The rows of the classes that `labels` [B] name, where they lie: [k,n] of the k classes that have n images, for every n.

    One call serves all classes with equally many images.
    """
    groups: dict[int, list[Tensor]] = {}
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero().flatten()
        groups.setdefault(len(rows), []).append(rows)
    return [torch.stack(rows) for rows in groups.values()]
