"""The commands around the board: submit, pull, refresh, verify, audit, leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console as display
from mabench.cli.options import Examples, path_options, stopped
from mabench.errors import Interrupted, MabenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mabench.board.hub.client import Pushed
    from mabench.board.submission import Submission
    from mabench.engine import EngineName
    from mabench.schema import AuditEntry

ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=Path("submissions"), show_default=True,
    help="The folder of submissions.",
)  # fmt: skip
REPO = click.option("--repo", metavar="ORG/NAME", help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT).")
WHO = click.option("--who", help="Who says so in the audit log (with --repo: the account that is logged in).")


@click.command(
    cls=Examples,
    epilog="mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --dry-run\n"
    "mabench submit my_set.safetensors --records results/my_set-1a2b3c4d --card card.toml --repo org/board --create-pr",
)
@path_options
@click.option(
    "--records", "records", required=True, multiple=True, type=click.Path(path_type=Path, file_okay=False),
    help="What mabench eval wrote: the folder of one suite, or of several. May be given more than once.",
)  # fmt: skip
@click.option(
    "--card", "card_path", type=click.Path(path_type=Path), default=Path("card.toml"), show_default=True,
    help="Who made the set and how: see submissions/README.md.",
)  # fmt: skip
@click.option("--interactive", is_flag=True, help="Ask for what the card lacks, and keep the answers in it.")
@click.option("--dry-run", is_flag=True, help="Only run the gates; nothing is written or sent.")
@ROOT
@REPO
@click.option("--create-pr", is_flag=True, help="With --repo: open a pull request instead of writing to it.")
@click.option("--private", is_flag=True, help="With --repo: if the repository has to be made, make it private.")
def submit(
    set_path: Path,
    records: tuple[Path, ...],
    card_path: Path,
    interactive: bool,
    dry_run: bool,
    root: Path,
    repo: str | None,
    create_pr: bool,
    private: bool,
    **reading: Any,
) -> None:
    """Check a set and its records, and write submissions/SLUG, or send it to a dataset repository on the Hub.

    Every gate runs; what is wrong is printed together, each with its cure. Nothing is written before all gates are open.
    """
    from mabench.board import gates
    from mabench.board import submission as submissions
    from mabench.board.hub import client as hub
    from mabench.results import scoring
    from mabench.results import tables as report

    if repo is None and (create_pr or private):
        raise MabenchError("--create-pr and --private say how to use a Hub repository. Name it with --repo ORG/NAME.")
    fields = _ask(card_path, keep=not dry_run) if interactive else None
    case = gates.examine(
        set_path, records, card_path, card_fields=fields, reading=reading, root=None if repo is not None else root
    )
    for gate in case.gates:
        display.say(f"  {gate.name:<12} {'' if gate.refusals else 'ok  '}{gate.found}", fg="red" if gate.refusals else None)
    if case.refusals:
        closed = sum(bool(gate.refusals) for gate in case.gates)
        raise MabenchError(
            f"{closed} of {len(case.gates)} gates refuse this submission; nothing was written.\n"
            + "\n".join(f"- {text}" for text in case.refusals)
        )
    assert case.card is not None and case.synthetic_set is not None
    for suite, exam in case.exams.items():
        mine = [r for r in case.records if r.cell.suite == suite]
        lines = scoring.rows(exam, mine, report.known_baseline(exam, mine[0].synthetic_set))
        display.say(f"\n{suite}\n" + report.table(exam, lines))
    for track in case.tracks:
        if track.complete and not track.ranked:
            display.say(f"\nnot ranked: {track.suite}, track {track.track}: {track.reason}")
        elif not track.complete:
            display.say(
                f"\nincomplete: {track.suite}, track {track.track}: {len(track.missing)} of {track.planned} cells are missing "
                f"({', '.join(track.missing[:3])}{', ...' if len(track.missing) > 3 else ''}). The row is shown, but not ranked; "
                f"mabench eval --suite {track.suite} --track {track.track} runs the rest."
            )
    if dry_run:
        display.say(f"\nall gates are open; without --dry-run this becomes {repo or root / case.slug}")
    elif repo is None:
        changed = gates.changes(case, submissions.read(root / case.slug), who=gates.submitter(case.card))
        submissions.write(root / case.slug, changed)
        display.say(
            f"\nwritten: {root / case.slug} ({len(changed)} files)" if changed else f"\n{root / case.slug}: nothing to add"
        )
    else:
        who = hub.whoami(repo)
        _sent(
            hub.push(
                repo,
                case.slug,
                lambda existing: gates.changes(case, existing, who=who),
                message=f"submission: {case.slug}",
                description=f"{hub.shown(case.card.title)}: {len(case.records)} cells of {', '.join(case.exams)}; all gates of mabench submit passed.",
                create_pr=create_pr,
                private=private,
            )
        )


def _ask(path: Path, keep: bool) -> dict[str, Any]:
    """The card's fields, asked for where it lacks them; kept in the file."""
    from mabench import files
    from mabench.board import submission as submissions

    fields = submissions.card_fields(path) if path.exists() else {}
    questions = {
        "title": "Title (one line, as the table shows it)", "authors": "Authors (with commas)",
        "licence": "Licence of the set, e.g. CC-BY-4.0", "method": "Name of the method", "paper": "Address of the paper",
        "code": "Address of the code", "command": "The command that made the set",
        "source_networks": "Networks that it was made with, e.g. convnet3 (with commas)",
    }  # fmt: skip
    for name, question in questions.items():
        if not fields.get(name):
            answer = click.prompt(
                question, default="" if name not in ("title", "authors", "licence") else None, show_default=False
            )
            several = name in ("authors", "source_networks")
            value = [part.strip() for part in answer.split(",") if part.strip()] if several else answer.strip()
            fields |= {name: value} if value else {}
    card = submissions.make_card(fields, path)
    if keep:
        files.write_text(path, card.toml())
    return fields


