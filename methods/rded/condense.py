"""RDED: crops of real images that a teacher recognises best, several in one image, labelled softly by the teacher (Sun, Shi, Yu & Lin,
"On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm", CVPR 2024). Nothing is optimised.

    train a teacher on the real images                                                       (gvbsm/teachers.py)
    for every class c
        take `pool` random images of c, and `crops` random square crops of each, resized to side / factor
        score a crop by the teacher's cross-entropy for c on it, padded with the mean colour to the full side
        keep the best crop of every image, then the best ipc x factor^2 of these
        stitch factor x factor of them into one image: image i gets numbers i, i + ipc, i + 2 ipc, ... of the ranking
    relabel: the teacher's soft labels of the images, and of every view of every epoch       (gvbsm/labels.py)

Legend: N images, C channels, S side in pixels, K classes, P crops.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import NamedTuple

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
from ..gvbsm import backbones, labels, views
from ..gvbsm.stages import Stages
from ..gvbsm.teachers import Squeeze, Teacher, squeeze, steps
from ..kit import Run

SQUARE = (1.0, 1.0)  # released code: crops are square


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of RDED. Defaults: the released scripts for CIFAR-10."""

    ipc: int
    teacher: str = "resnet18"
    """A backbone of G-VBSM's: the released code has ResNet-18 and a ConvNet with batch norm (`convnet128_bn`)."""
    squeeze: Squeeze = field(default_factory=lambda: Squeeze(30, batch=128, schedule="cosine"))  # ours: no training was published
    pool: int = 300
    """Real images of a class whose crops are scored; all where the class has fewer."""
    crops: int = 5
    """Crops of each."""
    factor: int = 1
    """Crops along a side of an image: 1 on CIFAR and Tiny ImageNet, 2 on ImageNet, in the released scripts."""
    label_temperature: float = 4.0  # ours, as G-VBSM's here: the released students see no static labels
    record_epochs: int = 0
    """Epochs of the per-epoch labels; 0 = none. They need a folder."""
    record_batch: int = 50

    def __post_init__(self) -> None:
        kit.check_fields(self)
        if self.teacher not in backbones.NAMES:
            raise MabenchError(f"teacher = '{self.teacher}': allowed is one of {', '.join(backbones.NAMES)}.")
        if self.pool < self.ipc * self.factor**2:
            raise MabenchError(
                f"pool = {self.pool}, factor = {self.factor}: IPC {self.ipc} needs {self.ipc * self.factor**2} crops of as many images. "
                "Set pool to at least that."
            )


class Ranked(NamedTuple):
    """Crops of one class, best first."""

    pixels: Tensor
    """uint8 [P,C,S/factor,S/factor]."""
    loss: Tensor
    """Cross-entropy of the class, [P]."""


def condense(train: RealData, config: Config, seed: int, device: torch.device, run: Run | None = None) -> SyntheticSet:
    """Condense `config.ipc` images per class: uint8, soft labels float32 [N,K]. The teacher's accuracy goes to teachers.json,
    per-epoch labels to labels/, both in the run's folder. Resumes in every stage, to the same images.

    Raises MabenchError for a test split, a side that `factor` does not divide, and classes with fewer images than crops are needed.
    """
    compiling.prepare_process()
    run = run or Run()
    kit.check_train(train, config.ipc, value_bytes=1, tiles=config.factor**2)
    kit.check_grid(train, "factor", config.factor)
    saved = run.begin("rded", config, seed, train)
    if (finished := run.finished()) is not None:
        return finished
    classes = train.dataset.num_classes
    recorded = config.record_epochs if run.folder is not None else 0
    squeezing = f"squeeze {config.teacher}"
    stages = Stages(run, {squeezing: steps(train, config.teacher, config.squeeze), "select": classes, "relabel": recorded}, saved)

    teacher = squeeze(train, config.teacher, config.squeeze, "shift", seed, device, stages, squeezing)
    if run.folder is not None:
        write_text(
            run.folder / "teachers.json", json.dumps({teacher.name: {"sha256": teacher.sha256, **teacher.facts}}, indent=1) + "\n"
        )
    images = _select(train, config, teacher, seed, device, stages)
    truth = torch.arange(classes).repeat_interleave(config.ipc)
    made, findings = _labelled(train, config, images, truth, teacher, f"rded-ipc{config.ipc}-seed{seed}", device)
    if recorded and run.folder is not None:
        size = labels.record(
            made,
            [teacher],
            run.folder / label_files.FOLDER,
            epochs=recorded,
            batch=config.record_batch,
            area=(1 / config.factor, 1.0),  # released code
            logit_normalisation=False,
            seed=seed,
            device=device,
            stages=stages,
            stage="relabel",
        )
        findings.append(labels.finding(made, size, f"{recorded} epochs"))
    card = Card(
        title=f"RDED, {train.dataset.title}, IPC {config.ipc}, {config.factor} x {config.factor} crops an image",
        paper="https://arxiv.org/abs/2312.03526",
        source_networks=(config.teacher,),
    )
    return run.finish(replace(made, findings=tuple(findings)), card)


