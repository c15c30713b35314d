"""What several methods share and no paper claims: the folder of a run, real batches by class, gradients, pictures.

Legend: N images, C channels, S side in pixels, K classes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mabench
import mabench_methods
from mabench.data import Dataset, RealData
from mabench.digests import canonical_json, stream
from mabench.errors import Interrupted, MabenchError
from mabench.files import append_checksum, atomic_write, discard, read_checksummed, write_text
from mabench.networks import architectures as networks
from mabench.networks import compiling
from mabench.schema import Card
from mabench.sets import synthetic
from mabench.sets.synthetic import SyntheticSet

CHECKPOINT_SECONDS = 60.0  # ours: at most this much work is lost
COMPILE_FROM_IMAGES = 100_000  # ours: compiling takes about as long as the gradients of these on two cores
SET, CARD = "set.safetensors", "card.toml"


def check(train: RealData, ipc: int) -> None:
    """Raise MabenchError unless this is a train split whose every class has at least `ipc` images."""
    if train.split != "train":
        raise MabenchError(f"{train.dataset.name}: a set must be made from the train split, not from '{train.split}'.")
    smallest = int(np.bincount(train.labels, minlength=train.dataset.num_classes).min())
    if not 1 <= ipc <= smallest:
        raise MabenchError(f"{train.dataset.name}: IPC {ipc} is impossible, the smallest class has {smallest} images.")


# -- a run and its folder ----------------------------------------------------------------------------------------------


class Run:
    """One condensation in its folder: identity, checkpoint, losses, pictures, card and the finished set.

    Without a folder nothing is kept. `on_progress(done, total, losses)` hears of every step; once `should_stop()` answers
    True the next step saves a checkpoint and raises Interrupted.
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_progress: Callable[[int, int, Mapping[str, float]], None] = lambda done, total, losses: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.on_progress, self.should_stop = folder, on_progress, should_stop
        self.losses: list[tuple[int, dict[str, float]]] = []
        self.identity: dict[str, Any] = {}
        self.command = ""
        self.seconds = 0.0
        self._clock = self._saved = time.monotonic()

    def begin(self, method: str, config: Any, seed: int, train: RealData) -> dict[str, Any] | None:
        """Claim the folder for this condensation; the state of its checkpoint, None where it starts afresh.

        Raises MabenchError when the folder holds another condensation.
        """
        self.identity = {
            "method": method,
            "config": json.loads(canonical_json(dataclasses.asdict(config))),
            "seed": seed,
            "train": train.sha256,
        }
        self._clock = self._saved = time.monotonic()
        if self.folder is None:
            return None
        self.command = command(method, train.dataset.name, config, seed)
        found, kept = self._found(), kept_in(self.folder / "checkpoint.pt")
        if found is None and isinstance(kept, dict):
            found = kept.get("identity")  # a checkpoint knows as well whose it is
        if found is None and (self.folder / SET).exists():
            raise MabenchError(
                f"{self.folder}: holds a set, but its run.json is missing or damaged, so nobody can tell how the set was made. "
                "Name another folder with --out, or move this one away."
            )
        if found is not None and found != self.identity:
            differing = [k for k in self.identity if found.get(k) != self.identity[k]]
            raise MabenchError(
                f"{self.folder}: holds another condensation (its {' and '.join(differing)} differ). "
                "Name another folder with --out, or remove this one."
            )
        if self._found() is None:
            self._describe()
        try:
            self.losses, self.seconds = [(int(s), dict(v)) for s, v in kept["losses"]], float(kept["seconds"])
            state: dict[str, Any] = kept["state"]
        except (TypeError, KeyError):  # none, a damaged one, or another program's: from the beginning, which changes no result
            return None
        return state

    def _found(self) -> dict[str, Any] | None:
        """The identity in run.json; None where it is absent or damaged."""
        assert self.folder is not None
        try:
            identity = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["identity"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return identity if isinstance(identity, dict) else None

    def step(self, done: int, total: int, losses: Mapping[str, float], state: Callable[[], dict[str, Any]]) -> None:
        """`done` of `total` steps are behind us. Raises MabenchError for a loss that is not finite, Interrupted when asked."""
        wrong = [name for name, value in losses.items() if not np.isfinite(value)]
        if wrong:
            raise MabenchError(
                f"step {done} of {total}: the loss '{wrong[0]}' is not finite, so the images are lost. "
                "Lower the rate of the images, or start from real images; the last checkpoint is kept."
            )
        self.losses.append((done, dict(losses)))
        self.on_progress(done, total, losses)
        stop = self.should_stop() and done < total
        if self.folder is not None and (stop or time.monotonic() - self._saved >= CHECKPOINT_SECONDS):
            self._tick()
            kept = {"identity": self.identity, "losses": self.losses, "seconds": self.seconds, "state": state()}
            keep_in(self.folder / "checkpoint.pt", kept)
            self._saved = time.monotonic()
        if stop:
            raise Interrupted

    def finish(self, made: SyntheticSet, card: Card) -> SyntheticSet:
        """Write the set, its card with the command, the losses, a preview and a plot; drop the checkpoint. Returns the set."""
        self._tick()
        if self.folder is None:
            return made
        self._describe()
        names = sorted({name for _, values in self.losses for name in values})
        rows = [",".join(["step", *names])]
        rows += [
            ",".join([str(step), *(f"{values[n]:.6g}" if n in values else "" for n in names)]) for step, values in self.losses
        ]
        write_text(self.folder / "losses.csv", "\n".join(rows) + "\n")
        if names:
            lines = {n: [(s, v[n]) for s, v in self.losses if n in v] for n in names}
            every = [value for points in lines.values() for _, value in points]
            # losses of unlike size, or one that falls far, show on a logarithmic axis alone
            plot(self.folder / "losses.png", lines, "step", "loss", log=0 < 100 * min(every) < max(every))
        synthetic.preview(made, self.folder / "preview.png")
        write_text(self.folder / CARD, card.model_copy(update={"command": card.command or self.command}).toml())
        made.save(self.folder / SET)  # last: that it exists says that everything does
        self._drop_checkpoint()
        return made

    def finished(self) -> SyntheticSet | None:
        """The set, if this condensation has been finished before and its file is whole. Call it after `begin`."""
        if self.folder is None or not (self.folder / SET).exists():
            return None
        try:
            made = synthetic.load(self.folder / SET)
        except MabenchError as error:
            warnings.warn(f"{error} It is made again.", stacklevel=2)
            return None
        self._drop_checkpoint()
        return made

    def _drop_checkpoint(self) -> None:
        assert self.folder is not None
        discard(self.folder / "checkpoint.pt")

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _describe(self) -> None:
        assert self.folder is not None
        facts = {
            "identity": self.identity,
            "seconds": round(self.seconds, 1),
            "mabench": mabench.__version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        write_text(self.folder / "run.json", json.dumps(facts, indent=1) + "\n")


def command(method: str, dataset: str, config: Any, seed: int) -> str:
    """What a reader types to make the same set: the preset that is nearest to the configuration, and where it differs.

    Empty for a method that `mabench reproduce` does not know, and for a dataset that it has no presets for.
    """
    known = mabench_methods.presets(method) if method in mabench_methods.METHODS else {}
    wanted = _leaves(config)
    differing = {
        name: {key: value for key, value in wanted.items() if _leaves(preset.config).get(key) != value}
        for name, preset in known.items()
        if preset.dataset == dataset
    }
    if not differing:
        return ""
    name = min(differing, key=lambda n: len(differing[n]))
    changes = [f"--config {shlex.quote(f'{key}={value}')}" for key, value in differing[name].items()]
    return " ".join([f"mabench reproduce {method} --preset {name}", *changes, f"--seed {seed}"])


def _leaves(config: Any, prefix: str = "") -> dict[str, str]:
    """The fields of a configuration by dotted path, written as `--config` reads them."""
    found: dict[str, str] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= _leaves(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple):
            found[prefix + field.name] = ",".join(map(str, value))
        else:
            found[prefix + field.name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def keep_in(path: Path, value: Any) -> None:
    """Write tensors, numbers and text in dictionaries and lists with torch and a checksum: torch itself does not notice a flipped bit."""
    with atomic_write(path) as file:
        torch.save(value, file)
        append_checksum(file)


def kept_in(path: Path) -> Any:
    """What `keep_in` wrote, on the CPU; None where the file is absent or was changed."""
    content = read_checksummed(path)
    try:
        return None if content is None else torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception:  # written by another program, or for another version of torch: as good as absent
        return None


def plot(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, *, log: bool = False) -> None:
    """PNG with one line per name through its (x, y) points; the average of up to 1 in 100 neighbours where there are many."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in lines.items():
        values = np.array(points, dtype=float).reshape(-1, 2)
        window = max(1, len(values) // 100)
        usable = len(values) // window * window
        smooth = values[:usable].reshape(-1, window, 2).mean(1)
        axes.plot(smooth[:, 0], smooth[:, 1], label=name)
    axes.set(xlabel=x, ylabel=y, yscale="log" if log else "linear")
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


# -- real images ---------------------------------------------------------------------------------------------------------


class RealImages:
    """A train split by class, normalised by the dataset's mean and std; uint8 on the device where it fits."""

    def __init__(self, train: RealData, device: torch.device) -> None:
        self.dataset, self.device = train.dataset, device
        self.images = torch.tensor(train.images).to(device)
        self.labels = torch.tensor(train.labels).to(device)
        self.mean, self.std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (train.dataset.mean, train.dataset.std))
        by_label = torch.argsort(self.labels, stable=True).cpu()
        counts = torch.bincount(self.labels, minlength=train.dataset.num_classes).tolist()
        self.rows: list[Tensor] = list(torch.split(by_label, counts))
        """Class -> its row numbers, on the CPU."""

    def at(self, rows: Tensor) -> Tensor:
        """Normalised images [B,C,S,S] of these rows."""
        pixels = self.images[rows.to(self.device)].float() / 255
        return (pixels - self.mean) / self.std

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """`count` distinct random images of a class, all of them if it has fewer: [B,C,S,S]. The generator is on the CPU."""
        rows = self.rows[label]
        return self.at(rows[torch.randperm(len(rows), generator=generator)[:count]])

    def to_set(
        self,
        images: Tensor,
        ipc: int,
        name: str,
        *,
        decode: str = "none",
        clamp: bool = False,
        learning_rate: float | None = None,
    ) -> SyntheticSet:
        """Normalised images [K*ipc,C,S,S], class by class, as a set: float32 in pixel space."""
        pixels = images.detach() * self.std + self.mean
        return SyntheticSet(
            images=(pixels.clamp(0, 1) if clamp else pixels).float().cpu().contiguous(),
            labels=torch.arange(self.dataset.num_classes).repeat_interleave(ipc),
            dataset=self.dataset.name,
            ipc=ipc,
            decode=decode,
            class_names=self.dataset.class_names,
            name=name,
            learning_rate=learning_rate,
        )


# -- networks and their gradients ------------------------------------------------------------------------------------------


def draw_network(dataset: Dataset, architecture: str, seed: int, **arguments: Any) -> networks.Network:
    """A network of `networks.py` for this dataset, its weights drawn from `seed` and from nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.build(
            architecture,
            num_classes=dataset.num_classes,
            channels=dataset.channels,
            image_size=dataset.image_size,
            **arguments,
        )


def place(network: networks.Network, device: torch.device) -> networks.Network:
    """The network on the device, in the layout that convolutions like."""
    network.to(device)
    network.to(memory_format=torch.channels_last)
    return network


class MeanGradient:
    """Gradient of the mean cross-entropy of a batch of real images, in the largest parts that the caches like.

    `kind` names a sort of network that is used often enough to be compiled; where the device multiplies bfloat16 its products
    are then in bfloat16 and its sums in float32. Without `kind`, or without a compiler, everything is eager float32.
    """

    def __init__(self, device: torch.device, kind: str | None = None) -> None:
        self.device = device
        compiling.keep_freed_memory()
        self.forward: Callable[[nn.Module, Tensor], Tensor] = lambda network, images: network(images)
        self.narrow = False
        self.hits = torch.zeros(0, dtype=torch.bool)
        """Which images of the last call were classified correctly, [B]."""
        self.part = 25 if device.type == "cpu" else 2048  # measured in mabench.engine: larger parts leave the caches
        if kind is not None and compiling.can_compile(device):
            self.forward, self.narrow = compiling.program(kind), compiling.has_bfloat16(device)
            self.part = 64 if device.type == "cpu" else 2048

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
        """One detached tensor per parameter. Parts are for networks without batch statistics only: others go in one piece."""
        parameters = list(network.parameters())
        whole_batch = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in network.modules())
        count = 1 if whole_batch else -(-len(images) // self.part)
        total: list[Tensor] | None = None
        hits = []
        images = images.contiguous(memory_format=torch.channels_last)
        for part, target in zip(images.tensor_split(count), labels.tensor_split(count), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
                logits = self.forward(network, part).float()
            loss = F.cross_entropy(logits, target, reduction="sum") / len(images)
            hits.append(logits.detach().argmax(1) == target)
            gradient = torch.autograd.grad(loss, parameters)
            total = [g + new for g, new in zip(total, gradient, strict=True)] if total else list(gradient)
        assert total is not None
        self.hits = torch.cat(hits)
        return [g.detach() for g in total]


def train_network(
    network: nn.Module,
    real: RealImages,
    epochs: int,
    generator: torch.Generator,
    *,
    kind: str | None = None,
    rate: float = 0.01,  # DC's released evaluation: rate, momentum, weight decay, batch
    batch: int = 256,
    on_batch: Callable[[Tensor, Tensor], None] = lambda rows, hits: None,
    on_epoch: Callable[[int, float], None] = lambda epoch, accuracy: None,
) -> None:
    """Plain cross-entropy on the train split, no augmentation, rate x0.1 after half of the epochs.

    `on_batch(rows [B], hits [B])` hears which images were right just before their step; `on_epoch` of the mean of that.
    """
    gradient = MeanGradient(real.device, kind)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    network.train()
    for epoch in range(epochs):
        if epochs > 1 and epoch == epochs // 2:
            optimizer.param_groups[0]["lr"] = rate / 10
        right = 0
        for rows in torch.split(torch.randperm(len(real.labels), generator=generator), batch):
            found = gradient(network, real.at(rows), real.labels[rows.to(real.device)])
            for parameter, value in zip(network.parameters(), found, strict=True):
                parameter.grad = value
            optimizer.step()
            on_batch(rows, gradient.hits.cpu())
            right += int(gradient.hits.sum())
        on_epoch(epoch + 1, right / len(real.labels))


@torch.no_grad()
def embed(network: networks.Network, real: RealImages, rows: Tensor) -> Tensor:
    """What enters the classifier for these rows: [len(rows),D], on the CPU."""
    network.eval()
    part = 50 if real.device.type == "cpu" else 2000
    return torch.cat(
        [network.embed(real.at(r).contiguous(memory_format=torch.channels_last)).cpu() for r in torch.split(rows, part)]
    )


def freeze_batch_norm(network: nn.Module, images: Tensor) -> None:
    """Give batch norm layers the running statistics of one real batch, then let them use these (DC's released code)."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if layers:
        network.train()
        with torch.no_grad():
            network(images)
        for layer in layers:
            layer.eval()


def generators(seed: int, names: Iterable[str]) -> dict[str, torch.Generator]:
    """One CPU generator per named stream; `states` and `restore` carry them through a checkpoint."""
    return {name: torch.Generator().manual_seed(stream(seed, name)) for name in names}


def states(named: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """Their states, for a checkpoint."""
    return {name: generator.get_state() for name, generator in named.items()}


def restore(named: Mapping[str, torch.Generator], saved: Mapping[str, Tensor]) -> None:
    """Put every generator back where it was."""
    for name, generator in named.items():
        generator.set_state(saved[name])


def seed_from(generator: torch.Generator) -> int:
    """A fresh seed for a network or an augmentation."""
    return int(torch.randint(2**62, (), generator=generator))
