"""The board: build its page, publish it, serve it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mabench.cli import console
from mabench.cli.options import Ended, Group, submissions_option
from mabench.cli.submissions import show_pushed
from mabench.errors import MabenchError


@click.group(cls=Group, short_help="Build, publish or serve the board's page.")
def leaderboard() -> None:
    """The board: submissions become one static page that works from a file, with Markdown, CSV, JSON and parquet."""


@leaderboard.command(
    "build",
    short_help="Make the page from submissions.",
    epilog="mabench leaderboard build --submissions submissions --out results/board",
)
@submissions_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default=Path("results/board"), show_default=True, help="Where the page goes."
)
@click.option(
    "--methods",
    type=click.Path(path_type=Path),
    help="Folder whose */paper.toml files hold papers' numbers (default: mabench's own).",
)
@click.option("--repo", metavar="ORG/NAME", help="First pull every submission of this Hub dataset into --submissions.")
@click.option(
    "--readme",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also put the tables into this file, between the lines <!-- mabench: generated --> and <!-- mabench: end -->.",
)
@click.option("--title", help="The board's name on every page.")
@click.option("--no-papers", is_flag=True, help="Leave out the numbers that papers report, and the claims about them.")
@click.option("--suite", "suites", multiple=True, help="Only this suite; may be repeated.")
@click.option("--address", default="", help="The board's address, for social cards, badges and the feed.")
@click.option("--open", "open_", is_flag=True, help="Open the page in a browser.")
def build(
    submissions: Path,
    out: Path,
    methods: Path | None,
    repo: str | None,
    readme: Path | None,
    title: str | None,
    no_papers: bool,
    suites: tuple[str, ...],
    address: str,
    open_: bool,
) -> Any:
    """Build the page from records. The same records give the same bytes; files of an earlier build are replaced, others are kept."""
    from mabench.board import site
    from mabench.board.site.sources import unfinished
    from mabench.results import paper_tables

    if no_papers and methods is not None:
        raise MabenchError("--no-papers and --methods exclude each other. Leave one of the two out.")
    left_out = [] if repo is None else _pull_all(repo, submissions)
    owner = site.Site(dataset=repo or "", address=address.rstrip("/") + "/" if address else "")
    if title:
        owner = replace(owner, title=title)
    papers = None if no_papers else methods or paper_tables.INSTALLED
    rows = site.build(submissions, out, papers, left_out.append, site=owner, suites=suites)
    for problem in left_out:
        console.say(f"left out: {problem}", err=True)
    for name in unfinished(submissions):
        console.say(f"left out: {submissions / name}: not finished. Complete it with mabench submit or pull.", err=True)
    if readme is not None:
        _into_readme(readme, rows)
    ranked, page = sum(row.rank is not None for row in rows), out / "index.html"
    reported = sum(row.tier == "reported" for row in rows)
    papers_too = f", {reported} more from papers" if reported else ""
    console.say(f"{ranked} of {len(rows) - reported} rows ranked{papers_too}: {page}")
    console.say(
        f"also there: {', '.join(f'leaderboard.{kind}' for kind in ('md', 'csv', 'json', 'parquet'))}, cells.csv, cells.parquet"
    )
    console.say(f"Next: open the page in a browser, or mabench leaderboard publish {out} --repo ORG/NAME")
    if open_:
        click.launch(page.resolve().as_uri())
    value = {"rows": len(rows), "ranked": ranked, "page": str(page), "left_out": left_out}
    return Ended(value) if left_out else value


def _pull_all(repo: str, root: Path) -> list[str]:
    """Pull every submission; returns why some could not be taken."""
    from mabench.board.hub import client as hub

    found, problems = hub.pull_all(repo, root)
    console.say(f"{len(found)} submissions of {repo} in {root}")
    return list(problems)


def _into_readme(readme: Path, rows: Any) -> None:
    from mabench import files
    from mabench.board.site import exports

    try:
        files.write_text(readme, exports.into_readme(readme.read_text(encoding="utf-8"), rows, readme))
    except (OSError, UnicodeDecodeError) as error:
        raise MabenchError(f"{readme}: cannot read: {error}. Name a text file with --readme.") from error


@leaderboard.command(
    "publish",
    short_help="Bring a static Space up to date with a page.",
    epilog="mabench leaderboard publish --repo org/board --dry-run",
)
@click.argument("folder", type=click.Path(path_type=Path), default=Path("results/board"))
@click.option("--repo", metavar="ORG/NAME", required=True, help="A static Space on the Hugging Face Hub (or on HF_ENDPOINT).")
@click.option("--private", is_flag=True, help="If the Space is created, make it private.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent and removed; change nothing.")
def publish(folder: Path, repo: str, private: bool, dry_run: bool) -> Any:
    """Bring a static Space up to date with a built page, in one commit. The Space is created if it does not exist.

    FOLDER holds what `leaderboard build` wrote and README.md, the Space's card. Other files of the Space are kept.
    """
    from mabench.board.hub import space

    pushed = space.publish(repo, folder, private=private, dry_run=dry_run)
    if dry_run:
        for mark, names in (("+", pushed.changed), ("-", pushed.removed)):
            for name in names:
                console.say(f"  {mark} {name}")
    show_pushed(pushed, dry_run)
    return {"changed": list(pushed.changed), "removed": list(pushed.removed), "url": pushed.url}


@leaderboard.command(
    "serve", short_help="Serve a page on this machine until Ctrl-C.", epilog="mabench leaderboard serve results/board --port 8000"
)
@click.argument("folder", type=click.Path(path_type=Path), default=Path("results/board"))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 chooses a free one.")
def serve(folder: Path, port: int) -> None:
    """Serve a built page on this machine only, until Ctrl-C. A browser can also open its index.html as a file."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (folder / "index.html").exists():
        raise MabenchError(f"{folder}: holds no index.html. Make it first: mabench leaderboard build --out {folder}")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    except OSError as error:
        raise MabenchError(f"port {port}: {error.strerror}. Choose another with --port, or 0 for any free one.") from error
    with server:
        console.say(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.say("")
