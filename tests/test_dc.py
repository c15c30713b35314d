"""Gradient matching: the distance against a slow one, its gradient against finite differences, resume, the pool's draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F

import mabench_methods
from mabench import data
from mabench.errors import Interrupted, MabenchError
from mabench.networks import architectures as networks
from mabench.networks import compiling
from mabench.sets.synthetic import load
from mabench_methods import kit
from mabench_methods.dc import condense as dc
from mabench_methods.dc.condense import Config, gradient_distance
from mabench_methods.dc.presets import DC
from mabench_methods.kit import MeanGradient, Run
from mabench_methods.model_pool import condense as model_pool
from mabench_methods.model_pool import presets as pools

CPU = torch.device("cpu")
TINY = Config(1, iterations=4, real_batch=12, width=8)


def test_the_distance_equals_a_slow_one() -> None:
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (4,), (4, 6, 6), (5, 16), (5,)]
    own, real = ([torch.randn(s, dtype=torch.float64) for s in shapes] for _ in range(2))
    slow = 0.0
    for a, b in zip(own, real, strict=True):
        if a.dim() == 1:
            continue
        for row_a, row_b in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
            slow += 1 - float(row_a @ row_b) / (float(row_a @ row_a) ** 0.5 * float(row_b @ row_b) ** 0.5 + 1e-6)
    assert float(gradient_distance(own, real)) == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("norm", ["instance", "layer", "none"])
def test_the_gradient_on_the_images_equals_finite_differences(norm: str) -> None:
    torch.manual_seed(0)
    network = networks.build(
        "convnet", num_classes=3, channels=2, image_size=8, depth=2, width=4, norm=norm, activation="swish", pooling="avg"
    ).double()
    parameters = list(network.parameters())
    target = [torch.randn_like(p) for p in parameters]
    labels = torch.tensor([0, 1])

    def distance(images: torch.Tensor) -> torch.Tensor:
        own = torch.autograd.grad(F.cross_entropy(network(images), labels), parameters, create_graph=True)
        return gradient_distance(own, target)

    images = torch.randn(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(distance, (images,), eps=1e-6, atol=1e-6)


def test_parts_of_a_batch_add_up_to_its_gradient() -> None:
    torch.manual_seed(0)
    network = networks.build("convnet", num_classes=10, channels=3, image_size=32, width=8)
    images, labels = torch.randn(70, 3, 32, 32), torch.randint(10, (70,))
    whole = torch.autograd.grad(F.cross_entropy(network(images), labels), list(network.parameters()))
    parts = MeanGradient(CPU)
    found = parts(network, images, labels)
    assert parts.part < len(images)
    for a, b in zip(found, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert parts.hits.tolist() == (network(images).argmax(1) == labels).tolist()


def test_gradients_of_a_network_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while it compiled leaves half a file: the rest of the run is eager, and says what to delete."""

    class CompilerError(Exception):
        __module__ = "torch._inductor.exc"

    def program(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        raise CompilerError("ImportError: main.so: file too short")

    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: program)
    network = networks.build("convnet", num_classes=10, channels=3, image_size=32, width=8)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    gradient = MeanGradient(CPU, "a kind")
    with pytest.warns(UserWarning, match="file too short .*delete"):
        found = gradient(network, images, labels)
    whole = torch.autograd.grad(F.cross_entropy(network(images), labels), list(network.parameters()))
    for a, b in zip(found, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not gradient.compiled and not gradient.narrow
    with pytest.raises(ValueError):
        gradient(network, images, labels[:3])


def test_matching_brings_the_gradients_closer() -> None:
    train = data.load("digits", "train")
    run = Run()
    DC.condense(train, replace(TINY, iterations=24, image_rate=2.0), 0, CPU, run)
    first, last = (sum(v["matching"] for _, v in part) / 4 for part in (run.losses[:4], run.losses[-4:]))
    assert last < 0.8 * first


@pytest.mark.parametrize("method", ["dc", "dsa", "dm", "model-pool"])
def test_an_interrupted_run_continues_to_the_same_images(method: str, tmp_path: Path) -> None:
    train = data.load("digits", "train")
    made = mabench_methods.load(method)
    config = made.presets["smoke"].config
    whole = made.condense(train, config, 3, CPU, Run(tmp_path / "whole"))
    for attempts in range(10):
        try:
            resumed = made.condense(train, config, 3, CPU, Run(tmp_path / "parts", should_stop=lambda: True))
            break
        except Interrupted:
            assert attempts < 9
            assert (tmp_path / "parts" / "checkpoint.pt").exists()
            assert not (tmp_path / "parts" / "set.safetensors").exists()
    assert attempts >= 2 and resumed.sha256 == whole.sha256
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert (tmp_path / "parts" / "losses.csv").read_text() == (tmp_path / "whole" / "losses.csv").read_text()
    assert load(tmp_path / "parts" / "set.safetensors").sha256 == whole.sha256


def test_the_network_is_trained_after_every_round_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config(10).loops == (10, 50) and Config(1).loops == (1, 1) and Config(12).loops == (10, 50)
    accuracies: list[float] = []
    train = dc._train

    def watched(network: networks.Network, optimizer: object, images: torch.Tensor, labels: torch.Tensor, *rest: object) -> None:
        train(network, optimizer, images, labels, *rest)  # type: ignore[arg-type]
        accuracies.append(float((network(images).argmax(1) == labels).float().mean()))

    monkeypatch.setitem(dc.LOOPS, 1, (3, 25))
    monkeypatch.setattr(dc, "_train", watched)
    DC.condense(data.load("digits", "train"), replace(TINY, iterations=2, network_rate=0.1), 0, CPU)
    assert len(accuracies) == 2 * 2 and min(accuracies[1::2]) > 0.8


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    train = data.load("digits", "train")
    first = DC.condense(train, TINY, 0, CPU, Run(tmp_path))
    assert DC.condense(train, TINY, 0, CPU, Run(tmp_path)).sha256 == first.sha256  # not made again
    with pytest.raises(MabenchError, match="config differ"):
        DC.condense(train, replace(TINY, iterations=5), 0, CPU, Run(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["config"]["iterations"] == 4


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(MabenchError, match="not finite"):
        Run().step(3, 10, {"matching": float("nan")}, {})


def test_batch_norm_takes_the_real_batchs_statistics_and_keeps_them() -> None:
    network = networks.build("convnet", num_classes=10, channels=3, image_size=32, depth=1, width=8, norm="batch")
    images = 2 + 3 * torch.randn(40, 3, 32, 32)
    kit.freeze_batch_norm(network, images)
    features = cast(torch.nn.Sequential, network.features)
    layer, outputs = features[1], features[0](images)
    torch.testing.assert_close(layer.running_mean, 0.1 * outputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert network.training and not layer.training


def test_the_pool_is_drawn_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probability 0.9 for the main network after the warm-up; every kind of similar network turns up."""
    drawn: list[dict[str, object]] = []
    stand_in = networks.build("mlp", num_classes=10, channels=3, image_size=32)

    def note(dataset: object, architecture: str, seed: int, **arguments: object) -> networks.Network:
        drawn.append({"architecture": architecture, **arguments})
        return stand_in

    def only_draw(*_: object, draw: object, **__: object) -> None:
        streams = torch.Generator().manual_seed(0)
        for iteration in range(4000):
            draw(iteration, streams)  # type: ignore[operator]

    monkeypatch.setattr(kit, "draw_network", note)
    monkeypatch.setattr(dc, "match", only_draw)
    model_pool.condense(data.load("digits", "train"), pools.released(1, 4000), 0, CPU)
    others = [i for i, d in enumerate(drawn) if "norm" in d]
    assert min(others) >= 501 and 280 < len(others) < 420  # 350 expected, standard deviation 18
    assert {(d["activation"], d["norm"], d["pooling"]) for d in drawn if "norm" in d} == {
        (a, n, p) for a in model_pool.ACTIVATIONS for n in model_pool.NORMS for p in model_pool.POOLINGS
    }
    assert {d["depth"] for d in drawn if "norm" in d} == {1}
    drawn.clear()
    model_pool.condense(data.load("digits", "train"), replace(pools.released(1, 4000), main_probability=1e-9), 0, CPU)
    assert min(i for i, d in enumerate(drawn) if "norm" in d) == 501, "`it <= 500` from 0 in the released code"
    drawn.clear()
    model_pool.condense(data.load("digits", "train"), pools.total_random(1), 0, CPU)
    shares = {name: sum(d["architecture"] == name for d in drawn) / 4000 for name in ("convnet", "lenet", "alexnet", "vgg11")}
    assert all(abs(share - 0.25) < 0.03 for share in shares.values())
