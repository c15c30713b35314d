"""HMDC: matching gradients against finite differences, the modules against arithmetic, shapes, resume."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from mabench import data
from mabench.errors import Interrupted, MabenchError
from mabench.networks import architectures as networks
from mabench.networks import evaluators
from mabench.networks.evaluators import EVALUATORS
from mabench.papers import condensing
from mabench.results import paper_tables as papers
from mabench.sets import synthetic
from mabench_methods import Method
from mabench_methods.hmdc import condense as hmdc
from mabench_methods.hmdc import config as settings
from mabench_methods.hmdc.balance import GradientBalance, Record, normalised
from mabench_methods.hmdc.config import CHOICES, Config
from mabench_methods.hmdc.decomposition import Alignment, Distillation, SpatialNetwork, shapes
from mabench_methods.hmdc.images import augmented, tiles
from mabench_methods.hmdc.learners import Learner
from mabench_methods.hmdc.matching import gradient_distance, matching_losses
from mabench_methods.hmdc.presets import ABLATIONS, METHOD, SMOKE
from mabench_methods.hmdc.rivals import DREAM, IDC
from mabench_methods.hmdc.selection import representatives
from mabench_methods.hmdc.state import State
from mabench_methods.kit import RealImages, Run, k_means, read_state

CPU = torch.device("cpu")
DIGITS = data.DATASETS["digits"]
TINY = Config(
    1,
    networks=("convnet3-scratch", "lenet-scratch"),
    width=4,
    iterations=2,
    steps=2,
    real_batch=4,
    network_batches=1,
    network_batch=8,
    period=2,
    pool=8,
)


def two_classes() -> RealImages:
    """Digits 0 and 1: a step costs a fifth."""
    train = data.load("digits", "train")
    rows = train.labels < 2
    return RealImages(
        replace(train, images=train.images[rows], labels=train.labels[rows], dataset=replace(DIGITS, num_classes=2)), CPU
    )


def at(name: str, side: int) -> Any:
    return EVALUATORS[name].model_copy(update={"input_size": side})


def small(kind: str, side: int = 8, **options: Any) -> SpatialNetwork:
    """Smooth networks, so that finite differences mean something."""
    torch.manual_seed(sum(map(ord, kind)))
    model: torch.nn.Module
    if kind == "vit":
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=side, patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=10
        )
        return SpatialNetwork(at("vit_mini-scratch", side), model, DIGITS, **options)
    if kind == "swin":
        model = timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=side,
            patch_size=2,
            window_size=2,
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
            num_classes=10,
            drop_path_rate=0.0,
        )
        return SpatialNetwork(at("swin_tiny-scratch", side), model, DIGITS, **options)
    norm = "batch" if kind == "batchnorm" else "instance"
    model = networks.ConvNet(10, 3, side, depth=2, width=4, activation="swish", norm=norm)
    return SpatialNetwork(at("convnet3-scratch", side), model, DIGITS, **options)


class Alone(Learner):
    """A learner around a network that is there, in float64."""

    def __init__(self, network: SpatialNetwork) -> None:
        self.network = network.double()


def pair_of(first: str, second: str, softmax: str = "paper") -> tuple[list[Learner], Distillation]:
    learners: list[Learner] = [Alone(small(first)), Alone(small(second))]
    blank = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    torch.manual_seed(3)
    distillation = Distillation([shapes(learner.network.eval()(blank)[1]) for learner in learners], softmax).double()
    for learner in learners:
        learner.network.train()
    return learners, distillation


@pytest.mark.parametrize(
    ("first", "second", "softmax", "distance"),
    [
        ("convnet", "vit", "released", "released"),
        ("convnet", "vit", "paper", "paper"),
        ("batchnorm", "swin", "paper", "released"),
        ("swin", "vit", "released", "paper"),
        ("convnet", "vit", "paper", "absolute"),
    ],
)
def test_every_matching_loss_has_the_gradient_of_finite_differences(first: str, second: str, softmax: str, distance: str) -> None:
    pair, distillation = pair_of(first, second, softmax)
    torch.manual_seed(0)
    real, own = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        for alignment in distillation.alignments:
            cast(Alignment, alignment).matching.normal_()
    config = replace(TINY, distance=distance)  # type: ignore[arg-type]

    def losses(images: torch.Tensor) -> list[torch.Tensor]:
        every = matching_losses(pair, distillation, real[None], images[None], torch.tensor([4]), config)
        return list(every[:, 0])

    step = 1e-5
    found = [torch.autograd.grad(loss, own, retain_graph=True)[0] for loss in losses(own)]
    assert len(found) == 3 and all(float(g.abs().max()) > 0 for g in found)
    coordinates = torch.randint(0, 24, (5, 4)) % torch.tensor([2, 3, 8, 8])
    for where in map(tuple, coordinates.tolist()):
        moved = []
        for sign in (1, -1):
            shifted = own.detach().clone()
            shifted[where] += sign * step
            moved.append([float(loss.detach()) for loss in losses(shifted)])
        for gradient, ahead, behind in zip(found, *moved, strict=True):
            measured = (ahead - behind) / (2 * step)
            assert measured == pytest.approx(float(gradient[where]), rel=2e-5, abs=1e-7 * float(gradient.abs().max()))


def test_the_gradient_reaches_the_stored_images_through_augmentation_and_tiles() -> None:
    pair, _ = pair_of("convnet", "vit")
    torch.manual_seed(1)
    stored = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    real = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for plan in ("paper", "released"):
        config = replace(TINY, ipc=2, augmentation=plan)

        def loss(images: torch.Tensor, config: Config = config) -> torch.Tensor:
            own = tiles(images, config, torch.Generator())
            batch, own = (augmented(config, x, None, 11, siamese=True)[0] for x in (real, own))
            return matching_losses(pair, None, batch[None], own[None], torch.tensor([1]), config)[0].sum()

        (gradient,) = torch.autograd.grad(loss(stored), stored)
        direction = torch.randn_like(gradient)
        ahead, behind = (float(loss(stored.detach() + sign * 1e-5 * direction).detach()) for sign in (1, -1))
        assert (ahead - behind) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_gradient_distance_is_a_sum_or_a_mean_of_squares_or_a_sum_of_differences() -> None:
    """Two classes; the second parameter takes no part in the loss."""
    own: list[torch.Tensor | None] = [torch.tensor([[1.0, 2.0], [0.0, 0.0]]), None, torch.tensor([[[3.0]], [[5.0]]])]
    real: list[torch.Tensor | None] = [torch.tensor([[0.0, 4.0], [0.0, 0.0]]), None, torch.tensor([[[1.0]], [[4.0]]])]
    assert gradient_distance(own, real, replace(TINY, distance="released")).tolist() == [1 + 4 + 4, 1]
    assert gradient_distance(own, real, replace(TINY, distance="paper")).tolist() == pytest.approx([9 / 3, 1 / 3])
    assert gradient_distance(own, real, replace(TINY, distance="absolute")).tolist() == [1 + 2 + 2, 1]
    kernel: list[torch.Tensor | None] = [torch.ones(2, 3, 3, 1, 1)]
    only = gradient_distance(own + kernel, real + [torch.zeros(2, 3, 3, 1, 1)], replace(TINY, matched="convolutions"))
    assert only.tolist() == [9, 9]


@pytest.mark.parametrize(("first", "second"), [("convnet", "vit"), ("swin", "vit")])
def test_classes_side_by_side_give_what_they_give_one_after_the_other(first: str, second: str) -> None:
    pair, distillation = pair_of(first, second)
    torch.manual_seed(0)
    real, labels = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 7, 2])
    images = torch.randn(3, 2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    joint = matching_losses(pair, distillation, real, images, labels, TINY)
    (gradient,) = torch.autograd.grad(joint.sum(), images)
    for k in range(3):
        alone = matching_losses(pair, distillation, real[k : k + 1], images[k : k + 1], labels[k : k + 1], TINY)
        torch.testing.assert_close(alone[:, 0], joint[:, k], rtol=1e-12, atol=0)
        (own,) = torch.autograd.grad(alone.sum(), images)
        torch.testing.assert_close(own[k], gradient[k], rtol=1e-9, atol=1e-12 * float(gradient.abs().max()))


@pytest.mark.parametrize("kind", ["convnet", "vit", "swin"])
def test_passes_that_are_differentiated_once_give_the_same(kind: str) -> None:
    """Fused attention against the plain one."""
    learner = Alone(small(kind))
    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)

    def outputs(once: bool) -> list[torch.Tensor]:
        with learner.network.configured(once=once):
            logits, features = learner.network(images)
        weighted = torch.stack([(x * x.detach().sin()).sum() for x in (logits, *features[0], *features[-1])]).sum()
        gradients = torch.autograd.grad(weighted, list(learner.network.parameters()), allow_unused=True)
        return [logits, *(g for g in gradients if g is not None)]

    for fast, plain in zip(outputs(True), outputs(False), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-11)


def test_siamese_augmentation_treats_real_and_synthetic_alike() -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 3, 8, 8)
    for plan in ("paper", "released"):
        config = replace(
            TINY,
            augmentation=plan,
            networks=("vit_tiny-pretrained",) if plan == "released" else TINY.networks,
            rates=TINY.rates[: 1 if plan == "released" else 2],
        )
        for seed in range(12):  # some with CutMix, whose partners may differ
            whole, _ = augmented(config, images, None, seed, siamese=True)
            same, _ = augmented(config, images[:1].expand(3, -1, -1, -1), None, seed, siamese=True)
            assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])  # one operation for all
            mixed = whole != torch.cat([augmented(config, x.unsqueeze(0), None, seed, siamese=True)[0] for x in images])
            assert plan == "paper" or not mixed.any()  # released: no CutMix when the first network is a transformer


# -- Gradient Balance Module ---------------------------------------------------------------------------------------------------


def test_weights_are_smallest_over_own_accumulator() -> None:
    balance = GradientBalance(2, 3, "released")
    first, both = torch.tensor([0]), torch.arange(2)
    balance.add(first, torch.tensor([[8.0, 2.0, 4.0]]))
    assert balance.add(first, torch.tensor([[8.0, 0.0, 4.0]])).tolist() == [[2 / 16, 1.0, 2 / 8]]
    assert balance.weights(both).tolist() == [[2 / 16, 1.0, 2 / 8], [1.0, 1.0, 1.0]]  # of the other class nothing has been seen
    balance.restart()
    assert balance.weights(both).tolist() == [[1.0, 1.0, 1.0]] * 2


def test_the_papers_accumulator_is_one_for_all_classes_and_is_never_emptied() -> None:
    samples, both = torch.tensor([[1.0, 3.0], [1.0, 5.0]]), torch.arange(2)
    balance = GradientBalance(2, 2, "paper")
    assert balance.add(both, samples).tolist() == [[1.0, 1 / 3], [1.0, 0.25]]  # each class after those before it
    balance.restart()
    assert balance.weights(both).tolist() == [[1.0, 0.25]] * 2
    in_turn = GradientBalance(2, 2, "paper")
    for label in both.split(1):  # type: ignore[no-untyped-call]
        in_turn.add(label, samples[label])
    assert torch.equal(in_turn.sums, balance.sums)


def test_a_loss_without_a_gradient_has_no_part_in_the_minimum() -> None:
    balance = GradientBalance(1, 3)
    assert balance.add(torch.tensor([0]), torch.tensor([[4.0, 0.0, 1.0]])).tolist() == [[0.25, 1.0, 1.0]]


@pytest.mark.parametrize("way", ["paper", "released"])
def test_the_unit_of_a_loss_does_not_move_the_images(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loss in turn is multiplied by 1e-6 and 1e6, where the steps of a condensation ask for it: a sampled step and one that is not."""
    config = replace(TINY, accumulator=way, image_gradient=way)  # type: ignore[arg-type]
    real = two_classes()

    def moved(factors: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        def scaled(*arguments: Any) -> torch.Tensor:
            return matching_losses(*arguments) * torch.tensor(factors)[:, None]

        monkeypatch.setattr(hmdc, "matching_losses", scaled)
        state = State(config, real, 0)
        state.begin()
        start = state.images.detach().clone()
        for step in range(2):
            hmdc._step(state, step)
        return state.images.detach() - start, state.balance.sums

    reference, sums = moved([1.0, 1.0, 1.0])
    assert float(reference.abs().max()) > config.image_rate and bool((sums > 0).all())
    for loss in range(3):
        for factor in (1e-6, 1e6):
            factors = [1.0, 1.0, 1.0]
            factors[loss] = factor
            found, scaled_sums = moved(factors)
            torch.testing.assert_close(scaled_sums, sums * torch.tensor(factors), rtol=1e-3, atol=0)
            torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-3 * config.image_rate)


