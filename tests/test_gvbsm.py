"""G-VBSM: statistics against a slow reference, gradients against finite differences, every stage interrupted and resumed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import flipped
from torch import Tensor, nn

from mabench import data, suites
from mabench.board.site.standings import of_paper
from mabench.data import DATASETS, RealData, augment
from mabench.errors import Interrupted, MabenchError
from mabench.networks.architectures import Network
from mabench.results import paper_tables as papers
from mabench.sets import readers as adapters
from mabench.sets import recorded
from mabench_methods import METHODS, load
from mabench_methods.gvbsm import backbones, labels, matching, teachers, views
from mabench_methods.gvbsm.condense import Config, image_order
from mabench_methods.gvbsm.matching import Matcher, Recorder, Rules, densification, layer_statistics, same_sized
from mabench_methods.gvbsm.presets import GVBSM, SMOKE, SRE2L
from mabench_methods.gvbsm.stages import Stages
from mabench_methods.gvbsm.teachers import Recording, Squeeze, Teacher
from mabench_methods.kit import Run, real_images

CPU = torch.device("cpu")
RULES = Rules(True, 4, "released", 0.0, "paper", 0.0, 10.0)


def digits(each: int = 12) -> RealData:
    """The first images of every class."""
    train = data.load("digits", "train")
    rows = np.concatenate([np.flatnonzero(train.labels == label)[:each] for label in range(10)])
    return replace(train, images=train.images[rows], labels=train.labels[rows], sha256=f"{each} digits a class")


def tiny(**changes: object) -> Config:
    """Seconds, all stages: 2 backbones, 2 batches of recovered images, 3 epochs of labels."""
    base = replace(
        SMOKE,
        squeeze=Squeeze(epochs=2, batch=16, held_out=2),
        recording=Recording(batch=4, images=100),
        iterations=15,
        batch=10,
        record_epochs=3,
        record_batch=8,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def net(seed: int = 0) -> nn.Module:
    """Two convolutions and a batch norm in float64 whose running statistics are those of nothing in particular."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.AvgPool2d(2), nn.Conv2d(4, 5, 3, padding=1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10),
        ).double()  # fmt: skip
        norm = layers[1]
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(torch.randn(4))
        norm.running_var.copy_(torch.rand(4) + 0.5)
    return layers.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(function: object, at: Tensor, along: Tensor, h: float = 1e-6) -> float:
    """Central finite difference."""
    return float((function(at + h * along) - function(at - h * along)) / (2 * h))  # type: ignore[operator]


# -- statistics ------------------------------------------------------------------------------------------------------------


def slowly(x: Tensor, side: int) -> list[Tensor]:
    """Channel mean and variance, patch mean and variance, one number at a time."""
    height, width = (math.ceil(s / side) * side for s in x.shape[2:])
    large = F.interpolate(x, size=(height, width), mode="bilinear")
    channels = [x[:, c].flatten() for c in range(x.shape[1])]
    corners = [(i, j) for i in range(0, height, side) for j in range(0, width, side)]
    patches = [large[:, :, i : i + side, j : j + side].flatten() for i, j in corners]
    means = [torch.stack([v.sum() / len(v) for v in part]) for part in (channels, patches)]
    spreads = [torch.stack([((v - v.sum() / len(v)) ** 2).sum() / len(v) for v in part]) for part in (channels, patches)]
    return [means[0], spreads[0], means[1], spreads[1]]


@pytest.mark.parametrize("size", [8, 6, 2, 4])
def test_statistics_of_a_layer_are_the_slow_ones(size: int) -> None:
    x = noise(3, 5, size, size) + 7
    for fast, slow in zip(layer_statistics(x, 4), slowly(x, 4), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)
    for fast, slow in zip(matching.channel_statistics(x), slowly(x, 4)[:2], strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer_statistics(x.float(), 4)[1].double(), slowly(x, 4)[1], rtol=1e-5, atol=1e-5)


