"""A set, its records and a card -> a submission: every gate, then the files that are written.

All gates run, so that one command shows every problem.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from mabench import digests
from mabench.board import acceptance, aggregates, audit_log, card_files, gates, hardened, labels, probes, rechecks
from mabench.board import submission as submissions
from mabench.board.gates import Gate, attempted, gate
from mabench.board.submission import AUDIT, CARD, RECORDS, SET, Submission, record_bytes, record_name
from mabench.board.submission import HARDENED as HARDENED_RECORDS
from mabench.errors import MabenchError, first_line
from mabench.evaluation import inputs
from mabench.results.ranking import Status
from mabench.runs.folder import HARDENED, MAX_RECORD_BYTES, read_record
from mabench.schema import AuditEntry, Card, RunRecord
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import LoadedSuite, load, released


@dataclass(frozen=True)
class Examination:
    """What went through the gates; what could not be read is None, and its gates say so."""

    gates: tuple[Gate, ...]
    card: Card | None
    synthetic_set: SyntheticSet | None
    records: tuple[RunRecord, ...]
    tracks: tuple[Status, ...]
    hardened: tuple[RunRecord, ...] = ()
    """Records of the same runs with hardened labels."""

    @property
    def refusals(self) -> list[str]:
        return [f"{each.name}: {text}" for each in self.gates for text in each.refusals]

    @property
    def slug(self) -> str:
        assert self.card is not None
        return submissions.slug_of(self.card)

    @property
    def loaded_suites(self) -> dict[str, LoadedSuite]:
        """Suite id -> suite, of the released ones that have records."""
        return {suite: load(suite) for suite in sorted({r.cell.suite for r in self.records}) if suite in released()}


def examine(
    set_path: Path,
    records: Sequence[Path],
    card_path: Path,
    *,
    card_fields: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    root: Path | None = None,
    another: bool = False,
) -> Examination:
    """Run every gate. `reading`: arguments of `readers.read`; `card_fields` replaces the card file's content (interactive);
    `root`: the folder of submissions in which the slug must be free or one's own; `another`: SET is one more set of the
    submission that is there. Raises nothing that a gate can say."""
    card, of_card = _card(card_path, card_fields)
    folders, no_folder = _folders(records)
    found, of_files = _records(folders)
    harder, of_harder = _records([path for folder in folders if (path := folder / HARDENED).is_dir()])
    synthetic_set, of_set = _set(set_path, reading or {}, found)
    passed = [of_card, of_set, gate("records", of_files.found, [*no_folder, *of_files.refusals, *of_harder.refusals])]
    if synthetic_set is None:
        passed += [Gate(name, "refused", (UNREAD,)) for name in ("identity", rechecks.NAME, "class order", "test images")]
    else:
        passed.append(probes.identity(synthetic_set, found))
        passed.append(attempted("budget", partial(probes.budget, synthetic_set, found, card)))
        passed.append(probes.admitted(synthetic_set, found))
        passed += _hardened(synthetic_set, found, harder)
        passed.append(attempted(rechecks.NAME, partial(rechecks.first_steps, synthetic_set, found)))
    passed += [each for each in gates.of_records(found) if each.name != "budget" or synthetic_set is None]
    passed.append(aggregates.check(folders, found))
    if synthetic_set is not None:
        passed += [attempted(name, partial(check, synthetic_set)) for name, check in LOOKS_AT_IMAGES.items()]
    examined = Examination((), card, synthetic_set, tuple(found), tuple(gates.statuses(found)), tuple(harder))
    if root is not None and card is not None:
        passed.append(attempted("slug", lambda: _slug(examined, root, another)))
    return Examination(tuple(passed), card, synthetic_set, examined.records, examined.tracks, examined.hardened)


def _hardened(synthetic_set: SyntheticSet, records: Sequence[RunRecord], harder: Sequence[RunRecord]) -> list[Gate]:
    """The gates of runs with hardened labels, and what their absence means."""
    if not harder:
        asked = synthetic_set.label_kind == "soft" and any(
            load(suite).scores_hardened for suite in {r.cell.suite for r in records} & set(released())
        )
        return [gate(hardened.NAME, "not run, so the row is not ranked: mabench eval runs them", [])] if asked else []
    passed = hardened.of_records({record_name(r): r for r in records}, {record_name(r): r for r in harder})
    return [passed] if passed.refusals else rechecks.of_hardened(synthetic_set, harder)


UNREAD = "not checked, because the set could not be read: fix the set first"


def _of_order(synthetic_set: SyntheticSet) -> Gate:
    from mabench import data

    return probes.class_order(synthetic_set, data.load(synthetic_set.dataset, "train"))


def _of_leak(synthetic_set: SyntheticSet) -> Gate:
    from mabench import data

    return probes.leak(synthetic_set, data.load(synthetic_set.dataset, "test"), data.load(synthetic_set.dataset, "train"))


LOOKS_AT_IMAGES: dict[str, Callable[[SyntheticSet], Gate]] = {
    "class order": _of_order,
    "test images": _of_leak,
}


def _card(path: Path, fields: Mapping[str, Any] | None) -> tuple[Card | None, Gate]:
    try:
        card = card_files.read(path) if fields is None else card_files.make(fields, path)
        passed = gates.card(card, path)
    except MabenchError as error:
        return None, Gate("card", "refused", (str(error),))
    return (None if passed.refusals else card), passed


def _set(path: Path, reading: Mapping[str, Any], records: Sequence[RunRecord]) -> tuple[SyntheticSet | None, Gate]:
    """The set and its gate; where neither the file nor `reading` names the dataset, it is that of the records."""
    datasets = {record.synthetic_set.dataset for record in records}
    try:  # shape, type, finite values, label range, IPC
        synthetic_set = inputs.read_file(str(path), cast(inputs.Reading, reading), datasets.pop() if len(datasets) == 1 else None)
    except MabenchError as error:
        return None, Gate("set", "refused", (str(error),))
    passed = probes.pixels(synthetic_set, path)
    return (None if passed.refusals else synthetic_set), passed


def _folders(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Evaluation folders, those named or all inside them, and what is wrong with the others."""
    folders: list[Path] = []
    problems = []
    for path in given:
        inside = [path] if (path / "records").is_dir() else sorted(p.parent for p in path.glob("*/records") if p.is_dir())
        inside = inside or ([path.parent] if path.name == "records" and path.is_dir() else [])
        folders += inside
        if not inside:
            problems.append(f"{path}: holds no records/ folder. Name the folder that mabench eval wrote (its --out).")
    return folders, problems


