"""Options with a few allowed values: a field typed `Literal[...]` in a method's configuration, checked in one place."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from mabench.errors import MabenchError


def check_choices(config: Any, prefix: str = "") -> None:
    """Raise MabenchError for a `Literal` field of a configuration that holds none of its values; `prefix` stands before its name.

    Call it in `__post_init__`: values come from `--config KEY=VALUE`, where no type checker reads them.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            allowed = ", ".join(map(str, get_args(kind)))
            raise MabenchError(f"{prefix}{name} = '{getattr(config, name)}'. Allowed: {allowed}.")
