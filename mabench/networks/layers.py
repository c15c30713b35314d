"""The layers of the field's small networks that PyTorch has under another name. Plain: how a compiled network computes them
faster is the engine's business (`mabench.engine.kernels`)."""

from __future__ import annotations

from torch import nn


class InstanceNorm(nn.GroupNorm):
    """Every channel of every image to mean 0 and variance 1, then an affine map: [N,channels,S,S] of any S."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)


class MaxPool(nn.MaxPool2d):
    """The largest of 2x2 pixels: [N,C,S,S] -> [N,C,S//2,S//2]."""

    def __init__(self) -> None:
        super().__init__(2)


class AvgPool(nn.AvgPool2d):
    """The mean of 2x2 pixels: [N,C,S,S] -> [N,C,S//2,S//2]."""

    def __init__(self) -> None:
        super().__init__(2)
