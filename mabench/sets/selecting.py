"""What in a file is images, what is labels, what is a learned rate, and what is nothing of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mabench.errors import MabenchError, first_line, one_line
from mabench.sets import by_class, keys
from mabench.sets.draft import READABLE, Draft, as_array, is_images

MAX_NESTED = 4  # ours: dictionaries in dictionaries
MAX_PLACES = 9  # ours: entries of a tuple that are told apart as those of a dictionary are


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
        if isinstance(data, list | tuple) and (not data or not is_images(as_array(data))) and images_key is None:
            draft = _sequence(path, data, set_index, None, labels_key, "dictionary with 'data': ")
            _note_unused(draft, [str(key) for key in value if key != "data"])
            return draft
        return _mapping(path, value, set_index, images_key, labels_key)
    if isinstance(value, list | tuple):
        return _sequence(path, value, set_index, images_key, labels_key, "")
    if isinstance(value, Tensor):
        return _bare(path, value, "a bare tensor, classes in order")
    raise MabenchError(f"{path}: holds a {type(value).__name__}. Expected images and labels as tensors; allowed: {READABLE}.")


def _bare(path: Path, images: Tensor, reason: str) -> Draft:
    draft = Draft(path, images, class_major=True)
    draft.note("format", "bare tensor", reason)
    return draft


def _note_unused(draft: Draft, names: Sequence[str]) -> None:
    if names:
        draft.note("not used", first_line(one_line(name, 80) for name in names), "neither images, labels nor a learned rate")


# -- dictionaries -----------------------------------------------------------------------------------------------------------


def _mapping(
    path: Path, value: Mapping[Any, Any], set_index: int | None, images_key: str | None, labels_key: str | None
) -> Draft:
    raw = dict(_flat(value))
    entries = {key: as_array(each) for key, each in raw.items()}
    seen = first_line(one_line(key, 80) for key in entries)
    for flag, key in (("--images-key", images_key), ("--labels-key", labels_key)):
        if key is not None and entries.get(key) is None:
            raise MabenchError(f"{path}: {flag} {key}: no array has this key. Keys: {seen}.")
    arrays = {key: v for key, v in entries.items() if isinstance(v, Tensor) and is_images(v)}
    if images_key is None and 1 < len(arrays) == len(entries) and not any(map(keys.is_images, arrays)):
        return by_class.join(path, arrays)
    key = _images_key(path, entries, seen, images_key)
    images = entries[key]
    if not isinstance(images, Tensor):
        raise MabenchError(f"{path}: --images-key {key}: holds no numbers. Keys: {seen}.")
    rates = {k: float(entry) for k, entry in _scalars(value).items() if keys.is_rate(k)}
    rest = {k: v for k, v in entries.items() if k != key and k not in rates}
    label_key = _label_key(path, images, rest, labels_key, key.rpartition(".")[0])
    if label_key is None:
        _check_nothing_is_labels(path, images, {k: raw[k] for k in rest})
        draft = _bare(path, images, f"only the key '{one_line(key, 80)}' of the dictionary holds images or labels")
    else:
        draft = Draft(path, _snapshot_of(path, images, rest[label_key], set_index), rest[label_key])
        draft.note(
            "format", "dictionary", f"keys '{one_line(key, 80)}' and '{one_line(label_key, 80)}'", "--images-key --labels-key"
        )
    if len(rates) == 1:
        set_rate(draft, *rates.items())
    factors = {k: int(number) for k, number in _scalars(raw).items() if keys.is_factor(k) and number in range(1, 9)}
    draft.factor = max(factors.values(), default=0)
    _note_unused(draft, [k for k in rest if k not in (label_key, *factors)] + ([*rates] if len(rates) > 1 else []))
    return draft


def _flat(value: Mapping[Any, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Entries of dictionaries in dictionaries, as `outer.inner`; those of a list with images and more by their places, as `outer.0`."""
    for key, each in value.items():
        if isinstance(each, list | tuple) and as_array(each) is None and any(is_images(as_array(item)) for item in each):
            each = dict(enumerate(each))
        if isinstance(each, Mapping) and each and depth < MAX_NESTED:
            yield from _flat(each, f"{before}{key}.", depth + 1)
        else:
            yield f"{before}{key}", each