def test_balanced_gradients_are_equal_after_one_sample() -> None:
    magnitudes, label = torch.tensor([[3.0, 0.02, 0.4]], dtype=torch.float64), torch.tensor([0])
    balance, record = GradientBalance(1, 3), Record(("L1", "L2", "L3"))
    record.add(0, label, magnitudes, balance.add(label, magnitudes))
    assert record.rows[0][5:] == pytest.approx([0.02] * 3, rel=1e-12)


def test_without_the_module_weights_are_one() -> None:
    balance = GradientBalance(1, 2, enabled=False)
    assert balance.add(torch.tensor([0]), torch.tensor([[1.0, 100.0]])).tolist() == [[1.0, 1.0]]


def test_normalisation_per_image_and_per_channel() -> None:
    gradient = torch.zeros(2, 2, 2, 2)
    gradient[0, 0, 0, 0], gradient[0, 1, 1, 1], gradient[1, 0, 0, 1] = 4.0, -2.0, 1e-3
    image = normalised(gradient, "paper")
    assert float(image[0, 0, 0, 0]) == 1 and float(image[0, 1, 1, 1]) == -0.5
    channel = normalised(gradient, "released")
    assert float(channel[0, 1, 1, 1]) == -1 and float(channel[1, 0, 0, 1]) == 1 and float(channel[1, 1].abs().max()) == 0


