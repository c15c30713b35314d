"""The two networks of HMDC: built, trained first where they have no weights of their own, and reset for every iteration."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import Dataset, augment
from mabench.errors import MabenchError
from mabench.networks import evaluators
from mabench.networks.compiling import has_bfloat16
from mabench.schema import Augmentation, Evaluator

from .. import kit
from ..kit import RealImages, Run, Training
from .config import Config
from .decomposition import SpatialNetwork

PRETRAINING = Augmentation(geometry=("crop",), flip=0.5, space="normalised")  # ours: light, for a short training
WARM_UP = 0.05  # ours: share of the pretraining in which the rate rises


class Learner:
    """One network of the pair, and the weights that it starts every iteration with."""

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
        self.start: dict[str, Tensor] | None = self._weights() if evaluator.pretrained else None
        """Pretrained weights; None = fresh ones in every iteration."""

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
        if self.evaluator.family == "cnn":
            cast(Any, network).to(memory_format=torch.channels_last)
        return network

    def train(self) -> None:
        """Back to training after an evaluation; batch norm stays frozen where it is."""
        self.network.train()
        evaluators.set_batch_norm(self.network, frozen=self.frozen_batch_norm)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

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

    def parameters(self) -> list[nn.Parameter]:
        """Those whose gradients are matched: all."""
        return list(self.network.parameters())

    def trained(self) -> list[nn.Parameter]:
        """Those that the training between image steps moves."""
        return list(self.network.head().parameters()) if self.classifier_only else self.parameters()


def pretrain(
    learner: Learner,
    real: RealImages,
    config: Config,
    generator: torch.Generator,
    run: Run,
    total: int,
    state: dict[str, Any] | None,
) -> None:
    """Train a network without weights of its own on `config.pretraining` random batches of the train split, then keep it as the start of
    every iteration. AdamW at the evaluator's rate, which rises for 5 % of the batches and then falls to zero linearly.

    The result lies in the run's folder, `<evaluator>-trained.pt`; where it is already there, it is used.
    """
    path = run.folder / f"{learner.evaluator.name}-trained.pt" if run.folder is not None else None
    network, batches = learner.network, config.pretraining
    weights = kit.read_state(path) if path is not None else None
    if weights is not None:
        network.load_state_dict(weights)
        learner.start = learner._weights()
        return
    optimizer = torch.optim.AdamW(network.parameters(), lr=learner.evaluator.learning_rate, weight_decay=0.05)
    rise = max(1, round(batches * WARM_UP))

    def backward(rows: Tensor, step: int) -> dict[str, float]:
        targets = F.one_hot(real.labels[rows.to(real.device)], real.dataset.num_classes).float()
        draws = torch.Generator(real.device).manual_seed(kit.seed_from(generator))
        images, targets = augment.augment(real.at(rows), targets, PRETRAINING, draws)
        optimizer.zero_grad()
        with torch.autocast(real.device.type, torch.bfloat16, enabled=config.bfloat16 and has_bfloat16(real.device)):
            logits, _ = network(images)
        loss = F.cross_entropy(logits.float(), targets)
        torch.autograd.backward(loss)
        return {"pretraining": float(loss.detach())}

    training = Training(  # every epoch is one random batch
        network,
        optimizer,
        epochs=batches,
        images=config.network_batch,
        batch=config.network_batch,
        order=lambda done: torch.randint(len(real.labels), (config.network_batch,), generator=generator),
        backward=backward,
        rate=lambda done: learner.evaluator.learning_rate * min((done + 1) / rise, (batches - done) / max(1, batches - rise)),
    )
    if state is not None:
        training.resume(state["training"])
        generator.set_state(state["generator"])
    while training.done < training.steps:
        losses = training.step()
        run.step(training.done, total, losses, {"phase": "pretraining", "training": training.state(), "generator": generator})
    learner.start = learner._weights()
    if path is not None:
        kit.write_state(path, {name: value.cpu() for name, value in learner.start.items()})
