"""The images of a set as a board shows them: read from the canonical file, checked against its sha256. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench.digests import canonical_json
from mabench.errors import MabenchError
from mabench.files import size_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 4 * 2**30  # as in sets.synthetic: a set that declares more is refused


@dataclass(frozen=True)
class Stored:
    """The stored images of one set."""

    pixels: NDArray[np.uint8]
    """[N,H,W,3]; floats are rounded to 8 bits."""
    labels: NDArray[np.int64]
    """[N]; the largest entry of a soft label."""
    names: tuple[str, ...]
    dataset: str

    def of_class(self, label: int, most: int) -> list[int]:
        """Indices of the first `most` images of a class."""
        return [int(i) for i in (self.labels == label).nonzero()[0][:most]]

    @property
    def classes(self) -> list[int]:
        return sorted({int(label) for label in self.labels})

    def class_name(self, label: int) -> str:
        return self.names[label] if label < len(self.names) else f"class {label}"


def read(path: Path, expected_sha256: str) -> Stored:
    """The images of the canonical file `path`. Raises MabenchError for a file that is not the set called `expected_sha256`."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    if size_of(path) > MAX_BYTES:
        raise MabenchError(f"{path}: {size_of(path):,} bytes; sets up to {MAX_BYTES:,} bytes are read.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            names = tuple(map(str, json.loads(metadata["class_names"])))
            found = _identity(metadata, images, labels)
        if images.ndim != 4 or images.shape[1] not in (1, 3) or labels.ndim not in (1, 2) or len(labels) != len(images):
            raise ValueError(f"images {list(images.shape)} and labels {list(labels.shape)}")
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise MabenchError(f"{path}: not a complete set file ({error}). Fetch or pack it again.") from error
    if found != expected_sha256:
        raise MabenchError(
            f"{path}: holds the set {found[:16]}, the submission is for {expected_sha256[:16]}. Put back the set that was submitted."
        )
    if images.dtype != np.uint8:
        images = (np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1) * 255).round().astype(np.uint8)
    pixels = np.broadcast_to(images.transpose(0, 2, 3, 1), (len(images), *images.shape[2:], 3))
    return Stored(pixels, labels.argmax(1) if labels.ndim == 2 else labels, names, metadata["dataset"])


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