def _images_key(path: Path, entries: Mapping[str, Any], seen: str, images_key: str | None) -> str:
    if images_key is not None:
        return images_key
    pictured = [key for key, v in entries.items() if is_images(v)] or [
        key for key, v in entries.items() if isinstance(v, Tensor) and v.dim() in (2, 3) and keys.is_images(key)
    ]
    named = [key for key in pictured if keys.is_images(key)]
    outermost = [key for key in named if "." not in key]
    for choices in (pictured, named, outermost):
        if len(choices) == 1:
            return choices[0]
    what = f"images may be {first_line(pictured)}" if pictured else "Expected images and labels, e.g. keys 'images' and 'labels'"
    raise MabenchError(f"{path}: a dictionary with keys {seen}. {what}. Name them: --images-key, --labels-key.")


def _scalars(value: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {str(k): v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in value.items()}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def set_rate(draft: Draft, found: tuple[str, float]) -> None:
    """Keep a learned rate that was found under a name."""
    name, rate = found
    draft.learning_rate = rate
    draft.note("learned rate", f"{rate:g}", f"'{name}'", "--learned-rate")


def _label_key(path: Path, images: Tensor, rest: Mapping[str, Any], labels_key: str | None, beside: str) -> str | None:
    """Which entry is the labels; None where nothing could be. Raises MabenchError where it would have to be guessed.

    `beside`: the dictionary that holds the images; its own labels are preferred.
    """
    if labels_key is not None:
        return labels_key
    counts = {len(images), len(images) * images.shape[1], images.shape[1]} if images.dim() == 5 else {len(images)}
    fitting = [k for k, v in rest.items() if any(_is_label_list(v, n) for n in counts)]
    named = [k for k in fitting if keys.is_labels(k)]
    near = [k for k in named if k.rpartition(".")[0] == beside]
    likely = [k for k in fitting if not keys.is_other(k)]
    for choices in (named, near, likely if not named else []):
        if len(choices) == 1:
            return choices[0]
    if fitting:
        have = "has one entry per image, and is not usually a label" if len(fitting) == 1 else "have one entry per image each"
        raise MabenchError(
            f"{path}: {first_line(fitting)} {have}. Say which are the labels: --labels-key. If none is, store the images alone, "
            "class by class."
        )
    return next((key for key, v in rest.items() if keys.is_labels(key) and _sized(v)), None)  # of another length: the set says so


def _check_nothing_is_labels(path: Path, images: Tensor, rest: Mapping[str, Any]) -> None:
    """Raise MabenchError where images would be called unlabelled while anything beside them could be labels."""
    for key, v in rest.items():
        array = as_array(v)
        parts = sum(map(_size, v)) if array is None and isinstance(v, list | tuple) else 0
        entries = len(array) if array is not None and _sized(array) else parts
        if keys.is_labels(key) or (array is not None and entries > 1 and not is_images(array)) or parts == len(images):
            length = f" with {entries} entries" if entries else " that is not an array"
            raise MabenchError(
                f"{path}: no labels for {len(images)} images, but a key '{one_line(key, 80)}'{length}. Store one label per image, or "
                "the images alone, class by class."
            )


def _size(value: Any) -> int:
    """Numbers or texts in an array, a list, or one of them."""
    return value.numel() if isinstance(value, Tensor) else len(value) if isinstance(value, list | tuple) else 1


def _snapshot_of(path: Path, images: Tensor, labels: Any, set_index: int | None) -> Tensor:
    """Images [N,...] of [steps,N,...] where there are N labels: one set at several steps. Other images as they are."""
    if images.dim() != 5 or len(labels) != images.shape[1] or len(labels) == len(images):
        return images
    if set_index is None or not -len(images) <= set_index < len(images):
        raise MabenchError(
            f"{path}: images have shape {list(images.shape)} and there are {len(labels)} labels: one set at {len(images)} steps. Name the "
            f"step: --set-index 0 to {len(images) - 1}."
        )
    return images[set_index]


# -- lists ------------------------------------------------------------------------------------------------------------------


def _sequence(
    path: Path, value: Sequence[Any], set_index: int | None, images_key: str | None, labels_key: str | None, where: str
) -> Draft:
    items = list(value)
    arrays = [as_array(item) for item in items]
    if len(items) in (2, 3) and is_images(arrays[0]) and not is_images(arrays[1]):
        third = _scalars({"third entry": items[2]} if len(items) == 3 else {})
        rate = {name: number for name, number in third.items() if 0 < number < 1}  # others: IPC, a factor, an accuracy
        if arrays[1] is not None and len(rate) == len(items) - 2:
            draft = Draft(path, _tensor(arrays[0]), arrays[1])
            draft.note("format", "(images, labels)", f"{where}a pair of arrays")
            if rate:
                set_rate(draft, *rate.items())
            return draft
    if items and all(isinstance(item, list | tuple) and len(item) in (2, 3) and is_images(as_array(item[0])) for item in items):
        return _snapshots(path, items, set_index)
    if items and all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        images, labels = as_array([item[0] for item in items]), as_array([_number(item[1]) for item in items])
        if is_images(images) and labels is not None:
            draft = Draft(path, _tensor(images), labels)
            draft.note("format", "list of (image, label)", f"{len(items)} pairs")
            return draft
    if items and all(isinstance(item, Tensor) and item.dim() == 3 for item in items) and is_images(as_array(items)):
        return _bare(path, _tensor(as_array(items)), "a list of images, classes in order")
    if len(items) > 1 and all(is_images(item) for item in arrays):
        if set_index is not None and -len(items) <= set_index < len(items):
            draft = _bare(path, _tensor(arrays[set_index]), "one of a list of sets, classes in order")
            draft.note("set", f"{set_index % len(items)} of 0..{len(items) - 1}", "named", "--set-index")
            return draft
        draft = by_class.join(path, {str(k): _tensor(v) for k, v in enumerate(arrays)})
        draft.arrays_by_class = len(items)
        return draft
    if len(items) <= MAX_PLACES and any(is_images(item) for item in arrays):
        return _mapping(path, dict(enumerate(items)), set_index, images_key, labels_key)
    if where and not items:
        raise MabenchError(f"{path}: its list 'data' is empty: the file holds no set. Name another file.")
    kinds = first_line(type(item).__name__ + (f" {list(item.shape)}" if isinstance(item, Tensor) else "") for item in items)
    raise MabenchError(
        f"{path}: a {type(value).__name__} of {len(items)} items ({kinds}). Expected (images, labels): torch.save((images, labels), 'set.pt')"
    )


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _snapshots(path: Path, sets: list[Any], set_index: int | None) -> Draft:
    """DC, DSA, DM, Model Pool: {'data': [[images, labels], ...]}, one entry a snapshot or an experiment; or one entry a class."""
    pairs = [(_tensor(as_array(each[0])), as_array(each[1])) for each in sets]
    joined = by_class.join_pairs(path, pairs) if set_index is None else None
    if joined is not None:
        return joined
    index = len(sets) - 1 if set_index is None else set_index
    if not -len(sets) <= index < len(sets):
        raise MabenchError(
            f"{path}: holds {len(sets)} sets, there is no set {index}. Allowed: --set-index 0 to {len(sets) - 1}, or -1 for the last."
        )
    images, labels = as_array(sets[index][0]), as_array(sets[index][1])
    if labels is None:
        raise MabenchError(
            f"{path}: set {index} is not a pair [images, labels]: its labels are a {type(sets[index][1]).__name__}. Name another with --set-index."
        )
    draft = Draft(path, _tensor(images), labels, normalised_by_default=True)
    draft.note("format", "DC", "dictionary with 'data': [[images, labels], ...]")
    reason = "named" if set_index is not None else "the last" if len(sets) > 1 else "the only one"
    draft.note("set", f"{index % len(sets)} of 0..{len(sets) - 1}", reason, "--set-index")
    return draft


def _hmdc(path: Path, value: Mapping[str, Any]) -> Draft:
    """HMDC: {'synthetic_images': [K,ipc,C,H,W], 'init', 'factor', ...}; tiles are packed iff init says 'aug'."""
    images = as_array(value["synthetic_images"])
    if not isinstance(images, Tensor):
        raise MabenchError(
            f"{path}: 'synthetic_images' is not an array [K,ipc,C,H,W]. Save plain tensors: torch.save((images, labels), 'set.pt')"
        )
    factor, init = value.get("factor", 1), value.get("init", "")
    if not isinstance(factor, int) or not isinstance(init, str):
        raise MabenchError(f"{path}: 'factor' must be a whole number and 'init' a text, as HMDC writes them.")
    draft = Draft(path, images, class_major=True, normalised_by_default=True, says_decode=True)
    draft.note("format", "HMDC", "dictionary with 'synthetic_images'")
    draft.decode = f"grid{factor}" if factor > 1 and "aug" in init else "none"
    draft.note("decode", draft.decode, f"factor {factor}, init '{one_line(init, 80)}'", "--decode")
    return draft
