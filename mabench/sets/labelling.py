"""Which class is which, and what kind of labels an array holds."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mabench.data import Dataset
from mabench.errors import MabenchError, first_line
from mabench.sets.draft import Draft
from mabench.sets.keys import plain

KINDS = ("hard", "probabilities", "logits", "log-probabilities", "centred")
ALIASES = {"plane": "airplane", "aeroplane": "airplane", "car": "automobile", "auto": "automobile"}
ONE_HOT = 1e-3  # protocol: labels that are one-hot to within this are hard labels
MIN_LOGIT_RANGE = 2.0  # ours: rows whose values lie closer together could be logits or centred labels


def class_numbers(draft: Draft, names: list[str], entry: Dataset) -> Tensor:
    """int64 [N] of class names, numbers or WordNet ids. Raises MabenchError for an order that would have to be guessed."""
    every = sorted(set(names))
    table, reason = _table(every, entry)
    if table is None:
        foreign = [name for name in every if re.fullmatch(r"n\d{8}", name) and name not in entry.wordnet_ids]
        if foreign:
            allowed = first_line(entry.wordnet_ids) or "none: its classes have no WordNet ids"
            raise MabenchError(
                f"{draft.path}: {first_line(foreign)} is not a class of {entry.name}. Its WordNet ids: {allowed}. Name the right --dataset."
            )
        raise MabenchError(
            f"{draft.path}: cannot tell which class is which from {len(every)} names {first_line(every[:4])}. Allowed: class numbers from 0, "
            f"the dataset's class names ({first_line(entry.class_names[:4]) or 'none'}), or its WordNet ids."
        )
    draft.note("class order", f"{every[0]} is class {table[every[0]]}, {every[-1]} is class {table[every[-1]]}", reason)
    return torch.tensor([table[name] for name in names])


def knows(names: list[str], entry: Dataset) -> bool:
    """Whether these are the names or ids of this dataset's classes; numbers are anybody's."""
    every = sorted(set(names))
    return not all(map(str.isdecimal, every)) and _table(every, entry)[0] is not None


def _table(every: list[str], entry: Dataset) -> tuple[dict[str, int] | None, str]:
    numbers = [re.fullmatch(r"(?:new|class_?)?(\d{1,6})", name) for name in every]
    if all(numbers):
        keyed = {name: int(m[1]) for name, m in zip(every, numbers, strict=True) if m}
        values = sorted(keyed.values())
        if values == list(range(entry.num_classes)):
            return keyed, "class numbers"
        if values == list(range(1, entry.num_classes + 1)):
            return {name: k - 1 for name, k in keyed.items()}, "class numbers that count from 1"
        if entry.wordnet == "imagenet1k" and entry.class_indices is not None and set(values) == set(entry.class_indices):
            return {name: entry.class_indices.index(k) for name, k in keyed.items()}, "ImageNet-1k's class numbers"
        return None, ""
    ids = {wordnet: k for k, wordnet in enumerate(entry.wordnet_ids)}
    if set(every) <= set(ids):
        return {name: ids[name] for name in every}, f"WordNet ids, by the list of {entry.name}"
    known = {plain(name): k for k, name in enumerate(entry.class_names)}
    meant = {name: ALIASES.get(plain(name), plain(name)) for name in every}
    if set(meant.values()) <= set(known) and len(set(meant.values())) == len(every):
        return {name: known[text] for name, text in meant.items()}, "the dataset's class names"
    return None, ""


def read_labels(draft: Draft, labels: Tensor, entry: Dataset, kind: str | None) -> Tensor:
    """int64 [N] hard or float32 [N,K] soft. `kind`: one of `KINDS`, as named; None = told by the values."""
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() == 1:
        if labels.is_floating_point() and not torch.equal(labels, labels.round()):
            raise MabenchError(
                f"{draft.path}: labels are {labels.dtype} and not whole numbers. Expected class numbers or [N,K] soft labels."
            )
        if len(labels) and int(labels.min()) >= 1 and int(labels.max()) == entry.num_classes:
            raise MabenchError(
                f"{draft.path}: label {entry.num_classes} is out of range: labels seem to count from 1. {entry.name} has classes 0 to "
                f"{entry.num_classes - 1}: subtract 1."
            )
        return labels.to(torch.int64)
    if labels.dim() != 2 or labels.shape[1] != entry.num_classes:
        raise MabenchError(f"{draft.path}: labels have shape {list(labels.shape)}. Expected [N] or [N,{entry.num_classes}].")
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 5e-3}.get(labels.dtype, 1e-3)
    soft = labels.to(torch.float32)
    if not torch.isfinite(soft).all():
        raise MabenchError(f"{draft.path}: soft labels hold NaN, infinity, or numbers too large for float32.")
    told = _kind_of(soft, tolerance)
    if kind is None and told is None:
        raise MabenchError(
            f"{draft.path}: soft labels of {float(soft.min()):.3g} to {float(soft.max()):.3g} may be logits or centred labels (a softmax "
            "would make them nearly equal). Name them: --label-kind logits | centred | probabilities."
        )
    chosen = kind or told or "logits"
    rows, how = _distributions(soft, chosen)
    if float(rows.min()) < 0 or float(rows.sum(1).min()) <= 0:
        raise MabenchError(f"{draft.path}: labels are not {chosen}: values {float(soft.min()):.3g} to {float(soft.max()):.3g}.")
    rows = rows / rows.sum(1, keepdim=True)
    if kind == "hard" or is_one_hot(rows):
        draft.note("labels", "hard", f"{chosen}: one-hot rows" if kind != "hard" else "named: the largest entry", "--label-kind")
        return rows.argmax(1)
    draft.note("labels", "soft", f"{'named' if kind else 'rows that are'} {chosen}: {how}", "--label-kind")
    return rows


def is_one_hot(rows: Tensor) -> bool:
    """Whether distributions [N,K] are classes: one-hot to within `ONE_HOT`."""
    return bool((rows.amax(1) > 1 - ONE_HOT).all())


def _kind_of(soft: Tensor, tolerance: float) -> str | None:
    classes = soft.shape[1]
    if bool((soft >= -1e-6).all()) and bool(((soft.sum(1) - 1).abs() < tolerance).all()):
        return "probabilities"
    if bool((soft <= tolerance).all()) and bool(((soft.exp().sum(1) - 1).abs() < 2 * tolerance).all()):
        return "log-probabilities"
    shifted = soft + 1 / classes
    if bool((shifted >= -1e-4).all()) and bool(((shifted.sum(1) - 1).abs() < tolerance).all()):
        return "centred"
    return "logits" if float((soft.amax(1) - soft.amin(1)).mean()) >= MIN_LOGIT_RANGE else None


def _distributions(soft: Tensor, kind: str) -> tuple[Tensor, str]:
    if kind == "log-probabilities":
        return soft.exp(), "exponentials taken"
    if kind == "centred":
        return (soft + 1 / soft.shape[1]).clamp_min(0), f"1/{soft.shape[1]} added (KIP, FRePo), nothing below 0"
    if kind == "logits":
        return torch.softmax(soft, 1), "taken as logits, softmax applied (DATM)"
    return soft.clamp_min(0) if float(soft.min()) >= -1e-6 else soft, f"{soft.shape[1]} entries that sum to 1"
