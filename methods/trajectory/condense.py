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

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mabench.data import RealData, augment, cache_folder
from mabench.digests import stream
from mabench.errors import MabenchError
from mabench.files import write_text
from mabench.networks import compiling
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet

from .. import kit
from ..kit import RealImages, Run
from . import experts as buffers
from . import matching, settings
from .experts import Expert, ExpertConfig
from .matching import Flat, Step, Student

CLUSTERS = 10  # paper, section 4.1: with 50 images a class 10 clusters, each giving its nearest and 4 more; released code: always
VARIANTS = ("none", "paper", "released")


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
    initial: str = "paper"
    """`real`: random real images; `paper`: those nearest to k-means centres of what enters an expert's classifier;
    `released`: of the logits, always ten clusters, an image may be taken twice."""
    balance: str = "released"
    """nu of Eq. 2 with the natural logarithm (`paper`, which names no base) or base 5 (`released`), or `none`."""
    intermediate: str = "paper"
    """Compare also after floor(i N / M) steps (`paper`) or i floor(N / M) (`released`), or not (`none`)."""
    intermediate_weights: str = "equal"
    """`equal` or `varied` (i / M): beta of section 4.1."""
    perturbation: str = "paper"
    """Eq. 5 (`paper`), the far weaker noise of the released code (`released`), or `none`."""
    perturbation_scale: float = 0.1
    """Of `paper`: alpha of Eq. 5."""
    augmentation: str = augment.DSA
    """DSA's operations joined by _, drawn for every inner step; empty = none."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("initial", ("real", "paper", "released")),
            ("balance", VARIANTS),
            ("intermediate", VARIANTS),
            ("intermediate_weights", ("equal", "varied")),
            ("perturbation", VARIANTS),
        ):
            if getattr(self, name) not in allowed:
                raise MabenchError(f"{name} = '{getattr(self, name)}': allowed are {', '.join(allowed)}.")
        if self.initial == "released" and self.ipc % CLUSTERS:
            raise MabenchError(
                f"initial = 'released' takes ipc / {CLUSTERS} images of each of {CLUSTERS} clusters, which IPC {self.ipc} is not. "
                "Use initial = paper."
            )
        if min(self.student_steps, self.expert_epochs, self.max_start) < 1 or self.student_steps < self.expert_epochs:
            raise MabenchError(
                f"student_steps {self.student_steps}, expert_epochs {self.expert_epochs}, max_start {self.max_start}: "
                "all must be at least 1, and a student needs a step for every epoch of the expert."
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

    @property
    def method(self) -> str:
        """`mtt` where nothing of AST is left, else `trajectory`."""
        plain = (self.initial, self.balance, self.intermediate, self.perturbation) == ("real", "none", "none", "none")
        plain_experts = (self.experts.clip, self.experts.penalty, self.experts.momentum) == ("none", "none", 0.0)
        return "mtt" if plain and plain_experts else "trajectory"


PLAIN = ExpertConfig(100, momentum=0.0, weight_decay=0.0, rate=0.01, clip="none", penalty="none", decay="none")
"""MTT's experts (released code)."""
RELEASED = ExpertConfig(100, clip="released", penalty="released", decay="released")
"""AST's experts with both flags of its released code on; its README asks for 100 of them."""
WITHOUT = {"initial": "real", "balance": "none", "intermediate": "none", "perturbation": "none"}
"""MTT by switches."""


def mtt(dataset: str, ipc: int) -> Config:
    """MTT, without whitening. Raises MabenchError where no setting was published."""
    return Config(ipc, PLAIN, **WITHOUT, **asdict(settings.find(settings.MTT, dataset, ipc)))  # type: ignore[arg-type]


def paper(dataset: str, ipc: int) -> Config:
    """AST as its paper describes it; where it is silent (N, M, T+, rates) FTD's settings. Raises MabenchError as `mtt`."""
    return Config(ipc, **asdict(settings.find(settings.FTD, dataset, ipc)))


def released(dataset: str, ipc: int) -> Config:
    """AST as its released code runs it with everything on. Raises MabenchError as `mtt`."""
    return Config(
        ipc,
        RELEASED,
        inner_momentum=0.9,
        initial="paper" if ipc % CLUSTERS else "released",  # at IPC 1 the released selection is empty
        intermediate="released",
        perturbation="released",
        **asdict(settings.find(settings.AST, dataset, ipc)),
    )


