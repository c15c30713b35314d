"""RDED: the choice of crops against a slow reference, the mosaic against PIL, every stage interrupted and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mabench import data
from mabench.data import RealData
from mabench.errors import Interrupted, MabenchError
from mabench.sets import readers
from mabench_methods.gvbsm import views
from mabench_methods.gvbsm.teachers import Squeeze, Teacher
from mabench_methods.kit import Run
from mabench_methods.rded.condense import SQUARE, Config, crop, mosaic, ranked
from mabench_methods.rded.presets import METHOD, SMOKE

CPU = torch.device("cpu")


def digits(each: int = 24) -> RealData:
    """The first images of every class."""
    train = data.load("digits", "train")
    rows = np.concatenate([np.flatnonzero(train.labels == label)[:each] for label in range(10)])
    return replace(train, images=train.images[rows], labels=train.labels[rows], sha256=f"{each} digits a class")


class Brightness(nn.Module):
    """Knows class 3 by how bright the middle of an image is, [N,C,S,S] -> [N,10]."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 10)
        logits[:, 3] = images[:, :, 8:24, 8:24].mean((1, 2, 3))
        return logits


TEACHER = Teacher("brightness", Brightness(), "0" * 64, {})


@pytest.mark.parametrize("factor", [1, 2])
def test_crops_are_ranked_by_the_teachers_cross_entropy(factor: int) -> None:
    """Against a loop over images and crops with PIL's resizing; the crops themselves are drawn in the same order."""
    train, config = digits(8), Config(1, "convnet8_bn", pool=6, crops=3, factor=factor)
    found = ranked(train, 3, config, TEACHER, views.generator(0, "crops", 3), CPU)

    draws, side = views.generator(0, "crops", 3), 32 // factor
    rows = np.flatnonzero(train.labels == 3)[torch.randperm(8, generator=draws).numpy()][:6]
    boxes = [views.draw_boxes(6, 32, draws, ratio=SQUARE).tolist() for _ in range(3)]
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (train.dataset.mean, train.dataset.std))
    best = []
    for image, row in enumerate(rows):
        tried = []
        for each in boxes:
            top, left, height, width = each[image]
            assert height == width
            whole = Image.fromarray(train.images[row].transpose(1, 2, 0))
            cut = whole.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BILINEAR)
            padded, gap = np.zeros((3, 32, 32)), (32 - side) // 2
            pixels = np.array(cut).transpose(2, 0, 1)
            padded[:, gap : gap + side, gap : gap + side] = (pixels / 255 - mean) / std
            logit = padded[:, 8:24, 8:24].mean()
            tried.append((np.log(np.exp(logit) + 9) - logit, pixels))
        best.append(min(tried, key=lambda one: one[0]))
    best.sort(key=lambda one: one[0])
    assert len(found.pixels) == 6 and found.loss.tolist() == sorted(found.loss.tolist())
    torch.testing.assert_close(found.loss.double(), torch.tensor([loss for loss, _ in best]), atol=5e-3, rtol=0)
    apart = (found.pixels.int() - torch.tensor(np.stack([pixels for _, pixels in best])).int()).abs()
    assert int(apart.max()) <= 2, "PIL rounds between its two passes"


def test_crops_are_square_and_of_every_size() -> None:
    boxes = views.draw_boxes(4000, 32, torch.Generator().manual_seed(0), ratio=SQUARE)
    assert bool((boxes[:, 2] == boxes[:, 3]).all()) and (int(boxes[:, 2].min()), int(boxes[:, 2].max())) == (
        9,
        32,
    )  # sqrt(0.08) x 32 = 9.05
    assert bool((boxes[:, :2] + boxes[:, 2:] <= 32).all())
    area = (boxes[:, 2].double() / 32).square().mean()
    assert abs(float(area) - 0.54) < 0.02  # the mean of a uniform share between 0.08 and 1
    whole = torch.arange(3 * 32 * 32, dtype=torch.float64).remainder(256).view(1, 3, 32, 32).to(torch.uint8)
    assert torch.equal(crop(whole, torch.tensor([[0, 0, 32, 32]]), 32), whole)


def test_a_mosaic_spreads_the_ranking_over_the_images() -> None:
    """As the released code: the first N crops are the first tiles of the N images, the next N the second tiles."""
    crops = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 2, 2).contiguous()
    images = mosaic(crops, 2)
    assert images.shape == (2, 3, 4, 4)
    for number in range(2):
        tiles = [int(images[number, 0, y, x]) for y in (0, 2) for x in (0, 2)]
        assert tiles == [number, 2 + number, 4 + number, 6 + number]
        assert int(images[number, 2, 1, 3]) == 2 + number
    assert torch.equal(mosaic(crops, 1), crops)


def test_every_stage_is_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    train, config = digits(), replace(SMOKE, squeeze=Squeeze(2, batch=16, held_out=2), record_epochs=3)

    def files(folder: Path) -> dict[str, bytes]:
        names = ["set.safetensors", "losses.csv", "teachers.json"]
        return {
            str(p.relative_to(folder)): p.read_bytes() for p in [*(folder / n for n in names), *(folder / "labels").iterdir()]
        }

    whole = METHOD.condense(train, config, 0, CPU, Run(tmp_path / "whole"))
    assert whole.class_counts == (2,) * 10 and whole.label_kind == "soft" and whole.images.dtype == torch.uint8
    assert readers.read(tmp_path / "whole" / "set.safetensors").recorded.epochs == 3

    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "other"))
    steps: list[float] = []
    for _ in range(40):
        try:
            METHOD.condense(train, config, 0, CPU, Run(tmp_path / "cut", lambda d, t, v: steps.append(d), lambda: True))
            break
        except Interrupted:
            pass
    assert steps == sorted(set(steps)) and len(steps) >= 13  # 10 classes, some steps of the teacher, the labels
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert METHOD.condense(train, config, 1, CPU).sha256 != whole.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "resnet9"}, "teacher = 'resnet9': allowed is one of .*convnet128_bn"),
        ({"pool": 7}, "IPC 2 needs 8 crops of as many images. Set pool to at least that."),
        ({"factor": 0}, "factor = 0. Allowed: 1 or more"),
    ],
)
def test_a_configuration_that_cannot_end_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MabenchError, match=message):
        replace(SMOKE, **changes)


def test_classes_that_are_too_small_are_refused_before_the_teacher_is_trained() -> None:
    for config, message in (
        (replace(SMOKE, ipc=4, pool=99), "IPC 4, which takes 16 images of a class, is impossible, the smallest class has 12"),
        (replace(SMOKE, ipc=1, factor=3), "factor = 3 does not divide the side of 32 pixels"),
    ):
        with pytest.raises(MabenchError, match=message):
            METHOD.condense(digits(12), config, 0, CPU)
