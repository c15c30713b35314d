"""Every hyper-parameter of HMDC (section 4.1 of the paper, and its released code), and the presets.

What paper and released code do differently is an option with the values `paper` and `released`; the README says which we
recommend and why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mabench.errors import MabenchError, lookup
from mabench.networks.evaluators import EVALUATORS
from mabench.schema import Augmentation, Evaluator

PLANS = {
    # section 4.1: "color modifications, cropping, and either Cutout or CutMix", as in IDC
    "paper": Augmentation(color="full", geometry=("crop",), flip=0.5, cutmix=0.5, cutout="unless-cutmix", space="normalised"),
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


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of HMDC. Defaults: the released code's for CIFAR-10."""

    ipc: int
    first: str = "convnet3-scratch"
    second: str = "vit_tiny-pretrained"
    """The pair, two evaluators with a map of the image in their features (paper, Table 3, varies them)."""
    gradient_balance: bool = True
    """The Gradient Balance Module, and with it the normalised step of each image (paper, Table 2)."""
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
    initial: str = "released"
    """`released`: real images nearest to k-means centres; `paper`: random real images; packed either way."""
    representatives: str = "released"
    """Real batches. `released`: k-means representatives of the class, by each network in turn; `paper`: random images."""
    distance: str = "released"
    """Of two gradients. `released`: sum of squared differences; `paper`: their mean."""
    layer_softmax: str = "released"
    """Axis of the layer matching's softmax, see `decomposition.Alignment`."""
    last_feature: str = "released"
    """`released`: a ConvNet's last feature counts twice; `paper`: once."""
    convnet_training: str = "released"
    """`released`: of a ConvNet only the classifier is trained, and it stays when the rest is drawn afresh; `paper`: every layer is
    trained and drawn afresh."""
    alignment_optimizer: str = "released"
    """`released`: Adam; `paper`: SGD."""
    accumulator: str = "released"
    """`released`: per class, started afresh with every iteration; `paper`: one for all classes and the whole run (Eq. 4)."""
    image_gradient: str = "released"
    """Divided by its largest value per image and channel (`released`) or per image (`paper`)."""
    augmentation: str = "released"
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
        for name in CHOICES:
            if getattr(self, name) not in ("paper", "released"):
                raise MabenchError(f"{name} = '{getattr(self, name)}': allowed are paper and released.")
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
            second = second.model_copy(update={"input_size": self.second_input})
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


def released(ipc: int, **changes: Any) -> Config:
    """What the released code runs (its last version)."""
    return replace(Config(ipc), **changes)


def paper(ipc: int, **changes: Any) -> Config:
    """What the paper describes: its rates, and its side of every choice."""
    return released(ipc, first_rate=0.001, **(dict.fromkeys(CHOICES, "paper") | changes))


ABLATIONS: dict[str, dict[str, Any]] = {
    # paper, Table 2
    "neither": {"gradient_balance": False, "mutual_distillation": False},
    "gbm-only": {"mutual_distillation": False},
    "md-only": {"gradient_balance": False},
}
LITE = Config(
    # ours: what two processor cores bear in some 20 minutes; the choices that the README recommends
    1,
    second="vit_mini-scratch",
    pretraining=800,
    iterations=2,
    steps=40,
    real_batch=32,
    network_batches=2,
    network_batch=64,
    period=10,
    pool=256,
    image_rate=0.05,
    second_rate=0.01,
    layer_softmax="paper",
    last_feature="paper",
    convnet_training="paper",
    augmentation="paper",
    bfloat16=True,
)
LITE_EFFICIENTNET = replace(
    LITE,
    second="efficientnet_lite0-pretrained",
    second_input=64,
    pretraining=0,
    second_rate=0.001,
    own_statistics=True,
    frozen_batch_norm=True,
    bfloat16=False,  # depthwise convolutions are slower in it
)


def _presets() -> dict[str, Config]:
    presets = {f"{name}-ipc{ipc}": make(ipc) for name, make in (("paper", paper), ("released", released)) for ipc in (1, 10, 50)}
    presets |= {"lite": LITE, "lite-efficientnet": LITE_EFFICIENTNET}
    for base in ("released-ipc10", "lite"):
        presets |= {f"{base}-{name}": replace(presets[base], **changes) for name, changes in ABLATIONS.items()}
    # paper, Table 3; its third row lowers the rate of the alignment
    presets["released-ipc10-cnn-cnn"] = released(10, second="resnet18-pretrained", alignment_rate=0.001)
    presets["released-ipc10-large"] = released(10, first="resnet18-pretrained", second="vit_small-pretrained", first_rate=0.001)
    presets["smoke"] = replace(
        LITE,
        first_width=16,
        pretraining=2,
        iterations=1,
        steps=2,
        real_batch=8,
        network_batches=1,
        network_batch=16,
        period=2,
        pool=16,
        bfloat16=False,
    )
    return presets


PRESETS = {"hmdc": _presets()}