def _records(folders: Sequence[Path]) -> tuple[list[RunRecord], Gate]:
    """Every record of the folders, one per cell."""
    problems: list[str] = []
    seen: dict[str, tuple[Path, RunRecord]] = {}
    for path in (p for folder in folders for p in sorted((folder / "records").glob("*.json"))):
        try:
            if path.stat().st_size > MAX_RECORD_BYTES:
                raise MabenchError(
                    f"{path}: {path.stat().st_size:,} bytes; a record has at most {MAX_RECORD_BYTES:,}. Run its cell again."
                )
            record = read_record(path)
        except MabenchError as error:
            problems.append(str(error))
            continue
        name = record_name(record)
        if path.stem not in (record.cell.name, name):
            problems.append(f"{path}: holds the cell {record.cell.name}. Give the file its cell's name, or run the cell again.")
        elif name in seen and seen[name][1] != record:
            problems.append(
                f"{path}: a second, different record of the cell in {seen[name][0]}. Keep the one that mabench eval wrote."
            )
        seen[name] = (path, record)
    if folders and not seen and not problems:
        problems.append(f"{first_line(map(str, folders))}: holds no record. Run mabench eval on the set first.")
    return [record for _, record in seen.values()], gate("records", f"{len(seen)} cells, one record each", problems)


def _slug(case: Examination, root: Path, another: bool) -> Gate:
    """The slug is free or one's own, and the set is not here under another name."""
    assert case.card is not None
    existing = submissions.read(root / case.slug)
    if case.synthetic_set is None:
        return gate("slug", f"{case.slug}: {'free' if existing is None else 'is there'}", [])
    problems = [
        f'this set is here already, as {other.slug} by {first_line(other.card.authors)}. If it is yours, add to it: slug = "{other.slug}" in the card.'
        for other in acceptance.same_set(root, case.slug, {case.synthetic_set.sha256}).values()
    ]
    if existing is None:
        return gate("slug", f"{case.slug}: free", problems)
    added = changes(case, existing, who=submitter(case.card), another=another)
    return gate("slug", f"{case.slug}: {'adds to your submission' if added else 'is there already, nothing to add'}", problems)


# -- writing -------------------------------------------------------------------------------------------------------


def submitter(card: Card | None) -> str:
    """Under which name a submission is logged where no account says it."""
    assert card is not None
    return card.submitter or card.authors[0]


