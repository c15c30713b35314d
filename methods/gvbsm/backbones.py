"""The backbones that are squeezed: the paper's five for small images, narrow ones for two cores, torchvision's for ImageNet-1k.

ConvNet and ResNet are the package's own (`mabench.networks.architectures`); here are the other three in the form that 32 px images want.
Legend: N images, C channels, S side in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import Dataset
from mabench.errors import MabenchError, lookup
from mabench.networks import architectures as networks
from mabench.networks.architectures import Network

PRETRAINED = "torchvision-"
"""Prefix of backbones whose weights are torchvision's, for ImageNet-1k."""


def _conv_norm(inputs: int, outputs: int, side: int = 1, stride: int = 1, *, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias that keeps the map's size up to its stride, batch norm, and ReLU where wanted."""
    layers = [nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class _WideBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions; the shortcut leaves after the first ReLU where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.norm1(x))
        out: Tensor = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(Network):
    """WRN-`depth`-`widen` (Zagoruyko & Komodakis 2016): three stages of 16, 32 and 64 times `widen` channels."""

    def __init__(self, num_classes: int, channels: int, image_size: int, depth: int = 16, widen: int = 2) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise MabenchError(f"WRN of depth {depth}: allowed are 10, 16, 22, ... (6 n + 4).")
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 1, 1, bias=False)]
        inputs = 16
        for stage in range(3):
            for block in range((depth - 4) // 6):
                outputs = 16 * 2**stage * widen
                layers.append(_WideBlock(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(inputs, num_classes)


class _InvertedResidual(nn.Module):
    """1x1 wider, 3x3 depthwise, 1x1 narrower without ReLU; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.body = nn.Sequential(
            _conv_norm(inputs, hidden),
            _conv_norm(hidden, hidden, 3, stride, groups=hidden),
            _conv_norm(hidden, outputs, relu=False),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.residual else out


MOBILE_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, blocks, stride of the first; strides of the first two stages are 1 for small images."""


class MobileNetV2(Network):
    """MobileNetV2 (Sandler et al. 2018) whose stages shrink the image 16 times instead of 32; `last` channels at the end."""

    def __init__(self, num_classes: int, channels: int, image_size: int, width: float = 0.5, last: int = 1280) -> None:
        super().__init__()
        inputs = int(32 * width)
        layers: list[nn.Module] = [_conv_norm(channels, inputs, 3, 2)]
        for expansion, base, blocks, stride in MOBILE_STAGES:
            for block in range(blocks):
                outputs = int(base * width)
                layers.append(_InvertedResidual(inputs, outputs, 1 if block else stride, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _conv_norm(inputs, last), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(last, num_classes)


class _ShuffleUnit(nn.Module):
    """Half of the channels (all of them, at stride 2) through 1x1, 3x3 depthwise and 1x1; then the halves are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.split = outputs // 2, stride == 1
        own = inputs // 2 if self.split else inputs
        self.main = nn.Sequential(
            _conv_norm(own, half), _conv_norm(half, half, 3, stride, groups=half, relu=False), _conv_norm(half, half)
        )
        self.side = (
            nn.Identity()
            if self.split
            else nn.Sequential(_conv_norm(inputs, inputs, 3, stride, groups=inputs, relu=False), _conv_norm(inputs, half))
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        return F.channel_shuffle(torch.cat([self.side(left), self.main(right)], 1), 2)


class ShuffleNetV2(Network):
    """ShuffleNetV2 (Ma et al. 2018) for small images: 1x1 stem at stride 1, no pooling before the stages."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: int,
        widths: tuple[int, ...] = (48, 96, 192),
        last: int = 1024,
        blocks: tuple[int, ...] = (3, 7, 3),
    ) -> None:
        super().__init__()
        inputs = 24
        layers: list[nn.Module] = [_conv_norm(channels, inputs)]
        for outputs, count in zip(widths, blocks, strict=True):
            layers.append(_ShuffleUnit(inputs, outputs, 2))
            layers += [_ShuffleUnit(outputs, outputs, 1) for _ in range(count)]
            inputs = outputs
        self.features = nn.Sequential(*layers, _conv_norm(inputs, last), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(last, num_classes)


_Build = Callable[..., Network]
BACKBONES: dict[str, tuple[_Build, dict[str, Any]]] = {
    # the paper's, section 4; parameters and hooked layers agree with the released code's networks
    "resnet18": (networks.ResNet, {"depth": 18, "norm": "batch"}),
    "convnet128": (networks.ConvNet, {"depth": 3, "width": 128}),
    "mobilenetv2_0_5": (MobileNetV2, {"width": 0.5}),
    "wrn16_2": (WideResNet, {"depth": 16, "widen": 2}),
    "shufflenetv2_0_5": (ShuffleNetV2, {}),
    # RDED's Conv3: the same with batch norm
    "convnet128_bn": (networks.ConvNet, {"depth": 3, "width": 128, "norm": "batch"}),
    # ours: the same families, narrow enough for two processor cores
    "convnet48": (networks.ConvNet, {"depth": 3, "width": 48}),
    "convnet48_bn": (networks.ConvNet, {"depth": 3, "width": 48, "norm": "batch"}),
    "convnet32_max": (networks.ConvNet, {"depth": 3, "width": 32, "norm": "batch", "pooling": "max"}),
    "wrn10_1": (WideResNet, {"depth": 10, "widen": 1}),
    "mobilenetv2_0_25": (MobileNetV2, {"width": 0.25, "last": 320}),
    "shufflenetv2_small": (ShuffleNetV2, {"widths": (32, 64, 128), "last": 256, "blocks": (1, 2, 1)}),
    # ours: for tests that last seconds
    "convnet8": (networks.ConvNet, {"depth": 3, "width": 8}),
    "convnet8_bn": (networks.ConvNet, {"depth": 4, "width": 8, "norm": "batch"}),
}
TORCHVISION = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")  # paper, section 4; weights IMAGENET1K_V1
NAMES = (*BACKBONES, *(PRETRAINED + name for name in TORCHVISION))


def build(name: str, dataset: Dataset, seed: int) -> nn.Module:
    """A backbone for this dataset, [N,C,S,S] -> [N,K], its weights drawn from `seed` alone, or torchvision's.

    Raises MabenchError for an unknown name, and for torchvision's weights on anything but ImageNet-1k or without a network.
    """
    if name.startswith(PRETRAINED):
        return _from_torchvision(name, dataset)
    make, arguments = lookup(BACKBONES, name, "backbone")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(dataset.num_classes, dataset.channels, dataset.image_size, **arguments)


def _from_torchvision(name: str, dataset: Dataset) -> nn.Module:
    import torchvision.models

    if name not in NAMES:
        raise MabenchError(f"unknown backbone '{name}'. Known: {', '.join(NAMES)}")
    if dataset.name != "imagenet1k":
        raise MabenchError(f"{name} knows the classes of imagenet1k, not those of {dataset.name}. Name backbones to be trained.")
    try:
        network: nn.Module = torchvision.models.get_model(name.removeprefix(PRETRAINED), weights="IMAGENET1K_V1")
    except OSError as error:
        raise MabenchError(
            f"{name}: its weights are not in PyTorch's hub folder and cannot be fetched ({type(error).__name__}). Connect once."
        ) from error
    return network
