"""What the commands share: help with examples, the arguments that name and read a set, where cells run, how a stopped command ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from mabench.cli import console as display
from mabench.errors import MabenchError

F = TypeVar("F", bound=Callable[..., Any])


class Examples(click.Command):
    """A command whose help keeps the example lines as they were written."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write("\nExample:\n")
            for line in self.epilog.splitlines():
                formatter.write(f"  {line.strip()}\n")


READING = ("dataset", "set_index", "layout", "space", "decode", "ipc", "learned_rate", "labels")


def path_options(command: F) -> F:
    """SET, and the flags that override what the reader of its file would guess."""
    options = [
        click.argument("set_path", metavar="SET", type=click.Path(path_type=Path)),
        click.option("--dataset", help="The real dataset that the set condenses (default: from the file or its name)."),
        click.option("--set-index", type=int, help="Which set of a file that holds several (default: the last)."),
        click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Order of the image axes."),
        click.option(
            "--space",
            type=click.Choice(["pixel", "normalised", "uint8-range"]),
            help="pixel: 0..1; normalised: by the dataset's mean and std; uint8-range: 0..255.",
        ),
        click.option("--decode", help="none, or grid2 for 2x2 multi-formation, grid3, ..."),
        click.option("--ipc", type=click.IntRange(min=1), help="Stored images per class."),
        click.option(
            "--learned-rate", type=float, help="The rate that was learned with the images, where the file does not name it."
        ),
        click.option(
            "--labels",
            type=click.Path(path_type=Path),
            help="Folder of the labels recorded for every epoch (default: labels/ beside SET).",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def set_options(command: F) -> F:
    """`path_options`, and the command gets the set that was read."""

    @wraps(command)
    def with_set(set_path: Path, **arguments: Any) -> Any:
        from mabench.sets import readers as adapters

        reading = {k: arguments.pop(k) for k in READING}
        return command(adapters.read(set_path, **reading), **arguments)

    return path_options(with_set)  # type: ignore[return-value]


def launcher_options(command: F) -> F:
    """The flags that say where cells run; the command gets `launcher`, a cluster.Ray or None for here."""
    options = [
        click.option(
            "--launcher",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Cells one by one here, or on Ray.",
        ),
        click.option(
            "--address", help="Of the Ray cluster: auto (default), HOST:PORT, ray://HOST:10001, or local to start one here."
        ),
        click.option(
            "--gpus-per-cell", type=float, help="Ray: 0 to 1, e.g. 0.5 for two cells on a GPU (default: 1 where there are GPUs)."
        ),
        click.option("--cpus-per-cell", type=int, help="Ray: threads of a cell (default: 1 beside a GPU, else as without Ray)."),
    ]
    for option in reversed(options):
        command = option(command)

    @wraps(command)
    def with_launcher(
        *given: Any, launcher: str, address: str | None, gpus_per_cell: float | None, cpus_per_cell: int | None, **arguments: Any
    ) -> Any:
        from mabench.runs.ray_cluster import Ray

        if launcher == "ray":
            return command(*given, launcher=Ray(address or "auto", gpus_per_cell, cpus_per_cell), **arguments)
        for flag, value in (("address", address), ("gpus-per-cell", gpus_per_cell), ("cpus-per-cell", cpus_per_cell)):
            if value is not None:
                raise MabenchError(f"--{flag} {value}: is about a Ray cluster. Add --launcher ray, or leave it out.")
        return command(*given, launcher=None, **arguments)

    return with_launcher  # type: ignore[return-value]


def stopped(path: Path, error: Exception) -> NoReturn:
    """End a command that was asked to stop: what it did lies in `path`. Exit code 130, as a shell has it for Ctrl-C."""
    display.say(f"\nStopped; everything so far is in {path}. The same command goes on from there.", err=True)
    raise SystemExit(130) from error
