"""A shuffled set of ten images a class whose pixels say their class, and a writer for every form in docs/file-forms.md."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mabench.data import DATASETS
from mabench.sets.synthetic import SyntheticSet

CIFAR10 = DATASETS["cifar10"]


def textures(count: int, side: int, seed: int) -> torch.Tensor:
    """[N,3,S,S] smooth, of mean 0, within +-0.33."""
    signs = torch.randint(0, 2, (count, 3, side // 6, side // 6), generator=torch.Generator().manual_seed(seed)).float()
    smooth = F.interpolate(signs, size=side, mode="bilinear")
    smooth = smooth - smooth.mean((2, 3), keepdim=True)
    return smooth * 0.33 / smooth.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)


def level(labels: torch.Tensor) -> torch.Tensor:
    """The mean of an image's pixels, by its class."""
    return 0.35 + 0.03 * labels


Y = torch.arange(10).repeat(10)[torch.randperm(100, generator=torch.Generator().manual_seed(1))]
BYTES = ((textures(100, 32, 0) + level(Y).view(-1, 1, 1, 1)) * 255).round().to(torch.uint8)
X = BYTES.float() / 255
ORDER = torch.argsort(Y, stable=True)
TILES = textures(400, 16, 2).view(100, 2, 2, 3, 16, 16).permute(0, 3, 1, 4, 2, 5).reshape(100, 3, 32, 32)
PACKED = ((TILES + level(Y).view(-1, 1, 1, 1)) * 255).round().to(torch.uint8)


def normalised(x: torch.Tensor, mean: tuple[float, ...] = CIFAR10.mean, std: tuple[float, ...] = CIFAR10.std) -> torch.Tensor:
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def classes_seen(images: torch.Tensor) -> torch.Tensor:
    """[N] the class that the pixels (0 to 1) say; -1 where they say none."""
    steps = (images.float().mean((1, 2, 3)) - 0.35) / 0.03
    return torch.where((steps - steps.round()).abs() < 0.3, steps.round(), -1).long()


Writer = Callable[[Path], None]
WRITERS: dict[str, Writer] = {}


def saved(name: str, value: Any) -> None:
    WRITERS[name] = lambda path: torch.save(value, path)


saved("images and labels", {"images": X, "labels": Y})
saved("data and targets", {"data": X, "targets": Y})
saved("data and target", {"data": X, "target": Y})
saved("x and y", {"x": X, "y": Y})
saved("image_syn and label_syn", {"image_syn": X, "label_syn": Y})
saved("syn_images and syn_labels", {"syn_images": X, "syn_labels": Y})
saved("capital names", {"X_train": X, "Y_train": Y})
saved("state dictionary", {"module.images": X, "module.labels": Y})
saved("one-hot labels", {"images": X, "labels": F.one_hot(Y)})
saved("learned labels", {"images": X, "soft_labels": torch.softmax(F.one_hot(Y) * 4.0, 1)})
saved("numpy in a torch file", {"images": X.numpy(), "labels": Y.numpy()})
saved("labels in a list", {"images": X, "labels": Y.tolist()})
saved("unusual keys", {"pictures": X, "answers": Y, "rounds": torch.arange(100)})
saved("tuple", (X, Y))
saved("triple with a rate", (X, Y, 0.02))
saved("flat data", {"data": [X, Y]})
saved("DC", {"data": [[normalised(X.flip(0)), Y], [normalised(X), Y]], "accs_all_exps": {"ConvNet": []}})
saved("HMDC", {"synthetic_images": normalised(X[ORDER]).view(10, 10, 3, 32, 32), "init": "random", "factor": 2})
saved("IDC", [PACKED, Y])
saved("list of pairs", list(zip(X, Y.tolist(), strict=True)))
saved("lists by class", [X[Y.eq(k)] for k in range(10)])
saved("dictionary by class", {k: X[Y.eq(k)] for k in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)})
saved("nested dictionary", {"train": {"images": X, "labels": Y}, "config": {"lr": 0.1, "ipc": 10}})
saved("dictionary by name", {CIFAR10.class_names[k]: X[Y.eq(k)] for k in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)})
saved("pairs by class", [(X[Y.eq(k)], Y[Y.eq(k)]) for k in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)])


def saved_to(write: Callable[[io.BytesIO], object]) -> bytes:
    """What `write` puts into a file."""
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def writer(name: str) -> Callable[[Writer], Writer]:
    def keep(write: Writer) -> Writer:
        WRITERS[name] = write
        return write

    return keep


@writer("MTT folder")
def mtt(path: Path) -> None:
    path.mkdir()
    for name, value in (("images", normalised(X)), ("labels", Y), ("lr", torch.tensor(0.02))):
        torch.save(value, path / f"{name}_best.pt")


@writer("whitening undone by MTT")
def mtt_zca(path: Path) -> None:
    path.parent.mkdir()
    for name, value in (("images", X * 3 - 1), ("images_zca", X), ("labels", Y)):
        torch.save(value, path.parent / f"{name}_5000.pt")


@writer("images.pt and labels.pt")
def two_files(path: Path) -> None:
    path.parent.mkdir()
    torch.save(X, path)
    torch.save(Y, path.with_name("labels.pt"))


