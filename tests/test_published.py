"""Published sets through the whole program, against accuracies that their authors measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import Command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "evaluator", "published", "tolerance"),
    [
        ("modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt", "mlp-scratch", 0.3078, 0.010),
        ("res_DC_CIFAR10_ConvNet_1ipc_3000.pt", "lenet-scratch", 0.2066, 0.015),
        ("res_DC_CIFAR10_ConvNet_1ipc_3000.pt", "mlp-scratch", 0.2650, 0.010),
        ("res_DC_CIFAR10_ConvNet_1ipc_3000.pt", "convnet3-scratch", 0.2836, 0.010),
    ],
)
def test_published_means_are_reproduced(
    real_data: Path, mabench: Command, tmp_path: Path, name: str, evaluator: str, published: float, tolerance: float
) -> None:
    """Ten seeds of cifar10-modelpool with the real test split (Model Pool, Table 5 and the released logs)."""
    arguments = ["--suite", "cifar10-modelpool", "--evaluator", evaluator, "--device", "cpu", "--out", "out"]
    done = mabench("eval", real_data / "sets" / name, *arguments)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["runs"] == 10 and row["mean"] == pytest.approx(published, abs=tolerance)


@pytest.mark.slow
def test_a_real_pretrained_network_is_examined(real_data: Path, mabench: Command, tmp_path: Path) -> None:
    """The pretrained cell of cifar10-lite: real weights and images, clearly above chance (10 percent)."""
    arguments = ["--suite", "cifar10-lite", "--track", "pretrained", "--seeds", "0", "--device", "cpu", "--out", "out"]
    done = mabench("eval", real_data / "sets" / "modelpool_res_DC_CIFAR10_ConvNet_10ipc_3000.pt", *arguments)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert row["mean"] > 0.15
