"""DM: images whose mean features are those of real images, in networks that were never trained (Zhao & Bilen, "Dataset
Condensation with Distribution Matching", WACV 2023).

    start from random real images
    repeat `iterations` times
        draw a network with fresh weights
        for every class c: |mean features of a real batch of c - mean features of the images of c|^2,
            both under one and the same augmentation (DSA)
        move all images against the gradient of the sum

Features are what enters the classifier. No network is trained and no second derivative is taken, so a step is cheap. Everything
lives in the space that the dataset's mean and std normalise; pixels are never clipped.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mabench.data import RealData, augment
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet
from mabench_methods import Method, Preset, by_name, kit
from mabench_methods.kit import RealImages, Run


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of DM. Defaults: the released code's for CIFAR-10."""

    ipc: int
    iterations: int = 20_000
    image_rate: float = 1.0
    image_momentum: float = 0.5
    real_batch: int = 256
    augmentation: str = augment.DSA
    """DSA's operations joined by _; one of them for the real and the synthetic batch alike; empty = none."""
    depth: int = 3
    width: int = 128

    def __post_init__(self) -> None:
        kit.check_fields(self)
        augment.operations(self.augmentation)


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """Condense `config.ipc` images per class: float32, pixel space, unclipped, hard labels. Raises MabenchError for a test split."""
    run = run or Run()
    kit.check_train(train, config.ipc)
    run.begin("dm", config, seed, train)  # claims the folder
    if (finished := run.finished()) is not None:
        return finished
    real, classes = RealImages(train, device), train.dataset.num_classes
    streams = kit.generators(seed, ("images", "networks", "batches", "augmentation"))
    images = torch.cat([real.draw(label, config.ipc, streams["images"]) for label in range(classes)]).requires_grad_(True)
    optimizer = torch.optim.SGD([images], lr=config.image_rate, momentum=config.image_momentum)
    state = {"images": images, "optimizer": optimizer, "streams": streams}  # what the loop changes

    for iteration in range(run.resume(state), config.iterations):
        weights = kit.seed_from(streams["networks"])
        network = kit.draw_network(train.dataset, "convnet", weights, depth=config.depth, width=config.width)
        network = kit.place(network, device).requires_grad_(False)
        optimizer.zero_grad()
        total = 0.0
        for label, own in enumerate(torch.split(images, config.ipc)):
            batch = real.draw(label, config.real_batch, streams["batches"])  # [real_batch,C,S,S]
            if config.augmentation:
                shared = kit.seed_from(streams["augmentation"])  # the same operation and parameters for both
                batch, own = (
                    augment.dsa(x, config.augmentation, torch.Generator(device).manual_seed(shared), siamese=True)
                    for x in (batch, own)
                )
            distance = (network.embed(own).mean(0) - network.embed(batch).mean(0)).square().sum()
            torch.autograd.backward(distance)  # adds up over the classes
            total += float(distance.detach())
        optimizer.step()
        run.step(iteration + 1, config.iterations, {"matching": total / classes}, state)

    card = Card(
        title=f"DM, {train.dataset.title}, IPC {config.ipc}, {config.iterations} iterations",
        paper="https://arxiv.org/abs/2110.04181",
        source_networks=(f"convnet{config.depth}",),
    )
    return run.finish(real.to_set(images, config.ipc, f"dm-ipc{config.ipc}-seed{seed}"), card)


LITE = Config(10, iterations=300, real_batch=64, width=64)  # ours: minutes on two cores
METHOD = Method(
    "dm",
    condense,
    by_name(
        *(Preset("dm", f"paper-ipc{ipc}", Config(ipc)) for ipc in (1, 10, 50)),
        Preset("dm", "lite", LITE, comparable=False, runs_on="cpu"),
        Preset("dm", "lite-ipc1", replace(LITE, ipc=1), comparable=False, runs_on="cpu"),
        Preset("dm", "smoke", Config(1, 4, real_batch=16, width=16), "digits", comparable=False, runs_on="cpu"),
    ),
    Path(__file__).with_name("paper.toml"),
)
