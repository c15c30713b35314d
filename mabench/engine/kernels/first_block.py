"""The first block of a network in one program, for processors that multiply bfloat16 in tiles.

A convolution of three channels makes maps twenty to forty times larger than its images. Writing and reading them took half of a training
step of ConvNet-3. `first_block.cpp` computes convolution, instance norm, ReLU and pooling, and their gradients, without ever storing
them. Legend: N images, C channels in, D channels out, H and W pixels, K side of the filters.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mabench.engine.kernels import native, substitute
from mabench.engine.kernels.norms import InstanceNorm
from mabench.engine.kernels.pooling import AvgPool, MaxPool

TILE = 32  # numbers that a result sees lie in tiles of as many, three at most
SUMMED = 4  # `SUMMED` in first_block.cpp
POOLINGS = (None, AvgPool, MaxPool)  # `Pooling` in first_block.cpp


class _Block(ctypes.Structure):
    """`Block` in first_block.cpp."""

    _fields_ = native.fields("images", "height", "width", "channels", "filters", "side", "norms", "pooling")


def _how(x: Tensor, filters: Tensor, weight: Tensor | None, pooling: int) -> _Block:
    count, channels, height, width = x.shape
    return _Block(count, height, width, channels, filters.shape[0], filters.shape[-1], weight is not None, pooling)


def _lying(x: Tensor, filters: Tensor) -> list[Tensor]:
    assert x.dtype == filters.dtype == torch.bfloat16, (x.dtype, filters.dtype)
    return [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, filters)]


@torch.library.custom_op("mabench::first_block", mutates_args=())
def _first_block(
    x: Tensor, filters: Tensor, weight: Tensor | None, bias: Tensor, eps: float, pooling: int
) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 [N,C,H,W] and [D,C,K,K], float32 [D], of the norm if there is a weight -> the result, and mean and inverse standard
    deviation [N,D], float32, [0,D] without a norm."""
    out, mean, inverse = _made_first_block(x, filters, weight, bias, eps, pooling)
    operands = [*_lying(x, filters), None if weight is None else weight.contiguous(), bias.contiguous()]
    native.call("first_block", *operands, eps, out, mean, inverse, _how(x, filters, weight, pooling))
    return out, mean, inverse