def test_recorded_statistics_are_weighted_means_over_batches_of_the_inputs() -> None:
    network, batches = net(), [noise(4, 3, 8, 8, seed=1), noise(2, 3, 8, 8, seed=2)]
    recorder = Recorder(network, 4)
    for batch in batches:
        recorder.add(batch, len(batch) / 6)
    found = recorder.result()
    assert list(found) == ["0", "4"], "every convolution, nothing else"
    stem = [
        sum(len(b) / 6 * s for b, s in zip(batches, per, strict=True))
        for per in zip(*(slowly(b, 4) for b in batches), strict=True)
    ]
    for mine, slow in zip(found["0"], stem, strict=True):
        torch.testing.assert_close(mine.double(), slow, rtol=1e-6, atol=1e-6)
    assert isinstance(network, nn.Sequential)
    second = [
        sum(len(b) / 6 * s for b, s in zip(batches, per, strict=True))
        for per in zip(*(slowly(network[:4](b), 4) for b in batches), strict=True)
    ]
    for mine, slow in zip(found["4"], second, strict=True):
        torch.testing.assert_close(mine.double(), slow, rtol=1e-6, atol=1e-6)


def test_statistics_belong_to_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    train, config = digits(3), Recording(batch=10)
    stages = Stages(Run(tmp_path / "run"), {"statistics": 1}, None)

    def recorded(network: nn.Module) -> Mapping[str, matching.Statistics]:
        teacher = Teacher("convnet8", network, teachers.weights_sha256(network), {})
        return teachers.record(train, teacher, config, "shift", 4, 4, 0, CPU, stages, "statistics")

    network = backbones.build("convnet8", train.dataset, 0).eval()
    first, again = recorded(network), recorded(network)
    (path,) = (tmp_path / "cache" / "gvbsm").iterdir()
    assert all(torch.equal(a, b) for name in first for a, b in zip(first[name], again[name], strict=True)), "read, not added up"
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) * 3 // 4, whole.index(b"crop")):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(MabenchError, match="changed after it was written.*recomputed|another backbone"):
            recorded(network)
    path.write_bytes(whole)
    other = backbones.build("convnet8", train.dataset, 1).eval()
    changed = recorded(other)
    assert not torch.allclose(changed["features.4"][0], first["features.4"][0])
    (new,) = set((tmp_path / "cache" / "gvbsm").iterdir()) - {path}
    path.replace(new)  # a file under another backbone's name
    with pytest.raises(MabenchError, match="another backbone.*weights"):
        recorded(other)


# -- losses ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["released", "paper"])
@pytest.mark.parametrize("convolution", [True, False])
def test_gradient_of_matching_is_that_of_finite_differences(norm: Literal["released", "paper"], convolution: bool) -> None:
    network = net()
    recorder = Recorder(network, 4)
    recorder.add(noise(6, 3, 8, 8, seed=5), 1.0)
    targets = {name: tuple(v.double() for v in values) for name, values in recorder.result().items()}
    rules = replace(RULES, norm=norm, convolution=convolution)

    def loss(x: Tensor) -> Tensor:
        return Matcher(network, targets, rules)(x, views.generator(0))[1]

    for step in range(3):
        x, along = noise(4, 3, 8, 8, seed=10 + step).requires_grad_(True), noise(4, 3, 8, 8, seed=20 + step)
        (gradient,) = torch.autograd.grad(loss(x), x)
        assert float((gradient * along).sum()) == pytest.approx(slope(loss, x.detach(), along), rel=1e-6)


@pytest.mark.parametrize("index", range(4))
def test_gradient_of_every_single_statistic(index: int) -> None:
    for size in (8, 6):
        target = slowly(noise(3, 2, size, size, seed=3), 4)[index]

        def loss(x: Tensor, target: Tensor = target) -> Tensor:
            return matching.distances(layer_statistics(x, 4)[index] - target, [len(target)], torch.ones(1), "paper")

        x, along = noise(4, 2, size, size, seed=1).requires_grad_(True), noise(4, 2, size, size, seed=2)
        (gradient,) = torch.autograd.grad(loss(x), x)
        assert float((gradient * along).sum()) == pytest.approx(slope(loss, x.detach(), along), rel=1e-6)