# -- Spatial-Semantic Decomposition --------------------------------------------------------------------------------------------


def network_of(name: str, side: int = 0, **options: Any) -> SpatialNetwork:
    evaluator = EVALUATORS[name].model_copy(update={"pretrained": False})
    if side:
        evaluator = settings.resized(evaluator, side)
    model = evaluators.build(evaluator, num_classes=10, channels=3, image_size=evaluator.input_size, seed=0)
    return SpatialNetwork(evaluator, model, data.DATASETS["cifar10"], **options).eval()


@pytest.mark.parametrize(
    ("name", "side", "options", "expected"),
    [
        ("convnet3-scratch", 0, {}, [(128, 16), (128, 8), (128, 4)]),
        ("convnet3-scratch", 0, {"repeat_last": True}, [(128, 16), (128, 8), (128, 4), (128, 4)]),
        ("vit_tiny-pretrained", 0, {}, [(192, 14)] * 12),
        ("vit_tiny-pretrained", 64, {}, [(192, 4)] * 12),
        ("vit_mini-scratch", 0, {}, [(128, 8)] * 6),
        ("vit_mini-scratch", 16, {}, [(128, 4)] * 6),
        ("swin_tiny-scratch", 0, {}, [(96, 16), (192, 8), (384, 4), (768, 2)]),
        ("resnet18-pretrained", 64, {}, [(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)]),
        ("resnet18-scratch", 0, {}, [(64, 32), (128, 16), (256, 8), (512, 4)]),
        ("efficientnet_lite0-pretrained", 64, {}, [(16, 32), (24, 16), (40, 8), (112, 4), (320, 2)]),
        ("lenet-scratch", 0, {}, [(6, 14), (16, 5)]),
    ],
)
def test_features_of_every_family(name: str, side: int, options: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    network = network_of(name, side, **options)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, features = network(images)
        resized = torch.nn.functional.interpolate(
            images, size=(network.evaluator.input_size,) * 2, mode="bilinear", align_corners=True
        )
        torch.testing.assert_close(logits, network.model(resized), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.head()(network.embed(images)), logits, rtol=1e-4, atol=1e-5)
    assert shapes(features) == expected
    for semantic, spatial in features:
        assert semantic.shape == spatial.shape[:2]
        if "vit" not in name:
            torch.testing.assert_close(semantic, spatial.mean((2, 3)))


def test_a_transformers_feature_is_its_class_token_and_its_map_in_reading_order() -> None:
    network = small("vit", side=16)
    seen: list[torch.Tensor] = []
    network.model.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr,index]
    _, features = network(torch.randn(2, 3, 16, 16))
    semantic, spatial = features[1]
    assert torch.equal(semantic, seen[0][:, 0])
    assert torch.equal(spatial[:, :, 1, 2], seen[0][:, 1 + 1 * 4 + 2])


