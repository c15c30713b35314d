"""Kernels of compiled networks (norms, pooling) are the ordinary layers: values, gradients, statistics. Winograd's: test_winograd.py."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench import engine
from mabench.engine import Workload, kernels
from mabench.engine.kernels import norms, pooling
from mabench.networks import compiling, evaluators, layers
from mabench.networks.evaluators import EVALUATORS

CPU = torch.device("cpu")


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], atol: float = 1e-10) -> None:
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 3, 1, 1), (4, 2, 7, 3)])
def test_instance_norm_and_its_gradients(shape: tuple[int, ...]) -> None:
    """Against PyTorch's group norm with a channel a group, in float64, and against finite differences."""
    draws = torch.Generator().manual_seed(sum(shape))
    x = (3 + torch.randn(shape, dtype=torch.float64, generator=draws)).requires_grad_()
    weight, bias = (torch.randn(shape[1], dtype=torch.float64, generator=draws).requires_grad_() for _ in range(2))
    wanted, found = F.group_norm(x, shape[1], weight, bias), norms.instance_norm(x, weight, bias, 1e-5)
    seed = torch.randn(shape, dtype=torch.float64, generator=draws)
    close((found,), (wanted,))
    close(*(torch.autograd.grad(y, (x, weight, bias), seed) for y in (found, wanted)))  # type: ignore[arg-type]
    if x.numel() < 100 and shape[2] > 1:
        assert torch.autograd.gradcheck(lambda *a: norms.instance_norm(*a, 1e-5), (x, weight, bias))  # type: ignore[call-arg]


def test_a_large_mean_does_not_drown_a_small_variance() -> None:
    x = 1000 + torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) / 10
    wanted = F.instance_norm(x.double())
    found = norms.instance_norm(x, torch.ones(3), torch.zeros(3), 1e-5)
    assert (found.double() - wanted).abs().max() < 0.02
    squares = x.square().mean((2, 3)) - x.mean((2, 3)).square()  # the formula without a shift, for the test to mean something
    assert (squares.double() - x.double().var((2, 3), correction=0)).abs().max() > 1e-3


def test_batch_norm_its_gradients_and_its_running_statistics() -> None:
    draws = torch.Generator().manual_seed(0)
    plain = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        for tensor in (plain.weight, plain.bias):
            tensor.copy_(torch.randn(4, generator=draws))
    own = copy.deepcopy(plain)
    for _ in range(3):
        x = (2 + torch.randn(5, 4, 3, 6, dtype=torch.float64, generator=draws)).requires_grad_()
        seed = torch.randn(x.shape, dtype=torch.float64, generator=draws)
        wanted, found = plain(x), norms.batch_norm(own, x)
        close((found,), (wanted,))
        close(
            torch.autograd.grad(found, (x, own.weight, own.bias), seed),
            torch.autograd.grad(wanted, (x, plain.weight, plain.bias), seed),
        )
    close(tuple(own.state_dict().values()), tuple(plain.state_dict().values()))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=draws).requires_grad_()
    found, wanted = norms.batch_norm(own.eval(), x), plain.eval()(x)
    close((found,), (wanted,))
    seed = torch.randn(x.shape, dtype=torch.float64, generator=draws)
    close(
        torch.autograd.grad(found, (x, own.weight, own.bias), seed),
        torch.autograd.grad(wanted, (x, plain.weight, plain.bias), seed),
    )


