"""Trajectory matching: images on which a student goes where experts went on the real data (MTT: Cazenavette et al., CVPR 2022;
AST: Shen, Yang & Lam, "Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories", 2023).

    train experts on the real data, keep their weights after every epoch                                   (experts.py)
    take representative real images                                                       (representative initialisation)
    repeat `iterations` times
        take an expert and a start epoch t; perturb its weights theta_t                             (weight perturbation)
        N steps of a student from there, on the images, at a learnable rate, its loss scaled by nu(t)  (balanced loss)
        compare it with theta_(t+M) after N steps, and with the epochs between on the way          (intermediate matching)
        move images and rate so that the distances fall                                                   (matching.py)

MTT is the same loop without the four in brackets, and with experts of plain SGD. Everything lives in the space that the
dataset's mean and std normalise; pixels are never clipped. No whitening (ZCA), which some results of these papers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabench.data import RealData, augment
from mabench.digests import stream
from mabench.errors import MabenchError
from mabench.files import cache_folder, write_text
from mabench.networks import compiling
from mabench.networks.batches import backward_batch
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet

from .. import kit
from ..kit import LoopState, RealImages, Run
from . import experts, matching
from .experts import Expert, ExpertConfig
from .matching import Flat, Step, Student

CLUSTERS = 10  # paper, section 4.1: with 50 images a class 10 clusters, each giving its nearest and 4 more; released code: always
Name = Literal["trajectory", "mtt"]
Variant = Literal["none", "paper", "released"]


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of trajectory matching. Defaults: AST's paper; where it is silent FTD's for CIFAR-10, IPC 1."""

    ipc: int
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    iterations: int = 5000
    student_steps: int = 50
    """N."""
    expert_epochs: int = 2
    """M."""
    max_start: int = 2
    """T+: start epochs are 0 .. T+ - 1."""
    batch: int = 0
    """Images in an inner batch; 0 = all."""
    image_rate: float = 100.0
    rate_rate: float = 1e-7
    """Rate of the student's rate."""
    start_rate: float = 0.01
    """The student's rate before the first iteration."""
    outer_momentum: float = 0.5
    inner_momentum: float = 0.0
    """The student's: 0 in the paper's Algorithm 1 and in MTT, 0.9 in AST's released code."""
    rate_floor: float = 0.0
    """Smallest rate of the student; 0 = it is left alone, as in all released code."""
    initial: Literal["real", "paper", "released"] = "paper"
    """`real`: random real images; `paper`: those nearest to k-means centres of what enters an expert's classifier;
    `released`: of the logits, always ten clusters, an image may be taken twice."""
    balance: Variant = "released"
    """nu of Eq. 2 with the natural logarithm (`paper`, which names no base) or base 5 (`released`), or `none`."""
    intermediate: Variant = "paper"
    """Compare also after floor(i N / M) steps (`paper`) or i floor(N / M) (`released`), or not (`none`)."""
    intermediate_weights: Literal["equal", "varied"] = "equal"
    """`equal` or `varied` (i / M): beta of section 4.1."""
    perturbation: Variant = "paper"
    """Eq. 5 (`paper`), the far weaker noise of the released code (`released`), or `none`."""
    perturbation_scale: float = 0.1
    """Of `paper`: alpha of Eq. 5."""
    augmentation: str = augment.DSA
    """DSA's operations joined by _, drawn for every inner step; empty = none."""

    def __post_init__(self) -> None:
        kit.check_fields(self)
        augment.operations(self.augmentation)
        if self.initial == "released" and self.ipc % CLUSTERS:
            raise MabenchError(
                f"initial = 'released' takes ipc / {CLUSTERS} images of each of {CLUSTERS} clusters, which IPC {self.ipc} is not. "
                "Use initial = paper."
            )
        if self.student_steps < self.expert_epochs:
            raise MabenchError(
                f"student_steps {self.student_steps}, expert_epochs {self.expert_epochs}: a student needs a step for every epoch of "
                "the expert."
            )
        if self.last_epoch > self.experts.trained:
            raise MabenchError(
                f"matching reads experts up to epoch {self.last_epoch} (max_start {self.max_start} - 1 + expert_epochs "
                f"{self.expert_epochs}), experts are trained for {self.experts.trained}. Lower max_start or train them longer."
            )

    @property
    def last_epoch(self) -> int:
        """The last epoch of an expert that matching reads."""
        return self.max_start - 1 + self.expert_epochs