def test_the_papers_pair_is_aligned_to_four_layers_of_seventeen_tokens_with_128_channels() -> None:
    pair = [[(128, 16), (128, 8), (128, 4), (128, 4)], [(192, 14)] * 12]
    features = [[(torch.randn(2, d), torch.randn(2, d, s, s)) for d, s in own] for own in pair]
    for softmax in ("paper", "released"):
        first, second = Alignment(*pair, softmax)(*features)  # type: ignore[arg-type, call-arg]
        assert first.shape == second.shape == (2, 4, 17, 128)
        swapped = Alignment(pair[1], pair[0], softmax)(features[1], features[0])
        assert swapped[0].shape == swapped[1].shape == (2, 4, 17, 128)


def test_the_softmax_of_the_paper_and_of_the_released_code() -> None:
    first, second = [(3, 2)] * 2, [(3, 2)] * 5
    features = [[(torch.randn(1, d), torch.randn(1, d, s, s)) for d, s in own] for own in (first, second)]
    for softmax in ("paper", "released"):
        alignment = Alignment(first, second, softmax)
        with torch.no_grad():
            alignment.matching.normal_()
        weights = alignment.weights()
        ones = weights.sum(1 if softmax == "paper" else 0)
        torch.testing.assert_close(ones, torch.ones_like(ones))
        raw = alignment.matching.exp()
        by_hand = raw / (raw.sum(1, keepdim=True) if softmax == "paper" else raw.sum(0, keepdim=True))
        tokens = [
            layer(torch.cat([semantic.unsqueeze(1), spatial.flatten(2).mT], 1))
            for layer, (semantic, spatial) in zip(alignment.affine[1], features[1], strict=True)  # type: ignore[call-overload]
        ]
        own, mixed = alignment(*features)
        for target in range(2):
            expected = sum(by_hand[target, layer] * tokens[layer] for layer in range(5))
            torch.testing.assert_close(mixed[:, target], expected)
        distance = distilling(alignment)(features)
        torch.testing.assert_close(distance, ((own - mixed) ** 2).mean())
    # at the start: means of all layers (paper), sums with weight layers / targets (released)
    assert float(Alignment(first, second, "paper").weights().sum(1)[0].detach()) == pytest.approx(1)
    assert float(Alignment(first, second, "released").weights().sum(1)[0].detach()) == pytest.approx(2.5)


def distilling(alignment: Alignment) -> Distillation:
    distillation = Distillation([[(3, 2)] * 2, [(3, 2)] * 5])
    distillation.alignments[0] = alignment
    return distillation


def test_three_networks_are_distilled_pair_by_pair() -> None:
    sizes = [[(3, 2)] * 2, [(4, 2)] * 3, [(5, 4)] * 2]
    features = [[(torch.randn(2, d), torch.randn(2, d, s, s)) for d, s in own] for own in sizes]
    distillation = Distillation(sizes)
    assert distillation.pairs == [(0, 1), (0, 2), (1, 2)]
    expected = 0.0
    for (i, j), alignment in zip(distillation.pairs, distillation.alignments, strict=True):
        first, second = alignment(features[i], features[j])
        expected += float(((first - second) ** 2).mean().detach())
    assert float(distillation(features).detach()) == pytest.approx(expected, rel=1e-5)


