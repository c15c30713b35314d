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
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mabench.data import RealData, augment
from mabench.digests import digest, stream
from mabench.errors import MabenchError
from mabench.files import is_intact, size_of, write_checksummed
from mabench.networks.architectures import Network

from .. import kit
from ..kit import LoopState, MeanGradient, RealImages, Training
from .matching import Flat

Variant = Literal["none", "paper", "released"]
FORMAT = 3  # ours: raised when an expert of the same configuration would come out different, or its file
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
STORAGE = {"float32": torch.float32, "float16": torch.float16}
STEP_IMAGES = 5120  # ours: after about as many a training may stop; a tenth of an epoch of CIFAR


@dataclass(frozen=True)
class ExpertConfig:
    """How experts are trained. Defaults: AST's paper; where it is silent (rate, weight decay, batch) its released code."""

    count: int = 50
    epochs: int = 50
    """Length of the schedule."""
    stop_after: int = 0
    """Where an expert ends, 0 = after all epochs. No expert is trained further than it is read, whatever this says."""
    batch: int = 256
    rate: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 1e-3
    clip: Variant = "paper"
    penalty: Variant = "paper"
    penalty_of: Literal["logit-sum", "true-logit"] = "logit-sum"
    """Which output is differentiated: the sum of all logits (released code; the paper leaves it open), or the true class's."""
    decay: Variant = "paper"
    augmentation: str = augment.DSA
    """DSA's operations joined by _; the penalty sees images without it (released code)."""
    epoch_images: int = 0
    """Images in an epoch, drawn anew for each; 0 = all."""
    storage: Literal["float32", "float16"] = "float32"
    depth: int = 0
    """Blocks of the ConvNet; 0 = 3 at 32 px, 4 at 64, 5 at 128 (paper, section 7)."""
    width: int = 128
    seed: int = 0
    """Experts are one pool, as in all papers of this family: seeds of the condensation share it."""

    def __post_init__(self) -> None:
        kit.check_fields(self, "experts.")
        augment.operations(self.augmentation)
        if self.stop_after > self.epochs:
            raise MabenchError(
                f"experts: epochs {self.epochs}, stop_after {self.stop_after}: an expert cannot stop after its last epoch."
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

    def until(self, epoch: int) -> Expert:
        """The same expert, had it stopped there."""
        return dataclasses.replace(self, variation=self.variation[:epoch], accuracy=self.accuracy[:epoch])

    def save(self, path: Path, facts: Mapping[str, Any], ends: Mapping[str, Tensor]) -> Expert:
        """Write one safetensors file (weights [E+1,P], `ends` from `ExpertTraining.ends`, everything else in its header); the expert
        that reads from it."""
        assert self.weights is not None
        header = {"format": "mabench-expert", "variation": self.variation, "accuracy": self.accuracy, **facts}
        write_checksummed(path, {"weights": self.weights.contiguous(), **ends}, header)
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
        raise MabenchError(f"{path}: not a complete expert ({error}). Remove it and run again; it is retrained.") from error
    return expert


def folder_name(config: ExpertConfig, train: RealData) -> str:
    """Name of the folder of all experts of this configuration and data: neither their number nor where they end matters."""
    facts = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("count", "stop_after")}
    return f"{train.dataset.name}-{digest({'format': FORMAT, 'train': train.sha256, **facts})[:16]}"


def table(experts: Sequence[Expert]) -> str:
    """CSV: every expert's Avg Var and training accuracy of its last epoch, then every epoch's variation, as far as it was read."""
    epochs = range(1, max(len(expert.variation) for expert in experts) + 1)
    lines = [",".join(["expert", "avg_var", "train_accuracy", *(f"variation_{e}" for e in epochs)])]
    for number, expert in enumerate(experts):
        values = [expert.average_variation, expert.accuracy[-1], *expert.variation]
        lines.append(",".join([str(number), *(f"{v:.6g}" for v in values), *[""] * (len(epochs) - len(expert.variation))]))
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


