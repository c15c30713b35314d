"""Instance norm for passes that are differentiated once: coefficients once a channel, then one product and one sum a pixel.

PyTorch's own takes most of the time of a ConvNet's bfloat16 pass on a processor. Legend: N images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn


def is_instance_norm(layer: nn.Module) -> TypeGuard[nn.GroupNorm]:
    """Whether the layer normalises every channel of every image by itself."""
    return isinstance(layer, nn.GroupNorm) and layer.num_groups == layer.num_channels and layer.affine


def instance_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """What `layer(x)` returns, [N,C,H,W] of the type of x. Sums are float32 or wider. Has no second derivative."""
    out: Tensor = _InstanceNorm.apply(x, layer.weight, layer.bias, layer.eps)
    return out


class _InstanceNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        variance, mean = torch.var_mean(_wide(x), (2, 3), correction=0, keepdim=True)
        inverse = (variance + eps).rsqrt()
        scale = inverse * weight.view(1, -1, 1, 1)
        ctx.save_for_backward(x, weight, mean, inverse)
        return torch.addcmul(bias.view(1, -1, 1, 1) - mean * scale, x, scale).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        of_bias = gradient.sum((2, 3), keepdim=True, dtype=mean.dtype)
        products = (gradient * x).sum((2, 3), keepdim=True, dtype=mean.dtype)
        of_weight = (products - mean * of_bias) * inverse
        # the gradient is linear in the one that comes in and in x, with coefficients of the channel
        share = 1 / (x.shape[2] * x.shape[3])
        by_gradient = inverse * weight.view(1, -1, 1, 1)
        by_x = -share * by_gradient * inverse * of_weight
        rest = -share * by_gradient * of_bias - by_x * mean
        of_x = torch.addcmul(rest, x, by_x).addcmul_(gradient, by_gradient)
        return of_x.to(x.dtype), of_weight.sum((0, 2, 3)), of_bias.sum((0, 2, 3)), None


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
