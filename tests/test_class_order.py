"""Permuted classes are noticed before anything is trained: by `check`, by `eval`, and by `mabench.evaluate`; right ones are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import small_set
from click.testing import CliRunner

import mabench
from mabench import data
from mabench.cli.main import main
from mabench.runs.events import Event, Note
from mabench.sets import probes
from mabench.sets.synthetic import SyntheticSet

RIGHT = small_set()
PERMUTED = replace(RIGHT, labels=(RIGHT.labels + 1) % 10)


def real_set(entry: str, ipc: int, seed: int) -> SyntheticSet:
    train = data.load(entry, "train")
    generator = np.random.default_rng(seed)
    rows = np.concatenate([generator.choice(np.flatnonzero(train.labels == k), ipc, replace=False) for k in range(10)])
    return SyntheticSet(torch.tensor(train.images[rows]), torch.tensor(train.labels[rows]), entry, ipc, name="real")


@pytest.mark.parametrize("permuted", [True, False])
def test_check_warns_of_permuted_classes_only(tmp_path: Path, permuted: bool) -> None:
    (PERMUTED if permuted else RIGHT).save(tmp_path / "set.safetensors")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "set.safetensors"), "--no-preview"])
    assert done.exit_code == 0
    assert ("warning: a linear probe" in done.stderr) == permuted == ("the classes seem permuted" in done.output)
    quiet = CliRunner().invoke(main, ["check", str(tmp_path / "set.safetensors"), "--no-preview", "--json"])
    findings = json.loads(quiet.stdout)["findings"]
    assert any(f["field"] == "class order" for f in findings) == permuted


@pytest.mark.parametrize("permuted", [True, False])
def test_an_evaluation_warns_of_permuted_classes_only(permuted: bool) -> None:
    events: list[Event] = []
    result = mabench.evaluate(
        PERMUTED if permuted else RIGHT,
        suite="digits-agnostic",
        evaluators="mlp*",
        seeds=[0],
        minutes=1e-6,
        on_event=events.append,
    )
    warned = [event for event in events if isinstance(event, Note) and event.warning and "permuted" in event.text]
    assert len(warned) == permuted == any(f.field == "class order" for f in result.findings)


@pytest.mark.parametrize("ipc", [1, 10])
def test_real_cifar10_images_are_not_suspected_and_two_swapped_classes_are(real_data: Path, ipc: int) -> None:
    for seed in range(2):
        chosen = real_set("cifar10", ipc, seed)
        assert probes.class_order(chosen, data.load("cifar10", "train"))[1] == ""
    shifted = replace(chosen, labels=(chosen.labels + 1) % 10)
    assert "permuted" in probes.class_order(shifted, data.load("cifar10", "train"))[1]


def test_chance_among_many_classes_is_not_a_permutation() -> None:
    generator = np.random.default_rng(0)
    answers, classes = generator.integers(0, 200, 5000), generator.integers(0, 200, 5000)
    stated, best, _ = probes._best_renaming(answers, classes, 200)
    assert best - stated > 0.03  # so this alone must not be called a permutation
    again = probes._best_renaming(answers, generator.permutation(classes), 200)
    assert best - stated < probes.PROBE_NOISE + again[1] - again[0]
