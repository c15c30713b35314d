"""FKD archives, the per-epoch labels of SRe2L and its descendants, imported as recorded labels (`recorded.py`).

An archive is a folder with `epoch_E/batch_B.tar`, each written by torch.save: a list of

    crops float32 [B,4]    top, left, height, width as shares of the image's side
    flips bool [B]         mirrored after the crop
    partners int64 [B]     position within the batch of the image that is mixed in, None without mixing
    share float            of the image itself (not needed: the box says it)
    box 4 integers         first row, first column, last row, last column (both excluded) of CutMix; None for Mixup
    logits float16 [B,K]
    images int64 [B]       G-VBSM and later ones only: which images these are

Without the last entry the images' order is that of PyTorch's RandomSampler with the seed of recording. Sources: the released code of SRe2L
(arXiv 2306.13092) and G-VBSM (arXiv 2311.17950). Imports torch only where labels are written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mabench.errors import MabenchError, first_line
from mabench.files import atomic_folder
from mabench.schema import Finding
from mabench.sets import limits, pickles

if TYPE_CHECKING:
    from mabench.sets.synthetic import SyntheticSet

SEED = 42  # of SRe2L's own script, which all descendants keep
MAX_BYTES = 2 * 2**30  # ours: of the epochs that are opened at once; one of ImageNet-1k at 200 images a class takes 0.4 GB
AGAIN = "Fetch the archive again."
ONE = "Its epochs come from different recordings: name an archive of one."
TWICE_CHANCE = 2.0  # ours: the teachers of G-VBSM, the weakest, agree with five times as many images as chance does

Array = np.ndarray[Any, np.dtype[Any]]


# -- in the child ---------------------------------------------------------------------------------------------------------


def read_epochs(path: Path, first: int, last: int, count: int, side: int, num_classes: int) -> dict[str, Any]:
    """Epochs `first` to `last` (excluded) of an archive about `count` images of `side` pixels, as arrays of a record; `order` is None
    where the archive does not name the images. Also `batch`, the images of a batch."""
    epochs = [_read_epoch(path / f"epoch_{number}", count, side, num_classes) for number in range(first, last)]
    batches = {batch for _, batch in epochs}
    if len(batches) > 1:
        raise MabenchError(f"{path}: its epochs have batches of different sizes ({first_line(map(str, sorted(batches)))}). {ONE}")
    answer: dict[str, Any] = {name: np.stack([one[name] for one, _ in epochs]) for name in epochs[0][0]}
    return {"order": None, "batch": batches.pop()} | answer


def _read_epoch(folder: Path, count: int, side: int, num_classes: int) -> tuple[dict[str, Array], int]:
    numbers = sorted(int(match[1]) for file in folder.iterdir() if (match := re.fullmatch(r"batch_(\d+)\.tar", file.name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise MabenchError(
            f"{folder}: holds {len(numbers)} batches, not batch_0.tar, batch_1.tar and so on without a gap. {AGAIN}"
        )
    batches = [_read_batch(folder / f"batch_{number}.tar", side, num_classes) for number in numbers]
    sizes = [len(batch["flipped"]) for batch in batches]
    if sum(sizes) != count or any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0]:
        raise MabenchError(
            f"{folder}: labels of {sum(sizes)} images in batches of {first_line(map(str, dict.fromkeys(sizes)))}; the set has {count} images. "
            "Name the set that these labels were made for."
        )
    names = set.intersection(*map(set, batches)) - {"mix"}
    joined: dict[str, Array] = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
    joined["mix"] = np.stack([batch["mix"] for batch in batches])
    return joined, sizes[0]


def _read_batch(file: Path, side: int, num_classes: int) -> dict[str, Array]:
    value = pickles.load(file)
    if not isinstance(value, list | tuple) or len(value) not in (6, 7):
        raise MabenchError(
            f"{file}: is not a list of 6 or 7 entries, as FKD archives have them: crops, flips, partners, share, box, logits. {AGAIN}"
        )
    crops, flips, partners, _, box, logits = (
        np.asarray(each) if isinstance(each, list) and n != 4 else each for n, each in enumerate(value[:6])
    )
    if partners is not None and box is None:
        raise MabenchError(
            f"{file}: its images were mixed by Mixup; records hold CutMix only. Make the labels with --mix-type cutmix."
        )
    size = len(logits) if isinstance(logits, np.ndarray) and logits.ndim == 2 else 0
    partners = np.arange(size) if partners is None else partners
    shapes = {
        "crops": (crops, (size, 4)),
        "flips": (flips, (size,)),
        "partners": (partners, (size,)),
        "logits": (logits, (size, num_classes)),
    }
    wrong = [
        f"{name} {list(getattr(each, 'shape', []))}"
        for name, (each, shape) in shapes.items()
        if getattr(each, "shape", ()) != shape
    ]
    if wrong or size == 0:
        raise MabenchError(
            f"{file}: holds {first_line(wrong) or 'nothing'}, expected batches with logits of {num_classes} classes. Name the archive that was made for this set."
        )
    mix = np.array([0, 0, 0, 0] if box is None else [int(each) for each in np.asarray(box).ravel()], np.int64)
    if mix.shape != (4,) or mix.min() < 0 or mix.max() > side:
        raise MabenchError(
            f"{file}: its CutMix box {mix.tolist()} leaves images of {side} px. Name the set that the labels are for."
        )
    pixels = np.asarray(crops, np.float64) * side
    boxes = np.rint(pixels)
    if not np.isfinite(pixels).all() or np.abs(boxes - pixels).max() > 0.02 or boxes.min() < 0 or boxes.max() > side:
        raise MabenchError(
            f"{file}: its crops are not whole pixels of {side} px images: the labels were made on images of another size. Name the set that they are for."
        )
    limits.declare(logits.nbytes, file)
    batch: dict[str, Array] = {
        "boxes": boxes.astype(np.int16), "flipped": np.asarray(flips).astype(np.uint8), "partner": np.asarray(partners).astype(np.int32),
        "mix": mix.astype(np.int16), "logits": logits.astype(np.float16),
    }  # fmt: skip
    if len(value) == 7:
        order = np.asarray(value[6])
        if order.shape != (size,):
            raise MabenchError(f"{file}: names {order.size} images for {size} labels. {AGAIN}")
        batch["order"] = order.astype(np.int32)
    return batch


# -- in the parent --------------------------------------------------------------------------------------------------------


def import_labels(folder: Path, synthetic_set: SyntheticSet, out: Path, *, seed: int = SEED) -> list[Finding]:
    """Write the record of an archive about a set into the new folder `out`; return what was found.

    `seed`: of the order of images, where the archive does not name them. Raises MabenchError where the archive is damaged, mixed by
    Mixup, or about another set; then `out` is not there.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from mabench.sets import label_files, recorded
    from mabench.sets.sandbox import open_in_child

    count, side, classes = len(synthetic_set.images), synthetic_set.entry.image_size, synthetic_set.num_classes
    if synthetic_set.factor > 1:
        raise MabenchError(
            f"{folder}: FKD archives label images as they are stored, but {synthetic_set.name} packs them ({synthetic_set.decode}). Leave --fkd out."
        )
    if out.exists():
        raise MabenchError(f"{out}: exists already. Choose a --out in another folder: the labels are written beside it.")
    epochs = _count_epochs(folder)
    per_file, batch, order_of = recorded.epochs_per_file(count, classes), 0, _orders(count, seed)
    agreement, source = 0.0, ""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with (
        atomic_folder(out) as partial,
        Progress(*columns, console=Console(stderr=True), transient=True, disable=epochs < 20) as progress,
    ):
        task = progress.add_task("importing labels", total=epochs)
        for first in range(0, epochs, per_file):
            last = min(epochs, first + per_file)
            asked = {"first": first, "last": last, "count": count, "side": side, "num_classes": classes}
            tensors = open_in_child(read_epochs, folder, MAX_BYTES, **asked)
            size = tensors.pop("batch")
            if batch not in (0, size):
                raise MabenchError(f"{folder}: its epochs have batches of different sizes ({batch}, {size}). {ONE}")
            batch = size
            drawn = [next(order_of) for _ in range(first, last)]
            source = f"of seed {seed}" if tensors["order"] is None else "named in the archive"
            if tensors["order"] is None:
                tensors["order"] = _stacked(drawn)
            if first == 0:
                agreement = _check_agreement(folder, synthetic_set, tensors, batch, source)
            facts = recorded.header(synthetic_set.sha256, batch, first, source="FKD archive", order=source)
            recorded.save(partial / label_files.file_name(first), tensors, facts)
            progress.advance(task, last - first)
        record = recorded.RecordedLabels(partial, synthetic_set.sha256, count, side, classes)
        for first in record.files:
            record.order(first)  # reads the file, and refuses what points outside of the set
        partial.chmod(0o755)
    reason = f"FKD archive; order {source}; {agreement:.0%} of the logits name the image's class or its partner's"
    return [
        Finding(field="recorded labels", value=f"{epochs} epochs, batches of {batch}", reason=reason, flag="--fkd --fkd-seed")
    ]


