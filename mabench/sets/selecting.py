"""What in a file is images, what is labels, what is a learned rate, and what is nothing of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mabench.errors import MabenchError, first_line, printable
from mabench.schema import Finding
from mabench.sets import keys

READABLE = (
    ".safetensors, .pt, .pth, .npz, .npy, .parquet, .arrow, .zip, .tar, or a folder with one sub-folder of images per class"
)


@dataclass
class Draft:
    """A set while it is being read: raw arrays and what is known of them so far."""

    path: Path
    images: Tensor
    labels: Tensor | list[str] | None = None
    """Numbers [N], soft labels [N,K], or the name of each image's class."""
    class_major: bool = False
    """Images came as [K,ipc,...] or bare: labels follow from the position."""
    normalised_by_default: bool = False
    """The format is known to store values normalised with the dataset's mean and std."""
    decode: str = "none"
    says_decode: bool = False
    """The format says whether images are packed."""
    class_names: tuple[str, ...] = ()
    learning_rate: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def note(self, name: str, value: object, reason: str, flag: str = "") -> None:
        """Keep one decision, with its evidence and the flag that overrides it."""
        self.findings.append(Finding(field=name, value=printable(str(value)), reason=printable(reason), flag=flag))


def as_array(value: Any) -> Tensor | list[str] | None:
    """Arrays, lists of numbers and lists of equal arrays as a tensor; lists of texts as they are; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(each, str) for each in value):
        return [str(each) for each in value]
    if all(isinstance(each, int | float) for each in value):
        return torch.tensor(value)
    parts = [as_array(each) for each in value]
    if all(isinstance(part, Tensor) for part in parts):
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len({(part.shape, part.dtype) for part in tensors}) == 1:
            return torch.stack(tensors)
    return None


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 4


def _is_label_list(value: Any, count: int) -> bool:
    return len(value) == count and (isinstance(value, list) or value.dim() in (1, 2)) if _sized(value) else False


def _sized(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)


def select(path: Path, value: Any, set_index: int | None, images_key: str | None, labels_key: str | None) -> Draft:
    """The draft of a set from one of the field's shapes of content. Raises MabenchError with the keys that are there."""
    if isinstance(value, Mapping) and "synthetic_images" in value and {"init", "factor"} & set(value):
        return _hmdc(path, value)
    if isinstance(value, Mapping):
        data = value.get("data")
        if isinstance(data, list | tuple) and (not data or not _is_images(as_array(data))) and images_key is None:
            draft = _sequence(path, data, set_index, "dictionary with 'data': ")
            _note_unused(draft, [str(key) for key in value if key != "data"])
            return draft
        return _mapping(path, value, images_key, labels_key)
    if isinstance(value, list | tuple):
        return _sequence(path, value, set_index, "")
    if isinstance(value, Tensor):
        return _bare(path, value, "a bare tensor, classes in order")
    raise MabenchError(f"{path}: holds a {type(value).__name__}. Expected images and labels as tensors; allowed: {READABLE}.")


def _bare(path: Path, images: Tensor, reason: str) -> Draft:
    draft = Draft(path, images, class_major=True)
    draft.note("format", "bare tensor", reason)
    return draft


def _note_unused(draft: Draft, names: Sequence[str]) -> None:
    if names:
        draft.note("not used", first_line(printable(name, 80) for name in names), "neither images, labels nor a learned rate")


# -- dictionaries -----------------------------------------------------------------------------------------------------------


