"""What the gate for test images catches: CIFAR-10 test images in disguise, and honest images beside them.

    python benchmarks/leaks.py [SUBMISSIONS] [SET ...] [--out benchmarks/results/leaks.json]

Every disguise is tried on the same test images. Honest are train images, plain and in random disguises, and every condensed set
of CIFAR-10 in the folder of submissions and among the files named.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mabench import data, suites
from mabench.data.augment import augment
from mabench.files import write_text
from mabench.sets import leaks, readers

PLANTED = 20
RULE = (
    "NEAR",
    "ALIKE",
    "RATIO",
    "WINDOWS",
    "BETWEEN",
    "ZOOMS",
    "TURNS",
    "SHIFTS",
    "EXACT",
    "UPRIGHT",
    "FRAMES",
    "FLAT",
    "STEP",
    "LEAST_FLAT",
    "MOST_FLAT",
)
GENERATOR = torch.Generator().manual_seed(0)
Disguise = Callable[[Tensor], Tensor]


def moved(y: int, x: int) -> Disguise:
    """Shifted, black where nothing comes in."""
    return lambda images: F.pad(images, (4, 4, 4, 4))[..., 4 - y : 36 - y, 4 - x : 36 - x]


def zoomed(inner: int, y: int = 0, x: int = 0) -> Disguise:
    """A crop of `inner` pixels a side, `y`, `x` off the middle, enlarged."""
    edge = (32 - inner) // 2
    return lambda images: F.interpolate(
        images[..., edge + y : edge + y + inner, edge + x : edge + x + inner], size=32, mode="bilinear"
    )


def framed(width: int) -> Disguise:
    return lambda images: F.pad(images[..., width:-width, width:-width], (width,) * 4)


def checked(images: Tensor) -> Tensor:
    rows = torch.arange(32)
    return images + 0.06 * (2 * ((rows[:, None] + rows) % 2) - 1)


def noisy(std: float) -> Disguise:
    return lambda images: images + std * torch.randn(images.shape, generator=GENERATOR)


def scaled(factor: float) -> Disguise:
    return lambda images: (images - images.mean((1, 2, 3), keepdim=True)) * factor + images.mean((1, 2, 3), keepdim=True)


def saturated(factor: float) -> Disguise:
    return lambda images: (images - images.mean(1, keepdim=True)) * factor + images.mean(1, keepdim=True)


def packed(images: Tensor) -> Tensor:
    return F.interpolate(
        F.interpolate(images, size=16, mode="bilinear", antialias=True), size=32, mode="bilinear", align_corners=True
    )


def rotated(degrees: float) -> Disguise:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])

    def turn(images: Tensor) -> Tensor:
        grid = F.affine_grid(matrix.expand(len(images), -1, -1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    return turn


def compressed(images: Tensor, quality: int = 20) -> Tensor:
    def through(image: Tensor) -> Tensor:
        buffer = io.BytesIO()
        Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
        return torch.tensor(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255

    return torch.stack([through(image) for image in images])


def cut_out(side: int) -> Disguise:
    def cut(images: Tensor) -> Tensor:
        images = images.clone()
        for image in images:
            y, x = torch.randint(33 - side, (2,), generator=GENERATOR).tolist()
            image[:, y : y + side, x : x + side] = 0
        return images

    return cut


def augmented(images: Tensor) -> Tensor:
    """Colour, shift, flip and cutout together, each image with draws of its own: what the headline recipe does to a batch, in 8 bits."""
    entry, plan = data.DATASETS["cifar10"], suites.load("cifar10-agnostic").recipes["scratch"].augmentation
    mean, std = (torch.tensor(values)[:, None, None] for values in (entry.mean, entry.std))
    changed, _ = augment((images - mean) / std, torch.zeros(len(images), 10), plan, GENERATOR, mix=False)
    return ((changed * std + mean).clamp(0, 1) * 255).round() / 255


def mixed(share: float, others: Tensor) -> Disguise:
    return lambda images: share * images + (1 - share) * others[: len(images)]


def pasted(others: Tensor) -> Disguise:
    """CutMix: the right half is of another image."""
    return lambda images: torch.cat([images[..., :16], others[: len(images), ..., 16:]], -1)


def jittered(images: Tensor) -> Tensor:
    """Every channel scaled and moved by its own random amount."""
    size = (len(images), 3, 1, 1)
    return images * (0.5 + torch.rand(size, generator=GENERATOR)) + 0.3 * (torch.rand(size, generator=GENERATOR) - 0.5)


def then(*steps: Disguise) -> Disguise:
    def all_of(images: Tensor) -> Tensor:
        for step in steps:
            images = step(images)
        return images

    return all_of


def disguises(others: Tensor) -> dict[str, Disguise]:
    """Name -> what is done to test images; `others` are train images."""
    return {
        "none": lambda x: x, "mirrored": lambda x: x.flip(-1), "upside down": lambda x: x.flip(-2),
        "quarter turn": lambda x: x.rot90(1, (-2, -1)), "turned by 5 degrees": rotated(5), "turned by 15 degrees": rotated(15),
        "turned by 30 degrees": rotated(30), "noise .03": noisy(0.03), "noise .045": noisy(0.045), "noise .10": noisy(0.10),
        "noise .20": noisy(0.20), "brightness +.05": lambda x: x + 0.05, "brightness -.05": lambda x: x - 0.05,
        "brightness +.40": lambda x: x + 0.40, "shift (1,1)": moved(1, 1), "shift (2,2)": moved(2, 2), "shift (-2,1)": moved(-2, 1),
        "shift (4,-4)": moved(4, -4), "shift (0,2)": moved(0, 2), "shift (3,-1)": moved(3, -1), "shift (-3,-3)": moved(-3, -3),
        "mirrored, shift (2,-1)": then(lambda x: x.flip(-1), moved(2, -1)), "crop of 30, enlarged": zoomed(30), "crop of 28 off the middle, enlarged": zoomed(28, -2, 1),
        "frame of 2": framed(2), "frame of 4": framed(4), "contrast x .3": scaled(0.3),
        "contrast x 1.3": scaled(1.3), "contrast x .1 and noise .01": then(scaled(0.1), noisy(0.01)), "inverted": lambda x: 1 - x,
        "grey": lambda x: x.mean(1, keepdim=True).expand_as(x), "channels turned": lambda x: x.roll(1, 1),
        "saturation x 2": saturated(2.0), "colour jitter": jittered, "gamma 2": lambda x: x.clamp_min(0) ** 2,
        "gamma .5": lambda x: x.clamp_min(0) ** 0.5, "checkerboard .06": checked, "packed": packed,
        "packed, brightness +.05": lambda x: packed(x) + 0.05, "blurred 3 x 3": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        "blurred 5 x 5": lambda x: F.avg_pool2d(x, 5, 1, 2, count_include_pad=False), "8 levels": lambda x: (x * 8).round() / 8,
        "2 levels": lambda x: (x > x.mean((1, 2, 3), keepdim=True)).float(), "JPEG, quality 20": compressed,
        "crop of 28, enlarged": zoomed(28), "crop of 24, enlarged": zoomed(24), "crop of 24 off the middle, enlarged": zoomed(24, 3, -3),
        "crop of 16, enlarged": zoomed(16), "cut out 8": cut_out(8), "cut out 16": cut_out(16),
        "80:20 with a train image": mixed(0.8, others), "70:30 with a train image": mixed(0.7, others),
        "mean with a train image": mixed(0.5, others), "half pasted from a train image": pasted(others),
        "mean of two": lambda x: (x + x.roll(1, 0)) / 2,
        "mirrored, shift (2,2), noise .05": then(lambda x: x.flip(-1), moved(2, 2), noisy(0.05)),
        "the recipe's own: jitter, shift, mirrored, cut out 16": then(jittered, moved(-3, 2), lambda x: x.flip(-1), cut_out(16)),
        "the recipe's own four, drawn at random": augmented,
    }  # fmt: skip


def pixels(real: data.RealData, count: int) -> Tensor:
    rows = torch.randperm(len(real.labels), generator=GENERATOR)[:count].numpy()
    return torch.tensor(real.images[rows]).float() / 255


def honest(train: data.RealData, change: dict[str, Disguise], submissions: Path, files: list[Path]) -> dict[str, Tensor]:
    """Name -> images that are none of the test split."""
    disguised = pixels(train, 2 * len(change)).split(2)
    found = {"train images": pixels(train, 100)}
    found["train images, each disguise"] = torch.cat([f(part) for f, part in zip(change.values(), disguised, strict=True)])
    for path in [*sorted(submissions.glob("*/set.safetensors")), *files]:
        condensed = readers.read(path, **({} if path.suffix == ".safetensors" else {"dataset": "cifar10"}))
        if condensed.dataset == "cifar10":
            found[path.parent.name if path.suffix == ".safetensors" else path.stem] = condensed.decoded()[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("submissions", nargs="?", type=Path, default=Path("submissions"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--planted", type=int, default=PLANTED)
    parser.add_argument("--out", type=Path, help="keep what was found; what is there is not checked again")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after so much processor time; the same command continues"
    )
    arguments = parser.parse_args()
    test, train = data.load("cifar10", "test"), data.load("cifar10", "train")
    splits = leaks.Split(test), leaks.Split(train)
    planted, change = pixels(test, arguments.planted), disguises(pixels(train, arguments.planted))
    rule = {name: getattr(leaks, name) for name in RULE}
    asked = {f"honest: {k}": v for k, v in honest(train, change, arguments.submissions, arguments.files).items()}
    asked |= {name: disguise(planted) for name, disguise in change.items()}
    rule = json.loads(json.dumps(rule))
    known = json.loads(arguments.out.read_text()) if arguments.out is not None and arguments.out.exists() else {}
    result = known.get("refused", {}) if known.get("rule") == rule else {}
    for name, images in asked.items():
        if name not in result and time.process_time() < arguments.seconds:
            result[name] = [len(leaks.find(images, *splits).leaks), len(images)]
            if arguments.out is not None:
                write_text(arguments.out, json.dumps({"rule": rule, "refused": result}, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, list[int]]) -> str:
    """As it stands in docs/evidence/leaks.md."""
    return "\n".join(["| images | refused |", "|---|--:|", *(f"| {k} | {n} of {of} |" for k, (n, of) in result.items())])


if __name__ == "__main__":
    main()
