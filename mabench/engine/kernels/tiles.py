"""Convolutions for processors that multiply bfloat16 in tiles (Intel AMX), where PyTorch's library is slow at them.

The library fills a tile with pixels of one row of one image, and the weights' gradient makes it turn its operands around for
every image. `tiles.cpp` fills tiles with one pixel of 16 or 32 images instead: maps may be small, borders and strides cost
nothing, and products with the zeros around a map are left out. Of the weights' gradient, images that do not fill a tile go by pixels. It is compiled when first wanted, and kept.

Legend: N images, C channels in, D channels out, H and W pixels, K side of the filters.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.engine.kernels import native, substitute

LARGEST = 4  # pixels: side of the result up to which images are convolved here; the library is faster beyond
LARGEST_STRIDED = 16  # the same for the images' gradient of a convolution with a stride


class _Shape(ctypes.Structure):
    """`Shape` in tiles.cpp."""

    _fields_ = native.fields("images", "height", "width", "channels", "down", "across", "filters", "side", "stride", "padding")


def _call(
    name: str,
    operands: tuple[Tensor, Tensor],
    out: Tensor,
    images: tuple[int, ...],
    weight: tuple[int, ...],
    stride: int,
    padding: int,
    *bias: Tensor | None,
) -> Tensor:
    """One product; `images` and `weight` are the shapes [N,C,H,W] and [D,C,K,K]."""
    count, channels, height, width = images
    filters, _, side, _ = weight
    down, across = (_side(pixels, side, stride, padding) for pixels in (height, width))
    shape = _Shape(count, height, width, channels, down, across, filters, side, stride, padding)
    assert not filters % native.CHANNELS
    native.call(name, *native.lying(*operands), *bias, out, shape)
    return out


@torch.library.custom_op("mabench::tiled_convolution", mutates_args=())
def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """[N,C,H,W], [D,C,K,K] -> [N,D,H',W'], all bfloat16 but for the bias [D], float32."""
    out = _made_convolution(x, weight, bias, stride, padding)
    bias = None if bias is None else bias.float().contiguous()
    return _call("convolution", (x, weight), out, x.shape, weight.shape, stride, padding, bias)


@_convolution.register_fake
def _made_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    down, across = (_side(int(pixels), int(weight.shape[-1]), stride, padding) for pixels in x.shape[2:])
    return native.empty(x, (x.shape[0], weight.shape[0], down, across), x.dtype)


@torch.library.custom_op("mabench::tiled_image_gradient", mutates_args=())
def _image_gradient(gradient: Tensor, weight: Tensor, height: int, width: int, stride: int, padding: int) -> Tensor:
    """[N,D,H',W'], [D,C,K,K] -> [N,C,H,W], all bfloat16."""
    out = _made_image_gradient(gradient, weight, height, width, stride, padding)
    return _call("image_gradient", (gradient, weight), out, out.shape, weight.shape, stride, padding)


@_image_gradient.register_fake
def _made_image_gradient(gradient: Tensor, weight: Tensor, height: int, width: int, stride: int, padding: int) -> Tensor:
    return native.empty(gradient, (gradient.shape[0], weight.shape[1], height, width), gradient.dtype)


@torch.library.custom_op("mabench::tiled_weight_gradient", mutates_args=())
def _weight_gradient(x: Tensor, gradient: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """bfloat16 [N,C,H,W], [N,D,H',W'] -> float32 [D,C,K,K]."""
    out = _made_weight_gradient(x, gradient, side, stride, padding)
    return _call("weight_gradient", (x, gradient), out, x.shape, out.shape, stride, padding)


@_weight_gradient.register_fake
def _made_weight_gradient(x: Tensor, gradient: Tensor, side: int, stride: int, padding: int) -> Tensor:
    return native.empty(x, (gradient.shape[1], x.shape[1], side, side), torch.float32)


class _Convolution(torch.autograd.Function):
    """Each of the three products by whichever program is faster for this size of map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.how = stride, padding
        if _side(x.shape[-1], weight.shape[-1], stride, padding) > LARGEST:
            return F.conv2d(x, narrow, None if bias is None else bias.to(x.dtype), stride, padding)
        out: Tensor = torch.ops.mabench.tiled_convolution(x, narrow, bias, stride, padding)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # here, so that whatever made it writes it so
        of_x: Tensor | None = None
        of_weight: Tensor | None = None
        of_bias = gradient.float().sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if ctx.needs_input_grad[0]:
            if gradient.shape[-1] <= (LARGEST if ctx.how[0] == 1 else LARGEST_STRIDED):
                of_x = torch.ops.mabench.tiled_image_gradient(gradient, weight, *x.shape[2:], *ctx.how)
            else:
                stride, padding = ([value] * 2 for value in ctx.how)
                wanted = [True, False, False]
                of_x, _, _ = torch.ops.aten.convolution_backward(
                    gradient, x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
                )
        if ctx.needs_input_grad[1]:
            of_weight = torch.ops.mabench.tiled_weight_gradient(x, gradient, weight.shape[-1], *ctx.how)
        return of_x, of_weight, of_bias, None, None


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution with a border of zeros: bfloat16 [N,C,H,W], weight [D,C,K,K] and bias [D] -> bfloat16 [N,D,H',W'].

    C and D are multiples of 32, and `native.load` went well.
    """
    out: Tensor = _Convolution.apply(x, weight, bias, stride, padding)
    return out


def _side(pixels: int, side: int, stride: int, padding: int) -> int:
    return (pixels + 2 * padding - side) // stride + 1


class TiledConv2d(nn.Conv2d):
    """A convolution that `adopt` took over; uncompiled or with other types it goes the ordinary way."""

    def forward(self, input: Tensor) -> Tensor:
        if not native.takes(input):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return convolution(input, self.weight, self.bias, self.stride[0], int(self.padding[0]))


def adopt(model: nn.Module) -> int:
    """Let convolutions with square filters of several pixels compute this way; returns how many could.

    Weights, their names and everything else of the model stay as they are; `release` takes it back.
    """
    return substitute(model, nn.Conv2d, TiledConv2d, _fits)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, TiledConv2d, nn.Conv2d)


def _fits(module: nn.Conv2d) -> bool:
    (height, width), (down, across) = module.kernel_size, module.stride
    if isinstance(module.padding, str) or module.padding[0] != module.padding[1] or module.padding_mode != "zeros":
        return False
    square = height == width > 1 and down == across and module.padding[0] < height and module.dilation == (1, 1)
    return square and module.groups == 1 and not (module.in_channels | module.out_channels) % native.CHANNELS
