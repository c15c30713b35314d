"""Every row of docs/file-forms.md on a file of its form: every label and every pixel right, or a refusal that names the flag."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forms import BYTES, PACKED, WRITERS, X, Y, classes_seen, normalised

from mabench.errors import MabenchError
from mabench.sets import readers

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "file-forms.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]+\| `mabench check ([^`]+)` \|$", PAGE, re.M))


def test_every_row_has_a_writer() -> None:
    assert set(ROWS) == set(WRITERS) and len(ROWS) >= 25


@pytest.mark.parametrize("name", WRITERS)
def test_every_image_keeps_its_class(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file, *flags = shlex.split(ROWS[name])
    WRITERS[name](Path(file))
    reading: dict[str, Any] = {k[2:].replace("-", "_"): v for k, v in zip(flags[::2], flags[1::2], strict=True)}
    read = readers.read(file, **reading)
    assert (len(read.images), read.ipc, read.dataset) == (100, 10, reading.get("dataset", "cifar10"))
    images = read.images.float() / (255 if read.images.dtype == torch.uint8 else 1)
    labels = read.labels if read.labels.dim() == 1 else read.labels.argmax(1)
    assert torch.equal(labels, classes_seen(images))
    assert labels.bincount().tolist() == [10] * 10
    lossless = not any(word in PAGE.split(f"| {name} |")[1].split("|")[0] + name for word in ("JPEG", ".jpg", "zip", "16-bit"))
    if lossless and reading.get("decode") is None:  # the same images, in whatever order
        assert sorted(map(key, images)) == sorted(map(key, X))
    assert read.learning_rate == (pytest.approx(0.02) if name in ("MTT folder", "triple with a rate") else None)
    assert read.decode == reading.get("decode", "none")


def key(image: torch.Tensor) -> bytes:
    return (image * 255).round().to(torch.uint8).numpy().tobytes()


REFUSED: dict[str, tuple[Any, str]] = {
    "two arrays that may be labels": ({"images": X, "a": Y, "b": Y}, "--labels-key"),
    "two arrays that may be images": ({"first": X, "second": X, "labels": Y}, "--images-key"),
    "tiles in a bare pair": ([PACKED, Y], "--decode"),
    "logits that may be centred": ({"images": X, "labels": torch.eye(10)[Y] * 0.9 - 0.3}, "--label-kind"),
    "values around 0": ({"images": X * 255 - 128, "labels": Y}, "--space"),
    "two plausible spaces": ({"images": normalised(X), "labels": Y}, "--space"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unclear_is_refused_and_names_the_flag(name: str, tmp_path: Path) -> None:
    value, flag = REFUSED[name]
    torch.save(value, tmp_path / "cifar10.pt")
    with pytest.raises(MabenchError, match=flag):
        readers.read(tmp_path / "cifar10.pt")


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)
SPACES: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
    "bytes": (BYTES, {"space": "pixel"}),
    "pixel": (X, {"space": "pixel"}),
    "half precision": (X.half(), {"space": "pixel"}),
    "float 0 to 255": (X * 255, {"space": "uint8-range"}),
    "signed": (X * 2 - 1, {"space": "signed"}),
    "normalised": (normalised(X), {"space": "normalised"}),
    "ImageNet": (normalised(X, *IMAGENET), {"space": "imagenet"}),
    "own mean and std": (normalised(X, *OWN), {"mean": OWN[0], "std": OWN[1]}),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_space_comes_back_where_it_is_named_and_is_never_another(name: str, tmp_path: Path) -> None:
    stored, reading = SPACES[name]
    torch.save({"images": stored, "labels": Y}, tmp_path / "cifar10.pt")
    for flags in (reading, {}):
        try:
            read = readers.read(tmp_path / "cifar10.pt", **flags)
        except MabenchError as error:
            assert not flags and "--space" in str(error)
            continue
        images = read.images.float() / (255 if read.images.dtype == torch.uint8 else 1)
        assert float((images - X).abs().max()) < 1 / 255
