"""How files call images, labels and learned rates. Imports no torch."""

from __future__ import annotations

import re

IMAGES = {"images", "image", "imgs", "img", "pixels", "pixelvalues", "data", "x", "inputs", "input", "syndata", "dataset", "arr0"}
LABELS = {"labels", "label", "lbls", "lbl", "targets", "target", "y", "classid", "classids", "class", "classes", "finelabel", "arr1",
          "classlabels"}  # fmt: skip
OTHERS = {"idx", "idxs", "index", "indexes", "indices", "id", "ids", "weight", "weights", "score", "scores", "loss", "losses", "order",
          "step", "steps", "epoch", "epochs", "iteration", "iterations", "seed", "seeds", "mask", "masks", "arange"}  # fmt: skip
RATES = {"lr", "synlr", "lrsyn", "learnedlr", "learnedrate", "learningrate", "lrbest", "lrteacher"}
_AROUND = re.compile(r"(synthetic|synth|syn|distilled|train|soft|hard|best|final|all)")  # what may stand around a usual name


def plain(text: str) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _core(name: str) -> str:
    last = name.rsplit(".", 1)[-1]  # `module.images` of a state dictionary
    text = plain(last)
    return text if text in IMAGES | LABELS | OTHERS | RATES else _AROUND.sub("", text)


def is_images(name: str) -> bool:
    """Whether a key is a usual name of images."""
    return _core(name) in IMAGES


def is_labels(name: str) -> bool:
    """Whether a key is a usual name of labels."""
    return _core(name) in LABELS


def is_other(name: str) -> bool:
    """Whether a key is a usual name of something an image has besides its label: a position, a weight, a loss."""
    return _core(name) in OTHERS


def is_factor(name: str) -> bool:
    """Whether a key is the usual name of the tiles a side that packed images have."""
    return plain(name.rsplit(".", 1)[-1]) == "factor"


def is_rate(name: str) -> bool:
    """Whether a key is a usual name of a learned rate."""
    return plain(name.rsplit(".", 1)[-1]) in RATES


LEFTOVERS = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")


def is_leftover(name: str) -> bool:
    """Whether systems leave files of this name behind: hidden files, `__MACOSX`, a NAS's `@eaDir`."""
    return name.startswith(".") or name.lower() in LEFTOVERS
