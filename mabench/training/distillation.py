"""Knowledge distillation, outside the loop: a teacher is trained like any network, and its student's loss then asks it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mabench.schema import Distillation
from mabench.training.material import Material, View


class Teacher:
    """A trained network that is asked for soft labels."""

    def __init__(self, model: nn.Module, view: View, material: Material, *, ask_once: bool, batch: int) -> None:
        """With `ask_once` its logits are cached, where every epoch would ask for the same; `batch` images at a time."""
        assert material.recipe.distillation is not None
        self.distillation: Distillation = material.recipe.distillation
        self.model, self.view = model.eval().requires_grad_(False), view
        self.logits: Tensor | None = None
        """[M,K]: cached, or None."""
        if ask_once and material.recipe.augmentation.absent and material.recipe.recorded is None:
            with torch.no_grad():
                count = len(material.images)
                self.logits = torch.cat(
                    [self.model(view(material.images[begin : begin + batch])) for begin in range(0, count, batch)]
                )

    @torch.no_grad()
    def ask(self, images: Tensor, indices: Tensor) -> Tensor:
        """Logits [B,K] for `images` [B,C,S,S] in augmentation space, which the student sees too; `indices` [B] in the set."""
        if self.logits is not None:
            return self.logits[indices]
        logits: Tensor = self.model(self.view(images))
        return logits

    def mixed_loss(self, loss: Tensor, logits: Tensor, images: Tensor, indices: Tensor) -> Tensor:
        """The student's loss on its labels, mixed with its divergence from the teacher (Model Pool, Eq. 1).

        In log space: a student probability that underflows gives no NaN.
        """
        alpha, tau = self.distillation.alpha, self.distillation.temperature
        target = F.log_softmax(self.ask(images, indices) / tau, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / tau, dim=1), target, log_target=True, reduction="batchmean")
        return (1 - alpha) * loss + alpha * tau**2 * divergence


class TrainedTeachers:
    """Weights of teachers that this process has trained, for the next student of the same seed."""

    BYTES = 2**28  # ours: fifty ConvNets and more; beyond it the oldest go

    def __init__(self) -> None:
        self.weights: dict[str, dict[str, Tensor]] = {}

    def get(self, key: str) -> dict[str, Tensor] | None:
        return self.weights.get(key)

    def remember(self, key: str, teacher: nn.Module) -> None:
        self.weights[key] = {name: value.to("cpu", copy=True) for name, value in teacher.state_dict().items()}
        while len(self.weights) > 1 and sum(v.nbytes for w in self.weights.values() for v in w.values()) > self.BYTES:
            del self.weights[next(iter(self.weights))]

    def forget(self) -> None:
        """Forget all: the next student trains its teacher again."""
        self.weights.clear()


TRAINED = TrainedTeachers()


def teacher_key(material: Material, engine: str) -> str:
    """Runs with this in common train the same teacher."""
    distillation = material.recipe.distillation
    assert distillation is not None
    where = (engine, material.device, torch.get_num_threads())
    names = (material.synthetic_set.sha256, distillation.teacher, material.cell.stream("teacher-init"), *where)
    return f"{names} {material.recipe.model_copy(update={'distillation': None}).model_dump_json()}"