@pytest.mark.parametrize("shape", [(3, 32, 4, 6), (2, 64, 7, 5), (2, 32, 1, 4)])
def test_the_largest_of_four_and_its_gradient(shape: tuple[int, ...]) -> None:
    """Gradients go to the first of equals and NaN wins: equal to PyTorch's, bit for bit."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, shape, generator=draws).bfloat16()
    x[torch.rand(shape, generator=draws) < 0.1] = torch.nan
    x.requires_grad_()
    if shape[2] == 1:
        assert pooling.largest(x).shape == (2, 32, 0, 2)
        return
    expected, result = F.max_pool2d(x, 2), pooling.largest(x)
    assert torch.equal(result.nan_to_num(9), expected.nan_to_num(9))
    gradient = torch.randn(expected.shape, generator=draws).bfloat16()
    of_result, of_expected = (torch.autograd.grad(y, x, gradient)[0] for y in (result, expected))
    assert torch.equal(of_result, of_expected)


def test_which_layers_are_replaced_and_given_back() -> None:
    """The plain layers of `networks.layers` and batch norm; uncompiled they compute as before, bit for bit."""
    replaced = [layers.InstanceNorm(4), nn.BatchNorm2d(4), layers.MaxPool(), layers.AvgPool()]
    others = [
        nn.GroupNorm(2, 4), nn.MaxPool2d(3, 2), nn.AvgPool2d(3), nn.BatchNorm2d(4, affine=False), nn.BatchNorm1d(4),
        nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, momentum=None),
    ]  # fmt: skip
    model = nn.ModuleList([*replaced, *others])
    before, names = [type(m) for m in model], list(model.state_dict())
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = [layer(x) for layer in replaced]
    assert kernels.adopt(model, CPU, bfloat16=True) == ("pooling as slices: 2", "norms with stored coefficients: 2")
    assert [type(m) for m in model] == [norms.InstanceNorm, norms.BatchNorm, pooling.MaxPool, pooling.AvgPool, *before[4:]]
    assert list(model.state_dict()) == names
    for layer, output in zip(replaced, expected, strict=True):
        assert torch.equal(layer(x), output)
    kernels.release(model)
    assert [type(m) for m in model] == before
    assert kernels.adopt(model, torch.device("cuda"), bfloat16=True) == ("pooling as slices: 2",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network_name", ["resnet18-scratch", "resnet18_in-scratch", "convnet3-scratch", "vgg11_in-scratch", "alexnet-scratch"]
)
def test_a_compiled_step_is_the_eager_step(network_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program in one graph: loss and every gradient of a step in bfloat16 against the float32 network, then a look."""
    if not compiling.can_compile(CPU):
        pytest.skip("no compiler here")
    evaluator = EVALUATORS[network_name]

    def network() -> nn.Module:
        return evaluators.build(evaluator, num_classes=10, channels=3, image_size=32, seed=1)

    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: True)
    plain, model = network(), network().to(memory_format=torch.channels_last)
    fast = engine.build("fast", model, CPU, Workload(evaluator, True, 1e15, 10_000, 1e12))
    assert any("norms" in kernel for kernel in fast.kernels) is (network_name != "alexnet-scratch")
    draws = torch.Generator().manual_seed(1)
    images, labels = torch.randn(16, 3, 32, 32, generator=draws), torch.arange(16) % 10
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = []
    for logits in (plain, fast.logits):
        losses.append(F.cross_entropy(logits(images.contiguous(memory_format=torch.channels_last)), labels))
        losses[-1].backward()  # type: ignore[no-untyped-call]
    assert not torch._dynamo.utils.counters["graph_break"] and fast.describe() == "bfloat16, compiled"
    assert abs(losses[0].item() - losses[1].item()) < 0.02
    for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        if other.grad.abs().max() < 1e-6:  # of a bias that a norm takes away again: rounding only
            continue
        near = F.cosine_similarity(own.grad.flatten(), other.grad.flatten(), dim=0)
        # bfloat16 alone turns the first layers' by 0.9 to 0.94, VGG11's, with norms over 2x2 pixels, by 0.76 to 0.89
        # from draw to draw
        assert near > (0.78 if "vgg" in network_name else 0.85), (name, float(near))
    for own, other in zip(model.buffers(), plain.buffers(), strict=True):  # type: ignore[assignment]
        torch.testing.assert_close(own, other, rtol=0.02, atol=0.02)
    fast.begin_test_pass()
    with torch.inference_mode():
        found, wanted = fast.predict(images), plain.eval()(images)
    assert F.cosine_similarity(found, wanted).min() > 0.99