def test_fused_attention_is_for_passes_without_a_second_derivative_and_networks_without_a_map_are_refused() -> None:
    network = network_of("vit_mini-scratch")
    with network.configured(once=False):
        assert not any(getattr(m, "fused_attn", False) for m in network.modules())
    with network.configured(once=True):
        assert any(getattr(m, "fused_attn", False) for m in network.modules())
    with pytest.raises(MabenchError, match="no spatial features"):
        network_of("mlp-scratch")


def test_own_statistics_bring_images_to_those_of_the_weights() -> None:
    cifar, evaluator = data.DATASETS["cifar10"], EVALUATORS["efficientnet_lite0-pretrained"]
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cifar.mean, cifar.std))
    network = network_of("efficientnet_lite0-pretrained", 32, own_statistics=True)
    wanted_mean, wanted_std = (torch.tensor(v).view(1, 3, 1, 1) for v in (evaluator.mean, evaluator.std))
    with torch.no_grad():
        torch.testing.assert_close(
            network((pixels - mean) / std)[0], network.model((pixels - wanted_mean) / wanted_std), rtol=1e-4, atol=1e-4
        )


# -- images, selection, networks -----------------------------------------------------------------------------------------------


def test_tiles_are_what_the_evaluation_decodes() -> None:
    pixels = torch.rand(30, 3, 32, 32)
    stored = synthetic.SyntheticSet(
        images=pixels, labels=torch.arange(10).repeat_interleave(3), dataset="digits", ipc=3, decode="grid2"
    )
    decoded, labels = stored.decoded()
    config = replace(TINY, ipc=3)
    for label in (0, 7):
        own = tiles(pixels[label * 3 : label * 3 + 3], config, torch.Generator())
        torch.testing.assert_close(own, decoded[labels == label])
    some = tiles(pixels[:3], replace(config, synthetic_batch=5), torch.Generator().manual_seed(0))
    assert len(some) == 5
    assert torch.equal(tiles(pixels[:3], replace(config, formation=1), torch.Generator()), pixels[:3])


def test_k_means_finds_separate_heaps_and_their_nearest_points() -> None:
    torch.manual_seed(0)
    heaps = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    points = (heaps.unsqueeze(1) + torch.randn(3, 20, 2)).flatten(0, 1)
    centres = torch.tensor(k_means(points.numpy(), 3, seed=1, tries=4)[0])
    expected = points.view(3, 20, 2).mean(1)
    nearest = torch.cdist(expected, centres).min(1).values
    assert float(nearest.max()) < 1e-3
    picks = representatives(points, 3, torch.Generator().manual_seed(1), distinct=False)
    for heap in range(3):
        own = ((points - expected[heap]) ** 2).sum(1).argmin()
        assert int(own) in picks.tolist()
    assert len(set(representatives(points[:4], 4, torch.Generator(), distinct=True).tolist())) == 4


def test_resets_draw_what_they_should() -> None:
    released = Learner(at("convnet3-scratch", 32), DIGITS, CPU, 0, classifier_only=True)
    before = {k: v.clone() for k, v in released.network.state_dict().items()}
    released.reset(1)
    after = released.network.state_dict()
    changed = {k for k in after if not torch.equal(before[k], after[k])}
    assert not any("classifier" in k for k in changed) and any("features.0.weight" in k for k in changed)
    assert len(released.trained()) == 2 and len(released.named_parameters()) == 14
    whole = Learner(at("lenet-scratch", 32), DIGITS, CPU, 0)
    whole.keep_weights()
    assert whole.start is not None
    whole.reset(5)
    fresh = whole.network.head().weight.detach().clone()
    assert torch.equal(whole.network.state_dict()["model.features.0.weight"], whole.start["model.features.0.weight"])
    assert not torch.equal(fresh, whole.start["model.classifier.weight"])
    whole.reset(5)
    assert torch.equal(fresh, whole.network.head().weight)


# -- the whole -----------------------------------------------------------------------------------------------------------------


def made(folder: Path | None, config: Config, stop_at: int | None = None) -> synthetic.SyntheticSet:
    seen: list[Mapping[str, float]] = []
    run = Run(
        folder,
        on_progress=lambda done, total, losses: seen.append(losses),
        should_stop=lambda: len(seen) == stop_at,
    )
    return hmdc.condense(data.load("digits", "train"), config, 3, CPU, run)


# stops: in the pretraining, inside an iteration, behind the first step of the second iteration
@pytest.mark.parametrize(("side", "stops"), [pytest.param("released", (1, 3, 5), marks=pytest.mark.slow), ("paper", (4,))])
def test_interrupted_condensation_gives_the_same_set(tmp_path: Path, side: str, stops: tuple[int, ...]) -> None:
    config = replace(TINY, pretraining=2, **dict.fromkeys(CHOICES, side))  # type: ignore[arg-type]
    straight = made(tmp_path / "a", config)
    for stop in stops:
        folder = tmp_path / f"b{stop}"
        with pytest.raises(Interrupted):
            made(folder, config, stop)
        assert made(folder, config).sha256 == straight.sha256
        assert (folder / "gradient_balance.csv").read_text() == (tmp_path / "a" / "gradient_balance.csv").read_text()


