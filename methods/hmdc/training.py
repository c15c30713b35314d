"""Training of the networks between image steps, and before everything else where they have no weights of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import augment
from mabench.networks.compiling import has_bfloat16
from mabench.schema import Augmentation

from .. import kit
from ..kit import RealImages, Run, Training
from .config import Config
from .images import augmented
from .learners import Learner

if TYPE_CHECKING:
    from .state import State

PRETRAINING = Augmentation(geometry=("crop",), flip=0.5, space="normalised")  # ours: light, for a short training
WARM_UP = 0.05  # ours: share of the pretraining in which the rate rises


def train_networks(state: State) -> None:
    """Train the networks on real batches of all classes: cross-entropy, and mutual distillation (Eq. 12); then the alignment alone, on
    other batches."""
    config, real, learners = state.config, state.real, state.learners
    narrow = config.bfloat16 and has_bfloat16(real.device)
    with torch.autocast(real.device.type, torch.bfloat16, enabled=narrow):
        for rows in _batches(state):
            targets = F.one_hot(real.labels[rows.to(real.device)], real.dataset.num_classes).float()
            images, targets = augmented(config, real.at(rows), targets, kit.seed_from(state.streams["augmentation"]))
            outputs = [learner(images) for learner in learners]
            loss = torch.stack([F.cross_entropy(logits.float(), targets) for logits, _ in outputs]).sum()
            if config.distils:
                loss = loss + state.distillation([features for _, features in outputs])
            for learner in learners:
                learner.network.zero_grad()
            torch.autograd.backward(loss)
            state.network_optimizer.step()
        for rows in _batches(state) if config.distils else ():
            images, _ = augmented(config, real.at(rows), None, kit.seed_from(state.streams["augmentation"]))
            with torch.no_grad():
                features = [learner(images)[1] for learner in learners]
            loss = state.distillation(features)
            state.alignment_optimizer.zero_grad()
            torch.autograd.backward(loss)
            state.alignment_optimizer.step()


def _batches(state: State) -> list[Tensor]:
    """Row numbers of random real batches of all classes, without repetition."""
    order = torch.randperm(len(state.real.labels), generator=state.streams["training"])
    return list(torch.split(order, state.config.network_batch))[: state.config.network_batches]


def pretrain(
    learner: Learner,
    real: RealImages,
    config: Config,
    generator: torch.Generator,
    run: Run,
    total: int,
    before: int,
    state: dict[str, Any] | None,
) -> None:
    """Train a network without weights of its own on `config.pretraining` random batches of the train split, then keep it as the start
    of every iteration. AdamW at the evaluator's rate, which rises for 5 % of the batches and then falls to zero linearly.

    The result lies in the run's folder, `<evaluator>-trained.pt`; where it is already there, it is used. `before` steps of the run's
    `total` have been taken; `state` is the training's part of a checkpoint.
    """
    path = run.folder / f"{learner.evaluator.name}-trained.pt" if run.folder is not None else None
    network, batches = learner.network, config.pretraining
    weights = kit.read_state(path) if path is not None else None
    if weights is not None:
        network.load_state_dict(weights)
        learner.keep_weights()
        return
    rise = max(1, round(batches * WARM_UP))

    def backward(rows: Tensor, step: int) -> dict[str, float]:
        targets = F.one_hot(real.labels[rows.to(real.device)], real.dataset.num_classes).float()
        draws = torch.Generator(real.device).manual_seed(kit.seed_from(generator))
        images, targets = augment.augment(real.at(rows), targets, PRETRAINING, draws)
        network.zero_grad()
        with torch.autocast(real.device.type, torch.bfloat16, enabled=config.bfloat16 and has_bfloat16(real.device)):
            logits, _ = learner(images)
        loss = F.cross_entropy(logits.float(), targets)
        torch.autograd.backward(loss)
        return {"pretraining": float(loss.detach())}

    training = Training(  # every epoch is one random batch
        network,
        torch.optim.AdamW(network.parameters(), lr=learner.evaluator.learning_rate, weight_decay=0.05),
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
        checkpoint = {"phase": learner.evaluator.name, "training": training.state(), "generator": generator}
        run.step(before + training.done, total, losses, checkpoint)
    learner.keep_weights()
    if path is not None:
        kit.write_state(path, learner.start)
