"""Which dataset a set condenses: by its content first; names of files only break ties."""

from __future__ import annotations

import re

from torch import Tensor

from mabench.data import DATASETS, Dataset
from mabench.errors import MabenchError, first_line
from mabench.sets import labelling
from mabench.sets.draft import Draft


def named(text: str) -> list[str]:
    """Datasets that a file's name speaks of: `cifar10_0` is CIFAR-10, `cifar100` is not."""
    words = re.sub(r"[^a-z0-9]+", " ", re.sub(r"(?<=[a-z])[-_ ]+(?=\d)", "", text.lower()))
    spoken = []
    for entry in DATASETS.values():
        names = entry.aliases if entry.name.endswith("224") and entry.aliases else (entry.name, *entry.aliases)
        for name in names:
            spaced = r" ?".join(map(re.escape, re.findall(r"[a-z]+|\d+", name)))
            if re.search(rf"(?<![a-z]){spaced}(?!\d)" if name[-1].isdigit() else rf"(?<![a-z]){spaced}(?![a-z0-9]{{2,}})", words):
                spoken.append(entry.name)
                break
    return spoken


def recognise(draft: Draft, shape: tuple[int, ...], count: int, labels: Tensor | list[str] | None) -> Dataset:
    """The dataset of a set of `count` images of `shape` [C,H,W]. Raises MabenchError where content and names leave several, or none."""
    candidates = [d for d in DATASETS.values() if _fits(d, shape, count, labels)]
    names = [d.name for d in candidates]
    by_file, by_folder = (
        named(draft.path.stem if draft.path.suffix else draft.path.name),
        named(draft.path.absolute().parent.name),
    )
    content = f"{' x '.join(map(str, shape))}, {_classes(labels)}"
    inside = [name for name in by_file if name in names]
    if by_file and not inside:
        of_shape = [name for name in by_file if DATASETS[name].shape == shape]
        if of_shape:
            raise MabenchError(
                f"{draft.path}: its name says {of_shape[0]}, which has {DATASETS[of_shape[0]].num_classes} classes; the file holds {count} images, "
                f"{_classes(labels)}. If that is what you mean (classes may be missing), name it: --dataset {of_shape[0]}."
            )
        sizes = first_line(f"{n} ({' x '.join(map(str, DATASETS[n].shape))}, {DATASETS[n].num_classes} classes)" for n in by_file)
        raise MabenchError(f"{draft.path}: its name says {sizes}, but its images are {content}. {_cure(draft, by_file, shape)}")
    if len(inside) == 1:
        draft.note("dataset", inside[0], f"the name of the file, and {content}", "--dataset")
        return DATASETS[inside[0]]
    rest = [name for name in names if name != "digits"]  # a toy, only by its name
    if isinstance(labels, list):  # names and ids of classes often say it
        known = [name for name in rest if labelling.knows(labels, DATASETS[name])]
        rest, content = (known, f"{content} of these names") if known else (rest, content)
    beside = [name for name in by_folder if name in names]
    if (len(beside) == 1 and labels is not None) or (len(beside) == 1 and not inside):
        draft.note("dataset", beside[0], f"the name of its folder, and {content}", "--dataset")
        return DATASETS[beside[0]]
    if len(rest) == 1 and labels is not None:
        draft.note("dataset", rest[0], f"the only dataset with {content}", "--dataset")
        return DATASETS[rest[0]]
    allowed = " | ".join(names or DATASETS)
    raise MabenchError(f"{draft.path}: cannot tell which dataset it condenses ({content}). Name it: --dataset {allowed}.")


def _cure(draft: Draft, names: list[str], shape: tuple[int, ...]) -> str:
    """What to do with images of a size that none of these datasets has."""
    side = max(DATASETS[name].image_size for name in names)
    if shape[-1] <= side or shape[-2] != shape[-1]:
        return "Name the dataset with --dataset, or resize the images yourself, so that you know what is measured."
    fitting = next(name for name in names if DATASETS[name].image_size == side)
    files = f"mogrify -resize {side}x{side}! */*.*, in a copy of the folder"
    array = f"torch.nn.functional.interpolate(images, {side}, mode='bilinear', antialias=True)"
    return (
        f"Images of {shape[-1]} px are shown to networks at {side} px: resize them, so that you know what is measured "
        f"({files if draft.path.is_dir() else array}); then --dataset {fitting}."
    )


def _classes(labels: Tensor | list[str] | None) -> str:
    if labels is None:
        return "no labels"
    if isinstance(labels, list):
        return f"{len(set(labels))} classes"
    return f"{labels.shape[1]} classes" if labels.dim() == 2 and labels.shape[1] > 1 else f"labels up to {_largest(labels)}"


def _largest(labels: Tensor) -> int:
    return int(labels.max()) if labels.numel() and float(labels.max()) < 2**31 else -1


def _fits(entry: Dataset, shape: tuple[int, ...], count: int, labels: Tensor | list[str] | None) -> bool:
    channels, height, width = shape
    if (height, width) != (entry.image_size,) * 2 or (channels != entry.channels and {channels, entry.channels} != {1, 3}):
        return False
    if labels is None:
        return count % entry.num_classes == 0
    if isinstance(labels, list):
        return len(set(labels)) == entry.num_classes
    if labels.dim() == 2 and labels.shape[1] > 1:
        return labels.shape[1] == entry.num_classes
    return _largest(labels) in (entry.num_classes - 1, entry.num_classes)  # counting from 1 is refused later, with its own words
