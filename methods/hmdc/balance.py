"""The Gradient Balance Module: no loss drowns another because its gradients are larger (HMDC, section 3.3, Eq. 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabench.files import pictures, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradientBalance:
    """Accumulates the largest gradient of every loss and weighs losses by min(A) / A (Eq. 4 and 5).

    `accumulator='paper'`: one sum per loss over all classes and the whole run. 'released': one per class, which `restart` empties
    with every iteration, that is with every draw of the networks. `enabled=False` samples for the record; weights stay 1.
    No absolute constant takes part, so the ratios of the weighted gradients do not depend on the unit of any loss.
    """

    def __init__(
        self, classes: int, losses: int, accumulator: str = "released", enabled: bool = True, device: torch.device | None = None
    ) -> None:
        self.per_class, self.enabled = accumulator == "released", enabled
        self.sums = torch.zeros(classes if self.per_class else 1, losses, dtype=torch.float64, device=device)
        """A of Eq. 4: [classes or 1, losses]."""

    def restart(self) -> None:
        """New networks: forget the old ones' gradients, where the accumulator is the released one."""
        if self.per_class:
            self.sums.zero_()

    def add(self, labels: Tensor, magnitudes: Tensor) -> Tensor:
        """Add one sample: the largest absolute gradient [K,T] of every loss at the synthetic images of the classes `labels` [K].

        Returns the classes' weights [K,T]. A sum for all classes takes the classes in their order, so that each is weighted before
        the next is added.
        """
        magnitudes = magnitudes.to(self.sums)
        if self.per_class:
            self.sums[labels.to(self.sums.device)] += magnitudes
            return self.weights(labels)
        after = self.sums + magnitudes.cumsum(0)
        self.sums.copy_(after[-1:])
        return self._weights(after)

    def weights(self, labels: Tensor) -> Tensor:
        """Return min(A) / A [K,T] of every loss for these classes: the one with the smallest gradients has 1, all others less.

        A loss that has shown no gradient yet has weight 1 and no part in the minimum.
        """
        return self._weights(self.sums[labels.to(self.sums.device) if self.per_class else torch.zeros_like(labels)])

    def _weights(self, sums: Tensor) -> Tensor:
        shown = sums > 0
        smallest = sums.where(shown, torch.inf).amin(1, keepdim=True)
        return torch.where(shown, smallest / sums, 1.0) if self.enabled else torch.ones_like(sums)


def normalised(gradient: Tensor, way: str) -> Tensor:
    """Divide the gradient [N,C,S,S] of the stored images by its largest absolute value: per image (`paper`), or per image and
    channel (`released`). An image far from the others moves no further than they do; one without a gradient stays."""
    axes = (1, 2, 3) if way == "paper" else (2, 3)
    largest = gradient.abs().amax(axes, keepdim=True)
    return gradient / largest.where(largest > 0, 1.0)


class Record:
    """The largest absolute gradient of each loss at each class's images, before and after the weights: the paper's Figure 4."""

    def __init__(self, losses: Sequence[str]) -> None:
        self.losses = tuple(losses)
        self.rows: list[list[float]] = []
        """[step, class, before of each loss, after of each loss]"""

    def add(self, step: int, labels: Tensor, before: Tensor, weights: Tensor) -> None:
        """Add one sample of some classes: largest gradients and weights, both [K,T]."""
        values = torch.cat([before, before * weights.to(before)], 1).tolist()
        self.rows += [[step, label, *row] for label, row in zip(labels.tolist(), values, strict=True)]

    def write(self, folder: Path) -> None:
        """`gradient_balance.csv` and `gradient_balance.png`."""
        header = ["step", "class", *(f"{n} {when}" for when in ("before", "after") for n in self.losses)]
        lines = [",".join([str(int(row[0])), str(int(row[1])), *(f"{v:.6g}" for v in row[2:])]) for row in self.rows]
        write_text(folder / "gradient_balance.csv", "\n".join([",".join(header), *lines]) + "\n")
        if self.rows:
            self._plot(folder / "gradient_balance.png")

    def _plot(self, path: Path) -> None:
        """Two panels on one logarithmic axis, before and after: the mean over classes, and the range of the classes."""
        rows = torch.tensor(self.rows, dtype=torch.float64)
        steps = sorted(set(rows[:, 0].tolist()))

        def draw(figure: Figure) -> None:
            panels = figure.subplots(1, 2, sharey=True)
            for offset, (axes, title) in enumerate(zip(panels, ("before", "after"), strict=True)):
                for k, name in enumerate(self.losses):
                    column = 2 + offset * len(self.losses) + k
                    values = [rows[rows[:, 0] == s, column].clamp_min(1e-30) for s in steps]  # a log axis has no zero
                    axes.plot(steps, [float(v.log().mean().exp()) for v in values], label=name)
                    axes.fill_between(steps, [float(v.min()) for v in values], [float(v.max()) for v in values], alpha=0.2)
                axes.set(title=f"{title} the Gradient Balance Module", xlabel="step", yscale="log")
                axes.grid(alpha=0.3)
            panels[0].set_ylabel("largest absolute gradient at a class's images")
            panels[0].legend(fontsize=8)

        pictures.write_or_warn(draw, path, size=(9, 4))
