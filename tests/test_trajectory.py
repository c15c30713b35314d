"""Trajectory matching: the gradient is the full unroll's, memory does not grow, interruptions change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import Command, flipped
from torch import Tensor

from mabench import data, suites
from mabench.data import DATASETS, RealData, augment
from mabench.errors import Interrupted, MabenchError
from mabench.networks import architectures as networks
from mabench.results import paper_tables as papers
from mabench.sets import synthetic
from mabench_methods import METHODS, kit, load
from mabench_methods.kit import RealImages, Run
from mabench_methods.trajectory import condense as trajectory
from mabench_methods.trajectory import experts as buffers
from mabench_methods.trajectory import matching, presets
from mabench_methods.trajectory.experts import ExpertConfig
from mabench_methods.trajectory.matching import Flat, Step, Student
from mabench_methods.trajectory.presets import AST, MTT

CPU = torch.device("cpu")
DIGITS = data.load("digits", "train")


# -- the gradient --------------------------------------------------------------------------------------------------------------


def problem(steps: int, momentum: float, *, part: int = 2048, strategy: str = augment.DSA, batch: int = 0) -> dict[str, Any]:
    """A tiny float64 student of four classes at 8 px, with two images each, and a path of two epochs to follow."""
    torch.manual_seed(0)
    network = networks.build("convnet", num_classes=4, channels=3, image_size=8, depth=2, width=4).double()
    flat = Flat(network)
    start = flat.join(list(network.parameters())).detach()
    path = torch.stack([start, start + 0.05 * torch.randn_like(start), start + 0.1 * torch.randn_like(start)])
    labels = torch.arange(4).repeat_interleave(2)
    student = Student(flat, labels, momentum=momentum, balance=1.3, strategy=strategy, part=part)
    rows = matching.inner_batches(8, batch, steps, torch.Generator().manual_seed(1))
    return {
        "student": student,
        "images": torch.randn(8, 3, 8, 8, dtype=torch.float64),
        "rate": torch.tensor(0.05, dtype=torch.float64),
        "start": start,
        "steps": [Step(r, 100 + i) for i, r in enumerate(rows)],
        "points": matching.points(path, start, steps, "paper", "varied"),
    }


def unrolled(p: dict[str, Any], images: Tensor, rate: Tensor) -> Tensor:
    """The sum of the matching losses, written down as Algorithm 1 has it; the graph of all steps stays alive."""
    student: Student = p["student"]
    weights, buffer, loss = p["start"].clone().requires_grad_(True), 0.0, torch.zeros((), dtype=images.dtype)
    for number, step in enumerate(p["steps"], start=1):
        batch = images[step.rows]
        if student.strategy:
            batch = augment.dsa(batch, student.strategy, torch.Generator().manual_seed(step.seed))
        inner = student.balance * F.cross_entropy(student.flat(weights, batch), student.labels[step.rows])
        (slope,) = torch.autograd.grad(inner, weights, create_graph=True)
        buffer = student.momentum * buffer + slope
        weights = weights - rate * buffer
        for point in p["points"]:
            if point.step == number:
                loss = loss + point.scale * (weights - point.target).square().sum()
    return loss


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("part", [2048, 3])
@pytest.mark.parametrize("batch", [0, 3])
def test_the_adjoint_is_the_full_unroll(momentum: float, part: int, batch: int) -> None:
    p = problem(7, momentum, part=part, batch=batch)
    assert [point.step for point in p["points"]] == [3, 7]
    images, rate = p["images"].clone().requires_grad_(True), p["rate"].clone().requires_grad_(True)
    loss = unrolled(p, images, rate)
    of_images, of_rate = torch.autograd.grad(loss, (images, rate))
    losses, to_images, to_rate = p["student"].gradient(p["images"], p["rate"], p["start"], p["steps"], p["points"])
    p["student"].keeps_graphs = True
    again = p["student"].gradient(p["images"], p["rate"], p["start"], p["steps"], p["points"])
    assert again[0] == pytest.approx(losses, rel=1e-12)
    torch.testing.assert_close(again[1:], (to_images, to_rate), rtol=1e-9, atol=1e-12)
    assert abs(sum(losses) - float(loss.detach())) < 1e-10 * float(loss.detach())
    assert float((to_images - of_images).norm() / of_images.norm()) < 1e-10
    assert abs(float(to_rate - of_rate)) < 1e-10 * abs(float(of_rate))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_finite_differences_agree(momentum: float) -> None:
    p = problem(4, momentum)
    student: Student = p["student"]

    def value(images: Tensor, rate: Tensor) -> float:
        weights, _ = student.walk(images, rate, p["start"], p["steps"])
        return sum(float(q.scale * (weights[q.step] - q.target).square().sum()) for q in p["points"])

    _, to_images, to_rate = student.gradient(p["images"], p["rate"], p["start"], p["steps"], p["points"])
    # small enough not to cross a kink of the activation, large enough for float64
    direction = torch.randn(p["images"].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direction /= direction.norm()
    h = 1e-6
    slope = (value(p["images"] + h * direction, p["rate"]) - value(p["images"] - h * direction, p["rate"])) / (2 * h)
    assert slope == pytest.approx(float((to_images * direction).sum()), rel=1e-5)
    slope = (value(p["images"], p["rate"] + h) - value(p["images"], p["rate"] - h)) / (2 * h)
    assert slope == pytest.approx(float(to_rate), rel=1e-5)


def peak_of_saved_tensors(call: Callable[[], object]) -> int:
    """Most bytes that autograd keeps alive at once for a later backward, every storage counted once."""
    alive: dict[int, int] = {}
    counts: dict[int, int] = {}
    peak = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            nonlocal peak
            counts[self.key] = counts.get(self.key, 0) + 1
            alive[self.key] = tensor.untyped_storage().nbytes()
            peak = max(peak, sum(alive.values()))

        def __del__(self) -> None:
            counts[self.key] -= 1
            if not counts[self.key]:
                del counts[self.key], alive[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        call()
    return peak


def test_memory_does_not_grow_with_the_steps() -> None:
    peaks, unrolls = {}, {}
    for steps in (5, 40):
        p = problem(steps, 0.9)
        arguments = (p["images"], p["rate"], p["start"], p["steps"], p["points"])
        peaks[steps] = peak_of_saved_tensors(partial(p["student"].gradient, *arguments))

        def unroll(p: dict[str, Any] = p) -> None:
            images = p["images"].clone().requires_grad_(True)
            torch.autograd.backward(unrolled(p, images, p["rate"].clone().requires_grad_(True)))

        unrolls[steps] = peak_of_saved_tensors(unroll)
    if torch.__version__.startswith("2.6."):  # keeps a kilobyte a step that later ones do not
        assert peaks[40] - peaks[5] <= 0.01 * (unrolls[40] - unrolls[5]), (peaks, unrolls)
    else:
        assert peaks[40] <= 1.05 * peaks[5], peaks  # DSA's operation differs from step to step
    assert unrolls[40] > 5 * unrolls[5] > 5 * peaks[5], (unrolls, peaks)


def test_kept_graphs_take_no_more_memory_than_is_said() -> None:
    network = networks.build("convnet", num_classes=10, channels=3, image_size=32, depth=3, width=16)
    flat = Flat(network)
    start = flat.join(list(network.parameters())).detach()
    points = [matching.Point(4, start + 0.1, 1.0)]
    student = Student(flat, torch.arange(5), momentum=0.0, balance=1.0, strategy="color_crop", keeps_graphs=True)
    steps = [Step(torch.arange(5), seed) for seed in range(4)]
    peak = peak_of_saved_tensors(lambda: student.gradient(torch.randn(5, 3, 32, 32), torch.tensor(0.01), start, steps, points))
    said = 5 * 4 * matching.GRAPH_BYTES * 16 * 32**2
    assert 0.3 * said < peak < 1.2 * said, (peak, said)
    fits = matching.CPU_GRAPH_BYTES // (matching.GRAPH_BYTES * 128 * 32**2)
    assert matching.keeps_graphs(fits, 1, 32, 128, torch.device("cpu"))
    assert not matching.keeps_graphs(fits + 1, 1, 32, 128, torch.device("cpu"))


def test_fewer_images_at_once_need_less_memory() -> None:
    whole, parts = (problem(3, 0.0, part=part) for part in (2048, 2))

    def call(p: dict[str, Any]) -> object:
        return p["student"].gradient(p["images"], p["rate"], p["start"], p["steps"], p["points"])

    assert peak_of_saved_tensors(lambda: call(parts)) < 0.6 * peak_of_saved_tensors(lambda: call(whole))


# -- what surrounds the student --------------------------------------------------------------------------------------------------


def test_balanced_loss_has_the_papers_coefficients() -> None:
    """Values of Eq. 2, by hand: log(|t - m| + 8) or its inverse, m = 10."""
    for kind, expected in (("paper", (0.346, 0.455, 2.079, 2.833)), ("released", (0.557, 0.732, 1.292, 1.760))):
        assert [matching.balance(t, 20, kind) for t in (0, 9, 10, 19)] == pytest.approx(expected, abs=6e-4)
    assert matching.balance(3, 20, "none") == 1.0


def test_points_lie_where_the_variant_says() -> None:
    path = torch.randn(4, 11, generator=torch.Generator().manual_seed(0))
    places = {kind: [p.step for p in matching.points(path, path[0], 20, kind, "equal")] for kind in ("none", "paper", "released")}
    assert places == {"none": [20], "paper": [6, 13, 20], "released": [6, 12, 20]}
    for point, epoch in zip(matching.points(path, path[0], 20, "paper", "varied"), (1, 2, 3), strict=True):
        distance = float((path[0] - path[epoch]).square().sum())
        assert point.target.equal(path[epoch]) and point.scale == pytest.approx(epoch / 3 / distance)
    with pytest.raises(MabenchError, match="did not move"):
        matching.points(path[:1].expand(3, -1), path[0], 20, "none", "equal")


def test_perturbation_moves_filters_by_their_length() -> None:
    network = networks.build("convnet", num_classes=4, channels=3, image_size=8, depth=2, width=4)
    flat = Flat(network)
    weights = flat.join(list(network.parameters())).detach()
    assert matching.perturbed(weights, flat, "none", 0.1, torch.Generator()) is weights
    offsets = {
        kind: [
            (moved - own, own)
            for moved, own in zip(
                flat.split(matching.perturbed(weights, flat, kind, 0.1, torch.Generator().manual_seed(0))),
                flat.split(weights),
                strict=True,
            )
        ]
        for kind in ("paper", "released")
    }
    for offset, own in offsets["paper"]:
        if own.dim() == 1:
            assert not offset.any()
        else:
            assert torch.allclose(offset.flatten(1).norm(dim=1), 0.1 * own.flatten(1).norm(dim=1), rtol=1e-4)
    for offset, own in offsets["released"]:
        if own.dim() < 4:
            assert not offset.any()
        else:  # the relative change, summed over the tensor, is a unit vector
            assert float((offset / own).norm()) == pytest.approx(1, rel=1e-4)


def test_inner_batches_use_every_row_before_any_twice() -> None:
    batches = matching.inner_batches(10, 4, 6, torch.Generator().manual_seed(0))
    assert [len(b) for b in batches] == [2, 4, 4, 2, 4, 4]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(10)) == sorted(torch.cat(batches[3:]).tolist())


@pytest.mark.parametrize("ipc", [1, 3, 10, 20, 50])
def test_representative_rows_are_distinct_and_as_many_as_asked_for(ipc: int) -> None:
    features = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    features[:90] *= 0.01  # one dense cluster, so that others are too small for their share
    picks = trajectory.representative(features, ipc, "paper", 0)
    assert len(set(picks)) == len(picks) == ipc and max(picks) < 120
    if ipc == 1:
        assert picks == [int(((features - features.mean(0)) ** 2).sum(1).argmin())]
    if ipc % 10 == 0:
        assert len(trajectory.representative(features, ipc, "released", 0)) == ipc


# -- experts ---------------------------------------------------------------------------------------------------------------------

FEW = ExpertConfig(count=2, epochs=3, batch=64, width=8, epoch_images=200)


def pool(config: ExpertConfig, folder: Path | None = None, train: RealData = DIGITS) -> list[buffers.Expert]:
    return buffers.train_pool(train, RealImages(train, CPU), config, folder, part=25)


@pytest.mark.parametrize("kind", ["paper", "released"])
@pytest.mark.parametrize("of", ["logit-sum", "true-logit"])
def test_gradient_penalty_is_what_finite_differences_say(kind: str, of: str) -> None:
    torch.manual_seed(0)
    network = networks.build("convnet", num_classes=4, channels=3, image_size=8, depth=2, width=4).double()
    images, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    value, slopes = buffers.gradient_penalty(network, images, labels, kind=kind, of=of, part=2)

    def output(x: Tensor) -> Tensor:
        logits: Tensor = network(x).detach()
        return logits.sum(1) if of == "logit-sum" else logits.gather(1, labels[:, None])[:, 0]

    slope = torch.empty(5, 3 * 64, dtype=torch.float64)  # d output / d input, one input value after the other
    for i in range(3 * 64):
        nudge = torch.zeros(3 * 64, dtype=torch.float64)
        nudge[i] = 1e-6
        slope[:, i] = (output(images + nudge.view(1, 3, 8, 8)) - output(images - nudge.view(1, 3, 8, 8))) / 2e-6
    norms = slope.norm(dim=1) if kind == "paper" else slope.view(5, 3, 8, 8).norm(dim=1)
    assert float(value) == pytest.approx(buffers.PENALTIES[kind] * float((norms - 1).square().mean()), rel=1e-5)

    parameter, own = next(iter(network.parameters())), slopes[0]
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            parameter.data[0, 0, 0, 0] += sign * 1e-6
            values.append(float(buffers_penalty(network, images, labels, kind, of)))
            parameter.data[0, 0, 0, 0] -= sign * 1e-6
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(own[0, 0, 0, 0]), rel=1e-4, abs=1e-8)


def buffers_penalty(network: networks.Network, images: Tensor, labels: Tensor, kind: str, of: str) -> Tensor:
    with torch.enable_grad():
        return buffers.gradient_penalty(network, images, labels, kind=kind, of=of)[0]


def test_schedules_are_those_of_the_papers() -> None:
    paper, released = ExpertConfig(), presets.RELEASED
    assert [paper.clip_at(e) for e in (0, 1, 4, 5, 49)] == [0.5, 0.6, 0.9, 1, 1]
    assert [released.clip_at(e) for e in (0, 1, 9, 10)] == [0.5, 0.55, 0.95, 1]
    assert [paper.rate_at(e) / paper.rate for e in (24, 25, 49)] == [1, 0.5, 0.5]
    assert [released.rate_at(e) / released.rate for e in (26, 27, 49)] == [1, 0.6, 0.6]
    assert presets.PLAIN.rate_at(49) == presets.PLAIN.rate == 0.01


def test_experts_are_snapshots_of_one_way(tmp_path: Path) -> None:
    experts = pool(FEW, tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["expert-000.safetensors", "expert-001.safetensors"]
    for expert in experts:
        rows = expert.rows(0, -1)
        assert rows.shape[0] == 4 and rows.dtype == torch.float32
        moved = (rows[1:] - rows[:-1]).square().sum(1)
        assert moved.tolist() == pytest.approx(expert.variation, rel=1e-4) and min(expert.variation) > 0
        assert expert.average_variation == pytest.approx(float(moved.mean()), rel=1e-4)
        assert expert.rows(1, 2).equal(rows[1:3])
    assert not experts[0].rows(0, 0).equal(experts[1].rows(0, 0))
    before = [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())]
    again = pool(replace(FEW, count=3), tmp_path)  # a larger pool keeps what is there
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())][:2] == before and len(again) == 3
    in_memory = pool(FEW)
    assert all(a.rows(0, -1).equal(b.rows(0, -1)) for a, b in zip(in_memory, experts, strict=True))
    header, first, *_ = buffers.table(experts).splitlines()
    assert header == "expert,avg_var,train_accuracy,variation_1,variation_2,variation_3" and first.startswith("0,")


@pytest.mark.parametrize(
    "change", [{}, {"momentum": 0.0, "storage": "float16", "penalty": "none"}, {"decay": "released", "epochs": 6}]
)
def test_an_expert_that_is_continued_is_the_one_trained_in_one_go(change: dict[str, Any], tmp_path: Path) -> None:
    """Bit for bit, wherever it stopped; a shorter request reads the beginning of a longer one, from the same folder."""
    config = replace(FEW, **change)
    whole, last = pool(config), config.epochs
    real, lengths = RealImages(DIGITS, CPU), [[1, 2], [2, 1], [last, last], [1, last]]
    assert buffers.folder_name(config, DIGITS) == buffers.folder_name(replace(config, stop_after=1, count=9), DIGITS)
    for wanted in lengths:
        found = buffers.train_pool(DIGITS, real, config, tmp_path, part=25, epochs=wanted)
        for expert, one_go, epochs in zip(found, whole, wanted, strict=True):
            assert expert.rows(0, -1).shape[0] == epochs + 1 and expert.rows(0, -1).equal(one_go.rows(0, epochs))
            assert expert.variation == one_go.variation[:epochs] and expert.accuracy == one_go.accuracy[:epochs]
    assert len(buffers.load(tmp_path / "expert-000.safetensors").variation) == last, "what is there is not cut"
    header, first, second = buffers.table(found).splitlines()
    assert header.count(",") == first.count(",") == second.count(",") == 2 + last


def test_only_the_expert_that_chooses_images_is_trained_to_its_end() -> None:
    """AST at IPC 1 reads epochs 0 to 3 of its 50; MTT's three budgets share one pool."""
    config = presets.paper("cifar10", 1)
    epochs = trajectory.read_epochs(config, 5)
    assert sorted(epochs) == [3] * 49 + [50] and epochs != trajectory.read_epochs(config, 6)
    chooser = int(torch.randint(50, (), generator=kit.generators(5, ("images",))["images"]))  # what `initial` draws
    assert epochs[chooser] == 50
    plain = [presets.mtt("cifar10", ipc) for ipc in (1, 10, 50)]
    assert [set(trajectory.read_epochs(config, 0)) for config in plain] == [{3}, {21}, {41}]
    assert len({buffers.folder_name(config.experts, DIGITS) for config in plain}) == 1


