"""Submissions: hand one in, fetch, re-run, and keep the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mabench.cli import console
from mabench.cli.options import (
    Command,
    Ended,
    reading_options,
    repo_option,
    required_repo_option,
    submissions_option,
)
from mabench.errors import MabenchError

if TYPE_CHECKING:
    from mabench.board.hub.client import Pushed
    from mabench.board.submit import Examination


@click.command(
    cls=Command,
    short_help="Check a set with its records, and write or send a submission.",
    epilog="mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --dry-run\n"
    "mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --repo org/board --create-pr",
)
@reading_options
@click.option(
    "--records", "records", multiple=True, type=click.Path(path_type=Path, file_okay=False),
    help="What mabench eval wrote: a suite's folder, or one above it; may be repeated (default: results/SET-HASH).",
)  # fmt: skip
@click.option(
    "--card", "card_path", type=click.Path(path_type=Path), default=Path("card.toml"), show_default=True,
    help="A TOML file with title, authors, licence and more (--interactive asks for them).",
)  # fmt: skip
@click.option("--interactive", is_flag=True, help="Ask for what is missing in the card, and write the answers into it.")
@click.option(
    "--another-set", is_flag=True, help="Add SET to the slug's submission: one more set of the method, made from another seed."
)
@click.option("--dry-run", is_flag=True, help="Only run the gates; nothing is written or sent.")
@submissions_option
@repo_option
@click.option("--create-pr", is_flag=True, help="With --repo: open a pull request instead of writing to it.")
@click.option("--private", is_flag=True, help="With --repo: if the repository is created, make it private.")
def submit(
    set_path: str,
    reading: dict[str, Any],
    records: tuple[Path, ...],
    card_path: Path,
    interactive: bool,
    another_set: bool,
    dry_run: bool,
    submissions: Path,
    repo: str | None,
    create_pr: bool,
    private: bool,
) -> Any:
    """Check a set and its records, and write submissions/SLUG, or send it to a dataset repository on the Hub.

    Every gate runs, and all problems are printed together, each with its fix. Nothing is written before all gates are open.
    """
    from mabench.board import submit as submitting

    if repo is None and (create_pr or private):
        raise MabenchError("--create-pr and --private say how to use a Hub repository. Name it with --repo ORG/NAME.")
    who = "" if repo is None or dry_run else _account(repo, create_pr)
    fields = _ask(card_path) if interactive else None
    root = None if repo is not None else submissions
    records = records or (_where_eval_writes(set_path, reading),)
    case = submitting.examine(
        Path(set_path), records, card_path, card_fields=fields, reading=reading, root=root, another=another_set
    )
    _show_gates(case)
    place = repo or str(submissions / case.slug)
    if dry_run:
        console.say(f"\nall gates are open; without --dry-run this becomes {place}")
    elif repo is None:
        _write(case, submissions, another=another_set)
    else:
        _send(case, repo, who, another=another_set, create_pr=create_pr, private=private)
    return {"slug": case.slug, "place": place, "written": not dry_run, "gates": [vars(gate) for gate in case.gates]}


def _where_eval_writes(set_path: str, reading: dict[str, Any]) -> Path:
    """`results/SET-HASH`, with a folder a suite. Raises MabenchError where there is none."""
    from mabench.evaluation import folders, inputs
    from mabench.runs.plan import set_folder

    said = cast(inputs.Reading, reading)
    known: list[str | None] = [*folders.datasets(Path("results"))]  # a set need not name its dataset: the suite did
    tried = [set_folder(inputs.read_file(set_path, said, dataset)) for dataset in known or [None]]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise MabenchError(
        f"{tried[0]}: no records of this set. Make them with: mabench eval {set_path} --suite SUITE, or name their folder with --records."
    )


def _show_gates(case: Examination) -> None:
    """Print what the gates found. Raises MabenchError with every refusal."""
    from mabench.board.gates import no_run_repeated
    from mabench.results import lifts, tables

    for gate in case.gates:
        console.say(f"  {gate.line}", fg=gate.colour)
    if case.refusals:
        closed = sum(bool(gate.refusals) for gate in case.gates)
        raise MabenchError(
            f"{closed} of {len(case.gates)} gates refuse this submission; nothing was written.\n"
            + "\n".join(f"- {text}" for text in case.refusals)
        )
    console.say(no_run_repeated(case.slug))
    for suite, loaded_suite in case.loaded_suites.items():
        lines = lifts.rows(loaded_suite, *([r for r in part if r.cell.suite == suite] for part in (case.records, case.hardened)))
        console.say(f"\n{suite}\n" + tables.table(loaded_suite, lines, width=console.width()))
    for track in case.tracks:
        if track.complete and not track.ranked:
            console.say(f"\nnot ranked: {track.suite}, track {track.track}: {track.reason}")
        elif not track.complete:
            console.say(
                f"\nincomplete: {track.suite}, track {track.track}: {len(track.missing)} of {track.planned} cells are missing "
                f"({', '.join(track.missing[:3])}{', ...' if len(track.missing) > 3 else ''}). The row is shown, but not ranked; "
                f"mabench eval SET --suite {track.suite} --track {track.track} --out FOLDER runs the rest: SET and FOLDER as for "
                "the records that are there."
            )


def _write(case: Examination, root: Path, *, another: bool) -> None:
    from mabench.board import submission as store
    from mabench.board import submit as submitting

    assert case.card is not None
    place = root / case.slug
    changed = submitting.changes(case, store.read(place), who=submitting.submitter(case.card), another=another)
    store.write(place, changed)
    console.say(f"\nwritten: {place} ({len(changed)} files)" if changed else f"\n{place}: nothing to add")
    console.say(f"Next: mabench leaderboard build --submissions {root}, or a pull request with this folder")


def _account(repo: str, create_pr: bool) -> str:
    """Who sends: asked before the gates run, which takes half a minute."""
    from mabench.board.hub import client as hub

    return hub.account(repo, create_pr=create_pr)


def _send(case: Examination, repo: str, who: str, *, another: bool, create_pr: bool, private: bool) -> None:
    from mabench.board import submit as submitting
    from mabench.board.hub import cards
    from mabench.board.hub import client as hub

    assert case.card is not None
    title, suites = cards.shown(case.card.title), ", ".join(case.loaded_suites)
    show_pushed(
        hub.push(
            repo,
            case.slug,
            lambda existing: submitting.changes(case, existing, who=who, another=another),
            message=f"submission: {case.slug}",
            description=f"{title}: {len(case.records)} cells of {suites}; all gates of mabench submit passed.",
            create_pr=create_pr,
            private=private,
        )
    )


QUESTIONS = {
    "title": "Title (one line, as the table shows it)",
    "authors": "Authors (with commas)",
    "licence": "Licence of the set, e.g. CC-BY-4.0",
    "method": "Name of the method",
    "paper": "Address of the paper",
    "code": "Address of the code",
    "command": "The command that made the set",
    "source_networks": "Networks that it was made with, e.g. convnet3 (with commas)",
}


def _ask(path: Path) -> dict[str, Any]:
    """The card's fields, asked for where it lacks them; kept in the file."""
    from mabench import files
    from mabench.board import card_files

    fields = card_files.fields(path) if path.exists() else {}
    for name, question in QUESTIONS.items():
        if not fields.get(name):
            needed = name in ("title", "authors", "licence")
            answer = click.prompt(question, default=None if needed else "", show_default=False)
            several = name in ("authors", "source_networks")
            value = [part.strip() for part in answer.split(",") if part.strip()] if several else answer.strip()
            fields |= {name: value} if value else {}
    files.write_text(path, card_files.make(fields, path).toml())
    return fields


