"""What the scripts that run in the background share: their part of the work, their time, and how they end."""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mabench.errors import MabenchError
from mabench.runs.plan import part_of

STOPPED = 130  # as a shell has it for Ctrl-C, and as mabench eval ends
GLANCE_SECONDS = 0.5  # ours: how often a process is asked whether it has ended


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """`--minutes`, a number or None, and `--shard`, for `mabench.runs.plan.shard`; `what` is shared among the parts."""
    parser.add_argument("--minutes", type=_minutes, help="stop after this time and say what is left; the same command continues")
    parser.add_argument(
        "--shard", type=_part, default=(1, 1), metavar="I/N", help=f"only part I of N of {what}, e.g. 1/2 and 2/2"
    )


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: allowed is more than 0, e.g. --minutes 9")
    return minutes


def _part(text: str) -> tuple[int, int]:
    try:
        return part_of(text)
    except MabenchError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def place(slug: str, patterns: Sequence[str]) -> int | None:
    """The first of the patterns that matches, by number; None where none does. Without patterns everything matches."""
    return next((number for number, pattern in enumerate(patterns or ["*"]) if fnmatch.fnmatchcase(slug, pattern)), None)


@contextmanager
def explained(script: str) -> Iterator[None]:
    """Within it, a MabenchError ends the script as it ends `mabench`: its text, no traceback, exit code 2."""
    try:
        yield
    except MabenchError as error:
        print(f"{script}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def call(command: Sequence[str], asked: Callable[[], bool]) -> int:
    """Run a command to its end; asked to stop, it gets one SIGTERM. Returns its exit code.

    It has a process group of its own: Ctrl-C and `timeout` send their signal to a whole group, and a run that hears of it twice ends
    without saving itself.
    """
    with subprocess.Popen(command, process_group=0) as process:
        told = False
        while True:
            try:
                return process.wait(GLANCE_SECONDS)
            except subprocess.TimeoutExpired:
                if asked() and not told:
                    process.terminate()
                    told = True
