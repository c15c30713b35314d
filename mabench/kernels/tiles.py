"""Convolutions for processors that multiply bfloat16 in tiles (Intel AMX), where PyTorch's library is slow at them.

The library fills a tile with pixels of one row of one image, and the weights' gradient makes it turn its operands around for
every image. `tiles.cpp` fills tiles with one pixel of 16 or 32 images instead: maps may be small, borders and strides cost
nothing, and products with the zeros around a map are left out. It is compiled when first wanted, and kept.

Legend: N images, C channels in, D channels out, H and W pixels, K side of the filters.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.compiling import compiler
from mabench.data import cache_folder
from mabench.kernels import substitute
from mabench.kernels.pooling import MaxPool, largest

SOURCE = Path(__file__).with_name("tiles.cpp")
FLAGS = "-O3 -std=c++17 -shared -fPIC -fopenmp -mavx512f -mavx512bw -mavx512vl -mavx512bf16 -mamx-tile -mamx-bf16".split()
LARGEST = 8  # pixels: side of the result up to which images are convolved here; the library is faster beyond
LARGEST_STRIDED = 16  # the same for the images' gradient of a convolution with a stride
CHANNELS = 32  # both numbers of channels are multiples of it


class _Shape(ctypes.Structure):
    """`Shape` in tiles.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("images", "height", "width", "channels", "down", "across", "filters", "side", "stride", "padding")
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled `tiles.cpp`, from the cache folder or made now; None, with a warning, where that fails."""
    try:
        return _load(_compiled())
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"convolutions are left to PyTorch, tiles.cpp cannot be used: {told.strip().splitlines()[0]}", stacklevel=2)
        return None


def _compiled() -> Path:
    """The library's file; its name says from what it was made."""
    command = compiler()
    if command is None:
        raise OSError("no C++ compiler (g++ or clang++; $CXX names another)")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    made_from = hashlib.sha256("\0".join([*FLAGS, version, SOURCE.read_text(encoding="utf-8")]).encode()).hexdigest()
    path = cache_folder() / "compiled" / f"tiles-{made_from[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = Path(scratch) / path.name
            done = [command, *FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(done, capture_output=True, text=True, check=True, timeout=300)
            os.replace(made, path)  # two processes at a time make the same file
    return path


def _load(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    if found.mabench_request_tiles():
        raise OSError("the system does not grant this process its tiles")
    for name in ("mabench_convolution", "mabench_image_gradient", "mabench_weight_gradient"):
        getattr(found, name).argtypes = [*[ctypes.c_void_p] * 3, ctypes.POINTER(_Shape), ctypes.c_int]
        getattr(found, name).restype = None
    found.mabench_pool_gradient.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 4, ctypes.c_int]
    found.mabench_pool_gradient.restype = None
    return found


def _call(name: str, operands: tuple[Tensor, ...], out: Tensor, images: tuple[int, ...], weight: tuple[int, ...], **how: int) -> Tensor:
    """One function of the library; `images` and `weight` are the shapes [N,C,H,W] and [D,C,K,K]."""
    count, channels, height, width = images
    filters, _, side, _ = weight
    down, across = (_side(pixels, side, **how) for pixels in (height, width))
    shape = _Shape(count, height, width, channels, down, across, filters, side, how["stride"], how["padding"])
    lying = [t.contiguous(memory_format=torch.channels_last) for t in operands]
    assert all(t.dtype == torch.bfloat16 for t in lying) and not (channels | filters) % CHANNELS
    found = library()
    assert found is not None
    getattr(found, name)(*(t.data_ptr() for t in (*lying, out)), shape, torch.get_num_threads())
    return out


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


@torch.library.custom_op("mabench::tiled_convolution", mutates_args=())
def _convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """[N,C,H,W], [D,C,K,K] -> [N,D,H',W'], all bfloat16."""
    out = _made_convolution(x, weight, stride, padding)
    return _call("mabench_convolution", (x, weight), out, x.shape, weight.shape, stride=stride, padding=padding)


@_convolution.register_fake
def _made_convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    down, across = (_side(int(pixels), int(weight.shape[-1]), stride, padding) for pixels in x.shape[2:])
    return _empty(x, (x.shape[0], weight.shape[0], down, across), x.dtype)


@torch.library.custom_op("mabench::tiled_image_gradient", mutates_args=())
def _image_gradient(gradient: Tensor, weight: Tensor, height: int, width: int, stride: int, padding: int) -> Tensor:
    """[N,D,H',W'], [D,C,K,K] -> [N,C,H,W], all bfloat16."""
    out = _made_image_gradient(gradient, weight, height, width, stride, padding)
    return _call("mabench_image_gradient", (gradient, weight), out, out.shape, weight.shape, stride=stride, padding=padding)


@_image_gradient.register_fake
def _made_image_gradient(gradient: Tensor, weight: Tensor, height: int, width: int, stride: int, padding: int) -> Tensor:
    return _empty(gradient, (gradient.shape[0], weight.shape[1], height, width), gradient.dtype)


@torch.library.custom_op("mabench::tiled_weight_gradient", mutates_args=())
def _weight_gradient(x: Tensor, gradient: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """bfloat16 [N,C,H,W], [N,D,H',W'] -> float32 [D,C,K,K]."""
    out = _made_weight_gradient(x, gradient, side, stride, padding)
    return _call("mabench_weight_gradient", (x, gradient), out, x.shape, out.shape, stride=stride, padding=padding)


@_weight_gradient.register_fake
def _made_weight_gradient(x: Tensor, gradient: Tensor, side: int, stride: int, padding: int) -> Tensor:
    return _empty(x, (gradient.shape[1], x.shape[1], side, side), torch.float32)


class _Convolution(torch.autograd.Function):
    """Each of the three products by whichever program is faster for this size of map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        narrow = weight.to(x.dtype)
        ctx.save_for_backward(x, narrow)
        ctx.how = stride, padding
        if _side(x.shape[-1], weight.shape[-1], stride, padding) > LARGEST:
            return F.conv2d(x, narrow, None, stride, padding)
        out: Tensor = torch.ops.mabench.tiled_convolution(x, narrow, stride, padding)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)  # here, so that whatever made it writes it so
        of_x: Tensor | None = None
        of_weight: Tensor | None = None
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
        return of_x, of_weight, None, None


def convolution(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution with a border of zeros: bfloat16 [N,C,H,W], float32 or bfloat16 [D,C,K,K] -> bfloat16 [N,D,H',W'].

    C and D are multiples of 32, and `library()` is there.
    """
    out: Tensor = _Convolution.apply(x, weight, stride, padding)
    return out


def _side(pixels: int, side: int, stride: int, padding: int) -> int:
    return (pixels + 2 * padding - side) // stride + 1


class TiledConv2d(nn.Conv2d):
    """A convolution that `adopt` took over; uncompiled or with other types it goes the ordinary way."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype != torch.bfloat16 or not torch.compiler.is_compiling():
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            out = convolution(input, self.weight, self.stride[0], int(self.padding[0]))
            return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1)


@torch.library.custom_op("mabench::pool_gradient", mutates_args=())
def _pool_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """bfloat16 [N,C,H,W] and the gradient of its 2x2 maxima [N,C,H//2,W//2] -> the gradient of x."""
    out = _made_pool_gradient(x, gradient)
    count, channels, height, width = x.shape
    lying = [t.contiguous(memory_format=torch.channels_last) for t in (x, gradient)]
    found = library()
    assert found is not None and x.dtype == gradient.dtype == torch.bfloat16 and not channels % CHANNELS
    pointers = [t.data_ptr() for t in (*lying, out)]
    found.mabench_pool_gradient(*pointers, count, height, width, channels, torch.get_num_threads())
    return out


@_pool_gradient.register_fake
def _made_pool_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    return _empty(x, tuple(x.shape), x.dtype)


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


class TiledMaxPool(MaxPool):
    """A pooling that `adopt` took over: the compiler makes its gradient pixel by pixel."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype != torch.bfloat16 or not torch.compiler.is_compiling() or input.shape[1] % CHANNELS:
            return super().forward(input)
        out: Tensor = _Largest.apply(input)
        return out


def adopt(model: nn.Module) -> int:
    """Let convolutions with square filters of several pixels, and what pools their results, compute this way; returns how many
    convolutions could.

    Weights, their names and everything else of the model stay as they are; `release` takes it back.
    """
    if not any(_fits(m) for m in model.modules() if type(m) is nn.Conv2d) or library() is None:
        return 0
    substitute(model, MaxPool, TiledMaxPool)
    return substitute(model, nn.Conv2d, TiledConv2d, _fits)


def release(model: nn.Module) -> None:
    """Undo `adopt`."""
    substitute(model, TiledConv2d, nn.Conv2d)
    substitute(model, TiledMaxPool, MaxPool)


def _fits(module: nn.Conv2d) -> bool:
    (height, width), (down, across) = module.kernel_size, module.stride
    if isinstance(module.padding, str) or module.padding[0] != module.padding[1] or module.padding_mode != "zeros":
        return False
    square = height == width > 1 and down == across and module.padding[0] < height and module.dilation == (1, 1)
    return square and module.groups == 1 and not (module.in_channels | module.out_channels) % CHANNELS
