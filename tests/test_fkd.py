"""FKD archives: written as SRe2L's and G-VBSM's released code writes them (PIL, torchvision, torch.save), imported, and replayed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as vision

from mabench.errors import MabenchError
from mabench.sets import fkd, recorded
from mabench.sets.synthetic import SyntheticSet, load

COUNT, BATCH, EPOCHS, SIDE = 40, 16, 3, 32  # the last batch has 8
COLOURS = torch.rand(10, 3, generator=torch.Generator().manual_seed(3))
Y = torch.arange(10).repeat_interleave(4)


def made_set() -> SyntheticSet:
    noise = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4)) * 0.2 - 0.1
    pixels = ((COLOURS[Y].view(COUNT, 3, 1, 1) + noise).clamp(0, 1) * 255).round().to(torch.uint8)
    return SyntheticSet(pixels, Y, "cifar10", ipc=4)


def teacher(pixels: Tensor) -> Tensor:
    """Logits [B,10] of images [B,3,S,S] in 0..1: the nearest colour wins."""
    return -30 * (pixels.mean((2, 3))[:, None] - COLOURS).square().sum(2)


def write(
    folder: Path, made: SyntheticSet, *, names_images: bool, mix: str = "cutmix", seed: int = 42
) -> list[tuple[Tensor, Tensor]]:
    """The archive; returns what the teacher saw and said, batch by batch."""
    rng, seen = np.random.default_rng(0), []
    torch.manual_seed(0)
    sampler = torch.utils.data.RandomSampler(made.images, generator=torch.Generator().manual_seed(seed))
    for epoch in range(EPOCHS):
        (folder / f"epoch_{epoch}").mkdir(parents=True)
        rows = torch.tensor(list(sampler))
        for number, part in enumerate(torch.split(rows, BATCH)):
            crops: list[Tensor] = []
            flips, views = [], []
            for row in part:
                image = Image.fromarray(made.images[row].permute(1, 2, 0).numpy())
                top, left, height, width = RandomResizedCrop.get_params(vision.to_tensor(image), [0.08, 1.0], [3 / 4, 4 / 3])
                crops.append(torch.FloatTensor([top / SIDE, left / SIDE, height / SIDE, width / SIDE]))
                view: Any = vision.resized_crop(image, top, left, height, width, [SIDE, SIDE])
                flips.append(bool(torch.rand(1) < 0.5))
                views.append(vision.to_tensor(vision.hflip(view) if flips[-1] else view))
            images = torch.stack(views)
            partner: Tensor | None = None
            share, box = None, None
            if mix != "none":
                partner, share = torch.randperm(len(part)), float(rng.beta(1, 1))
            if mix == "cutmix" and share is not None:
                cut = int(SIDE * np.sqrt(1 - share))
                centre = [np.int64(rng.integers(SIDE)) for _ in range(2)]
                box = [
                    np.clip(c + sign * (cut // 2), 0, SIDE) for sign in (-1, 1) for c in centre
                ]  # numpy's own integers, as released
                images[:, :, box[0] : box[2], box[1] : box[3]] = images[partner, :, box[0] : box[2], box[1] : box[3]].clone()
            logits = teacher(images).half()
            config: list[Any] = [torch.stack(crops), torch.tensor(flips), partner, share, box, logits]
            torch.save(config + ([part] if names_images else []), folder / f"epoch_{epoch}" / f"batch_{number}.tar")
            seen.append((images, logits))
    return seen


def replayed(made: SyntheticSet, labels: Path) -> list[tuple[Tensor, Tensor]]:
    record = replace(made, labels_folder=labels).recorded
    out = []
    for epoch in range(record.epochs):
        for number, rows in enumerate(torch.split(record.order(epoch), record.batch)):
            views, logits = record.batch_of(epoch, number)
            out.append((recorded.apply_views(made.images[rows].float() / 255, views), logits))
    return out


@pytest.mark.parametrize(("names_images", "mix"), [(False, "cutmix"), (True, "cutmix"), (False, "none")])
def test_what_the_teacher_saw_and_said_is_replayed(names_images: bool, mix: str, tmp_path: Path) -> None:
    made = made_set()
    seen = write(tmp_path / "fkd", made, names_images=names_images, mix=mix)
    (finding,) = fkd.import_labels(tmp_path / "fkd", made, tmp_path / "labels")
    assert finding.value == "3 epochs, batches of 16" and ("named in" if names_images else "seed 42") in finding.reason
    again = replayed(made, tmp_path / "labels")
    assert len(again) == len(seen) == 9
    for (images, logits), (wanted, said) in zip(again, seen, strict=True):
        assert torch.equal(logits, said.float())
        assert (images - wanted).abs().max() < 1.01 / 255  # the archive's own images were rounded to 8 bits
        assert torch.allclose(teacher(images.contiguous()), logits, atol=0.15)  # of 30; float16 and the rounding above


def _gap(folder: Path) -> None:
    (folder / "epoch_1" / "batch_1.tar").unlink()


def _hostile(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(folder / "hacked"),)

    torch.save([Bomb()], folder / "epoch_2" / "batch_0.tar")


def _cut(folder: Path) -> None:
    file = folder / "epoch_0" / "batch_0.tar"
    file.write_bytes(file.read_bytes()[:500])


def _other_size(folder: Path) -> None:
    file = folder / "epoch_0" / "batch_0.tar"
    value = torch.load(file, weights_only=False)
    torch.save([value[0] * 0.9, *value[1:]], file)


@pytest.mark.parametrize(
    ("change", "words"),
    [(_gap, "without a gap"), (_hostile, "mkdir"), (_cut, "batch_0.tar"), (_other_size, "images of another size")],
)
def test_a_damaged_archive_leaves_nothing(change: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    made = made_set()
    write(tmp_path / "fkd", made, names_images=False)
    change(tmp_path / "fkd")
    with pytest.raises(MabenchError, match=words):
        fkd.import_labels(tmp_path / "fkd", made, tmp_path / "labels")
    assert not (tmp_path / "labels").exists() and not (tmp_path / "fkd" / "hacked").exists()


def test_labels_of_something_else_are_refused(tmp_path: Path) -> None:
    made = made_set()
    write(tmp_path / "fkd", made, names_images=False)
    write(tmp_path / "mixup", made, names_images=False, mix="mixup")
    half = SyntheticSet(made.images[::2], Y[::2], "cifar10", ipc=2)
    other_order = SyntheticSet(made.images, (Y + 3) % 10, "cifar10", ipc=4)
    for folder, chosen, seed, words in (
        ("fkd", half, 42, "the set has 20 images"),
        ("fkd", other_order, 42, "classes in another order"),
        ("fkd", made, 43, "--fkd-seed"),
        ("mixup", made, 42, "Mixup"),
        ("nowhere", made, 42, "epoch_0"),
    ):
        with pytest.raises(MabenchError, match=words):
            fkd.import_labels(tmp_path / folder, chosen, tmp_path / "labels", seed=seed)
        assert not (tmp_path / "labels").exists()


def test_pack_imports_beside_its_file(tmp_path: Path, mabench: Any) -> None:
    made = made_set()
    made.save(tmp_path / "set.safetensors")
    seen = write(tmp_path / "fkd", made, names_images=True)
    done = mabench("pack", "set.safetensors", "--fkd", "fkd", "--out", "packed/set.safetensors")
    assert done.returncode == 0, done.stderr
    assert "3 epochs, batches of 16" in " ".join(done.stdout.split())
    packed = load(tmp_path / "packed" / "set.safetensors")
    assert packed.sha256 == made.sha256
    assert torch.equal(replayed(packed, tmp_path / "packed" / "labels")[0][1], seen[0][1].float())
    again = mabench("pack", "set.safetensors", "--fkd", "fkd", "--out", "packed/other.safetensors")
    assert again.returncode == 2 and "exists already" in again.stderr
