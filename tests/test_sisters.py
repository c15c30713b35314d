"""The headline recipe's sisters: planned by the command, and run for an epoch on data of their shape made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import Command, shaped

from mabench import suites, training
from mabench.data import DATASETS, RealData
from mabench.networks.families import family_of
from mabench.runs.plan import plan

SISTERS = [
    "cifar100-agnostic",
    "tinyimagenet-agnostic",
    "imagewoof-agnostic",
    "svhn-agnostic",
    "mnist-agnostic",
    "imagenet100-agnostic",
    pytest.param("imagenet1k-agnostic", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", SISTERS)
def test_a_cell_runs_on_data_of_its_shape(name: str) -> None:
    loaded_suite = suites.load(name)
    entry = DATASETS[loaded_suite.suite.dataset]
    chosen = shaped(entry.name)
    images = chosen.images[:60].numpy()
    test = RealData(
        images=images, labels=np.arange(len(images)) % entry.num_classes, dataset=entry, split="test", sha256="0" * 64
    )
    (cell,) = plan(loaded_suite, chosen, track="scratch", evaluator="convnet3*", seeds=[0])
    assert cell.recipe.epochs == 2000 and cell.evaluator.input_size == max(32, min(entry.image_size, 64))
    short = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"epochs": 1, "test_every": 1})})
    record = training.run(chosen, short, test, device=torch.device("cpu"))
    assert record.total == len(images) and [e for e, _ in record.curve] == [1] and record.diverged_epoch is None


PLANNED = ["cifar100-agnostic", "imagenet100-agnostic"]  # the others differ from these in their data alone, as a test below shows


@pytest.mark.parametrize("name", PLANNED)
def test_the_command_plans_them(name: str, mabench: Command, tmp_path: Path) -> None:
    loaded_suite = suites.load(name)
    assert [e.family for e in loaded_suite.evaluators["pretrained"]].count("transformer") == 4
    shaped(loaded_suite.suite.dataset).save(tmp_path / "set.safetensors")
    done = mabench("eval", "set.safetensors", "--suite", name, "--evaluator", "convnet3-scratch", "--dry-run", "--device", "cpu")
    assert done.returncode == 0 and "3 runs to do" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["set.safetensors"]


@pytest.mark.parametrize("name", ["cifar10-lite", "cifar100-lite", pytest.param("tinyimagenet-lite", marks=pytest.mark.slow)])
def test_every_family_of_a_laptop_suite_runs_on_data_of_its_shape(name: str) -> None:
    loaded_suite = suites.load(name)
    entry, chosen = DATASETS[loaded_suite.suite.dataset], shaped(loaded_suite.suite.dataset)
    test = RealData(chosen.images.numpy()[:20], chosen.labels.numpy()[:20], entry, "test", "0" * 64)
    families = [family_of(evaluator) for evaluator in loaded_suite.evaluators["scratch"]]
    assert families == ["ConvNet", "ResNet", "MobileNet", "ViT", "Swin"]
    for evaluator in loaded_suite.evaluators["scratch"]:
        (cell,) = plan(loaded_suite, chosen, track="scratch", evaluator=evaluator.name, seeds=[0])
        short = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"epochs": 1, "test_every": 1})})
        record = training.run(chosen, short, test, device=torch.device("cpu"))
        assert [epoch for epoch, _ in record.curve] == [1] and record.diverged_epoch is None, evaluator.name


DIGITS = ("svhn", "mnist")  # a mirrored digit is another one
TEN = ("imagewoof", "imagenette", "imagefruit", "imagemeow", "imagesquawk", "imageyellow")


def test_the_sisters_differ_from_the_headline_in_their_data_alone() -> None:
    headline = suites.load("cifar10-agnostic")
    for name in [n for n in suites.released() if "-agnostic@" in n and not n.startswith(("cifar10-", "digits-"))]:
        loaded_suite = suites.load(name)
        dataset = loaded_suite.suite.dataset
        recipe = headline.recipes["scratch"].model_dump(exclude={"augmentation"})
        augmentation = headline.recipes["scratch"].augmentation.model_dump()
        assert name.split("-")[0] in (dataset, dataset.removesuffix("224"))
        assert loaded_suite.suite.seed_streams == headline.suite.seed_streams and loaded_suite.suite.seeds == headline.suite.seeds
        for track in ("scratch", "pretrained"):
            assert [e.name for e in loaded_suite.evaluators[track]] == [e.name for e in headline.evaluators[track]], name
            assert loaded_suite.recipes[track].model_dump(exclude={"augmentation"}) == recipe, name
            flip = 0.0 if dataset in DIGITS else augmentation["flip"]
            assert loaded_suite.recipes[track].augmentation.model_dump() == augmentation | {"flip": flip}, name


def test_the_ten_classes_are_one_suite_for_six_lists() -> None:
    digests = {
        json.dumps(
            suites.load(f"{name}-agnostic").suite.model_dump(mode="json", exclude={"name", "title", "measures", "dataset"})
        )
        for name in TEN
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_the_whole_headline_is_planned_and_pointed_to_the_lite_suite(mabench: Command, tmp_path: Path) -> None:
    images, labels = torch.rand(10, 3, 32, 32), torch.arange(10)
    torch.save((images, labels), tmp_path / "cifar10.pt")
    done = mabench("eval", "cifar10.pt", "--suite", "cifar10-agnostic", "--dry-run", "--device", "cpu")
    assert done.returncode == 0 and "42 runs to do" in done.stdout
    assert "days" in done.stdout and "--suite cifar10-lite" in done.stdout