@writer("NAME_images and NAME_labels")
def two_named_files(path: Path) -> None:
    torch.save(X, path)
    torch.save(Y, path.with_name("cifar10_labels.pt"))


@writer("files by class")
def class_files(path: Path) -> None:
    path.mkdir()
    for k in range(10):
        torch.save(X[Y.eq(k)], path / f"class_{k}.pt")


@writer("NAME and NAME_y")
def numpy_files(path: Path) -> None:
    np.save(path, X.numpy())
    np.save(path.with_name("cifar10_set_y.npy"), Y.numpy())


WRITERS["npz"] = lambda path: np.savez(path, images=X.numpy(), labels=Y.numpy())
WRITERS["npz by position"] = lambda path: np.savez(path, X.numpy(), Y.numpy())
WRITERS["npz of JAX"] = lambda path: np.savez(
    path, image=normalised(X).permute(0, 2, 3, 1).numpy(), label=(F.one_hot(Y) - 0.1).numpy()
)


@writer("npy pair")
def npy(path: Path) -> None:
    path.parent.mkdir()
    np.save(path, X.numpy())
    np.save(path.with_name("labels.npy"), Y.numpy())


@writer("safetensors")
def safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"images": X, "labels": Y}, path)


WRITERS["canonical"] = lambda path: SyntheticSet(X, Y, "cifar10", 10, name="a set").save(path)

# -- pictures -------------------------------------------------------------------------------------------------------------


def picture(k: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray((BYTES[k].permute(1, 2, 0)).numpy()).convert(mode)


def pictures(path: Path, name: Callable[[int, int], str], mode: str = "RGB") -> None:
    """One file an image, called name(class, number)."""
    for number, label in enumerate(Y.tolist()):
        file = path / name(label, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".jpg":
            picture(number, mode).save(file, quality=95, subsampling=0)
        else:
            picture(number, mode).save(file)


def folders(name: str, place: Callable[[int, int], str], mode: str = "RGB") -> None:
    WRITERS[name] = lambda path: pictures(path, place, mode)


folders("folders by number", lambda k, n: f"{k}/{n}.png")
folders("folders by padded number", lambda k, n: f"{k:05}/{n:05}.jpg")
folders("folders new000", lambda k, n: f"new{k:03}/class{k:03}_id{n:03}.jpg")
folders("folders by name", lambda k, n: f"{CIFAR10.class_names[k]}/{n}.png")
folders("flat names", lambda k, n: f"class{k:03}_id{n:03}.jpg")
folders("flat class names", lambda k, n: f"{CIFAR10.class_names[k]}_{n:04}.png")
folders("folders inside classes", lambda k, n: f"{k}/images/{n}.png")
folders("TIFF", lambda k, n: f"{k}/{n}.tif")
folders("opaque alpha", lambda k, n: f"{k}/{n}.png", "RGBA")


@writer("16-bit PNG")
def sixteen(path: Path) -> None:
    side = DATASETS["mnist"].image_size
    for number, label in enumerate(Y.tolist()):
        grey = (X[number, :1, :side, :side] - X[number, :1, :side, :side].mean() + level(Y[number])).clamp(0, 1)
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(((grey[0] * 65535).round()).numpy().astype(np.uint16)).save(path / str(label) / f"{number}.png")


@writer("zip")
def zipped(path: Path) -> None:
    pictures(path.parent / "tree", lambda k, n: f"new{k:03}/class{k:03}_id{n:03}.jpg")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((path.parent / "tree").rglob("*.jpg")):
            archive.write(file, f"set/{file.relative_to(path.parent / 'tree')}")
            archive.writestr(f"__MACOSX/set/{file.parent.name}/._{file.name}", b"\0\5\26\7")


@writer("tar.gz")
def tarred(path: Path) -> None:
    pictures(path.parent / "tree", lambda k, n: f"{k}/{n}.png")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.parent / "tree", arcname="set")


@writer("WebDataset")
def webdataset(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for k in range(100):
            for name, content in ((f"{k:05}.png", png(k)["bytes"]), (f"{k:05}.cls", str(int(Y[k])).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


# -- tables ---------------------------------------------------------------------------------------------------------------


def png(k: int) -> dict[str, Any]:
    out = io.BytesIO()
    picture(k).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": f"{k}.png"}


@writer("parquet")
def parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [png(k) for k in range(100)], "label": Y.tolist()}), path)


@writer("parquet with class_id")
def shards(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir()
    for part, rows in enumerate((range(60), range(60, 100))):
        table = pa.table({"image": [png(k) for k in rows], "class_id": pa.array(Y[rows.start : rows.stop].tolist(), pa.int32())})
        pq.write_table(table, path / f"train-0000{part}-of-00002.parquet")


@writer("parquet with a struct")
def struct(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [{"class": k, "by": "teacher"} for k in Y.tolist()]
    pq.write_table(pa.table({"image": [png(k) for k in range(100)], "label": labels}), path)


@writer("arrow")
def saved_to_disk(path: Path) -> None:
    import datasets

    names = sorted(CIFAR10.class_names, reverse=True)
    numbers = [names.index(CIFAR10.class_names[k]) for k in Y.tolist()]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    table = datasets.Dataset.from_dict({"image": [png(k) for k in range(100)], "label": numbers}, features=features)
    table.save_to_disk(str(path))
