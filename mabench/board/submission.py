"""Submissions at rest: `submissions/<slug>/` with card.toml, set.safetensors, records/, reruns/ and an append-only audit.jsonl.

Several sets of one method may stand in one submission: set.safetensors, set-2.safetensors, ... in the order in which the log names
them, each with records of its own.

A submission exists from the moment that its audit log does: the log is always written last. Imports no torch.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from mabench.board import audit_log, card_files, names, tiers
from mabench.board.owners import Board, read_board
from mabench.board.tiers import Rerun
from mabench.digests import sha256
from mabench.errors import MabenchError, first_line
from mabench.files import copy, write_bytes
from mabench.runs.folder import MAX_RECORD_BYTES, parse_record, record_text
from mabench.schema import RANKED_TIERS, AuditEntry, Card, RunRecord, Tier

FOLDER = "submissions"
"""Where submissions lie, here and in a repository on the Hub."""
CARD, SET, AUDIT = "card.toml", "set.safetensors", "audit.jsonl"
RECORDS, RERUNS, HARDENED = READ_WHOLE = "records/", "reruns/", "hardened/"
NO_FILES: Mapping[str, bytes] = MappingProxyType({})
JSON = ".json"
RECORD = re.compile("[a-z0-9@_-]{1,250}")
"""How records are called: one part of a path."""
MAX_BYTES = 2**28  # ours: of a submission without its sets and labels; 1,000 records take 20 MB
MAX_FILES = 10_000  # ours: of one submission; a large one has some hundred records
SLUG = re.compile(r"^(?!cells$|papers$)[a-z0-9-]{3,64}$")
"""A set's name is that of its pictures' configuration on the Hub, beside `cells` and `papers`."""


@dataclass(frozen=True)
class Submission:
    """One submission without its set: what a table, a page or a merge needs."""

    slug: str
    card: Card
    records: Mapping[str, RunRecord]
    """Name -> record, names sorted; a name is `record_name` of its cell."""
    audit: tuple[AuditEntry, ...]
    """Oldest first, never empty."""
    files: Mapping[str, bytes]
    """The bytes that it was read from, by path in the folder; the set is not among them."""
    reruns: Mapping[str, RunRecord] = field(default_factory=dict)
    """Records of re-runs, by name of their file under reruns/."""
    board: Board = field(default_factory=lambda: Board())
    hardened: Mapping[str, RunRecord] = field(default_factory=dict)
    """Name of a record of soft labels -> the record of the same run with hardened ones."""

    @cached_property
    def tier(self) -> Tier:
        """Computed from the re-runs by others that are kept here, and from decisions of those who may decide."""
        return tiers.of_all(self._decision[0], self._tracks.values())

    def tier_of(self, suite: str, track: str) -> Tier:
        """The tier of one row: runs that were repeated on another track say nothing of this one, unless they contradict."""
        return self._tracks.get((suite, track), "self-run") if self.ranked else self.tier

    @cached_property
    def _tracks(self) -> Mapping[tiers.Track, Tier]:
        _, settled = self._decision
        return tiers.derive(self.records, self._reruns(False, settled), self._reruns(True, settled))

    @cached_property
    def _decision(self) -> tuple[Tier | None, int]:
        return tiers.decision(self.audit, self.owner, self.board.maintainers)

    @cached_property
    def confirming(self) -> Mapping[str, Rerun]:
        """The last re-run of every run by somebody other than the submitter, by record name; fresh seeds too."""
        return dict(self._reruns(False, -1))

    @property
    def counted(self) -> dict[str, RunRecord]:
        """The records that count, by name: somebody else's re-run of a run, or else the submitter's own record."""
        return {name: self.confirming[name].record if name in self.confirming else r for name, r in self.records.items()}

    def _reruns(self, own: bool, since: int) -> list[tuple[str, Rerun]]:
        """(record name, re-run) by the submitter (`own`) or by others, of log entries after `since`, oldest first."""
        of_submitter = names.skeletons(self.own_names)
        return [
            (self.name_of(self.reruns[name]), Rerun(entry.who, self.reruns[name]))
            for entry in self.audit[since + 1 :]
            for name in entry.reruns
            if (names.skeleton(entry.who) in of_submitter) == own
        ]

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """sha256 of every set, in the order in which the log names them: the place is the number of the set's file."""
        return tuple(dict.fromkeys(entry.set_sha256 for entry in self.audit if entry.action in ("submitted", "changed")))

    @property
    def set_sha256(self) -> str:
        """Of the first set."""
        return self.audit[0].set_sha256

    @property
    def set_files(self) -> dict[str, str]:
        """Name of every set's file -> the set's sha256."""
        return {set_file(number): sha for number, sha in enumerate(self.sets, 1)}

    def name_of(self, record: RunRecord) -> str:
        """As `record_name`, in this submission."""
        return record_name(record, self.sets.index(record.cell.set_sha256) + 1)

    @property
    def suites(self) -> tuple[str, ...]:
        """Suite ids with at least one record, sorted."""
        return tuple(sorted({r.cell.suite for r in self.records.values()}))

    @property
    def ranked(self) -> bool:
        """Whether its complete tracks take part in the ranking."""
        return self.tier in RANKED_TIERS

    @property
    def owner(self) -> str:
        """Who submitted it, as the log's first line says."""
        return self.audit[0].who

    def may_change(self, who: str) -> bool:
        """Whether card, sets and records are theirs to change, and a decision to write: the owner's and the maintainers', letter by letter."""
        return who in {self.owner, *self.board.maintainers}

    @property
    def own_names(self) -> frozenset[str]:
        """Under which names the submitter may act: the card's and those of the log's submissions."""
        named = {e.who for e in self.audit if e.action in ("submitted", "changed")}
        return frozenset(named | {*self.card.authors, self.card.submitter} - {""})


