"""G-VBSM: images whose statistics are those of real ones, in every layer of several backbones (Shao et al., "Generalized
Large-Scale Data Condensation via Various Backbone and Statistical Matching", CVPR 2024); SRe2L (Yin, Xing & Shen, NeurIPS 2023)
is the case of one backbone whose batch norm layers alone are matched.

    squeeze     train every backbone on the real images                                              (teachers.py)
    statistics  one pass of the real images through each: mean and variance of the inputs of its convolutions
    recover     batches of images, all of a class together, so that densification sees them, from noise:
                    repeat `iterations` times
                        pick a backbone; shift, flip and roll the batch
                        step down cross-entropy + matching of statistics + densification             (matching.py)
    relabel     soft labels: the ensemble's logits on the stored images; for the paper's suite also
                on the views of every epoch of a student's training                                  (labels.py)

Everything lives in the space that the dataset's mean and std normalise; pixels are clipped to what an image can hold.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import RealData
from mabench.errors import MabenchError
from mabench.files import write_text
from mabench.networks import compiling
from mabench.schema import Card, Finding
from mabench.sets import label_files
from mabench.sets.synthetic import SyntheticSet

from .. import kit
from ..kit import Run
from . import backbones, labels, views
from .matching import Matcher, Rules, densification, same_sized
from .stages import Stages, State
from .teachers import TELL_EVERY, Recording, Squeeze, Teacher, record, squeeze, steps

ADAM = (0.5, 0.9)  # released code
PAPER = ("resnet18", "convnet128", "mobilenetv2_0_5", "wrn16_2", "shufflenetv2_0_5")  # in the released recover stage's order
Name = Literal["gvbsm", "sre2l"]
RECOVERED = "recovered"
"""Folder of the run in which finished batches wait."""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of G-VBSM. Defaults: the released script for CIFAR-10 at IPC 10, and every choice as released."""

    ipc: int
    backbones: tuple[str, ...] = PAPER
    squeeze: Squeeze = field(default_factory=Squeeze)
    recording: Recording = field(default_factory=Recording)
    crop: Literal["shift", "resized"] = "shift"
    """View of an image in training, recording and recovering: `shift` by up to 1/8 of the side, or `resized` (ImageNet)."""
    recover_crop: Literal["as-trained", "none"] = "as-trained"
    """`none`: recovering neither crops nor flips (SRe2L's released code for CIFAR)."""
    # recover
    initial: Literal["noise", "real"] = "noise"
    """`noise`: standard normal; `real`: random real images (ours; with 0 iterations: real images with the ensemble's labels)."""
    iterations: int = 4000
    batch: int = 100
    image_rate: float = 0.05
    order: Literal["reordered", "original"] = "reordered"
    """`reordered`: all images of a class in a row (Fig. 4); `original`: one image of every class in turn, as SRe2L."""
    groups: int = 1
    """The reordered images are worked through in this many rounds, each with ipc / groups images of every class: 1 in the paper,
    10 in the released code for Tiny ImageNet."""
    draw: Literal["released", "paper"] = "released"
    """`released`: backbones in turn; `paper`: a random one for every step (Eq. 7)."""
    jitter: int = 32
    # matching
    convolution: bool = True
    matching_weight: float = 0.01
    norm: Literal["released", "paper"] = "released"
    """`released`: Euclidean distances; `paper`: their squares (Eq. 6 and 10)."""
    first_weight: float = 10.0
    momentum: float = 0.8
    """The paper's alpha."""
    momentum_start: Literal["released", "paper"] = "released"
    """Past statistics begin at zero (`released`) or at the first that are seen (`paper`)."""
    drop: float = 0.4
    """The paper's beta_dr."""
    tile: int = 4
    """The paper's N_p: side of a patch."""
    # densification
    densification: Literal["published", "normalised", "none"] = "published"
    """`published` (dead on 32 px images), `normalised` (ours: eigenvalues over their mean), or `none`."""
    densification_weight: float = 1.0
    densification_temperature: float = 4.0
    # relabel
    rounding: Literal["released", "nearest"] = "released"
    """Pixels to 8 bits: `released` cuts off, `nearest` (ours) rounds."""
    logit_normalisation: bool = False
    label_temperature: float = 4.0  # ours: the paper's students learn from logits, where there is none
    record_epochs: int = 0
    """Epochs of the per-epoch labels; 0 = none. They need a folder."""
    record_batch: int = 100
    label_backbones: int = 0
    """Labels come from the first so many backbones of the list (Table 3), 0 = from all."""

    def __post_init__(self) -> None:
        kit.check_fields(self)
        self.rules  # noqa: B018 - refuses what it cannot read
        if not self.backbones or not set(self.backbones) <= set(backbones.NAMES):
            raise MabenchError(f"backbones = {','.join(self.backbones)}: allowed are some of {', '.join(backbones.NAMES)}.")
        if not 0 <= self.label_backbones <= len(self.backbones):
            raise MabenchError(
                f"label_backbones = {self.label_backbones}: allowed is 0 (all) to {len(self.backbones)}, the number of backbones."
            )
        if self.groups < 1 or self.ipc % self.groups:
            raise MabenchError(f"groups = {self.groups} does not divide IPC {self.ipc}.")

    @property
    def rules(self) -> Rules:
        """How statistics are matched."""
        return Rules(
            self.convolution, self.tile, self.norm, self.momentum, self.momentum_start, self.drop, self.first_weight
        )  # fmt: skip


