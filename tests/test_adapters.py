"""Files as other projects write them, the published ones among them, and files that nobody should have to trust."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mabench.board import probes
from mabench.data import DATASETS
from mabench.errors import MabenchError
from mabench.sets import readers as adapters
from mabench.sets import recognition, synthetic
from mabench.sets.synthetic import SyntheticSet

X = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10).repeat_interleave(2)
CIFAR = DATASETS["cifar10"]
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR.mean, CIFAR.std))
NORMALISED = (X - MEAN) / STD


def written(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def found(chosen: SyntheticSet) -> dict[str, str]:
    return {f.field: f.value for f in chosen.findings}


@pytest.mark.parametrize(
    ("name", "index", "md5", "n"),
    [
        ("res_DC_CIFAR10_ConvNet_1ipc_3000.pt", None, "f19ddf3a", 10),
        ("res_DC_CIFAR10_ConvNet_1ipc_3000.pt", 0, "5d9b775d", 10),
        ("modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt", None, "c4f1cc60", 100),
        ("modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt", 1, "c1df9f13", 100),
    ],
)
def test_published_files(real_data: Path, name: str, index: int | None, md5: str, n: int) -> None:
    """The tensors' published md5 sums, reached through our reader: pixel space is exactly their normalisation undone."""
    chosen = adapters.read(real_data / "sets" / name, set_index=index)
    assert chosen.images.shape == (n, 3, 32, 32) and chosen.dataset == "cifar10" and chosen.balanced
    raw = torch.load(real_data / "sets" / name, "cpu", weights_only=False)["data"][-1 if index is None else index][0]
    assert hashlib.md5(raw.numpy().tobytes()).hexdigest()[:8] == md5
    assert torch.equal(chosen.images, raw * STD + MEAN)
    assert found(chosen)["space"] == "normalised"


def test_dc_files_hold_several_sets_the_last_by_default(tmp_path: Path) -> None:
    scores = {"ConvNet": [np.float64(0.5)], "array": np.arange(3.0)}
    path = written(tmp_path / "res_DC_CIFAR10.pt", {"data": [[NORMALISED.flip(0), Y], [NORMALISED, Y]], "accs_all_exps": scores})
    torch.testing.assert_close(adapters.read(path).images, X)
    assert found(adapters.read(path))["set"] == "1 of 0..1"
    torch.testing.assert_close(adapters.read(path, set_index=0).images, X.flip(0))
    with pytest.raises(MabenchError, match="holds 2 sets, there is no set 2"):
        adapters.read(path, set_index=2)


def test_hmdc_files_are_packed_when_init_says_so(tmp_path: Path) -> None:
    value = {
        "synthetic_images": NORMALISED.view(10, 2, 3, 32, 32),
        "init": "aug_kmeans",
        "factor": 2,
        "n_ipc": 2,
        "iteration": 100,
    }
    chosen = adapters.read(written(tmp_path / "cifar10.pth", value))
    torch.testing.assert_close(chosen.images, X)
    assert chosen.decode == "grid2" and len(chosen.decoded()[0]) == 80 and torch.equal(chosen.labels, Y)
    plain = adapters.read(written(tmp_path / "cifar10.pth", value | {"init": "real"}))
    assert plain.decode == "none"
    assert adapters.read(tmp_path / "cifar10.pth", decode="grid2").decode == "grid2"


def test_mtt_pairs(tmp_path: Path) -> None:
    written(tmp_path / "images_best.pt", NORMALISED)
    written(tmp_path / "labels_best.pt", Y)
    for path in (tmp_path, tmp_path / "images_best.pt"):
        chosen = adapters.read(path, dataset="cifar10")
        torch.testing.assert_close(chosen.images, X)
        assert torch.equal(chosen.labels, Y)
    named = adapters.read(tmp_path, dataset="cifar10", learned_rate=0.0213)
    assert named.learning_rate == 0.0213 and ("learned rate", "--learned-rate") in {(f.field, f.flag) for f in named.findings}
    named.save(tmp_path / "packed.safetensors")
    assert adapters.read(tmp_path / "packed.safetensors").sha256 == named.sha256 != chosen.sha256
    assert adapters.read(tmp_path / "packed.safetensors", space="pixel").learning_rate == 0.0213, "kept under other flags"
    written(tmp_path / "labels_best.pt", torch.randn(20, 10) + 10 * torch.nn.functional.one_hot(Y))
    soft = adapters.read(tmp_path, dataset="cifar10")
    assert soft.label_kind == "soft" and "logits" in next(f.reason for f in soft.findings if f.field == "labels")


