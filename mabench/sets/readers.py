"""Other projects' files -> SyntheticSet. Every decision is a Finding: printed, kept in each record, overridable by a flag.

Files of strangers are opened in a child process (`sandbox.py`); what comes back are numbers, texts and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mabench.data import DATASETS, Dataset
from mabench.errors import MabenchError, first_line, lookup, printable
from mabench.files import size_of
from mabench.schema import Finding
from mabench.sets import formats, pickles, recorded, synthetic
from mabench.sets.sandbox import open_in_child
from mabench.sets.synthetic import MAX_BYTES, SyntheticSet

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
READABLE = ".safetensors, .pt, .pth, .npz, .npy, or a folder with one sub-folder of images per class"


@dataclass
class _Draft:
    """A set while it is being read: raw arrays and what is known of them so far."""

    path: Path
    images: Tensor
    labels: Tensor | None = None
    class_major: bool = False
    """Images came as [K,ipc,...] or bare: labels follow from the position."""
    normalised_by_default: bool = False
    """The format is known to store values normalised with the dataset's mean and std."""
    decode: str = "none"
    class_names: tuple[str, ...] = ()
    learning_rate: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def note(self, name: str, value: object, reason: str, flag: str = "") -> None:
        self.findings.append(Finding(field=name, value=printable(str(value)), reason=printable(reason), flag=flag))


def read(
    path: Path | str,
    *,
    dataset: str | None = None,
    set_index: int | None = None,
    layout: str | None = None,
    space: str | None = None,
    decode: str | None = None,
    ipc: int | None = None,
    learned_rate: float | None = None,
    recorded_labels: Path | None = None,
) -> SyntheticSet:
    """The condensed set in `path`, whatever project wrote it.

    Formats: canonical safetensors; DC/DSA/DM/Model-Pool, HMDC/IDC and MTT files; (images, labels) pairs; bare tensors in
    class-major order; npz and npy; folders of images by class. Arguments override what would be detected:
    `set_index` (of several sets in a file), `layout` nchw | nhwc, `space` pixel | normalised | uint8-range,
    `decode` none | grid2.., `ipc`, `learned_rate` (that a file of another project does not name), `recorded_labels` (folder of the labels
    recorded for every epoch; default: `labels/` beside the file). Raises MabenchError that names what was found, what is allowed,
    and the cure.
    """
    path = Path(path)
    folder = recorded_labels if recorded_labels is not None else path.parent / recorded.FOLDER
    lies_beside = folder if recorded.files(folder) else None
    if recorded_labels is not None and lies_beside is None:
        raise MabenchError(
            f"--recorded-labels {recorded_labels}: no recorded labels ({recorded.file_name(0)}) are there. Name their folder."
        )
    try:
        if path.is_dir():
            pair = _mtt_pair(path, path)
            draft = _read_mtt(*pair) if pair else _read_folder(path, _dataset_name(path, dataset, None))
        else:
            head = _head(path)
            if _is_safetensors(path, head):
                if not any(v is not None for v in (dataset, layout, space, decode, ipc)):
                    return _completed(synthetic.load(path), learned_rate, lies_beside)
                draft = _read_canonical(path, dataset)
            elif (head.startswith(b"PK") and path.suffix.lower() == ".npz") or head.startswith(b"\x93NUMPY"):
                draft = _read_numpy(path)
            else:
                pair = _mtt_pair(path.parent, path)
                draft = _read_mtt(*pair) if pair else _from_object(path, open_in_child(pickles.load, path, MAX_BYTES), set_index)
    except OSError as error:
        raise MabenchError(
            f"{path}: cannot read: {error.strerror or error}. Name an existing, readable file or folder ({READABLE})."
        ) from error
    return _completed(_finish(draft, dataset, layout, space, decode, ipc), learned_rate, lies_beside)


