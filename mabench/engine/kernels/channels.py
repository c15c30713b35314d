"""Instance norm, ReLU and pooling in one reading of a channel, for processors that multiply bfloat16 in tiles.

What stands between two convolutions takes as long as they do once they run in tiles: a compiler reads every map several times from
memory, and pools pixel by pixel. `channels.cpp` reads a channel once. Legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from mabench.engine.kernels import native, substitute
from mabench.engine.kernels.norms import InstanceNorm
from mabench.engine.kernels.pooling import AvgPool, MaxPool, largest


class _Norm(ctypes.Structure):
    """`Norm` in channels.cpp."""

    _fields_ = native.fields("images", "height", "width", "channels", "rectifies", "pools")


class _Map(ctypes.Structure):
    """`Map` in channels.cpp."""

    _fields_ = native.fields("images", "height", "width", "channels")


def _lie(x: Tensor) -> tuple[int, int, int, int]:
    count, channels, height, width = x.shape
    return count, height, width, channels


@torch.library.custom_op("mabench::instance_norm", mutates_args=())
def _instance_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectifies: bool, pools: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 [N,C,H,W], float32 [C] twice -> the result, and mean and inverse standard deviation [N,C] in float32."""
    out, mean, inverse = _made_instance_norm(x, weight, bias, eps, rectifies, pools)
    (images,) = native.lying(x)
    how = _Norm(*_lie(x), rectifies, pools)
    native.call("instance_norm", images, weight.contiguous(), bias.contiguous(), eps, out, mean, inverse, how)
    return out, mean, inverse


@_instance_norm.register_fake
def _made_instance_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectifies: bool, pools: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = x.shape
    shape = (count, channels, height // 2, width // 2) if pools else (count, channels, height, width)
    mean, inverse = (torch.empty(count, channels, dtype=torch.float32, device=x.device) for _ in range(2))
    return native.empty(x, shape, x.dtype), mean, inverse


@torch.library.custom_op("mabench::instance_norm_gradient", mutates_args=())
def _instance_norm_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, rectifies: bool, pools: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the result -> of x, and of weight and bias for every image [N,C]."""
    of_x, of_weight, of_bias = _made_gradient(gradient, x, weight, bias, mean, inverse, rectifies, pools)
    operands = [*native.lying(gradient, x), *(t.contiguous() for t in (weight, bias, mean, inverse))]
    native.call("instance_norm_gradient", *operands, of_x, of_weight, of_bias, _Norm(*_lie(x), rectifies, pools))
    return of_x, of_weight, of_bias


@_instance_norm_gradient.register_fake
def _made_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, rectifies: bool, pools: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return native.empty(x, tuple(x.shape), x.dtype), torch.empty_like(mean), torch.empty_like(mean)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, rectifies: bool, pools: bool) -> Tensor:
        out, mean, inverse = torch.ops.mabench.instance_norm(x, weight, bias, eps, rectifies, pools)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.follows = rectifies, pools
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # here, so that whatever made it writes it so
        of_x, of_weight, of_bias = torch.ops.mabench.instance_norm_gradient(gradient, *ctx.saved_tensors, *ctx.follows)
        return of_x, of_weight.sum(0), of_bias.sum(0), None, None, None


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, rectifies: bool = False, pools: bool = False) -> Tensor:
    """Instance norm, then ReLU, then the mean of 2x2 pixels if wanted: bfloat16 [N,C,H,W], float32 [C] twice -> bfloat16.

    C is a multiple of 32, and `native.load` went well. Sums are float32.
    """
    out: Tensor = _Normalise.apply(x, weight, bias, eps, rectifies, pools)
    return out


@torch.library.custom_op("mabench::pool_gradient", mutates_args=())
def _pool_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """bfloat16 [N,C,H,W] and the gradient of its 2x2 maxima [N,C,H//2,W//2] -> the gradient of x."""
    out: Tensor = _made_pool_gradient(x, gradient)
    native.call("pool_gradient", *native.lying(x, gradient), out, _Map(*_lie(x)))
    return out


@_pool_gradient.register_fake
def _made_pool_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    return native.empty(x, tuple(x.shape), x.dtype)


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return largest(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        of_x: Tensor = torch.ops.mabench.pool_gradient(x, gradient.contiguous(memory_format=torch.channels_last))
        return of_x


class ReadOnce(InstanceNorm):
    """An instance norm that `adopt` took over."""

    rectifies = pools = False

    def forward(self, x: Tensor) -> Tensor:
        if not native.takes(x):
            return super().forward(x)
        return instance_norm(x, self.weight, self.bias, self.eps, rectifies=self.rectifies, pools=self.pools)


class ReadOnceReLU(ReadOnce):
    """The ReLU behind it included."""

    rectifies = True


class ReadOnceReLUPool(ReadOnceReLU):
    """ReLU and average pooling included."""

    pools = True


class IncludedReLU(nn.ReLU):
    """What the norm before it has done already."""

    def forward(self, input: Tensor) -> Tensor:
        return input if native.takes(input) else super().forward(input)


class IncludedAvgPool(AvgPool):
    """What the norm before it has done already."""

    def forward(self, input: Tensor) -> Tensor:
        return input if native.takes(input) else super().forward(input)


class ReadOnceMaxPool(MaxPool):
    """A pooling whose gradient is read once; the compiler makes it pixel by pixel."""

    def forward(self, input: Tensor) -> Tensor:
        if not native.takes(input):
            return super().forward(input)
        out: Tensor = _Largest.apply(input)
        return out


def adopt(model: nn.Module) -> None:
    """Let instance norms, with what follows them in a sequence, and maximum poolings compute this way. `release` takes it back."""
    for sequence in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        layers = [*sequence, None, None]
        for norm, activation, pooling in zip(layers, layers[1:], layers[2:], strict=False):
            if type(norm) is InstanceNorm and type(activation) is nn.ReLU:
                norm.__class__, activation.__class__ = ReadOnceReLU, IncludedReLU
                if type(pooling) is AvgPool:
                    norm.__class__, pooling.__class__ = ReadOnceReLUPool, IncludedAvgPool
    substitute(model, InstanceNorm, ReadOnce)
    substitute(model, MaxPool, ReadOnceMaxPool)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    for own in (ReadOnce, ReadOnceReLU, ReadOnceReLUPool):
        substitute(model, own, InstanceNorm)
    for kind, original in ((IncludedReLU, nn.ReLU), (IncludedAvgPool, AvgPool), (ReadOnceMaxPool, MaxPool)):
        substitute(model, kind, original)
