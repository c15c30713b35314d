"""Real images, chosen: what every condensed set has to beat.

`random`; `k-means`: the images nearest to k-means centres of their class; `herding`: greedily, so that the mean of what was
chosen follows the mean of the class (Welling 2009); `k-center`: greedily the image farthest from those already chosen (Sener &
Savarese 2018); `forgetting`: the images that a network in training unlearns most often (Toneva et al. 2019). Each at full
resolution, or packed: four images of half the side in one, or more (multi-formation, Kim et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mabench.data import RealData
from mabench.digests import digest, stream
from mabench.errors import MabenchError
from mabench.files import cache_folder, write_bytes
from mabench.networks.architectures import Network
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet, pack_grid

from .. import kit
from ..kit import RealImages, Run

Rows = npt.NDArray[np.int64]
TEACHER_SEED = 0  # ours: every draw of the soft baseline has the same teacher
FORGOTTEN = "times forgotten"  # beside the weights in a cached network's file
Selection = Literal["random", "herding", "k-center", "k-means", "forgetting"]
"""Also the method's name."""


@dataclass(frozen=True)
class Config:
    """Which real images, and how they are stored."""

    ipc: int
    selection: Selection
    packed: bool = False
    """Several images in one stored image, `formation` a side, each as much smaller."""
    formation: Literal[2, 3, 4, 5, 6, 7, 8] = 2
    features: Literal["network", "pixels"] = "network"
    """Where herding, k-center and k-means measure distances: `pixels`, or what enters the classifier of a ConvNet trained on
    the train split (`network`)."""
    labels: Literal["hard", "soft"] = "hard"
    """soft = what the teacher says of each training image: that ConvNet, trained with seed `TEACHER_SEED` whatever the draw."""
    epochs: int = 10
    """Of that ConvNet's training; also those in which forgetting is counted."""
    width: int = 128

    def __post_init__(self) -> None:
        kit.check_fields(self)

    @property
    def tiles(self) -> int:
        """Real images in a stored one."""
        return self.formation**2 if self.packed else 1

    @property
    def chosen(self) -> int:
        """Real images per class."""
        return self.ipc * self.tiles

    @property
    def decode(self) -> str:
        """How the stored images are unpacked."""
        return f"grid{self.formation}" if self.packed else "none"


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """The chosen real images, uint8, class by class. Raises MabenchError for a test split or too large an IPC."""
    run = run or Run()
    kit.check_train(train, config.ipc, value_bytes=1, tiles=config.tiles)
    if config.packed:
        kit.check_grid(train, "formation", config.formation)
    run.begin(config.selection, config, seed, train)
    if (done := run.finished()) is not None:
        return done
    rows = _select(train, config, seed, device, run)
    images = torch.tensor(train.images[np.concatenate(rows)])
    if config.packed:
        parts = torch.split(images.float(), config.chosen)
        images = torch.cat([pack_grid(part, config.formation) for part in parts]).round().clamp(0, 255).to(torch.uint8)
    entry = train.dataset
    labels = torch.arange(entry.num_classes).repeat_interleave(config.ipc)
    made = SyntheticSet(
        images=images,
        labels=labels if config.labels == "hard" else _taught(train, images, config, device, run),
        dataset=entry.name,
        ipc=config.ipc,
        decode=config.decode,
        class_names=entry.class_names,
        name=f"{config.selection}-{'packed-' if config.packed else ''}{'soft-' if config.labels == 'soft' else ''}ipc{config.ipc}-seed{seed}",
    )
    card = Card(
        title=f"{config.selection} real images{' (packed)' if config.packed else ''}{', labelled by a ConvNet' if config.labels == 'soft' else ''}, {entry.title}, IPC {config.ipc}",
        source_networks=("convnet3",) if _needs_network(config) or config.labels == "soft" else (),
    )
    return run.finish(made, card)


def _needs_network(config: Config) -> bool:
    return config.selection == "forgetting" or (config.selection != "random" and config.features == "network")


def _taught(train: RealData, images: Tensor, config: Config, device: torch.device, run: Run) -> Tensor:
    """float32 [N,K]: softmax of the teacher's logits on every stored image; of a grid, the mean over its tiles."""
    network, _ = _trained(train, RealImages(train, device), config, TEACHER_SEED, run)
    hard = torch.zeros(len(images), dtype=torch.int64)
    probe = SyntheticSet(images, hard, train.dataset.name, config.ipc, decode=config.decode)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (train.dataset.mean, train.dataset.std))
    network.eval()
    with torch.no_grad():
        parts = [network(((part - mean) / std).to(device)).softmax(1).cpu() for part in torch.split(probe.decoded()[0], 500)]
    rows = torch.cat(parts).view(-1, len(images), train.dataset.num_classes).mean(0)
    return rows / rows.sum(1, keepdim=True)


