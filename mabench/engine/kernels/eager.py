"""Layers that a processor computes faster another way when products are in bfloat16 and nothing is compiled.

Measured on one core with AVX-512 bfloat16, milliseconds an image, forward and backward: a small ViT 7.2 with PyTorch's fused
attention and 4.1 without; EfficientNet-Lite0 at 64 px 14.5, and 5.3 with depthwise convolutions in float32 (dev/LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mabench.engine.kernels.substitution import substitute


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that trains in float32. A copy that holds bfloat16 weights computes as it comes."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.dtype == torch.bfloat16:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def adopt(model: nn.Module) -> dict[str, int]:
    """Replace these layers; return how many there are of each kind, by name."""
    attention = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in attention:
        module.fused_attn = False  # type: ignore[assignment]  # timm's own switch
    depthwise = substitute(model, nn.Conv2d, DepthwiseConv2d, is_depthwise)
    return {"attention as two products": len(attention), "depthwise convolutions in float32": depthwise}


def is_depthwise(module: nn.Conv2d) -> bool:
    """Return whether each channel has filters of its own."""
    return 1 < module.groups == module.in_channels
