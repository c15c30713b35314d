"""What the scripts that run in the background share: their part of the work, their time, and how they end."""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mabench.errors import Interrupted, MabenchError
from mabench.evaluation.budget import Budget
from mabench.runs.plan import part_of
from mabench.runs.process import stop_on_signal

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


def parser_of(text: str, out: str, into: Path, what: str) -> argparse.ArgumentParser:
    """The options of a script that collects records of `out` into the file `into`; `what` is shared among parts."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--evaluator", help="a glob over names (default: all)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--into", type=Path, default=into, help="where the entries go (default: the package)")
    parser.add_argument("--collect", action="store_true", help="run nothing")
    add_options(parser, what)
    return parser


def in_time(
    arguments: argparse.Namespace,
    begun: float,
    run: Callable[[Callable[[], bool]], None],
    collect: Callable[[], None],
    left: Callable[[], str],
) -> int:
    """Run, unless only `--collect` was asked for; collect what is finished; after a stop, say what is left. Returns the exit code."""
    stopped = False
    with stop_on_signal() as asked:
        if not arguments.collect:
            try:
                run(Budget(begun, arguments.minutes, asked).should_stop)
            except Interrupted:
                stopped = True
        collect()
        if stopped:
            print(f"stopped, {left()}; the same command continues")
        return STOPPED if asked() else 0


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
