"""Pooling over 2x2 pixels, written out for a compiler: its own goes pixel by pixel, and does not fuse.

Legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mabench.engine.kernels.substitution import substitute
from mabench.networks import layers


def corners(x: Tensor) -> list[Tensor]:
    """[N,C,H,W] -> the four pixels of every 2x2, four times [N,C,H//2,W//2]."""
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    return [x[:, :, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]


def largest(x: Tensor) -> Tensor:
    """The largest of 2x2 pixels, NaN above all: [N,C,H,W] -> [N,C,H//2,W//2]."""
    found, *others = corners(x)
    for other in others:
        found = torch.where((other > found) | (other != other), other, found)
    return found


class MaxPool(layers.MaxPool):
    """The largest of 2x2 pixels; gradients go to the first of equals, NaN wins, as in `nn.MaxPool2d`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return largest(input)
        pooled: Tensor = super().forward(input)
        return pooled


class AvgPool(layers.AvgPool):
    """The mean of 2x2 pixels."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() or torch.is_grad_enabled():
            return super().forward(input)
        # written out, so that it fuses with the activation before it; the compiler's own pooling has the faster gradient
        parts = [corner.float() for corner in corners(input)]
        return ((parts[0] + parts[1] + parts[2] + parts[3]) / 4).to(input.dtype)


def adopt(model: nn.Module) -> int:
    """Let every 2x2 pooling compute this way when it is compiled; return how many there are."""
    return substitute(model, layers.MaxPool, MaxPool) + substitute(model, layers.AvgPool, AvgPool)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, MaxPool, layers.MaxPool)
    substitute(model, AvgPool, layers.AvgPool)
