"""Labels that teachers gave to every view of every epoch of a student's training: their files, and how they are replayed.

A record is a folder, `labels/` beside the set unless `--recorded-labels` names another, with files `labels-<first epoch>.safetensors` of E
epochs each: N training images (after decoding) in batches of at most B, S pixels a side, K classes. Integers are exact, so whoever
replays them gets the very images that the teachers saw:

    order    int32   [E,N]     training images in the order of the epoch; batch b is entries b*B to (b+1)*B
    boxes    int16   [E,N,4]   crop of each: top, left, height, width in pixels, enlarged bilinearly to the full side
    flipped  uint8   [E,N]     1 = mirrored left to right, after the crop
    partner  int32   [E,N]     position within the batch of the image that fills the CutMix box
    mix      int16   [E,ceil(N/B),4]   CutMix box of each batch: top, left, bottom, right in pixels
    logits   float16 [E,N,K]   of the teachers together, raw: no softmax, no temperature

The header's entry `facts` is JSON: format, version, set_sha256, batch (B), first_epoch, and whatever the writer adds (G-VBSM:
logit_normalisation, sha256 of every teacher); `files.write_checksummed` adds a checksum. What the files weigh counts as bytes of the set wherever
they are used. Images are normalised by the dataset's mean and std before they are cropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench.data import augment
from mabench.errors import MabenchError, one_line
from mabench.files import CHECKSUM, check_header, is_intact, size_of, write_checksummed
from mabench.schema import Recipe, Recorded
from mabench.sets import label_files

FORMAT, VERSION = "mabench-labels", 1
CHUNK_BYTES = 64 * 2**20  # ours: a file is written and read in one piece, so this much work is lost and memory taken at most
MAX_FILE_BYTES = 2**31  # ours: a file that is larger is refused before anything is allocated
CURE = (
    "`mabench reproduce gvbsm` leaves such a record in labels/ beside the set it makes; name another folder with --recorded-labels, "
    "or choose a suite that trains on the set's own labels (mabench list suites)."
)
_DTYPES = {
    "order": torch.int32, "boxes": torch.int16, "flipped": torch.uint8,
    "partner": torch.int32, "mix": torch.int16, "logits": torch.float16,
}  # fmt: skip


@dataclass(frozen=True)
class Views:
    """What happened to one batch before the teachers labelled it; integers, so that it can be repeated exactly."""

    boxes: Tensor
    """int64 [B,4] top, left, height, width of the crop, pixels."""
    flipped: Tensor
    """bool [B]."""
    partner: Tensor
    """int64 [B]: position in this batch whose image fills the CutMix box."""
    mix: Tensor
    """int64 [4]: top, left, bottom, right of the CutMix box, one for the batch, pixels."""


def apply_views(images: Tensor, views: Views) -> Tensor:
    """The batch [B,C,S,S] as the teachers saw it and a student has to: crop, flip, CutMix."""
    images = augment.flip(augment.resized_crop(images, views.boxes), views.flipped.to(images.device))
    top, left, bottom, right = views.mix.tolist()
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[views.partner.to(images.device), :, top:bottom, left:right]
    return mixed.contiguous(memory_format=torch.channels_last)


def loss(logits: Tensor, taught: Tensor, truth: Tensor, wanted: Recorded) -> Tensor:
    """Mean loss [] of a student's logits [B,K] against recorded ones [B,K] and the cropped images' labels [B,K]."""
    if wanted.loss == "mse":
        distance = F.mse_loss(logits, taught)
    else:
        student, teacher = (F.log_softmax(v / wanted.temperature, dim=1) for v in (logits, taught))
        distance = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
    if not wanted.ground_truth:
        return distance
    return distance + wanted.ground_truth * F.cross_entropy(logits, truth)


# -- files -------------------------------------------------------------------------------------------------------------


def epochs_per_file(count: int, num_classes: int) -> int:
    """Epochs of `count` images that share a file."""
    return max(1, CHUNK_BYTES // (count * (2 * num_classes + 17)))


def header(set_sha256: str, batch: int, first_epoch: int, **facts: object) -> dict[str, Any]:
    """What a file says of itself."""
    own = {"format": FORMAT, "version": VERSION, "set_sha256": set_sha256, "batch": batch, "first_epoch": first_epoch}
    return own | facts


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write one file: the tensors of the module's docstring and a `header`."""
    kinds = {name: value.dtype for name, value in tensors.items()}
    if kinds != _DTYPES:
        raise ValueError(f"a record has {_DTYPES}, not {kinds}")
    write_checksummed(path, {n: v.contiguous() for n, v in tensors.items()}, facts)


