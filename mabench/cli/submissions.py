"""Submissions: hand one in, fetch, re-run, and keep the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console
from mabench.cli.options import (
    Command,
    Ended,
    device_option,
    reading_options,
    repo_option,
    required_repo_option,
    stopped,
    submissions_option,
    who_option,
)
from mabench.errors import Interrupted, MabenchError

if TYPE_CHECKING:
    from mabench.board.gates import Examination
    from mabench.board.hub.client import Pushed
    from mabench.board.submission import Submission
    from mabench.engine import EngineName
    from mabench.schema import AuditEntry


@click.command(
    cls=Command,
    short_help="Check a set with its records, and write or send a submission.",
    epilog="mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --dry-run\n"
    "mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --repo org/board --create-pr",
)
@reading_options
@click.option(
    "--records", "records", required=True, multiple=True, type=click.Path(path_type=Path, file_okay=False),
    help="What mabench eval wrote: the folder of one suite, or of several; may be repeated.",
)  # fmt: skip
@click.option(
    "--card", "card_path", type=click.Path(path_type=Path), default=Path("card.toml"), show_default=True,
    help="Who made the set and how: see submissions/README.md.",
)  # fmt: skip
@click.option("--interactive", is_flag=True, help="Ask for what the card lacks, and keep the answers in it.")
@click.option("--dry-run", is_flag=True, help="Only run the gates; nothing is written or sent.")
@submissions_option
@repo_option
@click.option("--create-pr", is_flag=True, help="With --repo: open a pull request instead of writing to it.")
@click.option("--private", is_flag=True, help="With --repo: if the repository has to be made, make it private.")
def submit(
    set_path: str,
    reading: dict[str, Any],
    records: tuple[Path, ...],
    card_path: Path,
    interactive: bool,
    dry_run: bool,
    submissions: Path,
    repo: str | None,
    create_pr: bool,
    private: bool,
) -> Any:
    """Check a set and its records, and write submissions/SLUG, or send it to a dataset repository on the Hub.

    Every gate runs; what is wrong is printed together, each with its cure. Nothing is written before all gates are open.
    """
    from mabench.board import gates

    if repo is None and (create_pr or private):
        raise MabenchError("--create-pr and --private say how to use a Hub repository. Name it with --repo ORG/NAME.")
    fields = _ask(card_path) if interactive else None
    root = None if repo is not None else submissions
    case = gates.examine(Path(set_path), records, card_path, card_fields=fields, reading=reading, root=root)
    _show_gates(case)
    place = repo or str(submissions / case.slug)
    if dry_run:
        console.say(f"\nall gates are open; without --dry-run this becomes {place}")
    elif repo is None:
        _write(case, submissions)
    else:
        _send(case, repo, create_pr=create_pr, private=private)
    return {"slug": case.slug, "place": place, "written": not dry_run, "gates": [vars(gate) for gate in case.gates]}


def _show_gates(case: Examination) -> None:
    """Print what the gates found. Raises MabenchError with every refusal."""
    from mabench.results import scoring, tables

    for gate in case.gates:
        console.say(f"  {gate.name:<12} {'' if gate.refusals else 'ok  '}{gate.found}", fg="red" if gate.refusals else None)
    if case.refusals:
        closed = sum(bool(gate.refusals) for gate in case.gates)
        raise MabenchError(
            f"{closed} of {len(case.gates)} gates refuse this submission; nothing was written.\n"
            + "\n".join(f"- {text}" for text in case.refusals)
        )
    for suite, exam in case.exams.items():
        same = [r for r in case.records if r.cell.suite == suite]
        lines = scoring.rows(exam, same, tables.known_baseline(exam, same[0].synthetic_set))
        console.say(f"\n{suite}\n" + tables.table(exam, lines, width=console.width()))
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


def _write(case: Examination, root: Path) -> None:
    from mabench.board import gates
    from mabench.board import submission as store

    assert case.card is not None
    place = root / case.slug
    changed = gates.changes(case, store.read(place), who=gates.submitter(case.card))
    store.write(place, changed)
    console.say(f"\nwritten: {place} ({len(changed)} files)" if changed else f"\n{place}: nothing to add")
    console.say(f"Next: mabench leaderboard build --submissions {root}, or a pull request with this folder")


def _send(case: Examination, repo: str, *, create_pr: bool, private: bool) -> None:
    from mabench.board import gates
    from mabench.board.hub import client as hub

    assert case.card is not None
    who = hub.whoami(repo)
    title, suites = hub.shown(case.card.title), ", ".join(case.exams)
    show_pushed(
        hub.push(
            repo,
            case.slug,
            lambda existing: gates.changes(case, existing, who=who),
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
    from mabench.board import submission as store

    fields = store.card_fields(path) if path.exists() else {}
    for name, question in QUESTIONS.items():
        if not fields.get(name):
            needed = name in ("title", "authors")
            answer = click.prompt(question, default=None if needed else "", show_default=False)
            several = name in ("authors", "source_networks")
            value = [part.strip() for part in answer.split(",") if part.strip()] if several else answer.strip()
            fields |= {name: value} if value else {}
    files.write_text(path, store.make_card(fields, path).toml())
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
    return {"slug": slug, "folder": str(path), "records": len(submission.records), "tier": submission.tier}


@click.command(
    cls=Command,
    short_help="Re-run some cells of a submission and log the outcome.",
    epilog="mabench verify kmeans-ipc10 --cells 3 --draw 1 --who 'A. Reader'",
)
@click.argument("slug")
@click.option("--cells", default=3, show_default=True, type=click.IntRange(min=1), help="How many cells to re-run.")
@click.option("--draw", default=0, show_default=True, help="Which cells: the seed of the draw, so that others can repeat it.")
@submissions_option
@repo_option
@who_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the new records here (default: results/verify/SLUG-DRAW, removed at the end).",
)
@device_option
def verify(
    slug: str, cells: int, draw: int, submissions: Path, repo: str | None, who: str | None, out: Path | None, device: str
) -> Any:
    """Re-run some cells of a submission, compare, and append the outcome to its audit log.

    A cell agrees within one point plus three standard deviations of the difference of two runs. Exits with 1 if any does not.
    """
    import shutil

    from mabench.board import verify as reruns
    from mabench.board.hub import client as hub

    name = _speaker(repo, who, "re-ran the cells")
    if repo is not None:
        hub.pull(repo, slug, submissions)
    submission = _local(slug, submissions)
    place = out or Path("results") / "verify" / f"{slug}-{draw}"
    found = _rerun(submission, submissions / slug, reruns.sample(submission, cells, draw), place, device)
    entry = reruns.entry(submission, found, who=name, seed=draw)
    _append(submission, submissions, repo, lambda log: reruns.entry(log, found, who=name, seed=draw), f"re-run: {slug}")
    if out is None:
        shutil.rmtree(place, ignore_errors=True)  # the next re-run of these cells shall be one
    console.say(f"\n{entry.why}\ntier: {submission.tier} -> {entry.tier}, in {submissions / slug}")
    value = entry.model_dump(mode="json")
    return Ended(value) if entry.contradicted else value


def _speaker(repo: str | None, who: str | None, what: str) -> str:
    """Who an entry of the log is by. Raises MabenchError where nobody was named."""
    from mabench.board.hub import client as hub

    if repo is not None:
        return hub.whoami(repo)
    if who is None:
        raise MabenchError(f"the log says who {what}. Name yourself with --who.")
    return who


def _rerun(submission: Submission, folder: Path, chosen: list[Any], place: Path, device: str) -> list[Any]:
    """Re-run and show how the cells compare."""
    from mabench.board import verify as reruns
    from mabench.evaluation import run_cells
    from mabench.results.tables import percent
    from mabench.runs.process import resolve_device, stop_on_signal

    resolve_device(device)
    engine: EngineName = "fast" if all(r.engine == "fast" for r in chosen) else "reference"

    def evaluate(exam: Any, synthetic_set: Any, cells: Any, kept: Any, test: Any) -> Any:
        with stop_on_signal() as should_stop, console.screen() as screen:
            screen.runs = len(cells)
            how: dict[str, Any] = {"device": device, "engine": engine, "on_event": screen, "should_stop": should_stop}
            return run_cells(synthetic_set, cells, kept, test, **how)

    try:
        found = reruns.rerun(submission, folder, chosen, place, evaluate)
    except Interrupted as error:
        stopped(place, error)
    body = [
        [c.name, percent(c.recorded), percent(c.again), percent(c.difference, signed=True), percent(c.tolerance),
         "identical" if c.identical else "agrees" if c.agrees else "DIFFERS"]
        for c in found
    ]  # fmt: skip
    console.say(console.table(["cell", "recorded %", "again %", "difference", "tolerance", ""], body))
    return found


def _local(slug: str, root: Path) -> Submission:
    from mabench.board import submission as store

    found = store.read(root / store.check_slug(slug))
    if found is None:
        known = [s.slug for s in store.read_all(root)]
        raise MabenchError(
            f"{root / slug}: no such submission. Found: {', '.join(known) or 'none'}. Get it with: mabench pull {slug} --repo ORG/NAME"
        )
    return found


def _append(
    submission: Submission, root: Path, repo: str | None, entry: Callable[[Submission], AuditEntry], message: str
) -> None:
    """Append to the log here, or to the Hub's and fetch it: there the entry is made from the submission as it stands by then."""
    from mabench.board import submission as store
    from mabench.board.hub import client as hub

    slug = submission.slug
    if repo is None:
        store.write(root / slug, store.with_entry(submission, entry(submission)))
        return

    def changed(existing: Submission | None) -> dict[str, bytes]:
        if existing is None:
            raise MabenchError(f"{repo}: has no submission {slug} (any more).")
        return store.with_entry(existing, entry(existing))

    show_pushed(hub.push(repo, slug, changed, message=message))
    hub.pull(repo, slug, root)


