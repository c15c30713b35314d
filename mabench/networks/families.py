"""Families of networks: what the members of one share, so that a panel of many ResNets and one Swin counts both alike. No torch."""

from __future__ import annotations

from mabench.schema import Evaluator

_FAMILIES = (
    ("convnet", "ConvNet"),
    ("resnet", "ResNet"),
    ("mobilenet", "MobileNet"),
    ("tf_efficientnet", "MobileNet"),  # built of MobileNetV2's blocks
    ("efficientnet", "MobileNet"),
    ("deit", "ViT"),
    ("vit", "ViT"),
    ("swin", "Swin"),
    ("mlp", "MLP"),
    ("lenet", "LeNet"),
    ("alexnet", "AlexNet"),
    ("vgg", "VGG"),
)


def family_of(evaluator: Evaluator) -> str:
    """ConvNet, ResNet, MobileNet, ViT, Swin; the architecture's own name where it is alone."""
    for short, spelled in _FAMILIES:
        if evaluator.architecture.startswith(short):
            return spelled
    return evaluator.architecture
