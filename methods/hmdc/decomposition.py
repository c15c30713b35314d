"""Spatial-Semantic Decomposition: the features of any two networks with a map of the image in them, made comparable
(HMDC, section 3.4, Eq. 6 to 12).

A feature is a pair: semantic [B,D], the image as a whole, and spatial [B,D,h,w], its places. Legend: B images, D channels of a
feature, h w sides of its map, L layers, d channels and s side that both networks are brought to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import Dataset
from mabench.errors import MabenchError
from mabench.networks import architectures as networks
from mabench.networks import evaluators
from mabench.schema import Evaluator

Feature = tuple[Tensor, Tensor]
Shape = tuple[int, int]
"""(channels, smaller side) of a feature."""


class SpatialNetwork(nn.Module):
    """An evaluator that also gives its features: images [B,C,S,S] in the dataset's normalised space -> (logits [B,K], features).

    Vision transformers: the class token and the map of the other tokens after every block (Eq. 6); everything else: the mean of
    the map and the map, at the end of every stage (Eq. 8 and 9). Stages of the field's own networks end with a pooling, as in the
    released code. `repeat_last` gives the last feature of such a network twice, as the released ConvNet does.
    `own_statistics` brings the images to the mean and std of the evaluator's weights; the released code does not.
    Raises MabenchError for a network without a map.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        model: nn.Module,
        dataset: Dataset,
        *,
        repeat_last: bool = False,
        own_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.evaluator, self.model, self.repeat_last = evaluator, model, repeat_last
        self.taps: frozenset[int] = frozenset()
        if isinstance(model, networks.Network):
            self.taps = _stage_ends(model)
        if not (self.taps or hasattr(model, "forward_intermediates")):
            raise MabenchError(
                f"{evaluator.name}: has no spatial features, which HMDC compares. Choose a convolutional network or a "
                "transformer with a map of tokens, such as convnet3-scratch or vit_tiny-pretrained (mabench list)."
            )
        self.once = self.side_by_side = self.channels_last = False
        self.fuses = True
        """Whether fused attention pays on the device."""
        scale, shift = [1.0] * dataset.channels, [0.0] * dataset.channels
        if own_statistics and evaluator.mean is not None and evaluator.std is not None:
            scale = [d / e for d, e in zip(dataset.std, evaluator.std, strict=True)]
            shift = [(d - e) / s for d, e, s in zip(dataset.mean, evaluator.mean, evaluator.std, strict=True)]
        self.moved = own_statistics
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1), persistent=False)

    @contextmanager
    def configured(self, *, once: bool, side_by_side: bool = False) -> Iterator[None]:
        """Run passes that are differentiated at most `once`, by fused kernels, which have no second derivative; `side_by_side`: with
        one copy of the parameters a class."""
        before = self.once, self.side_by_side
        self._configure(once, side_by_side)
        try:
            yield
        finally:
            self._configure(*before)

    def _configure(self, once: bool, side_by_side: bool) -> None:
        self.once, self.side_by_side = once, side_by_side
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = self.fuses and once and not side_by_side  # type: ignore[assignment]

    def forward(self, images: Tensor) -> tuple[Tensor, list[Feature]]:
        last, features = self._walk(images)
        if isinstance(self.model, networks.Network):
            logits: Tensor = self.model.classifier(last.flatten(1))
            return logits, features + features[-1:] if self.repeat_last else features
        return cast(Any, self.model).forward_head(last), features

    def embed(self, images: Tensor) -> Tensor:
        """What enters the classifier: [B,D]; for a vision transformer its normed class token."""
        last, _ = self._walk(images)
        if isinstance(self.model, networks.Network):
            return last.flatten(1)
        return cast(Tensor, cast(Any, self.model).forward_head(last, pre_logits=True)).flatten(1)

    def head(self) -> nn.Linear:
        """The last linear layer."""
        return evaluators.head(self.model)

    def _walk(self, images: Tensor) -> tuple[Tensor, list[Feature]]:
        """What comes before the head, and the features."""
        side = self.evaluator.input_size
        if self.moved:
            images = images * cast(Tensor, self.scale) + cast(Tensor, self.shift)
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)  # as the released code
        if self.channels_last and not self.side_by_side:
            images = images.contiguous(memory_format=torch.channels_last)
        if isinstance(self.model, networks.Network):
            maps, x = [], images
            for index, layer in enumerate(cast(nn.Sequential, self.model.features)):
                x = layer(x)
                if index in self.taps:
                    maps.append(x)
            return x, [(m.mean((2, 3)), m) for m in maps]
        model = cast(Any, self.model)
        if getattr(model, "num_prefix_tokens", 0):
            last, found = model.forward_intermediates(images, return_prefix_tokens=True)
            return last, [(prefix[:, 0], spatial) for spatial, prefix in found]
        last, maps = model.forward_intermediates(images)
        if isinstance(pooling := getattr(model, "maxpool", None), nn.Module):
            maps = [pooling(maps[0]), *maps[1:]]  # timm gives a ResNet's stem before its pooling, the released code after it
        return last, [(m.mean((2, 3)), m) for m in maps]


