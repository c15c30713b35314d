"""The table of all evaluator runs of a board: one schema and one file, for the Hub's dataset and for the page's downloads.

Beside it the table of numbers that papers report, which nobody ran here and which are never ranked.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_type_hints

from mabench import suites
from mabench.board import gates, hardened
from mabench.board.submission import AUDIT, Submission
from mabench.errors import one_line
from mabench.files import size_of
from mabench.results import ranking, scoring
from mabench.results.ranking import Status
from mabench.schema import Tier
from mabench.suites import LoadedSuite

if TYPE_CHECKING:
    from mabench.results.paper_tables import PaperTable

CELLS = "cells.parquet"
PAPERS = "papers.parquet"
BATCH = 1000  # ours: rows read at once
MAX_TABLE_BYTES = 2**30  # ours: of a table's rows in memory; 100,000 rows take a third of it


class CellRow(NamedTuple):
    """One evaluator run of one submission. Accuracies are fractions in [0,1]."""

    slug: str
    title: str
    method: str
    authors: str
    """Joined by `; `."""
    suite: str
    suite_digest: str
    track: str
    status: str
    """Of the submission on this track: `ranked`, or why not."""
    evaluator: str
    family: str
    pretrained: bool
    seed: int
    score: float
    """What counts: best or last as the suite says; chance level for a run that diverged."""
    hardened: float | None
    """The same for this run with hardened labels; None where the set's labels are hard or it was not run."""
    acc_best: float
    best_epoch: int
    acc_plateau: float | None
    """Mean of the last tenth of the test passes; None where one of them was pruned."""
    acc_last: float
    acc_second: float | None
    """On the dataset's second test set after the last epoch; None where it was not tested on it. Never ranked."""
    diverged_epoch: int | None
    test_images: int
    epochs: int
    dataset: str
    ipc: int
    labels: str
    decode: str
    stored_images: int
    decoded_images: int
    stored_bytes: int
    decoder_bytes: int
    set_sha256: str
    source_networks: str
    """Joined by `; `."""
    tier: str
    engine: str
    device: str
    arithmetic: str
    mabench: str
    torch: str
    seconds: float
    started: str
    paper: str
    code: str
    licence: str
    audit_blob: str
    """Git id of the audit log that the row was made from."""


class PaperRow(NamedTuple):
    """One number of a paper: a mean over its runs, copied and not run here. Accuracies are fractions in [0,1]."""

    slug: str
    title: str
    method: str
    suite: str
    suite_digest: str
    track: str
    track_complete: bool
    """Whether the paper prints every evaluator of the track."""
    evaluator: str
    family: str
    pretrained: bool
    score: float
    std: float | None
    runs: int | None
    dataset: str
    ipc: int
    labels: str
    where: str
    """Table, row and settings."""


Row = TypeVar("Row", CellRow, PaperRow)


def columns(kind: type[CellRow] | type[PaperRow]) -> dict[str, str]:
    """Column -> arrow type, in the table's order."""
    names = {str: "string", bool: "bool", int: "int64", float: "double"}
    hints = get_type_hints(kind)
    return {
        name: names[get_args(hint)[0] if isinstance(hint, UnionType) else hint] for name, hint in hints.items() if name[0] != "_"
    }


def of_submissions(submissions: Iterable[Submission]) -> list[CellRow]:
    """One row per run of these submissions, sorted by suite, track, slug, evaluator and seed."""
    return sorted((row for submission in submissions for row in _of_one(submission)), key=order)


def order(row: CellRow) -> tuple[str, str, str, str, int, str]:
    """What rows of the table are sorted by."""
    return row.suite, row.track, row.slug, row.evaluator, row.seed, row.set_sha256


def _of_one(submission: Submission) -> list[CellRow]:
    card = submission.card
    blob, authors, sources = blob_id(submission.files[AUDIT]), "; ".join(card.authors), "; ".join(card.source_networks)
    known: dict[tuple[str, str], tuple[str, Tier]] = {}
    rows = []
    for name, record in submission.counted.items():
        cell, summary = record.cell, record.synthetic_set
        environment = {field: one_line(text) for field, text in record.environment.items()}
        key = cell.suite, cell.track
        if key not in known:
            known[key] = track_status(submission, *key), submission.tier_of(*key)
        status, tier = known[key]
        rows.append(
            CellRow(
                slug=submission.slug, title=card.title, method=card.method, authors=authors, suite=cell.suite,
                suite_digest=cell.suite_digest, track=cell.track, status=status, evaluator=cell.evaluator.name,
                family=cell.evaluator.family, pretrained=cell.evaluator.pretrained, seed=cell.seed, score=scoring.score(record),
                hardened=scoring.score(harder) if (harder := submission.hardened.get(name)) is not None else None,
                acc_best=record.best, best_epoch=record.best_epoch, acc_plateau=scoring.plateau(record), acc_last=record.last,
                acc_second=scoring.second(record),
                diverged_epoch=record.diverged_epoch, test_images=record.total, epochs=cell.recipe.epochs,
                dataset=summary.dataset, ipc=summary.ipc, labels=summary.taught, decode=summary.decode,
                stored_images=summary.stored_images, decoded_images=summary.decoded_images, stored_bytes=summary.bytes,
                decoder_bytes=card.decoder_bytes, set_sha256=cell.set_sha256, source_networks=sources, tier=tier,
                engine=record.engine, device=environment.get("device", ""), arithmetic=environment.get("arithmetic", ""),
                mabench=environment.get("mabench", ""), torch=environment.get("torch", ""), seconds=record.seconds,
                started=record.started, paper=card.paper, code=card.code, licence=card.licence, audit_blob=blob,
            )
        )  # fmt: skip
    return rows


