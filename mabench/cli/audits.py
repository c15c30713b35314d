"""What others say of a submission: re-runs, and the log that is never shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console
from mabench.cli.options import Command, Ended, device_option, names, repo_option, stopped, submissions_option, who_option
from mabench.cli.submissions import show_pushed
from mabench.errors import Interrupted, MabenchError

VERIFIED = Path("results") / "verify"  # where re-runs under way are kept: SLUG-DRAW
pr_option = click.option("--create-pr", is_flag=True, help="With --repo: open a pull request instead of writing to it.")

if TYPE_CHECKING:
    from mabench.board.review import Review
    from mabench.board.submission import Submission
    from mabench.board.verify import Comparison
    from mabench.engine import EngineName
    from mabench.schema import Cell, RunRecord


@click.command(
    cls=Command,
    short_help="Repeat some runs of a submission and log the outcome.",
    epilog="mabench verify kmeans-ipc10 --cells 3 --draw 1 --who 'A. Reader'",
)
@click.argument("slug")
@click.option(
    "--cells", default=3, show_default=True, type=click.IntRange(min=1), help="How many evaluator runs (cells) to repeat."
)
@click.option(
    "--suite",
    shell_complete=lambda *given: names("suite", *given),
    help="Only runs of this suite (default: of suites that rank, then of others).",
)
@click.option("--track", "tracks", multiple=True, help="Only this track; may be repeated.")
@click.option("--set", "number", default=1, show_default=True, type=click.IntRange(min=1), help="Which of the submission's sets.")
@click.option(
    "--draw",
    type=click.IntRange(min=0),
    help="Which runs: the seed of the draw, so that others can repeat it (default: a random one, which the log names).",
)
@click.option(
    "--fresh",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Also run their evaluators under this many seeds that no suite names.",
)
@submissions_option
@repo_option
@pr_option
@who_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the new records here (default: results/verify/SLUG-DRAW, removed at the end).",
)
@device_option
def verify(
    slug: str,
    cells: int,
    suite: str | None,
    tracks: tuple[str, ...],
    number: int,
    draw: int | None,
    fresh: int,
    submissions: Path,
    repo: str | None,
    create_pr: bool,
    who: str | None,
    out: Path | None,
    device: str,
) -> Any:
    """Repeat some runs of a submission, add their records to it, and write an entry into its audit log.

    The tier follows from all re-runs by others: the means of a track must agree within one point. Exits with 1 if they contradict.
    """
    import shutil

    from mabench.board import verify as reruns
    from mabench.board.hub import client as hub

    name = _speaker(repo, who, "re-ran the cells", create_pr=create_pr)
    if repo is not None:
        hub.pull(repo, slug, submissions)
    submission = _local(slug, submissions)
    if draw is None:
        draw = reruns.draw_of(slug, VERIFIED)
        console.say(f"draw: {draw} (--draw {draw} takes the same runs of the same suites and tracks)")
    place = out or VERIFIED / f"{slug}-{draw}"
    chosen = reruns.with_fresh(reruns.sample(submission, cells, draw, number, suite=suite, tracks=tracks), fresh, draw)
    reruns.check_room(submission, chosen, who=name, seed=draw)
    records = _rerun(submission, submissions / slug, chosen, place, device)

    def added(log: Submission) -> dict[str, bytes]:
        return reruns.logged(log, records, who=name, seed=draw)

    _add(submission, submissions, repo, create_pr, added, f"re-run: {slug}")
    if out is None:
        shutil.rmtree(place, ignore_errors=True)  # so that the next re-run of these cells runs them
    return _told(submission, records, submissions, added(submission) if create_pr else None)


def _told(submission: Submission, records: list[RunRecord], root: Path, proposed: dict[str, bytes] | None) -> Any:
    """Print what a re-run found on every track, and the tier that follows; with `proposed` files, after they are merged."""
    from mabench.board import submission as store
    from mabench.board import tiers
    from mabench.results.tables import percent

    found = tiers.agreements(submission.records.values(), records)
    for each in found:
        console.say(
            f"{each.suite}, {each.track}, {each.seeds} seeds: {each.verdict}, {percent(each.difference, signed=True)} points over "
            f"{each.runs} run{'s' if each.runs != 1 else ''} (margin {percent(tiers.MARGIN)}, standard error {'not known' if each.error is None else percent(each.error)})"
        )
    for suite in sorted({each.suite for each in found}):
        console.say(tiers.spread_note(suite, {record.cell.evaluator.name for record in records if record.cell.suite == suite}))
    if any(each.verdict == "open" for each in found):
        command = f"mabench verify {submission.slug} --submissions {root} --cells {2 * len(records)}"
        console.say(f"open: too uncertain to agree or contradict; more runs may decide: {command}")
    place = root / submission.slug
    if proposed is None:
        now, where = store.read(place) or submission, f"in {place}"
    else:
        now, where = store.parse(submission.slug, {**submission.files, **proposed}, place), "once the pull request is merged"
    for track in sorted({each.suite_and_track for each in found}):
        console.say(f"tier of {', '.join(track)}: {submission.tier_of(*track)} -> {now.tier_of(*track)}")
    console.say(f"tier: {submission.tier} -> {now.tier}, {where}")
    value = {"before": submission.tier, "tier": now.tier, "tracks": [vars(each) | {"verdict": each.verdict} for each in found]}
    return Ended(value) if any(each.verdict == "contradicts" for each in found) else value


def _speaker(repo: str | None, who: str | None, what: str, *, create_pr: bool) -> str:
    """Who an entry of the log is by. Raises MabenchError where nobody was named, or where they may not write to `repo`."""
    from mabench.board.hub import client as hub

    if repo is None and create_pr:
        raise MabenchError("--create-pr says how to use a Hub repository. Name it with --repo ORG/NAME.")
    if repo is not None:
        return hub.account(repo, create_pr=create_pr)
    if who is None:
        raise MabenchError(f"the log says who {what}. Name yourself with --who.")
    return who


def _rerun(submission: Submission, folder: Path, chosen: list[Cell], place: Path, device: str) -> list[RunRecord]:
    """Re-run and show how the cells compare."""
    from mabench.board import verify as reruns
    from mabench.evaluation import run_cells
    from mabench.runs.process import resolve_device, stop_on_signal

    resolve_device(device)
    engine: EngineName = "fast" if all(r.engine == "fast" for r in submission.records.values()) else "reference"

    def evaluate(loaded_suite: Any, synthetic_set: Any, cells: Any, kept: Any, test: Any) -> Any:
        with stop_on_signal() as should_stop, console.screen() as screen:
            screen.runs = len(cells)
            how: dict[str, Any] = {"device": device, "engine": engine, "on_event": screen, "should_stop": should_stop}
            return run_cells(synthetic_set, cells, kept, test, **how)

    try:
        found = reruns.rerun(submission, folder, chosen, place, evaluate)
    except Interrupted as error:
        stopped(place, error)
    console.say(rerun_table(reruns.comparisons(submission, found)))
    return found


def rerun_table(compared: Iterable[Comparison]) -> str:
    """Every cell that was run again, as it was recorded and as it came out."""
    from mabench.results.tables import draw, percent

    groups: dict[str, list[list[str]]] = {}
    for each in compared:
        suite, track, *cell = each.name.split("--")
        outcome = "identical" if each.identical else percent(each.difference, signed=True)
        groups.setdefault(f"{suite}, {track}", []).append([" ".join(cell), percent(each.recorded), percent(each.again), outcome])
    headers = ["cell", "recorded %", "again %", "difference"]
    return "\n\n".join(f"{title}\n{draw(headers, body, 'text')}" for title, body in groups.items())


def _local(slug: str, root: Path) -> Submission:
    from mabench.board import submission as store

    found = store.read(root / store.check_slug(slug))
    if found is None:
        known = [s.slug for s in store.read_all(root)]
        raise MabenchError(
            f"{root / slug}: no such submission. Found: {', '.join(known) or 'none'}. Get it with: mabench pull {slug} --repo ORG/NAME"
        )
    return found


def _add(
    submission: Submission,
    root: Path,
    repo: str | None,
    create_pr: bool,
    added: Callable[[Submission], dict[str, bytes]],
    message: str,
) -> None:
    """Add files to the submission here, or to the Hub's and fetch it: there they are made from it as it stands by then."""
    from mabench.board import submission as store
    from mabench.board.hub import client as hub

    slug = submission.slug
    if repo is None:
        store.write(root / slug, added(submission))
        return

    def changed(existing: Submission | None) -> dict[str, bytes]:
        if existing is None:
            raise MabenchError(
                f"{repo}: submission {slug} was removed meanwhile. What this command made is kept in {root / slug}."
            )
        return added(existing)

    try:
        show_pushed(hub.push(repo, slug, changed, message=message, create_pr=create_pr))
    except MabenchError:
        store.write(root / slug, added(submission))  # what was computed is kept here even where sending fails
        raise
    if not create_pr:
        hub.pull(repo, slug, root)


