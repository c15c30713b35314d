"""The real data itself: fetched from the Hub once, decoded into the cache folder, checked at every load, memory-mapped. Imports no torch."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from mabench.data import hub
from mabench.data.registry import DATASETS, Dataset, Split
from mabench.errors import MabenchError, lookup
from mabench.files import atomic_folder, cache_folder, size_of

CACHE_FORMAT = 1  # ours: raised when the files of a cached split change meaning
VERIFY_BELOW_BYTES = 2**30  # ours: hashing 1 GiB takes about a second; ImageNet-1k would take minutes at every start
BATCH = 256  # ours: rows decoded at a time; 256 ImageNet photographs stay below 100 MB

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RealData:
    """One split: `images` uint8 [N,C,H,W] (255 = white, RGB) and `labels` int64 [N], both read-only."""

    images: Images
    labels: Labels
    dataset: Dataset
    split: str
    sha256: str
    """Order-independent content digest, see `content_digests`."""
    second: RealData | None = None
    """Other test images of the same classes, see `data.second`."""


class _Digester:
    """`content_digests` for images that arrive in batches, so that ImageNet is hashed while it is written."""

    def __init__(self, labels: Labels) -> None:
        if labels.size and not 0 <= labels.min() <= labels.max() < 2**16:
            raise ValueError(f"labels must lie in 0..65535, found {labels.min()}..{labels.max()}")
        self.labels = labels.astype("u1" if labels.size == 0 or labels.max() < 256 else "<u2")
        self.pixels, self.each = hashlib.sha256(), [b""] * 0

    def update(self, images: Images) -> None:
        for image in images:
            data = image.tobytes()
            self.pixels.update(data)
            self.each.append(hashlib.sha256(self.labels[len(self.each)].tobytes() + data).digest())

    def result(self) -> dict[str, Any]:
        return {
            "n": len(self.each),
            "order_independent_sha256": hashlib.sha256(b"".join(sorted(self.each))).hexdigest(),
            "pixels_sha256": self.pixels.hexdigest(),
            "labels_sha256": hashlib.sha256(self.labels.tobytes()).hexdigest(),
        }


def content_digests(images: Images, labels: Labels) -> dict[str, Any]:
    """`n` and three sha256 of a labelled image set: two that follow the order and one that does not.

    images: uint8 [N,C,H,W]; labels: integers [N] in 0..65535, stored as one byte each, or as two (little-endian) when the
    largest exceeds 255. `pixels_sha256` and `labels_sha256` hash the plain bytes in order. `order_independent_sha256`: every
    image gives sha256(label bytes + C,H,W pixel bytes); those 32-byte digests are sorted, joined, and hashed once more.
    ValueError: another dtype or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(f"need uint8 images [N,C,H,W] and labels [N], found {images.dtype} {images.shape} and {labels.shape}")
    digester = _Digester(labels)
    digester.update(images)
    return digester.result()


def load(name: str, split: Split, *, verify: bool = True) -> RealData:
    """A split of a dataset of `DATASETS`; the first use downloads and decodes it, later ones memory-map the cached copy.

    Every load below 1 GiB hashes the whole cached copy again; above (Tiny ImageNet's and ImageNet's larger splits), and without
    `verify` (for hints, never for what is measured), only file sizes are compared. `test` is the validation split for Tiny ImageNet and ImageNet. `digits` is made in memory, offline.
    MabenchError: unknown name or split, no network or no access, an incomplete download, content other than the pinned one,
    a damaged cached copy, a cache folder that cannot be used.
    """
    dataset = lookup(DATASETS, name, "dataset", "mabench list")
    if split not in ("train", "test"):
        raise MabenchError(f"dataset '{name}' has no split '{split}'. Allowed: train, test")
    if dataset.hub_repo is None and dataset.folder is None:
        images, labels = _digits(split)
        sha256 = content_digests(images, labels)["order_independent_sha256"]
        if sha256 != dataset.digests.get(split, sha256):
            raise MabenchError(f"this is not the {split} split of '{name}': found digest {sha256}, expected "
                               f"{dataset.digests[split]}. Install the expected one: pip install --upgrade scikit-learn pillow")  # fmt: skip
        images.flags.writeable = labels.flags.writeable = False
        return RealData(images, labels, dataset, split, sha256)
    folder = _place(dataset) / split
    try:
        if not folder.exists():
            _build(dataset, split, folder)
        return _open_cached(dataset, split, folder, verify)
    except OSError as problem:  # what the Hub raises has become a MabenchError before it comes here
        why = "no space left" if problem.errno == errno.ENOSPC else str(problem)
        raise MabenchError(f"cannot use the cache folder {cache_folder()}: {why}. "
                           "Point MABENCH_CACHE to a folder with room that you may write") from problem  # fmt: skip


