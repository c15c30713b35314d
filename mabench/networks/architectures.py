"""The field's own small networks, with PyTorch's default initialisation; timm has the rest.

Legend: N images, C channels, S side in pixels, K classes. "Instance norm" is GroupNorm with one channel a group, affine,
as in the code of DC, DSA, DM, MTT and their descendants. Every network's last layer is `classifier`, and `embed` gives
what enters it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mabench.errors import MabenchError, lookup
from mabench.networks.layers import AvgPool, InstanceNorm, MaxPool

NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    # (channels, side) -> layer
    "instance": lambda channels, side: InstanceNorm(channels),
    "group": lambda channels, side: nn.GroupNorm(4, channels),
    "batch": lambda channels, side: nn.BatchNorm2d(channels),
    "layer": lambda channels, side: nn.LayerNorm([channels, side, side]),
    "none": lambda channels, side: nn.Identity(),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "sigmoid": nn.Sigmoid,
    "swish": nn.SiLU,
}
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "avg": AvgPool,
    "max": MaxPool,
    "none": nn.Identity,
}


class Network(nn.Module):
    """Features, then one linear layer: images [N,C,S,S] -> logits [N,K]."""

    features: nn.Module
    classifier: nn.Linear

    def embed(self, images: Tensor) -> Tensor:
        """What enters the classifier: [N,D]."""
        embedded: Tensor = self.features(images)
        return embedded.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.embed(images))
        return logits


class ConvNet(Network):
    """`depth` blocks of 3x3 convolution, norm, activation, 2x2 pooling (Gidaris & Komodakis 2018; the field's ConvNet-D)."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: int,
        depth: int = 3,
        width: int = 128,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        make_norm = lookup(NORMS, norm, "norm")
        make_activation = lookup(ACTIVATIONS, activation, "activation")
        make_pooling = lookup(POOLINGS, pooling, "pooling")
        layers: list[nn.Module] = []
        side, inputs = image_size, channels
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), make_norm(width, side), make_activation(), make_pooling()]
            side, inputs = (side if pooling == "none" else side // 2), width
        if side < 1:
            raise MabenchError(
                f"ConvNet of depth {depth} pools {image_size} px away. Allowed: a depth of at most {image_size.bit_length() - 1}."
            )
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * side * side, num_classes)


class MLP(Network):
    """Two hidden layers of 128 (Model Pool's evaluator)."""

    def __init__(self, num_classes: int, channels: int, image_size: int, width: int = 128) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * image_size * image_size, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(width, num_classes)


class LeNet(Network):
    """LeNet-5 with ReLU and max pooling, 5x5 convolutions without padding (Model Pool's evaluator)."""

    def __init__(self, num_classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(inplace=True),
            MaxPool(),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            MaxPool(),
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(84, num_classes)


class AlexNet(Network):
    """AlexNet for small images, no norm, no dropout (Model Pool's and AST's evaluator)."""

    def __init__(self, num_classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 5, padding=2),
            nn.ReLU(inplace=True),
            MaxPool(),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            MaxPool(),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(inplace=True),
            MaxPool(),
        )
        self.classifier = nn.Linear(192 * (image_size // 8) ** 2, num_classes)


class VGG11(Network):
    """VGG-11 for small images: eight 3x3 convolutions, five poolings, one linear layer (Model Pool's and AST's evaluator)."""

    def __init__(self, num_classes: int, channels: int, image_size: int, norm: str = "instance") -> None:
        super().__init__()
        make_norm = lookup(NORMS, norm, "norm")
        layers: list[nn.Module] = []
        side, inputs = image_size, channels
        for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):  # 0 = pooling
            if width == 0:
                layers.append(MaxPool())
                side //= 2
            else:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), make_norm(width, side), nn.ReLU(inplace=True)]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512 * side * side, num_classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        make_norm, outputs = NORMS[norm], width * self.expansion
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            make_norm(width, 0),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            make_norm(width, 0),
        )
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut (He et al. 2016)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        make_norm, outputs = NORMS[norm], width * self.expansion
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            make_norm(width, 0),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            make_norm(width, 0),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            make_norm(outputs, 0),
        )
        self.shortcut = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, norm: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), NORMS[norm](outputs, 0))


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], int, tuple[int, ...]]] = {
    # depth -> block, width of the first stage, blocks per stage; each further stage is twice as wide at half the side
    "18": (BasicBlock, 64, (2, 2, 2, 2)),
    "20": (BasicBlock, 16, (3, 3, 3)),  # He et al. 2016, section 4.2, with projections as shortcuts
    "50": (Bottleneck, 64, (3, 4, 6, 3)),
    "101": (Bottleneck, 64, (3, 4, 23, 3)),
}


class ResNet(Network):
    """ResNet with the CIFAR stem (3x3, stride 1, no pooling); instance or batch norm; depth 18, 20, 50 or 101."""

    def __init__(self, num_classes: int, channels: int, image_size: int, depth: int = 18, norm: str = "instance") -> None:
        super().__init__()
        block, base, counts = lookup(RESNETS, str(depth), "ResNet depth")
        if norm not in ("instance", "batch"):
            raise MabenchError(f"ResNet norm '{norm}': allowed are instance and batch")
        layers: list[nn.Module] = [nn.Conv2d(channels, base, 3, 1, 1, bias=False), NORMS[norm](base, 0), nn.ReLU(inplace=True)]
        inputs = base
        for stage, count in enumerate(counts):
            width, first_stride = base * 2**stage, 1 if stage == 0 else 2
            for position in range(count):
                layers.append(block(inputs, width, first_stride if position == 0 else 1, norm))
                inputs = width * block.expansion
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(inputs, num_classes)


ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "convnet": ConvNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet": ResNet,
}


def build(architecture: str, *, num_classes: int, channels: int, image_size: int, **arguments: Any) -> Network:
    """The network called `architecture`, for images [N,channels,image_size,image_size]. Raises MabenchError for a typo."""
    return lookup(ARCHITECTURES, architecture, "architecture")(num_classes, channels, image_size, **arguments)
