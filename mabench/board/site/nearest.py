"""Which real training images lie nearest to a set's own? A strip of both, for whoever wonders what was invented. Imports no torch."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench import data
from mabench.board.stored import Stored, read
from mabench.data import DATASETS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICTURE, FACTS = "nearest.webp", "nearest.json"
SHOWN, SIDE, GAP = 10, 112, 6  # ours: one image of each of the first ten classes, as in the strip
MAX_TRAIN_BYTES = 2**30  # ours: CIFAR-10 has 150 MB; ImageNet would take minutes a set
BATCH = 5000  # ours: training images compared at once, 60 MB of CIFAR-10 as float32
SAME = 1.0  # ours: grey levels of root mean square difference below which an image is the training image itself, but for rounding


def files(path: Path, sha256: str, decode: str) -> dict[str, bytes]:
    """The strip and its facts for the set file `path`; the facts alone, with the reason, where there is no strip."""
    if decode != "none":
        return _without("every stored image holds several smaller ones")
    found = read(path, sha256)
    entry = DATASETS.get(found.dataset)
    if entry is None:
        return _without("the training images are not known here")
    if found.pixels.shape[1:] != (entry.image_size, entry.image_size, 3):
        return _without("the stored images have another size than the training images")
    if entry.size("train") * 3 * entry.image_size**2 > MAX_TRAIN_BYTES:
        return _without(f"the training split of {entry.title} is too large to compare with at every build")
    if not data.at_hand(found.dataset, "train"):
        return _without(f"the training images of {entry.title} were not on the machine that built this page")
    return _compared(found)


def facts(content: bytes | None) -> dict[str, Any]:
    """What FACTS says: `why` there is no strip, or `same` and `shown`, and `rms` in grey levels for each column of the strip."""
    return {"why": "the images are not here"} if content is None else {"why": ""} | json.loads(content)


def lacks_data(content: bytes | None) -> bool:
    """Whether another machine, or this one later, may know more."""
    return content is None or "were not on the machine" in facts(content)["why"]


def _without(why: str) -> dict[str, bytes]:
    return {FACTS: json.dumps({"why": why}).encode() + b"\n"}


@lru_cache(maxsize=1)
def _train(dataset: str) -> NDArray[np.uint8]:
    """The training images, [N,H,W,3]."""
    return data.load(dataset, "train").images.transpose(0, 2, 3, 1)


def _compared(found: Stored) -> dict[str, bytes]:
    import numpy as np
    from PIL import Image

    train = _train(found.dataset)
    own = found.pixels[[found.of_class(label, 1)[0] for label in found.classes[:SHOWN]]]
    asked = own.reshape(len(own), -1).astype(np.float32)
    best, where = np.full(len(own), np.inf, np.float32), np.zeros(len(own), np.int64)
    for begin in range(0, len(train), BATCH):
        some = train[begin : begin + BATCH].reshape(-1, asked.shape[1]).astype(np.float32)
        squares = (some**2).sum(1) - 2 * asked @ some.T  # without the own square, which is the same for all
        nearest = squares.argmin(1)
        closer = squares[np.arange(len(own)), nearest] < best
        best = np.where(closer, squares[np.arange(len(own)), nearest], best)
        where = np.where(closer, nearest + begin, where)
    real = train[where]
    rms = np.sqrt(((own.astype(np.float64) - real) ** 2).mean((1, 2, 3)))
    picture = Image.new("RGBA", (len(own) * (SIDE + GAP) - GAP, 2 * SIDE + GAP), (0, 0, 0, 0))
    for column in range(len(own)):
        for row, pixels in enumerate((own[column], real[column])):
            tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            picture.paste(tile, (column * (SIDE + GAP), row * (SIDE + GAP)))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=6)
    value = {
        "shown": len(own),
        "same": int((rms < SAME).sum()),
        "rms": [round(float(r), 1) for r in rms],
        "index": where.tolist(),
    }
    return {PICTURE: buffer.getvalue(), FACTS: json.dumps(value).encode() + b"\n"}