def _place(dataset: Dataset) -> Path:
    """Where a dataset's decoded splits lie; a description that changes gets another place."""
    if not dataset.title.endswith("(described)"):
        return cache_folder() / dataset.name
    return cache_folder() / f"{dataset.name}-{hashlib.sha256(repr(dataset).encode()).hexdigest()[:12]}"


def at_hand(name: str, split: Split) -> bool:
    """Whether `load` needs neither a network nor minutes: the split is decoded already, or comes with a library."""
    dataset = DATASETS[name]
    return (dataset.hub_repo is None and dataset.folder is None) or (_place(dataset) / split).is_dir()


def _digits(split: Split) -> tuple[Images, Labels]:
    """scikit-learn's digits (8x8 grey, 0..16), scaled to 0..255, bilinear to 32x32, three equal channels.

    test = the last 50 of every class in the library's order: no random numbers, so no library version can change it.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)
    side = DATASETS["digits"].image_size
    large = np.stack([np.asarray(Image.fromarray(g).resize((side, side), Image.Resampling.BILINEAR)) for g in grey])
    tested = np.zeros(len(labels), dtype=bool)
    for k in range(10):
        tested[np.flatnonzero(labels == k)[-50:]] = True
    rows = tested if split == "test" else ~tested
    return np.repeat(large[rows][:, None], 3, axis=1), labels[rows]


def _open_cached(dataset: Dataset, split: Split, folder: Path, verify: bool = True) -> RealData:
    def damaged(what: str) -> MabenchError:
        return MabenchError(f"the cached {split} split of {dataset.name} is damaged: {what}. Remove it and rerun: rm -r {folder}")

    try:
        for name in ("meta.json", "images.npy", "labels.npy"):
            size_of(folder / name)
        meta = json.loads((folder / "meta.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy", mmap_mode="r")
        n, sha256 = meta["digests"]["n"], meta["digests"]["order_independent_sha256"]
    except (
        FileNotFoundError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        TokenError,
        OverflowError,
        RecursionError,
    ) as problem:
        raise damaged(str(problem)) from problem
    shape = (n, dataset.channels, dataset.image_size, dataset.image_size)
    if meta.get("format") != CACHE_FORMAT or images.shape != shape or labels.shape != (n,) or n != (dataset.size(split) or n):
        raise damaged(f"found {images.shape} images and {labels.shape} labels, expected {(dataset.size(split) or n, *shape[1:])}")
    if (images.dtype, labels.dtype) != (np.uint8, np.int64):
        raise damaged(f"its arrays hold {images.dtype} and {labels.dtype}")
    if verify and images.nbytes < VERIFY_BELOW_BYTES:
        try:
            found = content_digests(images, labels)
        except ValueError as problem:
            raise damaged(str(problem)) from problem
        if found != meta["digests"]:
            raise damaged("its content differs from what was written, see meta.json")
    if sha256 != dataset.digests.get(split, sha256):
        raise damaged(f"its digest is {sha256}, expected {dataset.digests[split]}")
    return RealData(images, labels, dataset, split, sha256)


def _fetch(dataset: Dataset, split: Split) -> list[Path]:
    """The split's parquet files in the Hub cache, in name order, downloaded where missing."""
    repo, pattern = str(dataset.hub_repo), dataset.files[split]
    snapshot = hub.download(repo, [pattern], title=dataset.title)
    files = sorted(snapshot.glob(pattern))
    if not files:
        raise MabenchError(f"the Hub cache holds no {pattern} of {repo} ({snapshot}): unset HF_HUB_OFFLINE and run again")
    return files


@contextmanager
def _reading(dataset: Dataset, file: Path) -> Iterator[None]:
    """Whatever a damaged parquet file or image raises, as a MabenchError that names the file."""
    import pyarrow as pa

    try:
        size_of(file)  # a pipe would keep the reader waiting for ever
        yield
    except (pa.ArrowException, LookupError, OSError, ValueError) as problem:
        raise MabenchError(f"cannot read {dataset.title} from {file}: {problem}. {_remove_download(dataset)}") from problem


def _read_labels(dataset: Dataset, split: Split, files: list[Path]) -> Labels:
    """The new label of every source row, -1 = left out. Counts the rows before anything is decoded."""
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        with _reading(dataset, file), pq.ParquetFile(file) as source:
            parts.append(source.read(columns=[dataset.label_column]).column(0).to_numpy().astype(np.int64))
    raw = np.concatenate(parts)
    expected = dataset.source_rows.get(split) or dataset.size(split)
    if len(raw) != expected:
        raise MabenchError(f"{dataset.title}'s {split} split is half-downloaded or another set: {len(raw)} rows in {len(files)} "
                           f"files, expected {expected}. {_remove_download(dataset)}")  # fmt: skip
    source_labels = dataset.class_indices or range(dataset.num_classes)
    if dataset.class_indices is None and (raw.min() < 0 or raw.max() >= dataset.num_classes):
        raise MabenchError(f"{dataset.hub_repo} has labels {raw.min()}..{raw.max()}, expected 0..{dataset.num_classes - 1}. "
                           f"Correct classes or label_column in the dataset's TOML file")  # fmt: skip
    labels = np.full(len(raw), -1, dtype=np.int64)
    for new, old in enumerate(source_labels):
        labels[raw == old] = new
    return labels


