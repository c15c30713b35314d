"""What an evaluator may ask for: a suite is a file that people hand to each other, and must not read, write, fetch or fill memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mabench.errors import MabenchError, printable
from mabench.schema import Evaluator

MAX_INPUT_SIZE = 1024  # pixels; ours: timm's largest networks take 896
MAX_WEIGHTS = 2**28  # depth x width^2, ours: ViT-g has 2^26


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _widths(value: Any) -> bool:
    return isinstance(value, tuple | list) and 1 <= len(value) <= 8 and all(_whole(1, 1024)(each) for each in value)


ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "depth": (_whole(1, 200), "1 to 200"),
    "width": (_whole(1, 4096), "1 to 4096"),
    **{
        name: (lambda value: isinstance(value, str) and re.fullmatch("[a-z]{1,20}", value) is not None, "a name of networks/")
        for name in ("norm", "activation", "pooling")
    },
    **{name: (lambda value: isinstance(value, bool), "true or false") for name in ("cifar_strides", "class_token")},
    "global_pool": (lambda value: value in ("avg", "max", "token", "map"), "avg, max, token or map"),
    "img_size": (_whole(8, MAX_INPUT_SIZE), f"8 to {MAX_INPUT_SIZE}"),
    "patch_size": (_whole(1, 128), "1 to 128"),
    "window_size": (_whole(1, 128), "1 to 128"),
    "embed_dim": (_whole(8, 4096), "8 to 4096"),
    "num_heads": (lambda value: _whole(1, 64)(value) or _widths(value), "1 to 64"),
    "depths": (_widths, "a list of up to 8 depths"),
    "mlp_ratio": (lambda value: isinstance(value, int | float) and 0 < value <= 16, "a number up to 16"),
}
"""Arguments of architectures: whether a value is allowed, and how the allowed ones are written in a message."""


def check(evaluator: Evaluator) -> None:
    """Raise MabenchError for an architecture that is more than a name, and for arguments and sizes that no table needs.

    Whether the name is one of this package or of timm shows when the network is built.
    """
    if not re.fullmatch(r"[a-z0-9_]{1,80}(\.[a-z0-9_]{1,80})?", evaluator.architecture):
        raise MabenchError(
            f"evaluator {evaluator.name}: architecture '{printable(evaluator.architecture, 80)}' is not the plain name of a network. "
            "Addresses, folders and Hub ids are not followed; allowed are names like resnet18 or vit_tiny_patch16_224 (timm's registry)."
        )
    if evaluator.input_size > MAX_INPUT_SIZE:
        raise MabenchError(f"evaluator {evaluator.name}: input_size {evaluator.input_size} is above {MAX_INPUT_SIZE} pixels.")
    for name, value in evaluator.arguments.items():
        if name not in ARGUMENTS:
            raise MabenchError(
                f"evaluator {evaluator.name}: argument '{printable(name, 80)}' is not allowed. Allowed: {', '.join(ARGUMENTS)}. "
                "A network of mabench's own names its arguments in mabench/networks/allowed.py."
            )
        fits, allowed = ARGUMENTS[name]
        if not fits(value):
            raise MabenchError(f"evaluator {evaluator.name}: {name} is {printable(repr(value), 80)}. Allowed: {allowed}.")
    arguments: dict[str, Any] = dict(evaluator.arguments)
    depth, width = arguments.get("depth", 1), max(arguments.get("embed_dim", 1), arguments.get("width", 1))
    if depth * width**2 > MAX_WEIGHTS:
        raise MabenchError(
            f"evaluator {evaluator.name}: a depth of {depth} at a width of {width} fills any memory. Make it smaller."
        )
