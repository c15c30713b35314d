"""A second test set: new images of a dataset's classes, which nobody selected a set on. Never ranked. Imports no torch.

CIFAR-10.1 v6 (Recht et al., arXiv 1806.00451) has 2,000 images, 200 of each class of CIFAR-10. Its authors publish it as two NumPy
files, images uint8 [N,H,W,C] and labels int32 [N]. `install` takes them from a folder or from a dataset repository on the Hub that
holds them under their names, and refuses every other content: their sha256 are pinned.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mabench.data import hub
from mabench.data.cache import RealData, load
from mabench.data.registry import DATASETS
from mabench.digests import sha256
from mabench.errors import MabenchError
from mabench.files import cache_folder, read_bytes, write_bytes

MAX_BYTES = 2**25  # ours: of a file that is read; CIFAR-10.1 has 6,144,128 bytes


@dataclass(frozen=True)
class SecondTest:
    """The second test set of a dataset, as its authors publish it."""

    name: str
    title: str
    size: int
    files: dict[str, str]
    """Name -> sha256: images, then labels."""
    source: str
    """Address of the folder that holds them."""
    paper: str

    @property
    def sha256(self) -> str:
        """Of the file of images: how a record says which images it was tested on."""
        return next(iter(self.files.values()))


SECOND: dict[str, SecondTest] = {
    "cifar10": SecondTest(
        "cifar10.1-v6", "CIFAR-10.1", 2000,
        {  # of commit d9982abb of the authors' repository; that of the images as others who pinned the same commit print it
            "cifar10.1_v6_data.npy": "2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6",
            "cifar10.1_v6_labels.npy": "ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448",
        },
        "https://github.com/modestyachts/CIFAR-10.1/tree/master/datasets",
        "https://arxiv.org/abs/1806.00451",
    )
}  # fmt: skip


def install(dataset: str, place: str) -> RealData:
    """Copy the second test set of `dataset` into the cache folder, from a folder or a Hub dataset `ORG/NAME`, and return it.

    From then on every run of the dataset's suites is tested on it too. Raises MabenchError for a dataset without one, and for files
    that are missing or others.
    """
    second = SECOND.get(dataset)
    if second is None:
        known = ", ".join(f"{name} ({each.title})" for name, each in SECOND.items())
        raise MabenchError(f"--second-test: {dataset} has no second test set. Datasets that have one: {known}. Leave it out.")
    folder = Path(place)
    if not folder.is_dir():
        patterns = [pattern for name in second.files for pattern in (name, f"*/{name}")]
        folder = hub.download(place, patterns, title=f"{second.title} from {place}")
    contents = []
    for name in second.files:
        path = next(iter(sorted(folder.rglob(name))), folder / name)
        if not path.is_file():
            raise MabenchError(f"{place}: has no {name}. {_cure(second)}")
        contents.append(_checked(path, second))
    real = _decoded(dataset, second, contents)
    for name, content in zip(second.files, contents, strict=True):
        write_bytes(_folder(second) / name, content)
    return real


def at_hand(dataset: str) -> RealData | None:
    """The second test set of `dataset` where it was installed, else None. Raises MabenchError for a damaged copy."""
    second = SECOND.get(dataset)
    if second is None or not all((_folder(second) / name).is_file() for name in second.files):
        return None
    return _decoded(dataset, second, [_checked(_folder(second) / name, second) for name in second.files])


def load_test(dataset: str) -> RealData:
    """As `data.load(dataset, "test")`, with the second test set where it is at hand: what an evaluator run is tested on."""
    return replace(load(dataset, "test"), second=at_hand(dataset))


def _folder(second: SecondTest) -> Path:
    return cache_folder() / second.name


def _cure(second: SecondTest) -> str:
    names = " and ".join(second.files)
    return f"Get {names} from {second.source}, unchanged, and name their folder: mabench eval SET --second-test FOLDER"


def _checked(path: Path, second: SecondTest) -> bytes:
    """The file's bytes. Raises MabenchError unless they are the published ones."""
    content = read_bytes(path, MAX_BYTES, _cure(second))
    found = sha256(content)
    if found != second.files[path.name]:
        raise MabenchError(
            f"{path}: is not the published file of {second.title}: sha256 {found[:16]}, expected {second.files[path.name][:16]}. {_cure(second)}"
        )
    return content


def _decoded(dataset: str, second: SecondTest, contents: Sequence[bytes]) -> RealData:
    """The arrays of both files: images [N,C,H,W]."""
    images, labels = (np.load(io.BytesIO(content), allow_pickle=False) for content in contents)
    entry = DATASETS[dataset]
    channels, height, width = entry.shape
    if images.shape != (second.size, height, width, channels) or images.dtype != np.uint8 or labels.shape != (second.size,):
        raise MabenchError(f"{second.title}: images {images.shape} of {images.dtype} and labels {labels.shape}. {_cure(second)}")
    return RealData(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64), entry, second.name, second.sha256
    )