@pytest.mark.parametrize(
    "value",
    [
        (X, Y),
        [X, Y.float()],
        {"images": X, "labels": Y},
        {"image_syn": X, "label_syn": Y.int()},
        (X, torch.nn.functional.one_hot(Y, 10).float()),
        (X.permute(0, 2, 3, 1), Y),
        X,
        X.view(10, 2, 3, 32, 32),
        {"images": X},
        (X * 255, Y),
        (NORMALISED, Y),
    ],
    ids=["tuple", "list", "dict", "dd", "one-hot", "nhwc", "bare", "class-major", "dict-bare", "0..255", "normalised"],
)
def test_every_arrangement_gives_the_same_set(tmp_path: Path, value: Any) -> None:
    chosen = adapters.read(written(tmp_path / "s.pt", value), dataset="cifar10")
    torch.testing.assert_close(chosen.images, X, rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen.labels, Y) and chosen.ipc == 2


def test_flags_override_what_was_detected(tmp_path: Path) -> None:
    path = written(tmp_path / "cifar10.pt", (X, Y))
    torch.testing.assert_close(adapters.read(path, space="normalised").images, X * STD + MEAN)
    torch.testing.assert_close(adapters.read(path, space="uint8-range").images, X / 255)
    square = torch.rand(32, 32, 32, 3)
    chosen = adapters.read(written(tmp_path / "cifar10.pt", (square, torch.arange(32) % 10)), layout="nhwc")
    torch.testing.assert_close(chosen.images, square.permute(0, 3, 1, 2))
    with pytest.raises(MabenchError, match="Correct --ipc"):
        adapters.read(path, ipc=5)


def test_numpy_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=X.numpy(), labels=Y.numpy())
    np.savez(tmp_path / "b.npz", x=(X.permute(0, 2, 3, 1) * 255).byte().numpy(), y=Y.numpy())
    np.save(tmp_path / "c.npy", X.numpy())
    for name in ("a.npz", "c.npy"):
        assert torch.equal(adapters.read(tmp_path / name, dataset="cifar10").images, X)
    assert adapters.read(tmp_path / "b.npz", dataset="cifar10").images.dtype == torch.uint8
    np.save(tmp_path / "d.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(MabenchError, match="numpy"):
        adapters.read(tmp_path / "d.npy", dataset="cifar10")


@pytest.mark.parametrize("naming", ["number", "padded", "name"])
def test_folders_of_images(tmp_path: Path, naming: str) -> None:
    pixels = (X * 255).round().byte()
    for n, label in enumerate(Y.tolist()):
        name = {"number": str(label), "padded": f"new{label:05d}", "name": CIFAR.class_names[label].upper()}[naming]
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(pixels[n].permute(1, 2, 0).numpy()).save(tmp_path / name / f"{n:03d}.png")
    chosen = adapters.read(tmp_path, dataset="cifar10")
    assert torch.equal(chosen.images, pixels) and torch.equal(chosen.labels, Y)


def test_folders_that_would_have_to_be_guessed(tmp_path: Path) -> None:
    for k in range(10):
        (tmp_path / f"k{chr(97 + k)}").mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / f"k{chr(97 + k)}" / "0.png")
    with pytest.raises(MabenchError, match="which class is which"):
        adapters.read(tmp_path, dataset="cifar10")
    (tmp_path / "ka" / "0.png").unlink()
    with pytest.raises(MabenchError, match="from 9 names"):
        adapters.read(tmp_path, dataset="cifar10")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dc_CIFAR100_x", "cifar100"),
        ("cifar10-ipc1", "cifar10"),
        ("cifar10_0", "cifar10"),
        ("cifar10_10ipc", "cifar10"),
        ("bare_cifar10_1ipc", "cifar10"),
        ("cifar_10", "cifar10"),
        ("tiny_best", "tinyimagenet"),
        ("my_fmnist", "fashionmnist"),
    ],
)
def test_the_dataset_is_read_off_the_name(name: str, expected: str) -> None:
    assert recognition.named(name) == [expected]


