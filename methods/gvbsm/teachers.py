"""Squeeze: backbones trained on the real train split, and the statistics of their layers, each kept as one file.

Files lie in the cache beside the decoded datasets, so that several condensations share them; a run without a folder keeps
nothing. A backbone's file is named by everything that decided its training; a statistics file by the sha256 of the weights
that it describes, which is compared again when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import RealData
from mabench.digests import digest, stream
from mabench.errors import MabenchError
from mabench.files import CHECKSUM, cache_folder, is_intact, size_of, write_checksummed

from .. import kit
from ..kit import Training
from . import backbones, views
from .matching import KINDS, Recorder, Statistics
from .stages import Stages

TELL_EVERY = 10  # ours: steps between two looks at the loss
LOOK_AT = 10_000  # ours: real images on which a backbone's accuracy is measured, at most
USEFUL = 0.2  # ours: a pretrained backbone below this accuracy on real images numbers its classes differently


@dataclass(frozen=True)
class Squeeze:
    """How backbones are trained. Defaults: the released script for CIFAR-10."""

    epochs: int = 5
    """Length of the schedule."""
    rate: float = 0.05
    batch: int = 64
    schedule: Literal["constant", "cosine"] = "constant"
    """`constant`, or `cosine` over the epochs."""
    stop_after: int = 0
    """Train only this many of the epochs, 0 = all."""
    padding: int = 4
    weight_decay: float = 0.0
    held_out: int = 0
    """Real training images per class that no backbone is trained on, to measure its accuracy; 0 = measured on trained ones."""

    def __post_init__(self) -> None:
        kit.check_fields(self, "squeeze.")
        if self.stop_after > self.epochs:
            raise MabenchError(
                f"squeeze: epochs {self.epochs}, stop_after {self.stop_after}: a backbone cannot stop after its last epoch. Lower "
                "stop_after."
            )

    @property
    def trained(self) -> int:
        """Epochs that are trained."""
        return self.stop_after or self.epochs


@dataclass(frozen=True)
class Teacher:
    """A squeezed backbone: evaluation mode, frozen weights, on the device."""

    name: str
    network: nn.Module
    sha256: str
    """Of its weights and buffers, see `weights_sha256`."""
    facts: dict[str, str | int | float]
    """Accuracy [0,1], what it was measured on, epochs, steps."""


def weights_sha256(network: nn.Module) -> str:
    """sha256 over names, shapes and bytes of all parameters and buffers, sorted by name."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def folder(stages: Stages) -> Path | None:
    """Where the files are; None for a run without a folder."""
    return None if stages.run.folder is None else cache_folder() / "gvbsm"