def _stage_ends(network: networks.Network) -> frozenset[int]:
    """Positions in `features` whose output closes a stage: poolings, or the last residual block of each width."""
    layers = list(network.features.children())
    pooled = [i for i, layer in enumerate(layers) if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d)]
    if pooled:
        return frozenset(pooled)
    blocks = [i for i, layer in enumerate(layers) if isinstance(layer, networks.BasicBlock | networks.Bottleneck)]
    starts = [i for i in blocks[1:] if _stride(layers[i]) != 1]
    return frozenset([i - 1 for i in starts] + blocks[-1:])


def _stride(block: nn.Module) -> int:
    return max(int(m.stride[0]) for m in block.modules() if isinstance(m, nn.Conv2d))


def shapes(features: Sequence[Feature]) -> list[Shape]:
    """Channels and smaller side of each feature."""
    return [(spatial.shape[1], min(spatial.shape[2:])) for _, spatial in features]


class Alignment(nn.Module):
    """The affine layers and the layer matching of a pair (Eq. 7, 10 and 11): two lists of features -> two [B,L,1+s*s,d].

    Side s, channels d and layers L are the smaller ones of the pair. One affine layer per network layer serves the semantic
    feature and all places. The deeper network is mixed down (the first where both are equally deep) by a softmax over `matching`
    [L, layers of the deeper], zero at the beginning. `softmax='paper'`: every layer of the result is a weighted mean of the deeper
    network's layers, as "layer selection" says; 'released': the softmax runs over the layers of the result, so that each layer
    of the deeper network hands out mass 1 and the results are sums with a total weight of its depth / L.
    """

    def __init__(self, first: Sequence[Shape], second: Sequence[Shape], softmax: str = "paper") -> None:
        super().__init__()
        both = [*first, *second]
        self.side = min(side for _, side in both)
        self.channels = min(channels for channels, _ in both)
        self.affine = nn.ModuleList(
            nn.ModuleList(nn.Linear(channels, self.channels) for channels, _ in own) for own in (first, second)
        )
        self.deeper = 1 if len(second) > len(first) else 0
        depths = sorted((len(first), len(second)))
        self.matching = nn.Parameter(torch.zeros(depths[0], depths[1]))
        self.over = {"paper": 1, "released": 0}[softmax]

    def forward(self, first: Sequence[Feature], second: Sequence[Feature]) -> tuple[Tensor, Tensor]:
        aligned = [
            torch.stack([layer(self._tokens(f)) for layer, f in zip(cast(nn.ModuleList, layers), own, strict=True)], 1)
            for layers, own in zip(self.affine, (first, second), strict=True)
        ]
        aligned[self.deeper] = torch.einsum("bfpd,tf->btpd", aligned[self.deeper].to(self.matching.dtype), self.weights())
        return aligned[0], aligned[1]

    def weights(self) -> Tensor:
        """Share of every layer of the deeper network in every layer of the result: [L, layers of the deeper]."""
        return self.matching.softmax(self.over)

    def _tokens(self, feature: Feature) -> Tensor:
        """Semantic feature, then the map at the common side, row by row: [B,1+s*s,D]."""
        semantic, spatial = feature
        if spatial.shape[2:] != (self.side, self.side):
            spatial = F.interpolate(spatial, size=(self.side, self.side), mode="bilinear", align_corners=True)
        return torch.cat([semantic.unsqueeze(1), spatial.flatten(2).transpose(1, 2)], 1)


class Distillation(nn.Module):
    """Mutual distillation of any number of networks: features of each -> the mean squared difference of the aligned features (Eq. 12),
    summed over the pairs of networks (the paper has one pair). One alignment a pair."""

    def __init__(self, sizes: Sequence[Sequence[Shape]], softmax: str = "paper") -> None:
        super().__init__()
        self.pairs = list(itertools.combinations(range(len(sizes)), 2))
        self.alignments = nn.ModuleList(Alignment(sizes[i], sizes[j], softmax) for i, j in self.pairs)

    def forward(self, features: Sequence[Sequence[Feature]]) -> Tensor:
        losses = []
        for (i, j), alignment in zip(self.pairs, self.alignments, strict=True):
            first, second = alignment(features[i], features[j])
            wide = torch.promote_types(first.dtype, torch.float32)  # bfloat16 sums are coarse
            losses.append(F.mse_loss(first.to(wide), second.to(wide)))
        return torch.stack(losses).sum()
