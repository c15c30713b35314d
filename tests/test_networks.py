"""The field's small networks against the parameter counts that Model Pool's and MTT's code give, and slow references."""

from __future__ import annotations

import pytest
import torch

from mabench.errors import MabenchError
from mabench.networks import architectures as networks


def count(architecture: str, **arguments: object) -> int:
    model = networks.build(architecture, num_classes=10, channels=3, image_size=32, **arguments)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "arguments", "parameters"),
    [
        ("convnet", {}, 320_010),
        ("convnet", {"norm": "layer"}, 663_306),
        ("convnet", {"depth": 1}, 331_530),
        ("convnet", {"depth": 1, "norm": "batch"}, 331_530),
        ("convnet", {"depth": 1, "norm": "layer"}, 593_418),
        ("convnet", {"width": 64}, 86_282),
        ("convnet", {"width": 32}, 24_714),
        ("mlp", {}, 411_146),
        ("lenet", {}, 62_006),
        ("alexnet", {}, 1_872_202),
        ("vgg11", {}, 9_231_114),
        ("resnet", {"depth": 18}, 11_173_962),
        ("resnet", {"depth": 18, "norm": "batch"}, 11_173_962),
        ("resnet", {"depth": 20, "norm": "batch"}, 269_722 + 2_752),  # the published count, and its shortcuts as projections
        ("resnet", {"depth": 50, "norm": "batch"}, 23_520_842),  # the usual CIFAR ResNet-50 with 10 classes
    ],
)
def test_parameter_counts_are_the_published_ones(architecture: str, arguments: dict[str, object], parameters: int) -> None:
    assert count(architecture, **arguments) == parameters


def test_other_image_sizes() -> None:
    for size, depth, parameters in [(64, 4, None), (128, 5, 615_690)]:
        model = networks.build("convnet", num_classes=10, channels=3, image_size=size, depth=depth)
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 10)
        if parameters:
            assert sum(p.numel() for p in model.parameters()) == parameters
    for name in ("mlp", "lenet", "alexnet", "vgg11", "resnet"):
        assert networks.build(name, num_classes=7, channels=1, image_size=64)(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_instance_norm_normalises_each_image_and_channel() -> None:
    images = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.empty_like(images)
    for n in range(3):
        for c in range(4):
            plane = images[n, c]
            expected[n, c] = (plane - plane.mean()) / (plane.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(networks.NORMS["instance"](4, 5)(images), expected)


def test_convnet_is_the_textbook_computation() -> None:
    torch.manual_seed(0)
    model = networks.ConvNet(10, 3, 8, depth=1, width=2)
    image = torch.randn(1, 3, 8, 8)
    conv, norm = model.features[0], model.features[1]  # type: ignore[index]
    x = torch.zeros(2, 8, 8)
    padded = torch.nn.functional.pad(image[0], (1, 1, 1, 1))
    for o in range(2):
        for i in range(8):
            for j in range(8):
                x[o, i, j] = (padded[:, i : i + 3, j : j + 3] * conv.weight[o]).sum() + conv.bias[o]
        x[o] = (x[o] - x[o].mean()) / (x[o].var(unbiased=False) + norm.eps).sqrt()
    x = x.clamp_min(0)
    pooled = torch.stack([x[:, i : i + 2, j : j + 2].mean((1, 2)) for i in range(0, 8, 2) for j in range(0, 8, 2)], 1)
    expected = model.classifier.weight @ pooled.flatten() + model.classifier.bias
    torch.testing.assert_close(model(image)[0], expected, rtol=1e-4, atol=1e-5)


def test_mistakes_are_explained() -> None:
    with pytest.raises(MabenchError, match="Did you mean 'alexnet'"):
        networks.build("alexnett", num_classes=10, channels=3, image_size=32)
    with pytest.raises(MabenchError, match="pools 32 px away. Allowed: a depth of at most 5"):
        networks.build("convnet", num_classes=10, channels=3, image_size=32, depth=6)


def test_pooling_written_out_is_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, equal pixels, odd sides, NaN and infinities among them: as PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    for side in (4, 5, 7):
        images = torch.randint(-2, 3, (6, 3, side, side), generator=generator).float()
        images[0, 0, 0, 0], images[1, 1, 1, 1], images[2] = float("nan"), float("inf"), float("-inf")
        results = []
        for written_out in (False, True):
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda answer=written_out: answer)
            leaf = images.clone().requires_grad_()
            pooled = networks.MaxPool()(leaf)  # type: ignore[attr-defined]
            (pooled * torch.arange(pooled.numel()).view_as(pooled)).sum().backward()
            results.append((pooled.detach(), leaf.grad))
        for own, written in zip(*results, strict=True):
            assert own is not None and torch.equal(own.nan_to_num(7.5), written.nan_to_num(7.5))


def test_the_mean_written_out_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values as PyTorch's own, odd sides and NaN among them; with gradients it is PyTorch's own."""
    images = torch.randn(6, 3, 7, 4, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = float("nan")
    own = torch.nn.functional.avg_pool2d(images, 2)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        torch.testing.assert_close(networks.AvgPool()(images), own, equal_nan=True)  # type: ignore[attr-defined]
        assert networks.AvgPool()(images.bfloat16()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert "AvgPool2D" in type(networks.AvgPool()(images.requires_grad_()).grad_fn).__name__  # type: ignore[attr-defined]