def show_pushed(pushed: Pushed, dry_run: bool = False) -> None:
    """Print what went to the Hub."""
    for problem in pushed.problems:
        console.say(f"left out of the table: {problem}", err=True)
    if not pushed.changed and not pushed.removed:
        console.say(f"\nnothing to send, everything is there: {pushed.url}")
        return
    removed = f", {len(pushed.removed)} removed" if pushed.removed else ""
    console.say(f"\n{'to be sent' if dry_run else 'sent'}: {len(pushed.changed)} files{removed}, {pushed.url}")


@click.command(
    cls=Command, short_help="Fetch a submission from the Hub and check it.", epilog="mabench pull kmeans-ipc10 --repo org/board"
)
@click.argument("slug")
@required_repo_option
@click.option("--revision", help="A branch, tag, commit or refs/pr/N (default: the newest).")
@submissions_option
def pull(slug: str, repo: str, revision: str | None, submissions: Path) -> Any:
    """Fetch a submission's set, card, records and log, and check them against their sha256."""
    from mabench.board.hub import client as hub
    from mabench.board.submission import SET
    from mabench.sets import synthetic

    path, submission = hub.pull(repo, slug, submissions, revision=revision)
    console.describe(synthetic.load(path / SET))
    console.say(f"\n{submission.card.title}: {len(submission.records)} records, tier {submission.tier}, in {path}")
    console.say(
        f"Next: mabench verify {slug} --submissions {submissions} --who YOU, or in Python mabench.load_set('{path / SET}')"
    )
    return {"slug": slug, "folder": str(path), "records": len(submission.records), "tier": submission.tier}


@click.command(
    cls=Command,
    short_help="Bring a Hub repository's table up to date after merges.",
    epilog="mabench refresh --repo org/board",
)
@required_repo_option
def refresh(repo: str) -> Any:
    """Bring a Hub repository's table and card up to date with its submissions, after pull requests were merged."""
    from mabench.board.hub import client as hub

    pushed = hub.refresh(repo)
    show_pushed(pushed)
    value = {
        "changed": list(pushed.changed),
        "removed": list(pushed.removed),
        "url": pushed.url,
        "left_out": list(pushed.problems),
    }
    return Ended(value) if pushed.problems else value
