"""The set format: identity, decoding, packing, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mabench.errors import MabenchError
from mabench.sets import synthetic
from mabench.sets.synthetic import SyntheticSet


def make(
    n: int = 10, dtype: torch.dtype = torch.float32, soft: bool = False, decode: str = "none", seed: int = 0
) -> SyntheticSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 32, 32, generator=generator)
    images = (images.abs() * 100).to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)
    labels = torch.softmax(torch.randn(n, 10, generator=generator), 1) if soft else torch.arange(n) % 10
    return SyntheticSet(images, labels, "cifar10", ipc=-(-n // 10), decode=decode, name="a set")


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.sampled_from([torch.uint8, torch.float16, torch.float32]), st.booleans(), st.integers(0, 99))
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, n: int, dtype: torch.dtype, soft: bool, seed: int) -> None:
    path = tmp_path_factory.mktemp("sets") / "s.safetensors"
    original = make(n, dtype, soft, seed=seed)
    original.save(path)
    content = path.read_bytes()
    loaded = synthetic.load(path)
    assert torch.equal(loaded.images, original.images) and torch.equal(loaded.labels, original.labels)
    assert loaded.summary() == original.summary() and loaded.sha256 == original.sha256
    original.save(path)
    assert path.read_bytes() == content, "same set, same bytes"


def test_identity_is_the_content() -> None:
    one = make()
    assert replace(one, name="other").sha256 == one.sha256
    images = one.images.clone()
    images[0, 0, 0, 0] += 1e-6
    assert replace(one, images=images).sha256 != one.sha256
    assert replace(one, decode="grid2").sha256 != one.sha256
    assert replace(one, labels=one.labels.flip(0)).sha256 != one.sha256


def test_a_learned_rate_is_part_of_the_identity(tmp_path: Path) -> None:
    plain = make()
    one = replace(plain, learning_rate=0.1 + 0.2)
    one.save(tmp_path / "one.safetensors")
    read = synthetic.load(tmp_path / "one.safetensors")
    assert (read.learning_rate, read.sha256) == (0.1 + 0.2, one.sha256) and read.summary().learning_rate == 0.1 + 0.2
    assert len({plain.sha256, one.sha256, replace(plain, learning_rate=0.1).sha256}) == 3
    for wrong in (0.0, -0.01, float("nan"), float("inf")):
        with pytest.raises(MabenchError, match="learned rate is .*--learned-rate"):
            replace(plain, learning_rate=wrong)


@pytest.mark.parametrize("factor", [2, 4])
def test_grids_decode_tile_by_tile(factor: int) -> None:
    """All top-left tiles, then down the first column, then the next column; each alone, upsampled alone."""
    packed = make(10, decode=f"grid{factor}")
    images, labels = packed.decoded()
    side = 32 // factor
    position = 0
    for column in range(factor):
        for row in range(factor):
            for n in range(10):
                tile = packed.images[n : n + 1, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
                expected = F.interpolate(tile, size=(32, 32), mode="bilinear", align_corners=True)[0]
                torch.testing.assert_close(images[position], expected)
                assert labels[position] == packed.labels[n]
                position += 1
    assert len(images) == position == packed.summary().decoded_images


def test_packing_then_decoding_gives_the_images_in_order() -> None:
    """On images that shrink without loss (a constant each) the way there and back is the identity."""
    images = torch.arange(40.0).view(40, 1, 1, 1).expand(40, 3, 32, 32)
    packed = SyntheticSet(synthetic.pack_grid(images, 2), torch.arange(10), "cifar10", 1, decode="grid2")
    torch.testing.assert_close(packed.decoded()[0], images)


def test_uint8_decodes_to_fractions() -> None:
    one = make(10, torch.uint8)
    assert torch.equal(one.decoded()[0], one.images.float() / 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(images=torch.rand(10, 3, 28, 28)), "3 x 28 x 28, cifar10 needs 3 x 32 x 32"),
        (dict(images=torch.rand(10, 3, 32, 32).double()), "float64"),
        (dict(images=torch.rand(3, 32, 32)), r"\[N,C,H,W\]"),
        (dict(labels=torch.arange(9)), "labels has 9 rows, images has 10"),
        (dict(labels=torch.arange(1, 11)), "label 10 is out of range"),
        (dict(labels=torch.arange(-1, 9)), "label -1 is out of range"),
        (dict(labels=torch.rand(10, 10)), "not probability distributions"),
        (dict(labels=torch.rand(10, 9)), "soft labels"),
        (dict(dataset="cifar"), "Did you mean 'cifar10"),
        (dict(decode="grid9"), "unknown decode"),
        (dict(decode="grid3"), "cannot hold"),
        (dict(ipc=2), "Correct --ipc"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(MabenchError, match=message):
        replace(make(), **change)  # type: ignore[arg-type]


def test_altered_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    make().save(path)
    content = path.read_bytes()
    for broken in (content[:-1], content[:100], content[:4], content[:-5] + b"\1" + content[-4:], b"x" * 500):
        path.write_bytes(broken)
        with pytest.raises(MabenchError, match=r"s\.safetensors"):
            synthetic.load(path)


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MabenchError, match="cannot write"):
        make().save(tmp_path / "file" / "s.safetensors")
    make().save(tmp_path / "made" / "on the way" / "s.safetensors")
    assert [p.name for p in tmp_path.rglob("*.*")] == ["s.safetensors"]


def test_preview_shows_a_row_a_class(tmp_path: Path) -> None:
    from PIL import Image

    synthetic.preview(make(20), tmp_path / "p.png", per_class=5)
    with Image.open(tmp_path / "p.png") as image:
        assert image.height == 10 * (64 + 2) and image.width == 110 + 2 * (64 + 2)


def test_a_name_from_a_header_reaches_no_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from mabench.cli.main import main

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    images, labels = torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10)
    SyntheticSet(images, labels, "digits", 1, name="../elsewhere").save(here / "set.safetensors")
    result = CliRunner().invoke(main, ["check", "set.safetensors"])
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
    assert sorted(p.name for p in here.iterdir()) == ["..-elsewhere.preview.png", "set.safetensors"]
