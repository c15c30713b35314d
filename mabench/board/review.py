"""A submission before it is taken: every gate, what changed, and who may change it. Files are read as data; nothing of them is run.

`pull_request.py` does this for pull requests on the Hub; here it is done for a folder, and for the folders of submissions of two
checkouts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mabench.board import acceptance, audit_log, differences, gates, imitation, labels, stored
from mabench.board import submission as submissions
from mabench.board.gates import Gate, gate, no_run_repeated
from mabench.board.names import skeleton, skeletons
from mabench.board.owners import BOARD, Board, read_board
from mabench.board.submission import AUDIT, CARD, MAX_FILES, SLUG, Submission, has_sets
from mabench.digests import sha256
from mabench.errors import MabenchError, first_line
from mabench.files import sha256_of

RERUN_STEPS = "re-runs, first steps"
CLOCKS = timedelta(days=1)  # ours: by which the clocks of two machines may differ
MAX_SET_BYTES = 2**30  # ours: a condensed set in a git repository is small


@dataclass(frozen=True)
class Review:
    """What a review found. `accepted` where no gate is closed."""

    slug: str
    gates: tuple[Gate, ...]
    tier: str = ""
    changes: tuple[str, ...] = ()
    """What differs from the submission as it is, one line each: see `differences`."""

    @property
    def refusals(self) -> list[str]:
        return [f"{each.name}: {text}" for each in self.gates for text in each.refusals]

    @property
    def accepted(self) -> bool:
        return not self.refusals

    @property
    def verdict(self) -> str:
        """What was found, in a few words."""
        unchecked = first_line(each.name for each in self.gates if not each.checked)
        return "refused" if not self.accepted else "every gate is open" + (f", not checked: {unchecked}" if unchecked else "")

    def markdown(self) -> str:
        """The review as a comment; a stranger's text in it is shown and does nothing."""
        from mabench.board.hub.cards import shown

        lines = [
            f"## {shown(self.slug)}: {self.verdict}",
            "",
            "| gate | state | found |",
            "|---|---|---|",
        ]
        for each in self.gates:
            state = "**refused**" if each.refusals else "ok" if each.checked else "**not checked**"
            lines.append(f"| {each.name} | {state} | {'' if each.refusals else shown(each.found)} |")
        lines += ["", *(f"- **{each.name}**: {shown(text)}" for each in self.gates for text in each.refusals)]
        if self.changes:
            lines += ["", "### Changed", "", *(f"- {shown(each)}" for each in self.changes)]
        if self.tier:
            lines += ["", f"Tier, computed from the re-runs in it: {self.tier}."]
        if self.accepted:
            lines += ["", no_run_repeated(shown(self.slug))]
        return "\n".join(lines).rstrip() + "\n"