def _completed(chosen: SyntheticSet, learned_rate: float | None, labels_folder: Path | None) -> SyntheticSet:
    """The set with what lies outside of its file: a rate that was named, and the folder of recorded labels."""
    if labels_folder is not None:
        chosen = replace(chosen, labels_folder=labels_folder)
    if learned_rate is not None:
        named = Finding(field="learned rate", value=f"{learned_rate:g}", reason="named", flag="--learned-rate")
        chosen = replace(chosen, learning_rate=learned_rate, findings=(*chosen.findings, named))
    return chosen


# -- files --------------------------------------------------------------------------------------------------------


def _head(path: Path) -> bytes:
    size = size_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    if size == 0:
        raise MabenchError(f"{path}: is empty (0 bytes). Fetch it again.")
    if size > MAX_BYTES:
        raise MabenchError(f"{path}: {size:,} bytes; condensed sets up to {MAX_BYTES:,} bytes are read.")
    if head.lstrip()[:1] == b"<":
        raise MabenchError(
            f"{path}: is an HTML page, not a set: the download was answered with a web page. Fetch the file itself."
        )
    if head.startswith(b"version https://git-lfs"):
        raise MabenchError(f"{path}: is a Git LFS pointer, not the set. Run `git lfs pull` where it comes from.")
    return head


def _is_safetensors(path: Path, head: bytes) -> bool:
    return path.suffix.lower() == ".safetensors" or (len(head) > 9 and head[8:10] in (b'{"', b"{ ") and head[5:8] == b"\0\0\0")


def _read_canonical(path: Path, dataset: str | None) -> _Draft:
    chosen = synthetic.load(path)
    draft = _Draft(path, chosen.images, chosen.labels, decode=chosen.decode, class_names=chosen.class_names)
    draft.learning_rate = chosen.learning_rate
    draft.findings += chosen.findings
    if dataset is None:
        draft.note("dataset", chosen.dataset, "the file's header", "--dataset")
    return draft


def _read_numpy(path: Path) -> _Draft:
    return _from_object(path, open_in_child(formats.read_numpy, path, MAX_BYTES), None)


def _mtt_pair(folder: Path, path: Path) -> tuple[Path, Path] | None:
    """MTT's images_best.pt + labels_best.pt (or images_N + labels_N), named by the folder or by the images file."""
    if path.is_dir():
        candidates = sorted(folder.glob("images_*.pt"), key=lambda p: (p.stem != "images_best", p.stem))
    else:
        candidates = [path] if path.name.startswith("images_") else []
    for images in candidates:
        labels = images.with_name("labels_" + images.name.removeprefix("images_"))
        if labels.exists():
            return images, labels
    return None


def _read_mtt(images_path: Path, labels_path: Path) -> _Draft:
    for part in (images_path, labels_path):
        _head(part)
    images, labels = (open_in_child(pickles.load, part, MAX_BYTES) for part in (images_path, labels_path))
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise MabenchError(f"{images_path}: MTT's pair must hold one tensor a file.")
    draft = _Draft(images_path, images, labels, normalised_by_default=True)
    draft.note("format", "MTT", f"{images_path.name} beside {labels_path.name}")
    return draft


