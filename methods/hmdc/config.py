"""Every hyper-parameter of HMDC (section 4.1 of the paper, and its released code), and the presets.

What paper and released code do differently is an option with the values `paper` and `released`; the README says which we
recommend and why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mabench.errors import MabenchError, lookup
from mabench.networks.evaluators import EVALUATORS
from mabench.schema import Augmentation, Evaluator

from ..kit import check_fields

Choice = Literal["paper", "released"]
PLANS = {
    # section 4.1: "color modifications, cropping, and either Cutout or CutMix", as in IDC; neither names a flip
    "paper": Augmentation(color="full", geometry=("crop",), flip=0.0, cutmix=0.5, cutout="unless-cutmix", space="normalised"),
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
    # IDC's released code: cutout where gradients are matched, CutMix in its place where networks are trained
    "idc": Augmentation(color="full", geometry=("crop",), flip=0.0, cutout="always", space="normalised"),
    "idc, networks": Augmentation(color="full", geometry=("crop",), flip=0.0, cutmix=0.5, cutout="never", space="normalised"),
}


def resized(evaluator: Evaluator, side: int) -> Evaluator:
    """The evaluator with inputs of `side` pixels. timm's transformers must hear of it, and resample pretrained positions.

    Raises MabenchError for a side that the network's patches do not divide.
    """
    arguments = evaluator.arguments
    if evaluator.family == "transformer":
        patch = int(str(arguments.get("patch_size") or re.findall(r"patch(\d+)", evaluator.architecture)[0]))
        if side % patch:
            raise MabenchError(
                f"{evaluator.name}: inputs of {side} px do not divide into its patches of {patch} px. "
                f"Choose a multiple of {patch}."
            )
        arguments = arguments | {"img_size": side}
    return evaluator.model_copy(update={"input_size": side, "arguments": arguments})


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of HMDC. Defaults: the released code's for CIFAR-10."""

    ipc: int
    networks: tuple[str, ...] = ("convnet3-scratch", "vit_tiny-pretrained")
    """Evaluators with a map of the image in their features, one or more (paper, Table 3, varies the pair); with one alone nothing
    is distilled or balanced, which is IDC's and DREAM's loop."""
    rates: tuple[float, ...] = (0.01, 0.001)
    """Learning rate of each network."""
    gradient_balance: bool = True
    """The Gradient Balance Module (paper, Table 2)."""
    normalised_step: bool = True
    """Divide each image's gradient by its largest value; the released code does so only together with the module."""
    mutual_distillation: bool = True
    """The last loss, and the distillation loss in the networks' training (paper, Table 2)."""
    iterations: int = 100
    steps: int = 100
    real_batch: int = 128
    synthetic_batch: int = 128
    """Tiles of a class at most that one step looks at."""
    formation: int = 2
    """Tiles a side in one stored image; 1 = whole images."""
    image_rate: float = 5e-3
    image_momentum: float = 0.5
    alignment_rate: float = 0.01
    network_batches: int = 17
    network_batch: int = 128
    """Random real batches of all classes that train the networks after every image step, and as many for their alignment."""
    period: int = 10
    """Steps between two samples of the gradients, and between two choices of representatives."""
    initial: Choice = "released"
    """`released`: real images nearest to k-means centres; `paper`: random real images; packed either way."""
    representatives: Choice = "released"
    """Real batches. `released`: k-means representatives of the class, by each network in turn; `paper`: random images."""
    distance: Literal["paper", "released", "absolute"] = "released"
    """Of two gradients. `released`: sum of squared differences; `paper`: their mean; `absolute`: sum of absolute differences (IDC)."""
    matched: Literal["all", "convolutions"] = "all"
    """Parameters whose gradients are matched; `convolutions`: neither biases, norms nor linear layers (IDC)."""
    layer_softmax: Choice = "released"
    """Axis of the layer matching's softmax, see `decomposition.Alignment`."""
    last_feature: Choice = "released"
    """`released`: a ConvNet's last feature counts twice; `paper`: once."""
    convnet_training: Choice = "released"
    """`released`: of a ConvNet only the classifier is trained, and it stays when the rest is drawn again; `paper`: every layer is
    trained and drawn again."""
    alignment_optimizer: Choice = "released"
    """`released`: Adam; `paper`: SGD."""
    accumulator: Choice = "released"
    """`released`: per class, reset in every iteration; `paper`: one for all classes and the whole run (Eq. 4)."""
    image_gradient: Choice = "released"
    """Divided by its largest value per image and channel (`released`) or per image (`paper`)."""
    augmentation: Literal["paper", "released", "idc"] = "released"
    """A plan of `PLANS`."""
    network_momentum: float = 0.0
    network_decay: float = 0.0
    """Momentum and weight decay of the networks' training; HMDC has neither."""
    image_space: Literal["normalised", "pixels"] = "normalised"
    """Space in which gradients move the images: pixels that the dataset's mean and std normalise (HMDC), or pixels in 0..1 (IDC, DREAM).
    A rate there moves a normalised image 1 / std^2 times as far, on CIFAR-10 about 16 times."""
    clamp: Literal["step", "iteration", "never"] = "step"
    """Bring the images back into the pixel range after every step (HMDC), or before every iteration (IDC)."""
    own_statistics: bool = False
    """Normalise for a pretrained network as its weights were trained; the released code uses the dataset's for all."""
    frozen_batch_norm: bool = False
    """Batch norm with its running statistics; the released code, whose pair has none, would use those of the batch."""
    pool: int = 0
    """Random images of a class among which representatives are sought; 0 = all (both paper and code)."""
    pretraining: int = 0
    """Real batches on which every network after the first that has no pretrained weights is trained before everything else."""
    bfloat16: bool = False
    """Gradients of real batches and trainings multiply bfloat16 where the device does."""
    width: int = 0
    """Width of every ConvNet; 0 = the evaluator's own."""
    input_size: int = 0
    """Side in pixels of the inputs of every network of timm; 0 = the evaluator's own."""
    classes_at_once: int = 0
    """Classes whose gradients are taken in one pass; 0 = one on a processor, on a GPU as many as its memory holds. Changes the images
    by rounding alone."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def distils(self) -> bool:
        """Whether the networks are distilled into each other, which takes two."""
        return self.mutual_distillation and len(self.networks) > 1

    @property
    def pretraining_streams(self) -> tuple[str, ...]:
        """Names of the random streams of the networks after the first: of each its own, so that one whose weights are found again takes
        nothing from the next."""
        return tuple(f"pretraining {number}" if number > 1 else "pretraining" for number in range(1, len(self.networks)))

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the optimisation targets: one of each network, then that of their distillation."""
        return tuple(f"L{number + 1}" for number in range(len(self.networks) + self.distils))

    @property
    def evaluators(self) -> tuple[Evaluator, ...]:
        """The evaluators. Raises MabenchError for a typo, and for another number of rates."""
        if not self.networks or len(self.rates) != len(self.networks):
            raise MabenchError(
                f"networks = {','.join(self.networks)} and rates = {','.join(map(str, self.rates))}: give one rate per network, "
                "e.g. --config networks=convnet3-scratch,vit_mini-scratch --config rates=0.01,0.01"
            )
        return tuple(self._changed(lookup(EVALUATORS, name, "evaluator", "mabench list")) for name in self.networks)

    def _changed(self, evaluator: Evaluator) -> Evaluator:
        if self.width and evaluator.architecture == "convnet":
            return evaluator.model_copy(update={"arguments": evaluator.arguments | {"width": self.width}})
        if self.input_size and evaluator.library == "timm":
            return resized(evaluator, self.input_size)
        return evaluator


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