def _count_epochs(folder: Path) -> int:
    try:
        numbers = sorted(int(match[1]) for entry in folder.iterdir() if (match := re.fullmatch(r"epoch_(\d+)", entry.name)))
    except OSError as error:
        raise MabenchError(
            f"--fkd {folder}: cannot read: {error.strerror}. Name the folder with epoch_0, epoch_1 and so on."
        ) from error
    if not numbers or numbers != list(range(len(numbers))):
        raise MabenchError(f"--fkd {folder}: holds {len(numbers)} epochs, not epoch_0, epoch_1 and so on without a gap. {AGAIN}")
    return len(numbers)


def _orders(count: int, seed: int) -> Any:
    """The order of images in one epoch after another, as the recording's own sampler drew it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    sampler = torch.utils.data.RandomSampler(range(count), generator=generator)
    while True:
        yield torch.tensor(list(sampler), dtype=torch.int32)


def _stacked(orders: list[Any]) -> Any:
    import torch

    return torch.stack(orders)


def _check_agreement(folder: Path, synthetic_set: SyntheticSet, tensors: dict[str, Any], batch: int, source: str) -> float:
    """The share of logits that are largest for the class of the image or of its partner. Raises MabenchError where chance does as well:
    then these are labels of other images, of other classes, or in another order."""
    import torch

    truth = synthetic_set.labels if synthetic_set.label_kind == "hard" else synthetic_set.labels.argmax(1)
    order = tensors["order"].long()
    if int(order.min()) < 0 or int(order.max()) >= len(truth):
        raise MabenchError(
            f"{folder}: names image {int(order.max())} of a set of {len(truth)}. Name the set that the labels are for."
        )
    taught = tensors["logits"].float().argmax(2)
    begins = torch.arange(order.shape[1]) // batch * batch
    partners = (begins + tensors["partner"].long()).clamp(0, order.shape[1] - 1)
    first = truth[order]
    second = first.gather(1, partners)
    agreement = float(((taught == first) | (taught == second)).float().mean())
    spread = torch.bincount(taught.flatten(), minlength=synthetic_set.num_classes) / taught.numel()
    chance = float(1 - (1 - spread[first]).mul(1 - spread[second] * (first != second)).mean())
    if agreement < min(TWICE_CHANCE * chance, (1 + chance) / 2):
        raise MabenchError(
            f"{folder}: {agreement:.0%} of its logits name the class of their image or of its partner, chance alone gives {chance:.0%} (order "
            f"of images {source}). These are labels of another set, of classes in another order, or of another seed. Name the archive of this set, or the seed of its recording: --fkd-seed N"
        )
    return agreement