def _read_folder(folder: Path, name: str) -> _Draft:
    """Images by class (SRe2L, RDED, torchvision's ImageFolder)."""
    entry = lookup(DATASETS, name, "dataset")
    found = {p.name: sorted(q for q in p.iterdir() if q.suffix.lower() in IMAGE_SUFFIXES) for p in folder.iterdir() if p.is_dir()}
    classes = {k: v for k, v in found.items() if v}
    if not classes:
        raise MabenchError(
            f"{folder}: holds no images in sub-folders. Expected one sub-folder per class with {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    if len(classes) != entry.num_classes:
        raise MabenchError(f"{folder}: {len(classes)} class folders with images, {name} has {entry.num_classes} classes.")
    order, reason = _class_order(folder, list(classes), entry)
    count = sum(map(len, classes.values()))
    if count * entry.channels * entry.image_size**2 > MAX_BYTES:
        raise MabenchError(f"{folder}: {count:,} images; sets up to {MAX_BYTES:,} bytes are read.")
    files = [file for key in order for file in classes[key]]
    for file in files:
        size_of(file)
    names = [str(file.relative_to(folder)) for file in files]
    images = open_in_child(formats.read_images, folder, MAX_BYTES, names=names, side=entry.image_size)
    labels = torch.arange(len(order)).repeat_interleave(torch.tensor([len(classes[key]) for key in order]))
    draft = _Draft(folder, images.permute(0, 3, 1, 2).contiguous(), labels)
    draft.note("format", "folder of images", f"{len(files)} images in {len(order)} class folders")
    draft.note("class order", f"{order[0]} .. {order[-1]}", reason)
    return draft


def _class_order(folder: Path, names: list[str], entry: Dataset) -> tuple[list[str], str]:
    """Folder names in label order; refuses an order that would have to be guessed."""
    numbers = [re.fullmatch(r"(?:new|class_?)?(\d+)", n) for n in names]
    if all(numbers):
        keyed = sorted((int(m.group(1)), n) for m, n in zip(numbers, names, strict=True) if m)
        if [k for k, _ in keyed] in (list(range(len(names))), list(range(1, len(names) + 1))):
            return [n for _, n in keyed], "folder names are class numbers"
    plain = {_plain(n): n for n in names}
    wanted = [_plain(n) for n in entry.class_names]
    if wanted and set(wanted) == set(plain):
        return [plain[w] for w in wanted], "folder names are the dataset's class names"
    if all(re.fullmatch(r"n\d{8}", n) for n in names):
        return sorted(names), "folder names are WordNet ids, whose sorted order is ImageNet's class order"
    raise MabenchError(
        f"{folder}: cannot tell which class is which from folder names {first_line(sorted(names)[:4])}. Allowed: class numbers "
        f"from 0, the dataset's class names ({first_line(entry.class_names[:4])}), or WordNet ids."
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# -- objects inside files -----------------------------------------------------------------------------------------


def _from_object(path: Path, value: Any, set_index: int | None) -> _Draft:
    """One of the field's shapes of content."""
    if isinstance(value, Mapping) and "synthetic_images" in value:
        return _hmdc(path, value)
    if isinstance(value, Mapping) and isinstance(value.get("data"), list | tuple):
        return _dc(path, list(value["data"]), set_index)
    if isinstance(value, Mapping):
        for images_key, labels_key in [
            ("images", "labels"), ("image_syn", "label_syn"), ("image", "label"), ("x", "y"), ("data", "targets"), ("data", "labels"),
        ]:  # fmt: skip
            if isinstance(value.get(images_key), Tensor) and isinstance(value.get(labels_key), Tensor):
                draft = _Draft(path, value[images_key], value[labels_key])
                draft.note("format", "dictionary", f"keys '{images_key}' and '{labels_key}'")
                return draft
        tensors = {k: v for k, v in value.items() if isinstance(v, Tensor) and v.dim() >= 4}
        if len(tensors) == 1:
            key, images = next(iter(tensors.items()))
            return _bare(path, images, f"only image tensor of the dictionary, key '{key}'")
        raise MabenchError(
            f"{path}: a dictionary with keys {first_line(printable(str(k), 80) for k in value)}. Expected images and labels, e.g. keys 'images' and 'labels'."
        )
    if isinstance(value, list | tuple):
        if len(value) == 2 and all(isinstance(v, Tensor) for v in value):
            draft = _Draft(path, value[0], value[1])
            draft.note("format", "(images, labels)", "a pair of tensors")
            return draft
        if value and all(isinstance(v, list | tuple) and len(v) == 2 for v in value):
            return _dc(path, list(value), set_index)
        raise MabenchError(f"{path}: a {type(value).__name__} of {len(value)} items. Expected (images, labels).")
    if isinstance(value, Tensor):
        return _bare(path, value, "a bare tensor, classes in order")
    raise MabenchError(f"{path}: holds a {type(value).__name__}. Expected images and labels as tensors; allowed: {READABLE}.")


def _bare(path: Path, images: Tensor, reason: str) -> _Draft:
    draft = _Draft(path, images, class_major=True)
    draft.note("format", "bare tensor", reason)
    return draft


def _dc(path: Path, sets: list[Any], set_index: int | None) -> _Draft:
    """DC, DSA, DM, Model Pool: {'data': [[images, labels], ...]}, one entry a snapshot or an experiment."""
    index = len(sets) - 1 if set_index is None else set_index
    if not sets:
        raise MabenchError(f"{path}: its list 'data' is empty: the file holds no set.")
    if not -len(sets) <= index < len(sets):
        raise MabenchError(f"{path}: holds {len(sets)} sets, there is no set {index}. Allowed: --set-index 0 to {len(sets) - 1}.")
    chosen = sets[index]
    if not (isinstance(chosen, list | tuple) and len(chosen) == 2 and all(isinstance(v, Tensor) for v in chosen)):
        raise MabenchError(f"{path}: set {index} is no pair [images, labels] of tensors.")
    draft = _Draft(path, chosen[0], chosen[1], normalised_by_default=True)
    draft.note("format", "DC", "dictionary with 'data': [[images, labels], ...]")
    reason = "named" if set_index is not None else "the last" if len(sets) > 1 else "the only one"
    draft.note("set", f"{index % len(sets)} of 0..{len(sets) - 1}", reason, "--set-index")
    return draft


def _hmdc(path: Path, value: Mapping[str, Any]) -> _Draft:
    """HMDC, IDC: {'synthetic_images': [K,ipc,C,H,W], 'init', 'factor', ...}; tiles are packed iff init says 'aug'."""
    images = value["synthetic_images"]
    if not isinstance(images, Tensor):
        raise MabenchError(f"{path}: 'synthetic_images' is a {type(images).__name__}, expected a tensor [K,ipc,C,H,W].")
    factor, init = value.get("factor", 1), value.get("init", "")
    if not isinstance(factor, int | np.integer) or not isinstance(init, str):
        raise MabenchError(f"{path}: 'factor' must be a whole number and 'init' a text, as HMDC writes them.")
    init = printable(init, 80)
    draft = _Draft(path, images, class_major=True, normalised_by_default=True)
    draft.note("format", "HMDC", "dictionary with 'synthetic_images'")
    packed = factor > 1 and "aug" in init
    draft.decode = f"grid{factor}" if packed else "none"
    draft.note("decode", draft.decode, f"factor {factor}, init '{init}'", "--decode")
    return draft


# -- from raw arrays to a set --------------------------------------------------------------------------------------


def _finish(
    draft: _Draft, dataset: str | None, layout: str | None, space: str | None, decode: str | None, ipc: int | None
) -> SyntheticSet:
    path = draft.path
    images = _arrange(draft, _plain_tensor(path, "images", draft.images), layout)
    labels = _plain_tensor(path, "labels", draft.labels) if draft.labels is not None else None
    if labels is not None and labels.is_floating_point() and not torch.isfinite(labels).all():
        raise MabenchError(f"{path}: labels hold NaN or infinity.")
    if labels is not None and not labels.is_floating_point():
        labels = labels.to(torch.int64)
    header = next((f.value for f in draft.findings if f.field == "dataset"), None)
    name = dataset or header or _dataset_name(path, None, draft, images, labels)
    entry = lookup(DATASETS, name, "dataset")
    if dataset is not None:
        draft.note("dataset", name, "named", "--dataset")
    if labels is None:
        labels = _class_major(draft, images, entry)
    labels = _labels(draft, labels, entry)
    if tuple(images.shape[1:]) == (entry.channels, entry.image_size, entry.image_size):  # else the set itself will refuse it
        images = _pixels(draft, images, entry, space)
    elif images.dtype not in synthetic.IMAGE_DTYPES:
        images = images.float()
    if decode is not None:
        draft.decode = decode
        draft.findings = [f for f in draft.findings if f.field != "decode"]
        draft.note("decode", decode, "named", "--decode")
    hard = labels.argmax(1) if labels.dim() == 2 else labels
    inside = hard[(hard >= 0) & (hard < entry.num_classes)]
    largest = int(torch.bincount(inside).max()) if len(inside) else 1
    name_of_set = printable(path.name if path.is_dir() else path.stem)
    try:
        return SyntheticSet(
            images=images.contiguous(),
            labels=labels.contiguous(),
            dataset=name,
            ipc=ipc if ipc is not None else largest,
            decode=draft.decode,
            class_names=draft.class_names or entry.class_names,
            name=name_of_set,
            findings=tuple(draft.findings),
            learning_rate=draft.learning_rate,
        )
    except MabenchError as error:  # the set knows its name, the reader knows the file
        raise MabenchError(f"{path}: {str(error).removeprefix(name_of_set + ': ')}") from error


PLAIN = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
         torch.float16, torch.bfloat16, torch.float32, torch.float64}  # fmt: skip


def _plain_tensor(path: Path, what: str, tensor: Tensor) -> Tensor:
    """A dense tensor of numbers whose size, once they are float32, is within the limit: one number can claim to be any shape."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in PLAIN or tensor.is_nested:
        raise MabenchError(f"{path}: {what} are {tensor.dtype}, {tensor.layout}: no plain dense tensor of numbers.")
    size = tensor.numel() * (1 if tensor.dtype == torch.uint8 else 4)
    if size > MAX_BYTES:
        raise MabenchError(f"{path}: {what} of {size:,} bytes; sets up to {MAX_BYTES:,} bytes are read.")
    return tensor.detach()


def _arrange(draft: _Draft, images: Tensor, layout: str | None) -> Tensor:
    """[N,C,H,W] from any of the field's arrangements."""
    if images.dim() == 5:
        draft.class_major = draft.class_major or draft.labels is None
        images = images.flatten(0, 1)
    if images.dim() != 4:
        raise MabenchError(
            f"{draft.path}: images have shape {list(draft.images.shape)}. Expected [N,C,H,W], [N,H,W,C] or [K,ipc,C,H,W]."
        )
    guessed = "nhwc" if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3) else "nchw"
    chosen = layout or guessed
    if chosen == "nhwc" or layout is not None:
        draft.note("layout", chosen, "named" if layout else f"shape {list(draft.images.shape)}", "--layout")
    return images.permute(0, 3, 1, 2).contiguous() if chosen == "nhwc" else images


