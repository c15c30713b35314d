"""Files of honest people that do not say what they hold: each is refused, with what was seen and what to do; none is read as something else."""

from __future__ import annotations

import gzip
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.forms import BYTES, CIFAR10, PACKED, X, Y, normalised, picture, pictures, saved_to

from mabench.errors import MabenchError
from mabench.sets import readers

ROUGH = torch.randn(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CONTENTS: dict[str, tuple[Any, str]] = {
    "positions": ({"images": X, "idx": torch.arange(100)}, "--labels-key"),
    "losses": ({"images": X, "losses": torch.rand(100, 10)}, "--labels-key"),
    "ragged lists": ({"images": X, "notes": [[1] * 60, [2] * 40]}, "no labels for 100 images"),
    "labels without a length": ({"images": X, "labels": None}, "no labels for 100 images"),
    "labels of another length": ({"images": X, "labels": torch.arange(10)}, "labels has 10 rows"),
    "two sets": ({"a": {"images": X, "labels": Y}, "b": {"images": X, "labels": Y}}, "--images-key"),
    "steps in a list": ([X + step * 1e-3 for step in range(10)], "--set-index"),
    "steps in a dictionary": ({step: X + step * 1e-6 for step in (0, 500, 1000)}, "several steps"),
    "steps under a key": ({"images": [X, X + 1e-3, X + 2e-3], "labels": Y}, "--set-index 0 to 2"),
    "nine arrays for ten classes": ([X[Y.eq(k)] for k in range(9)], "they cannot be one per class"),
    "classes by letters": ({letter: X[Y.eq(k)] for k, letter in enumerate("abcdefghij")}, "cannot tell which class is which"),
    "a class is missing": ({"images": X[Y.lt(9)], "labels": Y[Y.lt(9)]}, "--dataset cifar10"),
    "counted from 1": ({"images": X, "labels": Y + 1}, "count from 1"),
    "black and white in bytes": ({"images": BYTES.gt(127).byte(), "labels": Y}, "--space"),
    "divided twice": ({"images": X / 255, "labels": Y}, "--space"),
    "bytes of another sign": ({"images": (BYTES.int() - 128).to(torch.int8), "labels": Y}, "--space"),
    "whitened and learned": ({"images": ROUGH, "labels": Y}, "--space .*zca"),
    "a factor without seams": (
        {"images": X, "labels": Y, "factor": 2},
        "the file's factor is 2.*--decode grid2, or --decode none",
    ),
    "another factor than the seams": ({"images": PACKED, "labels": Y, "args": {"factor": 3}}, "--decode grid2 or --decode grid3"),
    "an accuracy behind": ((X, Y, Y, 63.2), "Say which are the labels"),
    "larger images": ((torch.rand(100, 3, 48, 48), Y), r"interpolate\(images, 32"),
    "flat pixels": ({"images": X.flatten(1), "labels": Y}, r"shape \[100, 3072\]"),
    "channels first, images last": ({"images": X.permute(1, 2, 3, 0), "labels": Y}, "32 x 32 x 100"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_that_could_be_two_things_are_asked_about(name: str, tmp_path: Path) -> None:
    value, words = CONTENTS[name]
    torch.save(value, tmp_path / "cifar10.pt")
    with pytest.raises(MabenchError, match=words):
        readers.read(tmp_path / "cifar10.pt", dataset="cifar10" if name.startswith("nine") else None)


def test_noise_in_a_fixed_range_is_not_taken_for_whitened_images(tmp_path: Path) -> None:
    """Whitened values have long tails. A folder of DATM's three files is read with its learned rate; with long tails it is asked about."""
    noise = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 4 - 2
    for name, images in {"cifar10_flat": noise, "cifar10_tails": ROUGH[:10]}.items():
        (tmp_path / name).mkdir()
        torch.save(images, tmp_path / name / "images_best.pt")
        torch.save(torch.eye(10) * 6, tmp_path / name / "labels_best.pt")
        torch.save(torch.tensor(0.0188), tmp_path / name / "lr_best.pt")
    read = readers.read(tmp_path / "cifar10_flat")
    assert read.learning_rate == pytest.approx(0.0188)
    assert read.label_kind == "soft"
    torch.save(torch.rand(10), tmp_path / "cifar10_flat" / "lr_best.pt")
    read = readers.read(tmp_path / "cifar10_flat")
    assert read.learning_rate is None
    assert [finding.value for finding in read.findings if finding.field == "not used"] == ["lr_best.pt"]
    with pytest.raises(MabenchError, match="--space .*zca"):
        readers.read(tmp_path / "cifar10_tails")


def test_a_step_that_is_named_is_read(tmp_path: Path) -> None:
    ordered = X[torch.argsort(Y, stable=True)]
    torch.save([ordered + step * 1e-3 for step in range(3)], tmp_path / "cifar10.pt")
    read = readers.read(tmp_path / "cifar10.pt", set_index=-1)
    assert torch.allclose(read.images, ordered + 2e-3) and read.labels.tolist() == sorted(Y.tolist())
    torch.save({"images": [X, X + 1e-3], "labels": Y}, tmp_path / "cifar10_again.pt")
    assert torch.equal(readers.read(tmp_path / "cifar10_again.pt", set_index=0).labels, Y)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{", '{"splits": 3}', '{"_data_files": [1]}'])
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_damaged_tables_of_contents_are_one_message(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MabenchError):
        readers.read(tmp_path, dataset="cifar10")


def test_names_in_a_file_stay_in_their_line(tmp_path: Path) -> None:
    torch.save({"images": X, "labels": Y, "x\nmabench: all is well": Y, "\x1b[31m": Y}, tmp_path / "cifar10.pt")
    read = readers.read(tmp_path / "cifar10.pt")
    (unused,) = [f.value for f in read.findings if f.field == "not used"]
    assert "\n" not in unused and "\x1b" not in unused and "all is well" in unused
    torch.save({"one\nx": X, "two\nx": X, "labels": Y}, tmp_path / "cifar10_two.pt")
    with pytest.raises(MabenchError, match="--images-key") as refused:
        readers.read(tmp_path / "cifar10_two.pt")
    assert "\n" not in str(refused.value)


def test_labels_that_are_a_dangling_link_are_not_left_out(tmp_path: Path) -> None:
    """As a cache that was emptied leaves them."""
    np.save(tmp_path / "cifar10.npy", X.numpy())
    (tmp_path / "cifar10_labels.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(MabenchError, match="cannot read"):
        readers.read(tmp_path / "cifar10.npy")


def test_one_even_colour_is_nobodys_mistake(tmp_path: Path) -> None:
    for value in (0, 90, 255):
        torch.save((torch.full((10, 3, 32, 32), value, dtype=torch.uint8), torch.arange(10)), tmp_path / "cifar10.pt")
        assert len(readers.read(tmp_path / "cifar10.pt").images) == 10


def beside(name: str, write: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Bare images, and a file beside them."""

    def make(folder: Path) -> Path:
        np.save(folder / "cifar10.npy", X.numpy())
        write(folder / name)
        return folder / "cifar10.npy"

    return make


def tree(extra: Callable[[Path], object] | None = None, mode: str = "RGB") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pictures(folder / "cifar10_run", lambda k, n: f"{k}/{n}.png", mode)
        if extra is not None:
            extra(folder / "cifar10_run")
        return folder / "cifar10_run"

    return make


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def twelve_bits(folder: Path) -> Path:
    for n, k in enumerate(Y.tolist()):
        (folder / "cifar10_run" / str(k)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((X[n, 0].numpy() * 4095).astype(np.uint16)).save(folder / "cifar10_run" / str(k) / f"{n}.tif")
    return folder / "cifar10_run"


def one_of_ten(folder: Path) -> Path:
    for k in range(10):
        torch.save(X[Y.eq(k)], folder / f"class_{k}.pt")
    return folder / "class_3.pt"


def script(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions call it outdated
        torch.jit.script(torch.nn.Linear(3, 3)).save(str(folder / "cifar10.pt"))  # type: ignore[no-untyped-call]
    return folder / "cifar10.pt"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def arrays_below(folder: Path) -> Path:
    for k in range(10):
        (folder / "cifar10_run" / str(k)).mkdir(parents=True)
        for n in range(2):
            np.save(folder / "cifar10_run" / str(k) / f"{n}.npy", X[n].numpy())
    return folder / "cifar10_run"


def one_shard(folder: Path) -> Path:
    path = folder / "cifar10" / "train-00000-of-00002.parquet"
    path.parent.mkdir()
    pq.write_table(
        pa.table({"image": [{"bytes": saved_to(lambda f: picture(0).save(f, "PNG"))}] * 10, "label": list(range(10))}), path
    )
    return path


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "labels in a text beside": (beside("labels.txt", lambda p: p.write_text("3\n" * 100)), "labels.txt beside it"),
    "labels in JSON beside": (beside("cifar10_labels.json", lambda p: p.write_text(str(Y.tolist()))), "may be its labels"),
    "labels under another name": (beside("soft_labels.npy", lambda p: np.save(p, np.eye(10)[Y])), "cifar10_labels.npy"),
    "one class of ten": (one_of_ten, "one class"),
    "a grid among the classes": (tree(lambda p: picture(0).save(p / "grid.png")), "grid.png is not in any"),
    "GIF among PNG": (tree(lambda p: picture(0, "P").save(p / "3" / "more.gif")), "3/more.gif"),
    "JPEG by another name among PNG": (tree(lambda p: picture(0).save(p / "3" / "more.jfif", "JPEG")), "3/more.jfif"),
    "no ending among PNG": (tree(lambda p: picture(0).save(p / "3" / "more", "PNG")), "3/more"),
    "a pointer among PNG": (tree(lambda p: (p / "3" / "7.png").write_bytes(POINTER)), "git lfs pull"),
    "several arrays in sub-folders": (arrays_below, r"numpy\.savez"),
    "one part of a table": (one_shard, "one of 2 parts"),
    "one part of a table, in its folder": (lambda folder: one_shard(folder).parent, "1 of 2 shards.*Fetch the others"),
    "12 bits": (twelve_bits, "--space"),
    "inverted": (written("mnist.pt", saved_to(lambda f: torch.save((1 - X[:, :1, :28, :28] * 0.2, Y), f))), "inverted"),
    "TorchScript": (script, "is a program"),
    "MATLAB": (written("cifar10.mat", b"MATLAB 5.0 MAT-file" + bytes(200)), "numpy.savez"),
    "HDF5": (written("cifar10.h5", b"\x89HDF\r\n\x1a\n" + bytes(200)), "numpy.savez"),
    "7z": (written("cifar10.7z", b"7z\xbc\xaf\x27\x1c" + bytes(200)), "Unpack it"),
    "one picture": (written("cifar10.png", saved_to(lambda f: picture(0).save(f, "PNG"))), "one PNG image"),
    "JSON": (written("cifar10.json", b'{"images": [[0.1, 0.2]]}'), "a text file"),
    "gzip of a torch file": (written("cifar10.pt.gz", gzip.compress(saved_to(lambda f: torch.save((X, Y), f)))), "gunzip"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_say_too_little_are_refused_with_a_cure(name: str, tmp_path: Path) -> None:
    make, words = FILES[name]
    path = make(tmp_path)
    with pytest.raises(MabenchError, match=words):
        readers.read(path)


def test_whitened_looking_images_are_read_as_what_they_are_named(tmp_path: Path) -> None:
    torch.save((ROUGH, Y), tmp_path / "cifar10.pt")
    read = readers.read(tmp_path / "cifar10.pt", space="normalised")
    assert torch.allclose(normalised(read.images), ROUGH, atol=1e-5)


def test_folders_with_what_systems_leave_are_read(tmp_path: Path) -> None:
    def extra(folder: Path) -> None:
        (folder / "README.md").write_text("A set.")
        (folder / "3" / "Thumbs.db").write_bytes(b"x")
        (folder / "__MACOSX").mkdir()

    read = readers.read(tree(extra)(tmp_path))
    assert len(read.images) == 100 and [f.value for f in read.findings if f.field == "left out"] == ["1 .md"]
    assert read.class_names == CIFAR10.class_names


def test_keys_that_are_bytes_are_texts(tmp_path: Path) -> None:
    """As Python 2 wrote CIFAR-10's own batches."""
    import pickle

    out = io.BytesIO()
    pickle.dump({b"data": BYTES.numpy(), b"labels": Y.tolist()}, out, protocol=2)
    (tmp_path / "cifar10.pkl").write_bytes(out.getvalue())
    assert torch.equal(readers.read(tmp_path / "cifar10.pkl").labels, Y)


def test_a_factor_that_the_seams_confirm_is_taken(tmp_path: Path) -> None:
    torch.save({"images": PACKED, "labels": Y, "factor": 2}, tmp_path / "cifar10.pt")
    assert readers.read(tmp_path / "cifar10.pt").decode == "grid2"


@pytest.mark.parametrize("name", ["lr.txt", "learned_lr_best.pt"])
def test_a_learned_rate_that_is_not_read_is_noted(tmp_path: Path, name: str) -> None:
    torch.save(X, tmp_path / "images_best.pt")
    torch.save(Y, tmp_path / "labels_best.pt")
    torch.save(torch.tensor(0.02), tmp_path / name) if name.endswith(".pt") else (tmp_path / name).write_text("0.02")
    read = readers.read(tmp_path / "images_best.pt", dataset="cifar10", space="pixel")
    assert read.learning_rate is None
    assert any(name in f.value and "learned rate" in f.reason for f in read.findings if f.field == "not used")


def test_a_zip_with_folders_as_windows_writes_them(tmp_path: Path) -> None:
    """Some programs write backslashes."""
    with zipfile.ZipFile(tmp_path / "cifar10.zip", "w") as archive:
        for k in range(10):
            item = zipfile.ZipInfo("x")
            item.filename = f"train\\{k}\\0.png"
            archive.writestr(item, saved_to(lambda f: picture(0).save(f, "PNG")))
    assert readers.read(tmp_path / "cifar10.zip").labels.tolist() == list(range(10))


def test_categories_of_pandas_are_texts(tmp_path: Path) -> None:
    names = pd.Series(list(CIFAR10.class_names), dtype="category")
    column = pa.array([{"bytes": saved_to(lambda f: picture(0).save(f, "PNG"))}] * 10)
    pq.write_table(pa.table({"image": column, "label": pa.Array.from_pandas(names)}), tmp_path / "cifar10.parquet")
    assert readers.read(tmp_path / "cifar10.parquet").labels.tolist() == list(range(10))


def test_a_link_that_leads_back_is_named(tmp_path: Path) -> None:
    folder = tree()(tmp_path)
    (folder / "3" / "again").symlink_to(folder, target_is_directory=True)
    with pytest.raises(MabenchError, match="a link may lead back"):
        readers.read(folder)
