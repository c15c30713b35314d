"""Winograd's convolution is the ordinary one: values, both gradients, whole networks, and the engine that uses it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mabench import engine
from mabench.engine import Workload
from mabench.engine import fast as fast_engine
from mabench.engine.kernels import winograd
from mabench.networks import compiling, evaluators
from mabench.networks.evaluators import EVALUATORS

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 1, 1, 4, 4), (2, 5, 3, 8, 12), (3, 2, 7, 16, 4)])
def test_it_is_the_convolution_and_so_are_its_gradients(shape: tuple[int, ...]) -> None:
    """Against PyTorch's in float64, and against finite differences."""
    images, channels, outputs, height, width = shape
    draws = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(images, channels, height, width, dtype=torch.float64, generator=draws).requires_grad_()
    weight = torch.randn(outputs, channels, 3, 3, dtype=torch.float64, generator=draws).requires_grad_()
    wanted, found = F.conv2d(x, weight, padding=1), winograd.convolution(x, weight)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    seed = torch.randn(wanted.shape, dtype=torch.float64, generator=draws)
    for own, other in zip(*(torch.autograd.grad(y, (x, weight), seed) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-11)
    if x.numel() < 200:
        assert torch.autograd.gradcheck(winograd.convolution, (x, weight))


def test_in_float32_it_is_off_by_a_hundred_thousandth() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(8, 128, 16, 16, generator=draws)
    weight = torch.randn(128, 128, 3, 3, generator=draws) / 34
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    error = (winograd.convolution(x, weight).double() - exact).abs().max() / exact.abs().max()
    assert error < 3e-5, float(error)


def test_which_convolutions_are_taken_over() -> None:
    inside, outside = [nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 32, 3, padding=1, bias=False)], [
        nn.Conv2d(3, 64, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 3, padding=2, dilation=2),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.Conv2d(32, 32, 1),
    ]  # fmt: skip
    model = nn.ModuleList(inside + outside)
    names = list(model.state_dict())
    assert winograd.adopt(model) == 2 and winograd.adopt(model) == 0
    assert [type(m) for m in model] == [winograd.WinogradConv2d] * 2 + [nn.Conv2d] * len(outside)
    assert list(model.state_dict()) == names
    odd = torch.randn(1, 32, 6, 8)  # 6 is no multiple of 4: the ordinary way
    assert torch.equal(model[0](odd), F.conv2d(odd, inside[0].weight, inside[0].bias, padding=1))
    winograd.release(model)
    assert all(type(m) is nn.Conv2d for m in model)


@pytest.mark.parametrize("name", ["convnet3-scratch", "resnet18_in-scratch", "vgg11_in-scratch"])
def test_networks_compute_the_same(name: str) -> None:
    """Logits and the gradient of every parameter, in float64, where rounding flips no ReLU; frozen convolutions too."""
    model = evaluators.build(EVALUATORS[name], num_classes=10, channels=3, image_size=32, seed=0).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4)

    def observed() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        logits = model(images)
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    wanted, gradients = observed()
    assert winograd.adopt(model) >= 2
    found, own = observed()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert own.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(own[parameter], gradient, rtol=0, atol=1e-9)
    model.requires_grad_(False)
    evaluators.head(model).requires_grad_(True)
    assert set(observed()[1]) == {n for n, p in model.named_parameters() if p.requires_grad}


def test_the_fast_engine_uses_it_where_there_is_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled here to save the time: the arithmetic is the same."""
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(compiling, "program", lambda kind: fast_engine.call_eagerly)
    images = torch.randn(25, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def built(bfloat16: bool) -> engine.FastEngine:
        monkeypatch.setattr(compiling, "has_bfloat16", lambda device: bfloat16)
        evaluator = EVALUATORS["convnet3-scratch"]
        model = evaluators.build(evaluator, num_classes=10, channels=3, image_size=32, seed=0)
        made = engine.build("fast", model, CPU, Workload(evaluator, False, 0.0, 500, 1e12))
        assert isinstance(made, engine.FastEngine)
        return made

    fast = built(True)
    assert fast.describe() == "bfloat16, compiled" and not any("Winograd" in kernel for kernel in fast.kernels)
    fast = built(False)
    assert fast.describe() == "float32, compiled" and "Winograd convolutions: 2" in fast.kernels
    plain = evaluators.build(EVALUATORS["convnet3-scratch"], num_classes=10, channels=3, image_size=32, seed=0)
    torch.testing.assert_close(fast.logits(images), plain(images), rtol=1e-3, atol=1e-4)
    fast.begin_test_pass()
    with torch.inference_mode():
        assert torch.equal(fast.predict(images).argmax(1), plain.eval()(images).argmax(1))

    def broken(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    fast.train_program = broken
    with pytest.warns(UserWarning, match="not compiled here"):
        fast.logits(images)
    assert (
        fast.describe() == "float32, eager"
        and not fast.kernels
        and not any(isinstance(m, winograd.WinogradConv2d) for m in fast.model.modules())
    )


@pytest.mark.slow
def test_compiled_it_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program: logits, every gradient and the classes of a look, against the eager network."""
    if not compiling.can_compile(CPU):
        pytest.skip("no C++ compiler here")
    monkeypatch.setitem(fast_engine.COMPILE_FROM_FLOPS, "cpu", 0.0)
    monkeypatch.setattr(compiling, "has_bfloat16", lambda device: False)
    evaluator = EVALUATORS["convnet3-scratch"]
    evaluator = evaluator.model_copy(update={"name": "narrow", "arguments": {**evaluator.arguments, "width": 32}})
    fast, plain = (evaluators.build(evaluator, num_classes=10, channels=3, image_size=32, seed=0) for _ in range(2))
    own = engine.build("fast", fast, CPU, Workload(evaluator, False, 0.0, 500, 1e12))
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(20) % 10
    wanted, found = plain(images), own.logits(images)
    for logits in (wanted, found):
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    if own.describe().endswith("eager"):
        pytest.skip("the C++ compiler here lacks something")
    assert own.describe() == "float32, compiled" and "Winograd convolutions: 2" in own.kernels
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    for mine, other in zip(fast.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        assert (mine.grad - other.grad).norm() < 1e-2 * other.grad.norm() + 1e-5  # a bias before a norm has none
    own.begin_test_pass()
    with torch.inference_mode():
        assert torch.equal(own.predict(images).argmax(1), plain.eval()(images).argmax(1))