def _dataset_name(
    path: Path, named: str | None, draft: _Draft | None, images: Tensor | None = None, labels: Tensor | None = None
) -> str:
    """The dataset a file speaks of: named, in the file's or folder's name, or the only one of its shape."""
    if named is not None:
        return named
    for part in (path.name, path.parent.name):
        text = _plain(part)
        for name in sorted(DATASETS, key=len, reverse=True):
            aliases = {"tinyimagenet": ("tinyimagenet", "tiny"), "imagenet1k": ("imagenet1k", "ilsvrc")}.get(name, (name,))
            # cifar10 must not match cifar100
            if any(re.search(rf"{alias}(?!\d)", text) or (alias in text and not alias[-1].isdigit()) for alias in aliases):
                if draft is not None:
                    draft.note("dataset", name, f"the name '{part}'", "--dataset")
                return name
    if draft is not None and images is not None:
        classes = None
        if labels is not None and labels.numel():
            classes = labels.shape[1] if labels.dim() == 2 else int(labels.max()) + 1
        fits = [
            d.name
            for d in DATASETS.values()
            if d.name != "digits" and d.image_size == images.shape[-1] and classes in (None, d.num_classes)
        ]
        if len(fits) == 1 and classes is not None:
            draft.note("dataset", fits[0], f"{images.shape[-1]} px and {classes} classes", "--dataset")
            return fits[0]
    raise MabenchError(f"{path}: cannot tell which dataset it condenses. Name it: --dataset {' | '.join(DATASETS)}.")