def test_without_a_name_the_shape_decides_or_the_user_must(tmp_path: Path) -> None:
    hundred = torch.rand(100, 3, 32, 32)
    assert adapters.read(written(tmp_path / "s.pt", (hundred, torch.arange(100)))).dataset == "cifar100"
    with pytest.raises(MabenchError, match="--dataset cifar10 . svhn"):
        adapters.read(written(tmp_path / "s.pt", (X, Y)))
    with pytest.raises(MabenchError, match="--dataset"):
        adapters.read(written(tmp_path / "s.pt", X))


def test_code_in_a_pickle_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(mark),)

    for name, value in [("zip.pt", {"data": [[X, Y]], "e": Evil()}), ("list.pt", [Evil(), Y])]:
        with pytest.raises(MabenchError, match="NOT executed"):
            adapters.read(written(tmp_path / name, value), dataset="cifar10")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(MabenchError):
        adapters.read(tmp_path / "bare.pt", dataset="cifar10")
    assert not mark.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("bomb/data/0", "w", force_zip64=True) as entry,
    ):
        for _ in range(5 * 16):
            entry.write(bytes(64 * 2**20))
    with pytest.raises(MabenchError, match="unpacks to"):
        adapters.read(path, dataset="cifar10")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"hello world" * 9, "not a"),
        (b"PK\x03\x04 broken", "zip file without an index"),
    ],
)
def test_what_is_no_set_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "s.pt"
    path.write_bytes(content)
    with pytest.raises(MabenchError, match=message):
        adapters.read(path, dataset="cifar10")


