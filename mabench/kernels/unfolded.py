"""Convolutions on small maps as products of matrices, for processors that multiply bfloat16 in tiles.

A tile multiplies sixteen pixels at once, and the processor's library fills it from one row of the map: with four pixels
in a row three quarters of it stay empty. Unfolded, all pixels of all images are rows of one matrix. The weight gradient
gains up to maps of eight pixels, the rest up to four; beyond that, copying every pixel into nine rows costs more.

Legend: N images, C channels in, D channels out, H and W pixels, K side of the filters.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.kernels import substitute

SMALL = 4  # pixels: side of a result up to which images and their gradients are unfolded
SMALL_FOR_WEIGHTS = 8  # the same for the weights' gradient
CHANNELS = 64  # ours: with fewer the matrices are too narrow to gain


def _rows(x: Tensor, side: int, stride: int, padding: int, *, last_first: bool = False) -> Tensor:
    """[N,C,H,W] -> [pixels of the result, side*side*C]: what each of them sees, row by row, or from the last pixel to the first."""
    _, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    down, across = height + 2 * padding - side + 1, width + 2 * padding - side + 1
    seen = [padded[:, i : i + down : stride, j : j + across : stride] for i in range(side) for j in range(side)]
    return torch.cat(seen[::-1] if last_first else seen, -1).reshape(-1, side * side * channels)


def _map(pixels: Tensor, like: Tensor, height: int) -> Tensor:
    """[N*H*W,D] -> [N,D,H,W], as many images as `like`."""
    return pixels.view(len(like), height, -1, pixels.shape[-1]).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """Each of the three products as whichever form is faster for this size of map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        narrow = weight.to(x.dtype)
        if _side(x, weight, stride, padding) <= SMALL:
            filters = narrow.permute(0, 2, 3, 1).reshape(len(weight), -1)
            down = (x.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
            return _map(_rows(x, weight.shape[-1], stride, padding) @ filters.t(), x, down)
        return F.conv2d(x, narrow, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding, narrow, side = ctx.stride, ctx.padding, weight.to(x.dtype), weight.shape[-1]
        for_x, for_weight = ctx.needs_input_grad[:2]
        unfolds_x = stride == 1 and gradient.shape[-1] <= SMALL
        unfolds_weight = gradient.shape[-1] <= SMALL_FOR_WEIGHTS
        of_x: Tensor | None = None
        of_weight: Tensor | None = None
        ordinary = (for_x and not unfolds_x, for_weight and not unfolds_weight)
        if any(ordinary):
            of_x, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, narrow, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [*ordinary, False]
            )
        if for_x and unfolds_x:
            # pixels in reverse instead of filters: the compiler's program for flipped filters gave NaN (torch 2.15)
            filters = narrow.permute(1, 2, 3, 0).reshape(x.shape[1], -1)
            of_x = _map(_rows(gradient, side, 1, side - 1 - padding, last_first=True) @ filters.t(), x, x.shape[2])
        if for_weight and unfolds_weight:
            pixels = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
            product = pixels.t() @ _rows(x, side, stride, padding)
            of_weight = product.view(len(weight), side, side, -1).permute(0, 3, 1, 2)
        return of_x, None if of_weight is None else of_weight.to(weight.dtype), None, None


def convolution(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution with a border of zeros: [N,C,H,W], [D,C,K,K] -> [N,D,H',W'], of the images' type."""
    out: Tensor = _Convolution.apply(x, weight, stride, padding)
    return out


def _side(x: Tensor, weight: Tensor, stride: int, padding: int) -> int:
    return (int(x.shape[-1]) + 2 * padding - int(weight.shape[-1])) // stride + 1


class UnfoldedConv2d(nn.Conv2d):
    """A convolution that `adopt` took over; where the result is no small map it goes the ordinary way."""

    def forward(self, input: Tensor) -> Tensor:
        stride, padding = self.stride[0], int(self.padding[0])
        narrow = input.dtype == torch.bfloat16 and torch.compiler.is_compiling()
        if not narrow or _side(input, self.weight, stride, padding) > SMALL_FOR_WEIGHTS:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            out = convolution(input, self.weight, stride, padding)
            return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1)


def adopt(model: nn.Module) -> int:
    """Let convolutions between at least 64 channels compute this way on small maps; returns how many could.

    Weights, their names and everything else of the model stay as they are; `release` takes it back.
    """
    return substitute(model, nn.Conv2d, UnfoldedConv2d, _fits)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, UnfoldedConv2d, nn.Conv2d)


def _fits(module: nn.Conv2d) -> bool:
    (height, width), (down, across) = module.kernel_size, module.stride
    if isinstance(module.padding, str) or module.padding[0] != module.padding[1] or module.padding_mode != "zeros":
        return False
    square = height == width > 1 and down == across and module.padding[0] < height and module.dilation == (1, 1)
    return square and module.groups == 1 and min(module.in_channels, module.out_channels) >= CHANNELS
