"""Real datasets as uint8 arrays [N,C,H,W] with int64 labels, known by their content rather than by where they came from.

Downloaded sets are decoded once into the cache folder and memory-mapped from then on. Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mabench.errors import MabenchError, lookup
from mabench.files import atomic_folder, size_of

CACHE_FORMAT = 1  # ours: raised when the files of a cached split change meaning
VERIFY_BELOW_BYTES = 2**30  # ours: hashing 1 GiB takes about a second; ImageNet-1k would take minutes at every start
BATCH = 256  # ours: rows decoded at a time; 256 ImageNet photographs stay below 100 MB

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """What is known about a real dataset before it is read. Adding a dataset = adding an entry to `DATASETS`."""

    name: str
    num_classes: int
    image_size: int
    """Side in pixels, square."""
    mean: tuple[float, ...]
    """Per-channel mean of pixels in [0,1]: the field's usual normalisation."""
    std: tuple[float, ...]
    train_size: int
    """Number of images; 0 = not published (the source's rows are still counted against `source_rows`)."""
    test_size: int
    title: str
    class_names: tuple[str, ...] = ()
    """In label order; empty where the field goes by number, see `class_name`."""
    channels: int = 3
    hub_repo: str | None = None
    """Dataset repository on the Hugging Face Hub; None = comes with a library."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Split -> glob pattern of its parquet files in the repository."""
    image_column: str = "image"
    label_column: str = "label"
    class_indices: tuple[int, ...] | None = None
    """For a subset: the repository's labels that are kept; the new label is the position in this list."""
    source_rows: Mapping[str, int] = field(default_factory=dict)
    """Split -> rows in the repository's files, where that is not the split's size."""
    resize_side: int | None = None
    """Short side after an antialiased bilinear resize, before the centre crop to `image_size`; None = stored at that size."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Split -> pinned order-independent sha256 of `content_digests`; a split that is absent is not pinned."""

    def size(self, split: Split) -> int:
        """Number of images of a split; 0 = not published."""
        return self.train_size if split == "train" else self.test_size

    def class_name(self, label: int) -> str:
        """The class's name, or its number as text where the table has no names."""
        return self.class_names[label] if self.class_names else str(label)


@dataclass(frozen=True)
class RealData:
    """One split: `images` uint8 [N,C,H,W] (255 = white, RGB) and `labels` int64 [N], both read-only."""

    images: Images
    labels: Labels
    dataset: Dataset
    split: str
    sha256: str
    """Order-independent content digest, see `content_digests`."""


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's ImageNet weights
_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)


def _imagenet_ten(name: str, title: str, train_size: int, classes: dict[str, int]) -> Dataset:
    """Ten classes of ImageNet-1k at 128 pixels; class lists and order: MTT (arXiv 2203.11932), released code, `utils.py`."""
    return Dataset(
        name, 10, 128, _IMAGENET_MEAN, _IMAGENET_STD, train_size, 500, title, tuple(classes), hub_repo="ILSVRC/imagenet-1k",
        files={"train": "data/train-*.parquet", "test": "data/validation-*.parquet"}, class_indices=tuple(classes.values()),
        source_rows={"train": 1_281_167, "test": 50_000}, resize_side=128,
    )  # fmt: skip


DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset(
            "cifar10", 10, 32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010),  # DC's released code (arXiv 2006.05929)
            50_000, 10_000, "CIFAR-10", tuple(_CIFAR10_NAMES.split()), hub_repo="uoft-cs/cifar10", image_column="img",
            files={s: f"plain_text/{s}-*.parquet" for s in ("train", "test")},
            digests={  # computed from the original archive, whose published md5 sums matched
                "train": "55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260",
                "test": "325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f",
            },
        ),
        Dataset(
            "cifar100", 100, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762),  # DSA's released code (arXiv 2102.08259)
            50_000, 10_000, "CIFAR-100", tuple(_CIFAR100_NAMES.split()), hub_repo="uoft-cs/cifar100", image_column="img",
            label_column="fine_label", files={s: f"cifar100/{s}-*.parquet" for s in ("train", "test")},
        ),
        Dataset(  # its own test split has no public labels: the field tests on `valid`
            "tinyimagenet", 200, 64, _IMAGENET_MEAN, _IMAGENET_STD, 100_000, 10_000, "Tiny ImageNet",
            hub_repo="zh-plus/tiny-imagenet", files={"train": "data/train-*.parquet", "test": "data/valid-*.parquet"},
        ),
        Dataset(  # 256 and 224: the usual evaluation crop since arXiv 1512.03385
            "imagenet1k", 1000, 224, _IMAGENET_MEAN, _IMAGENET_STD, 1_281_167, 50_000, "ImageNet-1k", resize_side=256,
            hub_repo="ILSVRC/imagenet-1k", files={"train": "data/train-*.parquet", "test": "data/validation-*.parquet"},
        ),
        _imagenet_ten("imagenette", "ImageNette", 12_894, {  # size: fastai/imagenette, first version (the unchanged split)
            "tench": 0, "english_springer": 217, "cassette_player": 482, "chain_saw": 491, "church": 497, "french_horn": 566,
            "garbage_truck": 569, "gas_pump": 571, "golf_ball": 574, "parachute": 701}),
        _imagenet_ten("imagewoof", "ImageWoof", 12_454, {  # size: as above
            "australian_terrier": 193, "border_terrier": 182, "samoyed": 258, "beagle": 162, "shih_tzu": 155,
            "english_foxhound": 167, "rhodesian_ridgeback": 159, "dingo": 273, "golden_retriever": 207,
            "old_english_sheepdog": 229}),
        _imagenet_ten("imagefruit", "ImageFruit", 0, {
            "pineapple": 953, "banana": 954, "strawberry": 949, "orange": 950, "lemon": 951, "pomegranate": 957, "fig": 952,
            "bell_pepper": 945, "cucumber": 943, "green_apple": 948}),
        _imagenet_ten("imagemeow", "ImageMeow", 0, {
            "tabby_cat": 281, "tiger_cat": 282, "persian_cat": 283, "siamese_cat": 284, "egyptian_cat": 285, "lion": 291,
            "tiger": 292, "jaguar": 290, "snow_leopard": 289, "lynx": 287}),
        Dataset(
            "digits", 10, 32, (0.3060,) * 3, (0.3228,) * 3,  # ours: computed on the train split
            1297, 500, "digits", tuple("0123456789"),
            digests={  # ours: scikit-learn 1.9, Pillow 13
                "train": "9b471893020553bd0bf9852b019567ec73fae444c1443980b70eb04dcc15893c",
                "test": "62c529ea987fdbebbdf3e01f99bab2d1344889ca9a978d32b00c438ff6a5699b",
            },
        ),
    )
}  # fmt: skip


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


def cache_folder() -> Path:
    """Where decoded datasets are kept: $MABENCH_CACHE, or ~/.cache/mabench. Not created here."""
    return Path(os.environ.get("MABENCH_CACHE") or "~/.cache/mabench").expanduser()


def load(name: str, split: Split) -> RealData:
    """A split of a dataset of `DATASETS`; the first use downloads and decodes it, later ones memory-map the cached copy.

    Every load below 1 GiB hashes the whole cached copy again; above (Tiny ImageNet's and ImageNet's larger splits) only file
    sizes are compared. `test` is the validation split for Tiny ImageNet and ImageNet. `digits` is made in memory, offline.
    MabenchError: unknown name or split, no network or no access, an incomplete download, content other than the pinned one,
    a damaged cached copy, a cache folder that cannot be used.
    """
    dataset = lookup(DATASETS, name, "dataset")
    if split not in ("train", "test"):
        raise MabenchError(f"dataset '{name}' has no split '{split}'. Allowed: train, test")
    if dataset.hub_repo is None:
        images, labels = _digits(split)
        sha256 = content_digests(images, labels)["order_independent_sha256"]
        if sha256 != dataset.digests.get(split, sha256):
            raise MabenchError(f"this is not the {split} split of '{name}': found digest {sha256}, expected "
                               f"{dataset.digests[split]}. Mend it with: pip install --upgrade scikit-learn pillow")  # fmt: skip
        images.flags.writeable = labels.flags.writeable = False
        return RealData(images, labels, dataset, split, sha256)
    folder = cache_folder() / name / split
    try:
        if not folder.exists():
            _build(dataset, split, folder)
        return _open_cached(dataset, split, folder)
    except OSError as problem:  # what the Hub raises has become a MabenchError before it comes here
        why = "no space left" if problem.errno == errno.ENOSPC else str(problem)
        raise MabenchError(f"cannot use the cache folder {cache_folder()}: {why}. "
                           "Point MABENCH_CACHE to a folder with room that you may write") from problem  # fmt: skip


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
    chosen = np.zeros(len(labels), dtype=bool)
    for k in range(10):
        chosen[np.flatnonzero(labels == k)[-50:]] = True
    chosen = chosen if split == "test" else ~chosen
    return np.repeat(large[chosen][:, None], 3, axis=1), labels[chosen]