def review(
    folder: Path,
    *,
    before: Submission | None = None,
    account: str | None = None,
    images: bool = True,
    features: bool = False,
    root: Path | None = None,
    board: Board | None = None,
) -> Review:
    """Review the submission in `folder`.

    before: the submission as the board has it; None for a new one. account: who sends the change, where that is known: then
    every new line of the log must be theirs. images: also run the gates that look at the set, with torch and the real dataset.
    features: with them, report what the images are like in the features of a pretrained network. root: the folder of all
    submissions, where that is not the folder's own. board: what the board says of itself, where the folder's neighbour
    board.toml is a stranger's.
    """
    try:
        with acceptance.named(folder.name):
            submission = submissions.read(folder)
        if submission is None:
            raise MabenchError(
                f"{folder}: holds submissions. Name one of them, or with --base the folder that they are compared with."
                if any(folder.glob(f"*/{AUDIT}"))
                else f"{folder}: has no {AUDIT}: it was never finished. Run mabench submit again."
            )
    except MabenchError as error:
        return Review(folder.name, (Gate("folder", "refused", (str(error),)),))
    passed = [
        Gate(
            "folder", f"{len(submission.records)} records, {len(submission.reruns)} re-runs, {len(submission.audit)} log entries"
        )
    ]
    if board is not None:
        passed.append(signed(submission, before))
        submission = replace(submission, board=board)
    passed += [
        *acceptance.of_submission(submission, has_set=has_sets(folder, submission), label_bytes=labels.sizes(folder, submission)),
        grown(submission, before),
        allowed(submission, before, account),
        dated(submission, before),
        imitation.of_names(submission, before, root or folder.parent),
        acceptance.unique(submission, root or folder.parent, before, folder),
        contents(folder, submission),
    ]
    here = {name: sha for name, sha in submission.set_files.items() if (folder / name).is_file()}
    passed += (replayed := _labels(folder, submission) if here else [])
    passed += [] if images else [gates.attempted("set", lambda: _set_files(folder, submission))]
    if images and not any(each.refusals for each in replayed):  # the gates of images would replay those labels
        passed += [each for name, sha in here.items() for each in _of_images(submission, before, folder / name, sha, features)]
        absent = sorted(set(submission.set_files) - set(here))
        passed += [gate("first steps", f"not checked: {first_line(absent)} is not here", [], checked=False)] if absent else []
    return Review(submission.slug, tuple(passed), submission.tier, differences.of_cards(before, submission))


def of_folders(base: Path, head: Path, *, images: bool = True, features: bool = False) -> list[Review]:
    """Review every submission that differs between two folders of submissions: `base` as it is, `head` as it would be.

    Who maintains the board, `base` says. Raises MabenchError where `head` is not a folder.
    """
    if head.is_symlink() or not head.is_dir():
        raise MabenchError(f"{head}: no such folder. Name the folder of submissions of the pull request.")
    names = sorted({path.name for root in (base, head) if root.is_dir() for path in root.iterdir() if path.is_dir()})
    found = _board_change(base, head)
    for name in names:
        paths: list[str] = []
        try:
            earlier, files = _files(base / name), _files(head / name)
            kinds = differences.kinds(earlier, files)
            paths = differences.of_paths(kinds)
            if not kinds and not (head / name).is_symlink():
                continue
            problem = _no_submission(head / name, files)
            if problem:
                raise MabenchError(problem)
            with acceptance.named(name):
                before = submissions.read(base / name) if (base / name).is_dir() else None
                one = review(head / name, before=before, images=images, features=features, board=read_board(base))
                found.append(replace(one, changes=(*paths, *one.changes)))
        except MabenchError as error:  # one that cannot be read does not hide the others
            found.append(Review(name[:80], (Gate("files", "refused", (str(error),)),), changes=tuple(paths)))
    return found


def _files(folder: Path) -> dict[str, str | None]:
    """Path -> sha256 of every file under `folder`; None for what is not a plain file. Raises MabenchError where it is too much."""
    found: dict[str, str | None] = {}
    for path in folder.rglob("*") if folder.is_dir() and not folder.is_symlink() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            found[name] = None
        elif path.is_file():
            if path.stat().st_size > MAX_SET_BYTES:
                raise MabenchError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_SET_BYTES:,} are read. Keep sets small.")
            found[name] = sha256_of(path)
        if len(found) > MAX_FILES:
            raise MabenchError(f"{folder}: more than {MAX_FILES:,} files. Remove those that the log does not name.")
    return found


def _board_change(base: Path, head: Path) -> list[Review]:
    """Refused where the request changes what the board says of itself: who maintains it, and which sets it does without."""
    problem = ""
    try:
        if (head / BOARD).is_symlink():
            problem = "not a plain file."
        elif read_board(head) != read_board(base):
            problem = (
                "changes who maintains the board, or which sets it does not store. That is for a maintainer to decide, in a change of "
                "its own."
            )
    except MabenchError as error:
        problem = str(error)
    return [Review(BOARD, (Gate("maintainers", "refused", (problem,)),))] if problem else []


