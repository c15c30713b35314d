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

Images live in the space that the dataset's mean and std normalise. `config.py` has the hyper-parameters, `decomposition.py` the
features and their alignment, `balance.py` the Gradient Balance Module, `selection.py` k-means, `pair.py` the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.data import RealData, augment
from mabench.networks.compiling import has_bfloat16
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet, pack_grid

from .. import kit
from ..kit import RealImages, Run
from .balance import GradientBalance, Record, normalised
from .config import PLANS, Config
from .decomposition import Alignment, mutual_distillation, shapes
from .pair import Learner, pretrain
from .selection import choose


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """A set of `config.ipc` stored images per class: float32, pixel space, within [0,1], hard labels, `grid2` unless told.

    Leaves `gradient_balance.csv` and `.png` (the paper's Figure 4) in the run's folder. Beside the losses it reports `step`: how
    far a step moved a pixel on average, in 255ths. Resumes to the same images. Raises MabenchError for a test split, too large an
    IPC, or a network without a map of the image in its features.
    """
    run = run or Run()
    kit.check_train(train, config.ipc * config.formation**2)
    kept = run.begin("hmdc", config, seed, train)
    if (done := run.finished()) is not None:
        return done
    real = RealImages(train, device)
    state = _State(config, real, seed)
    total = config.pretraining + config.iterations * config.steps
    if config.pretraining:
        early = kept if kept is not None and kept["phase"] == "pretraining" else None
        pretrain(state.learners[1], real, config, state.streams["pretraining"], run, total, early)
    if kept is not None and kept["phase"] == "condensation":
        first = state.restore(kept)
    else:
        first, state.images = 0, _initial(config, real, state.learners[0], state.streams["images"])
    images = state.begin_images()
    low, high = (0 - real.mean) / real.std, (1 - real.mean) / real.std

    for step in range(first, config.iterations * config.steps):
        inner = step % config.steps
        if inner == 0:
            state.renew()
        sampled = inner % config.period == 0
        if sampled and config.representatives == "released":
            state.rows = _representatives(config, real, state.learners[inner // config.period % 2], state.streams["batches"])
        towards, means = torch.zeros_like(images), torch.zeros(len(config.losses))
        for label in range(train.dataset.num_classes):
            losses = _class_losses(config, real, state, label)
            if sampled:
                each = [torch.autograd.grad(loss, images, retain_graph=True)[0] for loss in losses]
                largest = [float(g.abs().max()) for g in each]
                state.balance.add(label, largest)
                weights = state.balance.weights(label)
                state.record.add(step, label, largest, weights)
                for weight, g in zip(weights, each, strict=True):
                    towards += weight * g
            else:
                weights = state.balance.weights(label)
                weighted = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
                towards += torch.autograd.grad(weighted, images)[0]
            means += torch.stack([loss.detach() for loss in losses]).cpu() / train.dataset.num_classes
        images.grad = normalised(towards, config.image_gradient) if config.normalised_step else towards
        before = images.detach().clone()
        state.image_optimizer.step()
        with torch.no_grad():
            images.clamp_(low, high)
            moved = 255 * ((images - before) * real.std).abs().mean()
        _train(config, real, state)
        named = dict(zip(config.losses, means.tolist(), strict=True)) | {"step": float(moved)}
        run.step(config.pretraining + step + 1, total, named, state.kept(step + 1))

    if run.folder is not None:
        state.record.write(run.folder)
    decode = "none" if config.formation == 1 else f"grid{config.formation}"
    made = real.to_set(images, config.ipc, f"hmdc-ipc{config.ipc}-seed{seed}", decode=decode, clamp=True)
    return run.finish(made, _card(config, train))


def _class_losses(config: Config, real: RealImages, state: _State, label: int) -> list[Tensor]:
    """L1, L2 and, with mutual distillation, L3 of one class: a real batch against the class's images."""
    if config.representatives == "released":
        batch = real.at(state.rows[label])
    else:
        batch = real.draw(label, config.real_batch, state.streams["batches"])
    assert state.images is not None
    own = _tiles(state.images[label * config.ipc : (label + 1) * config.ipc], config, state.streams["batches"])
    shared = kit.seed_from(state.streams["augmentation"])  # the same operations and parameters for both batches
    batch, own = (_augmented(config, x, None, shared, siamese=True)[0] for x in (batch, own))
    alignment = state.alignment if config.mutual_distillation else None
    return matching_losses(state.learners, alignment, batch, own, label, config)


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


def _train(config: Config, real: RealImages, state: _State) -> None:
    """Both networks on real batches of all classes: cross-entropy, and mutual distillation (Eq. 12); then the alignment alone, on
    other batches."""
    networks = [learner.network for learner in state.learners]
    rates = (config.first_rate, config.second_rate)
    groups = [{"params": learner.trained(), "lr": rate} for learner, rate in zip(state.learners, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    narrow = config.bfloat16 and has_bfloat16(real.device)

    def batches() -> list[Tensor]:
        order = torch.randperm(len(real.labels), generator=state.streams["training"])
        return list(torch.split(order, config.network_batch))[: config.network_batches]

    for rows in batches():
        targets = F.one_hot(real.labels[rows.to(real.device)], real.dataset.num_classes).float()
        images, targets = _augmented(config, real.at(rows), targets, kit.seed_from(state.streams["augmentation"]))
        with torch.autocast(real.device.type, torch.bfloat16, enabled=narrow):
            (logits1, features1), (logits2, features2) = (network(images) for network in networks)
            loss = F.cross_entropy(logits1.float(), targets) + F.cross_entropy(logits2.float(), targets)
            if config.mutual_distillation:
                loss = loss + mutual_distillation(state.alignment, features1, features2)
        for network in networks:
            network.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    for rows in batches() if config.mutual_distillation else ():
        images, _ = _augmented(config, real.at(rows), None, kit.seed_from(state.streams["augmentation"]))
        with torch.autocast(real.device.type, torch.bfloat16, enabled=narrow):
            with torch.no_grad():
                features1, features2 = (network(images)[1] for network in networks)
            loss = mutual_distillation(state.alignment, features1, features2)
        state.alignment_optimizer.zero_grad()
        torch.autograd.backward(loss)
        state.alignment_optimizer.step()


# -- its pieces ----------------------------------------------------------------------------------------------------------------


class _State:
    """Everything that a step changes, and how it goes through a checkpoint."""

    def __init__(self, config: Config, real: RealImages, seed: int) -> None:
        self.config, self.real = config, real
        names = ("images", "batches", "networks", "augmentation", "training", "pretraining")
        self.streams = kit.generators(seed, names)
        self.learners = _pair(config, real, self.streams["networks"])
        self.alignment, self.alignment_optimizer = self._fresh_alignment()
        classes = real.dataset.num_classes
        self.balance = GradientBalance(classes, len(config.losses), config.accumulator, config.gradient_balance)
        self.record = Record(config.losses)
        self.rows = torch.zeros(classes, 0, dtype=torch.long)
        """Rows of every class's real batch."""
        self.images: Tensor | None = None
        self.momentum: dict[str, Any] | None = None

    def begin_images(self) -> Tensor:
        """The images as the one thing that is optimised."""
        assert self.images is not None
        self.images.requires_grad_(True)
        self.image_optimizer = torch.optim.SGD([self.images], lr=self.config.image_rate, momentum=self.config.image_momentum)
        if self.momentum is not None:
            self.image_optimizer.load_state_dict(self.momentum)
        return self.images

    def renew(self) -> None:
        """A new iteration: networks, alignment and, where it is the released one, the accumulator start afresh."""
        for learner in self.learners:
            learner.reset(kit.seed_from(self.streams["networks"]))
        self.alignment, self.alignment_optimizer = self._fresh_alignment()
        self.balance.restart()

    @torch.no_grad()
    def _fresh_alignment(self) -> tuple[Alignment, torch.optim.Optimizer]:
        """An alignment that fits the shapes of the pair's features, and its optimizer."""
        entry, found = self.real.dataset, []
        for learner in self.learners:
            learner.network.eval()  # batch norm must not see the blank image
            blank = torch.zeros(1, entry.channels, entry.image_size, entry.image_size, device=self.real.device)
            found.append(shapes(learner.network(blank)[1]))
            learner.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(kit.seed_from(self.streams["networks"]))
            alignment = Alignment(found[0], found[1], self.config.layer_softmax).to(self.real.device)
        kind = torch.optim.Adam if self.config.alignment_optimizer == "released" else torch.optim.SGD
        return alignment, kind(alignment.parameters(), lr=self.config.alignment_rate)

    def kept(self, done: int) -> dict[str, Any]:
        """The live objects of a checkpoint after `done` steps."""
        return {
            "phase": "condensation",
            "done": done,
            "images": self.images,
            "momentum": self.image_optimizer,
            "networks": [learner.network for learner in self.learners],
            "alignment": self.alignment,
            "alignment_optimizer": self.alignment_optimizer,
            "balance": self.balance.sums,
            "record": self.record.state(),
            "rows": self.rows,
            "streams": self.streams,
        }

    def restore(self, kept: dict[str, Any]) -> int:
        """Take up a checkpoint; the steps that it holds."""
        self.images, self.momentum = kept["images"].to(self.real.device), kept["momentum"]
        for learner, weights in zip(self.learners, kept["networks"], strict=True):
            learner.network.load_state_dict(weights)
        self.alignment.load_state_dict(kept["alignment"])
        self.alignment_optimizer.load_state_dict(kept["alignment_optimizer"])
        self.balance.sums.copy_(kept["balance"])
        self.record.restore(kept["record"])
        self.rows = kept["rows"]
        kit.restore(self.streams, kept["streams"])
        return int(kept["done"])


def _pair(config: Config, real: RealImages, generator: torch.Generator) -> list[Learner]:
    """Both networks, with the released code's habits for the field's ConvNet where they are asked for."""
    habits = [e.architecture == "convnet" for e in config.pair]
    return [
        Learner(
            evaluator,
            real.dataset,
            real.device,
            kit.seed_from(generator),
            classifier_only=habit and config.convnet_training == "released",
            repeat_last=habit and config.last_feature == "released",
            own_statistics=config.own_statistics,
            frozen_batch_norm=config.frozen_batch_norm,
        )
        for evaluator, habit in zip(config.pair, habits, strict=True)
    ]


def _representatives(config: Config, real: RealImages, learner: Learner, generator: torch.Generator) -> Tensor:
    """Rows [K,real_batch] of every class's real batch, as one of the networks sees the class."""
    count = min(config.real_batch, *(len(own) for own in real.rows))
    return torch.stack(
        [choose(learner, real, c, count, config.pool, generator, distinct=False) for c in range(real.dataset.num_classes)]
    )


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


def _card(config: Config, train: RealData) -> Card:
    first, second = (name.removesuffix("-pretrained").removesuffix("-scratch") for name in (config.first, config.second))
    switches = {"GBM": config.gradient_balance, "MD": config.mutual_distillation, "the normalised step": config.normalised_step}
    without = [name for name, on in switches.items() if not on]
    title = f"HMDC, {train.dataset.title}, IPC {config.ipc}, {config.iterations} x {config.steps} steps"
    if without:
        title += f", without {' and '.join(without)}"
    note = f"made by {first} and {second}"
    if config.pretraining:
        note += (
            f"; {second} was first trained on {config.pretraining} batches of {config.network_batch} images of the train split "
            f"({config.second}-trained.pt in the run's folder)"
        )
    return Card(
        title=title,
        paper="https://arxiv.org/abs/2409.14538",
        note=note,
        source_networks=(first, second),
    )