def test_score_distillation_has_the_value_of_the_past_and_the_gradient_of_now() -> None:
    network, rules = net(), replace(RULES, convolution=False, momentum=0.8, momentum_start="released", first_weight=1.0)
    matcher = Matcher(network, {}, rules)
    x = noise(4, 3, 8, 8).requires_grad_(True)
    assert isinstance(network, nn.Sequential) and isinstance(network[1], nn.BatchNorm2d)
    now = matching.channel_statistics(network[0](x))
    held = [0.2 * s.detach() - s.detach() for s in now]  # what the first step adds to the present, as a constant
    targets = [v for v in (network[1].running_mean, network[1].running_var) if v is not None]
    expected = sum(torch.linalg.vector_norm(s + h - t) for s, h, t in zip(now, held, targets, strict=True))
    assert isinstance(expected, Tensor)
    (by_hand,) = torch.autograd.grad(expected, x)
    _, loss = matcher(x, views.generator(0))
    (gradient,) = torch.autograd.grad(loss, x)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    torch.testing.assert_close(gradient, by_hand)
    matcher(x.detach(), views.generator(0))
    torch.testing.assert_close(matcher.past["1"][0], 0.36 * now[0].detach())  # 1 - 0.8^2: the released beginning at zero


def test_dropped_convolutions_stay_as_they_are_and_batch_norm_never_is_dropped() -> None:
    network = net()
    recorder = Recorder(network, 4)
    recorder.add(noise(6, 3, 8, 8), 1.0)
    matcher = Matcher(network, recorder.result(), replace(RULES, drop=1.0, momentum=0.5))
    _, loss = matcher(noise(2, 3, 8, 8), views.generator(0))
    assert set(matcher.past) == {"1"} and float(loss) > 0
    assert matcher.weights == {"0": 10.0, "1": 1.0, "4": 1.0}


def cifar_like() -> Tensor:
    """Ten smooth normalised images with a brightness of their own, as photographs have: float32 [10,3,32,32]."""
    draws = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.randn(10, 3, 4, 4, generator=draws), size=32, mode="bilinear")
    return coarse + torch.randn(10, 1, 1, 1, generator=draws)


def dead_and_alive(images: Tensor) -> None:
    """The published loss and its gradient are exactly zero on these images of one class, ours are not."""
    for normalised in (False, True):
        x = images.clone().requires_grad_(True)
        loss = densification(x, [torch.arange(len(x))[None]], 4.0, normalised=normalised)
        (gradient,) = torch.autograd.grad(loss, x)
        assert bool(loss > 0.1) is normalised and bool(gradient.abs().max() > 1e-6) is normalised
        if not normalised:
            assert float(loss.detach()) == 0 and not gradient.any()


def test_published_densification_is_exactly_zero_and_ours_is_not() -> None:
    dead_and_alive(cifar_like())
    one = densification(cifar_like(), same_sized(torch.arange(10)), 4.0, normalised=True)
    assert float(one) == 0, "one image a class: nothing to spread"


def test_published_densification_is_exactly_zero_on_real_cifar10(real_data: Path) -> None:
    train = data.load("cifar10", "train")
    for label in range(10):
        rows = torch.tensor(np.flatnonzero(train.labels == label)[:10])
        pixels, _ = views.real_pixels(train, rows, CPU)
        dead_and_alive(views.normalised(pixels, train.dataset).contiguous())


@pytest.mark.parametrize("normalised", [False, True])
def test_gradient_of_densification_is_that_of_finite_differences(normalised: bool) -> None:
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    start = noise(6, 3, 8, 8) * (0.4 if normalised else 0.05)  # small enough for the published form to be alive

    def eigenvalues(x: Tensor, label: int) -> Tensor:
        flat = x.flatten(1)[classes == label]
        values: Tensor = torch.linalg.eigvalsh(flat @ flat.T)
        return values / values.mean() if normalised else values

    fixed = [F.softmax(eigenvalues(start, label) / 4, 0) for label in (0, 1)]

    def loss(x: Tensor) -> Tensor:
        parts = [p @ (p.log() - F.log_softmax(eigenvalues(x, label), 0)) for label, p in enumerate(fixed)]
        return torch.stack(parts).sum()

    x, along = start.clone().requires_grad_(True), noise(6, 3, 8, 8, seed=4)
    mine = densification(x, same_sized(classes), 4.0, normalised=normalised)
    (gradient,) = torch.autograd.grad(mine, x)
    assert float(mine.detach()) == pytest.approx(float(loss(start)))
    assert float((gradient * along).sum()) == pytest.approx(slope(loss, start, along), rel=1e-5)


