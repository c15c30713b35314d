"""HMDC: images that unlike networks agree on (Moon, Kim & Park, "Towards Model-Agnostic Dataset Condensation by Heterogeneous
Models", ECCV 2024). With one network alone the same loop is that of IDC and DREAM.

    repeat `iterations` times
        draw the networks and their alignment; pretrained weights return under a fresh head
        repeat `steps` times
            for every class c
                a real batch of c and the images of c, cut into their tiles, under one and the same augmentation
                L1, L2: distance of the gradients of each network's cross-entropy on the two            (Eq. 3)
                L3: the same of the mutual distillation of the networks                                  (Eq. 12, 13)
                every few steps: add the largest gradient of each loss at the images to its accumulator  (Eq. 4)
                weigh the losses by min(A) / A                                                           (Eq. 5)
            each image's gradient over its largest value; one step of all images, within the pixel range
            train the networks on real images, distilling each other; then their alignment

Images live in the space that the dataset's mean and std normalise. `config.py` has the hyper-parameters, `state.py` what a step
changes, `matching.py` the losses, `balance.py` the Gradient Balance Module, `training.py` the networks' training, `decomposition.py`
the features and their alignment, `learners.py` the networks, `images.py` tiles and augmentation, `selection.py` representatives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mabench.data import RealData
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet

from .. import kit
from ..kit import RealImages, Run
from .balance import normalised
from .config import Config
from .images import class_batches
from .matching import classes_at_once, matching_losses
from .state import State
from .training import pretrain, train_networks

LONG_STEP = 20.0  # ours: seconds; a shorter step is finished, so that an interruption keeps it
PAPERS = {
    "hmdc": ("HMDC", "https://arxiv.org/abs/2409.14538"),
    "idc": ("IDC", "https://arxiv.org/abs/2205.14959"),
    "dream": ("DREAM", "https://arxiv.org/abs/2302.14416"),
}


def condense(
    train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None, *, method: str = "hmdc"
) -> SyntheticSet:
    """Return a set of `config.ipc` stored images per class: float32, pixel space (within [0,1] if the configuration clamps every step), hard labels,
    `grid2` by default.

    Leaves `gradient_balance.csv` and `.png` (the paper's Figure 4) in the run's folder. Beside the losses it reports `step`: how
    far a step moved a pixel on average, in 255ths. Resumes to the same images. Raises MabenchError for a test split, too large an
    IPC, or a network without a map of the image in its features.
    """
    run = run or Run()
    kit.check_train(train, config.ipc, tiles=config.formation**2)
    kit.check_grid(train, "formation", config.formation)
    saved = run.begin(method, config, seed, train)
    if (done := run.finished()) is not None:
        return done
    with _fast_products(device):
        state = State(config, RealImages(train, device), seed)
        early = _pretrained(state, run, saved)
        if saved is not None and saved["phase"] == "condensation":
            kit.restore(state.live(0), saved)
            first = int(saved["done"])
        else:
            first = 0
            state.begin()
        total = config.iterations * config.steps
        for step in range(first, total):
            losses = _step(state, step, partial(_tell_share, run, early + step, early + total))
            run.step(early + step + 1, early + total, losses, state.live(step + 1))
    if run.folder is not None and len(config.losses) > 1:
        state.record.write(run.folder)
    decode = "none" if config.formation == 1 else f"grid{config.formation}"
    name = f"{method}-ipc{config.ipc}-seed{seed}"
    images = state.real.to_set(state.images, config.ipc, name, decode=decode, clamp=config.clamp == "step")
    return run.finish(images, _card(config, train, method))


def _tell_share(run: Run, done: int, total: int, share: float) -> None:
    run.glance(done + share, total)


def _step(state: State, step: int, on_share: Callable[[float], None] = lambda share: None) -> dict[str, float]:
    """One step of the images, then of the networks; its losses, each the mean over classes.

    `on_share` hears how much of the step is behind us after every pass of classes, once it has taken `LONG_STEP`.
    """
    config, inner, begun = state.config, step % state.config.steps, time.monotonic()

    def on_classes(done: int) -> None:
        if time.monotonic() - begun > LONG_STEP:
            on_share(_share_of_classes(state) * done / state.real.dataset.num_classes)

    if inner == 0:
        state.renew()
    sampled = inner % config.period == 0
    if sampled and config.representatives == "released":
        state.choose_representatives(inner // config.period)
    direction, losses = _direction(state, step, sampled=sampled and len(config.losses) > 1, on_classes=on_classes)
    direction = direction * state.unit  # chain rule: the gradient in the space where the images move
    moved = state.move(normalised(direction, config.image_gradient) if config.normalised_step else direction)
    train_networks(state)
    names = (*config.losses, "step")
    return dict(zip(names, torch.stack([*losses.mean(1), moved]).tolist(), strict=True))  # the one wait for the device


def _share_of_classes(state: State) -> float:
    """About how much of a step the gradients at the images take; the rest is the networks' training.

    In forward passes of an image; a backward pass counts as two, the second backward through both as four more (ours).
    """
    config, count = state.config, len(state.config.losses)
    tiles = min(config.synthetic_batch, config.ipc * config.formation**2)
    images = state.real.dataset.num_classes * (config.real_batch * (1 + 2 * count) + tiles * (1 + 6 * count))
    networks = config.network_batches * config.network_batch * (3 + config.distils)
    return images / (images + networks)


def _direction(
    state: State, step: int, *, sampled: bool, on_classes: Callable[[int], None] = lambda done: None
) -> tuple[Tensor, Tensor]:
    """The gradient [K*ipc,C,S,S] of the balanced losses at the images, and the losses [T,K]; `sampled` feeds the accumulators.
    `on_classes` hears how many classes are done."""
    classes = state.real.dataset.num_classes
    at_once = classes_at_once(state.config, state.learners, state.real.device, classes)
    direction, every = torch.zeros_like(state.images), []
    for labels in torch.split(torch.arange(classes), at_once):
        losses = _losses(state, labels)
        if sampled:
            each = torch.stack([torch.autograd.grad(loss.sum(), state.images, retain_graph=True)[0] for loss in losses])
            of_class = each.view(len(losses), classes, -1)[:, labels.to(each.device)]
            largest = of_class.abs().amax(2).T  # [K,T]
            weights = state.balance.add(labels, largest)
            state.record.add(step, labels, largest, weights)
            scale = torch.ones(classes, len(losses), dtype=each.dtype, device=each.device)
            scale[labels.to(each.device)] = weights.to(each)
            direction += torch.einsum("kt,tkx->kx", scale, each.view(len(losses), classes, -1)).view_as(direction)
        else:
            weights = state.balance.weights(labels).to(losses)
            direction += torch.autograd.grad((weights.T * losses).sum(), state.images)[0]
        every.append(losses.detach())
        on_classes(int(labels[-1]) + 1)
    return direction, torch.cat(every, 1)


def _losses(state: State, labels: Tensor) -> Tensor:
    """The losses [T,K] of these classes, each a real batch against the class's images."""
    config, device = state.config, state.real.device
    pairs = [
        class_batches(config, state.real, state.images, label, state.rows[label], state.streams) for label in labels.tolist()
    ]
    real, synthetic = (torch.stack(batches) for batches in zip(*pairs, strict=True))
    distillation = state.distillation if config.distils else None
    return matching_losses(state.learners, distillation, real, synthetic, labels.to(device), config)


def _pretrained(state: State, run: Run, saved: dict[str, Any] | None) -> int:
    """Train the networks that need it; the steps that this took."""
    config = state.config
    named = zip(state.learners[1:], config.pretraining_streams, strict=True)
    learners = [(learner, name) for learner, name in named if not learner.evaluator.pretrained] if config.pretraining else []
    total = config.pretraining * len(learners) + config.iterations * config.steps
    for number, (learner, name) in enumerate(learners):
        part = saved if saved is not None and saved["phase"] == learner.evaluator.name else None
        before = number * config.pretraining
        pretrain(learner, state.real, config, state.streams[name], run, total, before, part)
    return config.pretraining * len(learners)


@contextmanager
def _fast_products(device: torch.device) -> Iterator[None]:
    """TF32 on a GPU, in products and convolutions, as the released code has it; the caller's switches afterwards."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _card(config: Config, train: RealData, method: str) -> Card:
    names = tuple(name.removesuffix("-pretrained").removesuffix("-scratch") for name in config.networks)
    name, paper = PAPERS[method]
    title = f"{name}, {train.dataset.title}, IPC {config.ipc}, {config.iterations} x {config.steps} steps"
    switches = {"GBM": config.gradient_balance, "MD": config.mutual_distillation, "the normalised step": config.normalised_step}
    without = [name for name, on in switches.items() if not on]
    if without and method == "hmdc":
        title += f", without {' and '.join(without)}"
    note = f"made by {' and '.join(names)}"
    trained = [e.name for e in config.evaluators[1:] if not e.pretrained] if config.pretraining else []
    for evaluator in trained:
        note += (
            f"; {evaluator.removesuffix('-scratch')} was first trained on {config.pretraining} batches of {config.network_batch} "
            f"images of the train split ({evaluator}-trained.pt in the run's folder)"
        )
    return Card(title=title, paper=paper, note=note, source_networks=names)
