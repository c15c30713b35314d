"""Norms with coefficients computed once and convolutions as products of matrices are the ordinary ones: values, gradients, statistics."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench import engine, evaluators
from mabench.evaluators import EVALUATORS
from mabench.kernels import norms, unfolded

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
        assert torch.autograd.gradcheck(lambda *a: norms.instance_norm(*a, 1e-5), (x, weight, bias))


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


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"), [(4, 3, 1, 1), (2, 3, 1, 1), (8, 3, 2, 1), (8, 3, 1, 1), (7, 5, 1, 2), (5, 3, 1, 0), (9, 2, 2, 0), (12, 3, 1, 1)]
)  # fmt: skip
def test_an_unfolded_convolution_and_its_gradients(side: int, kernel: int, stride: int, padding: int) -> None:
    """Maps on both sides of the two limits, against PyTorch's in float64."""
    draws = torch.Generator().manual_seed(side)
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=draws).requires_grad_()
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, generator=draws).requires_grad_()
    wanted, found = F.conv2d(x, weight, None, stride, padding), unfolded.convolution(x, weight, stride, padding)
    seed = torch.randn(wanted.shape, dtype=torch.float64, generator=draws)
    close((found,), (wanted,))
    close(*(torch.autograd.grad(y, (x, weight), seed) for y in (found, wanted)))  # type: ignore[arg-type]


def test_which_modules_are_taken_over_and_given_back() -> None:
    convolutions = [nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 128, 3, 2, 1, bias=False)]
    others = [
        nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2), nn.Conv2d(64, 64, (3, 1)), nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(4),
    ]  # fmt: skip
    model = nn.ModuleList([*convolutions, nn.BatchNorm2d(4), *others])
    before, names = [type(m) for m in model], list(model.state_dict())
    assert unfolded.adopt(model) == 2 and norms.adopt(model) == 1 and unfolded.adopt(model) == 0
    after = [unfolded.UnfoldedConv2d] * 2 + [norms.BatchNorm]
    assert [type(m) for m in model] == after + before[3:] and list(model.state_dict()) == names
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(model[0](x), F.conv2d(x, convolutions[0].weight, convolutions[0].bias, padding=1))  # uncompiled: as before
    unfolded.release(model)
    norms.release(model)
    assert [type(m) for m in model] == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18-scratch", "resnet18_in-scratch"])
def test_a_compiled_step_is_the_eager_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program in one graph: loss and every gradient of a step in bfloat16 against the float32 network, then a look."""
    if not engine.can_compile(CPU):
        pytest.skip("no compiler here")
    evaluator = EVALUATORS[name]

    def network() -> nn.Module:
        return evaluators.build(evaluator, num_classes=10, channels=3, image_size=32, seed=0)

    monkeypatch.setattr(engine, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(engine, "has_tiles", lambda device: True)
    plain, model = network(), network().to(memory_format=torch.channels_last)
    fast = engine.build("fast", model, evaluator, CPU, splittable=False, work=1e15, test_images=10_000, look=0.0)
    assert any(isinstance(m, unfolded.UnfoldedConv2d) for m in model.modules())
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32, generator=draws), torch.arange(16) % 10
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = []
    for logits in (plain, fast.logits):
        losses.append(F.cross_entropy(logits(images.contiguous(memory_format=torch.channels_last)), labels))
        losses[-1].backward()
    assert not torch._dynamo.utils.counters["graph_break"] and fast.describe() == "bfloat16, compiled"
    assert abs(losses[0].item() - losses[1].item()) < 0.02
    for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None
        alike = F.cosine_similarity(own.grad.flatten(), other.grad.flatten(), dim=0)
        assert alike > 0.85, (name, float(alike))  # bfloat16 alone turns the first layers' by 0.9 to 0.94
    for own, other in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(own, other, rtol=0.02, atol=0.02)
    fast.begin_look()
    with torch.inference_mode():
        found, wanted = fast.predict(images), plain.eval()(images)
    assert F.cosine_similarity(found, wanted).min() > 0.99