def test_classes_of_one_size_are_densified_together() -> None:
    """Sizes 3, 2, 3 and 1: two classes share a call, and the sum is that of every class by itself."""
    labels = torch.tensor([5, 0, 5, 2, 2, 7, 0, 5, 2])
    assert [group.tolist() for group in same_sized(labels)] == [[[1, 6]], [[3, 4, 8], [0, 2, 7]], [[5]]]
    images = noise(9, 3, 8, 8).requires_grad_(True)
    for normalised in (False, True):
        joint = densification(images, same_sized(labels), 4.0, normalised=normalised)
        alone = [densification(images, [(labels == label).nonzero().T], 4.0, normalised=normalised) for label in (0, 2, 5, 7)]
        torch.testing.assert_close(joint, torch.stack(alone).sum(), rtol=1e-12, atol=0)
        (gradient,), (expected,) = (torch.autograd.grad(loss, images) for loss in (joint, torch.stack(alone).sum()))
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm", ["released", "paper"])
@pytest.mark.parametrize("start", ["released", "paper"])
def test_all_layers_at_once_are_matched_like_one_after_the_other(
    norm: Literal["released", "paper"], start: Literal["released", "paper"]
) -> None:
    """Three steps, convolutions dropped at random: losses, gradients and running averages beside a loop over every statistic."""
    network = net()
    recorder = Recorder(network, 4)
    recorder.add(noise(6, 3, 8, 8, seed=5), 1.0)
    rules = replace(RULES, norm=norm, momentum_start=start, momentum=0.8, drop=0.4)
    matcher = Matcher(network, recorder.result(), rules)
    past: dict[tuple[str, int], Tensor] = {}
    for step in range(3):
        images, total = noise(4, 3, 8, 8, seed=step).requires_grad_(True), noise(1)[0] * 0
        kept = torch.rand(len(matcher.layers), generator=views.generator(step)) >= rules.drop
        inputs: dict[str, Tensor] = {}
        with matching.tapped(matcher.layers, inputs.__setitem__):
            network(images)
        for (name, module), keep in zip(matcher.layers.items(), kept.tolist(), strict=True):
            batch_norm = isinstance(module, nn.BatchNorm2d)
            if not (keep or batch_norm):
                continue
            now = matching.channel_statistics(inputs[name]) if batch_norm else layer_statistics(inputs[name], 4)
            for index, (value, target) in enumerate(zip(now, matcher.targets[name], strict=True)):
                first = value.detach() if start == "paper" else torch.zeros_like(value)
                past[name, index] = 0.8 * past.get((name, index), first) + 0.2 * value.detach()
                difference = past[name, index] + value - value.detach() - target
                size = difference.square().sum() if norm == "paper" else torch.linalg.vector_norm(difference)
                total = total + matcher.weights[name] * size
        _, loss = matcher(images, views.generator(step))
        torch.testing.assert_close(loss, total, rtol=1e-12, atol=0)
        (gradient,), (expected,) = (torch.autograd.grad(value, images, retain_graph=True) for value in (loss, total))
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
        for (name, index), value in past.items():
            torch.testing.assert_close(matcher.past[name][index], value, rtol=1e-12, atol=0)
    exactly = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (none,) = torch.autograd.grad(matching.distances(exactly, [1, 2], torch.ones(2), norm), exactly)
    assert not none.any()


# -- views, order, labels --------------------------------------------------------------------------------------------------


def test_resized_crop_is_what_interpolation_makes_of_each_box() -> None:
    images, boxes = noise(40, 2, 16, 16), views.draw_boxes(40, 16, views.generator(0))
    assert (boxes[:, 2:] >= 1).all() and (boxes[:, :2] + boxes[:, 2:] <= 16).all() and (boxes[:, :2] >= 0).all()
    for image, (top, left, height, width), mine in zip(images, boxes.tolist(), augment.resized_crop(images, boxes), strict=True):
        cut = image[None, :, top : top + height, left : left + width]
        torch.testing.assert_close(mine, F.interpolate(cut, size=16, mode="bilinear")[0])


