"""Other projects' files -> SyntheticSet. Every decision is a Finding: printed, kept in each record, overridable by a flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mabench.data import DATASETS, Dataset, describe
from mabench.errors import MabenchError, lookup, one_line
from mabench.schema import Finding
from mabench.sets import containers, hub_sources, label_files, labelling, packing, recognition, spaces, synthetic
from mabench.sets.draft import READABLE, Draft, as_array
from mabench.sets.synthetic import MAX_BYTES, SyntheticSet

__all__ = ["MAX_BYTES", "from_tensors", "read"]


def read(
    path: Path | str,
    *,
    dataset: str | None = None,
    set_index: int | None = None,
    layout: str | None = None,
    space: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    decode: str | None = None,
    ipc: int | None = None,
    learned_rate: float | None = None,
    recorded_labels: Path | None = None,
    images_key: str | None = None,
    labels_key: str | None = None,
    label_kind: str | None = None,
) -> SyntheticSet:
    """Return the condensed set in `path`, a file, a folder, or an address on the Hub (org/name), whatever project wrote it.

    >>> import mabench, torch
    >>> torch.save({"images": torch.rand(20, 3, 32, 32), "labels": torch.arange(20) % 10}, "mine_cifar10.pt")
    >>> mine = mabench.load_set("mine_cifar10.pt")
    >>> mine.dataset, mine.ipc, tuple(mine.images.shape)
    ('cifar10', 2, (20, 3, 32, 32))

    Arguments override what would be detected: `dataset` (a name, or a TOML file that describes one), `set_index` (of several sets in a
    file), `layout` nchw | nhwc, `space` (one of `spaces.SPACES`) or `mean` and `std` by channel, `decode` none | grid2.., `ipc`,
    `learned_rate`, `recorded_labels` (folder of the labels recorded for every epoch; default: `labels/` beside the file),
    `images_key` and `labels_key` of a dictionary or table, `label_kind` (one of `labelling.KINDS`).
    Raises MabenchError that names what was found, what is allowed, and the cure.
    """
    source = hub_sources.resolve(str(path))
    path = Path(path) if source is None else source.path
    folder = recorded_labels if recorded_labels is not None else path.parent / label_files.FOLDER
    lies_beside = folder if label_files.find(folder) else None
    if recorded_labels is not None and lies_beside is None:
        raise MabenchError(
            f"--recorded-labels {recorded_labels}: no recorded labels ({label_files.file_name(0)}) are there. Name their folder."
        )
    entry = _named_dataset(dataset)
    try:
        if path.is_file() and containers.is_safetensors(path, containers.head_of(path)) and synthetic.is_canonical(path):
            given = (dataset, layout, space, mean, std, decode, ipc, label_kind)
            if all(value is None for value in given):
                return _completed(_hard_where_one_hot(synthetic.load(path)), learned_rate, lies_beside, source)
            draft = _read_canonical(path, entry)
            entry = entry or DATASETS[draft.findings[-1].value]
            space = space or ("pixel" if mean is None else None)
        else:
            draft = containers.draft_of(path, set_index, images_key, labels_key)
        if source is not None:
            draft.path = Path(source.address)
    except OSError as error:
        raise MabenchError(
            f"{error.filename or path}: cannot read: {error.strerror or error}. Name an existing, readable file or folder ({READABLE})."
        ) from error
    finished = _finish(draft, entry, layout, space, _mean_and_std(mean, std), decode, ipc, label_kind)
    return _completed(finished, learned_rate, lies_beside, source)


def from_tensors(
    images: Any,
    labels: Any = None,
    *,
    dataset: str | None = None,
    space: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: str | None = None,
    decode: str | None = None,
    ipc: int | None = None,
    learned_rate: float | None = None,
    label_kind: str | None = None,
    name: str = "set",
) -> SyntheticSet:
    """Return the condensed set in arrays as authors have them: tensors of any device and float type, numpy arrays, lists.

    images: [N,C,H,W], [N,H,W,C] or [K,ipc,C,H,W]; labels: [N], [N,K], or None for class by class. Other arguments as of `read`.
    """
    draft = Draft(Path(name), _plain_array("images", images), class_major=labels is None)
    draft.labels = None if labels is None else _plain_array("labels", labels)
    entry = _named_dataset(dataset)
    return _completed(_finish(draft, entry, layout, space, _mean_and_std(mean, std), decode, ipc, label_kind), learned_rate, None)


def _plain_array(what: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if hasattr(value, "__array__"):
        return torch.as_tensor(value)
    array = as_array([each.detach().cpu() if isinstance(each, Tensor) else each for each in value]) if value is not None else None
    if not isinstance(array, Tensor):
        raise MabenchError(f"{what}: a {type(value).__name__}. Expected a tensor, a numpy array, or a list of numbers or arrays.")
    return array


def _named_dataset(name: str | None) -> Dataset | None:
    if name is None:
        return None
    return describe(Path(name)) if name.endswith(".toml") else lookup(DATASETS, name, "dataset", "mabench list")


def _mean_and_std(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[list[float], list[float]] | None:
    if (mean is None) != (std is None):
        raise MabenchError("--mean and --std belong together: name both, one number per channel, e.g. --mean 0.5,0.5,0.5")
    return None if mean is None or std is None else (list(mean), list(std))


def _completed(
    read_set: SyntheticSet, learned_rate: float | None, labels_folder: Path | None, source: hub_sources.Source | None = None
) -> SyntheticSet:
    """The set with what lies outside of its file: a rate that was named, the folder of recorded labels, and where it came from."""
    if source is not None:
        findings = (source.finding, *(f for f in read_set.findings if f.field != "source"))
        read_set = replace(read_set, name=one_line(source.name), findings=findings)
    if labels_folder is not None:
        read_set = replace(read_set, labels_folder=labels_folder)
    if learned_rate is not None:
        named = Finding(field="learned rate", value=f"{learned_rate:g}", reason="named", flag="--learned-rate")
        read_set = replace(read_set, learning_rate=learned_rate, findings=(*read_set.findings, named))
    return read_set


def _hard_where_one_hot(stored: SyntheticSet) -> SyntheticSet:
    """A canonical set whose soft labels are classes in disguise, with hard labels: it is ranked among those."""
    if stored.label_kind == "hard" or not labelling.is_one_hot(stored.labels):
        return stored
    finding = Finding(field="labels", value="hard", reason="probabilities: one-hot rows", flag="--label-kind")
    return replace(stored, labels=stored.labels.argmax(1), findings=(*stored.findings, finding))


def _read_canonical(path: Path, entry: Dataset | None) -> Draft:
    stored = synthetic.load(path)
    draft = Draft(path, stored.images, stored.labels, decode=stored.decode, says_decode=True, class_names=stored.class_names)
    draft.learning_rate = stored.learning_rate
    draft.findings += stored.findings
    if entry is None:
        draft.note("dataset", stored.dataset, "the file's header", "--dataset")
    return draft


# -- from raw arrays to a set --------------------------------------------------------------------------------------


def _finish(
    draft: Draft,
    entry: Dataset | None,
    layout: str | None,
    space: str | None,
    own: tuple[list[float], list[float]] | None,
    decode: str | None,
    ipc: int | None,
    label_kind: str | None,
) -> SyntheticSet:
    path = draft.path
    images = _arrange(draft, _dense(path, "images", draft.images), layout)
    raw = _raw_labels(draft)
    if entry is None:
        entry = recognition.recognise(draft, tuple(images.shape[1:]), len(images), raw)
    elif not any(f.field == "dataset" for f in draft.findings):
        draft.note("dataset", entry.name, "named", "--dataset")
    if draft.arrays_by_class not in (0, entry.num_classes):
        raise MabenchError(
            f"{path}: {draft.arrays_by_class} arrays of images, {entry.name} has {entry.num_classes} classes: they cannot be one per class. Save "
            "(images, labels), or a dictionary of class number and images; name one of several sets with --set-index."
        )
    labels = _numbers(draft, raw, images, entry, label_kind)
    if images.shape[1] != entry.channels and {images.shape[1], entry.channels} == {1, 3}:
        images = _channels(draft, images, entry)
    if tuple(images.shape[1:]) == entry.shape:  # else the set itself will refuse it
        images = spaces.pixels(draft, images, entry, space, own)
        _decode(draft, images, decode)
    elif images.dtype not in synthetic.IMAGE_DTYPES:
        images = images.float()
    name = one_line(path.name if path.is_dir() else path.stem)
    try:
        return SyntheticSet(
            images=images.contiguous(),
            labels=labels.contiguous(),
            dataset=entry.name,
            ipc=ipc if ipc is not None else max(1, -(-len(images) // entry.num_classes)),
            decode=draft.decode,
            class_names=draft.class_names or entry.class_names,
            name=name,
            findings=tuple(draft.findings),
            learning_rate=draft.learning_rate,
        )
    except MabenchError as error:  # the set knows its name, the reader knows the file
        raise MabenchError(f"{path}: {str(error).removeprefix(name + ': ')}") from error


def _raw_labels(draft: Draft) -> Tensor | list[str] | None:
    """Labels [N] or [N,K] as numbers of plain types, or names."""
    if not isinstance(draft.labels, Tensor):
        return draft.labels
    raw = _dense(draft.path, "labels", draft.labels)
    if raw.is_floating_point():
        if not torch.isfinite(raw).all():
            raise MabenchError(f"{draft.path}: labels hold NaN or infinity.")
    else:
        raw = raw.to(torch.int64)
        if draft.images.dim() == 5 and raw.shape == draft.images.shape[:2]:
            raw = raw.flatten()  # [K,ipc], as the images are
    if raw.dim() > 1:
        raw = raw.reshape(len(raw), *(n for n in raw.shape[1:] if n != 1))  # [N,1] and [N,1,K]: an axis without content
    return raw


PLAIN = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
         torch.float16, torch.bfloat16, torch.float32, torch.float64}  # fmt: skip


def _dense(path: Path, what: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in PLAIN or tensor.is_nested:
        raise MabenchError(f"{path}: {what} are {tensor.dtype}, {tensor.layout}: not a plain dense tensor of numbers.")
    return tensor.detach()


def _arrange(draft: Draft, images: Tensor, layout: str | None) -> Tensor:
    """[N,C,H,W] from any of the field's arrangements."""
    stored = list(images.shape)
    if images.dim() == 5:
        draft.class_major = draft.class_major or draft.labels is None
        images = images.flatten(0, 1)
    if images.dim() == 3 and images.shape[1] == images.shape[2]:
        images = images[:, None]
    if images.dim() != 4:
        raise MabenchError(f"{draft.path}: images have shape {stored}. Expected [N,C,H,W], [N,H,W,C] or [K,ipc,C,H,W].")
    guessed = "nhwc" if images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3) else "nchw"
    order = layout or guessed
    if order == "nhwc" or layout is not None:
        draft.note("layout", order, "named" if layout else f"shape {stored}", "--layout")
    return images.permute(0, 3, 1, 2).contiguous() if order == "nhwc" else images