def condense(
    train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None, *, method: Name
) -> SyntheticSet:
    """Condense `config.ipc` images per class: float32, pixel space, unclipped, hard labels; the learned rate travels in the set and in its card.
    `method` names the set and its card.

    Experts are kept in the cache folder and shared by all runs whose experts are configured alike; without a run's folder
    they stay in memory. Resumes from the run's checkpoint in either stage, to the same images.
    """
    run = run or Run()
    kit.check_train(train, config.ipc)
    saved = run.begin(method, config, seed, train) or {}
    if (done := run.finished()) is not None:
        return done
    real = RealImages(train, device)
    part = backward_batch(device.type, train.dataset.image_size)
    epochs = read_epochs(config, seed)
    parts = sum(experts.ExpertTraining.parts(config.experts, len(train.labels), each) for each in epochs)
    total = parts + config.iterations
    pool = experts.train_pool(
        train,
        real,
        config.experts,
        cache_folder() / "experts" / experts.folder_name(config.experts, train) if run.folder else None,
        part=part,
        epochs=epochs,
        on_step=lambda done, losses, state: run.step(done, total, losses, {"experts": state}),
        saved=saved.get("experts"),
    )
    if run.folder:
        write_text(run.folder / "experts.csv", experts.table(pool))

    def on_step(done: int, losses: dict[str, float], state: LoopState) -> None:
        run.step(parts + done, total, losses, {"experts": {"number": config.experts.count}, "matching": state})

    images, rate = match(real, pool, config, seed, part, on_step, saved.get("matching"))
    title = "AST" if method == "trajectory" else "MTT"
    card = Card(
        title=f"{title}, {train.dataset.title}, IPC {config.ipc}, {config.iterations} iterations",
        paper="https://arxiv.org/abs/2310.10541" if method == "trajectory" else "https://arxiv.org/abs/2203.11932",
        note=f"learned rate {rate:.6g}",
        source_networks=(f"convnet{config.experts.depth_at(train.dataset.image_size)}",),
    )
    name = f"{method}-ipc{config.ipc}-seed{seed}"
    # nothing keeps a rate positive (rate_floor = 0); at one that is not, nobody can train
    return run.finish(real.to_set(images, config.ipc, name, learning_rate=rate if rate > 0 else None), card)


def read_epochs(config: Config, seed: int) -> list[int]:
    """Return how far each expert is read: to its end where it chooses the initial images, else as far as matching goes."""
    epochs = [config.last_epoch] * config.experts.count
    if config.initial != "real":
        epochs[_chooser(config.experts.count, kit.generators(seed, ("images",))["images"])] = config.experts.trained
    return epochs