@click.command(
    cls=Command,
    short_help="Show a submission's audit log, or append to it.",
    epilog="mabench audit kmeans-ipc10\nmabench audit kmeans-ipc10 --tier withdrawn --why 'a bug in the crop' --who 'A. Author'",
)
@click.argument("slug")
@click.option(
    "--tier",
    type=click.Choice(["challenged", "superseded", "withdrawn", "self-run"]),
    help="The decision: submitters may withdraw or supersede, maintainers may decide anything; self-run takes a decision back.",
)
@click.option("--why", help="The reason, one line.")
@submissions_option
@repo_option
@pr_option
@who_option
def audit(slug: str, tier: Any, why: str | None, submissions: Path, repo: str | None, create_pr: bool, who: str | None) -> Any:
    """Show a submission's audit log; with --tier and --why, append to it. The log is never shortened or changed."""
    from mabench.board.hub import client as hub

    if (tier is None) != (why is None):
        raise MabenchError("--tier and --why go together: the log says what and why.")
    if repo is not None:
        hub.pull(repo, slug, submissions)
    submission = _local(slug, submissions)
    if tier is not None and why is not None:
        from mabench.board import submission as store
        from mabench.board import verify as reruns

        name, reason = _speaker(repo, who, "decided", create_pr=create_pr), why

        def added(log: Submission) -> dict[str, bytes]:
            return store.with_entry(log, reruns.decision(log, tier, who=name, why=reason))

        _add(submission, submissions, repo, create_pr, added, f"{tier}: {slug}")
        submission = _local(slug, submissions)
    for entry in submission.audit:
        action = f"decided {entry.tier}" if entry.action == "tier" else entry.action
        console.say(f"{entry.when}  {entry.who}: {action}, {entry.why}")
    console.say(f"tier: {submission.tier}")
    return [entry.model_dump(mode="json") for entry in submission.audit]


