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

from ..kit import check_choices

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
    first: str = "convnet3-scratch"
    second: str = "vit_tiny-pretrained"
    """The pair, two evaluators with a map of the image in their features (paper, Table 3, varies them)."""
    gradient_balance: bool = True
    """The Gradient Balance Module (paper, Table 2)."""
    normalised_step: bool = True
    """Divide each image's gradient by its largest value; the released code does so only together with the module."""
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
    initial: Choice = "released"
    """`released`: real images nearest to k-means centres; `paper`: random real images; packed either way."""
    representatives: Choice = "released"
    """Real batches. `released`: k-means representatives of the class, by each network in turn; `paper`: random images."""
    distance: Choice = "released"
    """Of two gradients. `released`: sum of squared differences; `paper`: their mean."""
    layer_softmax: Choice = "released"
    """Axis of the layer matching's softmax, see `decomposition.Alignment`."""
    last_feature: Choice = "released"
    """`released`: a ConvNet's last feature counts twice; `paper`: once."""
    convnet_training: Choice = "released"
    """`released`: of a ConvNet only the classifier is trained, and it stays when the rest is drawn afresh; `paper`: every layer is
    trained and drawn afresh."""
    alignment_optimizer: Choice = "released"
    """`released`: Adam; `paper`: SGD."""
    accumulator: Choice = "released"
    """`released`: per class, started afresh with every iteration; `paper`: one for all classes and the whole run (Eq. 4)."""
    image_gradient: Choice = "released"
    """Divided by its largest value per image and channel (`released`) or per image (`paper`)."""
    augmentation: Choice = "released"
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
        check_choices(self)
        if min(self.steps, self.period, self.formation) < 1 or self.iterations < 0:
            raise MabenchError("steps, period and formation must be at least 1, iterations at least 0 (the initial images).")

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
            second = resized(second, self.second_input)
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