def track_status(submission: Submission, suite: str, track: str) -> str:
    """`ranked`, or why the submission is not ranked on this track."""
    if suite not in suites.released():
        return "a suite that this mabench does not have"
    loaded_suite = suites.load(suite)
    if track not in loaded_suite.evaluators:
        return "a track that the suite does not have"
    return str(status_of(submission, loaded_suite, track))


def status_of(submission: Submission, loaded_suite: LoadedSuite, track: str) -> Status:
    """The status of a track that one of its sets has records of: the first set's, or that of a set that is not ranked.

    Other sets must have every run that the first has; `planned` counts one set's.
    """
    here = [r for r in submission.counted.values() if (r.cell.suite, r.cell.track) == (loaded_suite.id, track)]
    answers = [ranking.status(loaded_suite, track, group, tier=submission.tier) for group in gates.by_set(here)]
    status = next((answer for answer in answers if not answer.ranked), answers[0])
    if status.ranked and hardened.lacking(submission, loaded_suite, track):
        return replace(status, reason=hardened.NOT_SCORED)
    return status


def of_papers(tables: Iterable[tuple[str, PaperTable]]) -> list[PaperRow]:
    """One row per number of these papers, sorted by suite, track, slug and evaluator."""
    rows = []
    for key, table in tables:
        loaded_suite = suites.load(table.suite)
        for name, (mean, std) in table.values.items():
            track = loaded_suite.track_of(name)
            evaluator = next(e for e in loaded_suite.evaluators[track] if e.name == name)
            rows.append(
                PaperRow(
                    slug=key, title=table.title, method=table.method, suite=loaded_suite.id, suite_digest=loaded_suite.digest, track=track,
                    track_complete={e.name for e in loaded_suite.evaluators[track]} <= set(table.values), evaluator=name,
                    family=evaluator.family, pretrained=evaluator.pretrained, score=mean / 100,
                    std=None if std is None else std / 100, runs=table.runs, dataset=table.dataset, ipc=table.ipc,
                    labels=table.labels, where=table.where,
                )
            )  # fmt: skip
    return sorted(rows, key=lambda row: (row.suite, row.track, row.slug, row.evaluator))


def blob_id(content: bytes) -> str:
    """The git object id of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def parquet(rows: Sequence[Row], kind: type[Row]) -> bytes:
    """The rows as one parquet file; same rows and same pyarrow, same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(type_)) for name, type_ in columns(kind).items()])
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pydict(dict(zip(columns(kind), _transposed(rows, kind), strict=True)), schema=schema), out)
    return out.getvalue()


def _transposed(rows: Sequence[Row], kind: type[Row]) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(len(columns(kind)))]


def read(path: Path) -> list[CellRow]:
    """The rows of a table file; none where another version wrote it or where it is larger than any table of ours.

    A few kilobytes of parquet can stand for any number of rows of any length: text is read as the file keeps it, every value
    once, and counted before it is written out row by row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    types = columns(CellRow)
    text = [name for name, kind in types.items() if kind == "string"]
    as_read = {
        name: pa.dictionary(pa.int32(), pa.string()) if name in text else pa.type_for_alias(kind) for name, kind in types.items()
    }
    rows: list[CellRow] = []
    size = 0
    try:
        size_of(path)  # refuses a pipe, which would be waited for
        with pq.ParquetFile(path, read_dictionary=text) as file:
            if [(field.name, field.type) for field in file.schema_arrow] != list(as_read.items()):
                return []
            for batch in file.iter_batches(BATCH):
                longest = (pc.max(pc.binary_length(batch[name].dictionary)).as_py() or 0 for name in text)
                size += batch.nbytes + len(batch) * (sum(longest) + 64 * len(types))
                if size > MAX_TABLE_BYTES:
                    return []
                rows += (CellRow(**row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError):
        return []
    return rows
