"""The command line: parse, call one library function, print. Wrong input ends with one paragraph and exit code 2."""

from __future__ import annotations

import os
import sys

import click

import mabench
from mabench.cli import audits, board, leaderboard, listing, reproduce, sets, submissions
from mabench.cli import eval as evaluating
from mabench.cli.options import Group

SECTIONS = {
    "Inspect": ("list", "show", "check", "pack"),
    "Evaluate": ("demo", "eval", "table", "reproduce"),
    "Submit": ("submit", "pull", "verify", "audit", "review"),
    "Board": ("board", "leaderboard", "refresh"),
}


@click.group(
    cls=Group,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": "MABENCH"},
    epilog="Every option has a default in the environment, e.g. MABENCH_EVAL_DEVICE=cuda:1 for mabench eval --device.",
)
@click.version_option(mabench.__version__)
def main() -> None:
    """The benchmark for condensed datasets: train every network of a frozen suite on a set, and test it on real images."""


for command in (
    listing.list_, listing.show, sets.check, sets.pack, evaluating.demo, evaluating.eval_, evaluating.table, reproduce.reproduce,
    submissions.submit, submissions.pull, audits.verify, audits.audit, audits.review, submissions.refresh, leaderboard.leaderboard,
    board.board,
):  # fmt: skip
    main.add_command(command)


def run() -> None:
    """Entry point: quiet when the reader of our output goes away."""
    os.environ["MPLBACKEND"] = "agg"  # nothing here draws on a screen, whatever notebook started us
    try:
        main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    run()