def read_header(path: Path) -> dict[str, Any]:
    """What a file says of itself; empty for one that is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        size_of(path)
        check_header(path)
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, ValueError, OSError, RecursionError):
        return {}
    return {k: v for k, v in facts.items() if k != CHECKSUM} if isinstance(facts, dict) else {}


def check(recipe: Recipe, suite: str, *, epochs: int, batch: int, where: str) -> None:
    """Raise MabenchError where a record of so many epochs in such batches is not what the recipe replays."""
    if epochs < recipe.epochs:
        raise MabenchError(
            f"{where}: labels of {epochs} epochs are recorded, {suite} trains for {recipe.epochs}. Record as many "
            f"(G-VBSM: --config record_epochs={recipe.epochs}), or choose a suite that trains on the set's own labels."
        )
    if batch != recipe.batch_size:
        raise MabenchError(
            f"{where}: labels are recorded in batches of {batch}, {suite} trains in batches of {recipe.batch_size}, and CutMix ties "
            f"images to their batch. Record with this size (G-VBSM: --config record_batch={recipe.batch_size})."
        )


class RecordedLabels:
    """A record as a student reads it, for a set of `count` training images. Raises MabenchError when it is missing, damaged, or
    about another set."""

    def __init__(self, folder: Path, set_sha256: str, count: int, side: int, num_classes: int) -> None:
        self.folder, self.count, self.side, self.num_classes = folder, count, side, num_classes
        self.files = label_files.find(folder)
        if not self.files:
            raise MabenchError(f"{folder}: no record of labels ({label_files.file_name(0)}) is there. {CURE}")
        self.epochs, self.batch = 0, 0
        for first, path in self.files.items():
            facts = read_header(path)
            if (facts.get("format"), facts.get("version")) != (FORMAT, VERSION):
                raise MabenchError(f"{path}: damaged, or not a {FORMAT} of version {VERSION}. Fetch or make it again.")
            if facts.get("set_sha256") != set_sha256:
                raise MabenchError(
                    f"{path}: labels of set {str(facts.get('set_sha256'))[:16]!r}, this one is '{set_sha256[:16]}'. Name its own with --recorded-labels."
                )
            batch, begins = facts.get("batch"), facts.get("first_epoch")
            if not isinstance(batch, int) or batch < 1 or begins != first or batch != (self.batch or batch):
                raise MabenchError(
                    f"{path}: says batch {batch!r:.20} and first epoch {begins!r:.20}, its name and neighbours do not. Fetch or make it again."
                )
            if first != self.epochs:
                raise MabenchError(
                    f"{path}: the file before it ends with epoch {self.epochs - 1}. Some are missing: make it again."
                )
            self.batch = batch
            self.epochs += self._epochs_in(path)
        self._held: tuple[int, dict[str, Tensor]] = (-1, {})

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    @cached_property
    def sha256(self) -> str:
        """Identity: of the files' own sha256, in order. Raises MabenchError for a file that was changed after it was written."""
        for path in self.files.values():
            if not is_intact(path):
                raise MabenchError(f"{path}: was changed after it was written (its checksum differs). Fetch or make it again.")
        return label_files.identity(self.files.values())

    def check(self, recipe: Recipe, suite: str) -> None:
        """Raise MabenchError unless this record can be replayed under the recipe."""
        check(recipe, suite, epochs=self.epochs, batch=self.batch, where=str(self.folder))

    def order(self, epoch: int) -> Tensor:
        """Training images in the order of an epoch (from 0): int64 [N]."""
        return self._epoch(epoch)["order"].long()

    def batch_of(self, epoch: int, number: int) -> tuple[Views, Tensor]:
        """How batch `number` of an epoch was seen, and the teachers' logits for it: float32 [B,K]."""
        one, part = self._epoch(epoch), slice(number * self.batch, (number + 1) * self.batch)
        boxes, partner = one["boxes"][part].long(), one["partner"][part].long()
        views = Views(boxes, one["flipped"][part].bool(), partner, one["mix"][number].long())
        return views, one["logits"][part].float()

    def _epoch(self, epoch: int) -> dict[str, Tensor]:
        if not 0 <= epoch < self.epochs:
            raise MabenchError(f"{self.folder}: epoch {epoch} is not in the record: it ends after {self.epochs}.")
        first = max(f for f in self.files if f <= epoch)
        if self._held[0] != first:
            self._held = first, self._read(self.files[first])
        return {name: value[epoch - first] for name, value in self._held[1].items()}

    def _shapes(self, epochs: int) -> dict[str, list[int]]:
        wide = [epochs, self.count]
        mix = [epochs, -(-self.count // self.batch), 4]
        return dict(order=wide, boxes=[*wide, 4], flipped=wide, partner=wide, mix=mix, logits=[*wide, self.num_classes])

    def _epochs_in(self, path: Path) -> int:
        """Epochs of a file, from its header alone. Raises MabenchError for tensors that are not those of this set."""
        from safetensors import safe_open

        if path.stat().st_size > MAX_FILE_BYTES:
            raise MabenchError(f"{path}: {path.stat().st_size:,} bytes; files up to {MAX_FILE_BYTES:,} are read.")
        check_header(path)
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
        epochs = (shapes.get("order") or [0])[0]
        wanted = self._shapes(epochs)
        wrong = [f"{n} {shapes.get(n, 'is missing')} instead of {wanted[n]}" for n in wanted if shapes.get(n) != wanted[n]]
        if wrong or not epochs:
            raise MabenchError(f"{path}: {'; '.join(wrong) or 'no epoch in it'}. It does not belong to this set: make it again.")
        return int(epochs)

    def _read(self, path: Path) -> dict[str, Tensor]:
        """One file, its numbers checked: nothing in it can point outside of the set, the batch or an image."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            found = load(path.read_bytes())
        except (SafetensorError, OSError) as error:
            raise MabenchError(f"{path}: cannot be read ({one_line(str(error))}). Fetch or make the record again.") from error
        kinds = {name: value.dtype for name, value in found.items()}
        if kinds != _DTYPES:
            raise MabenchError(f"{path}: tensors are {kinds}. Fetch or make the record again.")
        epochs = len(found["order"])
        every = torch.arange(self.count, dtype=torch.int32).expand(epochs, -1)
        problems = {
            "an epoch's order is not a permutation": not torch.equal(found["order"].sort(1).values, every),
            "a partner is outside its batch": not self._partners_fit(found["partner"]),
            "a crop leaves the image": not _boxes_fit(found["boxes"].int(), self.side),
            "a CutMix box leaves the image": not bool(((found["mix"] >= 0) & (found["mix"] <= self.side)).all()),
            "a logit is not finite": not bool(torch.isfinite(found["logits"]).all()),
        }
        wrong = [text for text, is_so in problems.items() if is_so]
        if wrong:
            raise MabenchError(f"{path}: {wrong[0]}. Fetch or make the record again.")
        return found

    def _partners_fit(self, partner: Tensor) -> bool:
        sizes = [min(self.batch, self.count - begin) for begin in range(0, self.count, self.batch)]
        limit = torch.cat([torch.full((size,), size) for size in sizes])
        return bool(((partner >= 0) & (partner < limit)).all())


def _boxes_fit(boxes: Tensor, side: int) -> bool:
    start, length = boxes[..., :2], boxes[..., 2:]
    return bool(((start >= 0) & (length >= 1) & (start + length <= side)).all())