class ExpertTraining:
    """One expert in training for the first `epochs` of its schedule: `advance` by `step_images` images, `state` and `resume` around an
    interruption, `ends` and `extend` around its file."""

    def __init__(self, number: int, config: ExpertConfig, real: RealImages, *, epochs: int, part: int) -> None:
        self.config, self.real, self.part = config, real, part
        base = stream(config.seed, f"expert {number}")
        depth = config.depth_at(real.dataset.image_size)
        self.network: Network = kit.place(
            kit.draw_network(real.dataset, "convnet", base, depth=depth, width=config.width), real.device
        )
        self.streams = kit.generators(base, ("order", "augmentation"))
        self.gradient = MeanGradient(real.device)
        self.flat = Flat(self.network)
        self.snapshots = torch.empty(epochs + 1, self.flat.total)
        self.snapshots[0] = self._weights()
        self.right = 0
        self.variation: list[float] = []
        self.accuracy: list[float] = []
        self.training = Training(
            self.network,
            torch.optim.SGD(self.network.parameters(), config.rate, config.momentum, weight_decay=config.weight_decay),
            epochs=epochs,
            images=min(config.epoch_images or len(real.labels), len(real.labels)),
            batch=config.batch,
            order=self._order,
            backward=self._backward,
            rate=config.rate_at,
        )

    @staticmethod
    def parts(config: ExpertConfig, images: int, epochs: int) -> int:
        """Return how many times `advance` has to be called for so many epochs; `images` is the size of the train split."""
        return epochs * -(-min(config.epoch_images or images, images) // config.step_images)

    @property
    def finished(self) -> bool:
        return self.training.done == self.training.steps

    @property
    def parts_done(self) -> int:
        """Calls of `advance` behind this state."""
        each, per_part = self.training.per_epoch, self.config.step_images // self.config.batch
        return self.training.epoch * -(-each // per_part) + self.training.position // per_part

    def advance(self) -> dict[str, float]:
        """Train on, at most to the end of the epoch; return the mean error and penalty of these batches."""
        training, seen, wrong, total = self.training, 0, 0.0, 0.0
        while seen < self.config.step_images:
            batch = training.step()
            size = int(batch["size"])
            self.right += size - int(batch["wrong"])
            seen, wrong, total = seen + size, wrong + batch["wrong"], total + batch["penalty"] * size
            if training.position == 0:
                self._end_epoch()
                break
        return {"expert error": wrong / seen} | ({"penalty": total / seen} if self.config.penalty != "none" else {})

    def _order(self, epoch: int) -> Tensor:
        """Row numbers of an epoch; where momentum starts again with the lower rate (released code), forget it."""
        if epoch and epoch == self.config.decay_epoch and self.config.decay == "released":
            self.training.optimizer.state.clear()
        return torch.randperm(len(self.real.labels), generator=self.streams["order"])[: self.config.epoch_images or None]

    def _backward(self, rows: Tensor, step: int) -> dict[str, float]:
        """Gradients of Eq. 1 on these rows; their number, how many were wrong, and the penalty."""
        config, device = self.config, self.real.device
        images, labels = self.real.at(rows), self.real.labels[rows.to(device)]
        varied = images
        if config.augmentation:
            draws = torch.Generator(device).manual_seed(kit.seed_from(self.streams["augmentation"]))
            varied = augment.dsa(images, config.augmentation, draws)
        clip = config.clip_at(step // self.training.per_epoch)
        slopes = [clip * g for g in self.gradient(self.network, varied, labels)]
        penalty = 0.0
        if config.penalty != "none":
            value, extra = gradient_penalty(
                self.network, images, labels, kind=config.penalty, of=config.penalty_of, part=self.part
            )
            slopes, penalty = [g + e for g, e in zip(slopes, extra, strict=True)], float(value)
        for parameter, slope in zip(self.network.parameters(), slopes, strict=True):
            parameter.grad = slope
        return {"size": len(rows), "wrong": len(rows) - int(self.gradient.hits.sum()), "penalty": penalty}

    def _end_epoch(self) -> None:
        now, epoch = self._weights(), self.training.epoch
        self.variation.append(float((now - self.snapshots[epoch - 1]).double().square().sum()))
        self.accuracy.append(self.right / len(self.training.rows))
        self.snapshots[epoch] = now
        self.right = 0

    def _weights(self) -> Tensor:
        return self.flat.join(list(self.network.parameters())).detach().cpu()  # `join` copies: no alias of the live weights

    def expert(self) -> Expert:
        """Return what has been trained, in the precision of `storage`."""
        stored = self.snapshots.to(STORAGE[self.config.storage])
        return Expert(tuple(self.variation), tuple(self.accuracy), weights=stored)

    def state(self) -> LoopState:
        """Return the live objects that `resume` needs back."""
        return {
            "training": self.training.state(),
            "streams": self.streams,
            "right": self.right,
            "variation": self.variation,
            "accuracy": self.accuracy,
            "snapshots": self.snapshots[: self.training.epoch + 1],
        }

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Continue where `state` was copied."""
        self.training.resume(saved["training"])
        kit.restore({"streams": self.streams, "variation": self.variation, "accuracy": self.accuracy}, saved)
        self.right = int(saved["right"])
        self.snapshots[: self.training.epoch + 1] = saved["snapshots"]

    def ends(self) -> dict[str, Tensor]:
        """Return what an expert that stopped before its last epoch is continued from: weights and momentum [P], float32, and streams."""
        if self.training.epoch == self.config.epochs:
            return {}
        kept = self.training.optimizer.state
        buffers = [kept[p]["momentum_buffer"] for p in self.network.parameters()] if self.config.momentum else []
        momentum = {"momentum": self.flat.join(buffers).cpu()} if buffers else {}
        return {"last": self._weights(), **momentum, **{name: g.get_state() for name, g in self.streams.items()}}

    def extend(self, expert: Expert) -> None:
        """Continue a shorter expert from its file, as if it had not stopped."""
        from safetensors import safe_open

        done = len(expert.variation)
        assert expert.path is not None
        with safe_open(expert.path, framework="pt") as file:
            ends = {name: file.get_tensor(name) for name in file.keys() if name != "weights"}  # noqa: SIM118
        self.snapshots[:done], self.snapshots[done] = expert.rows(0, done - 1), ends["last"]
        self.variation, self.accuracy = list(expert.variation), list(expert.accuracy)
        self.training.done = done * self.training.per_epoch
        with torch.no_grad():
            for parameter, own in zip(self.network.parameters(), self.flat.split(ends["last"]), strict=True):
                parameter.copy_(own)
        if "momentum" in ends:
            for parameter, own in zip(self.network.parameters(), self.flat.split(ends["momentum"]), strict=True):
                buffer = torch.empty_like(parameter, requires_grad=False).copy_(own)
                self.training.optimizer.state[parameter]["momentum_buffer"] = buffer
        for name, generator in self.streams.items():
            generator.set_state(ends[name])


def train_pool(
    train: RealData,
    real: RealImages,
    config: ExpertConfig,
    folder: Path | None,
    *,
    part: int,
    epochs: Sequence[int] | None = None,
    on_step: Callable[[int, dict[str, float], LoopState], None] = lambda parts, losses, state: None,
    saved: Mapping[str, Any] | None = None,
) -> list[Expert]:
    """`config.count` experts, each in its file of `folder` (None = in memory); those already there are not trained again, but further,
    where they are too short. `epochs`: how far each is wanted; None = to its end.

    `on_step(parts, losses, state)` hears of every part of a training (see `ExpertTraining.parts`), counted over all experts, and of
    every expert that was there; losses include `avg var` when an expert is complete. `saved`: a copy of such a state from before an
    interruption, which needs `folder`; `{"number": config.count}` = everything has been heard.
    """
    resumed = saved or {"number": 0}
    experts: list[Expert] = []
    before = 0
    for number, wanted in enumerate(epochs or [config.trained] * config.count):
        path = folder and folder / f"expert-{number:03d}.safetensors"
        known = load(path) if path and path.exists() else None
        if known is not None and len(known.variation) >= wanted:
            expert, losses = known, {}
        else:
            training = ExpertTraining(number, config, real, epochs=wanted, part=part)
            if number == resumed["number"] and resumed.get("training"):
                training.resume(resumed["training"])
            elif known is not None:
                training.extend(known)
            while True:
                losses = training.advance()
                if training.finished:
                    break
                on_step(before + training.parts_done, losses, {"number": number, "training": training.state()})
            expert = training.expert()
            if path and not (path.exists() and len(load(path).variation) > wanted):  # another run may have gone further meanwhile
                facts = {"dataset": train.dataset.name, "train": train.sha256, "config": dataclasses.asdict(config)}
                names = [[n, list(s)] for n, s in zip(training.flat.names, training.flat.shapes, strict=True)]
                expert = expert.save(path, facts | {"number": number, "parameters": names}, training.ends())
        experts.append(expert.until(wanted))
        before += ExpertTraining.parts(config, len(train.labels), wanted)
        if number >= resumed["number"]:
            losses["avg var"] = experts[-1].average_variation
            on_step(before, losses, {"number": number + 1})
    return experts