def test_damage_gives_an_error_or_a_set_never_a_crash(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"data": [[X, Y]], "accs_all_exps": {"MLP": [np.float64(0.1)]}}, buffer)
    good = buffer.getvalue()
    generator = np.random.Generator(np.random.PCG64(0))
    path = tmp_path / "cifar10.pt"
    for trial in range(40):
        broken = bytearray(good)
        if trial % 2:
            broken = broken[: int(generator.integers(1, len(good)))]
        else:
            edge = min(len(good), 3000) if trial % 4 else len(good)
            for _ in range(3):
                broken[int(generator.integers(edge))] ^= int(generator.integers(1, 256))
        path.write_bytes(bytes(broken))
        try:
            adapters.read(path)
        except MabenchError as error:
            assert "cifar10" in str(error)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((X, Y[:19]), "labels has 19 rows, images has 20"),
        ((X, Y + 1), "label 10 is out of range"),
        ((X[:0], Y[:0]), "empty"),
        ((X.index_fill(0, torch.tensor([3]), float("nan")), Y), "1 of 20 images hold NaN or infinity, the first is image 3"),
        ((X[..., :28], Y), "3 x 32 x 28"),
        (X[:19], "19 images without labels"),
        ({"a": 1}, "dictionary with keys a"),
        ("text", "holds a str"),
        ([X, Y, Y], "1, 2 have one entry per image each"),
        ({"data": []}, "holds no set"),
        ((X, Y + 0.5), "not whole numbers"),
    ],
)
def test_contents_that_cannot_be_a_set(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(MabenchError, match=message):
        adapters.read(written(tmp_path / "s.pt", value), dataset="cifar10")


def test_a_canonical_file_of_one_hot_probabilities_has_hard_labels(tmp_path: Path) -> None:
    """They would be ranked among soft labels, whose baseline is another; a set that is soft stays so."""
    hard = torch.arange(10)
    rows = 0.9995 * torch.nn.functional.one_hot(hard, 10).float() + 0.00005
    images = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, labels in (("disguised", rows), ("soft", 0.9 * rows + 0.01)):
        SyntheticSet(images, labels / labels.sum(1, keepdim=True), "cifar10", 1).save(tmp_path / f"{name}.safetensors")
    found = adapters.read(tmp_path / "disguised.safetensors")
    assert found.sha256 == SyntheticSet(images, hard, "cifar10", 1).sha256
    assert [f.value for f in found.findings if f.field == "labels"] == ["hard"]
    assert adapters.read(tmp_path / "soft.safetensors").label_kind == "soft"
    refused = probes.pixels(synthetic.load(tmp_path / "disguised.safetensors"), "it").refusals
    assert len(refused) == 1 and "soft labels that are one-hot are hard labels" in refused[0]


PLACES = {
    "one of its entries": {"syn_data": [X, Y]},
    "a TensorDataset": torch.utils.data.TensorDataset(X, Y),
    "labels first": (Y, X),
    "arguments behind": (X, Y, {"ipc": 2}),
    "a number behind that is no rate": (X, Y, 2),
    "labels in a dictionary": (X, {"labels": Y}),
    "an axis without content": {"images": X, "labels": torch.nn.functional.one_hot(Y, 10)[:, None]},
}


@pytest.mark.parametrize("name", PLACES)
def test_entries_without_names_are_told_by_what_they_are(tmp_path: Path, name: str) -> None:
    chosen = adapters.read(written(tmp_path / "s.pt", PLACES[name]), dataset="cifar10")
    assert torch.equal(chosen.images, X) and torch.equal(chosen.labels, Y) and chosen.learning_rate is None


def test_sets_in_one_file_are_named_by_their_places(tmp_path: Path) -> None:
    path = written(tmp_path / "cifar10.pt", {"first": (X, Y), "second": (X.flip(0), Y.flip(0))})
    with pytest.raises(MabenchError, match=r"first\.0, second\.0.*--images-key"):
        adapters.read(path)
    assert torch.equal(adapters.read(path, images_key="second.0", labels_key="second.1").images, X.flip(0))


def test_names_of_classes_say_which_dataset_it_is(tmp_path: Path) -> None:
    fruit = DATASETS["imagefruit"]
    for names in (fruit.wordnet_ids, [name.replace("_", " ") for name in fruit.class_names]):
        chosen = adapters.read(written(tmp_path / "s.pt", (torch.rand(10, *fruit.shape), list(names))))
        assert (chosen.dataset, chosen.labels.tolist()) == ("imagefruit", list(range(10)))


def test_a_pair_of_safetensors_files(tmp_path: Path) -> None:
    """They have no arrays without a name."""
    from safetensors.torch import save_file

    for name, tensor in (("images", X), ("labels", Y.flip(0)), ("lr", torch.tensor([0.02]))):
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    chosen = adapters.read(tmp_path, dataset="cifar10")
    assert torch.equal(chosen.labels, Y.flip(0)) and chosen.learning_rate == pytest.approx(0.02)


def test_texts_in_numpy_files(tmp_path: Path) -> None:
    names = np.array(CIFAR.class_names)[Y.numpy()]
    np.savez(tmp_path / "cifar10.npz", images=X.numpy(), labels=names, method="DC")
    assert torch.equal(adapters.read(tmp_path / "cifar10.npz").labels, Y)


@pytest.mark.parametrize("name", ["cifar10.npz", "cifar10.zip"])
def test_a_torch_file_is_one_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    assert torch.equal(adapters.read(written(tmp_path / name, (X, Y))).labels, Y)


def test_the_best_of_ten_is_no_part_of_ten(tmp_path: Path) -> None:
    assert torch.equal(adapters.read(written(tmp_path / "cifar10_best-of-10.pt", (X, Y))).labels, Y)


def test_an_npz_file_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=X.numpy(), labels=Y.numpy())
    assert torch.equal(adapters.read((tmp_path / "s.npz").rename(tmp_path / "cifar10.bin")).labels, Y)


@pytest.mark.parametrize("bare", [False, True])
def test_what_keeps_the_arrays_of_a_trusted_file_works(tmp_path: Path, bare: bool) -> None:
    """The command in the message, run as it stands; torch.load does not read a bare pickle."""
    import shlex
    import subprocess
    import sys

    path, value = tmp_path / "cifar10 set.pt", {"images": X, "labels": Y.tolist(), "when": Path("x")}
    path.write_bytes(pickle.dumps(value)) if bare else torch.save(value, path)
    with pytest.raises(MabenchError, match="NOT executed") as refused:
        adapters.read(path)
    _, *arguments = shlex.split(str(refused.value).partition("alone: ")[2])
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, timeout=300)
    assert torch.equal(adapters.read(tmp_path / "set.pt", dataset="cifar10").labels, Y)
