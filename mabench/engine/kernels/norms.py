"""Instance and batch norm for a compiler: coefficients once a channel, then one product and one sum a pixel.

Left to itself the compiler puts each channel's square root and divisions into the loop over its pixels, and takes
Welford's update for the variance. Legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mabench.engine.kernels.substitution import substitute
from mabench.networks import layers


def _once(x: Tensor) -> Tensor:
    """`x` itself, computed and stored here: the compiler does not repeat its formula wherever it is used."""
    own = x.clone(memory_format=torch.contiguous_format)
    return own.as_strided(own.shape, own.stride())


def statistics(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance (divided by the count) over these dimensions, which stay as 1: float32, in one pass.

    Sums of differences from a pixel in the middle, so that a large mean does not drown a small variance.
    """
    wide, share = _wide(x), 1 / _count(x, over)
    middle = _once(wide[: 1 if 0 in over else None, :, x.shape[2] // 2, x.shape[3] // 2][:, :, None, None])
    total = (wide - middle).sum(over, keepdim=True) * share
    squares = (wide - middle).square().sum(over, keepdim=True) * share
    return _once(middle + total), _once((squares - total * total).clamp_min(0))


def _wide(x: Tensor) -> Tensor:
    """At least float32: sums need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _count(x: Tensor, over: tuple[int, ...]) -> int:
    return math.prod([x.shape[dimension] for dimension in over])  # a list: the compiler breaks off at a generator


def _channels(values: Tensor) -> Tensor:
    return _wide(values).view(1, -1, 1, 1)


class _Normalise(torch.autograd.Function):
    """Also gives the mean and the variance that it used."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, over: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = statistics(x, over)
        inverse = _once(torch.rsqrt(variance + eps))
        scale = _once(inverse * _channels(weight))
        shift = _once(_channels(bias) - mean * scale)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.over = over
        ctx.mark_non_differentiable(mean, variance)
        return (_wide(x) * scale + shift).to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        wide, g, share = _wide(x), _wide(gradient), 1 / _count(x, ctx.over)
        of_bias = _once(g.sum(ctx.over, keepdim=True))
        of_weight = _once((g * (wide - mean)).sum(ctx.over, keepdim=True) * inverse)
        # the gradient is linear in g and x, with coefficients of the channel
        by_g = _once(inverse * _channels(weight))
        by_x = _once(-share * by_g * inverse * of_weight)
        rest = _once(-share * by_g * of_bias - by_x * mean)
        of_x = (by_g * g + by_x * wide + rest).to(x.dtype)
        if x.is_contiguous(memory_format=torch.channels_last):
            of_x = of_x.contiguous(memory_format=torch.channels_last)  # g may lie otherwise, behind a pooling over the whole map
        return of_x, of_weight.sum((0, 2, 3)).to(weight.dtype), of_bias.sum((0, 2, 3)).to(weight.dtype), None, None


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Every channel of every image to mean 0 and variance 1, then weight and bias [C]: [N,C,H,W] -> the same, of its type."""
    out: Tensor = _Normalise.apply(x, weight, bias, eps, (2, 3))[0]
    return out


def batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What `norm(x)` gives, and its running statistics moved on in training; [N,C,H,W] -> the same, of its type."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    assert norm.momentum is not None
    if not norm.training:
        scale = _once(torch.rsqrt(_wide(norm.running_var) + norm.eps) * _wide(norm.weight))
        shift = _once(_wide(norm.bias) - _wide(norm.running_mean) * scale)
        return (_wide(x) * _channels(scale) + _channels(shift)).to(x.dtype)
    out, mean, variance = _Normalise.apply(x, norm.weight, norm.bias, norm.eps, (0, 2, 3))
    count = _count(x, (0, 2, 3))
    with torch.no_grad():
        norm.running_mean.lerp_(mean.flatten().to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_((variance * (count / (count - 1))).flatten().to(norm.running_var.dtype), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return out  # type: ignore[no-any-return]


class InstanceNorm(layers.InstanceNorm):
    """An instance norm that `adopt` replaced."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(input)
        return instance_norm(input, self.weight, self.bias, self.eps)


class BatchNorm(nn.BatchNorm2d):
    """A batch norm that `adopt` replaced."""

    def forward(self, input: Tensor) -> Tensor:
        return batch_norm(self, input) if torch.compiler.is_compiling() else super().forward(input)


def adopt(model: nn.Module) -> int:
    """Let every instance and batch norm compute this way when it is compiled; return how many there are."""
    return substitute(model, layers.InstanceNorm, InstanceNorm) + substitute(model, nn.BatchNorm2d, BatchNorm, _fits)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, InstanceNorm, layers.InstanceNorm)
    substitute(model, BatchNorm, nn.BatchNorm2d)


def _fits(module: nn.BatchNorm2d) -> bool:
    return module.affine and module.track_running_stats and module.momentum is not None
