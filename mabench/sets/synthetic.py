"""SyntheticSet: the condensed set as the evaluation knows it, and its canonical file.

Legend: N stored images, M training images after decoding, C channels, H W pixels, K classes, f tiles a side.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import DATASETS, Dataset
from mabench.digests import canonical_json
from mabench.errors import MabenchError, first_line, lookup, one_line, printable
from mabench.files import check_header, check_own_kind, size_of, write_bytes
from mabench.schema import Finding, SetSummary
from mabench.sets import label_files, recorded
from mabench.sets.recorded import RecordedLabels
from mabench.sets.writing import bytes_of, write_tensors

FORMAT = "mabench-set"
FORMAT_VERSION = 1
MAX_BYTES = 4 * 2**30  # ours: a condensed set is small; a file that declares more is refused before anything is allocated
MAX_IPC = 200  # ours: the largest budget of the field (ImageNet-1k, SRe2L), of a byte per value; four-byte values up to IPC 50
MAX_FINDINGS = 64 * 1024  # ours: a reader makes about ten, of a line each
IMAGE_DTYPES = {torch.uint8: "uint8", torch.float16: "float16", torch.float32: "float32"}


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """A validated condensed set. Raises MabenchError for anything that could not be trained on as it stands.

    >>> import mabench, torch
    >>> mine = mabench.SyntheticSet(torch.rand(20, 3, 32, 32), torch.arange(20) % 10, "cifar10", ipc=2, name="mine")
    >>> mine.num_classes, mine.class_counts[:3]
    (10, (2, 2, 2))
    """

    images: Tensor
    """[N,C,H,W] in PIXEL space: uint8 (255 = white), float16 or float32 (1.0 = white; may leave [0,1])."""
    labels: Tensor
    """int64 [N] hard, or float32 [N,K] soft, rows summing to 1."""
    dataset: str
    ipc: int
    """Budget: stored images per class on average, rounded up."""
    decode: str = "none"
    """`none`, or `gridf`: every stored image is an f x f grid of images (multi-formation, IDC and HMDC)."""
    class_names: tuple[str, ...] = ()
    name: str = "set"
    findings: tuple[Finding, ...] = ()
    learning_rate: float | None = None
    """Learned with the images (trajectory matching); part of the set's identity. None = the set brings none."""
    labels_folder: Path | None = None
    """Where labels for every epoch are recorded (`recorded.py`); no part of the set's identity. None = nowhere known."""

    def __post_init__(self) -> None:
        entry = self.entry
        images, labels = self.images, self.labels

        def refuse(found: str, cure: str) -> MabenchError:
            return MabenchError(f"{self.name}: {found}. {cure}")

        if images.dtype not in IMAGE_DTYPES:
            raise refuse(f"images are {images.dtype}", f"Allowed: {', '.join(IMAGE_DTYPES.values())}.")
        if images.dim() != 4:
            raise refuse(f"images have shape {list(images.shape)}", "Expected [N,C,H,W].")
        if len(images) == 0:
            raise refuse("the set is empty (0 images)", "Store at least one image per class.")
        wanted = (entry.channels, entry.image_size, entry.image_size)
        if tuple(images.shape[1:]) != wanted:
            raise refuse(
                f"images are {' x '.join(map(str, images.shape[1:]))}, {self.dataset} needs {' x '.join(map(str, wanted))}",
                "Resize them yourself, so that you know what is measured, or name the right --dataset.",
            )
        if labels.dim() not in (1, 2):
            raise refuse(f"labels have shape {list(labels.shape)}", f"Expected [N], or [N,{entry.num_classes}].")
        if labels.shape[0] != len(images):
            raise refuse(f"labels has {labels.shape[0]} rows, images has {len(images)}", "Every stored image needs one label.")
        bad = (
            torch.cat([~torch.isfinite(part).flatten(1).all(1) for part in torch.split(images, 1000)])
            if images.is_floating_point()
            else None
        )
        if bad is not None and bad.any():
            first = int(bad.nonzero()[0])
            raise refuse(
                f"{int(bad.sum())} of {len(images)} images hold NaN or infinity, the first is image {first}",
                "Such a set cannot be trained on: condense it again or leave these images out.",
            )
        if self.label_kind == "hard":
            if labels.dtype != torch.int64 or labels.dim() != 1:
                raise refuse(
                    f"labels are {labels.dtype} {list(labels.shape)}", "Expected int64 [N], or float32 [N,K] soft labels."
                )
            if int(labels.min()) < 0 or int(labels.max()) >= entry.num_classes:
                wrong = int(labels.max()) if int(labels.max()) >= entry.num_classes else int(labels.min())
                raise refuse(f"label {wrong} is out of range", f"{self.dataset} has classes 0 to {entry.num_classes - 1}.")
        else:
            if labels.dtype != torch.float32 or tuple(labels.shape) != (len(images), entry.num_classes):
                raise refuse(f"soft labels are {labels.dtype} {list(labels.shape)}", f"Expected float32 [N,{entry.num_classes}].")
            if not torch.isfinite(labels).all() or labels.min() < 0 or (labels.sum(1) - 1).abs().max() > 1e-3:
                raise refuse(
                    "soft labels are not probability distributions", "Every row must be finite, non-negative and sum to 1."
                )
        factor = self.factor
        if factor > 1 and entry.image_size % factor:
            raise refuse(f"a {entry.image_size} px image cannot hold a {factor} x {factor} grid", "Correct --decode.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise refuse(f"the learned rate is {self.learning_rate}", "Expected a positive number; name it with --learned-rate.")
        if self.class_names and len(self.class_names) != entry.num_classes:
            raise refuse(f"{len(self.class_names)} class names", f"{self.dataset} has {entry.num_classes} classes.")
        budget = -(-len(images) // entry.num_classes)
        if self.ipc != budget:
            raise refuse(
                f"IPC {self.ipc} was named, {len(images)} images of {entry.num_classes} classes are IPC {budget}",
                "Correct --ipc.",
            )

    @property
    def entry(self) -> Dataset:
        """The real dataset that this set condenses."""
        return lookup(DATASETS, self.dataset, "dataset", "mabench list")

    @property
    def num_classes(self) -> int:
        return self.entry.num_classes

    @property
    def label_kind(self) -> str:
        """`hard` or `soft`."""
        return "soft" if self.labels.dim() == 2 else "hard"

    @property
    def file_stem(self) -> str:
        """The name as a part of a file's name, 60 characters at most: a name comes from a stranger's header and may hold a path."""
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in self.name)[:60] or "set"

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Stored images per class, [K]; for display, a soft label counts for its largest class."""
        hard = self.labels.argmax(1) if self.labels.dim() == 2 else self.labels
        return tuple(torch.bincount(hard, minlength=self.num_classes).tolist())

    @property
    def balanced(self) -> bool:
        """Whether every class has the same number of stored images. A soft label says no class: there the number must divide."""
        if self.label_kind == "soft":
            return len(self.images) % self.num_classes == 0
        return len(set(self.class_counts)) == 1

    @property
    def factor(self) -> int:
        """Tiles a side: 1 without multi-formation."""
        if self.decode == "none":
            return 1
        number = self.decode.removeprefix("grid")
        if self.decode != f"grid{number}" or number not in "2345678" or len(number) != 1:
            raise MabenchError(
                f"{self.name}: unknown decode '{printable(self.decode, 80)}'. Allowed: none, grid2, grid3, ... grid8."
            )
        return int(number)

    @cached_property
    def sha256(self) -> str:
        """Identity: sha256 of a canonical header and the raw bytes of images and labels. Names and findings are not part."""
        header: dict[str, object] = {
            "dataset": self.dataset,
            "decode": self.decode,
            "images": [IMAGE_DTYPES[self.images.dtype], list(self.images.shape)],
            "labels": [str(self.labels.dtype).removeprefix("torch."), list(self.labels.shape)],
        }
        if self.learning_rate is not None:
            header["learning_rate"] = self.learning_rate
        sha = hashlib.sha256(canonical_json(header).encode())
        for tensor in (self.images, self.labels):
            sha.update(bytes_of(tensor))
        return sha.hexdigest()

    @property
    def stored_bytes(self) -> int:
        """Bytes of the images, and of the labels where they are soft (hard ones follow from the order)."""
        return self.images.nbytes + (self.labels.nbytes if self.label_kind == "soft" else 0)

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Training images float32 [M,C,H,W], 1.0 = white, and their labels; M = N f^2.

        A grid's tile is upsampled bilinearly (align_corners=True) to full size. Order over the N stored images: for
        f = 2 all top-left tiles, all bottom-left, all top-right, all bottom-right (HMDC's released code).
        """
        images = self.images.float() / 255 if self.images.dtype == torch.uint8 else self.images.float()
        factor = self.factor
        if factor == 1:
            return images, self.labels
        side = images.shape[-1] // factor
        tiles = [
            images[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
            for column in range(factor)
            for row in range(factor)
        ]
        full = F.interpolate(torch.cat(tiles), size=tuple(images.shape[-2:]), mode="bilinear", align_corners=True)
        return full, self.labels.repeat(factor**2, *[1] * (self.labels.dim() - 1))

    def hardened(self) -> SyntheticSet:
        """The same images with hard labels: of every soft label the class with the largest entry, the first of equal ones."""
        classes = torch.from_numpy(self.labels.numpy().argmax(1))
        return replace(self, labels=classes, name=f"{self.name}, hardened", labels_folder=None)

    def torch_dataset(self) -> torch.utils.data.TensorDataset:
        """The training images and labels of `decoded` as a dataset, for a DataLoader of your own.

        >>> import mabench, torch
        >>> train = mabench.SyntheticSet(torch.rand(10, 3, 32, 32), torch.arange(10), "cifar10", ipc=1).torch_dataset()
        >>> len(train), train[3][0].shape, train[3][1]
        (10, torch.Size([3, 32, 32]), tensor(3))
        """
        return torch.utils.data.TensorDataset(*self.decoded())

    @cached_property
    def recorded(self) -> RecordedLabels:
        """The labels recorded for this set. Raises MabenchError where there are none, or none of this set."""
        if self.labels_folder is None:
            raise MabenchError(
                f"{self.name}: this suite replays labels that were recorded for every epoch, and none lie beside the set "
                f"({label_files.FOLDER}/{label_files.file_name(0)}). {recorded.CURE}"
            )
        count = len(self.images) * self.factor**2
        return RecordedLabels(self.labels_folder, self.sha256, count, self.entry.image_size, self.num_classes)

    def summary(self, *, replayed: bool = False) -> SetSummary:
        """What a run record keeps of this set; `replayed`: the recipe trains on the recorded labels, so that their bytes count."""
        channels, height, width = self.images.shape[1:]
        return SetSummary(
            sha256=self.sha256,
            name=self.name,
            dataset=self.dataset,
            ipc=self.ipc,
            stored_images=len(self.images),
            decoded_images=len(self.images) * self.factor**2,
            image_shape=(channels, height, width),
            image_dtype=IMAGE_DTYPES[self.images.dtype],
            decode=self.decode,
            labels="soft" if self.label_kind == "soft" else "hard",
            stored_bytes=self.stored_bytes,
            recorded_bytes=self.recorded.bytes if replayed else 0,
            learning_rate=self.learning_rate,
            findings=self.findings,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the canonical .safetensors file, all metadata in its header; whole or not at all, same set same bytes."""
        metadata = {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "dataset": self.dataset,
            "ipc": str(self.ipc),
            "decode": self.decode,
            "class_names": json.dumps(self.class_names),
            "name": self.name,
            "findings": json.dumps([f.model_dump() for f in self.findings]),
            "sha256": self.sha256,
        }
        if self.learning_rate is not None:
            metadata["learning_rate"] = repr(self.learning_rate)
        write_tensors(Path(path), {"images": self.images, "labels": self.labels}, metadata)


def max_bytes(entry: Dataset | None = None) -> int:
    """The largest set of a dataset that is read, or of any: what its images take at the largest budget, and never below `MAX_BYTES`."""
    entries = DATASETS.values() if entry is None else [entry]
    return max(MAX_BYTES, *(MAX_IPC * each.num_classes * math.prod(each.shape) for each in entries))


def is_canonical(path: Path) -> bool:
    """Whether a safetensors file is meant as a set of ours; True for a damaged one, which `load` refuses with the reason."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return True


def load(path: Path) -> SyntheticSet:
    """Read a canonical file. Raises MabenchError when it is truncated, altered, foreign, or newer than this program."""
    from safetensors import SafetensorError, safe_open

    size_of(path)
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:  # maps the file: nothing is copied into memory
            metadata = file.metadata() or {}
            keys = set(file.keys())
            limit = max_bytes(DATASETS.get(metadata.get("dataset", "")))
            if size_of(path) > limit:
                raise MabenchError(f"{path}: {size_of(path):,} bytes; sets of this dataset up to {limit:,} bytes are read.")
            if metadata.get("format") != FORMAT or not {"images", "labels"} <= keys:
                raise MabenchError(
                    f"{path}: a safetensors file, but not a {FORMAT} (tensors: {printable(first_line(sorted(keys)), 200) or 'none'})."
                )
            if int(metadata["format_version"]) > FORMAT_VERSION:
                raise MabenchError(
                    f"{path}: set format {metadata['format_version']}; this mabench reads up to {FORMAT_VERSION}. "
                    "Upgrade: pip install -U mabench"
                )
            chosen = SyntheticSet(
                images=file.get_tensor("images"),
                labels=file.get_tensor("labels"),
                dataset=metadata["dataset"],
                ipc=int(metadata["ipc"]),
                decode=metadata["decode"],
                class_names=_class_names(metadata["class_names"]),
                name=one_line(metadata["name"], 200),
                findings=_findings(metadata["findings"]),
                learning_rate=float(metadata["learning_rate"]) if "learning_rate" in metadata else None,
            )
            stated = metadata["sha256"]
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MabenchError(f"{path}: not a complete {FORMAT} file ({one_line(str(error))}). Fetch or pack it again.") from error
    if chosen.sha256 != stated:
        raise MabenchError(
            f"{path}: altered: its content is {chosen.sha256[:16]}, its header says {stated[:16]}. Fetch or pack it again."
        )
    return chosen


def _class_names(text: str) -> tuple[str, ...]:
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is not a list of strings")
    return tuple(one_line(name, 200) for name in names)


def _findings(text: str) -> tuple[Finding, ...]:
    if len(text) > MAX_FINDINGS:  # every record repeats them
        raise ValueError(f"its findings take more than {MAX_FINDINGS:,} characters")
    return tuple(Finding(**{k: one_line(str(v), 500) for k, v in f.items()}) for f in json.loads(text))


def pack_grid(images: Tensor, factor: int) -> Tensor:
    """Multi-formation, the way back: [f^2 G,C,H,W] float -> [G,C,H,W]; consecutive groups of G images fill the tiles in the
    order of `decoded`, each shrunk bilinearly (align_corners=True). Equation: IDC (Kim et al. 2022), HMDC's code."""
    count, channels, height, width = images.shape
    group, rest = divmod(count, factor**2)
    if rest:
        raise ValueError(f"{count} images do not fill grids of {factor} x {factor}")
    small = F.interpolate(images, size=(height // factor, width // factor), mode="bilinear", align_corners=True)
    packed = images.new_empty(group, channels, height, width)
    for index, part in enumerate(torch.split(small, group)):
        column, row = divmod(index, factor)
        packed[
            :, :, row * height // factor : (row + 1) * height // factor, column * width // factor : (column + 1) * width // factor
        ] = part
    return packed


def preview(synthetic_set: SyntheticSet, path: Path, per_class: int = 10) -> None:
    """PNG: a row per class (its name, then up to `per_class` stored images, clipped to the visible range).

    Raises MabenchError where `path` holds something else than a PNG."""
    import io

    from PIL import Image, ImageDraw

    check_own_kind(path, [b"\x89PNG"])
    images = synthetic_set.images
    pixels = images if images.dtype == torch.uint8 else (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
    labels = synthetic_set.labels.argmax(1) if synthetic_set.label_kind == "soft" else synthetic_set.labels
    names = synthetic_set.class_names or tuple(map(str, range(synthetic_set.num_classes)))
    zoom = max(1, -(-48 // images.shape[-1]))
    cell, margin = images.shape[-1] * zoom + 2, 110
    shown = [c for c in range(synthetic_set.num_classes) if synthetic_set.class_counts[c]][:100]
    columns = min(per_class, max(synthetic_set.class_counts))
    sheet = Image.new("RGB", (margin + columns * cell, len(shown) * cell), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(shown):
        draw.text((4, row * cell + cell // 2 - 6), names[label][:17], fill="black")
        for column, index in enumerate((labels == label).nonzero().flatten()[:per_class].tolist()):
            array = pixels[index].permute(1, 2, 0).expand(-1, -1, 3).numpy()
            tile = Image.fromarray(array).resize((cell - 2, cell - 2), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + column * cell, row * cell + 1))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
