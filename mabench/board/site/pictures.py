"""The images of a set as pictures: a strip for a row, a sheet for its page, a card for social networks. Imports no torch."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mabench.board.site.sources import plain
from mabench.digests import canonical_json
from mabench.errors import MabenchError
from mabench.files import size_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

MAX_BYTES = 4 * 2**30  # as in sets.synthetic: a set that declares more is refused
TILE, IN_STRIP = 32, 10  # ours: ten classes of CIFAR-10 side by side in three kilobytes
SHEET_WIDTH = 1184  # ours: pixels of a set's page that pictures may take
MOST_ROWS = 100


@dataclass(frozen=True)
class Pictures:
    """What the board shows of one set, encoded."""

    strip: bytes
    """WebP, one image of each of the first ten classes, side by side."""
    sheet: bytes
    """PNG, up to ten images of every class."""
    card: bytes
    """PNG of 1200 x 630 pixels without any text on its lower third."""

    def files(self) -> dict[str, bytes]:
        return {"strip.webp": self.strip, "preview.png": self.sheet, "pixels.png": self.card}


@dataclass(frozen=True)
class _Stored:
    pixels: NDArray[np.uint8]
    """[N,H,W,3]"""
    labels: NDArray[np.int64]
    """[N]; the largest entry of a soft label."""
    names: tuple[str, ...]

    def of_class(self, label: int, most: int) -> list[int]:
        return [int(i) for i in (self.labels == label).nonzero()[0][:most]]

    @property
    def classes(self) -> list[int]:
        return sorted({int(label) for label in self.labels})


def draw(path: Path, expected_sha256: str) -> Pictures:
    """Draw the set in the canonical file `path`. Raises MabenchError for a file that is not the set called `expected_sha256`."""
    stored = _read(path, expected_sha256)
    return Pictures(_encoded(_strip(stored), "WEBP"), _encoded(_sheet(stored), "PNG"), _encoded(_background(stored), "PNG"))


def _read(path: Path, expected_sha256: str) -> _Stored:
    import numpy as np
    from safetensors import SafetensorError, safe_open

    if size_of(path) > MAX_BYTES:
        raise MabenchError(f"{path}: {size_of(path):,} bytes; sets up to {MAX_BYTES:,} bytes are read.")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            names = tuple(plain(str(name), 40) for name in json.loads(metadata["class_names"]))
            found = _identity(metadata, images, labels)
        if images.ndim != 4 or images.shape[1] not in (1, 3) or labels.ndim not in (1, 2) or len(labels) != len(images):
            raise ValueError(f"images {list(images.shape)} and labels {list(labels.shape)}")
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise MabenchError(f"{path}: not a complete set file ({error}). Fetch or pack it again.") from error
    if found != expected_sha256:
        raise MabenchError(
            f"{path}: is {found[:16]}, the submission is about {expected_sha256[:16]}. Put back the set that was submitted."
        )
    if images.dtype != np.uint8:
        images = (np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1) * 255).round().astype(np.uint8)
    pixels = np.broadcast_to(images.transpose(0, 2, 3, 1), (len(images), *images.shape[2:], 3))
    return _Stored(pixels, labels.argmax(1) if labels.ndim == 2 else labels, names)


def _identity(metadata: dict[str, str], images: Any, labels: Any) -> str:
    """As `SyntheticSet.sha256`, which needs torch; a test holds the two together."""
    header: dict[str, object] = {
        "dataset": metadata["dataset"],
        "decode": metadata["decode"],
        "images": [str(images.dtype), list(images.shape)],
        "labels": [str(labels.dtype), list(labels.shape)],
    }
    if "learning_rate" in metadata:
        header["learning_rate"] = float(metadata["learning_rate"])
    digest = sha256(canonical_json(header).encode())
    for array in (images, labels):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _tile(stored: _Stored, index: int, side: int) -> Image.Image:
    from PIL import Image

    picture = Image.fromarray(stored.pixels[index])
    enlarges = side >= picture.width
    return picture.resize((side, side), Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS)


def _strip(stored: _Stored) -> Image.Image:
    from PIL import Image

    classes = stored.classes[:IN_STRIP]
    picture = Image.new("RGB", (TILE * len(classes), TILE))
    for place, label in enumerate(classes):
        picture.paste(_tile(stored, stored.of_class(label, 1)[0], TILE), (place * TILE, 0))
    return picture


def _sheet(stored: _Stored) -> Image.Image:
    """A row a class with up to ten images; for one image a class, five classes side by side and as large as they fit."""
    from PIL import Image, ImageDraw, ImageFont

    classes = stored.classes[:MOST_ROWS]
    shown = [stored.of_class(label, 10) for label in classes]
    most = max(map(len, shown))
    gap, font, ink = 4, ImageFont.load_default(size=15), (91, 102, 112)
    if most == 1:
        columns = min(5, len(classes))
        side, label_height = (SHEET_WIDTH - gap * (columns - 1)) // columns, 26
        height = -(-len(classes) // columns) * (side + label_height)
        sheet = Image.new("RGBA", (columns * (side + gap) - gap, height), (0, 0, 0, 0))
        draw_ = ImageDraw.Draw(sheet)
        for place, (label, indices) in enumerate(zip(classes, shown, strict=True)):
            x, y = (place % columns) * (side + gap), (place // columns) * (side + label_height)
            sheet.paste(_tile(stored, indices[0], side), (x, y))
            draw_.text((x + 2, y + side + 3), _class_name(stored, label), fill=ink, font=font)
        return sheet
    margin = 92
    side = min(104, (SHEET_WIDTH - margin) // most - gap)
    sheet = Image.new("RGBA", (margin + most * (side + gap), len(classes) * (side + gap)), (0, 0, 0, 0))
    draw_ = ImageDraw.Draw(sheet)
    for row, (label, indices) in enumerate(zip(classes, shown, strict=True)):
        draw_.text((0, row * (side + gap) + side // 2 - 9), _class_name(stored, label)[:12], fill=ink, font=font)
        for column, index in enumerate(indices):
            sheet.paste(_tile(stored, index, side), (margin + column * (side + gap), row * (side + gap)))
    return sheet


def _class_name(stored: _Stored, label: int) -> str:
    return stored.names[label] if label < len(stored.names) else f"class {label}"


def _background(stored: _Stored) -> Image.Image:
    """Two rows of five images above a dark field; `social.card` writes on it."""
    from PIL import Image

    side, classes = 192, stored.classes[:IN_STRIP]
    picture = Image.new("RGB", (1200, 630), (17, 20, 24))
    for place, label in enumerate(classes):
        picture.paste(
            _tile(stored, stored.of_class(label, 1)[0], side), (60 + (place % 5) * (side + 30), 36 + (place // 5) * (side + 12))
        )
    return picture


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "WEBP":
        picture.save(buffer, kind, quality=72, method=6)
    else:
        flat = picture.quantize(255) if picture.mode == "RGBA" else picture.quantize(256)
        flat.save(buffer, kind, optimize=True)
    return buffer.getvalue()