@click.command(
    cls=Command,
    short_help="Review a submission: every gate, and who may have changed what.",
    epilog="mabench review submissions/kmeans-ipc10\nmabench review incoming/submissions --base submissions --comment review.md\n"
    "mabench review --repo org/board --pr 7 --post",
)
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--base",
    type=click.Path(path_type=Path, file_okay=False),
    help="The submissions as they are: FOLDER then holds them as they would be, and those that differ are reviewed.",
)
@repo_option
@click.option("--pr", type=click.IntRange(min=1), help="With --repo: the number of a pull request (default: all open ones).")
@click.option("--comment", type=click.Path(path_type=Path, dir_okay=False), help="Also write the review here as Markdown.")
@click.option(
    "--post", is_flag=True, help="With --repo: also post the review to the pull request, as one comment that is updated."
)
@click.option("--no-images", is_flag=True, help="Skip the gates that compare the set's images.")
@click.option("--features", is_flag=True, help="With FOLDER: report likeness to test images in a pretrained network's features.")
def review(
    folder: Path | None,
    base: Path | None,
    repo: str | None,
    pr: int | None,
    comment: Path | None,
    post: bool,
    no_images: bool,
    features: bool,
) -> Any:
    """Run every gate on a submission in FOLDER, on those of a checkout, or on pull requests of a Hub repository.

    Files are read, never run. Exits with 1 where a gate is closed.
    """
    from mabench import files
    from mabench.board import review as reviews

    if (folder is None) == (repo is None) or (repo is None and (pr is not None or post)) or (folder is None and base is not None):
        raise MabenchError(
            "name a FOLDER (with --base, one of submissions), or a repository on the Hub with --repo ORG/NAME, and --pr N for one pull "
            "request of it."
        )
    if folder is None:
        assert repo is not None
        from mabench.board import pull_request as requests

        found = requests.reviewed(repo, pr, post, images=not no_images)
    elif base is not None:
        found = reviews.of_folders(base, folder, images=not no_images, features=features)
    else:
        found = [reviews.review(folder, images=not no_images, features=features)]
    for each in found:
        _show_review(each)
    if not found:
        console.say("no submission differs" if base is not None else "no pull request is open")
    if comment is not None:
        files.write_text(comment, "\n".join(each.markdown() for each in found) or "No submission was changed.\n")
    value = [
        {
            "slug": each.slug,
            "accepted": each.accepted,
            "tier": each.tier,
            "changes": list(each.changes),
            "gates": [vars(gate) for gate in each.gates],
        }
        for each in found
    ]
    return value if all(each.accepted for each in found) else Ended(value)


def _show_review(found: Review) -> None:
    from mabench.board.gates import no_run_repeated

    console.say(f"{found.slug}: {found.verdict}")
    for gate in found.gates:
        console.say(f"  {gate.line}", fg=gate.colour)
        for text in gate.refusals:
            console.say(f"    - {text}")
    if found.changes:
        console.say("  changed")
        for each in found.changes:
            console.say(f"    {each}")
    if found.accepted:
        console.say(no_run_repeated(found.slug))