def _sent(pushed: Pushed, dry_run: bool = False) -> None:
    for problem in pushed.problems:
        display.say(f"left out of the table: {problem}", err=True)
    if not pushed.changed and not pushed.removed:
        display.say(f"\nnothing to send, everything is there: {pushed.url}")
        return
    removed = f", {len(pushed.removed)} removed" if pushed.removed else ""
    display.say(f"\n{'to be sent' if dry_run else 'sent'}: {len(pushed.changed)} files{removed}, {pushed.url}")


@click.command(cls=Examples, epilog="mabench pull kmeans-ipc10 --repo org/board")
@click.argument("slug")
@click.option(
    "--repo", metavar="ORG/NAME", required=True, help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT)."
)
@click.option("--revision", help="A branch, tag, commit or refs/pr/N (default: the newest).")
@ROOT
def pull(slug: str, repo: str, revision: str | None, root: Path) -> None:
    """Fetch a submission's set, card, records and log, and check them against their sha256."""
    from mabench.board.hub import client as hub

    path, submission = hub.pull(repo, slug, root, revision=revision)
    from mabench.board.submission import SET
    from mabench.sets import synthetic

    display.describe(synthetic.load(path / SET))
    display.say(f"\n{submission.card.title}: {len(submission.records)} records, tier {submission.tier}, in {path}")


@click.command(cls=Examples, epilog="mabench verify kmeans-ipc10 --cells 3 --seed 1 --who 'A. Reader'")
@click.argument("slug")
@click.option("--cells", default=3, show_default=True, type=click.IntRange(min=1), help="How many cells to re-run.")
@click.option("--seed", default=0, show_default=True, help="Which cells: the draw's seed, so that others can repeat it.")
@ROOT
@REPO
@WHO
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Keep the new records here (default: results/verify/SLUG-SEED, removed at the end).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
def verify(
    slug: str, cells: int, seed: int, root: Path, repo: str | None, who: str | None, out: Path | None, device: str
) -> None:
    """Re-run some cells of a submission, compare, and append the outcome to its audit log.

    A cell agrees within one point plus three standard deviations of the difference of two runs. Exits with 1 if any does not.
    """
    import shutil

    from tabulate import tabulate

    from mabench.board import submission as submissions
    from mabench.board import verify as reruns
    from mabench.board.hub import client as hub
    from mabench.results import tables as report
    from mabench.runs import local as runner

    if repo is None and who is None:
        raise MabenchError("the log says who re-ran the cells. Name yourself with --who.")
    if repo is not None:
        who = hub.whoami(repo)
        hub.pull(repo, slug, root)
    assert who is not None
    submission = _local(slug, root)
    chosen = reruns.sample(submission, cells, seed)
    runner.resolve_device(device)
    engine: EngineName = "fast" if all(r.engine == "fast" for r in chosen) else "reference"
    place = out or Path("results") / "verify" / f"{slug}-{seed}"
    try:
        found = reruns.rerun(
            submission,
            root / slug,
            chosen,
            place,
            lambda exam, data, wanted, folder, test: display.evaluate(exam, data, wanted, folder, test, device, engine),
        )
    except Interrupted as error:
        stopped(place, error)
    body = [
        [c.name, report.percent(c.recorded), report.percent(c.again), report.percent(c.difference, signed=True),
         report.percent(c.tolerance), "identical" if c.identical else "agrees" if c.agrees else "DIFFERS"]
        for c in found
    ]  # fmt: skip
    display.say(tabulate(body, ["cell", "recorded %", "again %", "difference", "tolerance", ""], disable_numparse=True))
    entry = reruns.entry(submission, found, who=who, seed=seed)
    _append(submission, root, repo, lambda log: reruns.entry(log, found, who=who, seed=seed), f"re-run: {slug}")
    if out is None:
        shutil.rmtree(place, ignore_errors=True)  # the next re-run of these cells shall be one
    display.say(f"\n{entry.why}\ntier: {submission.tier} -> {entry.tier}, in {root / slug / submissions.AUDIT}")
    if entry.contradicted:
        raise SystemExit(1)