def _lite(config: Config) -> Config:
    """Two cores, minutes: ours. Few iterations want a high rate of the images, experts that move so little bear only the weak
    noise."""
    few = replace(config.experts, count=3, epochs=5, stop_after=3, batch=32, width=32, epoch_images=2560)
    config = replace(config, experts=few, iterations=100, student_steps=10, image_rate=1000.0)
    config = replace(config, start_rate=0.02, rate_rate=1e-6, rate_floor=1e-3)
    return config if config.perturbation == "none" else replace(config, perturbation="released")


def _smoke(config: Config) -> Config:
    """Digits, seconds: everything once."""
    few = replace(config.experts, count=2, epochs=3, batch=64, width=8, epoch_images=256)
    return replace(config, experts=few, iterations=3, student_steps=4, image_rate=10.0)


PRESETS = {
    "trajectory": {
        **{f"paper-ipc{ipc}": paper("cifar10", ipc) for ipc in (1, 10, 50)},
        **{f"released-ipc{ipc}": released("cifar10", ipc) for ipc in (1, 10, 50)},
        "lite": _lite(paper("cifar10", 1)),
        "smoke": _smoke(paper("cifar10", 1)),
    },
    "mtt": {
        **{f"paper-ipc{ipc}": mtt("cifar10", ipc) for ipc in (1, 10, 50)},
        "lite": _lite(mtt("cifar10", 1)),
        "smoke": _smoke(mtt("cifar10", 1)),
    },
}


def _sisters(table: dict[str, settings.Setting], name: str, make: Callable[[str, int], Config]) -> dict[str, dict[str, Config]]:
    """Every setting that was published for a dataset other than CIFAR-10."""
    out: dict[str, dict[str, Config]] = {}
    for key in table:
        dataset, ipc = key.split()
        if dataset != "cifar10":
            out.setdefault(dataset, {})[f"{name}-ipc{ipc}"] = make(dataset, int(ipc))
    return out


_PAPER, _RELEASED = _sisters(settings.FTD, "paper", paper), _sisters(settings.AST, "released", released)
SISTERS = {
    "trajectory": {dataset: own | _RELEASED[dataset] for dataset, own in _PAPER.items()},
    "mtt": _sisters(settings.MTT, "paper", mtt),
}
"""Method -> dataset -> preset -> configuration, for datasets other than CIFAR-10."""


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """A set of `config.ipc` images per class: float32, pixel space, unclipped, hard labels; the learned rate travels in it, and in its card.

    Experts are kept in the cache folder and shared by all runs whose experts are configured alike; without a run's folder
    they stay in memory. Resumes from the run's checkpoint in either stage, to the same images.
    """
    run = run or Run()
    kit.check(train, config.ipc)
    state = run.begin(config.method, config, seed, train) or {}
    if (done := run.finished()) is not None:
        return done
    real = RealImages(train, device)
    part = 25 if device.type == "cpu" else 2048  # as in kit.MeanGradient: larger parts leave the caches
    parts = config.experts.count * buffers.Training.parts(config.experts, len(train.labels))
    total = parts + config.iterations
    pool = buffers.train_pool(
        train,
        real,
        config.experts,
        cache_folder() / "experts" / buffers.folder_name(config.experts, train) if run.folder else None,
        part=part,
        on_step=lambda at, losses, own: run.step(at, total, losses, lambda: {"experts": own()}),
        state=state.get("experts"),
    )
    if run.folder:
        write_text(run.folder / "experts.csv", buffers.table(pool))

    def on_step(at: int, losses: dict[str, float], own: Callable[[], dict[str, Any]]) -> None:
        run.step(parts + at, total, losses, lambda: {"experts": {"number": config.experts.count}, "matching": own()})

    images, rate = match(real, pool, config, seed, part, on_step, state.get("matching"))
    title = "AST" if config.method == "trajectory" else "MTT"
    card = Card(
        title=f"{title}, {train.dataset.title}, IPC {config.ipc}, {config.iterations} iterations",
        paper="https://arxiv.org/abs/2310.10541" if config.method == "trajectory" else "https://arxiv.org/abs/2203.11932",
        note=f"learned rate {rate:.6g}",
        source_networks=(f"convnet{config.experts.depth_at(train.dataset.image_size)}",),
    )
    name = f"{config.method}-ipc{config.ipc}-seed{seed}"
    # nothing keeps a rate positive (rate_floor = 0); at one that is not, nobody can train
    return run.finish(real.to_set(images, config.ipc, name, learning_rate=rate if rate > 0 else None), card)


