"""What an evaluator run trains and tests on: the decoded set and the test split, on the run's device, as its networks take them.

Legend: M decoded images, N test images, K classes, C channels, S side in pixels of the dataset, I side of a network's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench import engine as engines
from mabench.data import Dataset, RealData
from mabench.errors import MabenchError
from mabench.networks import evaluators, sizes
from mabench.schema import Cell, Evaluator, Recipe
from mabench.sets import zca
from mabench.sets.recorded import RecordedLabels
from mabench.sets.synthetic import SyntheticSet
from mabench.training.progress import work

RESIDENT_SET_BYTES = 4 * 2**30  # ours: a set that is larger as floats (ImageNet-1k from 7 images a class) stays as it is stored


@dataclass(frozen=True)
class View:
    """How a network takes images: its size and layout, and scale and shift from the space in which they are augmented."""

    evaluator: Evaluator
    scale: Tensor | None
    shift: Tensor | None
    align_corners: bool

    def __call__(self, images: Tensor) -> Tensor:
        """[B,C,S,S] in augmentation space -> [B,C,I,I] in the network's, bilinear."""
        if self.scale is not None and self.shift is not None:
            images = images * self.scale + self.shift
        size = self.evaluator.input_size
        if images.shape[-1] != size:
            # antialias only where the image shrinks: a plain bilinear would skip pixels there
            images = F.interpolate(
                images,
                size=(size, size),
                mode="bilinear",
                align_corners=self.align_corners,
                antialias=images.shape[-1] > size and not self.align_corners,
            )
        return self.laid_out(images)

    def laid_out(self, images: Tensor) -> Tensor:
        """Maps of convolutional networks lie channels last: same arithmetic, faster convolutions."""
        maps = self.evaluator.family == "cnn" and images.dim() == 4
        return images.contiguous(memory_format=torch.channels_last) if maps else images


class StoredImages:
    """Training images that are too large to be kept as floats: batches become what a whole set would have become, number by number."""

    def __init__(self, synthetic_set: SyntheticSet, convert: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.stored, self.convert, self.device = synthetic_set.images, convert, device

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, batch: Tensor | slice) -> Tensor:
        """[B,C,S,S] in augmentation space, on the device."""
        images = self.stored[batch if isinstance(batch, slice) else batch.cpu()]
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return self.convert(pixels.to(self.device))


class Material:
    """One set and one test split on one device, under one recipe. Raises MabenchError for labels other than the cell's."""

    def __init__(self, synthetic_set: SyntheticSet, cell: Cell, test: RealData, device: torch.device) -> None:
        self.cell, self.recipe, self.device = cell, cell.recipe, device
        self.synthetic_set, self.test, self.dataset = synthetic_set, test, test.dataset
        self.mean, self.std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (test.dataset.mean, test.dataset.std))
        self.normalise_first = self.recipe.augmentation.space == "normalised"
        self.whitening: tuple[Tensor, Tensor] | None = None
        if self.recipe.normalisation == "zca":
            mean, matrix = zca.whitening(test.dataset)
            self.whitening = mean.to(device), matrix.to(device)
        self.images: Tensor | StoredImages
        """[M,C,S,S] in augmentation space."""
        if synthetic_set.factor == 1 and 4 * synthetic_set.images.numel() > RESIDENT_SET_BYTES:
            labels = synthetic_set.labels
            self.images = StoredImages(synthetic_set, self._augmented_space, device)
        else:
            images, labels = synthetic_set.decoded()  # 1.0 = white
            self.images = self._augmented_space(images.to(device))
        hard = labels.dim() == 1
        self.targets = (F.one_hot(labels, self.dataset.num_classes).float() if hard else labels.float()).to(device)
        """[M,K]."""
        self.recorded = _recorded_labels(synthetic_set, cell)
        # uint8 [N,C,S,S]: resident on a GPU; on a processor it stays memory-mapped and batches are copied out
        self.test_images = torch.tensor(test.images, device=device) if device.type != "cpu" else None
        self.test_labels = torch.tensor(test.labels, device=device)

    def view(self, evaluator: Evaluator) -> View:
        """How this network takes the images that the recipe augments."""
        align_corners = self.recipe.resize_align_corners
        mean, std = self.mean, self.std
        if self.recipe.normalisation == "evaluator" and evaluator.mean is not None and evaluator.std is not None:
            mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (evaluator.mean, evaluator.std))
        elif self.normalise_first:  # whitened images, too
            return View(evaluator, None, None, align_corners)
        if self.normalise_first:
            return View(evaluator, self.std / std, (self.mean - mean) / std, align_corners)
        return View(evaluator, 1 / std, -mean / std, align_corners)

    def test_batch(self, window: slice | Tensor) -> Tensor:
        """Test images of these positions or indices in augmentation space, [B,C,S,S]."""
        if self.test_images is not None:
            stored = self.test_images[window]
        else:
            stored = torch.tensor(self.test.images[window if isinstance(window, slice) else window.numpy()])
        return self.from_bytes(stored)

    def from_bytes(self, stored: Tensor) -> Tensor:
        """Images uint8 [B,C,S,S] in augmentation space."""
        return self._augmented_space(stored.float() / 255)

    def _augmented_space(self, pixels: Tensor) -> Tensor:
        """Pixels [B,C,S,S] in the space in which the recipe augments."""
        if self.whitening is not None:
            return zca.whiten(pixels, *self.whitening)
        return (pixels - self.mean) / self.std if self.normalise_first else pixels


