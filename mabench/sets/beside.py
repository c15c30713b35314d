"""What lies beside a file of images: its labels, its learned rate, and its twin with the whitening undone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch

from mabench.errors import MabenchError, first_line
from mabench.sets.draft import Draft, as_array
from mabench.sets.selecting import set_rate

ARRAY_SUFFIXES = (".pt", ".pth", ".npz", ".npy", ".safetensors")
TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".pkl", ".mat")  # labels may be there, in forms that are not read
LABEL_WORDS = ("labels", "label", "lbls", "lbl", "targets", "target", "y", "classes")
_LABELS = re.compile(rf"(soft|hard|syn|train|teacher|true)?({'|'.join(LABEL_WORDS)})")
_PARTNERS = (
    ("images", "labels"), ("image", "label"), ("images", "targets"), ("imgs", "labels"), ("data", "labels"), ("data", "targets"),
    (r"(^|_)[xX](_|$)", r"\1y\2"), (r"(^|_)X(_|$)", r"\1Y\2"),
)  # fmt: skip
"""What the name of images and that of their labels differ in."""
P = TypeVar("P", bound=PurePath)


def is_role(path: PurePath, role: str) -> bool:
    """Whether a file's name says that it holds `labels`, or a `rate`, and no images."""
    words = set(re.split(r"[^a-z]+", path.stem.lower()))
    said = any(map(_LABELS.fullmatch, words)) if role == "labels" else "lr" in words
    return said and not {"images", "image"} & words


def with_images(arrays: Sequence[P]) -> tuple[list[P], list[P]]:
    """Those of a folder's files of arrays that hold images, by their names; and the preferred ones among them."""
    pictured = [p for p in arrays if not is_role(p, "labels") and not is_role(p, "rate")]
    best = [p for p in pictured if p.stem.endswith("_best")] or pictured
    return pictured, [p for p in best if "_zca" in p.stem] or best


def complete(draft: Draft, path: Path, content_of: Callable[[Path], Any]) -> Draft:
    """The draft with labels and a learned rate that lie in files of their own: images_best.pt, labels_best.pt, lr_best.pt."""
    files = [p for p in sorted(path.parent.iterdir()) if p != path and not p.is_dir()]
    beside = [p for p in files if p.suffix.lower() in ARRAY_SUFFIXES]
    if draft.class_major and draft.labels is None:
        if re.fullmatch(r"class_?\d+|n\d{8}", path.stem):
            raise MabenchError(
                f"{path}: is the file of one class, by its name. Name its folder, or save one file (images, labels)."
            )
        labels = _labels_of(path, beside, [p for p in files if p.suffix.lower() in TEXT_SUFFIXES])
        if labels is not None:
            draft = _joined(draft, path, labels, content_of)
    if path.stem.startswith("images_") and "_zca" not in path.stem:
        twin = path.with_name(path.name.replace("images_", "images_zca_", 1))
        if twin.exists():
            draft.normalised_by_default = False
            draft.note("zca", "whitened", f"{twin.stem} beside it is the same with the whitening undone", "--space zca")
    own = "lr" + path.stem.replace("_zca", "").removeprefix("images")
    rates = [p for p in beside if is_role(p, "rate") and p.stem in ("lr", "syn_lr", own)]
    if len(rates) == 1 and draft.learning_rate is None:
        number = _alone(content_of(rates[0]))
        value = torch.tensor(number) if isinstance(number, int | float) else as_array(number)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            set_rate(draft, (rates[0].name, float(value)))
        else:
            draft.note("not used", rates[0].name, "holds no single learned rate", "--learned-rate")
    elif draft.learning_rate is None and (unread := [p.name for p in files if is_role(p, "rate")]):
        draft.note("not used", first_line(unread), "may hold a learned rate; lr.pt or lr_best.pt is read", "--learned-rate")
    return draft


def _labels_of(path: Path, arrays: list[Path], texts: list[Path]) -> Path | None:
    """The file of a bare array's labels; None where nothing beside it could be. Raises MabenchError for what is unclear."""
    stem = path.stem.replace("_zca", "")
    partners = {re.sub(a, b, stem) for a, b in _PARTNERS} - {stem} | {f"{stem}_{word}" for word in LABEL_WORDS}
    labels = [p for p in arrays if p.stem in partners]
    if len(labels) > 1:
        raise MabenchError(f"{path}: {first_line(p.name for p in labels)} may be its labels. Leave one of them there.")
    if labels:
        return labels[0]
    others = {p.stem for p in arrays if not is_role(p, "labels")}
    alike = [p for p in arrays + texts if is_role(p, "labels") and not _is_of_another(p.stem, others)]
    if alike:
        usual = re.sub("images?", "labels", stem) if "image" in stem else f"{stem}_labels"
        raise MabenchError(
            f"{path}: {first_line(p.name for p in alike)} beside it may be its labels. Call them {usual}.pt or {usual}.npy (text and "
            "tables are not read); if they belong to something else, move the images into a folder of their own."
        )
    return None


def _is_of_another(stem: str, others: set[str]) -> bool:
    return (
        stem.replace("labels", "images") in others
        or stem.replace("label", "image") in others
        or stem.rpartition("_")[0] in others
    )


def _joined(draft: Draft, path: Path, labels: Path, content_of: Callable[[Path], Any]) -> Draft:
    array = as_array(_alone(content_of(labels)))
    if array is None:
        raise MabenchError(f"{labels}: is not an array of labels. Store one label per image.")
    trajectory = path.stem.startswith("images_") and "_zca" not in path.stem
    findings = [f for f in draft.findings if f.field != "format"]
    joined = Draft(path, draft.images, array, normalised_by_default=trajectory, findings=findings)
    joined.note("format", "MTT" if trajectory else "two files", f"{path.name} beside {labels.name}")
    return joined


def _alone(content: Any) -> Any:
    """What a file holds where it needs a key for it: safetensors and npz files have no bare arrays."""
    return next(iter(content.values())) if isinstance(content, Mapping) and len(content) == 1 else content
