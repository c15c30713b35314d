"""Fields of a method's configuration: what no type checker reads, because it comes from `--config KEY=VALUE`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mabench.errors import MabenchError

NONE_AT_ZERO = frozenset({"iterations", "warm_up", "network_batches", "jitter", "padding"})
"""Whole numbers of which 0 means none, although their default is above it."""


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise MabenchError for a field with a value that it cannot have; `prefix` stands before its name. Call it in `__post_init__`.

    A `Literal` holds one of its values. A number is finite and not negative, a temperature above 0. A whole number is at least 1, unless
    its default is 0 or its name is in `NONE_AT_ZERO`; the IPC is left to `check_train`, which knows the classes.
    """
    kinds = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), ""
        if get_origin(kinds[field.name]) is Literal:
            if value not in get_args(kinds[field.name]):
                allowed = ", ".join(map(str, get_args(kinds[field.name])))
        elif isinstance(value, bool) or not isinstance(value, int | float) or field.name == "ipc":
            continue
        elif not math.isfinite(value) or value < 0:
            allowed = "0 or more"
        elif not value and field.name.endswith("temperature"):
            allowed = "above 0"
        elif isinstance(value, int) and not value and field.default != 0 and field.name not in NONE_AT_ZERO:
            allowed = "1 or more"
        if allowed:
            shown = f"'{value}'" if isinstance(value, str) else value
            raise MabenchError(f"{prefix}{field.name} = {shown}. Allowed: {allowed}.")
