"""A submission that is read: every gate that needs no set, on its records and on the re-runs kept in it. Imports no torch.

`build`, `refresh`, `pull` and `review` all ask here. What is wrong with one submission, whatever it is, is a MabenchError that names
it, so that the others go on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

from mabench.board import hardened, labels, stored
from mabench.board.gates import Gate, attempted, card, curves, gate, of_records, one_set, plausible, suites_known
from mabench.board.submission import RECORDS, RERUNS, SET, Submission, folders, has_sets, read
from mabench.errors import MabenchError, first_line, one_line
from mabench.schema import RunRecord

NOTHING: Mapping[str, int] = MappingProxyType({})


@contextmanager
def named(slug: str) -> Iterator[None]:
    """Within it, whatever a stranger's files raise becomes a MabenchError that names their submission."""
    try:
        yield
    except MabenchError:
        raise
    except Exception as error:  # one submission must never stop a board
        raise MabenchError(
            f"{slug}: cannot be read ({type(error).__name__}: {one_line(str(error))}). It is left out; tell the board's maintainers."
        ) from error


def of_submission(submission: Submission, *, has_set: bool, label_bytes: Mapping[str, int] = NOTHING) -> list[Gate]:
    """Every gate that needs no set, on a submission and on the re-runs kept in it.

    `has_set`: whether all its sets lie where it does; `label_bytes`: as `labels.sizes`, what lies there of recorded labels.
    """
    reruns = list(submission.reruns.values())
    records = list(submission.records.values())
    again = []
    if reruns:  # they count in the table: what they say of the set and of its budget has to be what the submission says
        again = [suites_known(reruns, fresh=True, kept=True), one_set([*records, *reruns]), curves(reruns), plausible(reruns)]
        again.append(repeated(submission))
    return [
        attempted("card", lambda: card(submission.card)),
        gate("records", f"{len(records)} records", [] if records else [f"no {RECORDS}: submit what mabench eval wrote."]),
        permitted(submission),
        at_hand(submission, has_set, label_bytes),
        *of_records(records, kept=True),
        *([hardened.of_records(submission.records, submission.hardened, kept=True)] if submission.hardened else []),
        *(Gate(f"{RERUNS} {each.name}", each.found, each.refusals) for each in again),
    ]


def permitted(submission: Submission) -> Gate:
    """Card, sets and records are by whoever submitted first, or by a maintainer of the board."""
    others = [entry for entry in submission.audit if entry.action not in ("re-run", "tier")]
    problems = [
        f"{entry.action} on {entry.when[:10]} by {entry.who!r}: only {submission.owner!r} or a maintainer may; board.toml names those. Take the "
        f"submission as it was before. Anybody may re-run it: mabench verify {submission.slug} --who NAME"
        for entry in others
        if not submission.may_change(entry.who)
    ]
    return gate("changes", f"{len(others)} entries by {first_line(sorted({entry.who for entry in others}))}", problems)


def repeated(submission: Submission) -> Gate:
    """Re-runs were run, under the settings of the records that they repeat: none copies a record, or what another account ran."""
    known = {_settings(record) for record in submission.records.values()}
    seen = {(name, r.started, r.seconds): ("", "the submitted record") for name, r in submission.records.items()}
    cure = f"Run it: mabench verify {submission.slug} --who NAME"
    problems = []
    for who, name in ((entry.who, name) for entry in submission.audit for name in entry.reruns if entry.action == "re-run"):
        again = submission.reruns[name]
        if _settings(again) not in known:
            problems.append(
                f"{name}: was run under other settings, or another edition of the suite, than the submitted records. {cure}"
            )
        account, first = seen.setdefault((submission.name_of(again), again.started, again.seconds), (who, name))
        if account != who:
            problems.append(f"{name}: began at {again.started} and took {again.seconds} s, as {first} did: a copy. {cure}")
    return gate("runs", f"{len(submission.reruns)} runs repeated", problems)


