"""The owner's command: make a board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mabench.cli import console
from mabench.cli.options import Group


@click.group(cls=Group, short_help="Make a board of your own.")
def board() -> None:
    """For the owner of a board: its repositories on the Hub. `mabench review` judges what is submitted to it."""


@board.command("init", short_help="Make a board on the Hub.", epilog="mabench board init org/board --space org/leaderboard")
@click.argument("repo", metavar="ORG/NAME")
@click.option("--space", metavar="ORG/NAME", help="The Space with the page (default: ORG/NAME-page).")
@click.option("--title", default="", help="The board's name on every page.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("."), show_default=True,
    help="Where the workflows and the list of maintainers go.",
)  # fmt: skip
@click.option("--private", is_flag=True, help="Make the Space private.")
def init(repo: str, space: str | None, title: str, out: Path, private: bool) -> Any:
    """Make the dataset ORG/NAME, the Space that shows it, and the workflows that keep both current. Safe to run again."""
    from mabench.board import kit

    made = kit.init(repo, space or f"{repo}-page", out, title=title, private=private)
    console.say(f"submissions: {made.dataset.url}\npage: {made.page.url}")
    for path in made.files:
        console.say(f"written: {path}")
    console.say("Next: commit these files; docs/run-a-board.md says how the Hub learns to trust the workflows.")
    return {"dataset": made.dataset.url, "page": made.page.url, "files": [str(path) for path in made.files]}