def match(
    real: RealImages,
    pool: list[Expert],
    config: Config,
    seed: int,
    part: int,
    on_step: Callable[[int, dict[str, float], Callable[[], dict[str, Any]]], None],
    state: dict[str, Any] | None,
) -> tuple[Tensor, float]:
    """The loop of the module's docstring behind the experts: images [K*ipc,C,S,S] in normalised space, and the learned rate."""
    classes, device = real.dataset.num_classes, real.device
    compiling.keep_freed_memory()
    streams = kit.generators(seed, ("images", "experts", "starts", "perturbation", "batches", "augmentation"))
    depth = config.experts.depth_at(real.dataset.image_size)
    network = kit.draw_network(real.dataset, "convnet", 0, depth=depth, width=config.experts.width).to(device)
    flat = Flat(network)
    labels = torch.arange(classes, device=device).repeat_interleave(config.ipc)
    if state is None:
        images, rate = initial(real, flat, pool, config, seed, streams["images"]), torch.tensor(config.start_rate)
        first, waiting = 0, []
    else:
        images, rate, first, waiting = state["images"], state["rate"], state["done"], state["waiting"]
        kit.restore(streams, state["streams"])
    images, rate = (t.to(device).requires_grad_(True) for t in (images, rate))
    optimizer = torch.optim.SGD(
        [{"params": [images], "lr": config.image_rate}, {"params": [rate], "lr": config.rate_rate}],
        lr=config.image_rate,
        momentum=config.outer_momentum,
    )
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])

    for iteration in range(first, config.iterations):
        waiting = waiting or torch.randperm(len(pool), generator=streams["experts"]).tolist()
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
        )
        losses, images.grad, rate.grad = student.gradient(images, rate, begin, steps, points)
        optimizer.step()
        if config.rate_floor:
            with torch.no_grad():
                rate.clamp_(min=config.rate_floor)

        def checkpoint(done: int = iteration + 1, waiting: list[int] = waiting) -> dict[str, Any]:
            return {
                "done": done,
                "waiting": waiting,
                "images": images.detach().cpu(),
                "rate": rate.detach().cpu(),
                "optimizer": optimizer.state_dict(),
                "streams": kit.states(streams),
            }

        on_step(iteration + 1, {"matching": sum(losses), "last point": losses[-1], "rate": float(rate.detach())}, checkpoint)
    return images.detach(), float(rate.detach())


# -- representative initialisation -------------------------------------------------------------------------------------------


def initial(real: RealImages, flat: Flat, pool: list[Expert], config: Config, seed: int, generator: torch.Generator) -> Tensor:
    """Real images [K*ipc,C,S,S], normalised, class by class: random ones, or representative ones (paper, section 3.2.1).

    Representative in the eyes of one random expert's last weights.
    """
    classes = range(real.dataset.num_classes)
    if config.initial == "real":
        return torch.cat([real.draw(label, config.ipc, generator) for label in classes])
    expert = pool[int(torch.randint(len(pool), (), generator=generator))]
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


def representative(features: npt.NDArray[np.float32], ipc: int, kind: str, seed: int) -> list[int]:
    """Rows of [n,D] features of one class near k-means centres.

    `paper`: `ipc` clusters and the row nearest to each centre; for more than ten images, if ten divides them, ten clusters
    and ipc / 10 rows of each. Rows are of the cluster itself, distinct; what a small cluster lacks comes from the rest of the
    class. `released`: ten clusters, the nearest ipc / 10 rows of the whole class to each centre, which may coincide.
    """
    from sklearn.cluster import KMeans

    count = CLUSTERS if kind == "released" or (ipc > CLUSTERS and ipc % CLUSTERS == 0) else ipc
    if count > len(features):
        raise MabenchError(f"a class of {len(features)} images has no {count} clusters. Use initial = real.")
    random_state = 0 if kind == "released" else seed
    found = KMeans(count, n_init=10, random_state=random_state).fit(features)
    each, picked = ipc // count, []
    for number, centre in enumerate(found.cluster_centers_):
        distance = ((features - centre) ** 2).sum(1)
        if kind == "released":
            picked += np.argsort(distance, kind="stable")[:each].tolist()
            continue
        taken = np.isin(np.arange(len(features)), picked)
        order = np.lexsort(
            (distance, found.labels_ != number, taken)
        )  # free ones first, then the cluster's own, then the nearest
        picked += order[:each].tolist()
    return picked
