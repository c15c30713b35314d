"""3x3 convolutions in a quarter of the multiplications, for processors that multiply in float32 only.

F(4x4, 3x3) of Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016): tiles of 6x6 pixels and the
filters are evaluated at the points 0, 1, -1, 2, -2 and infinity, multiplied there, and each product is turned back into
4x4 pixels. Exact in real numbers; in float32 the result differs by about 1e-5 of its largest value.

Legend: N images, C channels in, D channels out, H and W pixels, T tiles = N H/4 W/4. Maps lie channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.engine.kernels.substitution import substitute

TILE = 4  # pixels of the result per tile and direction
POINTS = TILE + 2
CHANNELS = 32  # ours: with fewer, changing to points and back costs more than the products save

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _at_points(d0: Tensor, d1: Tensor, d2: Tensor, d3: Tensor, d4: Tensor, d5: Tensor) -> Six:
    """Six pixels in a row -> their values at the points (B^T d)."""
    even, odd = d4 - 4 * d2, d3 - 4 * d1
    near, far = d4 - d2, 2 * (d3 - d1)
    return 4 * d0 - 5 * d2 + d4, even + odd, even - odd, near + far, near - far, 4 * d1 - 5 * d3 + d5


def _to_pixels(m0: Tensor, m1: Tensor, m2: Tensor, m3: Tensor, m4: Tensor, m5: Tensor) -> Four:
    """Values at the points -> four pixels in a row (A^T m)."""
    sum1, sum2, odd1, odd2 = m1 + m2, m3 + m4, m1 - m2, m3 - m4
    return m0 + sum1 + sum2, odd1 + 2 * odd2, sum1 + 4 * sum2, odd1 + 8 * odd2 + m5


def _from_pixels(g0: Tensor, g1: Tensor, g2: Tensor, g3: Tensor) -> Six:
    """The transpose of `_to_pixels`: four gradients in a row -> gradients at the points (A g)."""
    even1, odd1, even2, odd2 = g0 + g2, g1 + g3, g0 + 4 * g2, 2 * g1 + 8 * g3
    return g0, even1 + odd1, even1 - odd1, even2 + odd2, even2 - odd2, g3


def _both_ways(transform: Callable[..., tuple[Tensor, ...]], tiles: Tensor) -> Tensor:
    """`transform` along the rows of tiles [rows,columns,...], then along their columns."""
    rows = torch.stack(transform(*tiles.unbind(0)))
    return torch.stack(transform(*rows.unbind(1)), 1)


def _filter_matrix(like: Tensor) -> Tensor:
    """G [6,3]: three weights in a row -> their values at the points, with the scale that `_to_pixels` leaves out."""
    rows = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    rows += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _images_at_points(x: Tensor) -> Tensor:
    """[N,C,H,W] -> [36,T,C]: every tile with the border of one pixel that it shares with its neighbours."""
    images, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    image, row, column, _ = padded.stride()
    down, across = height // TILE, width // TILE
    tiles = padded.as_strided(
        (POINTS, POINTS, images, down, across, channels), (row, column, image, TILE * row, TILE * column, 1)
    )
    return _both_ways(_at_points, tiles).reshape(POINTS**2, images * down * across, channels)


def _gradients_at_points(g: Tensor) -> Tensor:
    """[N,D,H,W] -> [36,T,D]."""
    images, channels, height, width = g.shape
    down, across = height // TILE, width // TILE
    tiles = g.permute(0, 2, 3, 1).reshape(images, down, TILE, across, TILE, channels).permute(2, 4, 0, 1, 3, 5)
    return _both_ways(_from_pixels, tiles).reshape(POINTS**2, images * down * across, channels)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """[N,C,H,W] with filters [D,C,3,3], zero padding of one pixel -> [N,D,H,W]."""
    images, (outputs, channels) = len(x), weight.shape[:2]
    down, across = x.shape[2] // TILE, x.shape[3] // TILE
    matrix = _filter_matrix(weight)
    filters = torch.einsum("ai,bj,dcij->abcd", matrix, matrix, weight).reshape(POINTS**2, channels, outputs)
    points = torch.bmm(_images_at_points(x), filters).view(POINTS, POINTS, images, down, across, outputs)
    pixels = _both_ways(_to_pixels, points).permute(2, 3, 0, 4, 1, 5)
    return pixels.reshape(images, down * TILE, across * TILE, outputs).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """Both gradients are Winograd products too; the images' values at the points are computed again instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x = _product(gradient, weight.flip(2, 3).transpose(0, 1)) if ctx.needs_input_grad[0] else None
        for_weight = None
        if ctx.needs_input_grad[1]:
            matrix = _filter_matrix(weight)
            points = torch.bmm(_images_at_points(x).transpose(1, 2), _gradients_at_points(gradient))
            points = points.view(POINTS, POINTS, *weight.shape[1::-1])
            for_weight = torch.einsum("ai,bj,abcd->dcij", matrix, matrix, points)
        return for_x, for_weight


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution of stride 1 with a border of zeros: [N,C,H,W], [D,C,3,3] -> [N,D,H,W]; H and W are multiples of 4."""
    out: Tensor = _Convolution.apply(x, weight)
    return out


class WinogradConv2d(nn.Conv2d):
    """A convolution that `adopt` replaced; maps that tiles do not fill go the ordinary way."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2] % TILE or input.shape[3] % TILE:
            return super().forward(input)
        out = convolution(input, self.weight)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


def adopt(model: nn.Module) -> int:
    """Let every 3x3 convolution of stride 1 between at least 32 channels compute this way; return how many there are.

    Weights, their names and everything else of the model stay as they are; `release` undoes it.
    """
    return substitute(model, nn.Conv2d, WinogradConv2d, _fits)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, WinogradConv2d, nn.Conv2d)


def _fits(module: nn.Conv2d) -> bool:
    plain = module.padding_mode == "zeros" and module.groups == 1 and min(module.in_channels, module.out_channels) >= CHANNELS
    shape = (module.kernel_size, module.stride, module.padding, module.dilation)
    return plain and shape == ((3, 3), (1, 1), (1, 1), (1, 1))
