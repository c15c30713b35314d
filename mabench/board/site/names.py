"""What a reader calls things: networks, families of networks, suites, datasets. One place, used by every page."""

from __future__ import annotations

import re
from functools import cache

from mabench.board.site.sources import loaded_suite
from mabench.data import DATASETS
from mabench.suites import LoadedSuite, ranks_methods

_SPELLED = {
    "convnet": "ConvNet",
    "resnet": "ResNet",
    "mobilenetv": "MobileNetV",
    "efficientnet_lite": "EfficientNet-Lite",
    "vit_": "ViT-",
    "deit_": "DeiT-",
    "swin_": "Swin-",
    "mlp": "MLP",
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "vgg": "VGG-",
}
_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tinyimagenet": "Tiny-ImageNet", "imagenet1k": "ImageNet-1k"}
_FIRST_DATASETS = ("cifar10", "cifar100", "tinyimagenet", "imagenet1k")


def network(name: str) -> str:
    """The evaluator's name as prose: `convnet3-scratch` is ConvNet-3, `vit_mini-scratch` is ViT-mini."""
    stem, _, weights = name.rpartition("-")
    bare, at, pixels = stem.partition("_224")
    for short, spelled in _SPELLED.items():
        if bare.startswith(short):
            rest = bare.removeprefix(short)
            joint = "-" if rest[:1].isdigit() and spelled[-1].isalpha() and spelled[-1] not in "Ve" else ""
            bare = spelled + joint + re.sub(r"_050$", " 0.5x", rest).replace("_in", " (instance norm)")
            break
    bare += " at 224 px" if at and not pixels else ""
    return f"{bare}, pretrained" if weights == "pretrained" else bare


def dataset(name: str) -> str:
    """The dataset as its papers spell it."""
    return _DATASETS.get(name) or DATASETS[name].title


def suite_order(suite: str) -> tuple[int, int, int, str]:
    """Sort key of suites: those that rank first, CIFAR-10 first, the headline suite of a dataset before its small one."""
    exam_ = loaded_suite(suite)
    name = exam_.suite.dataset
    place = _FIRST_DATASETS.index(name) if name in _FIRST_DATASETS else len(_FIRST_DATASETS)
    return (not ranks_methods(suite), place, "agnostic" not in suite, suite)


def track(name: str) -> str:
    """A track as prose."""
    return {"scratch": "from scratch", "pretrained": "pretrained"}.get(name, name)


@cache
def track_title(suite: str, name: str) -> str:
    """What is trained on this track, in words: `2 networks from scratch`."""
    count = len(loaded_suite(suite).evaluators[name])
    noun = "network" if count == 1 else "networks"
    return {
        "scratch": f"{count} {noun} trained from scratch",
        "pretrained": f"{count} {noun} with ImageNet weights",
    }.get(name, f"{count} {noun}")


def images(ipc: int) -> str:
    """A budget as prose."""
    return "1 image per class" if ipc == 1 else f"{ipc} images per class"


def protocol(chosen: LoadedSuite, name: str) -> str:
    """How long, how often tested and what counts, in a few words."""
    recipe = chosen.recipes[name]
    passes = -(-recipe.epochs // recipe.test_every)
    counts = f"the best of {passes} test passes counts" if recipe.score == "best" else "the last test pass counts"
    seeds = len(chosen.suite.seeds)
    rates = "; rates not yet frozen" if chosen.suite.open_rates is not None else ""
    return f"{recipe.epochs:,} epochs, {counts}, {seeds} {'seed' if seeds == 1 else 'seeds'}{rates}"


def kib(count: int | None) -> str:
    """Bytes as a reader wants them."""
    if count is None:
        return ""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= 10 * size:
            return f"{count / size:,.0f} {unit}"
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1024:,.0f} KiB"


def wrapped(command: str, width: int = 56) -> str:
    """A shell command on several lines, broken before its options; a shell reads it as one."""
    lines = [""]
    for part in re.split(r" (?=--?[a-z])", command):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > width - 2:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)