@_first_block.register_fake
def _made_first_block(
    x: Tensor, filters: Tensor, weight: Tensor | None, bias: Tensor, eps: float, pooling: int
) -> tuple[Tensor, Tensor, Tensor]:
    (count, _, height, width), wide = x.shape, filters.shape[0]
    shape = (count, wide, height // 2, width // 2) if pooling else (count, wide, height, width)
    mean, inverse = (torch.empty(0 if weight is None else count, wide, dtype=torch.float32, device=x.device) for _ in range(2))
    return native.empty(x, shape, x.dtype), mean, inverse


@torch.library.custom_op("mabench::first_block_gradient", mutates_args=())
def _first_block_gradient(
    gradient: Tensor,
    x: Tensor,
    filters: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    pooling: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the result -> of the filters [D,C,K,K], and of weight and bias for every image [N,D], float32, [0,D] without a weight."""
    (gradient,), (x, filters) = native.lying(gradient), _lying(x, filters)
    wide, channels, side, _ = filters.shape
    seen = side * side * channels
    summed = torch.empty(-(-len(x) // SUMMED), -(-seen // TILE) * TILE, wide)
    of_weight, of_bias = torch.empty_like(mean), torch.empty(len(x), wide)
    operands = [gradient, x, filters, None if weight is None else weight.contiguous()]
    operands += [t.contiguous() for t in (bias, mean, inverse)]
    native.call("first_block_gradient", *operands, summed, of_weight, of_bias, _how(x, filters, weight, pooling))
    of_filters = summed.sum(0)[:seen].view(side, side, channels, wide)
    return of_filters.permute(3, 2, 0, 1).contiguous(), of_weight, of_bias


@_first_block_gradient.register_fake
def _made_gradient(
    gradient: Tensor,
    x: Tensor,
    filters: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    pooling: int,
) -> tuple[Tensor, Tensor, Tensor]:
    of_filters = torch.empty(filters.shape, dtype=torch.float32, device=x.device)
    return of_filters, torch.empty_like(mean), torch.empty(x.shape[0], filters.shape[0], dtype=torch.float32, device=x.device)


class _FirstBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        filters: Tensor,
        shift: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        pooling: int,
    ) -> Tensor:
        narrow, follows = filters.to(x.dtype), shift if weight is None else bias
        follows = filters.new_zeros(filters.shape[0]) if follows is None else follows
        follows = follows.float()
        out, mean, inverse = torch.ops.mabench.first_block(x, narrow, weight, follows, eps, pooling)
        ctx.save_for_backward(x, narrow, weight, follows, mean, inverse)
        ctx.norms, ctx.pooling = weight is not None, pooling
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None, Tensor | None, Tensor | None, None, None]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # here, so that whatever made it writes it so
        found = torch.ops.mabench.first_block_gradient(gradient, *ctx.saved_tensors, ctx.pooling)
        of_filters, of_weight, of_bias = found[0], found[1].sum(0), found[2].sum(0)
        if not ctx.norms:
            return None, of_filters, of_bias if ctx.needs_input_grad[2] else None, None, None, None, None
        of_shift = torch.zeros_like(of_bias) if ctx.needs_input_grad[2] else None
        return None, of_filters, of_shift, of_weight, of_bias, None, None


def first_block(
    x: Tensor,
    filters: Tensor,
    shift: Tensor | None,
    norm: tuple[Tensor, Tensor] | None = None,
    *,
    eps: float = 1e-5,
    pooling: type[nn.Module] | None = None,
) -> Tensor:
    """Convolution over K*K pixels with a border of zeros that keeps the size, instance norm or none, ReLU, pooling over 2x2 or none.

    bfloat16 [N,C,H,W], filters [D,C,K,K] and their bias `shift` [D], the norm's weight and bias [D], float32 -> bfloat16 [N,D,H,W], or
    [N,D,H//2,W//2] with one of `POOLINGS`. A norm takes the shift away again, whose gradient is zero then. K is odd, K*C at most 32,
    K*K*C at most 96, D a multiple of 32, and `native.load` went well. No gradient with respect to the images. Sums are float32.
    """
    weight, bias = norm if norm is not None else (None, None)
    out: Tensor = _FirstBlock.apply(x, filters, shift, weight, bias, eps, POOLINGS.index(pooling))
    return out


@dataclass(frozen=True)
class _Layers:
    """How a sequence begins."""

    convolution: nn.Conv2d
    norm: InstanceNorm | None
    pooling: type[nn.Module] | None
    count: int


def _beginning(sequence: nn.Sequential) -> _Layers | None:
    """The first block of a sequence, if it can be computed here."""
    layers = list(sequence)
    if not layers or not isinstance(layers[0], nn.Conv2d) or not _fits(layers[0]):
        return None
    count = 1
    norm: InstanceNorm | None = None
    if len(layers) > count and isinstance(layers[count], InstanceNorm):
        norm, count = layers[count], count + 1  # type: ignore[assignment]
    if len(layers) <= count or not isinstance(layers[count], nn.ReLU):
        return None
    count += 1
    pooling = next((kind for kind in POOLINGS[1:] if len(layers) > count and isinstance(layers[count], kind)), None)
    return _Layers(layers[0], norm, pooling, count + (pooling is not None))


class FirstBlock(nn.Sequential):
    """A sequence that begins with such a block, which `adopt` took over."""

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        narrow = input.dtype == torch.bfloat16 or (
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        )
        if not torch.compiler.is_compiling() or not narrow or input.requires_grad:
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        found = _beginning(self)
        assert found is not None
        own, norm = found.convolution, found.norm
        with torch.autocast(kind, enabled=False):
            both, eps = (None, 0.0) if norm is None else ((norm.weight, norm.bias), norm.eps)
            x = first_block(input.to(torch.bfloat16), own.weight, own.bias, both, eps=eps, pooling=found.pooling)
        for layer in list(self)[found.count :]:
            x = layer(x)
        return x


def adopt(model: nn.Module) -> int:
    """Let sequences that begin with such a block compute it this way; returns how many there are. `release` takes it back."""
    return substitute(model, nn.Sequential, FirstBlock, lambda sequence: _beginning(sequence) is not None)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, FirstBlock, nn.Sequential)


def _fits(convolution: nn.Conv2d) -> bool:
    side, channels = convolution.kernel_size[0], convolution.in_channels
    keeps_size = (
        convolution.kernel_size == (side, side)
        and convolution.padding in ((side // 2, side // 2), "same")
        and side % 2 == 1
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )
    small = side * channels <= TILE and side * side * channels <= 3 * TILE
    return keeps_size and small and convolution.groups == 1 and not convolution.out_channels % native.CHANNELS