def _open_cached(dataset: Dataset, split: Split, folder: Path) -> RealData:
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
    if images.nbytes < VERIFY_BELOW_BYTES:
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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    repo, pattern = str(dataset.hub_repo), dataset.files[split]
    # The bases add what the Hub's HTTP library raises in mid-transfer, without naming that library: it changes with versions.
    failures: tuple[type[BaseException], ...] = (HfHubHTTPError, OSError, ValueError, *HfHubHTTPError.__bases__)
    try:
        snapshot = Path(snapshot_download(repo, repo_type="dataset", allow_patterns=[pattern]))
    except GatedRepoError as problem:
        raise MabenchError(f"{dataset.title} is gated: accept its terms on https://huggingface.co/datasets/{repo}, "
                           "then log in with: hf auth login") from problem  # fmt: skip
    except failures as problem:
        raise MabenchError(
            f"cannot download {dataset.title} ({repo}) and the Hub cache has no copy: {type(problem).__name__}: {problem} "
            "To mend: a network and no HF_HUB_OFFLINE, room on the disk, or HF_HUB_CACHE = a Hub cache that holds it"
        ) from problem
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
    kept = dataset.class_indices or range(dataset.num_classes)
    if dataset.class_indices is None and (raw.min() < 0 or raw.max() >= dataset.num_classes):
        raise MabenchError(f"{dataset.hub_repo} has labels {raw.min()}..{raw.max()}, expected 0..{dataset.num_classes - 1}")
    labels = np.full(len(raw), -1, dtype=np.int64)
    for new, old in enumerate(kept):
        labels[raw == old] = new
    return labels


def _decode(dataset: Dataset, data: bytes) -> Images:
    """An encoded image -> uint8 [C,H,W], RGB; resized and centre-cropped where the dataset says so (torchvision's rounding)."""
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")).convert("RGB")
    side = dataset.image_size
    if dataset.resize_side is not None:
        short = min(image.size)
        width, height = (int(dataset.resize_side * length / short) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    if image.size != (side, side):
        raise ValueError(f"an image of {image.size[0]}x{image.size[1]} pixels where {side}x{side} belong")
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


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


def _remove_download(dataset: Dataset) -> str:
    return f"Remove the Hub cache's copy and run again: hf cache rm dataset/{dataset.hub_repo}"


def _build(dataset: Dataset, split: Split, folder: Path) -> None:
    """Decode into a temporary folder beside `folder`, then rename: that `folder` exists means that it is complete."""
    with atomic_folder(folder) as partial:  # before the download: an unusable cache shows at once
        _fill(dataset, split, partial)


def _fill(dataset: Dataset, split: Split, partial: Path) -> None:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    files = _fetch(dataset, split)
    every = _read_labels(dataset, split, files)
    labels = every[every >= 0]
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
        for images in _batches(dataset, files, every):
            out.write(images.tobytes())
            digester.update(images)
            progress.advance(task, len(images))
    digests = digester.result()
    found = digests["order_independent_sha256"]
    if found != dataset.digests.get(split, found):
        raise MabenchError(f"{files[0].parent} is not {dataset.title}'s {split} split: found digest {found}, "
                           f"expected {dataset.digests[split]}. {_remove_download(dataset)}")  # fmt: skip
    np.save(partial / "labels.npy", labels)
    source = {"repo": dataset.hub_repo, "snapshot": files[0].parents[1].name, "files": [f.name for f in files]}
    meta = {"format": CACHE_FORMAT, "dataset": dataset.name, "split": split, "shape": shape, "digests": digests}
    (partial / "meta.json").write_text(json.dumps({**meta, "source": source}, indent=1))
    partial.chmod(0o755)  # 0700 would lock others out of a shared cache