def test_a_network_that_was_trained_first_is_found_again(tmp_path: Path) -> None:
    config = replace(TINY, pretraining=2, iterations=1)
    with pytest.raises(Interrupted):
        made(tmp_path, config, 3)
    (tmp_path / "checkpoint.pt").unlink()
    seen = []
    run = Run(tmp_path, on_progress=lambda done, total, losses: seen.append(set(losses)))
    again = hmdc.condense(data.load("digits", "train"), config, 3, CPU, run)
    assert {"pretraining"} not in seen and again.sha256 == made(None, config).sha256


def test_a_network_that_is_found_again_takes_no_draws_from_the_next(tmp_path: Path) -> None:
    networks = ("convnet3-scratch", "lenet-scratch", "vit_mini-scratch")
    config = replace(TINY, networks=networks, rates=(0.01,) * 3, pretraining=2, iterations=0)
    made(tmp_path / "whole", config)
    (tmp_path / "killed").mkdir()  # between the two trainings, before a checkpoint
    shutil.copy(tmp_path / "whole" / "lenet-scratch-trained.pt", tmp_path / "killed")
    made(tmp_path / "killed", config)
    whole, killed = (read_state(tmp_path / name / "vit_mini-scratch-trained.pt") for name in ("whole", "killed"))
    assert whole and all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_smoke_on_digits_leaves_a_whole_folder(tmp_path: Path) -> None:
    config = SMOKE
    result = made(tmp_path, config)
    assert result.decode == "grid2" and result.class_counts == (1,) * 10 and result.images.dtype == torch.float32
    assert float(result.images.min()) >= 0 and float(result.images.max()) <= 1
    assert result.sha256 == synthetic.load(tmp_path / "set.safetensors").sha256
    for name in ("gradient_balance.png", "gradient_balance.csv", "losses.png", "preview.png", "vit_mini-scratch-trained.pt"):
        assert (tmp_path / name).stat().st_size > 100
    card = (tmp_path / "card.toml").read_text()
    assert "vit_mini was first trained on 2 batches" in card and "vit_mini-scratch-trained.pt" in card
    lines = (tmp_path / "gradient_balance.csv").read_text().splitlines()
    assert lines[0] == "step,class,L1 before,L2 before,L3 before,L1 after,L2 after,L3 after"
    for line in lines[1:11]:  # the first sample of an iteration: all losses equal after the module
        _, _, *values = map(float, line.split(","))
        assert values[3:] == pytest.approx([min(values[:3])] * 3, rel=1e-5)


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_the_switches_of_table_2_and_3(name: str) -> None:
    config = replace(TINY, iterations=1, **ABLATIONS[name])
    losses: list[Mapping[str, float]] = []
    run = Run(on_progress=lambda done, total, found: losses.append(found))
    hmdc.condense(data.load("digits", "train"), config, 0, CPU, run)
    assert set(losses[0]) == {*config.losses, "step"} and all(math.isfinite(v) for found in losses for v in found.values())
    assert ("L3" in losses[0]) == config.mutual_distillation


def test_no_iterations_leave_the_initial_images_and_a_step_moves_them_as_far_as_its_rate_allows() -> None:
    start = made(None, replace(TINY, iterations=0))
    # they depend on seed and first network, not on the second or its training
    assert (
        start.sha256
        == made(None, replace(TINY, networks=("convnet3-scratch", "vit_mini-scratch"), iterations=0, pretraining=1)).sha256
    )
    for side in ("paper", "released"):
        config = replace(TINY, iterations=1, steps=1, image_rate=0.01, **(dict.fromkeys(CHOICES, side) | {"initial": "released"}))  # type: ignore[arg-type]
        losses: list[Mapping[str, float]] = []
        run = Run(on_progress=lambda done, total, found, losses=losses: losses.append(found))  # type: ignore[misc]
        end = hmdc.condense(data.load("digits", "train"), config, 3, CPU, run)
        std = torch.tensor(data.DATASETS["digits"].std).view(-1, 1, 1)
        moved = ((end.images - start.images) / std).abs()
        assert float(moved.max()) == pytest.approx(0.01, rel=1e-4)  # the first step is a whole one, whatever the losses are
        assert losses[0]["step"] == pytest.approx(255 * float((moved * std).mean()), rel=1e-3)