def changes(case: Examination, existing: Submission | None, *, who: str, another: bool = False) -> dict[str, bytes]:
    """The files that the examined submission adds to `existing`, audit log included; empty when all of it is there.

    Adding is all that is possible: MabenchError where the slug is someone else's, where the submission was withdrawn, or where a
    record would be replaced. A set that is not there yet is added to those that are if it is said to be `another`.
    """
    assert case.card is not None and case.synthetic_set is not None
    slug, card, sha = case.slug, case.card, case.synthetic_set.sha256
    number = _number(existing, sha, another, slug)
    records = {record_name(r, number): record_bytes(r) for r in case.records}
    harder = {record_name(r, number): record_bytes(r) for r in case.hardened}
    files: dict[str, bytes] = {}
    if existing is not None:
        cure = 'Choose another slug: slug = "..." in the card.'
        if who != existing.owner or not set(existing.card.authors) <= set(card.authors):
            raise MabenchError(
                f"slug {slug}: belongs to a submission by {first_line(existing.card.authors)}, sent by {existing.owner}. {cure}"
            )
        if existing.tier in ("withdrawn", "superseded"):
            raise MabenchError(f"slug {slug}: was {existing.tier}. {cure}")
        parts = ((RECORDS, records), (HARDENED_RECORDS, harder))
        other = [n for part, here in parts for n in here if existing.files.get(f"{part}{n}.json", here[n]) != here[n]]
        if other:
            raise MabenchError(
                f"slug {slug}: holds another record of {first_line(other)}. Submitted records are never replaced: submit the first ones, "
                "or this run under another slug."
            )
        together = gates.one_set([*existing.records.values(), *case.records])
        if together.refusals:
            raise MabenchError(f"slug {slug}: {together.refusals[0]}")
        records = {n: content for n, content in records.items() if n not in existing.records}
        harder = {n: content for n, content in harder.items() if n not in existing.hardened}
    text = card.toml().encode()
    if existing is None or existing.files[CARD] != text:
        files[CARD] = text
    if existing is None or sha not in existing.sets:
        files[submissions.set_file(number)] = set_bytes(case.synthetic_set)
    files |= _replayed(case, existing, number)
    files |= {f"{RECORDS}{n}.json": content for n, content in records.items()}
    files |= {f"{HARDENED_RECORDS}{n}.json": content for n, content in harder.items()}
    if not files:
        return {}
    entry = audit_log.make_entry(
        who=who,
        action="submitted" if existing is None else "changed",
        why=f"{f'set {number}: ' if number > 1 else ''}{len(records) + len(harder)} records, all gates passed"
        if records or harder
        else "card changed",
        set_sha256=sha,
        **({"card_sha256": digests.sha256(text)} if CARD in files else {}),
        records={n: digests.sha256(content) for n, content in records.items()},
        **({"hardened": {n: digests.sha256(content) for n, content in harder.items()}} if harder else {}),
    )
    # an entry that is there already comes from a write that was killed before the card
    return _begun(slug, entry, files) if existing is None else submissions.with_entry(existing, entry, files)


def _begun(slug: str, entry: AuditEntry, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """These files and a log that begins with this entry. Raises MabenchError where they are more than is read."""
    whole = {**files, AUDIT: audit_log.appended((), entry)}
    submissions.check_room(slug, whole)
    return whole


def _replayed(case: Examination, existing: Submission | None, number: int) -> dict[str, bytes]:
    """The recorded labels that the records replayed, where they are not there yet."""
    assert case.synthetic_set is not None
    there = existing is not None and labels.folder_of(number) in {each.folder for each in labels.needed(existing)}
    if there or all(record.cell.labels_sha256 is None for record in case.records):
        return {}
    return labels.read(case.synthetic_set.recorded.folder, labels.folder_of(number))


def _number(existing: Submission | None, sha: str, another: bool, slug: str) -> int:
    """Which set of the submission this is or becomes, from 1. Raises MabenchError for a new one that is not said to be `another`."""
    if existing is None:
        return 1
    if sha in existing.sets:
        return existing.sets.index(sha) + 1
    if not another:
        raise MabenchError(
            f"slug {slug}: belongs to another set ({existing.set_sha256[:16]}, this one is {sha[:16]}). If the same method made both, from "
            'other seeds, add it with --another-set. Otherwise choose another slug: slug = "..." in the card.'
        )
    return len(existing.sets) + 1


def set_bytes(synthetic_set: SyntheticSet) -> bytes:
    """The canonical file's bytes."""
    with tempfile.TemporaryDirectory() as folder:
        synthetic_set.save(Path(folder) / SET)
        return (Path(folder) / SET).read_bytes()