def _mapping(path: Path, value: Mapping[Any, Any], images_key: str | None, labels_key: str | None) -> Draft:
    entries = {str(key): as_array(each) for key, each in value.items()}
    seen = first_line(printable(key, 80) for key in entries)
    for flag, key in (("--images-key", images_key), ("--labels-key", labels_key)):
        if key is not None and entries.get(key) is None:
            raise MabenchError(f"{path}: {flag} {key}: no array has this key. Keys: {seen}.")
    if images_key is None and len(entries) > 1 and all(key.isdecimal() and _is_images(v) for key, v in entries.items()):
        return _by_class(path, {int(key): v for key, v in entries.items() if isinstance(v, Tensor)})
    pictured = [key for key, v in entries.items() if _is_images(v)] or [
        key for key, v in entries.items() if isinstance(v, Tensor) and v.dim() in (2, 3) and keys.is_images(key)
    ]
    named = [key for key in pictured if keys.is_images(key)]
    choices = [images_key] if images_key is not None else pictured if len(pictured) == 1 else named
    if len(choices) != 1:
        what = (
            f"images may be {first_line(pictured)}" if pictured else "Expected images and labels, e.g. keys 'images' and 'labels'"
        )
        raise MabenchError(f"{path}: a dictionary with keys {seen}. {what}. Name them: --images-key, --labels-key.")
    key = choices[0]
    images = entries[key]
    if not isinstance(images, Tensor):
        raise MabenchError(f"{path}: --images-key {key}: holds no numbers. Keys: {seen}.")
    rates = {k: float(entry) for k, entry in _scalars(value).items() if keys.is_rate(k)}
    rest = {k: v for k, v in entries.items() if k != key and k not in rates}
    label_key = _label_key(path, images, rest, labels_key)
    if label_key is None:
        draft = _bare(path, images, f"only the key '{printable(key, 80)}' of the dictionary holds images or labels")
    else:
        draft = Draft(path, images, rest[label_key])
        draft.note(
            "format", "dictionary", f"keys '{printable(key, 80)}' and '{printable(label_key, 80)}'", "--images-key --labels-key"
        )
    if len(rates) == 1:
        set_rate(draft, *rates.items())
    _note_unused(draft, [k for k in rest if k != label_key] + ([*rates] if len(rates) > 1 else []))
    return draft


