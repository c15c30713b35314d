"""Labels recorded for every epoch, as part of a submission: where they lie, and whether they are those that its records replayed.

They lie in `labels/` beside the submission's first set, in `labels-2/` beside its second, ...: the files of `sets.recorded`, whose
identity every record names. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mabench.board.submission import Submission
from mabench.errors import MabenchError
from mabench.sets import label_files

MAX_BYTES = 2**30  # ours: recorded labels of one set; CIFAR-10 at IPC 50 takes 19 MB for 1,000 epochs
_FOLDER = re.compile(r"(.*/)?labels(-[1-9][0-9]{0,3})?")


@dataclass(frozen=True)
class Needed:
    """The recorded labels of one set of a submission, as its records describe them."""

    folder: str
    sha256: str
    """As `sets.recorded.RecordedLabels.sha256`."""
    bytes: int


def folder_of(number: int) -> str:
    """The folder for the labels of a submission's first, second, ... set."""
    return label_files.FOLDER if number == 1 else f"{label_files.FOLDER}-{number}"


def is_file_of_labels(path: str) -> bool:
    """Whether a path in a submission is that of recorded labels."""
    folder, _, name = path.rpartition("/")
    return _FOLDER.fullmatch(folder) is not None and label_files.first_epoch(name) is not None


def needed(submission: Submission) -> list[Needed]:
    """What the submission has to hold: the labels of every set that a record replayed them with."""
    found = {
        (record.cell.set_sha256, record.cell.labels_sha256, record.synthetic_set.recorded_bytes)
        for record in submission.records.values()
        if record.cell.labels_sha256 is not None
    }
    return [Needed(folder_of(submission.sets.index(sha) + 1), str(labels), size) for sha, labels, size in sorted(found, key=str)]


def sizes(place: Path, submission: Submission) -> dict[str, int]:
    """Bytes of the recorded labels in a submission's folder, by the folder of each set's; without those that have none."""
    found = {each.folder: label_files.find(place / each.folder).values() for each in needed(submission)}
    return {folder: sum(path.stat().st_size for path in paths) for folder, paths in found.items() if paths}


def expected_sizes(submission: Submission) -> dict[str, int]:
    """What `sizes` gives where all labels are there."""
    return {each.folder: each.bytes for each in needed(submission)}


def lacking(wanted: Needed, there: Mapping[str, int]) -> str:
    """What is wrong with these labels, as far as their bytes by folder tell; empty where nothing is."""
    if wanted.bytes > MAX_BYTES:
        return (
            f"{wanted.folder}/: its records replayed {wanted.bytes:,} bytes of labels; a submission holds at most {MAX_BYTES:,}."
        )
    if wanted.folder not in there:  # whatever size and digest the records name: no files have a digest, too
        return f"has no {wanted.folder}/, the recorded labels ({wanted.bytes:,} bytes) that its records replayed. Get it again."
    return "" if there[wanted.folder] == wanted.bytes else _others(wanted, there[wanted.folder])


def _others(wanted: Needed, size: int) -> str:
    return (
        f"{wanted.folder}/: {size:,} bytes that are not the labels its records replayed ({wanted.bytes:,} bytes). Get it again."
    )


def check(place: Path, submission: Submission) -> None:
    """Raise MabenchError unless all labels that the records replayed lie in the folder, byte by byte."""
    there = sizes(place, submission)
    for wanted in needed(submission):
        text = lacking(wanted, there)
        if not text and label_files.identity(list(label_files.find(place / wanted.folder).values())) != wanted.sha256:
            text = _others(wanted, there[wanted.folder])
        if text:
            raise MabenchError(f"{place}: {text}")


def read(folder: Path, target: str) -> dict[str, bytes]:
    """Path in a submission -> content, of the labels in `folder`. Raises MabenchError where they are more than `MAX_BYTES`."""
    found = list(label_files.find(folder).values())
    size = sum(path.stat().st_size for path in found)
    if size > MAX_BYTES:
        raise MabenchError(
            f"{folder}: {size:,} bytes of recorded labels; a submission holds at most {MAX_BYTES:,}. Record fewer epochs, or submit to a "
            "suite that trains on the set's own labels."
        )
    return {f"{target}/{path.name}": path.read_bytes() for path in found}
