"""The losses of the synthetic images: how far the gradients that they give to the networks are from those of real images (Eq. 3, 13).

Many classes go through the networks side by side: every class has its own copy of the parameters, a view without memory of its own, so
that one backward pass returns one gradient per class. Legend: K classes, B images of each, T losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_map

from mabench.networks.compiling import has_bfloat16

from .config import Config
from .decomposition import Distillation, Feature
from .learners import Learner

SYNTHETIC_AT_ONCE = 160  # ours: images whose graph at 224 px takes about 20 GB (123 MB an image)

Gradients = list[Tensor | None]
"""One tensor [K,*shape] per parameter; None = the loss does not depend on it."""


def matching_losses(
    learners: Sequence[Learner],
    distillation: Distillation | None,
    real: Tensor,
    synthetic: Tensor,
    labels: Tensor,
    config: Config,
) -> Tensor:
    """Return the losses [T,K] between real images [K,R,C,S,S] and synthetic ones [K,B,C,S,S] of the classes `labels` [K]: one of every
    network and, with a distillation, one of that. Differentiable in the synthetic images."""
    # real batches one class at a time: they are large, and fused attention has no rule for a class axis
    parts = [
        gradients(learners, distillation, images, of, create_graph=False, bfloat16=config.bfloat16)
        for images, of in zip(torch.split(real, 1), torch.split(labels, 1), strict=True)
    ]
    target = [[_joined(same) for same in zip(*loss, strict=True)] for loss in zip(*parts, strict=True)]
    matched = gradients(learners, distillation, synthetic, labels, create_graph=True)
    return torch.stack([gradient_distance(m, t, config) for m, t in zip(matched, target, strict=True)])


def classes_at_once(config: Config, learners: Sequence[Learner], device: torch.device, classes: int) -> int:
    """Return how many classes go through the networks side by side."""
    if not _side_by_side(learners):
        return 1
    tiles = min(config.synthetic_batch, config.ipc * config.formation**2)
    # measured on two cores: a processor gains nothing from more than one
    by_device = 1 if device.type == "cpu" else max(1, SYNTHETIC_AT_ONCE // tiles)
    return min(classes, config.classes_at_once or by_device)


def gradients(
    learners: Sequence[Learner],
    distillation: Distillation | None,
    images: Tensor,
    labels: Tensor,
    *,
    create_graph: bool,
    bfloat16: bool = False,
) -> list[Gradients]:
    """Return the gradients of every network's cross-entropy on images [K,B,C,S,S] of the classes `labels` [K] and, with a distillation,
    of that, with respect to the parameters of all networks (not of the alignment)."""
    classes, count = images.shape[:2]
    parameters = [_copies(learner, classes) for learner in learners]
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16 and has_bfloat16(images.device)):
        outputs = [
            _outputs(learner, copies, images, once=not create_graph) for learner, copies in zip(learners, parameters, strict=True)
        ]
        distilled = distillation([features for _, features in outputs]) * classes if distillation is not None else None
    targets = labels.repeat_interleave(count)
    losses = []
    for (logits, _), copies in zip(outputs, parameters, strict=True):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses.append((F.cross_entropy(wide, targets, reduction="sum") / count, list(copies.values())))
    if distilled is not None:
        losses.append((distilled, [copy for copies in parameters for copy in copies.values()]))
    return [
        [
            g if g is None or classes > 1 else g.unsqueeze(0)
            for g in torch.autograd.grad(loss, of, create_graph=create_graph, retain_graph=True, allow_unused=True)
        ]
        for loss, of in losses
    ]


def gradient_distance(synthetic: Gradients, real: Gradients, config: Config) -> Tensor:
    """Return the distance of two gradients for every class, [K]: over all numbers of the matched parameters the sum of their squared
    differences (`released`), the mean of these (`paper`: mean squared error), or the sum of absolute ones (`absolute`)."""
    least = 4 if config.matched == "convolutions" else 1
    pairs = [
        (s.flatten(1), r.detach().flatten(1))
        for s, r in zip(synthetic, real, strict=True)
        if s is not None and r is not None and s.dim() > least
    ]
    if config.distance == "absolute":
        return torch.stack([(s - r).abs().sum(1) for s, r in pairs]).sum(0)
    total = torch.stack([(s - r).square().sum(1) for s, r in pairs]).sum(0)
    return total if config.distance == "released" else total / sum(s.shape[1] for s, _ in pairs)


def _copies(learner: Learner, classes: int) -> dict[str, Tensor]:
    """The parameters by name: themselves for one class, a view [K,*shape] for several."""
    named = learner.named_parameters()
    return named if classes == 1 else {name: p.expand(classes, *p.shape) for name, p in named.items()}


def _outputs(learner: Learner, copies: dict[str, Tensor], images: Tensor, *, once: bool) -> tuple[Tensor, list[Feature]]:
    """Logits [K*B,N] and features of the images of all classes. `once`: nothing will be differentiated twice."""
    network = learner.network
    if len(images) == 1:
        with network.configured(once=once):
            logits, features = network(images[0])
            return logits, features
    with network.configured(once=once, side_by_side=True):
        every = torch.vmap(lambda own, x: functional_call(network, own, (x,)))(copies, images)
    logits, features = tree_map(lambda t: t.flatten(0, 1), every)
    return logits, features


def _side_by_side(learners: Sequence[Learner]) -> bool:
    """Whether classes do not see each other: not so with the statistics of a batch."""
    return not any(learner.uses_batch_statistics for learner in learners)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None