def _scalars(value: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {str(k): v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in value.items()}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def set_rate(draft: Draft, found: tuple[str, float]) -> None:
    """Keep a learned rate that was found under a name."""
    name, rate = found
    draft.learning_rate = rate
    draft.note("learned rate", f"{rate:g}", f"'{name}'", "--learned-rate")


def _label_key(path: Path, images: Tensor, rest: Mapping[str, Any], labels_key: str | None) -> str | None:
    """Which entry is the labels; None where nothing could be. Raises MabenchError where it would have to be guessed."""
    if labels_key is not None:
        return labels_key
    counts = {len(images), len(images) * images.shape[1] if images.dim() == 5 else len(images)}
    fitting = [k for k, v in rest.items() if any(_is_label_list(v, n) for n in counts)]
    named = [k for k in fitting if keys.is_labels(k)]
    if len(fitting) == 1 or len(named) == 1:
        return (named or fitting)[0]
    if fitting:
        raise MabenchError(
            f"{path}: {first_line(fitting)} have one entry per image each. Say which are the labels: --labels-key."
        )
    for key, v in rest.items():
        if keys.is_labels(key) and _sized(v):
            return key  # of another length: the set says what is wrong
        if keys.is_labels(key) or (_sized(v) and len(v) > 1 and not _is_images(v)):
            length = f" with {len(v)} entries" if _sized(v) else " that is no array"
            raise MabenchError(
                f"{path}: no labels for {len(images)} images, but a key '{printable(key, 80)}'{length}. Store one label per image, or "
                "the images alone, class by class."
            )
    return None


def _by_class(path: Path, classes: Mapping[int, Tensor]) -> Draft:
    """Class number -> images of that class."""
    order = sorted(classes)
    if len({tuple(classes[k].shape[1:]) for k in order}) != 1:
        raise MabenchError(f"{path}: images of different classes have different shapes. Store arrays of one shape.")
    labels = torch.cat([torch.full((len(classes[k]),), k) for k in order])
    draft = Draft(path, torch.cat([classes[k] for k in order]), labels)
    draft.note("format", "images by class", f"{len(order)} arrays, one a class, numbered {order[0]} to {order[-1]}")
    return draft


# -- lists ------------------------------------------------------------------------------------------------------------------


def _sequence(path: Path, value: Sequence[Any], set_index: int | None, where: str) -> Draft:
    items = list(value)
    arrays = [as_array(item) for item in items]
    if len(items) in (2, 3) and _is_images(arrays[0]) and not _is_images(arrays[1]):
        rate = _scalars({"third entry": items[2]}) if len(items) == 3 else {}
        if arrays[1] is not None and len(rate) == len(items) - 2:
            draft = Draft(path, _tensor(arrays[0]), arrays[1])
            draft.note("format", "(images, labels)", f"{where}a pair of arrays")
            if rate:
                set_rate(draft, *rate.items())
            return draft
    if items and all(isinstance(item, list | tuple) and len(item) in (2, 3) and _is_images(as_array(item[0])) for item in items):
        return _snapshots(path, items, set_index)
    if items and all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        images, labels = as_array([item[0] for item in items]), as_array([_number(item[1]) for item in items])
        if _is_images(images) and labels is not None:
            draft = Draft(path, _tensor(images), labels)
            draft.note("format", "list of (image, label)", f"{len(items)} pairs")
            return draft
    if items and all(isinstance(item, Tensor) and item.dim() == 3 for item in items) and _is_images(as_array(items)):
        return _bare(path, _tensor(as_array(items)), "a list of images, classes in order")
    if len(items) > 1 and all(_is_images(item) for item in arrays):
        return _by_class(path, {k: _tensor(v) for k, v in enumerate(arrays)})
    if where and not items:
        raise MabenchError(f"{path}: its list 'data' is empty: the file holds no set.")
    kinds = first_line(type(item).__name__ + (f" {list(item.shape)}" if isinstance(item, Tensor) else "") for item in items)
    raise MabenchError(f"{path}: a {type(value).__name__} of {len(items)} items ({kinds}). Expected (images, labels).")


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _snapshots(path: Path, sets: list[Any], set_index: int | None) -> Draft:
    """DC, DSA, DM, Model Pool: {'data': [[images, labels], ...]}, one entry a snapshot or an experiment."""
    index = len(sets) - 1 if set_index is None else set_index
    if not -len(sets) <= index < len(sets):
        raise MabenchError(f"{path}: holds {len(sets)} sets, there is no set {index}. Allowed: --set-index 0 to {len(sets) - 1}.")
    images, labels = as_array(sets[index][0]), as_array(sets[index][1])
    if labels is None:
        raise MabenchError(f"{path}: set {index} is no pair [images, labels]: its labels are a {type(sets[index][1]).__name__}.")
    draft = Draft(path, _tensor(images), labels, normalised_by_default=True)
    draft.note("format", "DC", "dictionary with 'data': [[images, labels], ...]")
    reason = "named" if set_index is not None else "the last" if len(sets) > 1 else "the only one"
    draft.note("set", f"{index % len(sets)} of 0..{len(sets) - 1}", reason, "--set-index")
    return draft


def _hmdc(path: Path, value: Mapping[str, Any]) -> Draft:
    """HMDC: {'synthetic_images': [K,ipc,C,H,W], 'init', 'factor', ...}; tiles are packed iff init says 'aug'."""
    images = as_array(value["synthetic_images"])
    if not isinstance(images, Tensor):
        raise MabenchError(f"{path}: 'synthetic_images' is no array [K,ipc,C,H,W].")
    factor, init = value.get("factor", 1), value.get("init", "")
    if not isinstance(factor, int) or not isinstance(init, str):
        raise MabenchError(f"{path}: 'factor' must be a whole number and 'init' a text, as HMDC writes them.")
    draft = Draft(path, images, class_major=True, normalised_by_default=True, says_decode=True)
    draft.note("format", "HMDC", "dictionary with 'synthetic_images'")
    draft.decode = f"grid{factor}" if factor > 1 and "aug" in init else "none"
    draft.note("decode", draft.decode, f"factor {factor}, init '{printable(init, 80)}'", "--decode")
    return draft
