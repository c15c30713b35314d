"""What evaluators cost per image: a stored column of their table, so that planning a run builds no network.

A test compares every row with the network itself; for an evaluator that is not in the table as it is (a suite's own depth, width
or input size) the network is built once and counted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from mabench.networks import evaluators
from mabench.schema import Evaluator

CLASSES, CHANNELS = 10, 3  # of the stored rows


class Size(NamedTuple):
    """Costs of one image in one forward pass."""

    flops: int
    """Floating-point operations: 2 x multiply-accumulates of convolutions, linear layers and matrix products."""
    parameters: int
    outputs: int
    """Numbers that all layers together give."""
    largest: int
    """Numbers that the largest of these layers gives."""
    features: int
    """Numbers that enter the last layer."""


STORED: dict[str, Size] = {
    "convnet3-scratch": Size(101490688, 320010, 559114, 131072, 2048),
    "resnet18-scratch": Size(1110845440, 11173962, 1729034, 65536, 512),
    "resnet50-scratch": Size(2595659776, 23520842, 9316362, 262144, 2048),
    "resnet101-scratch": Size(5019967488, 42512970, 14329866, 262144, 2048),
    "mobilenetv2-scratch": Size(175952896, 2236682, 6299658, 147456, 1280),
    "resnet20-scratch": Size(81626368, 272474, 577610, 16384, 64),
    "mobilenetv2_050-scratch": Size(55938048, 700490, 3511562, 98304, 1280),
    "vit_tiny-scratch": Size(730215168, 5362762, 4867210, 49920, 192),
    "swin_tiny-scratch": Size(715570176, 27505108, 3407636, 98304, 768),
    "vit_mini-scratch": Size(167122432, 1205898, 1647370, 33280, 128),
    "swin_mini-scratch": Size(92704512, 1267670, 1286740, 49152, 192),
    "mlp-scratch": Size(821760, 411146, 3594, 3072, 128),
    "lenet-scratch": Size(1303440, 62006, 15002, 4704, 84),
    "alexnet-scratch": Size(490008576, 1872202, 490506, 131072, 3072),
    "vgg11_in-scratch": Size(305539072, 9231114, 485898, 65536, 512),
    "resnet18_in-scratch": Size(1110845440, 11173962, 1729034, 65536, 512),
    "resnet18_224-scratch": Size(3627132928, 11181642, 8982538, 802816, 512),
    "resnet50_224-scratch": Size(8174313472, 23528522, 34801162, 802816, 2048),
    "resnet101_224-scratch": Size(15598755840, 42520650, 51861002, 802816, 2048),
    "mobilenetv2_224-scratch": Size(599014144, 2236682, 24856938, 1204224, 1280),
    "deit_tiny_224-scratch": Size(2506986240, 5526346, 14751370, 151296, 192),
    "swin_tiny_224-scratch": Size(8979612672, 27527044, 44723252, 1204224, 768),
    "resnet18-pretrained": Size(3627132928, 11181642, 8982538, 802816, 512),
    "resnet50-pretrained": Size(8174313472, 23528522, 34801162, 802816, 2048),
    "resnet101-pretrained": Size(15598755840, 42520650, 51861002, 802816, 2048),
    "mobilenetv2-pretrained": Size(599014144, 2236682, 24856938, 1204224, 1280),
    "efficientnet_lite0-pretrained": Size(767840704, 3383818, 25038826, 1204224, 1280),
    "vit_tiny-pretrained": Size(2506986240, 5526346, 14751370, 151296, 192),
    "vit_small-pretrained": Size(9197004288, 21669514, 29502730, 302592, 384),
    "vit_base-pretrained": Size(35126135808, 85806346, 59005450, 605184, 768),
    "swin_tiny-pretrained": Size(8979612672, 27527044, 44723252, 1204224, 768),
}


def of(evaluator: Evaluator, num_classes: int, channels: int) -> Size:
    """The size of this evaluator's network for images with `channels` channels."""
    row = STORED.get(evaluator.name)
    if row is None or channels != CHANNELS or _built_from(evaluator) != _built_from(evaluators.EVALUATORS[evaluator.name]):
        return count(evaluator.model_dump_json(), num_classes, channels)
    more = num_classes - CLASSES
    return Size(
        flops=row.flops + 2 * row.features * more,
        parameters=row.parameters + (row.features + 1) * more,
        outputs=row.outputs + more,
        largest=max(row.largest, num_classes),
        features=row.features,
    )


def _built_from(evaluator: Evaluator) -> tuple[object, ...]:
    return evaluator.library, evaluator.architecture, evaluator.input_size, evaluator.arguments


@lru_cache
def count(evaluator_json: str, num_classes: int, channels: int) -> Size:
    """Build the network, without its pretrained weights, and count."""
    import torch

    evaluator = Evaluator.model_validate_json(evaluator_json).model_copy(update={"pretrained": False})
    side = evaluator.input_size
    model = evaluators.build(evaluator, num_classes=num_classes, channels=channels, image_size=side, seed=0).eval()
    outputs: list[int] = []

    def note(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append(output.numel())

    flops = evaluators.flops(model, image_size=side, channels=channels)
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, channels, side, side))
    parameters = sum(p.numel() for p in model.parameters())
    return Size(flops, parameters, sum(outputs), max(outputs), evaluators.head(model).in_features)


if __name__ == "__main__":  # python -m mabench.networks.sizes: the rows of the table above
    for name, entry in evaluators.EVALUATORS.items():
        print(f'    "{name}": Size{tuple(count(entry.model_dump_json(), CLASSES, CHANNELS))},')