def test_images_of_a_class_are_together_or_taken_in_turn() -> None:
    base = tiny(ipc=4)
    assert image_order(base, 3).tolist() == list(range(12))
    assert image_order(replace(base, groups=2), 3).tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]
    assert image_order(replace(base, order="original"), 3).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_the_ensemble_with_and_without_logit_normalisation() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    pair = [Teacher(str(f), Scaled(f), "", {}) for f in (1.0, 3.0)]
    x = noise(5, 4).float()
    torch.testing.assert_close(labels.ensemble(pair, torch.split(x, 2), logit_normalisation=False), 2 * x)
    torch.testing.assert_close(labels.ensemble(pair, torch.split(x, 2), logit_normalisation=True), 2 * x)
    opposite = [Teacher(str(f), Scaled(f), "", {}) for f in (-1.0, 3.0)]
    torch.testing.assert_close(labels.ensemble(opposite, [x], logit_normalisation=True), 0 * x)


def test_static_labels_keep_the_class_of_every_image() -> None:
    logits, classes = noise(50, 10, seed=1) * 8, torch.arange(50) % 10
    soft, corrected = labels.static(logits, classes, 2.0)
    right = logits.argmax(1) == classes
    assert torch.equal(soft.argmax(1), classes) and corrected == int((~right).sum())
    torch.testing.assert_close(soft.sum(1), torch.ones(50))
    torch.testing.assert_close(soft[right], (logits[right] / 2).softmax(1).float(), atol=2e-3, rtol=0)


# -- the whole method ------------------------------------------------------------------------------------------------------


def run_whole(config: Config, folder: Path, train: RealData) -> tuple[str, dict[str, bytes]]:
    made = GVBSM.condense(train, config, 0, CPU, Run(folder))
    return made.sha256, {p.name: p.read_bytes() for p in (folder / "labels").glob("*.safetensors")}


def test_every_stage_can_be_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "CHUNK_BYTES", 1)  # one epoch of labels a file
    train, config = digits(), tiny(momentum_start="released")
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    expected = run_whole(config, tmp_path / "whole", train)
    assert not (tmp_path / "whole" / "recovered").exists() and len(expected[1]) == 3

    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "other"))
    interruptions: list[tuple[float, list[str]]] = []
    for _ in range(40):
        try:  # stops at its first chance: after every look at the loss
            GVBSM.condense(
                train, config, 0, CPU, Run(tmp_path / "cut", lambda d, t, v: interruptions.append((d, list(v))), lambda: True)
            )
            break
        except Interrupted:
            pass
    done = [d for d, _ in interruptions]
    assert done == sorted(set(done)), "every resumption went on where the last one had stopped"
    kinds = {name.split()[0] for _, names in interruptions for name in names or ["statistics or relabel"]}
    assert kinds == {"squeeze", "statistics", "classification", "matching", "densification"} and len(done) >= 12
    assert run_whole(config, tmp_path / "cut", train) == expected

    seen: list[str] = []
    third = Run(tmp_path / "third", lambda d, t, v: seen.extend(v))
    assert GVBSM.condense(train, config, 0, CPU, third).sha256 == expected[0]
    assert not [name for name in seen if name.startswith("squeeze")], "backbones are shared"


def test_a_backbone_that_stops_early_is_where_the_whole_training_was() -> None:
    """Tiny ImageNet's released backbones are those after 41 of 50 epochs: the cosine is that of the whole."""
    train, passed = digits(), {}

    class Watched(Stages):
        def tell(self, stage: str, done: int, losses: Any, state: Any) -> None:
            passed[done] = copy.deepcopy(state["network"].state_dict())

    whole = Squeeze(3, batch=16, schedule="cosine")
    early = replace(whole, stop_after=2)
    assert teachers.steps(train, "convnet8_bn", early) == 16 and teachers.steps(train, "convnet8_bn", whole) == 24
    teachers.squeeze(train, "convnet8_bn", whole, "shift", 0, CPU, Watched(Run(), {"squeeze": 24}, None), "squeeze")
    stopped = teachers.squeeze(train, "convnet8_bn", early, "shift", 0, CPU, Stages(Run(), {"squeeze": 16}, None), "squeeze")
    assert stopped.facts["epochs"] == 2 and stopped.facts["steps"] == 16
    for name, value in stopped.network.state_dict().items():
        assert torch.equal(value, passed[16][name]), name
    with pytest.raises(MabenchError, match="epochs 3, stop_after 4"):
        replace(whole, stop_after=4)
    for name in ("tinyimagenet-released-ipc50", "tinyimagenet-released-ipc100"):
        config: Any = GVBSM.presets[name].config
        assert (config.squeeze.epochs, config.squeeze.trained) == (50, 41)


