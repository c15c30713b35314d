"""Train an evaluator on a set and test it: in reading order `evaluator_run`, `loop`, `testing`, `distillation`, `state`."""

from mabench.training.evaluator_run import deterministic, run
from mabench.training.first_steps import first_losses
from mabench.training.progress import TRAIN_COST, Progress, work
from mabench.training.provenance import environment

__all__ = ["TRAIN_COST", "Progress", "deterministic", "environment", "first_losses", "run", "work"]
