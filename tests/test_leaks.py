"""The gate for test images: copies and disguises are refused, honest images are not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from mabench import data
from mabench.data import RealData
from mabench.errors import MabenchError
from mabench.sets import leaks

ROOT = Path(__file__).parents[1]


def benchmark() -> ModuleType:
    """benchmarks/leaks.py, whose disguises are tried here on fewer images."""
    spec = importlib.util.spec_from_file_location("leaks_benchmark", ROOT / "benchmarks" / "leaks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pixels(real: RealData, rows: list[int]) -> Tensor:
    return torch.tensor(real.images[rows]).float() / 255


def test_correlation_is_that_of_numpy_where_nothing_is_undone() -> None:
    """Seen as it is, from the same place: the ten-line reference on grey images without their border."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(3, 32, 32, generator=generator) for _ in range(2))
    inner = leaks._soft(first)[:, :, 2:30, 2:30]
    inner = torch.nn.functional.interpolate(inner, size=leaks.FINE, mode="bilinear")[:, 0].flatten(1)
    plain = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]).expand(3, 1, 2, 3)
    found, seen = leaks._correlations(inner, leaks._soft(second), leaks._grid(plain, 2), torch.ones_like(inner))
    other = torch.nn.functional.interpolate(leaks._soft(second)[:, :, 2:30, 2:30], size=leaks.FINE, mode="bilinear")[
        :, 0
    ].flatten(1)
    assert torch.allclose(seen[:, 0], other, atol=1e-5)
    expected = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(inner.numpy(), other.numpy(), strict=True)]
    assert np.allclose(found[:, 0].numpy(), expected, atol=1e-5)


def test_digits_in_disguise_are_found_and_train_digits_are_not() -> None:
    test, train = data.load("digits", "test"), data.load("digits", "train")
    splits = leaks.Split(test), leaks.Split(train)
    planted = pixels(test, [3, 40, 77])
    for images in (planted, planted + 0.03, planted.flip(-1)):
        found = leaks.find(images, *splits)
        assert [(each.image, each.test_image) for each in found.leaks] == [(0, 3), (1, 40), (2, 77)], found
    honest = pixels(train, list(range(0, 200, 4)))
    assert not leaks.find(honest, *splits).leaks
    assert not leaks.find(honest.flip(-1) * 0.7 + 0.1, *splits).leaks


def test_features_of_a_pretrained_network_report_and_refuse_nothing(real_data: Path) -> None:
    """Faded test digits are nearer to the test split, by name; train digits are not."""
    from mabench.board import features

    test, train = data.load("digits", "test"), data.load("digits", "train")
    planted = pixels(test, list(range(0, 500, 25))) * 0.8 + 0.1
    found = features.report(planted, test, train)
    assert found.nearer > 15 and found.chance < 0.01, str(found)
    assert sum(image * 25 == place for image, place, _, _ in found.first) >= 3
    honest = features.report(pixels(train, list(range(0, 1297, 60))), test, train)
    assert honest.chance > 0.05, str(honest)
    gate = features.as_gate(planted, test, train)
    assert not gate.refusals and "nearer to a test image" in gate.found, "a report, not a refusal"


@pytest.mark.slow
def test_disguises_of_cifar10_are_found_as_the_evidence_says() -> None:
    """Three images in every disguise that the table says is always caught, and 100 honest ones: minutes."""
    try:
        test, train = data.load("cifar10", "test"), data.load("cifar10", "train")
    except MabenchError as error:
        pytest.skip(str(error))
    module, splits = benchmark(), (leaks.Split(test), leaks.Split(train))
    change = module.disguises(module.pixels(train, 3))
    known = measured()
    always = [name for name in change if known[name][0] == known[name][1]]
    planted = module.pixels(test, 3)
    missed = [name for name in always if len(leaks.find(change[name](planted), *splits).leaks) < 2]
    assert len(always) >= 20 and not missed
    assert not leaks.find(module.pixels(train, 100), *splits).leaks


def measured() -> dict[str, list[int]]:
    found: dict[str, list[int]] = json.loads((ROOT / "benchmarks" / "results" / "leaks_epyc_202611.json").read_text())["refused"]
    return found


def test_the_evidence_is_what_was_measured() -> None:
    """The page's table is the file's; at least 25 disguises, and no false alarm on at least 200 honest images."""
    module, known = benchmark(), measured()
    assert module.table(known) in (ROOT / "docs" / "evidence" / "leaks.md").read_text()
    honest = {name: counts for name, counts in known.items() if name.startswith("honest")}
    assert sum(of for _, of in honest.values()) >= 200 and not any(count for count, _ in honest.values())
    assert len(known) - len(honest) >= 25