def test_a_checkpoint_refuses_other_backbones(tmp_path: Path) -> None:
    stages = Stages(Run(), {"recover": 2}, {"stage": "recover", "state": {}, "teachers": {"convnet8": "a" * 64}})
    stages.identify("convnet8", "a" * 64)
    with pytest.raises(MabenchError, match="trained again"):
        stages.identify("convnet8", "b" * 64)


@pytest.mark.parametrize("method", ["gvbsm", "sre2l"])
def test_smoke_on_digits(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    config: Any = load(method).presets["smoke"].config
    train = digits(20)
    made = load(method).condense(train, config, 0, CPU, Run(tmp_path / "run"))
    assert made.class_counts == (2,) * 10 and made.label_kind == "soft" and made.images.dtype == torch.uint8
    facts = json.loads((tmp_path / "run" / "teachers.json").read_text())
    assert list(facts) == list(config.backbones) and all("held-out" in f["measured_on"] for f in facts.values())
    size = json.loads((tmp_path / "run" / "labels" / "labels.json").read_text())
    files = list((tmp_path / "run" / "labels").glob("*.safetensors"))
    assert size["label_bytes"] == sum(p.stat().st_size for p in files) and size["image_bytes"] == made.images.nbytes
    assert made.name.startswith(f"{method}-")

    read = adapters.read(tmp_path / "run" / "set.safetensors")
    assert read.recorded.bytes == size["label_bytes"] and read.recorded.epochs == 2
    stages = Stages(Run(tmp_path / "again"), {}, None)  # the backbones are read from the cache
    pool = [teachers.squeeze(train, n, config.squeeze, config.crop, 0, CPU, stages, f"squeeze {n}") for n in config.backbones]
    for number, rows in enumerate(torch.split(read.recorded.order(1), config.record_batch)):
        drawn, logits = read.recorded.batch_of(1, number)
        seen = recorded.apply_views(views.normalised(made.images[rows], made.entry), drawn)
        again = labels.ensemble(pool, [seen], logit_normalisation=False)
        torch.testing.assert_close(logits, again, rtol=2e-3, atol=2e-3)


def test_labels_by_the_first_backbones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 3: images are recovered with all backbones, the first so many label them, in the set and in the record."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    config, train = tiny(iterations=3), digits()
    made = {k: GVBSM.condense(train, replace(config, label_backbones=k), 0, CPU, Run(tmp_path / f"{k}")) for k in (0, 1, 2)}
    assert torch.equal(made[0].images, made[1].images) and torch.equal(made[0].labels, made[2].labels)
    pool = [
        teachers.squeeze(train, n, config.squeeze, config.crop, 0, CPU, Stages(Run(tmp_path / "again"), {}, None), f"squeeze {n}")
        for n in config.backbones
    ]
    for k, labelling in ((1, pool[:1]), (2, pool)):
        logits = torch.stack([t.network(views.normalised(made[k].images, made[k].entry)) for t in labelling]).mean(0)
        soft, _ = labels.static(logits, torch.arange(10).repeat_interleave(2), config.label_temperature)
        torch.testing.assert_close(made[k].labels, soft)
        record = json.loads((tmp_path / f"{k}" / "labels" / "labels.json").read_text())
        assert list(record["teachers"]) == [t.name for t in labelling]
    for wrong, said in ((-1, "-1. Allowed: 0 or more"), (3, "3: allowed is 0 .all. to 2")):
        with pytest.raises(MabenchError, match=f"label_backbones = {said}"):
            tiny(label_backbones=wrong)


def test_recovering_without_crops_and_flips() -> None:
    images = noise(4, 3, 8, 8)
    found = {tuple(views.recover_view(images, "none", 1, 2, views.generator(0, k)).flatten().tolist()) for k in range(60)}
    rolled = {
        tuple(images.roll((y, x), (2, 3)).contiguous(memory_format=torch.channels_last).flatten().tolist())
        for y in range(3)
        for x in range(3)
    }
    assert found == rolled, "every translation of 0 to 2 pixels, and nothing else"


def test_a_set_that_nobody_could_read_is_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_images, "max_bytes", lambda entry: 2 * 10 * 3 * 32 * 32 - 1)
    monkeypatch.setattr(teachers, "squeeze", None)  # nothing is trained
    for method in ("gvbsm", "sre2l"):
        with pytest.raises(MabenchError, match="a set of IPC 2 takes 61,440 bytes; sets up to 61,439 bytes can be read"):
            load(method).condense(digits(), load(method).presets["smoke"].config, 0, CPU, Run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_real_images_with_the_same_labels() -> None:
    train = digits()
    made = GVBSM.condense(train, tiny(initial="real", iterations=0), 0, CPU)
    known = {image.tobytes() for image in train.images}
    own = [image.numpy().tobytes() for image in made.images]
    assert set(own) <= known and len(set(own)) == 20 and made.label_kind == "soft"


def test_a_run_without_a_single_loss_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones at hand, no steps, labels recorded: there is nothing to plot, and everything else is there."""
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    config = tiny(initial="real", iterations=0)
    made = [GVBSM.condense(digits(), config, 0, CPU, Run(tmp_path / name)) for name in ("first", "second")]
    assert made[0].sha256 == made[1].sha256
    assert not (tmp_path / "second" / "losses.png").exists() and (tmp_path / "first" / "losses.png").exists()
    assert (tmp_path / "second" / "losses.csv").read_text().splitlines()[0] == "step"
    assert (tmp_path / "second" / "labels" / "labels.json").exists()


class Strided(Network):
    """Cheap at any side: an eighth of it after the first layer."""

    def __init__(self, num_classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 8, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)
        )
        self.classifier = nn.Linear(4, num_classes)


@pytest.mark.parametrize("name", ["cifar100", "tinyimagenet", pytest.param("imagenet1k", marks=pytest.mark.slow)])
def test_data_of_other_shapes_run_through_the_whole_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image a class, the released settings of that dataset, one step in every stage."""
    monkeypatch.setitem(backbones.BACKBONES, "convnet8_bn", (Strided, {}))
    entry = DATASETS[name]
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (entry.num_classes, 3, entry.image_size, entry.image_size), dtype=np.uint8)
    train = RealData(images, np.arange(entry.num_classes), entry, "train", "made in the test")
    sister: Any = next(preset.config for preset in GVBSM.presets.values() if preset.dataset == name)
    config = replace(
        sister,
        ipc=1,
        groups=1,
        backbones=("convnet8_bn",),
        squeeze=replace(sister.squeeze, epochs=1, stop_after=0, batch=100),
        recording=Recording(batch=50, images=50),
        iterations=1,
        batch=100,
    )
    made = GVBSM.condense(train, config, 0, CPU)
    assert tuple(made.images.shape) == (entry.num_classes, 3, entry.image_size, entry.image_size)
    assert tuple(made.labels.shape) == (entry.num_classes, entry.num_classes) and made.balanced


