"""A set as its author has it -> SyntheticSet: a file, a folder, a Hub id, or images and labels in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from mabench.errors import MabenchError
from mabench.schema import Finding
from mabench.sets import readers
from mabench.sets.synthetic import SyntheticSet


class Reading(TypedDict, total=False):
    """What the caller says of a set; what is absent is found out, and listed among the findings. See `mabench.load_set`."""

    dataset: str | None
    set_index: int | None
    layout: str | None
    space: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    decode: str | None
    ipc: int | None
    learned_rate: float | None
    recorded_labels: Path | None
    images_key: str | None
    labels_key: str | None
    label_kind: str | None


IN_MEMORY = (
    "dataset",
    "layout",
    "space",
    "mean",
    "std",
    "decode",
    "ipc",
    "learned_rate",
    "label_kind",
)  # of these, what there is to say of tensors


def accept(images: Any, labels: Any = None, *, expected_dataset: str | None = None, **reading: Unpack[Reading]) -> SyntheticSet:
    """The condensed set that `images` and `labels` are.

    `images`: a SyntheticSet; the path of a file or folder, or a Hub id; or images [N,C,H,W] as a tensor of any float type on any
    device, an array, or a list of them, also one tensor a class [ipc,C,H,W]; or a pair (images, labels). `labels`: class numbers
    [N] or soft labels [N,K], likewise; None = the images are in class order. Nothing of the caller's is changed or kept.
    `expected_dataset` is the dataset where neither the file nor the caller says which.
    """
    if isinstance(images, SyntheticSet):
        _no_labels(labels, "a SyntheticSet")
        return images
    if isinstance(images, str | PathLike):
        _no_labels(labels, f"{images!s}")
        return read_file(fspath(images), reading, expected_dataset)
    if labels is None and isinstance(images, list | tuple) and _is_pair(images):
        images, labels = images
    return _from_memory(images, labels, reading, expected_dataset)


def _no_labels(labels: Any, what: str) -> None:
    if labels is not None:
        raise MabenchError(f"labels were given beside {what}, which has its own. Leave labels out.")


def read_file(path: str, reading: Reading, expected: str | None) -> SyntheticSet:
    """Read a set from disk or the Hub; where neither the file nor `reading` names its dataset, it is `expected`, the suite's."""
    try:
        return readers.read(path, **reading)
    except MabenchError as refusal:
        if reading.get("dataset") is not None or expected is None:
            raise
        try:
            synthetic_set = readers.read(path, **(reading | {"dataset": expected}))
        except MabenchError:
            raise refusal from None
        return _with_guessed_dataset(synthetic_set)


def _with_guessed_dataset(synthetic_set: SyntheticSet) -> SyntheticSet:
    guess = Finding(
        field="dataset", value=synthetic_set.dataset, reason="the suite's, as the file does not say", flag="--dataset"
    )
    others = (finding for finding in synthetic_set.findings if finding.field != "dataset")
    return replace(synthetic_set, findings=(guess, *others))


def _from_memory(images: Any, labels: Any, reading: Reading, expected: str | None) -> SyntheticSet:
    said = {name: value for name, value in reading.items() if value is not None}
    for name in said.keys() - set(IN_MEMORY):
        raise MabenchError(f"{name} only applies to files, and the images are in memory. Leave it out.")
    pixels = _tensor(images, "images")
    targets = None if labels is None else _tensor(labels, "labels")
    guessed = "dataset" not in said and expected is not None
    synthetic_set = readers.from_tensors(pixels, targets, **({"dataset": expected} | said))  # type: ignore[arg-type]
    return _with_guessed_dataset(synthetic_set) if guessed else synthetic_set


def _is_pair(value: Sequence[Any]) -> bool:
    """Whether two things are images and labels, and not two images: labels have fewer axes."""
    return (
        len(value) == 2
        and all(hasattr(v, "shape") or isinstance(v, list | tuple) for v in value)
        and (_axes(value[0]) >= 4 > _axes(value[1]))
    )


def _axes(value: Any) -> int:
    if isinstance(value, list | tuple):
        return 1 + _axes(value[0]) if value else 1
    return len(getattr(value, "shape", ()))


def _tensor(value: Any, what: str) -> Tensor:
    """A plain tensor on the processor, with memory of its own and no gradient. Raises MabenchError for what is not numbers."""
    if isinstance(value, list | tuple):
        if not value:
            raise MabenchError(f"{what}: an empty list. Store at least one image per class.")
        if isinstance(value[0], int | float | np.number):
            return _tensor(np.asarray(value), what)
        parts = [_tensor(part, f"{what}[{index}]") for index, part in enumerate(value)]
        if len({part.shape[1:] for part in parts}) == 1 and parts[0].dim() == 4:
            return torch.cat(parts)  # one tensor a class
        if len({part.shape for part in parts}) > 1:
            shapes = sorted({str(list(part.shape)) for part in parts})
            raise MabenchError(f"{what}: a list of tensors of different shapes ({', '.join(shapes[:3])}). Stack them yourself.")
        return torch.stack(parts)
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
            value = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
        except (TypeError, ValueError) as error:
            raise MabenchError(
                f"{what}: a {type(value).__name__}. Allowed: a tensor, a numpy array, or a list of them."
            ) from error
    with torch.inference_mode(False):  # a tensor made within inference mode stays one that nothing can be trained on
        plain: Tensor = value.detach().to("cpu", copy=True).contiguous()
    return plain