def _class_major(draft: _Draft, images: Tensor, entry: Dataset) -> Tensor:
    per_class, rest = divmod(len(images), entry.num_classes)
    if rest or per_class == 0:
        raise MabenchError(
            f"{draft.path}: {len(images)} images without labels do not divide among the {entry.num_classes} classes of {entry.name}. "
            "Store labels beside the images."
        )
    draft.note("labels", f"{per_class} per class in order", "the file has no labels")
    return torch.arange(entry.num_classes).repeat_interleave(per_class)


def _labels(draft: _Draft, labels: Tensor, entry: Dataset) -> Tensor:
    """int64 [N] hard or float32 [N,K] soft."""
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() == 1:
        if labels.is_floating_point() and not torch.equal(labels, labels.round()):
            raise MabenchError(
                f"{draft.path}: labels are {labels.dtype} and not whole numbers. Expected class numbers or [N,K] soft labels."
            )
        return labels.to(torch.int64)
    if labels.dim() != 2 or labels.shape[1] != entry.num_classes:
        raise MabenchError(f"{draft.path}: labels have shape {list(labels.shape)}. Expected [N] or [N,{entry.num_classes}].")
    soft = labels.to(torch.float32)
    if not torch.isfinite(soft).all():
        raise MabenchError(f"{draft.path}: soft labels are too large for float32.")
    if bool((soft >= 0).all()) and bool(((soft.sum(1) - 1).abs() < 1e-3).all()):
        if bool((soft.amax(1) > 1 - 1e-6).all()):
            draft.note("labels", "hard", "one-hot rows")
            return soft.argmax(1)
        draft.note("labels", "soft", f"rows of {entry.num_classes} that sum to 1")
        return soft / soft.sum(1, keepdim=True)
    draft.note("labels", "soft", "rows do not sum to 1: taken as logits, softmax applied (DATM)")
    return torch.softmax(soft, 1)


