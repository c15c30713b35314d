"""Relabel: the ensemble's static soft labels for the set, and the paper suite's record of labels for every epoch.

The record lies beside the set in `labels/`; its files are described in `mabench.sets.recorded`, which replays them. `labels.json` says what
they weigh beside the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mabench.errors import MabenchError
from mabench.files import is_intact, write_text
from mabench.schema import Finding
from mabench.sets import label_files, recorded
from mabench.sets.recorded import Views
from mabench.sets.synthetic import SyntheticSet

from . import views
from .stages import Stages
from .teachers import Teacher

PART = 250  # ours: images a forward pass
MARGIN = 1e-3  # ours: by how much an image's own class leads after it was corrected


@torch.no_grad()
def ensemble(teachers: Sequence[Teacher], parts: Iterable[Tensor], *, logit_normalisation: bool) -> Tensor:
    """Mean of the teachers' logits [B,K] for normalised images that come in parts; with logit normalisation each teacher's matrix,
    over all parts, is first scaled to the mean Frobenius norm of all (Eq. 8)."""
    each = torch.cat([torch.stack([t.network(part).float() for t in teachers]) for part in parts], 1)
    if logit_normalisation:
        norms = torch.linalg.matrix_norm(each)
        each = each * (norms.mean() / norms).view(-1, 1, 1)
    return each.mean(0)


def static(logits: Tensor, classes: Tensor, temperature: float) -> tuple[Tensor, int]:
    """Soft labels softmax(logits / temperature), float32 [N,K] on the CPU (Eq. 3), and how many were corrected.

    An image belongs to the class of its largest label. Where the ensemble takes it for another class, the label is mixed with
    as much of the true class as makes that the largest again.
    """
    soft = (logits.double() / temperature).softmax(1).cpu()
    classes = classes.cpu()
    own = soft.gather(1, classes.view(-1, 1))
    others = soft.scatter(1, classes.view(-1, 1), -1.0).amax(1, keepdim=True)
    behind = others - own  # in (-1, 1)
    share = ((behind + MARGIN) / (1 + behind)).clamp(min=0)
    truth = torch.nn.functional.one_hot(classes, soft.shape[1]).double()
    corrected = share * truth + (1 - share) * soft
    return corrected.float(), int((behind >= 0).sum())


def record(
    made: SyntheticSet,
    teachers: Sequence[Teacher],
    folder: Path,
    *,
    epochs: int,
    batch: int,
    logit_normalisation: bool,
    seed: int,
    device: torch.device,
    stages: Stages,
    stage: str,
    area: tuple[float, float] = views.AREA,
) -> int:
    """Write the record of the set's every epoch into `folder`; files that are there already are kept. Returns its bytes.

    `area`: smallest and largest share of the image that a crop takes.
    """
    per_file, total = recorded.epochs_per_file(len(made.images), made.num_classes), 0
    by = {t.name: t.sha256 for t in teachers}
    for first in range(0, epochs, per_file):
        path, last = folder / label_files.file_name(first), min(epochs, first + per_file)
        header = recorded.header(made.sha256, batch, first, logit_normalisation=logit_normalisation, teachers=by)
        if recorded.read_header(path) != header or not is_intact(path):
            found = [_epoch(made, teachers, device, batch, logit_normalisation, seed, e, area) for e in range(first, last)]
            tensors = {name: torch.stack([one[name] for one in found]) for name in found[0]}
            if not torch.isfinite(tensors["logits"]).all():
                raise MabenchError(
                    f"{path}: logits beyond float16 (65504): the backbones have diverged. Squeeze with a lower rate."
                )
            recorded.save(path, tensors, header)
            stages.tell(stage, last, {}, {})
        total += path.stat().st_size
    facts = {
        "epochs": epochs,
        "batch": batch,
        "label_bytes": total,
        "image_bytes": made.images.nbytes,
        "label_bytes_per_image": round(total / len(made.images)),
        "labels_over_images": round(total / made.images.nbytes, 2),
        "teachers": by,
    }
    write_text(folder / "labels.json", json.dumps(facts, indent=1) + "\n")
    return total


def finding(made: SyntheticSet, size: int, reason: str) -> Finding:
    """What a set says of labels recorded beside it, `size` bytes of them."""
    about = f"{size:,} bytes in labels/ beside {made.images.nbytes:,} bytes of images"
    return Finding(field="per-epoch labels", value=about, reason=reason)


def _seen(made: SyntheticSet, rows: Tensor, drawn: Views, device: torch.device) -> Tensor:
    """Normalised images of these rows in these views."""
    return recorded.apply_views(views.normalised(made.images[rows].to(device), made.entry), drawn)


def _epoch(
    made: SyntheticSet,
    teachers: Sequence[Teacher],
    device: torch.device,
    batch: int,
    logit_normalisation: bool,
    seed: int,
    epoch: int,
    area: tuple[float, float],
) -> dict[str, Tensor]:
    """One epoch of the record; it depends on the seed and its number alone."""
    draws = views.generator(seed, "labels", epoch)
    order = torch.randperm(len(made.images), generator=draws)
    drawn: list[Views] = []
    logits = []
    for rows in torch.split(order, batch):
        drawn.append(views.draw_views(len(rows), made.images.shape[-1], draws, area))
        parts = torch.split(_seen(made, rows, drawn[-1], device), PART)
        logits.append(ensemble(teachers, parts, logit_normalisation=logit_normalisation).half().cpu())
    return {
        "order": order.int(),
        "boxes": torch.cat([v.boxes for v in drawn]).short(),
        "flipped": torch.cat([v.flipped for v in drawn]).to(torch.uint8),
        "partner": torch.cat([v.partner for v in drawn]).int(),
        "mix": torch.stack([v.mix for v in drawn]).short(),
        "logits": torch.cat(logits),
    }