def _recorded_labels(synthetic_set: SyntheticSet, cell: Cell) -> RecordedLabels | None:
    """The labels that the recipe replays."""
    if cell.recipe.recorded is None:
        return None
    labels = synthetic_set.recorded
    if labels.sha256 != cell.labels_sha256:
        raise MabenchError(
            f"{labels.folder}: another record of labels ({labels.sha256[:16]}) than this run's ({str(cell.labels_sha256)[:16]}). "
            "Put the earlier one back, or name another output folder with --out."
        )
    return labels


def build_network(evaluator: Evaluator, recipe: Recipe, dataset: Dataset, seed: int) -> nn.Module:
    """The evaluator's network for this dataset, on torch's default device, with only the recipe's trainable part requiring gradients."""
    model = evaluators.build(
        evaluator, num_classes=dataset.num_classes, channels=dataset.channels, image_size=evaluator.input_size, seed=seed
    )
    if evaluator.name in recipe.classifier_only:
        model.requires_grad_(False)
        evaluators.head(model).requires_grad_(True)
    return model


def workload(
    cell: Cell,
    evaluator: Evaluator,
    model: nn.Module,
    dataset: Dataset,
    decoded_images: int,
    test_images: int,
    panel_work: float | None = None,
) -> engines.Workload:
    """What the engine has to know of the cell's evaluator or its teacher; without `panel_work` this run is the only one of its kind."""
    flops = sizes.of(evaluator, dataset.num_classes, dataset.channels).flops
    alone = flops * work(cell, decoded_images, test_images)
    batch_statistics = evaluators.has_batch_norm(model) and not evaluators.freezes_batch_norm(cell.recipe, evaluator)
    return engines.Workload(evaluator, batch_statistics, panel_work or alone, test_images, test_images * flops)


def choose_engine(
    wanted: engines.Wanted,
    cell: Cell,
    dataset: Dataset,
    decoded_images: int,
    test_images: int,
    device: torch.device,
    panel_work: float | None = None,
) -> engines.EngineName:
    """The engine that computes the cell on this machine: see `engines.choose`."""

    def would_be() -> str:
        with torch.device("meta"):  # the structure without its numbers: milliseconds, and nothing is fetched
            drawn = cell.evaluator.model_copy(update={"pretrained": False})
            model = build_network(drawn, cell.recipe, dataset, seed=0)
        known = workload(cell, cell.evaluator, model, dataset, decoded_images, test_images, panel_work)
        return str(engines.arithmetic(model, device, known))

    return engines.choose(wanted, cell, device, would_be)
