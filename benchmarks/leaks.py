"""What the gates for test images catch: 40 CIFAR-10 test images in every disguise, and honest images beside them.

python benchmarks/leaks.py [SUBMISSIONS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mabench import data
from mabench.board import probes
from mabench.sets import synthetic

GENERATOR = torch.Generator().manual_seed(0)


def moved(images: Tensor, y: int, x: int) -> Tensor:
    """Shifted, black where nothing comes in."""
    side = images.shape[-1]
    return F.pad(images, (2, 2, 2, 2))[..., 2 - y : 2 - y + side, 2 - x : 2 - x + side]


def zoomed(images: Tensor, inner: int) -> Tensor:
    edge = (images.shape[-1] - inner) // 2
    return F.interpolate(images[..., edge : edge + inner, edge : edge + inner], size=images.shape[-1], mode="bilinear")


def framed(images: Tensor, width: int) -> Tensor:
    return F.pad(images[..., width:-width, width:-width], (width,) * 4)


def checked(images: Tensor) -> Tensor:
    rows = torch.arange(32)
    return images + 0.06 * (2 * ((rows[:, None] + rows) % 2) - 1)


def noisy(std: float) -> Callable[[Tensor], Tensor]:
    return lambda images: images + std * torch.randn(images.shape, generator=GENERATOR)


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda images: (images - images.mean((1, 2, 3), keepdim=True)) * factor + images.mean((1, 2, 3), keepdim=True)


def packed(images: Tensor) -> Tensor:
    return F.interpolate(
        F.interpolate(images, size=16, mode="bilinear", antialias=True), size=32, mode="bilinear", align_corners=True
    )


DISGUISES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "mirrored": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2),
    "turned by 180 degrees": lambda x: x.flip(-1, -2),
    "noise .03": noisy(0.03),
    "noise .045": noisy(0.045),
    "noise .10": noisy(0.10),
    "noise .20": noisy(0.20),
    "brightness +.05": lambda x: x + 0.05,
    "brightness -.05": lambda x: x - 0.05,
    "brightness +.40": lambda x: x + 0.40,
    "shift (1,1)": lambda x: moved(x, 1, 1),
    "shift (2,2)": lambda x: moved(x, 2, 2),
    "shift (-2,1)": lambda x: moved(x, -2, 1),
    "frame of 2": lambda x: framed(x, 2),
    "frame of 4": lambda x: framed(x, 4),
    "contrast x .3": scaled(0.3),
    "contrast x 1.3": scaled(1.3),
    "contrast x .1 and noise .01": lambda x: noisy(0.01)(scaled(0.1)(x)),
    "inverted": lambda x: 1 - x,
    "grey": lambda x: x.mean(1, keepdim=True).expand_as(x),
    "channels turned": lambda x: x.roll(1, 1),
    "checkerboard .06": checked,
    "packed": packed,
    "packed, brightness +.05": lambda x: packed(x) + 0.05,
    "mirrored, shift (2,2), noise .05": lambda x: noisy(0.05)(moved(x.flip(-1), 2, 2)),
    "gamma 2": lambda x: x.clamp_min(0) ** 2,
    "saturation x 2": lambda x: (x - x.mean(1, keepdim=True)) * 2 + x.mean(1, keepdim=True),
    "blurred": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "8 levels": lambda x: (x * 8).round() / 8,
    "zoom on 28": lambda x: zoomed(x, 28),
    "zoom on 24": lambda x: zoomed(x, 24),
    "mean of two": lambda x: (x + x.roll(1, 0)) / 2,
    "70:30 with the next": lambda x: 0.7 * x + 0.3 * x.roll(1, 0),
    "quarter turn": lambda x: x.rot90(1, (-2, -1)),
}


def caught(images: Tensor, test: Tensor, train: Tensor) -> Tensor:
    """Which images the gate for disguises refuses."""
    likeness, _ = probes.most_alike(images, test)
    close = torch.nonzero(likeness > probes.ALIKE).flatten()
    out = torch.zeros(len(images), dtype=torch.bool)
    if len(close):
        to_train, _ = probes.most_alike(images[close], train)
        out[close] = likeness[close] > to_train + probes.ALIKE_MARGIN
    return out


def main() -> None:
    test, train = data.load("cifar10", "test"), data.load("cifar10", "train")
    known = probes.small_and_grey(test), probes.small_and_grey(train)
    planted = torch.tensor(test.images[torch.randperm(10_000, generator=GENERATOR)[:40].numpy()]).float() / 255
    honest = {"train images": torch.tensor(train.images[torch.randperm(50_000, generator=GENERATOR)[:100].numpy()]).float() / 255}
    for path in sorted(Path(sys.argv[1] if len(sys.argv) > 1 else "submissions").glob("*/set.safetensors")):
        condensed = synthetic.load(path)
        if condensed.dataset == "cifar10":
            honest[path.parent.name] = condensed.decoded()[0]
    print("| images | refused |\n|---|--:|", flush=True)
    for name, images in honest.items():
        print(f"| honest: {name} | {int(caught(images, *known).sum())} of {len(images)} |", flush=True)
    for name, change in DISGUISES.items():
        print(f"| {name} | {int(caught(change(planted), *known).sum())} of {len(planted)} |", flush=True)


if __name__ == "__main__":
    main()