def _no_submission(folder: Path, files: dict[str, str | None]) -> str:
    """Why what a request would leave in this folder is not read at all, empty where it is."""
    if not SLUG.fullmatch(folder.name):
        return "the folder's name must be 3 to 64 of a-z, 0-9 and '-'."
    if folder.is_symlink():
        return "not a plain folder."
    if not folder.is_dir():
        return f"the submission was removed. Withdraw it instead: mabench audit {folder.name} --tier withdrawn --why REASON --who NAME"
    links = sorted(name for name, content in files.items() if content is None)
    return f"{', '.join(links[:3])}: not a plain file." if links else ""


def _labels(folder: Path, submission: Submission) -> list[Gate]:
    """The recorded labels in the folder, of all sets, are those that the records replayed, byte by byte."""
    needed = labels.needed(submission)
    if not needed:
        return []

    def checked() -> Gate:
        labels.check(folder, submission)
        return gate(
            "labels", f"{sum(each.bytes for each in needed):,} bytes of recorded labels, as the records replayed them", []
        )

    return [gates.attempted("labels", checked)]


def _set_files(folder: Path, submission: Submission) -> Gate:
    """The files are the sets that were submitted, as their records describe them: without images nothing else asks."""
    stored.check(folder, stored.summaries(submission))
    return gate("set", f"{len(submission.sets)} as their records describe them", [])


def _of_images(submission: Submission, before: Submission | None, place: Path, sha256: str, features: bool) -> list[Gate]:
    from mabench import data
    from mabench.board import features as likeness
    from mabench.board import probes, rechecks
    from mabench.sets import synthetic

    try:
        number = submission.sets.index(sha256) + 1
        synthetic_set = replace(synthetic.load(place), labels_folder=place.parent / labels.folder_of(number))
    except MabenchError as error:
        return [Gate("set", "refused", (str(error),))]

    def like_real() -> Gate:
        splits = (data.load(synthetic_set.dataset, split) for split in ("test", "train"))
        return likeness.as_gate(synthetic_set.decoded()[0], *splits)

    def begin_alike() -> Gate:
        return replace(rechecks.first_steps(synthetic_set, again), name=RERUN_STEPS)

    known = before.reruns if before is not None else {}
    again = [r for name, r in submission.reruns.items() if r.cell.set_sha256 == sha256 and name not in known]
    records = {name: record for name, record in submission.records.items() if record.cell.set_sha256 == sha256}
    return [
        probes.pixels(synthetic_set, place),
        *probes.of_set(synthetic_set, list(records.values()), submission.card),
        gates.attempted(rechecks.NAME, lambda: rechecks.first_steps(synthetic_set, list(records.values()))),
        *([gates.attempted(RERUN_STEPS, begin_alike)] if again else []),
        *([gates.attempted(likeness.NAME, like_real)] if features else []),
        *rechecks.of_hardened(synthetic_set, [r for name, r in submission.hardened.items() if name in records]),
    ]


def contents(folder: Path, submission: Submission) -> Gate:
    """The submission's folder holds plain files that the log or the records name, and nothing else."""
    named = {*submission.files, *submission.set_files}
    places = {each.folder for each in labels.needed(submission)}
    problems, count = [], 0
    for count, path in enumerate(folder.rglob("*"), 1):
        name = path.relative_to(folder).as_posix()
        if count > submissions.MAX_FILES:
            problems = [f"more than {submissions.MAX_FILES:,} files. Remove those that the log does not name."]
            break
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(f"{name}: not a plain file. Remove it.")
        elif path.is_file() and name not in named and not (name.rpartition("/")[0] in places and labels.is_file_of_labels(name)):
            problems.append(f"{name}: neither the log nor a record names it. Remove it.")
    return gate("contents", f"{count} files and folders, all of them named", problems)


