"""A shuffled set in the forms that people post: every label right, or a refusal; never something else in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mabench.data import DATASETS
from mabench.errors import MabenchError
from mabench.sets import readers
from mabench.sets.selecting import select

X = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10).repeat(2)[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
SHAPES: dict[str, Any] = {
    "data and target": {"data": X, "target": Y},
    "numbers in a list": {"images": X, "labels": Y.tolist()},
    "syn": {"syn_images": X, "syn_labels": Y},
    "capitals": {"X_train": X, "y_train": Y},
    "positions": {"arr_0": X, "arr_1": Y},
    "state dictionary": {"module.images": X, "module.labels": Y},
    "an unusual name": {"images": X, "whatever": Y},
    "flat data": {"data": [X, Y]},
    "nested data": {"data": [[X, Y]]},
    "pairs": list(zip(X, Y, strict=True)),
    "rate as third": (X, Y, 0.02),
    "soft": {"images": X, "soft_labels": torch.eye(10)[Y]},
}


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES)
def test_labels_are_never_dropped(value: Any) -> None:
    draft = select(Path("cifar10.pt"), value, None, None, None)
    assert torch.equal(draft.images, X) and isinstance(draft.labels, torch.Tensor)
    labels = draft.labels if draft.labels.dim() == 1 else draft.labels.argmax(1)
    assert torch.equal(labels.long(), Y)


@pytest.mark.parametrize("value", [{"images": X, "a": Y, "b": Y}, {"images": X, "label": Y, "soft_label": torch.eye(10)[Y]}])
def test_two_candidates_are_asked_about(value: Any) -> None:
    with pytest.raises(MabenchError, match="--labels-key"):
        select(Path("cifar10.pt"), value, None, None, None)


SPACES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pixel": lambda x: x,
    "uint8-range": lambda x: x * 255,
    "signed": lambda x: x * 2 - 1,
    "normalised": lambda x: _normalised(x, DATASETS["cifar10"].mean, DATASETS["cifar10"].std),
    "imagenet": lambda x: _normalised(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def _normalised(x: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


@pytest.mark.parametrize("space", SPACES)
def test_spaces_come_back_named_or_not(space: str) -> None:
    for named in (space, None):
        chosen = readers.from_tensors(SPACES[space](X), Y, dataset="cifar10", space=named)
        assert float((chosen.images.float() - X).abs().max()) < 1 / 255


def test_arrays_as_authors_have_them() -> None:
    own = readers.from_tensors(_normalised(X, (0.4,) * 3, (0.3,) * 3), Y, dataset="cifar10", mean=[0.4] * 3, std=[0.3] * 3)
    assert float((own.images - X).abs().max()) < 1e-5
    assert torch.equal(readers.from_tensors(np.array(X), Y.tolist(), dataset="cifar10").labels, Y)
    with pytest.raises(MabenchError, match="--space"):
        readers.from_tensors(X * 255 - 128, Y, dataset="cifar10")


def test_learned_labels_may_disagree_with_the_class() -> None:
    labels = torch.softmax(torch.eye(10)[Y] * 5, 1)
    labels[0] = labels[1]
    chosen = readers.from_tensors(X, labels, dataset="cifar10")
    assert (chosen.ipc, chosen.balanced, chosen.label_kind) == (2, True, "soft")