def test_backbones_are_the_papers() -> None:
    """Parameters, convolutions and batch norms of the released code's networks for ten classes."""
    known = {
        "resnet18": (11_173_962, 20, 20),
        "wrn16_2": (691_674, 16, 13),
        "convnet128": (320_010, 3, 0),
        "mobilenetv2_0_5": (697_546, 53, 53),
        "shufflenetv2_0_5": (351_466, 56, 56),
    }
    for name, expected in known.items():
        network = backbones.build(name, DATASETS["cifar10"], 0)
        both, norms = (matching.layers(network, convolution=wanted) for wanted in (True, False))
        assert (sum(p.numel() for p in network.parameters()), len(both) - len(norms), len(norms)) == expected


def test_torchvisions_backbones_are_for_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.models

    make = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: make(name, weights=None))
    with pytest.raises(MabenchError, match="knows the classes of imagenet1k"):
        backbones.build("torchvision-resnet18", DATASETS["cifar10"], 0)
    network = backbones.build("torchvision-shufflenet_v2_x0_5", DATASETS["imagenet1k"], 0).eval()
    recorder = Recorder(network, 16)
    recorder.add(torch.randn(1, 3, 224, 224), 1.0)
    assert len(recorder.result()) == 56 and recorder.result()["conv1.0"][2].shape == (14 * 14,)
    pixels = np.zeros((1000, 3, 8, 8), dtype=np.uint8)
    train = RealData(pixels, np.arange(1000), replace(DATASETS["imagenet1k"], image_size=8), "train", "made in the test")
    small = nn.Sequential(nn.Flatten(), nn.Linear(192, 1000))
    monkeypatch.setattr(backbones, "build", lambda *_: small)
    with pytest.raises(MabenchError, match="not numbered like"):
        stages = Stages(Run(), {}, None)
        teachers.squeeze(train, "torchvision-resnet18", Squeeze(), "resized", 0, CPU, stages, "squeeze")