def _select(train: RealData, config: Config, teacher: Teacher, seed: int, device: torch.device, stages: Stages) -> Tensor:
    """The images, uint8 [K*ipc,C,S,S], class by class; a class depends on the seed and its number alone."""
    done, images = 0, torch.zeros(0, train.dataset.channels, *(train.dataset.image_size,) * 2, dtype=torch.uint8)
    if (saved := stages.resume("select")) is not None:
        done, images = int(saved["done"]), saved["images"]
    behind = stages.saved is not None and stages.saved["stage"] == "relabel"  # chosen again, in seconds, and not told again
    for label in range(done, train.dataset.num_classes):
        best = ranked(train, label, config, teacher, views.generator(seed, "crops", label), device)
        images = torch.cat([images, mosaic(best.pixels[: config.ipc * config.factor**2], config.factor)])
        losses = {"cross-entropy of the chosen crops": float(best.loss[: config.ipc * config.factor**2].mean())}
        if not behind:
            stages.tell("select", label + 1, losses, {"done": label + 1, "images": images})
    return images


@torch.no_grad()
def ranked(train: RealData, label: int, config: Config, teacher: Teacher, draws: torch.Generator, device: torch.device) -> Ranked:
    """The best crop of every image of the pool of this class, best first."""
    rows = (torch.tensor(train.labels) == label).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=draws)[: config.pool]]
    pixels, _ = views.real_pixels(train, rows, torch.device("cpu"))
    side = train.dataset.image_size
    cut = torch.stack(
        [crop(pixels, views.draw_boxes(len(rows), side, draws, ratio=SQUARE), side // config.factor) for _ in range(config.crops)]
    )
    flat = cut.flatten(0, 1)  # [crops * pool,C,s,s]
    loss = torch.cat([_cross_entropy(part.to(device), label, teacher, train) for part in torch.split(flat, labels.PART)]).cpu()
    lowest, which = loss.view(config.crops, -1).min(0)
    order = torch.argsort(lowest, stable=True)
    return Ranked(cut[which, torch.arange(len(rows))][order], lowest[order])


def crop(pixels: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The boxes [N,4] (top, left, height, width) of images uint8 [N,C,S,S], resized to `side`: bilinear, antialiased, uint8."""
    from torchvision.transforms.v2 import functional as transforms  # heavy, and only wanted here

    each = zip(pixels, boxes.tolist(), strict=True)
    return torch.stack([transforms.resized_crop(image, *box, size=[side, side], antialias=True) for image, box in each])


def _cross_entropy(crops: Tensor, label: int, teacher: Teacher, train: RealData) -> Tensor:
    """Of the class for crops uint8 [P,C,s,s] in the middle of an image of the mean colour, [P]."""
    images = views.normalised(crops, train.dataset)
    missing = train.dataset.image_size - images.shape[-1]
    before, after = missing // 2, missing - missing // 2
    logits = teacher.network(F.pad(images, (before, after, before, after))).float()
    return F.cross_entropy(logits, torch.full((len(crops),), label, device=logits.device), reduction="none")


def mosaic(crops: Tensor, factor: int) -> Tensor:
    """Images [N,C,S,S] of factor x factor crops [N * factor^2,C,s,s]: crop k N + i is the k-th tile, row by row, of image i."""
    count = len(crops) // factor**2
    tiles = crops.view(factor, factor, count, *crops.shape[1:])  # [row,column,N,C,s,s]
    return tiles.permute(2, 3, 0, 4, 1, 5).reshape(count, crops.shape[1], factor * crops.shape[2], factor * crops.shape[3])


def _labelled(
    train: RealData, config: Config, images: Tensor, truth: Tensor, teacher: Teacher, name: str, device: torch.device
) -> tuple[SyntheticSet, list[Finding]]:
    """The set of these images with the teacher's labels, and what was corrected."""
    parts = (views.normalised(part.to(device), train.dataset) for part in torch.split(images, labels.PART))
    logits = labels.ensemble([teacher], parts, logit_normalisation=False)
    soft, corrected = labels.static(logits, truth, config.label_temperature)
    made = SyntheticSet(
        images=images, labels=soft, dataset=train.dataset.name, ipc=config.ipc, class_names=train.dataset.class_names, name=name
    )
    about = f"{corrected} of {len(truth)} corrected"
    return made, [Finding(field="labels", value=about, reason="the teacher took them for another class")]
