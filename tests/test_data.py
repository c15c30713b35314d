"""Real data: content digests, the decoded cache and every way it can be damaged, downloads that are not what they claim."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mabench import data
from mabench.errors import MabenchError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache, offline. The library reads its environment when it is imported, so the constants are set too."""
    import huggingface_hub.constants

    for module in [m for name, m in sys.modules.items() if name.startswith("huggingface_hub") and hasattr(m, "HF_HUB_CACHE")]:
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def put(hub: Path, repo: str, file: str, columns: dict[str, list[object]]) -> Path:
    """A parquet file laid out as the Hub's cache lays it out."""
    root = hub / f"datasets--{repo.replace('/', '--')}"
    target = root / "snapshots" / "0123abc" / file
    target.parent.mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text("0123abc")
    pq.write_table(pa.table(columns), target)
    return target


def tiny_cifar(hub: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 20, expected: int = 20) -> tuple[np.ndarray, Path]:
    """CIFAR-10 reduced to `expected` test images, with `rows` of them downloaded and no pinned digest."""
    monkeypatch.setitem(data.DATASETS, "cifar10", dataclasses.replace(data.DATASETS["cifar10"], test_size=expected, digests={}))
    images = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    cells: list[object] = [{"bytes": png(i), "path": None} for i in images]
    columns: dict[str, list[object]] = {"img": cells, "label": [i % 10 for i in range(rows)]}
    file = put(hub, "uoft-cs/cifar10", "plain_text/test-00000-of-00001.parquet", columns)
    return images, file


def nothing_left(cache: Path) -> bool:
    return not [p for p in cache.rglob("*") if p.is_file() or p.name.startswith(".")]


def test_digest_follows_content_not_order() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 3, 4, 4), dtype=np.uint8), np.arange(6)
    order = rng.permutation(6)
    one, other = data.content_digests(images, labels), data.content_digests(images[order], labels[order])
    assert one["n"] == 6
    assert one["order_independent_sha256"] == other["order_independent_sha256"]
    assert one["pixels_sha256"] != other["pixels_sha256"]
    assert data.content_digests(images, labels[order])["order_independent_sha256"] != one["order_independent_sha256"]
    with pytest.raises(ValueError, match="uint8"):
        data.content_digests(images.astype(np.float32), labels)
    with pytest.raises(ValueError, match="-1"):
        data.content_digests(images, labels - 1)


def test_the_table_is_consistent() -> None:
    for name, d in data.DATASETS.items():
        assert name == d.name
        assert len(d.class_names) in (0, d.num_classes)
        assert len(d.mean) == len(d.std) == len(d.spread) == d.channels in (1, 3)
        if d.class_indices is not None:
            assert len(set(d.class_indices)) == d.num_classes
        assert len(set(d.wordnet_ids)) in (0, d.num_classes)
    assert data.DATASETS["cifar10"].class_name(3) == "cat"
    assert data.DATASETS["imagenet1k"].class_name(3) == "n01491361"  # tiger shark


def test_importing_stays_light() -> None:
    heavy = "torch pyarrow PIL huggingface_hub sklearn"
    code = f"import sys, mabench.data; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]"


def test_digits() -> None:
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.images.shape == (1297, 3, 32, 32) and test.images.shape == (500, 3, 32, 32)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert train.sha256 == data.DATASETS["digits"].digests["train"]
    assert abs(train.images.mean() / 255 - train.dataset.mean[0]) < 1e-4
    assert abs(train.images.std() / 255 - train.dataset.std[0]) < 1e-4
    with pytest.raises(ValueError, match="read-only"):
        test.images[0] = 0


def test_wrong_names() -> None:
    with pytest.raises(MabenchError, match="Did you mean 'cifar10'"):
        data.load("cifr10", "train")
    with pytest.raises(MabenchError, match="no split 'valid'.*train, test"):
        data.load("cifar10", "valid")  # type: ignore[arg-type]


def test_cifar10_test_split(real_data: Path) -> None:
    """Against published digests, and against rows decoded by another path (the whole table, Pillow's own channel split)."""
    real = data.load("cifar10", "test")
    published = json.loads((real_data / "cifar10-digests.json").read_text())["test"]
    assert data.content_digests(real.images, real.labels) == published
    assert real.sha256 == published["order_independent_sha256"]
    assert isinstance(real.images, np.memmap) and not real.images.flags.writeable
    table = pq.read_table(next((real_data / "hub").rglob("test-00000-of-00001.parquet")))
    for i in (0, 4321, 9999):
        row = table.slice(i, 1).to_pylist()[0]
        with Image.open(io.BytesIO(row["img"]["bytes"])) as image:
            for c, channel in enumerate(image.convert("RGB").split()):
                assert bytes(real.images[i, c]) == channel.tobytes()
        assert real.labels[i] == row["label"]


