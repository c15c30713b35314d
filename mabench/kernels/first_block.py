"""The first block of a ConvNet in one program, for processors that multiply bfloat16 in tiles.

A convolution of three channels makes maps forty times larger than its images. Half of a training step went into writing and reading
them. `first_block.cpp` computes convolution, instance norm, ReLU and average pooling, and their gradients, without ever storing them.
Legend: N images, C channels in, D channels out, H and W pixels, K side of the filters.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from mabench.kernels import native, substitute
from mabench.kernels.norms import InstanceNorm
from mabench.kernels.pooling import AvgPool

SEEN = 32  # numbers that a result may see: K*K*C at most
SUMMED = 4  # `SUMMED` in first_block.cpp
FUSED = 4  # layers


class _Block(ctypes.Structure):
    """`Block` in first_block.cpp."""

    _fields_ = native.fields("images", "height", "width", "channels", "filters", "side")


def _how(x: Tensor, weight: Tensor) -> _Block:
    count, channels, height, width = x.shape
    return _Block(count, height, width, channels, weight.shape[0], weight.shape[-1])


def _lying(x: Tensor, weight: Tensor) -> list[Tensor]:
    assert x.dtype == weight.dtype == torch.bfloat16, (x.dtype, weight.dtype)
    return [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight)]


@torch.library.custom_op("mabench::first_block", mutates_args=())
def _first_block(x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 [N,C,H,W] and [D,C,K,K], float32 [D] twice -> the result, and mean and inverse standard deviation [N,D], float32."""
    out, mean, inverse = _made_first_block(x, filters, weight, bias, eps)
    native.call(
        "first_block", *_lying(x, filters), weight.contiguous(), bias.contiguous(), eps, out, mean, inverse, _how(x, filters)
    )
    return out, mean, inverse


@_first_block.register_fake
def _made_first_block(x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    count, _, height, width = x.shape
    mean, inverse = (torch.empty(count, filters.shape[0], dtype=torch.float32, device=x.device) for _ in range(2))
    return native.empty(x, (count, filters.shape[0], height // 2, width // 2), x.dtype), mean, inverse


@torch.library.custom_op("mabench::first_block_gradient", mutates_args=())
def _first_block_gradient(
    gradient: Tensor, x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the result -> of the filters [D,C,K,K], and of weight and bias for every image [N,D], float32."""
    (gradient,), (x, filters) = native.lying(gradient), _lying(x, filters)
    operands = [gradient, x, filters, *(t.contiguous() for t in (weight, bias, mean, inverse))]
    wide, channels, side, _ = filters.shape
    summed = torch.empty(-(-len(x) // SUMMED), SEEN, wide)
    of_weight, of_bias = (torch.empty(len(x), wide) for _ in range(2))
    native.call("first_block_gradient", *operands, summed, of_weight, of_bias, _how(x, filters))
    of_filters = summed.sum(0)[: side * side * channels].view(side, side, channels, wide)
    return of_filters.permute(3, 2, 0, 1).contiguous(), of_weight, of_bias


@_first_block_gradient.register_fake
def _made_gradient(
    gradient: Tensor, x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_weight, of_bias = (torch.empty_like(mean) for _ in range(2))
    return torch.empty(filters.shape, dtype=torch.float32, device=x.device), of_weight, of_bias


class _FirstBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        narrow = filters.to(x.dtype)
        out, mean, inverse = torch.ops.mabench.first_block(x, narrow, weight, bias, eps)
        ctx.save_for_backward(x, narrow, weight, bias, mean, inverse)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None, Tensor, Tensor, None]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # here, so that whatever made it writes it so
        of_filters, of_weight, of_bias = torch.ops.mabench.first_block_gradient(gradient, *ctx.saved_tensors)
        of_shift = torch.zeros_like(of_bias[0]) if ctx.needs_input_grad[2] else None
        return None, of_filters, of_shift, of_weight.sum(0), of_bias.sum(0), None


def first_block(x: Tensor, filters: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Convolution over K*K pixels with a border of zeros that keeps the size, instance norm, ReLU, mean of 2x2 pixels.

    bfloat16 [N,C,H,W], filters [D,C,K,K] and their bias `shift` [D], which the norm takes away again and whose gradient is zero; the
    norm's weight and bias [D], float32 -> bfloat16 [N,D,H//2,W//2]. K is odd, K*K*C at most 32, D a multiple of 32, `native.load`
    went well. No gradient with respect to the images. Sums are float32.
    """
    out: Tensor = _FirstBlock.apply(x, filters, shift, weight, bias, eps)
    return out


class FirstBlock(nn.Sequential):
    """A sequence that begins with such a block, which `adopt` took over."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() or input.dtype != torch.bfloat16 or input.requires_grad:
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        convolution, norm = self[0], self[1]
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, InstanceNorm)
        with torch.autocast(input.device.type, enabled=False):
            x = first_block(input, convolution.weight, convolution.bias, norm.weight, norm.bias, norm.eps)
        for layer in list(self)[FUSED:]:
            x = layer(x)
        return x


def adopt(model: nn.Module) -> int:
    """Let sequences that begin with such a block compute it this way; returns how many there are. `release` takes it back."""
    return substitute(model, nn.Sequential, FirstBlock, _fits)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, FirstBlock, nn.Sequential)


def _fits(sequence: nn.Sequential) -> bool:
    if len(sequence) < FUSED:
        return False
    convolution, norm, activation, pooling = list(sequence)[:FUSED]
    if not (isinstance(convolution, nn.Conv2d) and isinstance(norm, InstanceNorm)):
        return False
    if not (isinstance(activation, nn.ReLU) and isinstance(pooling, AvgPool)):
        return False
    side, padding = convolution.kernel_size[0], convolution.padding
    keeps_size = (
        convolution.kernel_size == (side, side)
        and padding in ((side // 2, side // 2), "same")
        and side % 2 == 1
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )
    seen = side * side * convolution.in_channels
    return keeps_size and convolution.groups == 1 and seen <= SEEN and not convolution.out_channels % native.CHANNELS