def test_half_precision_halves_the_file_and_keeps_the_way(tmp_path: Path) -> None:
    full, half = pool(FEW, tmp_path / "full")[0], pool(replace(FEW, storage="float16"), tmp_path / "half")[0]
    assert full.path and half.path
    assert half.path.stat().st_size < 0.6 * full.path.stat().st_size
    assert half.variation == full.variation
    error = (half.rows(0, -1) - full.rows(0, -1)).square().sum(1)
    assert float(error.max()) < 5e-3 * min(full.variation)  # of experts that hardly move


def test_a_damaged_expert_is_named(tmp_path: Path) -> None:
    pool(replace(FEW, count=1), tmp_path)
    path = tmp_path / "expert-000.safetensors"
    whole = path.read_bytes()
    digit = whole.index(b"0.", whole.index(b"accuracy")) + 3
    for changed in (
        whole[:200],
        whole[:-1],
        flipped(whole, len(whole) - 1),
        flipped(whole, len(whole) // 2),
        flipped(whole, digit),
    ):
        path.write_bytes(changed)
        with pytest.raises(MabenchError, match="not a complete expert"):
            pool(FEW, tmp_path)
    path.write_bytes(whole)
    assert len(pool(FEW, tmp_path)) == FEW.count


# -- the whole method --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["trajectory", "mtt"])
def test_smoke_on_digits(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    config: Any = load(method).presets["smoke"].config
    made = load(method).condense(DIGITS, config, 0, CPU, Run(tmp_path))
    assert made.class_counts == (1,) * 10 and made.images.dtype == torch.float32 and made.label_kind == "hard"
    card = (tmp_path / "card.toml").read_text()
    rate = float((tmp_path / "losses.csv").read_text().splitlines()[-1].split(",")[-1])
    assert f"learned rate {rate:.6g}" in card and rate != config.start_rate
    assert "avg_var" in (tmp_path / "experts.csv").read_text() and "avg var" in (tmp_path / "losses.csv").read_text()
    assert load(method).condense(DIGITS, config, 0, CPU).sha256 == made.sha256, "experts in memory or in files: the same"
    heard = []
    run = Run(tmp_path / "other", lambda at, total, losses: heard.append((at, dict(losses))))
    other = load(method).condense(DIGITS, config, 1, CPU, run)
    assert other.sha256 != made.sha256
    assert [at for at, _ in heard] == [3, 6, 7, 8, 9], "found experts are not trained again, but their Avg Var is told"
    assert all(list(losses) == ["avg var"] for _, losses in heard[:2])


def test_matching_comes_nearer_to_a_fixed_target() -> None:
    """One expert, one start epoch, no augmentation: the loss has to fall, and the images are what makes it fall."""
    base: Any = MTT.presets["smoke"].config
    config = replace(
        base,
        experts=replace(FEW, count=1, epochs=2, momentum=0.9, rate=0.01),
        max_start=1, iterations=40, student_steps=6, augmentation="", image_rate=300.0, rate_rate=0.0, start_rate=0.05,
    )  # fmt: skip
    run = Run()
    MTT.condense(DIGITS, config, 0, CPU, run)
    losses = [values["matching"] for _, values in run.losses if "matching" in values]
    assert losses[-1] < 0.9 * losses[0], losses


def cut_short() -> trajectory.Config:
    base: Any = AST.presets["smoke"].config
    config: trajectory.Config = replace(
        base, experts=replace(base.experts, epochs=2, epoch_images=256), iterations=4, max_start=1
    )
    return config


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of `cut_short`."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "STEP_IMAGES", 128)
        patch.setenv("MABENCH_CACHE", str(folder / "cache"))
        AST.condense(DIGITS, cut_short(), 0, CPU, Run(folder))
    return folder


@pytest.mark.parametrize("stop_at", [1, 4, 6, 8, 10])  # in an epoch, with an expert, in the next one, before and in matching
def test_an_interruption_changes_nothing(
    stop_at: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "STEP_IMAGES", 128)
    monkeypatch.setenv("MABENCH_CACHE", str(tmp_path / "cache"))
    config, steps, done = cut_short(), 0, []
    parts = [buffers.ExpertTraining.parts(config.experts, len(DIGITS.labels), e) for e in trajectory.read_epochs(config, 0)]
    assert sum(parts) == 8

    def count(at: int, total: int, losses: object) -> None:
        nonlocal steps
        steps += 1

    with pytest.raises(Interrupted):
        AST.condense(DIGITS, config, 0, CPU, Run(tmp_path, count, lambda: steps == stop_at))
    resumed = AST.condense(DIGITS, config, 0, CPU, Run(tmp_path, lambda at, total, losses: done.append(at)))
    assert done == list(range(stop_at + 1, 13)), "continues where it stopped"
    whole = synthetic.load(uninterrupted / "set.safetensors")
    assert resumed.sha256 == whole.sha256 and resumed.learning_rate == whole.learning_rate
    assert f'note = "learned rate {whole.learning_rate:.6g}"' in (uninterrupted / "card.toml").read_text()
    assert (tmp_path / "losses.csv").read_text() == (uninterrupted / "losses.csv").read_text()


@pytest.mark.slow
def test_the_paper_suite_trains_at_the_rate_that_the_set_brings(mabench: Command, uninterrupted: Path, tmp_path: Path) -> None:
    """AST's recipe, shortened, on digits: the record names the rate, and another rate is another set with another result."""
    text = (suites.FOLDER / "cifar10-ast@1.toml").read_text()
    for old, new in {
        'name = "cifar10-ast"': 'name = "digits-ast"', 'dataset = "cifar10"': 'dataset = "digits"', "[0, 1, 2, 3, 4]": "[0]",
        "convnet3-scratch": "mlp-scratch", "epochs = 1001": "epochs = 4", "test_every = 20": "test_every = 2", "after = 502": "after = 2",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "mine.toml").write_text(text)
    learned = synthetic.load(uninterrupted / "set.safetensors").learning_rate
    found = {}
    for name, flags in {"own": (), "other": ("--learned-rate", "0.5")}.items():
        done = mabench(
            "eval", uninterrupted / "set.safetensors", "--suite", "mine.toml", "--out", name, "--device", "cpu", *flags
        )
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / name / "records").iterdir()
        found[name] = json.loads(path.read_text())
        rate = found[name]["synthetic_set"]["learning_rate"]
        assert (
            rate == (0.5 if flags else learned)
            and f"rate learned with the images: {rate:.6g}" in (tmp_path / name / "table.md").read_text()
        )
    assert found["own"]["cell"]["recipe"]["rate"] == "learned" and found["own"]["train_loss"] != found["other"]["train_loss"]
    assert found["own"]["cell"]["set_sha256"] != found["other"]["cell"]["set_sha256"]


def shaped_like(name: str, per_class: int) -> RealData:
    entry = DATASETS[name]
    generator = np.random.default_rng(0)
    shape = (entry.num_classes * per_class, entry.channels, entry.image_size, entry.image_size)
    images = generator.integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(entry.num_classes).repeat(per_class)
    return RealData(images, labels, entry, "train", "made in the test")


@pytest.mark.parametrize(("name", "depth"), [("cifar100", 3), ("tinyimagenet", 4)])
def test_runs_on_data_of_other_shapes(name: str, depth: int) -> None:
    train = shaped_like(name, 3)
    base: Any = AST.presets["smoke"].config
    config = replace(base, experts=replace(base.experts, count=1, epochs=3, width=4), iterations=1, student_steps=2, batch=32)
    assert config.experts.depth_at(train.dataset.image_size) == depth
    made = AST.condense(train, config, 0, CPU)
    assert made.class_counts == (1,) * train.dataset.num_classes
    assert made.images.shape[-1] == train.dataset.image_size and torch.isfinite(made.images).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": "released"}, "Use initial = paper"),
        ({"perturbation": "strong"}, "Allowed: none, paper, released"),
        ({"max_start": 60}, "Lower max_start"),
        ({"student_steps": 1}, "a step for every epoch"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    paper: Any = AST.presets["paper-ipc1"].config
    with pytest.raises(MabenchError, match=message):
        replace(paper, **change)
    with pytest.raises(MabenchError, match="Allowed: none, paper, released"):
        ExpertConfig(clip="norm")  # type: ignore[arg-type]


def test_published_settings_make_configurations() -> None:
    assert presets.paper("cifar100", 50).batch == 1000 and presets.mtt("tinyimagenet", 10).image_rate == 10000
    assert presets.released("cifar10", 10).rate_rate == 1e-6
    assert presets.paper("imagenette", 1).experts.depth_at(128) == 5
    with pytest.raises(MabenchError, match="Did you mean 'tinyimagenet 10'"):
        presets.paper("tinyimagenet", 100)


def test_presets_and_tables_belong_together() -> None:
    for method in ("trajectory", "mtt"):
        assert METHODS[method].value.startswith("mabench_methods.trajectory")
        names = load(method).presets
        assert {"paper-ipc1", "paper-ipc10", "paper-ipc50", "lite", "smoke"} <= set(names)
        tables = papers.tables(method)
        assert {t.ipc for t in tables if t.dataset == "cifar10"} == {1, 10, 50}
        for table in tables:
            loaded_suite = suites.load(table.suite)
            assert loaded_suite.suite.dataset == table.dataset and table.ipc in loaded_suite.suite.ipcs
            assert set(table.values) <= {e.name for es in loaded_suite.evaluators.values() for e in es}
    ours = {t.ipc: t.values["convnet3-scratch"][0] for t in papers.tables("trajectory") if t.suite == "cifar10-ast"}
    assert ours == {1: 48.8, 10: 67.1, 50: 74.6}
