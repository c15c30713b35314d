"""Experts: networks trained on the real data, their weights kept after every epoch, and how smooth their way was.

Paper, section 3.1, Eq. 1: loss = lambda * cross-entropy + mu * mean((|d output / d input| - 1)^2), with SGD and momentum.
lambda grows to 1 over the first epochs. The paper calls this clipping; nothing is clipped, in the formula or in the code.

Legend: E epochs trained, P parameters, B images in a batch, C channels, S side.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mabench.data import RealData, augment
from mabench.digests import digest, stream
from mabench.errors import MabenchError
from mabench.files import is_intact, size_of, write_checksummed
from mabench.networks.architectures import Network

from .. import kit
from ..kit import MeanGradient, RealImages
from .matching import Flat

FORMAT = 2  # ours: raised when an expert of the same configuration would come out different, or its file
CLIPS: dict[str, tuple[float, ...]] = {
    "none": (),
    "paper": (0.5, 0.6, 0.7, 0.8, 0.9),  # section 4.1: "from 0.5 to 1 ... for the first 5 training epochs"
    "released": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
}
"""lambda of the first epochs; 1 from then on."""
PENALTIES = {"none": 0.0, "paper": 1.0, "released": 2.0}
"""mu. `paper`: the norm over a whole image, which is what Eq. 1 and WGAN-GP mean; `released`: over the channels of each pixel."""
DECAYS = {"none": 1.0, "paper": 0.5, "released": 0.6}
"""Factor of the rate from the middle on; `paper` after epoch E/2, `released` after E/2 + 2 epochs with an empty momentum buffer."""
SCALARS = ("logit-sum", "true-logit")
STORAGE = {"float32": torch.float32, "float16": torch.float16}
STEP_IMAGES = 5120  # ours: after about as many a training may stop; a tenth of an epoch of CIFAR


@dataclass(frozen=True)
class ExpertConfig:
    """How experts are trained. Defaults: AST's paper; where it is silent (rate, weight decay, batch) its released code."""

    count: int = 50
    epochs: int = 50
    """Length of the schedule."""
    stop_after: int = 0
    """Train only this many of the epochs, 0 = all: matching reads no more than `max_start` - 1 + `expert_epochs`."""
    batch: int = 256
    rate: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 1e-3
    clip: str = "paper"
    penalty: str = "paper"
    penalty_of: str = "logit-sum"
    """Which output is differentiated: the sum of all logits (released code; the paper leaves it open), or the true class's."""
    decay: str = "paper"
    augmentation: str = augment.DSA
    """DSA's operations joined by _; the penalty sees images without it (released code)."""
    epoch_images: int = 0
    """Images in an epoch, drawn anew for each; 0 = all."""
    storage: str = "float32"
    depth: int = 0
    """Blocks of the ConvNet; 0 = 3 at 32 px, 4 at 64, 5 at 128 (paper, section 7)."""
    width: int = 128
    seed: int = 0
    """Experts are one pool, as in all papers of this family: seeds of the condensation share it."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("clip", CLIPS), ("penalty", PENALTIES), ("decay", DECAYS), ("penalty_of", SCALARS), ("storage", STORAGE),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise MabenchError(f"experts.{name} = '{getattr(self, name)}': allowed are {', '.join(allowed)}.")
        if self.count < 1 or self.epochs < 1 or not 0 <= self.stop_after <= self.epochs:
            raise MabenchError(
                f"experts: count {self.count}, epochs {self.epochs}, stop_after {self.stop_after}: "
                "there must be at least one expert of one epoch, and it cannot stop after its last one."
            )

    @property
    def trained(self) -> int:
        """E."""
        return self.stop_after or self.epochs

    def depth_at(self, image_size: int) -> int:
        """Blocks for images of this side: as many as leave 4 x 4 places, unless `depth` says otherwise."""
        return self.depth or max(1, image_size.bit_length() - 3)

    @property
    def step_images(self) -> int:
        """Images between two places where a training may stop: whole batches."""
        return -(-STEP_IMAGES // self.batch) * self.batch

    def clip_at(self, epoch: int) -> float:
        """lambda in this epoch, counted from 0."""
        table = CLIPS[self.clip]
        return table[epoch] if epoch < len(table) else 1.0

    def rate_at(self, epoch: int) -> float:
        """Rate in this epoch, counted from 0."""
        return self.rate * (DECAYS[self.decay] if epoch >= self.decay_epoch else 1.0)

    @property
    def decay_epoch(self) -> int:
        """First epoch, counted from 0, with the lower rate."""
        return self.epochs // 2 + (2 if self.decay == "released" else 0)


# -- an expert and the files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expert:
    """One expert: weights after 0..E epochs, in memory or in a file of which only the rows asked for are read."""

    variation: tuple[float, ...]
    """|theta_(e+1) - theta_e|^2 of every epoch, of the weights as trained."""
    accuracy: tuple[float, ...]
    """Part of each epoch's (augmented) training images that were classified correctly just before their step."""
    weights: Tensor | None = None
    path: Path | None = None

    @property
    def average_variation(self) -> float:
        """Avg Var, the paper's measure of smoothness (section 4.4.1): mean over epochs of the squared change of all weights."""
        return sum(self.variation) / len(self.variation)

    def rows(self, first: int, last: int) -> Tensor:
        """Weights after epochs first..last, float32 [last-first+1,P]; -1 stands for the end."""
        size = len(self.variation) + 1
        first, last = first % size, last % size
        if self.path is None:
            assert self.weights is not None
            return self.weights[first : last + 1].float()
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            found: Tensor = file.get_slice("weights")[first : last + 1]
        return found.float()

    def save(self, path: Path, facts: Mapping[str, Any]) -> Expert:
        """Write one safetensors file (weights [E+1,P], everything else in its header); the expert that reads from it."""
        assert self.weights is not None
        header = {"format": "mabench-expert", "variation": self.variation, "accuracy": self.accuracy, **facts}
        write_checksummed(path, {"weights": self.weights.contiguous()}, header)
        return load(path)