def check_slug(slug: str) -> str:
    """`slug`, or a MabenchError: it becomes a folder's name."""
    if not SLUG.fullmatch(slug):
        raise MabenchError(
            f"slug {slug[:80]!r}: allowed are 3 to 64 of a-z, 0-9 and '-', but not 'cells' and 'papers'. Set slug = \"my-method-ipc10\" in the card."
        )
    return slug


def slug_of(card: Card) -> str:
    """The card's slug, or one made from its title. Raises MabenchError where the title gives none."""
    return check_slug(card.slug or re.sub(r"[^a-z0-9]+", "-", card.title.lower()).strip("-")[:64].strip("-"))


def record_name(record: RunRecord, number: int = 1) -> str:
    """`<suite>--<track>--<evaluator>--seed<n>`, of a second set with `--set2`: unique within a submission, safe as a file name."""
    return f"{record.cell.suite}--{record.cell.name}" + ("" if number == 1 else f"--set{number}")


def set_file(number: int) -> str:
    """Name of the file of a submission's first, second, ... set."""
    return SET if number == 1 else f"set-{number}.safetensors"


def is_set_file(name: str) -> bool:
    """Whether a file of a submission is a set."""
    return re.fullmatch(r"set(-[1-9]\d{0,3})?\.safetensors", name) is not None


def has_sets(folder: Path, submission: Submission) -> bool:
    """Whether all sets of the submission lie in its folder."""
    return all((folder / name).is_file() for name in submission.set_files)


def record_bytes(record: RunRecord) -> bytes:
    """The record's file: the same record gives the same bytes."""
    return record_text(record).encode()


def rerun_name(name: str, entry: int) -> str:
    """Of the file of a re-run of the record called `name` that the log's entry of this number tells of."""
    return f"{name}--entry{entry}"