def test_settings_that_are_not_there_are_refused() -> None:
    for wrong in (
        {"norm": "l1"},
        {"crop": "none"},
        {"densification": "yes"},
        {"backbones": ("vgg",)},
        {"groups": 3},
        {"drop": 2.0},
    ):
        with pytest.raises(MabenchError, match="llowed|divide"):
            tiny(**wrong)


def test_the_papers_numbers_stand_beside_what_is_examined() -> None:
    """Every table names a suite and fields that exist; what the presets record is what the suite of their budget replays."""
    known: dict[tuple[str, int, str], object] = {}
    for method in ("gvbsm", "sre2l"):
        assert METHODS[method].value.startswith("mabench_methods.gvbsm")
        for table in papers.tables(method):
            loaded_suite = suites.load(table.suite)
            assert set(table.values) <= {e.name for es in loaded_suite.evaluators.values() for e in es}, table.title
            assert loaded_suite.suite.dataset == table.dataset and table.ipc in loaded_suite.suite.ipcs
            assert table.labels == "soft" and {row.labels for row in of_paper("paper", table)} == {"soft"}
            assert all(hasattr(load(method).presets["smoke"].config, path) for path in table.config)
            if table.title in ("Table 4", "Table 5"):
                known |= {(table.dataset, table.ipc, n): v for n, v in table.values.items()}
    assert known["cifar10", 10, "convnet3-scratch"] == (46.5, 0.7) and known["cifar10", 50, "resnet18-scratch"] == (59.2, 0.4)
    assert known["tinyimagenet", 100, "resnet101-scratch"] == (52.3, 0.1)
    assert {"paper-ipc10", "paper-ipc50", "lite", "smoke"} <= set(GVBSM.presets)
    assert {"cifar100-released-ipc50", "imagenet1k-released-ipc50", "gvbsm-lite", "smoke"} <= set(SRE2L.presets)
    assert not {"lite", "lite-noise"} & set(SRE2L.presets), "these are G-VBSM's rates and starts"
    own: Any = SRE2L.presets["cifar100-released-ipc50"].config  # recover_cifar.sh, squeeze_cifar.py
    assert (own.image_rate, own.iterations, own.jitter, own.matching_weight, own.first_weight) == (0.25, 1000, 4, 0.01, 10.0)
    assert (own.backbones, own.order, own.batch, own.recover_crop, own.convolution) == (
        ("resnet18",),
        "original",
        100,
        "none",
        False,
    )
    assert own.squeeze == Squeeze(200, 0.1, 128, "cosine", weight_decay=5e-4)
    for name, preset in GVBSM.presets.items():
        if preset.comparable:
            config: Any = preset.config
            recipe = suites.load(f"{preset.dataset}-gvbsm").recipes["gvbsm"]
            assert (config.record_epochs, config.record_batch) == (recipe.epochs, recipe.batch_size), name