def match(
    real: RealImages,
    pool: list[Expert],
    config: Config,
    seed: int,
    part: int,
    on_step: Callable[[int, dict[str, float], LoopState], None],
    saved: Mapping[str, Any] | None,
) -> tuple[Tensor, float]:
    """The loop of the module's docstring behind the experts: images [K*ipc,C,S,S] in normalised space, and the learned rate."""
    classes, device = real.dataset.num_classes, real.device
    compiling.prepare_process()
    streams = kit.generators(seed, ("images", "experts", "starts", "perturbation", "batches", "augmentation"))
    depth = config.experts.depth_at(real.dataset.image_size)
    network = kit.draw_network(real.dataset, "convnet", 0, depth=depth, width=config.experts.width).to(device)
    flat = Flat(network)
    labels = torch.arange(classes, device=device).repeat_interleave(config.ipc)
    images = initial(real, flat, pool, config, seed, streams["images"]) if saved is None else saved["images"]
    images, rate = (t.to(device).requires_grad_(True) for t in (images, torch.tensor(config.start_rate)))
    optimizer = torch.optim.SGD(
        [{"params": [images], "lr": config.image_rate}, {"params": [rate], "lr": config.rate_rate}],
        lr=config.image_rate,
        momentum=config.outer_momentum,
    )
    waiting: list[int] = []
    state = {"images": images, "rate": rate, "optimizer": optimizer, "streams": streams, "waiting": waiting}
    if saved is not None:
        kit.restore(state, saved)

    for iteration in range(0 if saved is None else int(saved["done"]), config.iterations):
        waiting[:] = waiting or torch.randperm(len(pool), generator=streams["experts"]).tolist()
        number = waiting.pop()
        start = int(torch.randint(config.max_start, (), generator=streams["starts"]))
        path = pool[number].rows(start, start + config.expert_epochs)
        begin = matching.perturbed(path[0], flat, config.perturbation, config.perturbation_scale, streams["perturbation"])
        path, begin = path.to(device), begin.to(device)
        points = matching.points(path, begin, config.student_steps, config.intermediate, config.intermediate_weights)
        batches = matching.inner_batches(len(labels), config.batch, config.student_steps, streams["batches"])
        steps = [Step(rows, kit.seed_from(streams["augmentation"])) for rows in batches]
        student = Student(
            flat,
            labels,
            momentum=config.inner_momentum,
            balance=matching.balance(start, config.max_start, config.balance),
            strategy=config.augmentation,
            part=part,
            keeps_graphs=matching.keeps_graphs(
                config.batch or len(labels), config.student_steps, real.dataset.image_size, config.experts.width, device
            ),
        )
        losses, images.grad, rate.grad = student.gradient(images, rate, begin, steps, points)
        optimizer.step()
        if config.rate_floor:
            with torch.no_grad():
                rate.clamp_(min=config.rate_floor)

        losses_now = {"matching": sum(losses), "last point": losses[-1], "rate": float(rate.detach())}
        on_step(iteration + 1, losses_now, {**state, "done": iteration + 1})
    return images.detach(), float(rate.detach())


# -- representative initialisation -------------------------------------------------------------------------------------------


def initial(real: RealImages, flat: Flat, pool: list[Expert], config: Config, seed: int, generator: torch.Generator) -> Tensor:
    """Real images [K*ipc,C,S,S], normalised, class by class: random ones, or representative ones (paper, section 3.2.1).

    Representative in the eyes of one random expert's last weights.
    """
    classes = range(real.dataset.num_classes)
    if config.initial == "real":
        return torch.cat([real.draw(label, config.ipc, generator) for label in classes])
    expert = pool[_chooser(len(pool), generator)]
    network = flat.network
    torch.nn.utils.vector_to_parameters(expert.rows(-1, -1)[0].to(real.device), network.parameters())
    chosen = []
    for label in classes:
        rows = real.rows[label]
        features = kit.embed(network, real, rows)  # type: ignore[arg-type]
        if config.initial == "released":
            with torch.no_grad():
                features = network.classifier(features.to(real.device)).cpu()  # type: ignore[operator]
        picks = representative(features.numpy(), config.ipc, config.initial, stream(seed, f"clusters {label}") % 2**32)
        chosen.append(rows[torch.tensor(picks)])
    return real.at(torch.cat(chosen))


def _chooser(experts: int, generator: torch.Generator) -> int:
    """Number of the expert that chooses: the first draw of the stream `images`."""
    return int(torch.randint(experts, (), generator=generator))


def representative(features: npt.NDArray[np.float32], ipc: int, kind: str, seed: int) -> list[int]:
    """Rows of [n,D] features of one class near k-means centres.

    `paper`: `ipc` clusters and the row nearest to each centre; for more than ten images, if ten divides them, ten clusters
    and ipc / 10 rows of each. Rows are of the cluster itself, distinct; what a small cluster lacks comes from the rest of the
    class. `released`: ten clusters, the nearest ipc / 10 rows of the whole class to each centre, which may coincide.
    """
    count = CLUSTERS if kind == "released" or (ipc > CLUSTERS and ipc % CLUSTERS == 0) else ipc
    centres, clusters = kit.k_means(features, count, 0 if kind == "released" else seed, tries=10)
    each, picked = ipc // count, []
    for number, centre in enumerate(centres):
        distance = ((features - centre) ** 2).sum(1)
        if kind == "released":
            picked += np.argsort(distance, kind="stable")[:each].tolist()
            continue
        taken = np.isin(np.arange(len(features)), picked)
        order = np.lexsort((distance, clusters != number, taken))  # free ones first, then the cluster's own, then the nearest
        picked += order[:each].tolist()
    return picked