def with_entry(submission: Submission, entry: AuditEntry, files: Mapping[str, bytes] = NO_FILES) -> dict[str, bytes]:
    """These new files and the log with this entry at its end; without the log where its last entry already says the same, whatever
    its time. Raises MabenchError where the submission would become more than is read.
    """
    last = submission.audit[-1].model_copy(update={k: getattr(entry, k) for k in ("when", "previous", "checksum")})
    added = {**files} if last == entry else {**files, AUDIT: audit_log.appended(submission.audit, entry)}
    check_room(submission.slug, {**submission.files, **dict.fromkeys(submission.set_files, b""), **added})
    return added


def check_room(slug: str, files: Mapping[str, bytes]) -> None:
    """Raise MabenchError where these files of a submission, all that it would hold, are more than is read."""
    read_ = {name: len(content) for name, content in files.items() if name in (CARD, AUDIT) or name.startswith(READ_WHOLE)}
    count = len({*files, *(name.rpartition("/")[0] for name in files)} - {""})
    cure = "Nothing was written: add fewer records, or ask the board's maintainers to begin a new slug for this set."
    if large := sorted(name for name, size in read_.items() if size > MAX_RECORD_BYTES):
        raise MabenchError(f"{slug}: {large[0]} has {read_[large[0]]:,} bytes; at most {MAX_RECORD_BYTES:,} are read. {cure}")
    if sum(read_.values()) > MAX_BYTES or count > MAX_FILES:
        raise MabenchError(
            f"{slug}: would have {sum(read_.values()):,} bytes without its sets, and {count:,} files and folders; at most {MAX_BYTES:,} bytes and "
            f"{MAX_FILES:,} files are read. {cure}"
        )


# -- the folder ----------------------------------------------------------------------------------------------------


def parse(slug: str, files: Mapping[str, bytes], place: Path, board: Board | None = None) -> Submission:
    """The submission made of these files, paths relative to its folder. Raises MabenchError for anything inconsistent.

    Only records that the log names exist: what a killed write left behind is not seen. Each must have the bytes that the log
    names, be about the log's set and lie under its own cell's name, so that two records for one cell cannot exist.
    """
    check_slug(slug)
    missing = [name for name in (CARD, AUDIT) if name not in files]
    if missing:
        raise MabenchError(
            f"{place}: has no {first_line(missing)}, so the submission is incomplete. Submit it again, or: {audit_log.again(slug)}"
        )
    audit = audit_log.parse(files[AUDIT], place / AUDIT)
    named = {entry.set_sha256 for entry in audit if entry.action in ("submitted", "changed")}
    if named != {entry.set_sha256 for entry in audit} or audit[0].action != "submitted":
        raise MabenchError(
            f"{place / AUDIT}: names a set that was not submitted here, or begins before it was. {audit_log.again(slug)}"
        )
    # an earlier card: whoever changed it was killed between the log's line and the card; submitting again completes that
    if sha256(files[CARD]) not in audit_log.cards(audit):
        raise MabenchError(f"{place / CARD}: is not the card that the audit log names (sha256 differs). {audit_log.again(slug)}")
    added = _logged(audit, place)
    known = {CARD, AUDIT, *added}
    kept = {name: content for name, content in files.items() if name in known}
    records, reruns, hardened = (
        {
            name[len(part) : -len(JSON)]: _record(files, name, *added[name], place)
            for name in sorted(added)
            if name.startswith(part)
        }
        for part in (RECORDS, RERUNS, HARDENED)
    )
    card = card_files.parse(files[CARD], place / CARD)
    submission = Submission(slug, card, records, audit, kept, reruns, board or Board(), hardened)
    for stem, record in records.items():
        if stem != submission.name_of(record):
            raise MabenchError(
                f"{place / RECORDS / stem}.json: holds the cell {submission.name_of(record)}. Give the file its cell's name."
            )
    return submission