def _local(slug: str, root: Path) -> Submission:
    from mabench.board import submission as submissions

    found = submissions.read(root / submissions.check_slug(slug))
    if found is None:
        known = [s.slug for s in submissions.read_all(root)]
        raise MabenchError(
            f"{root / slug}: no submission. Here are: {', '.join(known) or 'none'}. Get it with: mabench pull {slug} --repo ORG/NAME"
        )
    return found


def _append(
    submission: Submission, root: Path, repo: str | None, entry: Callable[[Submission], AuditEntry], message: str
) -> None:
    """Append to the log here, or to the Hub's and fetch it: there the entry is made from the submission as it stands by then."""
    from mabench.board import submission as submissions
    from mabench.board.hub import client as hub

    slug = submission.slug
    if repo is None:
        submissions.write(root / slug, submissions.with_entry(submission, entry(submission)))
        return

    def changed(existing: Submission | None) -> dict[str, bytes]:
        there = _there(existing, slug, repo)
        return submissions.with_entry(there, entry(there))

    _sent(hub.push(repo, slug, changed, message=message))
    hub.pull(repo, slug, root)


def _there(existing: Submission | None, slug: str, repo: str) -> Submission:
    if existing is None:
        raise MabenchError(f"{repo}: has no submission {slug} (any more).")
    return existing


@click.command(
    cls=Examples,
    epilog="mabench audit kmeans-ipc10\nmabench audit kmeans-ipc10 --tier withdrawn --why 'a bug in the crop' --who 'A. Author'",
)
@click.argument("slug")
@click.option("--tier", type=click.Choice(["challenged", "superseded", "withdrawn"]), help="Append this tier to the log.")
@click.option("--why", help="The reason, one line.")
@ROOT
@REPO
@WHO
def audit(slug: str, tier: Any, why: str | None, root: Path, repo: str | None, who: str | None) -> None:
    """Show a submission's audit log; with --tier and --why, append to it. The log is never shortened or changed."""
    from mabench.board.hub import client as hub

    if (tier is None) != (why is None):
        raise MabenchError("--tier and --why go together: the log says what and why.")
    if repo is not None:
        hub.pull(repo, slug, root)
    submission = _local(slug, root)
    if tier is not None and why is not None:
        from mabench.board import verify as reruns

        name = hub.whoami(repo) if repo is not None else who
        if name is None:
            raise MabenchError("the log says who decided. Name yourself with --who.")
        _append(submission, root, repo, lambda log: reruns.decision(log, tier, who=name, why=why), f"{tier}: {slug}")
        submission = _local(slug, root)
    for entry in submission.audit:
        display.say(f"{entry.when}  {entry.tier:<12} {entry.who}: {entry.action}, {entry.why}")


@click.command(cls=Examples, epilog="mabench refresh --repo org/board")
@click.option(
    "--repo", metavar="ORG/NAME", required=True, help="A dataset repository on the Hugging Face Hub (or on HF_ENDPOINT)."
)
def refresh(repo: str) -> None:
    """Bring a Hub repository's table and card up to date with its submissions, after pull requests were merged."""
    from mabench.board.hub import client as hub

    _sent(hub.refresh(repo))


@click.group()
def leaderboard() -> None:
    """The board: submissions become one static page that works from a file, with Markdown, CSV, JSON and parquet."""


