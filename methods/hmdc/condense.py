"""HMDC: images that two unlike networks agree on (Moon, Kim & Park, "Towards Model-Agnostic Dataset Condensation by
Heterogeneous Models", ECCV 2024).

    repeat `iterations` times
        draw both networks and their alignment afresh; pretrained weights return under a fresh head
        repeat `steps` times
            for every class c
                a real batch of c and the images of c, cut into their tiles, under one and the same augmentation
                L1, L2: distance of the gradients of each network's cross-entropy on the two            (Eq. 3)
                L3: the same of the mutual distillation of the two networks                              (Eq. 12, 13)
                every few steps: add the largest gradient of each loss at the images to its accumulator  (Eq. 4)
                weigh the losses by min(A) / A                                                           (Eq. 5)
            each image's gradient over its largest value; one step of all images, within the pixel range
            train both networks on real images, distilling each other; then their alignment

Images live in the space that the dataset's mean and std normalise. What paper and released code do differently is an option with
the values `paper` and `released`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench import augment
from mabench.compiling import has_bfloat16
from mabench.data import RealData
from mabench.evaluators import EVALUATORS
from mabench.schema import Augmentation, Card, Evaluator, MabenchError, lookup
from mabench.synthetic import SyntheticSet, pack_grid

from .. import _kit
from .._kit import RealImages, Run
from .balance import GradientBalance, Record, normalised
from .decomposition import Alignment, mutual_distillation, shapes
from .pair import Learner, pretrain
from .selection import choose

PLANS = {
    # section 4.1: "color modifications, cropping, and either Cutout or CutMix", as in IDC
    "paper": Augmentation(color="full", geometry=("crop",), flip=0.5, cutmix=0.5, cutout="unless-cutmix", space="normalised"),
    # released: of the colours only brightness, one of three geometries, cutout always; no CutMix when a transformer comes first
    "released": Augmentation(
        color="brightness-only",
        geometry=("crop", "scale", "rotate"),
        geometry_one_of=True,
        flip=0.5,
        flip_first=True,
        cutmix=0.5,
        cutmix_except=("transformer",),
        cutout="always",
        space="normalised",
    ),
}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of HMDC. Defaults: the released code's for CIFAR-10."""

    ipc: int
    first: str = "convnet3-scratch"
    second: str = "vit_tiny-pretrained"
    """The pair, two evaluators with a map of the image in their features (paper, Table 3, varies them)."""
    gradient_balance: bool = True
    """The Gradient Balance Module, and with it the normalised step of each image (paper, Table 2)."""
    mutual_distillation: bool = True
    """L3, and the distillation loss in the networks' training (paper, Table 2)."""
    iterations: int = 100
    steps: int = 100
    real_batch: int = 128
    synthetic_batch: int = 128
    """Tiles of a class at most that one step looks at."""
    formation: int = 2
    """Tiles a side in one stored image; 1 = whole images."""
    image_rate: float = 5e-3
    image_momentum: float = 0.5
    first_rate: float = 0.01
    second_rate: float = 0.001
    alignment_rate: float = 0.01
    network_batches: int = 17
    network_batch: int = 128
    """Random real batches of all classes that train the networks after every image step, and as many for their alignment."""
    period: int = 10
    """Steps between two samples of the gradients, and between two choices of representatives."""
    initial: str = "released"
    """`released`: real images nearest to k-means centres; `paper`: random real images; packed either way."""
    representatives: str = "released"
    """Real batches. `released`: k-means representatives of the class, by each network in turn; `paper`: random images."""
    distance: str = "released"
    """Of two gradients. `released`: sum of squared differences; `paper`: their mean."""
    layer_softmax: str = "released"
    """Axis of the layer matching's softmax, see `decomposition.Alignment`."""
    last_feature: str = "released"
    """`released`: a ConvNet's last feature counts twice; `paper`: once."""
    convnet_training: str = "released"
    """`released`: of a ConvNet only the classifier is trained, and it stays when the rest is drawn afresh; `paper`: every layer is
    trained and drawn afresh."""
    alignment_optimizer: str = "released"
    """`released`: Adam; `paper`: SGD."""
    accumulator: str = "released"
    """`released`: per class, started afresh with every iteration; `paper`: one for all classes and the whole run (Eq. 4)."""
    image_gradient: str = "released"
    """Divided by its largest value per image and channel (`released`) or per image (`paper`)."""
    augmentation: str = "released"
    """A plan of `PLANS`."""
    own_statistics: bool = False
    """Normalise for a pretrained network as its weights were trained; the released code uses the dataset's for all."""
    frozen_batch_norm: bool = False
    """Batch norm with its running statistics; the released code, whose pair has none, would use those of the batch."""
    pool: int = 0
    """Random images of a class among which representatives are sought; 0 = all (both paper and code)."""
    pretraining: int = 0
    """Real batches on which a second network without pretrained weights is trained before everything else."""
    bfloat16: bool = False
    """Gradients of real batches and trainings multiply bfloat16 where the device does."""
    first_width: int = 0
    second_input: int = 0
    """Width of a ConvNet, side of the second network's input in pixels; 0 = the evaluator's own."""

    def __post_init__(self) -> None:
        for name in CHOICES:
            if getattr(self, name) not in ("paper", "released"):
                raise MabenchError(f"{name} = '{getattr(self, name)}': allowed are paper and released.")
        if min(self.iterations, self.steps, self.period, self.formation) < 1:
            raise MabenchError("iterations, steps, period and formation must be at least 1.")

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the optimisation targets."""
        return ("L1", "L2", "L3") if self.mutual_distillation else ("L1", "L2")

    @property
    def pair(self) -> tuple[Evaluator, Evaluator]:
        """The two evaluators. Raises MabenchError for a typo."""
        first, second = lookup(EVALUATORS, self.first, "evaluator"), lookup(EVALUATORS, self.second, "evaluator")
        if self.first_width:
            first = first.model_copy(update={"arguments": first.arguments | {"width": self.first_width}})
        if self.second_input:
            second = second.model_copy(update={"input_size": self.second_input})
        return first, second


CHOICES = (
    "initial",
    "representatives",
    "distance",
    "layer_softmax",
    "last_feature",
    "convnet_training",
    "alignment_optimizer",
    "accumulator",
    "image_gradient",
    "augmentation",
)
"""Options on which paper and released code disagree."""


def released(ipc: int, **changes: Any) -> Config:
    """What the released code runs (its last version)."""
    return replace(Config(ipc), **changes)


def paper(ipc: int, **changes: Any) -> Config:
    """What the paper describes: its rates, and its side of every choice."""
    return replace(Config(ipc, first_rate=0.001, **dict.fromkeys(CHOICES, "paper")), **changes)


ABLATIONS = {
    # paper, Table 2
    "neither": {"gradient_balance": False, "mutual_distillation": False},
    "gbm-only": {"mutual_distillation": False},
    "md-only": {"gradient_balance": False},
}
LITE = Config(
    # ours: what two processor cores bear in some 20 minutes; the choices that the README recommends
    1,
    second="vit_mini-scratch",
    pretraining=800,
    iterations=2,
    steps=40,
    real_batch=32,
    network_batches=2,
    network_batch=64,
    period=10,
    pool=256,
    image_rate=0.05,
    second_rate=0.01,
    layer_softmax="paper",
    last_feature="paper",
    convnet_training="paper",
    augmentation="paper",
    bfloat16=True,
)
LITE_EFFICIENTNET = replace(
    LITE,
    second="efficientnet_lite0-pretrained",
    second_input=64,
    pretraining=0,
    second_rate=0.001,
    own_statistics=True,
    frozen_batch_norm=True,
    bfloat16=False,  # depthwise convolutions are slower in it
)


def _presets() -> dict[str, Config]:
    presets = {f"{name}-ipc{ipc}": make(ipc) for name, make in (("paper", paper), ("released", released)) for ipc in (1, 10, 50)}
    presets |= {"lite": LITE, "lite-efficientnet": LITE_EFFICIENTNET}
    for base in ("released-ipc10", "lite"):
        presets |= {f"{base}-{name}": replace(presets[base], **changes) for name, changes in ABLATIONS.items()}
    # paper, Table 3; its third row lowers the rate of the alignment
    presets["released-ipc10-cnn-cnn"] = released(10, second="resnet18-pretrained", alignment_rate=0.001)
    presets["released-ipc10-large"] = released(10, first="resnet18-pretrained", second="vit_small-pretrained", first_rate=0.001)
    presets["smoke"] = replace(
        LITE,
        first_width=16,
        pretraining=4,
        steps=2,
        real_batch=8,
        network_batches=1,
        network_batch=16,
        period=1,
        pool=32,
        bfloat16=False,
    )
    return presets


PRESETS = {"hmdc": _presets()}


# -- the algorithm -----------------------------------------------------------------------------------------------------------


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """A set of `config.ipc` stored images per class: float32, pixel space, within [0,1], hard labels, `grid2` unless told.

    Leaves `gradient_balance.csv` and `.png` (the paper's Figure 4) in the run's folder. Resumes to the same images.
    """
    run = run or Run()
    tiles = config.ipc * config.formation**2
    _kit.check(train, tiles)
    state = run.begin("hmdc", config, seed, train)
    if (done := run.finished()) is not None:
        return done
    real = RealImages(train, device)
    classes = train.dataset.num_classes
    streams = _kit.generators(seed, ("images", "batches", "networks", "augmentation", "training", "pretraining"))
    learners = _pair(config, train, device, streams["networks"])
    total = config.pretraining + config.iterations * config.steps
    if config.pretraining:
        early = state if state is not None and state["phase"] == "pretraining" else None
        pretrain(
            learners[1],
            real,
            config.pretraining,
            config.network_batch,
            streams["pretraining"],
            run,
            total,
            early,
            config.bfloat16,
        )
    alignment = _alignment(config, learners, streams["networks"])
    balance = GradientBalance(classes, len(config.losses), config.accumulator, config.gradient_balance)
    record = Record(config.losses)
    rows = torch.zeros(classes, 0, dtype=torch.long)
    real_batch = min(config.real_batch, *(len(own) for own in real.rows))
    low, high = (0 - real.mean) / real.std, (1 - real.mean) / real.std
    first = 0
    if state is not None and state["phase"] == "condensation":
        images = state["images"].to(device)
    else:
        images, state = _initial(config, real, learners[0], streams["images"]), None
    images.requires_grad_(True)
    optimizer = torch.optim.SGD([images], lr=config.image_rate, momentum=config.image_momentum)
    alignment_optimizer = _alignment_optimizer(config, alignment)
    if state is not None:
        first, rows = int(state["done"]), state["rows"]
        optimizer.load_state_dict(state["optimizer"])
        for learner, weights in zip(learners, state["networks"], strict=True):
            learner.network.load_state_dict(weights)
        alignment.load_state_dict(state["alignment"])
        alignment_optimizer.load_state_dict(state["alignment_optimizer"])
        balance.sums.copy_(state["balance"])
        record.restore(state["record"])
        _kit.restore(streams, state["streams"])

    for step in range(first, config.iterations * config.steps):
        inner = step % config.steps
        sampled = inner % config.period == 0
        if inner == 0:
            for learner in learners:
                learner.reset(_kit.seed_from(streams["networks"]))
            alignment = _alignment(config, learners, streams["networks"])
            alignment_optimizer = _alignment_optimizer(config, alignment)
            balance.restart()
        if sampled and config.representatives == "released":
            turn = learners[inner // config.period % 2]  # the two take turns
            rows = torch.stack(
                [
                    choose(turn, real, label, real_batch, config.pool, streams["batches"], distinct=False)
                    for label in range(classes)
                ]
            )
        towards = torch.zeros_like(images)
        mean = [0.0] * len(config.losses)
        for label in range(classes):
            if config.representatives == "released":
                batch = real.at(rows[label])
            else:
                batch = real.draw(label, real_batch, streams["batches"])
            own = _tiles(images[label * config.ipc : (label + 1) * config.ipc], config, streams["batches"])
            shared = _kit.seed_from(streams["augmentation"])  # the same operations and parameters for both batches
            batch, own = (_augmented(config, x, None, shared, siamese=True)[0] for x in (batch, own))
            losses = matching_losses(learners, alignment if config.mutual_distillation else None, batch, own, label, config)
            if sampled:
                each = [torch.autograd.grad(loss, images, retain_graph=True)[0] for loss in losses]
                before = [float(g.abs().max()) for g in each]
                balance.add(label, before)
                weights = balance.weights(label)
                record.add(step, label, before, weights)
                towards += sum((w * g for w, g in zip(weights, each, strict=True)), torch.zeros_like(images))
            else:
                weighted = sum((w * loss for w, loss in zip(balance.weights(label), losses, strict=True)), images.new_zeros(()))
                towards += torch.autograd.grad(weighted, images)[0]
            mean = [m + float(loss.detach()) / classes for m, loss in zip(mean, losses, strict=True)]
        images.grad = normalised(towards, config.image_gradient) if config.gradient_balance else towards
        optimizer.step()
        with torch.no_grad():
            images.clamp_(low, high)
        _train(config, real, learners, alignment, alignment_optimizer, streams)

        def checkpoint(done: int = step + 1) -> dict[str, Any]:
            return {
                "phase": "condensation",
                "done": done,
                "images": images.detach().cpu(),
                "optimizer": optimizer.state_dict(),
                "networks": [learner.network.state_dict() for learner in learners],
                "alignment": alignment.state_dict(),
                "alignment_optimizer": alignment_optimizer.state_dict(),
                "balance": balance.sums,
                "record": record.state(),
                "rows": rows,
                "streams": _kit.states(streams),
            }

        run.step(config.pretraining + step + 1, total, dict(zip(config.losses, mean, strict=True)), checkpoint)

    if run.folder is not None:
        record.write(run.folder)
    decode = "none" if config.formation == 1 else f"grid{config.formation}"
    made = real.to_set(images, config.ipc, f"hmdc-ipc{config.ipc}-seed{seed}", decode=decode, clamp=True)
    return run.finish(made, _card(config, train, seed))


def matching_losses(
    learners: Sequence[Learner], alignment: Alignment | None, batch: Tensor, own: Tensor, label: int, config: Config
) -> list[Tensor]:
    """L1, L2 (Eq. 3) and, with an alignment, L3 (Eq. 13) between a real batch [R,C,S,S] and synthetic images [B,C,S,S] of a
    class; differentiable in the latter."""
    target = gradients(learners, alignment, batch, label, create_graph=False, bfloat16=config.bfloat16)
    matched = gradients(learners, alignment, own, label, create_graph=True)
    return [gradient_distance(m, t, config.distance) for m, t in zip(matched, target, strict=True)]


def gradients(
    learners: Sequence[Learner],
    alignment: Alignment | None,
    images: Tensor,
    label: int,
    *,
    create_graph: bool,
    bfloat16: bool = False,
) -> list[list[Tensor | None]]:
    """One gradient per parameter of: the first network's cross-entropy, the second's, their mutual distillation (both networks'
    parameters, not the alignment's). None = the loss does not depend on the parameter."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16 and has_bfloat16(images.device)):
        (logits1, features1), (logits2, features2) = (learner.network(images) for learner in learners)
        distillation = mutual_distillation(alignment, features1, features2) if alignment is not None else None
    targets = torch.full((len(images),), label, device=images.device)
    own = [learner.parameters() for learner in learners]
    wanted: list[tuple[Tensor, list[nn.Parameter]]] = []
    for logits, parameters in zip((logits1, logits2), own, strict=True):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        wanted.append((F.cross_entropy(wide, targets), parameters))
    if distillation is not None:
        wanted.append((distillation, own[0] + own[1]))
    return [
        list(torch.autograd.grad(loss, parameters, create_graph=create_graph, retain_graph=True, allow_unused=True))
        for loss, parameters in wanted
    ]


def gradient_distance(synthetic: Sequence[Tensor | None], real: Sequence[Tensor | None], way: str) -> Tensor:
    """Squared differences of all numbers of all parameters: their sum (`released`) or mean (`paper`: mean squared error)."""
    pairs = [(s, r.detach()) for s, r in zip(synthetic, real, strict=True) if s is not None and r is not None]
    total = torch.stack([(s - r).square().sum() for s, r in pairs]).sum()
    return total if way == "released" else total / sum(s.numel() for s, _ in pairs)


def _train(
    config: Config,
    real: RealImages,
    learners: Sequence[Learner],
    alignment: Alignment,
    alignment_optimizer: torch.optim.Optimizer,
    streams: dict[str, torch.Generator],
) -> None:
    """Both networks on real batches of all classes: cross-entropy, and mutual distillation (Eq. 12); then the alignment alone, on
    other batches."""
    networks = [learner.network for learner in learners]
    rates = (config.first_rate, config.second_rate)
    optimizer = torch.optim.SGD([{"params": x.trained(), "lr": rate} for x, rate in zip(learners, rates, strict=True)], lr=0.0)
    narrow = config.bfloat16 and has_bfloat16(real.device)

    def batches() -> list[Tensor]:
        order = torch.randperm(len(real.labels), generator=streams["training"])
        return list(torch.split(order, config.network_batch))[: config.network_batches]

    for rows in batches():
        targets = F.one_hot(real.labels[rows.to(real.device)], real.dataset.num_classes).float()
        images, targets = _augmented(config, real.at(rows), targets, _kit.seed_from(streams["augmentation"]))
        with torch.autocast(real.device.type, torch.bfloat16, enabled=narrow):
            (logits1, features1), (logits2, features2) = (network(images) for network in networks)
            loss = F.cross_entropy(logits1.float(), targets) + F.cross_entropy(logits2.float(), targets)
            if config.mutual_distillation:
                loss = loss + mutual_distillation(alignment, features1, features2)
        for network in networks:
            network.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    for rows in batches() if config.mutual_distillation else ():
        images, _ = _augmented(config, real.at(rows), None, _kit.seed_from(streams["augmentation"]))
        with torch.autocast(real.device.type, torch.bfloat16, enabled=narrow):
            with torch.no_grad():
                features1, features2 = (network(images)[1] for network in networks)
            loss = mutual_distillation(alignment, features1, features2)
        alignment_optimizer.zero_grad()
        torch.autograd.backward(loss)
        alignment_optimizer.step()


# -- its pieces ----------------------------------------------------------------------------------------------------------------


def _pair(config: Config, train: RealData, device: torch.device, generator: torch.Generator) -> list[Learner]:
    """Both networks, with the released code's habits for the field's ConvNet where they are asked for."""
    habits = [e.architecture == "convnet" for e in config.pair]
    return [
        Learner(
            evaluator,
            train.dataset,
            device,
            _kit.seed_from(generator),
            classifier_only=habit and config.convnet_training == "released",
            repeat_last=habit and config.last_feature == "released",
            own_statistics=config.own_statistics,
            frozen_batch_norm=config.frozen_batch_norm,
        )
        for evaluator, habit in zip(config.pair, habits, strict=True)
    ]


@torch.no_grad()
def _alignment(config: Config, learners: Sequence[Learner], generator: torch.Generator) -> Alignment:
    """A fresh alignment that fits the shapes of the pair's features."""
    found = []
    for learner in learners:
        entry, network = learner.dataset, learner.network.eval()  # batch norm must not see the blank image
        blank = torch.zeros(1, entry.channels, entry.image_size, entry.image_size, device=learner.device)
        found.append(shapes(network(blank)[1]))
        learner.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_kit.seed_from(generator))
        return Alignment(found[0], found[1], config.layer_softmax).to(learners[0].device)


def _alignment_optimizer(config: Config, alignment: Alignment) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if config.alignment_optimizer == "released" else torch.optim.SGD
    return kind(alignment.parameters(), lr=config.alignment_rate)


def _initial(config: Config, real: RealImages, learner: Learner, generator: torch.Generator) -> Tensor:
    """Stored images [K*ipc,C,S,S] before the first step: real ones, packed, class by class."""
    tiles, packed = config.ipc * config.formation**2, []
    for label in range(real.dataset.num_classes):
        if config.initial == "paper":
            chosen = real.draw(label, tiles, generator)
        else:
            chosen = real.at(choose(learner, real, label, tiles, config.pool, generator, distinct=True))
        packed.append(pack_grid(chosen, config.formation))
    return torch.cat(packed)


def _tiles(images: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """The images that stored ones [ipc,C,S,S] hold, in the order of `SyntheticSet.decoded`; a random part where they are many."""
    factor, side = config.formation, images.shape[-1] // config.formation
    parts = [
        images[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
        for column in range(factor)
        for row in range(factor)
    ]
    cut = torch.cat(parts)
    if len(cut) > config.synthetic_batch:
        cut = cut[torch.randperm(len(cut), generator=generator)[: config.synthetic_batch].to(cut.device)]
    return F.interpolate(cut, size=images.shape[-1], mode="bilinear", align_corners=True) if factor > 1 else cut


def _augmented(
    config: Config, images: Tensor, targets: Tensor | None, seed: int, *, siamese: bool = False
) -> tuple[Tensor, Tensor]:
    """Images [B,C,S,S] and targets [B,K] under the configuration's plan, every draw from `seed`. Without targets CutMix mixes
    within a class, or where nobody looks at labels."""
    plan = PLANS[config.augmentation]
    mix = config.pair[0].family not in plan.cutmix_except
    generator = torch.Generator(images.device).manual_seed(seed)
    labels = images.new_zeros(len(images), 1) if targets is None else targets
    return augment.augment(images, labels, plan, generator, mix=mix, siamese=siamese)


def _card(config: Config, train: RealData, seed: int) -> Card:
    first, second = (name.removesuffix("-pretrained").removesuffix("-scratch") for name in (config.first, config.second))
    without = [n for n, on in (("GBM", config.gradient_balance), ("MD", config.mutual_distillation)) if not on]
    title = f"HMDC, {train.dataset.title}, IPC {config.ipc}, {first} and {second}, {config.iterations} x {config.steps} steps"
    if without:
        title += f", without {' and '.join(without)}"
    if config.pretraining:
        title += (
            f"; {second} first trained on {config.pretraining} batches of {config.network_batch} images of the train split "
            f"({config.second}-trained.pt in the run's folder)"
        )
    return Card(
        title=title,
        paper="https://arxiv.org/abs/2409.14538",
        command=f"mabench reproduce hmdc --ipc {config.ipc} --seed {seed}",
        source_networks=tuple(f"{e.architecture}{'' if e.pretrained else ' (no foreign weights)'}" for e in config.pair),
    )