def grown(after: Submission, before: Submission | None) -> Gate:
    """The log only grew, and no file that it names was replaced."""
    if before is None:
        return gate("log", "new submission", [])
    problems = []
    if after.audit[: len(before.audit)] != before.audit:
        problems.append("the log was shortened or changed: its earlier entries must stay as they are.")
    if after.sets[: len(before.sets)] != before.sets:
        problems.append("the set was replaced: submit the new one under a slug of its own.")
    if removed := sorted({*before.card.authors, before.card.submitter} - {*after.card.authors, after.card.submitter, ""}):
        # or a co-author would be somebody else, whose re-runs confirm the set
        problems.append(f"{first_line(removed)}: removed from the card's names. Names may be added.")
    spoke = {skeleton(e.who): e.who for e in before.audit if e.action == "re-run"}
    own = skeletons(before.own_names)
    if joined := [who for name, who in spoke.items() if name in skeletons(after.own_names) - own]:
        problems.append(f"{first_line(joined)}: repeated runs of this set, and cannot become one of those who submit it.")
    if (named := audit_log.cards(after.audit)) and sha256(after.files[CARD]) != named[-1]:
        problems.append(f"{CARD}: is an earlier one than the log names last. Put the last one back.")
    replaced = [name for name, content in before.files.items() if name not in (AUDIT, CARD) and after.files.get(name) != content]
    if replaced:
        problems.append(f"{first_line(replaced)}: replaced or removed. Records that were submitted stay.")
    return gate("log", f"{len(after.audit) - len(before.audit)} new entries", problems)


def allowed(after: Submission, before: Submission | None, account: str | None) -> Gate:
    """New entries are by the account that sends them, only the owner or a maintainer decides, and a re-run keeps records.

    Names count letter by letter: whoever is called almost as they are may re-run, and nothing else.
    """
    new = after.audit[len(before.audit) if before is not None else 0 :]
    problems = []
    for entry in new:
        if account is not None and entry.who != account:
            problems.append(f"an entry by {entry.who!r}, sent by {account!r}. Entries are made by the account that sends them.")
        if entry.action == "tier" and not after.may_change(entry.who):  # other entries: `acceptance.permitted`
            problems.append(f"tier by {entry.who!r}: only {after.owner!r} or a maintainer may. Anybody may re-run it.")
        if entry.action == "re-run" and not entry.reruns:
            problems.append(
                f"a re-run by {entry.who!r} that keeps no record. Repeat runs with: mabench verify {after.slug} --who NAME"
            )
    return gate("account", account or "not known", problems)


def dated(after: Submission, before: Submission | None) -> Gate:
    """New entries were written after those that are there and before now, as far as clocks agree."""
    place = len(before.audit) if before is not None else 0
    latest = datetime.now(UTC) + CLOCKS
    earliest = datetime.fromisoformat(before.audit[-1].when) - CLOCKS if before is not None else datetime.min.replace(tzinfo=UTC)
    wrong = [entry.when for entry in after.audit[place:] if not earliest <= datetime.fromisoformat(entry.when) <= latest]
    problems = (
        [f"an entry of {wrong[0]}: before the entry that it follows, or in the future. Set the clock, and add it again."]
        if wrong
        else []
    )
    return gate("dates", f"newest entry of {after.audit[-1].when}", problems)


def signed(after: Submission, before: Submission | None) -> Gate:
    """Of a request whose sender is not known: who has signed, and nobody confirms a submission together with it."""
    new = after.audit[len(before.audit) if before is not None else 0 :]
    others = sorted({entry.who for entry in new} - {after.owner})
    if before is None and others:
        text = f"a new submission with log entries by {first_line(others)}. Others add theirs themselves."
        return gate("signed", "", [text])
    if before is not None and len(after.audit) > len(before.audit):
        others = sorted({entry.who for entry in new})
    return gate("signed", f"by {first_line(others)}: is the request theirs?" if others else f"by {after.owner}", [])
