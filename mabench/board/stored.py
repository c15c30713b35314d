"""The images of a set as a board shows them: read from the canonical file, checked against its sha256. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench.board.submission import Submission
from mabench.data import DATASETS, Dataset
from mabench.digests import canonical_json
from mabench.errors import MabenchError, one_line
from mabench.files import check_header, size_of
from mabench.schema import SetSummary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 4 * 2**30  # as in sets.synthetic, and the next: a set that declares more is refused
MAX_IPC = 200
COPY = 10.0  # ours: grey levels, root mean square; the nearest of the 18 sets of CIFAR-10 on this board are 22 apart
ONE_HOT = 1e-3  # as in sets.labelling: labels that are one-hot to within this are hard labels


@dataclass(frozen=True)
class Stored:
    """The stored images of one set."""

    pixels: NDArray[np.uint8]
    """[N,H,W,3]; floats are rounded to 8 bits."""
    labels: NDArray[np.int64]
    """[N]; the largest entry of a soft label."""
    names: tuple[str, ...]
    dataset: str
    said: Mapping[str, object]
    """What the file is, by the names of `SetSummary`."""

    def of_class(self, label: int, most: int) -> list[int]:
        """Indices of the first `most` images of a class."""
        return [int(i) for i in (self.labels == label).nonzero()[0][:most]]

    @property
    def classes(self) -> list[int]:
        return sorted({int(label) for label in self.labels})

    def class_name(self, label: int) -> str:
        return self.names[label] if label < len(self.names) else f"class {label}"


def read(path: Path, expected_sha256: str) -> Stored:
    """The images of the canonical file `path`. Raises MabenchError for a file that is not the set called `expected_sha256`, or no set
    of its dataset."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        if size_of(path) > MAX_BYTES:
            raise MabenchError(f"{path}: {size_of(path):,} bytes; sets up to {MAX_BYTES:,} bytes are read.")
        check_header(path)
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            entry = DATASETS[metadata["dataset"]]
            _check_declared(entry, *(file.get_slice(name) for name in ("images", "labels")))
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            names = tuple(map(str, json.loads(metadata["class_names"])))
            found = _identity(metadata, images, labels)
        if labels.ndim == 1 and not 0 <= labels.min() <= labels.max() < entry.num_classes:
            raise ValueError(f"labels of {labels.min()} to {labels.max()}")
        if names and len(names) != entry.num_classes:
            raise ValueError(f"{len(names)} class names")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise MabenchError(f"{path}: not a complete set file ({one_line(str(error))}). Fetch or pack it again.") from error
    if found != expected_sha256:
        raise MabenchError(
            f"{path}: holds the set {found[:16]}, the submission is for {expected_sha256[:16]}. Put back the set that was submitted."
        )
    soft = labels.ndim == 2
    said = {
        "dataset": entry.name,
        "decode": metadata["decode"],
        "stored_images": len(images),
        "image_dtype": str(images.dtype),
        "labels": "soft" if soft and bool((labels.max(1) <= 1 - ONE_HOT).any()) else "hard",
        "learning_rate": float(metadata["learning_rate"]) if "learning_rate" in metadata else None,
    }
    if images.dtype != np.uint8:
        images = (np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1) * 255).round().astype(np.uint8)
    pixels = np.broadcast_to(images.transpose(0, 2, 3, 1), (len(images), *images.shape[2:], 3))
    return Stored(pixels, labels.argmax(1) if soft else labels, names, metadata["dataset"], said)


def _check_declared(entry: Dataset, images: Any, labels: Any) -> None:
    """Raise ValueError for shapes and types that no set of this dataset has, before anything is allocated."""
    shape, of_labels = images.get_shape(), (labels.get_dtype(), labels.get_shape())
    most = MAX_IPC * entry.num_classes
    if (
        images.get_dtype() not in ("U8", "F16", "F32")
        or len(shape) != 4
        or tuple(shape[1:]) != entry.shape
        or not 0 < shape[0] <= most
    ):
        raise ValueError(f"images {images.get_dtype()} {shape}")
    if of_labels not in (("I64", [shape[0]]), ("F32", [shape[0], entry.num_classes])):
        raise ValueError(f"labels {labels.get_dtype()} {labels.get_shape()}")


def summaries(submission: Submission) -> dict[str, SetSummary]:
    """Name of every set's file -> how the submission's records describe it; of one without a record nothing is said."""
    by_sha = {record.cell.set_sha256: record.synthetic_set for record in submission.records.values()}
    return {name: by_sha[sha] for name, sha in submission.set_files.items() if sha in by_sha}


def check(folder: Path, described: Mapping[str, SetSummary]) -> None:
    """Raise MabenchError unless every set's file in `folder` that is there is the set that the records describe."""
    for name, summary in described.items():
        if (folder / name).is_file():
            true = read(folder / name, summary.sha256).said
            wrong = [
                f"{key} {getattr(summary, key)} instead of {value}"
                for key, value in true.items()
                if getattr(summary, key) != value
            ]
            if wrong:
                raise MabenchError(f"{folder / name}: its records say {', '.join(wrong)}. Run the cells again: mabench eval.")


def of_submission(folder: Path, submission: Submission) -> dict[str, Stored]:
    """The sets of a submission whose files lie in its folder, by sha256; what cannot be read is not among them: other gates say so."""
    found = {}
    for name, sha in submission.set_files.items():
        if (folder / name).is_file():
            with suppress(MabenchError):
                found[sha] = read(folder / name, sha)
    return found


def is_copy(one: Stored, other: Stored) -> bool:
    """Whether two sets are one but for their order and for what nobody sees: then only one of them was condensed."""
    import numpy as np

    if (one.dataset, one.said["labels"], one.pixels.shape) != (other.dataset, other.said["labels"], other.pixels.shape):
        return False
    for label in one.classes:
        first, second = (
            each.pixels[each.labels == label].reshape(-1, each.pixels[0].size).astype(np.float64) for each in (one, other)
        )
        if len(first) != len(second):
            return False
        squares = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
        if max(squares.min(0).max(), squares.min(1).max()) > COPY**2 * first.shape[1]:
            return False
    return True


def _identity(metadata: dict[str, str], images: Any, labels: Any) -> str:
    """As `SyntheticSet.sha256`, which needs torch; a test holds the two together."""
    header: dict[str, object] = {
        "dataset": metadata["dataset"],
        "decode": metadata["decode"],
        "images": [str(images.dtype), list(images.shape)],
        "labels": [str(labels.dtype), list(labels.shape)],
    }
    if "learning_rate" in metadata:
        header["learning_rate"] = float(metadata["learning_rate"])
    digest = sha256(canonical_json(header).encode())
    for array in (images, labels):
        digest.update(array.tobytes())
    return digest.hexdigest()