def load(path: Path) -> Expert:
    """An expert's file. Raises MabenchError when it is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        size_of(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["facts"])
            rows = file.get_slice("weights").get_shape()[0]
        expert = Expert(tuple(header["variation"]), tuple(header["accuracy"]), path=path)
        numbers = all(isinstance(v, int | float) for v in (*expert.variation, *expert.accuracy))
        if header["format"] != "mabench-expert" or not numbers or rows != len(expert.variation) + 1:
            raise ValueError("not an expert")
        if not is_intact(path):
            raise ValueError("it was changed after it was written")
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MabenchError(f"{path}: not a complete expert ({error}). Remove it; it will be trained again.") from error
    return expert


def folder_name(config: ExpertConfig, train: RealData) -> str:
    """Name of the folder of all experts of this configuration and data: their number does not matter, everything else does."""
    facts = {k: v for k, v in dataclasses.asdict(config).items() if k != "count"}
    return f"{train.dataset.name}-{digest({'format': FORMAT, 'train': train.sha256, **facts})[:16]}"


def table(experts: Sequence[Expert]) -> str:
    """CSV: every expert's Avg Var and training accuracy of its last epoch, then every epoch's variation."""
    epochs = range(1, len(experts[0].variation) + 1)
    lines = [",".join(["expert", "avg_var", "train_accuracy", *(f"variation_{e}" for e in epochs)])]
    for number, expert in enumerate(experts):
        values = [expert.average_variation, expert.accuracy[-1], *expert.variation]
        lines.append(",".join([str(number), *(f"{v:.6g}" for v in values)]))
    return "\n".join(lines) + "\n"


# -- training ------------------------------------------------------------------------------------------------------------------


def gradient_penalty(
    network: nn.Module, images: Tensor, labels: Tensor, *, kind: str, of: str = "logit-sum", part: int = 2048
) -> tuple[Tensor, list[Tensor]]:
    """mu * mean((|d W / d x| - 1)^2) of Eq. 1, and its gradient with respect to every parameter.

    images [B,C,S,S]. `paper`: the mean is over images; `released`: over the pixels of all images. W: see `ExpertConfig`.
    """
    parameters = list(network.parameters())
    total, gradients = images.new_zeros(()), [torch.zeros_like(p) for p in parameters]
    for some, target in zip(torch.split(images, part), torch.split(labels, part), strict=True):
        some = some.detach().requires_grad_(True)
        logits = network(some)
        output = logits.sum() if of == "logit-sum" else logits.gather(1, target[:, None]).sum()
        (slope,) = torch.autograd.grad(output, some, create_graph=True)
        squares = slope.square().sum(1) if kind == "released" else slope.square().flatten(1).sum(1)
        norms = (squares + 1e-12).sqrt()  # 1e-12: ours, so that a norm of zero has a gradient
        penalty = PENALTIES[kind] * (norms - 1).square().mean() * (len(some) / len(images))
        found = torch.autograd.grad(penalty, parameters, allow_unused=True)  # the classifier's bias has no part in it
        total = total + penalty.detach()
        gradients = [g if new is None else g + new for g, new in zip(gradients, found, strict=True)]
    return total, gradients


class Training:
    """One expert in training: `advance` by `step_images` images, `state` and `resume` around an interruption."""

    def __init__(self, number: int, config: ExpertConfig, real: RealImages, *, part: int) -> None:
        self.config, self.real, self.part = config, real, part
        base = stream(config.seed, f"expert {number}")
        self.network: Network = kit.place(
            kit.draw_network(real.dataset, "convnet", base, depth=config.depth_at(real.dataset.image_size), width=config.width),
            real.device,
        )
        self.streams = kit.generators(base, ("order", "augmentation"))
        self.gradient = MeanGradient(real.device)
        self.flat = Flat(self.network)
        self.snapshots = torch.empty(config.trained + 1, self.flat.total)
        self.epoch = self.position = self.right = 0
        self.variation: list[float] = []
        self.accuracy: list[float] = []
        self._new_optimizer()
        self._new_epoch()
        self.snapshots[0] = self._weights()

    @staticmethod
    def parts(config: ExpertConfig, images: int) -> int:
        """How many times `advance` has to be called for one expert; `images` is the size of the train split."""
        return config.trained * -(-min(config.epoch_images or images, images) // config.step_images)

    @property
    def finished(self) -> bool:
        return self.epoch == self.config.trained

    def advance(self) -> dict[str, float]:
        """Train on; the mean error and penalty of these batches."""
        config, seen, wrong, total = self.config, 0, 0, 0.0
        while seen < config.step_images and self.position < len(self.order):
            rows = self.order[self.position : self.position + config.batch]
            right, penalty = self._step(rows)
            self.position += len(rows)
            self.right += right
            seen, wrong, total = seen + len(rows), wrong + len(rows) - right, total + penalty * len(rows)
        if self.position >= len(self.order):
            self._end_epoch()
        return {"expert error": wrong / seen} | ({"penalty": total / seen} if config.penalty != "none" else {})

    def _step(self, rows: Tensor) -> tuple[int, float]:
        """One step of SGD on these rows; how many were right, and the penalty."""
        config, device = self.config, self.real.device
        images, labels = self.real.at(rows), self.real.labels[rows.to(device)]
        varied = images
        if config.augmentation:
            own = torch.Generator(device).manual_seed(kit.seed_from(self.streams["augmentation"]))
            varied = augment.dsa(images, config.augmentation, own)
        clip = config.clip_at(self.epoch)
        slopes = [clip * g for g in self.gradient(self.network, varied, labels)]
        penalty = 0.0
        if config.penalty != "none":
            value, extra = gradient_penalty(
                self.network, images, labels, kind=config.penalty, of=config.penalty_of, part=self.part
            )
            slopes, penalty = [g + e for g, e in zip(slopes, extra, strict=True)], float(value)
        for parameter, slope in zip(self.network.parameters(), slopes, strict=True):
            parameter.grad = slope
        self.optimizer.step()
        return int(self.gradient.hits.sum()), penalty

    def _end_epoch(self) -> None:
        now = self._weights()
        self.variation.append(float((now - self.snapshots[self.epoch]).double().square().sum()))
        self.accuracy.append(self.right / len(self.order))
        self.epoch += 1
        self.snapshots[self.epoch] = now
        if not self.finished:
            self._new_epoch()

    def _new_epoch(self) -> None:
        self.order = torch.randperm(len(self.real.labels), generator=self.streams["order"])
        self.order = self.order[: self.config.epoch_images or None]
        self.position = self.right = 0
        if self.epoch and self.epoch == self.config.decay_epoch and self.config.decay == "released":
            self._new_optimizer()
        self.optimizer.param_groups[0]["lr"] = self.config.rate_at(self.epoch)

    def _new_optimizer(self) -> None:
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), self.config.rate, self.config.momentum, weight_decay=self.config.weight_decay
        )

    def _weights(self) -> Tensor:
        return self.flat.join(list(self.network.parameters())).detach().cpu()  # `join` copies: no alias of the live weights

    def expert(self) -> Expert:
        """What has been trained, in the precision of `storage`."""
        stored = self.snapshots.to(STORAGE[self.config.storage])
        return Expert(tuple(self.variation), tuple(self.accuracy), weights=stored)

    _PLAIN = ("epoch", "position", "right", "variation", "accuracy", "order")

    def state(self) -> dict[str, Any]:
        """Everything that `resume` needs."""
        return {name: getattr(self, name) for name in self._PLAIN} | {
            "network": {k: v.cpu() for k, v in self.network.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "streams": kit.states(self.streams),
            "snapshots": self.snapshots[: self.epoch + 1].clone(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name in self._PLAIN:
            setattr(self, name, state[name])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        kit.restore(self.streams, state["streams"])
        self.snapshots[: self.epoch + 1] = state["snapshots"]


def train_pool(
    train: RealData,
    real: RealImages,
    config: ExpertConfig,
    folder: Path | None,
    *,
    part: int,
    on_step: Callable[[int, dict[str, float], Callable[[], dict[str, Any]]], None] = lambda parts, losses, state: None,
    state: Mapping[str, Any] | None = None,
) -> list[Expert]:
    """`config.count` experts, each in its file of `folder` (None = in memory); those already there are not trained again.

    `on_step(parts, losses, state)` hears of every part of a training (see `Training.parts`), counted over all experts, and of
    every expert that was there; losses include `avg var` when an expert is complete. `state`: what such a state gave before an
    interruption, which takes `folder`; `{"number": config.count}` = everything has been heard.
    """
    each = Training.parts(config, len(train.labels))
    resumed = state or {"number": 0}
    experts: list[Expert] = []
    for number in range(config.count):
        path = folder and folder / f"expert-{number:03d}.safetensors"
        if path and path.exists():
            expert, losses = load(path), {}
        else:
            training = Training(number, config, real, part=part)
            if number == resumed["number"] and resumed.get("training"):
                training.resume(resumed["training"])

            def checkpoint(number: int = number, training: Training = training) -> dict[str, Any]:
                return {"number": number, "training": training.state()}

            done = number * each + training.epoch * (each // config.trained) + training.position // config.step_images
            while True:
                losses, done = training.advance(), done + 1
                if training.finished:
                    break
                on_step(done, losses, checkpoint)
            expert = training.expert()
            if path:
                facts = {"dataset": train.dataset.name, "train": train.sha256, "config": dataclasses.asdict(config)}
                names = [[n, list(s)] for n, s in zip(training.flat.names, training.flat.shapes, strict=True)]
                expert = expert.save(path, facts | {"number": number, "parameters": names})
        experts.append(expert)
        if number >= resumed["number"]:
            losses["avg var"] = expert.average_variation
            on_step((number + 1) * each, losses, lambda after=number + 1: {"number": after})  # type: ignore[misc]
    return experts