def condense(
    train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None, *, method: Name
) -> SyntheticSet:
    """Condense `config.ipc` images per class: uint8, soft labels float32 [N,K]. The backbones' accuracies go to teachers.json,
    per-epoch labels to labels/, both in the run's folder. `method` names the set and its card."""
    compiling.prepare_process()
    run = run or Run()
    kit.check_train(train, config.ipc, value_bytes=1)
    saved = run.begin(method, config, seed, train)
    if (done := run.finished()) is not None:
        return done
    order = image_order(config, train.dataset.num_classes)
    batches = torch.split(order, config.batch)
    recorded = config.record_epochs if run.folder is not None else 0
    stages = Stages(run, _steps(train, config, len(batches), recorded), saved)

    teachers, matchers = [], []
    for name in config.backbones:
        teacher = squeeze(train, name, config.squeeze, config.crop, seed, device, stages, f"squeeze {name}")
        teachers.append(teacher)
        if not config.iterations:
            continue
        statistics = {}
        if config.convolution:
            padding = config.squeeze.padding
            statistics = record(
                train, teacher, config.recording, config.crop, padding, config.tile, seed, device, stages, f"statistics {name}"
            )
        matchers.append(Matcher(teacher.network, statistics, config.rules))
    _describe(run, teachers)
    labelling = teachers[: config.label_backbones or None]

    classes = torch.arange(train.dataset.num_classes).repeat_interleave(config.ipc)
    stored = recover(train, config, classes, batches, matchers, seed, device, stages)
    made, corrected = labelled(train, config, stored, classes, labelling, f"{method}-ipc{config.ipc}-seed{seed}", device)
    findings = [
        Finding(
            field="labels", value=f"{corrected} of {len(classes)} corrected", reason="the ensemble took them for another class"
        )
    ]
    if recorded and run.folder is not None:
        size = labels.record(
            made,
            labelling,
            run.folder / label_files.FOLDER,
            epochs=recorded,
            batch=config.record_batch,
            logit_normalisation=config.logit_normalisation,
            seed=seed,
            device=device,
            stages=stages,
            stage="relabel",
        )
        findings.append(labels.finding(made, size, f"{recorded} epochs, for the paper's own suite"))
    alone = method == "sre2l"
    card = Card(
        title=f"{'SRe2L' if alone else 'G-VBSM'}, {train.dataset.title}, IPC {config.ipc}, {config.iterations} iterations",
        paper="https://arxiv.org/abs/2306.13092" if alone else "https://arxiv.org/abs/2311.17950",
        source_networks=config.backbones,
    )
    made = run.finish(replace(made, findings=tuple(findings)), card)
    if run.folder is not None:
        shutil.rmtree(run.folder / RECOVERED, ignore_errors=True)
    return made