def _logged(audit: Sequence[AuditEntry], place: Path) -> dict[str, tuple[str, str]]:
    """Path of every record that the log names -> its sha256 and that of its set, empty for any set.

    Raises MabenchError for a path that the log names twice, which would replace what was there, and for one that leads elsewhere.
    """
    found: dict[str, tuple[str, str]] = {}
    for entry in audit:
        parts = {RERUNS: entry.reruns} if entry.action == "re-run" else {RECORDS: entry.records, HARDENED: entry.hardened}
        for part, names_ in parts.items() if entry.action != "tier" else ():
            for name, digest in names_.items():
                path = f"{part}{name}{JSON}"
                if path in found or not RECORD.fullmatch(name):
                    raise MabenchError(
                        f"{place / AUDIT}: names {path!r} twice, or as no record is called. {audit_log.again(place.name)}"
                    )
                found[path] = digest, "" if part == HARDENED else entry.set_sha256
    return found


def _record(files: Mapping[str, bytes], name: str, digest: str, set_sha256: str, place: Path) -> RunRecord:
    """One record that the log names by its sha256. Raises MabenchError where it is missing, changed, or about another set; an empty
    `set_sha256` stands for any."""
    if name not in files:
        raise MabenchError(f"{place / name}: is missing, but the audit log names it. {audit_log.again(place.name)}")
    if sha256(files[name]) != digest:
        raise MabenchError(
            f"{place / name}: was changed after it was submitted (sha256 differs from the log). {audit_log.again(place.name)}"
        )
    record = parse_record(files[name], place / name)
    if {record.cell.set_sha256, record.synthetic_set.sha256} != {set_sha256 or record.cell.set_sha256}:
        raise MabenchError(f"{place / name}: is a record of another set. {audit_log.again(place.name)}")
    return record


def read(folder: Path, *, links: bool = False) -> Submission | None:
    """The submission in `folder`, or None where there is none (no audit log: never finished).

    Links are followed only where `links` says so: in the Hub's own cache, which is made of them.
    """
    if _size(folder / AUDIT, links) is None:
        return None
    files: dict[str, bytes] = {}
    room = MAX_BYTES

    def take(name: str) -> None:
        nonlocal room
        path = folder / name
        size = _size(path, links)
        if size is None:
            return
        room -= size
        if size > MAX_RECORD_BYTES or room < 0:
            raise MabenchError(
                f"{path}: {size:,} bytes; at most {MAX_RECORD_BYTES:,} are read, and {MAX_BYTES:,} of a submission without its sets. "
                f"{audit_log.again(folder.name)}"
            )
        files[name] = path.read_bytes()

    take(CARD)
    take(AUDIT)
    for name in _logged(audit_log.parse(files[AUDIT], folder / AUDIT), folder):  # what no line names is not even read
        take(name)
    return parse(folder.name, files, folder, read_board(folder.parent))


def _size(path: Path, links: bool) -> int | None:
    """Bytes of the plain file at `path`, None where there is none; a link counts only where `links` says so."""
    try:
        found = path.stat(follow_symlinks=links)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def folders(root: Path) -> list[Path]:
    """The folders under `root` that may hold a submission, by slug; none where there is no `root`."""
    return sorted(path for path in root.iterdir() if SLUG.fullmatch(path.name) and path.is_dir()) if root.is_dir() else []


def read_all(root: Path) -> list[Submission]:
    """All finished submissions under `root`, by slug."""
    return [submission for path in folders(root) if (submission := read(path)) is not None]


def write(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write the files, each whole or not at all, the audit log last: killed anywhere, the same call again completes it.

    A path stands for the content of that file, which is copied. Where only the card changes with the log, the card is last: its
    change would else be there, and never logged.
    """
    last = CARD if set(files) == {CARD, AUDIT} else AUDIT
    for name in sorted(files, key=lambda n: (n == last, n)):
        content = files[name]
        copy(content, folder / name) if isinstance(content, Path) else write_bytes(folder / name, content)