def _decode(dataset: Dataset, data: bytes) -> Images:
    """An encoded image -> uint8 [C,H,W], RGB; resized and centre-cropped where the dataset says so (torchvision's rounding)."""
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")).convert(
        "L" if dataset.channels == 1 else "RGB"
    )
    side = dataset.image_size
    if dataset.resize_side is not None:
        short = min(image.size)
        width, height = (int(dataset.resize_side * length / short) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    if image.size != (side, side):
        raise ValueError(f"an image of {image.size[0]}x{image.size[1]} pixels where {side}x{side} belong")
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _batches(dataset: Dataset, files: list[Path], labels: Labels) -> Iterator[Images]:
    """The kept rows' images, uint8 [n,C,H,W], in source order."""
    import pyarrow.parquet as pq

    row = 0
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        for file in files:
            with _reading(dataset, file), pq.ParquetFile(file) as source:
                for batch in source.iter_batches(BATCH, columns=[dataset.image_column]):
                    kept = np.flatnonzero(labels[row : row + len(batch)] >= 0)
                    row += len(batch)
                    if len(kept):
                        encoded = batch.column(0).field("bytes").take(kept).to_pylist()
                        yield np.stack(list(pool.map(lambda data: _decode(dataset, data), encoded)))


def _list_folder(dataset: Dataset, split: Split) -> tuple[list[Path], Labels]:
    """Image files of a described dataset, class by class, and their labels. Raises MabenchError where a class has no folder."""
    root = Path(str(dataset.folder)) / dataset.files[split]
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(dataset.class_names):
        inside = sorted(p for p in (root / name).glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        if not inside:
            raise MabenchError(f"{root / name}: no PNG, JPEG or WebP is there; class {label} of {dataset.name} belongs there.")
        files += inside
        labels += [label] * len(inside)
    return files, np.array(labels, dtype=np.int64)


def _folder_batches(dataset: Dataset, files: list[Path]) -> Iterator[Images]:
    for begin in range(0, len(files), BATCH):
        images = []
        for file in files[begin : begin + BATCH]:
            with _reading(dataset, file):
                images.append(_decode(dataset, file.read_bytes()))
        yield np.stack(images)


def _remove_download(dataset: Dataset) -> str:
    if dataset.folder is not None:
        return "Correct or replace the file and run again."
    return f"Remove the Hub cache's copy and run again: hf cache rm dataset/{dataset.hub_repo}"


def _build(dataset: Dataset, split: Split, folder: Path) -> None:
    """Decode into a temporary folder beside `folder`, then rename: that `folder` exists means that it is complete."""
    with atomic_folder(folder) as partial:  # before the download: an unusable cache shows at once
        _fill(dataset, split, partial)


def _fill(dataset: Dataset, split: Split, partial: Path) -> None:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    if dataset.folder is not None:
        files, labels = _list_folder(dataset, split)
        batches = _folder_batches(dataset, files)
    else:
        files = _fetch(dataset, split)
        every = _read_labels(dataset, split, files)
        labels = every[every >= 0]
        batches = _batches(dataset, files, every)
    size = dataset.size(split) or len(labels)
    if len(labels) != size:
        raise MabenchError(f"{dataset.title}'s {split} split has {len(labels)}, not {size}. {_remove_download(dataset)}")
    shape, digester = (size, dataset.channels, dataset.image_size, dataset.image_size), _Digester(labels)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with (
        open(partial / "images.npy", "wb") as out,  # not a writable memory map: a full disk would kill the process
        Progress(*columns, console=Console(stderr=True), transient=True, disable=size < 5000) as progress,
    ):
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
        task = progress.add_task(f"decoding {dataset.title} ({split})", total=size)
        for images in batches:
            out.write(images.tobytes())
            digester.update(images)
            progress.advance(task, len(images))
    digests = digester.result()
    found = digests["order_independent_sha256"]
    if found != dataset.digests.get(split, found):
        raise MabenchError(f"{files[0].parent} is not {dataset.title}'s {split} split: found digest {found}, "
                           f"expected {dataset.digests[split]}. {_remove_download(dataset)}")  # fmt: skip
    np.save(partial / "labels.npy", labels)
    source = {"repo": dataset.hub_repo, "snapshot": files[0].parents[1].name, "files": [f.name for f in files[:1000]]}
    meta = {"format": CACHE_FORMAT, "dataset": dataset.name, "split": split, "shape": shape, "digests": digests}
    (partial / "meta.json").write_text(json.dumps({**meta, "source": source}, indent=1))
    partial.chmod(0o755)  # 0700 would lock others out of a shared cache