def split(train: RealData, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and, `held_out` per class, for measuring. MabenchError if a class has no more than that."""
    labels = torch.tensor(train.labels)
    order = torch.randperm(len(labels), generator=views.generator(seed, "held-out"))
    kept_out = []
    for label in range(train.dataset.num_classes if held_out else 0):
        own = order[labels[order] == label]
        if len(own) <= held_out:
            raise MabenchError(f"squeeze.held_out = {held_out}: class {label} has only {len(own)} images.")
        kept_out.append(own[:held_out])
    out = torch.cat(kept_out) if kept_out else order[:0]
    used = torch.ones(len(labels), dtype=torch.bool)
    used[out] = False
    return used.nonzero().flatten(), out


def steps(train: RealData, name: str, config: Squeeze) -> int:
    """Optimizer steps of one backbone; 0 for torchvision's."""
    if name.startswith(backbones.PRETRAINED):
        return 0
    images = len(train.labels) - config.held_out * train.dataset.num_classes
    return config.trained * math.ceil(images / config.batch)


def squeeze(
    train: RealData, name: str, config: Squeeze, crop: str, seed: int, device: torch.device, stages: Stages, stage: str
) -> Teacher:
    """The backbone `name`: from its file, or trained now with SGD and momentum 0.9 (released code)."""
    network = backbones.build(name, train.dataset, stream(seed, f"squeeze/{name}"))
    store = folder(stages)
    key = digest([name, asdict(config), crop, seed, train.sha256])[:16]
    path = None if store is None or name.startswith(backbones.PRETRAINED) else store / f"{name}-{key}.safetensors"
    facts: dict[str, str | int | float]
    if path is not None and path.exists():
        facts = _read_network(path, network)
        kit.place(network, device)
    else:
        kit.place(network, device)
        trained = steps(train, name, config)
        if trained:
            _train(train, network, config, crop, seed, device, stages, stage)
        network.eval()
        facts = {"epochs": config.trained if trained else 0, "steps": trained, **_measure(train, network, config, seed, device)}
        if path is not None:
            _write(path, network.state_dict(), facts | {"sha256": weights_sha256(network)})
    if name.startswith(backbones.PRETRAINED) and float(facts["accuracy"]) < USEFUL:
        raise MabenchError(
            f"{name}: {100 * float(facts['accuracy']):.1f} % on real training images, so its classes are not numbered like "
            f"{train.dataset.name}'s. Check the dataset's label order (mabench.data)."
        )
    network.eval().requires_grad_(False)
    sha256 = weights_sha256(network)
    stages.identify(name, sha256)
    return Teacher(name, network, sha256, facts)


def _train(
    train: RealData, network: nn.Module, config: Squeeze, crop: str, seed: int, device: torch.device, stages: Stages, stage: str
) -> None:
    """Order and views of every epoch and step depend on the seed alone, so a checkpoint needs no random state."""
    used, _ = split(train, config.held_out, seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.rate, momentum=0.9, weight_decay=config.weight_decay)

    def order(epoch: int) -> Tensor:
        return used[torch.randperm(len(used), generator=views.generator(seed, "order", stage, epoch))]

    def rate(epoch: int) -> float:
        share = 0.5 * (1 + math.cos(math.pi * epoch / config.epochs)) if config.schedule == "cosine" else 1.0
        return config.rate * share

    def backward(rows: Tensor, step: int) -> dict[str, float]:
        pixels, labels = views.real_pixels(train, rows, device)
        images = views.training_view(pixels, train.dataset, crop, config.padding, views.generator(seed, "view", stage, step))
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        told = (step + 1) % TELL_EVERY == 0 or (step + 1) % training.per_epoch == 0
        return {stage: float(loss.detach())} if told else {}

    training = Training(
        network, optimizer, epochs=config.trained, images=len(used), batch=config.batch, order=order, backward=backward, rate=rate
    )
    if (saved := stages.resume(stage)) is not None:
        training.resume(saved)
    network.train()
    while training.done < training.steps:
        if losses := training.step():
            stages.tell(stage, training.done, losses, training.state())


@torch.no_grad()
def _measure(
    train: RealData, network: nn.Module, config: Squeeze, seed: int, device: torch.device
) -> dict[str, str | int | float]:
    """Accuracy on the held-out part of the train split, or on a random part of it where nothing was held out."""
    used, out = split(train, config.held_out, seed)
    if len(out):
        rows, where = out[torch.randperm(len(out), generator=views.generator(seed, "look"))], "held-out training images"
    else:
        rows, where = used[torch.randperm(len(used), generator=views.generator(seed, "look"))], "training images"
    rows, hits = rows[:LOOK_AT], 0
    for part in torch.split(rows, 250):
        pixels, labels = views.real_pixels(train, part, device)
        hits += int((network(views.normalised(pixels, train.dataset)).argmax(1) == labels).sum())
    return {"accuracy": round(hits / len(rows), 4), "measured_on": f"{len(rows)} {where}"}


# -- statistics ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """The pass through the real images that records convolutions. Defaults: the released script for CIFAR."""

    batch: int = 64
    images: int = 0
    """Random training images that are looked at; 0 = all, as in the paper."""

    def __post_init__(self) -> None:
        kit.check_fields(self, "recording.")

    def rows(self, train: RealData, seed: int) -> Tensor:
        """Row numbers in random order."""
        order = torch.randperm(len(train.labels), generator=views.generator(seed, "recording"))
        return order[: self.images] if self.images else order

    def steps(self, train: RealData) -> int:
        """Batches of the pass."""
        return math.ceil(min(self.images or len(train.labels), len(train.labels)) / self.batch)


def record(
    train: RealData,
    teacher: Teacher,
    config: Recording,
    crop: str,
    padding: int,
    side: int,
    seed: int,
    device: torch.device,
    stages: Stages,
    stage: str,
) -> dict[str, Statistics]:
    """Name of every convolution -> its statistics over the real images, training views on: from their file, or recorded now."""
    store = folder(stages)
    what: dict[str, object] = {
        "weights": teacher.sha256,
        "train": train.sha256,
        "side": side,
        "crop": crop,
        "padding": padding,
        "seed": seed,
    }
    what |= asdict(config)
    path = None if store is None else store / f"statistics-{teacher.sha256[:16]}-{digest(what)[:8]}.safetensors"
    if path is not None and path.exists():
        return _read_statistics(path, teacher, what, device)
    recorder = Recorder(teacher.network, side)
    rows, first = config.rows(train, seed), 0
    saved = stages.resume(stage)
    if saved is not None:
        recorder.totals = {name: [v.to(device) for v in values] for name, values in saved["totals"].items()}
        first = int(saved["done"])
    for step in range(first, math.ceil(len(rows) / config.batch)):
        part = rows[step * config.batch : (step + 1) * config.batch]
        pixels, _ = views.real_pixels(train, part, device)
        images = views.training_view(pixels, train.dataset, crop, padding, views.generator(seed, "recording", step))
        recorder.add(images, len(part) / len(rows))
        if (step + 1) % TELL_EVERY == 0:
            stages.tell(stage, step + 1, {}, {"totals": recorder.totals, "done": step + 1})
    result = recorder.result()
    if path is not None:
        tensors = {f"{name}.{kind}": v for name, values in result.items() for kind, v in zip(KINDS, values, strict=True)}
        _write(path, tensors, what)
    return result


def _read_statistics(path: Path, teacher: Teacher, what: Mapping[str, object], device: torch.device) -> dict[str, Statistics]:
    tensors, found = _read(path)
    if found != what:
        raise MabenchError(f"{path}: statistics of another backbone or pass ({_differing(found, what)} differ). Remove it.")
    names = [name for name, module in teacher.network.named_modules() if isinstance(module, nn.Conv2d)]
    return {name: tuple(tensors[f"{name}.{kind}"].to(device) for kind in KINDS) for name in names}


def _differing(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    return ", ".join(k for k in wanted if found.get(k) != wanted[k])


# -- files -------------------------------------------------------------------------------------------------------------------


def _write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    write_checksummed(path, {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, facts)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str | int | float]]:
    from safetensors import SafetensorError, safe_open

    try:
        size_of(path)
        with safe_open(path, framework="pt") as file:
            facts: dict[str, str | int | float] = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not is_intact(path):
            raise ValueError("it was changed after it was written")
        facts.pop(CHECKSUM, None)
        return tensors, facts
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise MabenchError(
            f"{path}: not a whole file of this method ({error}). Remove it and run again; it is recomputed."
        ) from error


def _read_network(path: Path, network: nn.Module) -> dict[str, str | int | float]:
    tensors, facts = _read(path)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise MabenchError(f"{path}: does not fit its backbone. Remove it and run again; it is recomputed.") from error
    if weights_sha256(network) != facts["sha256"]:
        raise MabenchError(f"{path}: altered since it was written. Remove it and run again; it is recomputed.")
    return facts
