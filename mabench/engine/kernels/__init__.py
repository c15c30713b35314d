"""How compiled networks compute what takes their time: the same layers, weights and names, another order of operations.

Each module replaces some layers of a model (`adopt`) and gives them back (`release`). Uncompiled, a replaced layer computes what
it computed before, except a Winograd convolution. Pure PyTorch; `mabench.networks` knows nothing of it.
"""

from __future__ import annotations

import torch
from torch import nn

from mabench.engine.kernels import norms, pooling, winograd


def adopt(model: nn.Module, device: torch.device, *, bfloat16: bool) -> tuple[str, ...]:
    """Replace the layers of a compiled model that this device computes faster another way; return what was replaced, for the
    record: name and number of layers of each kernel."""
    release(model)
    counts = {"pooling as slices": pooling.adopt(model)}
    if device.type == "cpu":
        # not on a GPU: measured on an H100, Triton makes norms as fast by itself, and could not build ours into ConvNet-3's gradient
        counts["norms with stored coefficients"] = norms.adopt(model)
        if not bfloat16:  # multiplications are then what takes the time
            counts["Winograd convolutions"] = winograd.adopt(model)
    return tuple(f"{name}: {count}" for name, count in counts.items() if count)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    for kernel in (winograd, norms, pooling):
        kernel.release(model)