def _steps(train: RealData, config: Config, batches: int, recorded: int) -> dict[str, int]:
    """Stage -> its steps, in order."""
    out: dict[str, int] = {}
    for name in config.backbones:
        out[f"squeeze {name}"] = steps(train, name, config.squeeze)
        out[f"statistics {name}"] = config.recording.steps(train) if config.convolution and config.iterations else 0
    return out | {"recover": batches * config.iterations, "relabel": recorded}


def _describe(run: Run, teachers: list[Teacher]) -> None:
    if run.folder is not None:
        facts = {t.name: {"sha256": t.sha256, **t.facts} for t in teachers}
        write_text(run.folder / "teachers.json", json.dumps(facts, indent=1) + "\n")


def image_order(config: Config, num_classes: int) -> Tensor:
    """Stored images are class by class; this is the order [N] in which they are recovered (Fig. 4)."""
    grid = torch.arange(num_classes * config.ipc).view(num_classes, config.ipc)
    groups = config.ipc if config.order == "original" else config.groups
    return torch.cat([part.flatten() for part in torch.split(grid, config.ipc // groups, dim=1)])


# -- recover ---------------------------------------------------------------------------------------------------------------


def recover(
    train: RealData,
    config: Config,
    classes: Tensor,
    batches: tuple[Tensor, ...],
    matchers: list[Matcher],
    seed: int,
    device: torch.device,
    stages: Stages,
) -> Tensor:
    """The images, uint8 [N,C,S,S], class by class. What past batches left in the statistics stays for the next.

    A finished batch is a file in the run's folder, so that a checkpoint holds one batch whatever the size of the set; once all
    are there, this stage is behind us.
    """
    side, total = train.dataset.image_size, config.iterations
    crop = config.crop if config.recover_crop == "as-trained" else "none"
    stored = torch.zeros(len(classes), train.dataset.channels, side, side, dtype=torch.uint8)
    mean, std = views.normalisation(train.dataset, device)
    low, high = (0 - mean) / std, (1 - mean) / std
    saved = stages.resume("recover")
    first, begin = (0, 0) if saved is None else (int(saved["batch"]), int(saved["done"]))
    if saved is not None:
        for matcher, past in zip(matchers, saved["past"], strict=True):
            matcher.past = {name: tuple(v.to(device) for v in values) for name, values in past.items()}
    folder = stages.run.folder
    paths = [None if folder is None else folder / RECOVERED / f"{number:05d}.pt" for number in range(len(batches))]
    if total and all(path is not None and path.exists() for path in paths):
        first = len(batches)
    for number, (rows, path) in enumerate(zip(batches, paths, strict=True)):
        if number < first:
            assert path is not None  # only a run with a folder is ever resumed
            stored[rows] = _finished(path)
            continue
        targets = classes[rows].to(device)
        together = [group.to(device) for group in same_sized(classes[rows])]
        images = _initial(train, config, classes[rows], number, seed) if saved is None or not begin else saved["images"]
        images = images.to(device).requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=config.image_rate, betas=ADAM)
        if saved is not None and begin:
            optimizer.load_state_dict(saved["optimizer"])
        for step in range(begin, total):
            optimizer.param_groups[0]["lr"] = config.image_rate * 0.5 * (1 + math.cos(math.pi * step / total))
            draws = views.generator(seed, "recover", number, step)
            random_pick = int(torch.randint(len(matchers), (), generator=draws))
            turn = (number * total + step) % len(matchers)
            matcher = matchers[random_pick if config.draw == "paper" else turn]
            seen = views.recover_view(images, crop, side // 8, config.jitter, draws)
            logits, matching = matcher(seen, draws)
            classification = F.cross_entropy(logits, targets)
            density = _density(config, seen, together)
            optimizer.zero_grad()
            torch.autograd.backward(classification + config.matching_weight * matching + config.densification_weight * density)
            optimizer.step()
            with torch.no_grad():
                images.copy_(torch.minimum(torch.maximum(images, low), high))
            last = step + 1 == total
            if last and path is not None:
                kit.write_state(path, _levels(train, config, images))
            if last or (step + 1) % TELL_EVERY == 0:
                losses = {"classification": classification, "matching": matching, "densification": density}
                place = (number + 1, 0) if last else (number, step + 1)
                stages.tell(
                    "recover",
                    number * total + step + 1,
                    {name: float(value.detach()) for name, value in losses.items()},
                    _state(*place, images, optimizer, matchers),
                )
        stored[rows] = _levels(train, config, images)
        begin = 0
    return stored


def _state(batch: int, done: int, images: Tensor, optimizer: torch.optim.Optimizer, matchers: list[Matcher]) -> State:
    """Of recover: `done` steps of batch number `batch` are behind us."""
    past = [matcher.past for matcher in matchers]
    return {"batch": batch, "done": done, "images": images, "optimizer": optimizer, "past": past}


def _finished(path: Path) -> Tensor:
    images: Tensor | None = kit.read_state(path)
    if images is None:
        raise MabenchError(f"{path}: gone or damaged, though the checkpoint counts on it. Remove checkpoint.pt to begin again.")
    return images


def _levels(train: RealData, config: Config, images: Tensor) -> Tensor:
    """Normalised images as 8 bits, on the CPU."""
    mean, std = views.normalisation(train.dataset, images.device)
    levels = (images.detach() * std + mean).clamp(0, 1) * 255
    real = config.initial == "real" and not config.iterations  # whole numbers already, but for rounding errors
    whole = levels.round() if real or config.rounding == "nearest" else levels.floor()
    return whole.to(torch.uint8).cpu().contiguous()


def _density(config: Config, images: Tensor, classes: Sequence[Tensor]) -> Tensor:
    if config.densification == "none":
        return images.new_zeros(())
    normalised = config.densification == "normalised"
    return densification(images, classes, config.densification_temperature, normalised=normalised)


def _initial(train: RealData, config: Config, classes: Tensor, number: int, seed: int) -> Tensor:
    """Normalised images [B,C,S,S] of batch `number` before its first step, of these classes, on the CPU."""
    entry = train.dataset
    if config.initial == "noise":
        shape = (len(classes), entry.channels, entry.image_size, entry.image_size)
        return torch.randn(shape, generator=views.generator(seed, "initial", number))
    truth, rows = torch.tensor(train.labels), torch.zeros(len(classes), dtype=torch.int64)
    for label in sorted(set(classes.tolist())):
        own = (truth == label).nonzero().flatten()
        mine = (classes == label).nonzero().flatten()
        # the same order of the class in every batch: its images of this batch follow those of the batches before
        shuffled = own[torch.randperm(len(own), generator=views.generator(seed, "initial", "class", label))]
        before = _before(config, train.dataset.num_classes, number, label)
        rows[mine] = shuffled[before : before + len(mine)]
    pixels, _ = views.real_pixels(train, rows, torch.device("cpu"))
    return views.normalised(pixels, entry).contiguous()


def _before(config: Config, num_classes: int, number: int, label: int) -> int:
    """Images of this class in the batches before batch `number`."""
    return int((image_order(config, num_classes)[: number * config.batch] // config.ipc == label).sum())


def labelled(
    train: RealData, config: Config, stored: Tensor, classes: Tensor, teachers: list[Teacher], name: str, device: torch.device
) -> tuple[SyntheticSet, int]:
    """The set of these images with the ensemble's labels, and how many of the labels were corrected."""
    entry = train.dataset
    parts = (views.normalised(part.to(device), entry) for part in torch.split(stored, labels.PART))
    logits = labels.ensemble(teachers, parts, logit_normalisation=config.logit_normalisation)
    soft, corrected = labels.static(logits, classes, config.label_temperature)
    made = SyntheticSet(
        images=stored,
        labels=soft,
        dataset=entry.name,
        ipc=config.ipc,
        class_names=entry.class_names,
        name=name,
    )
    return made, corrected