def _settings(record: RunRecord) -> str:
    """Everything that a run is of, apart from its seed."""
    return record.cell.model_copy(update={"seed": 0}).model_dump_json()


def at_hand(submission: Submission, has_set: bool, label_bytes: Mapping[str, int]) -> Gate:
    """The set and the labels that its records replayed are there, or the board's maintainers have listed where it is published."""
    listed = submission.board.external.get(submission.slug)
    if (listed,) == submission.sets and not has_set:
        return gate("stored", "published elsewhere", [])
    if has_set:
        replayed = labels.needed(submission)
        problems = [text for each in replayed if (text := labels.lacking(each, label_bytes))]
        weight = f", {sum(each.bytes for each in replayed):,} bytes of recorded labels" if replayed else ""
        return gate("stored", f"{SET}{weight}", problems)
    text = (
        f"has no {SET}, and the board lists no other place of it. Get it again: mabench pull {submission.slug} --repo ORG/NAME, or ask a "
        "maintainer to list it in board.toml."
    )
    return gate("stored", "", [text])


def accept(submission: Submission, *, has_set: bool, label_bytes: Mapping[str, int] = NOTHING) -> Submission:
    """The submission, if every gate of `of_submission` is open. Raises MabenchError, which names it and says what is wrong."""
    passed = of_submission(submission, has_set=has_set, label_bytes=label_bytes)
    refusals = [f"{each.name}: {text}" for each in passed for text in each.refusals]
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise MabenchError(f"{submission.slug}: {refusals[0]}{more}")
    return submission


def read_accepted(folder: Path) -> Submission | None:
    """As `submission.read`, every gate open that needs no set; None for an unfinished one. Raises MabenchError."""
    with named(folder.name):
        submission = read(folder)
        if submission is None:
            return None
        return accept(submission, has_set=has_sets(folder, submission), label_bytes=labels.sizes(folder, submission))


def same_set(
    root: Path, slug: str, sets: Collection[str], is_copy: Callable[[Path, Submission], bool] = lambda *_: False
) -> Mapping[str, Submission]:
    """Other submissions under `root` that hold one of these sets (sha256), or a copy of one, by slug; those that cannot be read do
    not count."""
    others: dict[str, Submission] = {}
    for folder in folders(root):
        try:
            with named(folder.name):
                other = read(folder)
        except MabenchError:
            continue
        if other is not None and other.slug != slug and (set(other.sets) & set(sets) or is_copy(folder, other)):
            others[other.slug] = other
    return others


def unique(submission: Submission, root: Path, before: Submission | None = None, folder: Path | None = None) -> Gate:
    """No set that is new here is in a submission of somebody else's, or in one that is not ranked any more; several sets differ.

    Of sets that lie in `folder` and beside it, neither is a copy whose pixels differ by what nobody sees.
    """
    new = set(submission.sets) - set(before.sets if before is not None else ())
    every = stored.of_submission(folder, submission) if folder is not None and new else {}
    own = [one for sha, one in every.items() if sha in new]

    def is_copy(place: Path, other: Submission) -> bool:
        theirs = stored.of_submission(place, other).values() if own else ()
        return any(stored.is_copy(one, two) for one in own for two in theirs)

    others = same_set(root, submission.slug, new, is_copy)
    problems = [
        f"the same set is {other.slug} by {first_line(other.card.authors)}: they share one rank. Link it in the card's note, or withdraw one."
        for other in others.values()
        if other.owner != submission.owner
    ]
    problems += [
        f"the same set is {other.slug}, which is {other.tier}: another name does not settle that. Why it is: mabench audit {other.slug}"
        for other in others.values()
        if other.owner == submission.owner and not other.ranked
    ]
    if own and any(stored.is_copy(one, two) for one, two in combinations(every.values(), 2)):
        problems.append(
            "two of its sets are one set, but for what nobody sees: a method is condensed anew for each. Submit one of them."
        )
    return gate("unique", f"same set as {first_line(others)}" if others else "no other submission holds this set", problems)
