"""Relabel: the ensemble's static soft labels for the set, and the paper suite's record of labels for every epoch.

The record lies beside the set in `labels/`, as `labels-<first epoch>.safetensors` with E epochs a file, of N images in batches of
at most B, K classes. Integers are exact, so whoever replays them gets the very images that the teachers saw:

    order    int32   [E,N]     stored images in the order of the epoch; batch b is entries b*B to (b+1)*B
    boxes    int16   [E,N,4]   crop of each: top, left, height, width in pixels, enlarged bilinearly to the full side
    flipped  uint8   [E,N]     1 = mirrored left to right, after the crop
    partner  int32   [E,N]     position within the batch of the image that fills the CutMix box
    mix      int16   [E,ceil(N/B),4]   CutMix box of each batch: top, left, bottom, right in pixels
    logits   float16 [E,N,K]   of the ensemble, raw: no softmax, no temperature

The header's entry `facts` is JSON: format, version, set_sha256, batch (B), first_epoch, logit_normalisation, and the sha256 of
every teacher. `labels.json` says what the record weighs beside the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mabench.files import size_of, write_bytes, write_text
from mabench.schema import MabenchError
from mabench.synthetic import SyntheticSet

from . import views
from .stages import Stages
from .teachers import Teacher
from .views import Views

FORMAT, VERSION = "mabench-gvbsm-labels", 1
CHUNK_BYTES = 64 * 2**20  # ours: a file is written in one piece, so this much work is lost at most
PART = 250  # ours: images a forward pass
MARGIN = 1e-3  # ours: by how much an image's own class leads after it was mended


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
    """Soft labels softmax(logits / temperature), float32 [N,K] on the CPU (Eq. 3), and how many were mended.

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
    mended = share * truth + (1 - share) * soft
    return mended.float(), int((behind >= 0).sum())


def epochs_per_file(count: int, num_classes: int) -> int:
    """Epochs that share a file."""
    return max(1, CHUNK_BYTES // (count * (2 * num_classes + 17)))


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
) -> int:
    """Write the record of the set's every epoch into `folder`; files that are there already are kept. Returns its bytes."""
    per_file, total = epochs_per_file(len(made.images), made.num_classes), 0
    for first in range(0, epochs, per_file):
        path, last = folder / f"labels-{first:05d}.safetensors", min(epochs, first + per_file)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "set_sha256": made.sha256,
            "batch": batch,
            "first_epoch": first,
            "logit_normalisation": logit_normalisation,
            "teachers": {t.name: t.sha256 for t in teachers},
        }
        if not path.exists() or _header(path) != header:
            found = [_epoch(made, teachers, device, batch, logit_normalisation, seed, e) for e in range(first, last)]
            tensors = {name: torch.stack([one[name] for one in found]) for name in found[0]}
            if not torch.isfinite(tensors["logits"]).all():
                raise MabenchError(
                    f"{path}: logits beyond float16 (65504): the backbones have diverged. Squeeze with a lower rate."
                )
            _save(path, tensors, header)
            stages.tell(stage, last, {}, dict)
        total += path.stat().st_size
    facts = {
        "epochs": epochs,
        "batch": batch,
        "label_bytes": total,
        "image_bytes": made.images.nbytes,
        "label_bytes_per_image": round(total / len(made.images)),
        "labels_over_images": round(total / made.images.nbytes, 2),
        "teachers": {t.name: t.sha256 for t in teachers},
    }
    write_text(folder / "labels.json", json.dumps(facts, indent=1) + "\n")
    return total


def _seen(made: SyntheticSet, rows: Tensor, drawn: Views, device: torch.device) -> Tensor:
    """Normalised images of these rows in these views."""
    return views.apply_views(views.normalised(made.images[rows].to(device), made.entry), drawn)


def _epoch(
    made: SyntheticSet,
    teachers: Sequence[Teacher],
    device: torch.device,
    batch: int,
    logit_normalisation: bool,
    seed: int,
    epoch: int,
) -> dict[str, Tensor]:
    """One epoch of the record; it depends on the seed and its number alone."""
    draws = views.generator(seed, "labels", epoch)
    order = torch.randperm(len(made.images), generator=draws)
    drawn: list[Views] = []
    logits = []
    for rows in torch.split(order, batch):
        drawn.append(views.draw_views(len(rows), made.images.shape[-1], draws))
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


def _save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> None:
    from safetensors.torch import save

    # one entry of metadata: the library orders several as it pleases, and the same record has to be the same bytes
    write_bytes(path, save({n: v.contiguous() for n, v in tensors.items()}, {"facts": json.dumps(header)}))


def _header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        size_of(path)
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {}).get("facts", "{}"))
            return facts if isinstance(facts, dict) else {}
    except (SafetensorError, OSError, ValueError, RecursionError):  # damaged means absent: it is written again
        return {}


class Record:
    """A record as a student reads it. Raises MabenchError when it is missing, foreign, or about another set."""

    def __init__(self, folder: Path, made: SyntheticSet) -> None:
        self.made = made
        self.files = {
            int(p.stem.removeprefix("labels-")): p for p in sorted(folder.glob("labels-" + 5 * "[0-9]" + ".safetensors"))
        }
        if not self.files:
            raise MabenchError(f"{folder}: no record of labels (labels-00000.safetensors) is there.")
        for path in self.files.values():
            header = _header(path)
            if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
                raise MabenchError(f"{path}: no {FORMAT} of version {VERSION}.")
            if header.get("set_sha256") != made.sha256:
                raise MabenchError(f"{path}: labels of set {str(header.get('set_sha256'))[:16]}, this one is {made.sha256[:16]}.")
            batch = header.get("batch")
            if not isinstance(batch, int) or batch < 1:
                raise MabenchError(f"{path}: batch is {str(batch)[:16]}, not a whole number from 1. Get the record again.")
            self.batch = batch
        self._first = -1
        self._held: dict[str, Tensor] = {}

    def batches(self, epoch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The epoch's batches: images as the teachers saw them [B,C,S,S] (normalised), logits float32 [B,K], and the rows [B]
        of the set that were cropped; the ground truth of Eq. 11 is those rows' class, whatever CutMix put in."""
        from safetensors import SafetensorError

        known = [f for f in self.files if f <= epoch]
        if not known:
            raise MabenchError(f"epoch {epoch} is not in the record.")
        path = self.files[max(known)]
        try:
            return self._batches(epoch, known)
        except (SafetensorError, OSError, LookupError, RuntimeError, ValueError, TypeError) as error:
            raise MabenchError(f"{path}: does not hold what it says ({str(error)[:160]}). Get the record again.") from error

    def _batches(self, epoch: int, known: list[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        from safetensors.torch import load

        if self._first != max(known):
            self._first = max(known)
            self._held = load(self.files[self._first].read_bytes())
        index = epoch - self._first
        if index >= len(self._held["order"]):
            raise MabenchError(f"epoch {epoch} is not in the record: it ends after {self._first + len(self._held['order'])}.")
        one = {name: value[index] for name, value in self._held.items()}
        out = []
        for number, begin in enumerate(range(0, len(one["order"]), self.batch)):
            part = slice(begin, begin + self.batch)
            rows = one["order"][part].long()
            seen = Views(one["boxes"][part].long(), one["flipped"][part].bool(), one["partner"][part].long(), one["mix"][number])
            out.append((_seen(self.made, rows, seen, torch.device("cpu")), one["logits"][part].float(), rows))
        return out
