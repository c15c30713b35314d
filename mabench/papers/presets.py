"""Presets of a method: which one is meant, changed fields, and the command that names it. Imports no torch by itself."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

import mabench_methods
from mabench.errors import MabenchError, first_line, lookup
from mabench_methods import Config, Method, Preset


def preset(method: str | Method, name: str | None = None, ipc: int | None = None, changes: Sequence[str] = ()) -> Preset:
    """Return the preset called `name`, or the first of the method on CIFAR-10 with this IPC, with `key=value` changes.

    `method`: a name, a Python file's path, or a Method. Raises MabenchError for a method, preset, budget or key that is not there.
    """
    known = method if isinstance(method, Method) else mabench_methods.load(method)
    if name is None:
        name = _first(known, ipc)
    base = lookup(
        known.presets, name, f"preset of {known.name}", f"mabench show {method if isinstance(method, str) else known.name}"
    )
    if ipc is not None and base.config.ipc != ipc:
        raise MabenchError(f"preset '{name}' of {known.name} is for IPC {base.config.ipc}, not {ipc}. Leave one of the two out.")
    config: Any = base.config
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator:
            raise MabenchError(f"--config {change}: write it as key=value, e.g. --config iterations=1000")
        config = _changed(config, key.strip().split("."), text.strip(), known.name)
    return dataclasses.replace(base, config=config, changes=differences(base.config, config))


def _first(method: Method, ipc: int | None) -> str:
    """Name of the first preset on CIFAR-10 (or digits) with this IPC."""
    for name, candidate in method.presets.items():
        if candidate.dataset in ("cifar10", "digits") and ipc in (None, candidate.config.ipc):
            return name
    elsewhere = first_line(name for name, candidate in method.presets.items() if candidate.config.ipc == ipc)
    budgets = first_line(map(str, sorted({candidate.config.ipc for candidate in method.presets.values()})))
    hint = f" On other datasets: --preset {elsewhere}." if elsewhere else f" IPC with presets: {budgets}."
    raise MabenchError(
        f"{method.name}: no preset for IPC {ipc} on CIFAR-10.{hint} For this budget change a preset: --preset NAME --config ipc={ipc}"
    )


def _changed(config: Any, path: list[str], text: str, method: str) -> Any:
    """A copy of the dataclass with one field, at a dotted path, parsed from text to the type that it has."""
    names = {f.name: f for f in dataclasses.fields(config)}
    lookup(names, path[0], f"field of {method}'s configuration")
    old = getattr(config, path[0])
    if dataclasses.is_dataclass(old) and len(path) > 1:
        return dataclasses.replace(config, **{path[0]: _changed(old, path[1:], text, method)})
    new: Any
    try:
        if isinstance(old, bool):
            new = {"true": True, "false": False}[text.lower()]
        elif isinstance(old, int):
            new = int(text)
        elif isinstance(old, float):
            new = float(text)
        elif isinstance(old, str):
            new = text
        elif isinstance(old, tuple):
            new = tuple(type(old[0])(part) for part in text.split(",")) if old else tuple(text.split(","))
        else:
            raise ValueError
    except (ValueError, KeyError) as error:
        allowed = "true or false" if isinstance(old, bool) else f"a value like {old!r}"
        raise MabenchError(f"--config {'.'.join(path)}={text}. Allowed: {allowed}.") from error
    return dataclasses.replace(config, **{path[0]: new})


def leaves(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the fields of a configuration by dotted path, written as `--config` reads them."""
    out: dict[str, str] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out |= leaves(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple):
            out[prefix + field.name] = ",".join(map(str, value))
        else:
            out[prefix + field.name] = str(value).lower() if isinstance(value, bool) else str(value)
    return out


def differences(base: Config, config: Config) -> tuple[str, ...]:
    """Return the fields in which a configuration differs from another, as `--config` reads them."""
    before = leaves(base)
    return tuple(f"{key}={value}" for key, value in leaves(config).items() if before.get(key) != value)


def command(chosen: Preset, seed: int, method: str = "") -> str:
    """Return what a reader types to make the same set; `method` is what names it on the command line, where that is a file."""
    changes = [f"--config {shlex.quote(change)}" for change in chosen.changes]
    return " ".join(
        [f"mabench reproduce {shlex.quote(method or chosen.method)} --preset {chosen.name}", *changes, f"--seed {seed}"]
    )