def _select(train: RealData, config: Config, seed: int, device: torch.device, run: Run) -> list[Rows]:
    """Row numbers of the chosen images, class by class."""
    by_class = [np.flatnonzero(train.labels == label) for label in range(train.dataset.num_classes)]
    generator = np.random.Generator(np.random.PCG64(seed))
    if config.selection == "random":
        return [generator.choice(rows, config.chosen, replace=False) for rows in by_class]
    features: npt.NDArray[np.float32] | None = None
    if _needs_network(config):
        real = RealImages(train, device)
        network, forgotten = _trained(train, real, config, seed, run)
        if config.selection == "forgetting":
            # ties, of which there are many after few epochs, in random order
            return [rows[np.lexsort((generator.random(len(rows)), -forgotten[rows]))[: config.chosen]] for rows in by_class]
        features = kit.embed(network, real, torch.arange(len(train.labels))).numpy()
    chosen = []
    for rows in by_class:
        pixels = train.images[rows].reshape(len(rows), -1)
        own = (pixels / np.float32(255)).astype(np.float32) if features is None else features[rows]
        if config.selection == "herding":
            picks = herd(own, config.chosen)
        elif config.selection == "k-center":
            picks = k_center(own, config.chosen)
        else:
            centres, _ = kit.k_means(own, config.chosen, seed, tries=4)
            picks = kit.nearest(own, centres)
        chosen.append(rows[picks])
    return chosen


def _trained(train: RealData, real: RealImages, config: Config, seed: int, run: Run) -> tuple[Network, npt.NDArray[np.int64]]:
    """A ConvNet trained on the train split, and how often it unlearned each image, [N]; never learned counts as most often.

    All selections and budgets with the same seed share it: a run with a folder leaves it in the cache.
    """
    network = kit.draw_network(real.dataset, "convnet", stream(seed, "features"), depth=3, width=config.width)
    network = kit.place(network, real.device)
    key = digest([config.epochs, config.width, seed, train.sha256])[:16]
    path = None if run.folder is None else cache_folder() / "selection" / f"convnet3-{key}.safetensors"
    if path is not None and path.exists():
        return network, _read(path, network, len(train.labels))
    before = torch.zeros(len(real.labels), dtype=torch.bool)
    ever = before.clone()
    forgotten = torch.zeros(len(real.labels), dtype=torch.int64)

    def on_batch(rows: torch.Tensor, hits: torch.Tensor) -> None:
        forgotten[rows] += before[rows] & ~hits
        before[rows] = hits
        ever[rows] |= hits

    kit.train_plainly(
        network,
        real,
        config.epochs,
        torch.Generator().manual_seed(stream(seed, "order")),
        kind=f"convnet3x{config.width}_{real.dataset.image_size}"
        if len(real.labels) * config.epochs > kit.COMPILE_FROM_IMAGES
        else None,
        on_batch=on_batch,
        on_step=run.glance,
        on_epoch=lambda done, total, accuracy: run.step(done, total, {"training error": 1 - accuracy}, {}),
    )
    forgotten[~ever] = config.epochs
    if path is not None:
        weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        write_bytes(path, save(weights | {FORGOTTEN: forgotten}))
    return network, forgotten.numpy()


def _read(path: Path, network: Network, images: int) -> npt.NDArray[np.int64]:
    """Fill `network` from a file of `_trained`; how often each image was unlearned."""
    try:
        tensors = load(path.read_bytes())
        forgotten = tensors.pop(FORGOTTEN)
        network.load_state_dict(tensors)
        if forgotten.shape != (images,):
            raise ValueError
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise MabenchError(f"{path}: not a whole ConvNet of a selection. Remove it and run again; it is recomputed.") from error
    counts: npt.NDArray[np.int64] = forgotten.numpy()
    return counts


def herd(features: npt.NDArray[np.float32], count: int) -> Rows:
    """Rows of [N,D] picked one after the other so that the mean of the picked stays nearest to the mean of all; distinct."""
    centre = features.mean(0)
    squares = (features**2).sum(1)
    total, free, picked = np.zeros_like(centre), np.ones(len(features), dtype=bool), []
    for number in range(1, count + 1):
        # |centre - (total + x) / number|^2 without the part that is the same for all x
        distance = squares / number**2 - 2 / number * (features @ (centre - total / number))
        distance[~free] = np.inf
        pick = int(distance.argmin())
        free[pick] = False
        total += features[pick]
        picked.append(pick)
    return np.array(picked)


def k_center(features: npt.NDArray[np.float32], count: int) -> Rows:
    """First the row nearest to the mean, then always the one farthest from all those picked."""
    picked = [int(((features - features.mean(0)) ** 2).sum(1).argmin())]
    nearest = ((features - features[picked[0]]) ** 2).sum(1)
    while len(picked) < count:
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((features - features[picked[-1]]) ** 2).sum(1))
    return np.array(picked)