def test_second_load_reads_the_cache(cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = tiny_cifar(hub, monkeypatch)
    first = data.load("cifar10", "test")
    shutil.rmtree(hub)
    second = data.load("cifar10", "test")
    assert np.array_equal(second.images, images.transpose(0, 3, 1, 2)) and first.sha256 == second.sha256
    assert isinstance(second.images, np.memmap)
    assert sorted(p.name for p in (cache / "cifar10").iterdir()) == ["test"]
    assert json.loads((cache / "cifar10/test/meta.json").read_text())["source"]["snapshot"] == "0123abc"


@pytest.mark.parametrize("damage", ["truncate", "flip", "relabel", "no meta", "half a meta", "empty", "empty array"])
def test_damaged_cache_is_refused(damage: str, cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cifar(hub, monkeypatch)
    data.load("cifar10", "test")
    folder = cache / "cifar10" / "test"
    images, labels, meta = folder / "images.npy", folder / "labels.npy", folder / "meta.json"
    if damage == "truncate":
        os.truncate(images, images.stat().st_size // 2)
    elif damage in ("flip", "relabel"):
        file = images if damage == "flip" else labels
        content = bytearray(file.read_bytes())
        content[-8] ^= 1
        file.write_bytes(content)
    elif damage == "no meta":
        meta.unlink()
    elif damage == "half a meta":
        meta.write_text(meta.read_text()[:50])
    elif damage == "empty array":
        os.truncate(images, 0)
    else:
        for file in folder.iterdir():
            file.unlink()
    with pytest.raises(MabenchError) as error:
        data.load("cifar10", "test")
    assert "is damaged" in str(error.value) and f"rm -r {folder}" in str(error.value)
    shutil.rmtree(folder)  # the command the message names
    assert data.load("cifar10", "test").images.shape == (20, 3, 32, 32)


def test_a_file_in_place_of_the_cache_folder(cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cifar(hub, monkeypatch)
    cache.write_text("")
    with pytest.raises(MabenchError, match="MABENCH_CACHE"):
        data.load("cifar10", "test")


def test_full_disk(cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cifar(hub, monkeypatch)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(MabenchError, match="no space left.*MABENCH_CACHE"):
        data.load("cifar10", "test")
    assert nothing_left(cache)


def test_half_a_download_is_refused(cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cifar(hub, monkeypatch, rows=10)
    with pytest.raises(MabenchError, match="half-downloaded.*10 rows.*expected 20.*hf cache rm dataset/uoft-cs/cifar10"):
        data.load("cifar10", "test")
    assert nothing_left(cache)


def test_other_content_is_refused(cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cifar(hub, monkeypatch)
    wrong = dataclasses.replace(data.DATASETS["cifar10"], digests={"test": "0" * 64})
    monkeypatch.setitem(data.DATASETS, "cifar10", wrong)
    with pytest.raises(MabenchError, match="is not CIFAR-10's test split: found digest [0-9a-f]{64}"):
        data.load("cifar10", "test")
    assert nothing_left(cache)


@pytest.mark.parametrize("damage", ["parquet", "image", "size", "column", "label"])
def test_unreadable_download_is_refused(damage: str, cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = tiny_cifar(hub, monkeypatch)
    cells: list[object] = [{"bytes": png(np.zeros((32, 32, 3), np.uint8)), "path": None}] * 20
    if damage == "parquet":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "column":
        pq.write_table(pa.table({"image": cells, "label": [0] * 20}), file)
    elif damage == "label":
        pq.write_table(pa.table({"img": cells, "label": [10] * 20}), file)
    else:
        cells[7] = {"bytes": b"no image" if damage == "image" else png(np.zeros((8, 8, 3), np.uint8)), "path": None}
        pq.write_table(pa.table({"img": cells, "label": [0] * 20}), file)
    with pytest.raises(MabenchError, match="has labels 10..10" if damage == "label" else "cannot read CIFAR-10.*hf cache rm"):
        data.load("cifar10", "test")
    assert nothing_left(cache)


def test_no_network(cache: Path, hub: Path) -> None:
    with pytest.raises(MabenchError, match="cannot download CIFAR-100.*HF_HUB_OFFLINE") as refused:
        data.load("cifar100", "test")
    shown = "".join(traceback.format_exception(refused.value))
    assert shown.count("Traceback (most recent call last)") == 1, "the client's own is left out"
    assert nothing_left(cache)


def test_gated_repository(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: object, **__: object) -> str:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(MabenchError, match="gated.*hf auth login"):
        data.load("imagenette", "test")


def test_subset_keeps_its_classes_and_renumbers_them(cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards; wide, tall and grey photographs; the classes outside the subset are left out."""
    old = [701, 5, 0, 217, 999, 0]
    entry = data.DATASETS["imagenette"]
    small = dataclasses.replace(entry, test_size=4, source_rows={"test": 6})
    monkeypatch.setitem(data.DATASETS, "imagenette", small)
    wide = np.zeros((150, 400, 3), np.uint8)
    wide[:, 150:250] = 200  # the middle 100 columns: 85 of the crop's 128
    tall = np.full((300, 140, 3), 9, np.uint8)
    grey = np.full((64, 90), 77, np.uint8)
    cells: list[object] = [{"bytes": png(i), "path": None} for i in (wide, tall, tall, grey, wide, wide)]
    for k in range(2):
        part = slice(3 * k, 3 * k + 3)
        columns: dict[str, list[object]] = {"image": cells[part], "label": list(old[part])}
        put(hub, "ILSVRC/imagenet-1k", f"data/validation-0000{k}-of-00002.parquet", columns)
    real = data.load("imagenette", "test")
    assert real.labels.tolist() == [9, 0, 1, 0]
    assert real.images.shape == (4, 3, 128, 128)
    assert (real.images[1] == 9).all() and (real.images[2] == 77).all()
    assert (real.images[0, 0, 64, [0, 127]] == 0).all() and real.images[0, 0, 64, 64] == 200