@pytest.mark.parametrize("side", [16, 64])
def test_a_transformer_takes_inputs_of_another_side(side: int) -> None:
    """One step: the map of tokens, patches of 4 px, and the alignment follow `input_size`; the ConvNet keeps its own."""
    config = replace(
        TINY,
        networks=("convnet3-scratch", "vit_mini-scratch"),
        input_size=side,
        real_batch=2,
        synthetic_batch=1,
        network_batch=2,
    )
    state = State(config, two_classes(), 0)
    assert [learner.evaluator.input_size for learner in state.learners] == [32, side]
    with torch.no_grad():
        features = [learner.in_evaluation(torch.zeros(1, 3, 32, 32))[1] for learner in state.learners]
    assert [shapes(of)[0][1] for of in features] == [16, side // 4]
    state.begin()
    start = state.images.detach().clone()
    losses = hmdc._step(state, 0)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values()) and set(losses) == {"L1", "L2", "L3", "step"}
    assert float((state.images.detach() - start).abs().max()) == pytest.approx(config.image_rate, rel=1e-3)


def test_a_dry_run_does_not_wait_for_a_long_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a paper's preset takes many minutes on a processor: its classes are told of, and enough of them give an estimate."""
    asked: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        asked.append(1)
        return matching_losses(*arguments)

    monkeypatch.setattr(hmdc, "matching_losses", counted)
    smoke = METHOD.presets["smoke"]
    preset = replace(smoke, config=replace(TINY, iterations=100, steps=100))
    begun = time.monotonic()
    whole = condensing.condensation_seconds(METHOD, preset, CPU)
    spent, steps = time.monotonic() - begun, len(asked) / 10
    assert steps == condensing.PROBE_STEPS  # short steps are tried whole
    asked.clear()
    monkeypatch.setattr(hmdc, "LONG_STEP", 0.0)
    estimate = condensing.condensation_seconds(METHOD, preset, CPU)
    assert len(asked) == condensing.PROBE_STEPS  # so many classes, of ten in a step
    for seconds in (whole, estimate):
        assert seconds > 100 * spent  # 10,000 steps, 4 of which are behind us
    seen: list[float] = []
    run = Run(on_progress=lambda done, total, losses: seen.append(done))
    hmdc.condense(data.load("digits", "train"), replace(TINY, iterations=1), 0, CPU, run)
    assert seen == sorted(seen) and [done for done in seen if done == int(done)] == [1, 2] and len(seen) == 22


def test_mistakes_are_refused() -> None:
    with pytest.raises(MabenchError, match="layer_softmax = 'sideways'. Allowed: paper, released"):
        replace(TINY, layer_softmax="sideways")  # type: ignore[arg-type]
    with pytest.raises(MabenchError, match="Did you mean"):
        hmdc.condense(data.load("digits", "train"), replace(TINY, networks=("convnet3-scratch", "lenet-scrath")), 0, CPU)
    with pytest.raises(MabenchError, match="give one rate per network"):
        hmdc.condense(data.load("digits", "train"), replace(TINY, networks=("convnet3-scratch",)), 0, CPU)
    with pytest.raises(MabenchError, match="30 px do not divide into its patches of 4"):
        assert replace(TINY, networks=("convnet3-scratch", "vit_mini-scratch"), input_size=30).evaluators
    with pytest.raises(MabenchError, match="train split"):
        hmdc.condense(data.load("digits", "test"), TINY, 0, CPU)
    with pytest.raises(MabenchError, match="formation = 3 does not divide the side of 32 pixels"):
        hmdc.condense(data.load("digits", "train"), replace(TINY, formation=3), 0, CPU)


def test_missing_weights_are_those_of_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        MabenchError, match="vit_tiny-pretrained: condenses the images.*hf download timm/vit_tiny.*--preset lite"
    ) as error:
        hmdc.condense(data.load("digits", "train"), replace(TINY, networks=("convnet3-scratch", "vit_tiny-pretrained")), 0, CPU)
    assert "--evaluator" not in str(error.value)


def test_presets_and_tables() -> None:
    presets: dict[str, Any] = {name: preset.config for name, preset in METHOD.presets.items()}
    assert {"paper-ipc1", "paper-ipc10", "paper-ipc50", "lite", "smoke"} <= set(presets)
    assert next(iter(presets)) == "released-ipc1"  # the first of a budget is what `mabench reproduce hmdc --ipc N` runs
    for name, config in presets.items():
        assert config.evaluators and (not name.startswith("paper") or all(getattr(config, c) == "paper" for c in CHOICES))
    printed = [49.36, 75.10, 79.96, 74.09, 73.21, 73.40, 39.07, 75.61]  # the paper's column "Average"
    found = papers.tables("hmdc")
    assert [round(sum(v[0] for v in t.values.values()) / 7, 2) for t in found] == printed
    for table in found:
        replace(presets["released-ipc10"], **table.config)


THREE = pytest.param(("convnet3-scratch", "lenet-scratch", "vit_mini-scratch"), marks=pytest.mark.slow)


@pytest.mark.parametrize("networks", [("convnet3-scratch",), THREE])
def test_one_network_or_three_condense_and_resume(tmp_path: Path, networks: tuple[str, ...]) -> None:
    config = replace(
        TINY,
        networks=networks,
        rates=(0.01,) * len(networks),
        iterations=1,
        network_momentum=0.9,
        distance="absolute",
        clamp="never",
    )
    straight = made(tmp_path / "a", config)
    with pytest.raises(Interrupted):
        made(tmp_path / "b", config, 1)
    assert made(tmp_path / "b", config).sha256 == straight.sha256
    columns = (tmp_path / "a" / "losses.csv").read_text().splitlines()[0].split(",")
    assert columns == ["step", *config.losses, "step"] or set(columns) == {"step", *config.losses}
    assert len(config.losses) == {1: 1, 3: 4}[len(networks)]