def trial_board(set_path: Path, run: Path, card: dict[str, Any]) -> Path:
    """The page of one evaluated set in `run`/page, made as if it were submitted; returns its index.html. Nothing is submitted."""
    import tempfile

    from mabench.board import gates
    from mabench.board import site as board
    from mabench.board import submission as submissions
    from mabench.papers import paper_tables as papers

    case = gates.examine(set_path, [run], Path("card.toml"), card_fields=card)
    if case.refusals:
        raise MabenchError("\n".join(case.refusals))
    assert case.card is not None
    with tempfile.TemporaryDirectory() as root:
        submissions.write(Path(root) / case.slug, gates.changes(case, None, who=gates.submitter(case.card)))
        board.build(Path(root), run / "page", papers.INSTALLED)
    return run / "page" / "index.html"


@leaderboard.command("build", epilog="mabench leaderboard build --submissions submissions --out results/board")
@click.option(
    "--submissions",
    type=click.Path(path_type=Path),
    default=Path("submissions"),
    show_default=True,
    help="A folder a submission: card.toml, set.safetensors, records/, audit.jsonl.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("leaderboard"), show_default=True, help="Where the page goes."
)
@click.option(
    "--methods",
    type=click.Path(path_type=Path),
    help="Folder whose */paper.toml hold papers' numbers (default: those that came with mabench).",
)
@click.option("--repo", metavar="ORG/NAME", help="First pull every submission of this Hub dataset into --submissions.")
@click.option(
    "--readme", type=click.Path(path_type=Path, dir_okay=False), help="Also put the tables between the two marks in this file."
)
@click.option("--open", "open_", is_flag=True, help="Open the page in a browser.")
def leaderboard_build(
    submissions: Path, out: Path, methods: Path | None, repo: str | None, readme: Path | None, open_: bool
) -> None:
    """Make the page from records. Same records, same bytes; what an earlier build left is replaced, other files are kept."""
    from mabench import files
    from mabench.board import site as board
    from mabench.board.hub import client as hub
    from mabench.board.site import exports
    from mabench.board.site.sources import unfinished
    from mabench.papers import paper_tables as papers

    if repo is not None:
        found, problems = hub.pull_all(repo, submissions)
        for problem in problems:
            display.say(f"left out: {problem}", err=True)
        display.say(f"{len(found)} submissions of {repo} in {submissions}")
    rows = board.build(submissions, out, methods or papers.INSTALLED)
    for name in unfinished(submissions):
        display.say(f"left out: {submissions / name}: no finished submission. Complete it with mabench submit or pull.", err=True)
    if readme is not None:
        try:
            files.write_text(readme, exports.into_readme(readme.read_text(encoding="utf-8"), rows, readme))
        except (OSError, UnicodeDecodeError) as error:
            raise MabenchError(f"{readme}: cannot read: {error}. Name a text file with --readme.") from error
    ranked = sum(row.rank is not None for row in rows)
    display.say(f"{len(rows)} rows, {ranked} ranked: {out / 'index.html'}")
    display.say(
        f"also there: {', '.join(f'leaderboard.{kind}' for kind in ('md', 'csv', 'json', 'parquet'))}, cells.csv, cells.parquet"
    )
    if open_:
        click.launch((out / "index.html").resolve().as_uri())


@leaderboard.command("publish", epilog="mabench leaderboard publish --repo org/board --dry-run")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("leaderboard"))
@click.option("--repo", metavar="ORG/NAME", required=True, help="A static Space on the Hugging Face Hub (or on HF_ENDPOINT).")
@click.option("--private", is_flag=True, help="If the Space has to be made, make it private.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent and removed; nothing is made or changed.")
def leaderboard_publish(folder: Path, repo: str, private: bool, dry_run: bool) -> None:
    """Bring a static Space up to date with a built page: one commit with what differs. The Space is made if there is none.

    FOLDER holds what `leaderboard build` wrote and README.md, the Space's card. Files of the Space that no board wrote are kept.
    """
    from mabench.board.hub import client as hub

    pushed = hub.publish(repo, folder, private=private, dry_run=dry_run)
    if dry_run:
        for mark, names in (("+", pushed.changed), ("-", pushed.removed)):
            for name in names:
                display.say(f"  {mark} {name}")
    _sent(pushed, dry_run)


@leaderboard.command("serve", epilog="mabench leaderboard serve results/board --port 8000")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("leaderboard"))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 chooses a free one.")
def leaderboard_serve(folder: Path, port: int) -> None:
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
        display.say(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            display.say("")


COMMANDS = (submit, pull, refresh, verify, audit, leaderboard)