def _pixels(draft: _Draft, images: Tensor, entry: Dataset, space: str | None) -> Tensor:
    """uint8, float16 or float32 in pixel space."""
    if images.dtype == torch.uint8:
        draft.note("space", "pixel", "uint8")
        return images
    images = images if images.dtype == torch.float16 else images.to(torch.float32)
    finite = images[torch.isfinite(images)].float()
    if len(finite) == 0:
        return images
    low, high = float(finite.min()), float(finite.max())
    if space is None:
        if low >= -1e-6 and high <= 1 + 1e-6:
            guess = "pixel"
        elif low >= 0 and high > 8:
            guess = "uint8-range"
        elif low < -0.05 or draft.normalised_by_default:
            guess = "normalised"
        else:
            guess = "pixel"
        reason = f"values {low:.3g} to {high:.3g}"
        reason += ", as this format stores them" if guess == "normalised" and draft.normalised_by_default else ""
    else:
        guess, reason = space, "named"
    if guess == "normalised":
        reason += f" (mean {entry.mean}, std {entry.std} undone)"
    draft.note("space", guess, reason, "--space")
    if guess == "uint8-range":
        return images.float() / 255
    if guess == "normalised":
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (entry.mean, entry.std))
        return images.float() * std + mean
    return images


def from_tensors(
    images: Tensor,
    labels: Tensor | None,
    *,
    dataset: str | None = None,
    layout: str | None = None,
    space: str | None = None,
    decode: str | None = None,
    ipc: int | None = None,
    learned_rate: float | None = None,
    name: str = "set",
) -> SyntheticSet:
    """The condensed set that these tensors in memory are, read by the rules for files; labels None = images in class order."""
    draft = _Draft(Path(name), images, labels, class_major=labels is None)
    return _completed(_finish(draft, dataset, layout, space, decode, ipc), learned_rate, None)