@pytest.mark.parametrize("way", ["paper", "released"])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_step_does_not_depend_on_how_many_classes_go_side_by_side(way: str, sampled: bool) -> None:
    """A whole step of a tiny pair in float64: real batches, tiles, augmentation, both networks, balance."""
    found = []
    for at_once in (1, 4):
        config = replace(TINY, classes_at_once=at_once, **dict.fromkeys(CHOICES, way))  # type: ignore[arg-type]
        real = RealImages(data.load("digits", "train"), CPU)
        # noise: where an image is flat, poolings have ties, which rounding decides
        real.images = torch.randint(256, real.images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        real.mean, real.std = real.mean.double(), real.std.double()
        state = State(config, real, 3)
        for learner in state.learners:
            learner.network.double()
        state.distillation.double()
        state.images = state.images.detach().double().requires_grad_()
        state.begin()
        if way == "released":
            state.choose_representatives(0)
        found.append(hmdc._direction(state, 0, sampled=sampled))
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-7, atol=1e-10 * float(one.abs().max()))


@pytest.mark.parametrize("method", [IDC, DREAM])
def test_the_rivals_condense_and_resume(tmp_path: Path, method: Method) -> None:
    config, train = method.presets["smoke"].config, data.load("digits", "train")
    straight = method.condense(train, config, 3, CPU, Run(tmp_path / "a"))
    seen: list[float] = []
    run = Run(tmp_path / "b", on_progress=lambda done, total, losses: seen.append(done), should_stop=lambda: len(seen) == 1)
    with pytest.raises(Interrupted):
        method.condense(train, config, 3, CPU, run)
    assert method.condense(train, config, 3, CPU, Run(tmp_path / "b")).sha256 == straight.sha256
    assert method.name.upper() in (tmp_path / "b" / "card.toml").read_text()
    losses = (tmp_path / "b" / "losses.csv").read_text().splitlines()[0]
    assert "L1" in losses and "L2" not in losses


@pytest.mark.parametrize(("method", "space"), [(IDC, "pixels"), (DREAM, "pixels"), (METHOD, "normalised")])
def test_rates_of_images_count_in_the_space_of_their_released_code(
    method: Method, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps against a loss whose gradient is known, beside SGD on a leaf in that space; IDC clamps before an iteration."""
    base: Any = method.presets["smoke"].config
    config = replace(base, normalised_step=False, iterations=2, image_rate=0.01, initial="paper", pretraining=0)
    real = RealImages(data.load("digits", "train"), CPU)
    state = State(config, real, 0)
    state.begin()
    with torch.no_grad():
        state.images += 10
    if method is not METHOD:
        state.renew()
        assert float((state.images.detach() * real.std + real.mean).max()) == pytest.approx(1)
    unit = 1 / real.std if space == "pixels" else torch.ones_like(real.std)
    leaf = (state.images.detach() / unit).requires_grad_()
    torch.manual_seed(0)
    slope = torch.randn_like(state.images)
    monkeypatch.setattr(hmdc, "_direction", lambda *_, **__: (slope, torch.zeros(len(config.losses), 10)))
    monkeypatch.setattr(hmdc, "train_networks", lambda state: None)
    monkeypatch.setattr(State, "choose_representatives", lambda state, turn: None)
    if method is METHOD:
        monkeypatch.setattr(State, "_clamp", lambda state: None)
    by_hand = torch.optim.SGD([leaf], lr=0.01, momentum=0.5)
    for _ in range(2):
        by_hand.zero_grad()
        torch.autograd.backward((leaf * unit * slope).sum())
        by_hand.step()
        hmdc._step(state, 1)
    torch.testing.assert_close(state.images.detach(), leaf.detach() * unit)


def test_idc_matches_convolutions_alone_and_trains_its_network_with_cutmix() -> None:
    config = IDC.presets["released-ipc10"].config
    assert config.losses == ("L1",) and not config.distils and config.image_rate == 5e-3  # type: ignore[attr-defined]
    learner = Alone(small("convnet"))
    real, images = torch.randn(1, 3, 3, 8, 8).double(), torch.randn(1, 2, 3, 8, 8).double()
    (loss,) = matching_losses([learner], None, real, images, torch.tensor([2]), config)  # type: ignore[arg-type]
    expected = 0.0
    for parameter in learner.network.parameters():
        if parameter.dim() == 4:
            of = [
                torch.autograd.grad(
                    torch.nn.functional.cross_entropy(learner.network(x[0])[0], torch.full((len(x[0]),), 2)), parameter
                )[0]
                for x in (real, images)
            ]
            expected += float((of[0] - of[1]).square().sum())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-9)