def _numbers(draft: Draft, raw: Tensor | list[str] | None, images: Tensor, entry: Dataset, label_kind: str | None) -> Tensor:
    if raw is None:
        per_class, rest = divmod(len(images), entry.num_classes)
        if rest or per_class == 0:
            raise MabenchError(
                f"{draft.path}: {len(images)} images without labels do not divide among the {entry.num_classes} classes of {entry.name}. "
                "Store labels beside the images."
            )
        draft.note("labels", f"{per_class} per class in order", "nothing else in the file could be labels")
        return torch.arange(entry.num_classes).repeat_interleave(per_class)
    if isinstance(raw, list):
        if len(raw) != len(images):
            raise MabenchError(
                f"{draft.path}: labels has {len(raw)} rows, images has {len(images)}. Every stored image needs one label."
            )
        return labelling.class_numbers(draft, raw, entry)
    return labelling.read_labels(draft, raw, entry, label_kind)


def _channels(draft: Draft, images: Tensor, entry: Dataset) -> Tensor:
    if images.shape[1] == 1:
        draft.note("channels", entry.channels, "grey images, repeated")
        return images.expand(-1, entry.channels, -1, -1)
    if not bool((images == images[:, :1]).all()):
        raise MabenchError(
            f"{draft.path}: images have three different channels, {entry.name} has one. Convert them to grey yourself."
        )
    draft.note("channels", 1, "three equal channels")
    return images[:, :1]


def _decode(draft: Draft, images: Tensor, decode: str | None) -> None:
    if decode is not None:
        draft.decode = decode
        draft.findings = [f for f in draft.findings if f.field != "decode"]
        draft.note("decode", decode, "named", "--decode")
    elif not draft.says_decode:
        seen, said = packing.seams(images), draft.factor
        if max(seen, said) > 1 and seen != said:
            found = f"images have seams as grids of {seen} x {seen} have" if seen > 1 else "images show no seams"
            tells = (
                f"the file's factor is {said}"
                if said
                else "the file does not say whether they are packed (IDC's and NCFM's files do not)"
            )
            grids = " or ".join(f"--decode grid{factor}" for factor in sorted({seen, said} - {0, 1}))
            raise MabenchError(f"{draft.path}: {found}, and {tells}. Name it: {grids}, or --decode none.")
        draft.decode = f"grid{seen}" if seen > 1 else "none"
        seams = f"seams of {seen} x {seen} tiles are seen" if seen > 1 else "no seams are seen"
        tells = f"the file's factor is {said}" if said else "this kind of file cannot say whether images are packed"
        draft.note("decode", draft.decode, f"{seams}; {tells}", "--decode")
