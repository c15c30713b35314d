"""What methods share and no paper claims. Public: a method in anybody's package may build on these names.

`Run` keeps a condensation in its folder; `RealImages` gives real batches by class; `Training` trains a network on them;
`MeanGradient` gives a network's gradient on them; `k_means` and `nearest` find representative images; `check_fields` refuses values that a configuration cannot have.

Legend: N images, C channels, S side in pixels, K classes.
"""

from .checkpoints import read_state, restore, snapshot, write_state
from .clustering import k_means, nearest
from .fields import check_fields
from .networks import COMPILE_FROM_IMAGES, MeanGradient, draw_network, embed, freeze_batch_norm, place
from .plots import plot
from .real_images import RealImages, check_grid, check_train
from .run import LoopState, Run
from .streams import generators, seed_from
from .training import Training, train_plainly

__all__ = [
    "COMPILE_FROM_IMAGES",
    "LoopState",
    "MeanGradient",
    "RealImages",
    "Run",
    "Training",
    "check_fields",
    "check_grid",
    "check_train",
    "draw_network",
    "embed",
    "freeze_batch_norm",
    "generators",
    "k_means",
    "nearest",
    "place",
    "plot",
    "read_state",
    "restore",
    "seed_from",
    "snapshot",
    "train_plainly",
    "write_state",
]
