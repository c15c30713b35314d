"""The networks that HMDC matches: built, and reset for every iteration."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from mabench.data import Dataset
from mabench.errors import MabenchError
from mabench.networks import evaluators
from mabench.schema import Evaluator

from .. import kit
from ..kit import RealImages
from .config import Config
from .decomposition import Feature, SpatialNetwork


class Learner:
    """One network, and the weights that it starts every iteration with."""

    def __init__(
        self,
        evaluator: Evaluator,
        dataset: Dataset,
        device: torch.device,
        seed: int,
        *,
        classifier_only: bool = False,
        repeat_last: bool = False,
        own_statistics: bool = False,
        frozen_batch_norm: bool = False,
    ) -> None:
        self.evaluator, self.dataset, self.device = evaluator, dataset, device
        self.classifier_only, self.frozen_batch_norm = classifier_only, frozen_batch_norm
        self._options = {"repeat_last": repeat_last, "own_statistics": own_statistics}
        self.network = self._build(seed)
        self.train()
        self.start: dict[str, Tensor] | None = None
        """Pretrained weights; None = fresh ones in every iteration."""
        if evaluator.pretrained:
            self.keep_weights()

    def _build(self, seed: int) -> SpatialNetwork:
        try:
            model = evaluators.build(
                self.evaluator,
                num_classes=self.dataset.num_classes,
                channels=self.dataset.channels,
                image_size=self.evaluator.input_size,
                seed=seed,
            )
        except MabenchError as error:
            if not self.evaluator.pretrained:
                raise
            weights = f"timm/{self.evaluator.architecture}"
            raise MabenchError(
                f"{self.evaluator.name}: condenses the images in this preset, and its pretrained weights {weights} are not in the Hub "
                f"cache and cannot be fetched. Connect once and run `hf download {weights}`, or choose a preset without them: "
                "mabench reproduce hmdc --preset lite"
            ) from error
        network = SpatialNetwork(self.evaluator, model, self.dataset, **self._options).to(self.device)
        # measured on a processor, bfloat16: its fused attention takes twice as long, its instance norm many times in channels-last
        network.fuses = network.channels_last = self.device.type != "cpu"
        network.channels_last &= self.evaluator.family == "cnn"
        if network.channels_last:
            cast(Any, network).to(memory_format=torch.channels_last)
        return network

    def train(self) -> None:
        """Back to training after an evaluation; batch norm stays frozen where it is."""
        self.network.train()
        evaluators.set_batch_norm(self.network, frozen=self.frozen_batch_norm)

    def keep_weights(self) -> None:
        """Start every further iteration with the weights of now."""
        self.start = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def reset(self, seed: int) -> None:
        """Fresh weights, or the pretrained ones under a fresh head. The released ConvNet keeps its classifier."""
        if self.start is not None:
            self.network.load_state_dict(self.start)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                drawn = nn.Linear(self.network.head().in_features, self.network.head().out_features)
            self.network.head().load_state_dict(drawn.state_dict())
            return
        before = self.network
        self.network = self._build(seed)
        self.train()
        if self.classifier_only:
            self.network.head().load_state_dict(before.head().state_dict())

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Feature]]:
        """Logits and features of images [B,C,S,S], for at most one derivative."""
        with self.network.configured(once=True):
            logits, features = self.network(images)
        return logits, features

    def in_evaluation(self, images: Tensor) -> tuple[Tensor, list[Feature]]:
        """Logits and features without a trace in the network: batch norm uses and keeps its running statistics."""
        self.network.eval()
        outputs = self(images)
        self.train()
        return outputs

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether an image's logits depend on the rest of its batch."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self.network.modules())

    def named_parameters(self) -> dict[str, Tensor]:
        """Those whose gradients are matched: all."""
        return dict(self.network.named_parameters())

    def trained(self) -> list[nn.Parameter]:
        """Those that the training between image steps moves."""
        return list((self.network.head() if self.classifier_only else self.network).parameters())


def draw_learners(config: Config, real: RealImages, generator: torch.Generator) -> list[Learner]:
    """Build the networks of a configuration, with the released code's habits for the field's ConvNet where they are asked for."""
    return [
        Learner(
            evaluator,
            real.dataset,
            real.device,
            kit.seed_from(generator),
            classifier_only=evaluator.architecture == "convnet" and config.convnet_training == "released",
            repeat_last=evaluator.architecture == "convnet" and config.last_feature == "released",
            own_statistics=config.own_statistics,
            frozen_batch_norm=config.frozen_batch_norm,
        )
        for evaluator in config.evaluators
    ]