@click.command(
    cls=Command,
    short_help="Show a submission's audit log, or append to it.",
    epilog="mabench audit kmeans-ipc10\nmabench audit kmeans-ipc10 --tier withdrawn --why 'a bug in the crop' --who 'A. Author'",
)
@click.argument("slug")
@click.option("--tier", type=click.Choice(["challenged", "superseded", "withdrawn"]), help="Append this tier to the log.")
@click.option("--why", help="The reason, one line.")
@submissions_option
@repo_option
@who_option
def audit(slug: str, tier: Any, why: str | None, submissions: Path, repo: str | None, who: str | None) -> Any:
    """Show a submission's audit log; with --tier and --why, append to it. The log is never shortened or changed."""
    from mabench.board.hub import client as hub

    if (tier is None) != (why is None):
        raise MabenchError("--tier and --why go together: the log says what and why.")
    if repo is not None:
        hub.pull(repo, slug, submissions)
    submission = _local(slug, submissions)
    if tier is not None and why is not None:
        from mabench.board import verify as reruns

        name, reason = _speaker(repo, who, "decided"), why
        _append(submission, submissions, repo, lambda log: reruns.decision(log, tier, who=name, why=reason), f"{tier}: {slug}")
        submission = _local(slug, submissions)
    for entry in submission.audit:
        console.say(f"{entry.when}  {entry.tier:<12} {entry.who}: {entry.action}, {entry.why}")
    return [entry.model_dump(mode="json") for entry in submission.audit]


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
    return {"changed": list(pushed.changed), "removed": list(pushed.removed), "url": pushed.url}
