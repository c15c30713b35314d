"""Model Pool: gradient matching through a main network most of the time and a similar one now and then
(Zhou, Zhong & Chen, "Improve Cross-Architecture Generalization on Dataset Distillation", 2024).

    repeat `iterations` times
        draw the main ConvNet with probability 0.9, else a network of the pool; fresh weights either way
        one round of DC with it                                                  (dc/condense.py)

Knowledge distillation, the paper's other half, happens at evaluation: suite `cifar10-modelpool-kd`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mabench.data import RealData
from mabench.errors import MabenchError
from mabench.networks.architectures import Network
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet

from .. import kit
from ..dc import condense as dc
from ..kit import Run

ACTIVATIONS = ("sigmoid", "relu", "leaky_relu", "swish")  # paper, Table 3
NORMS = ("batch", "layer", "instance", "group")
POOLINGS = ("max", "avg")
OTHERS: dict[str, tuple[str, ...]] = {"similar": (), "various": ("lenet", "alexnet", "vgg11")}
"""Pools of Table 5: similar ConvNets, or these; no code of the latter was released."""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of Model Pool; `matching` are DC's."""

    matching: dc.Config
    main_probability: float = 0.9
    similar_depth: int = 1
    """Blocks of a similar network: 3 in the paper's Table 3, 1 in the released code."""
    warm_up: int = 501
    """Iterations with the main network only: 0 in the paper, 501 in the released code, whose condition is `it <= 500` from 0."""
    pool: Literal["similar", "various"] = "similar"
    """`similar`: ConvNets of other activation, norm and pooling; `various`: LeNet, AlexNet and VGG11, equally likely."""

    def __post_init__(self) -> None:
        kit.check_fields(self)
        if self.main_probability > 1:
            raise MabenchError(f"main_probability = {self.main_probability}. Allowed: 0 to 1.")

    @property
    def ipc(self) -> int:
        return self.matching.ipc


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """A set of `config.ipc` images per class: float32, pixel space, unclipped, hard labels."""
    entry, matching = train.dataset, config.matching

    def draw(iteration: int, generator: torch.Generator) -> tuple[Network, str | None]:
        weights = kit.seed_from(generator)
        coin = float(torch.rand((), generator=generator))
        picks = torch.randint(2**31, (4,), generator=generator).tolist()  # always as many, so that streams stay in step
        if iteration < config.warm_up or coin < config.main_probability:
            main = kit.draw_network(entry, "convnet", weights, depth=matching.depth, width=matching.width)
            return main, f"convnet{matching.depth}x{matching.width}_{entry.image_size}"
        others = OTHERS[config.pool]
        if others:
            return kit.draw_network(entry, others[picks[3] % len(others)], weights), None
        return kit.draw_network(
            entry,
            "convnet",
            weights,
            depth=config.similar_depth,
            width=matching.width,
            activation=ACTIVATIONS[picks[0] % len(ACTIVATIONS)],
            norm=NORMS[picks[1] % len(NORMS)],
            pooling=POOLINGS[picks[2] % len(POOLINGS)],
        ), None

    card = Card(
        title=f"Model Pool, {entry.title}, IPC {config.ipc}, {matching.iterations} iterations",
        paper="https://arxiv.org/abs/2402.13007",
        source_networks=(f"convnet{matching.depth}", *(OTHERS[config.pool] or (f"convnet{config.similar_depth} variants",))),
    )
    return dc.match(train, matching, seed, device, run or Run(), method="model-pool", draw=draw, identity=config, card=card)
