"""What others say of a submission: re-runs, and the log that is never shortened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console
from mabench.cli.options import Command, Ended, device_option, repo_option, stopped, submissions_option, who_option
from mabench.cli.submissions import show_pushed
from mabench.errors import Interrupted, MabenchError

if TYPE_CHECKING:
    from mabench.board.submission import Submission
    from mabench.engine import EngineName
    from mabench.schema import AuditEntry


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
