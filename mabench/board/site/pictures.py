"""The images of a set as pictures: a strip for a row, a sheet for its page, a card for social networks. Imports no torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board.site.sources import plain
from mabench.board.stored import Stored, read

if TYPE_CHECKING:
    from PIL import Image

TILE, IN_STRIP = 32, 10  # ours: ten classes of CIFAR-10 side by side in three kilobytes
SHEET_WIDTH = 848  # ours: pixels of a set's page that pictures take, beside the results
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


def draw(path: Path, expected_sha256: str) -> Pictures:
    """Draw the set in the canonical file `path`. Raises MabenchError for a file that is not the set called `expected_sha256`."""
    stored = read(path, expected_sha256)
    return Pictures(_encoded(_strip(stored), "WEBP"), _encoded(_sheet(stored), "PNG"), _encoded(_background(stored), "PNG"))


def _tile(stored: Stored, index: int, side: int) -> Image.Image:
    from PIL import Image

    picture = Image.fromarray(stored.pixels[index])
    enlarges = side >= picture.width
    return picture.resize((side, side), Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS)


def _strip(stored: Stored) -> Image.Image:
    from PIL import Image

    classes = stored.classes[:IN_STRIP]
    picture = Image.new("RGB", (TILE * len(classes), TILE))
    for place, label in enumerate(classes):
        picture.paste(_tile(stored, stored.of_class(label, 1)[0], TILE), (place * TILE, 0))
    return picture


def _sheet(stored: Stored) -> Image.Image:
    """A row a class with up to ten images; for one image a class, five classes side by side and as large as they fit."""
    from PIL import Image, ImageDraw, ImageFont

    classes = stored.classes[:MOST_ROWS]
    shown = [stored.of_class(label, 10) for label in classes]
    most = max(map(len, shown))
    gap, font, ink = 4, ImageFont.load_default(size=15), (112, 122, 132)
    if most == 1:
        columns = min(5, len(classes))
        side, label_height = _whole((SHEET_WIDTH - gap * (columns - 1)) // columns, stored), 26
        height = -(-len(classes) // columns) * (side + label_height)
        sheet = Image.new("RGBA", (columns * (side + gap) - gap, height), (0, 0, 0, 0))
        draw_ = ImageDraw.Draw(sheet)
        for place, (label, indices) in enumerate(zip(classes, shown, strict=True)):
            x, y = (place % columns) * (side + gap), (place // columns) * (side + label_height)
            sheet.paste(_tile(stored, indices[0], side), (x, y))
            draw_.text((x + 2, y + side + 3), plain(stored.class_name(label), 40), fill=ink, font=font)
        return sheet
    margin = 92
    side = _whole(min(104, (SHEET_WIDTH - margin) // most - gap), stored)
    sheet = Image.new("RGBA", (margin + most * (side + gap), len(classes) * (side + gap)), (0, 0, 0, 0))
    draw_ = ImageDraw.Draw(sheet)
    for row, (label, indices) in enumerate(zip(classes, shown, strict=True)):
        draw_.text((0, row * (side + gap) + side // 2 - 9), plain(stored.class_name(label), 40)[:12], fill=ink, font=font)
        for column, index in enumerate(indices):
            sheet.paste(_tile(stored, index, side), (margin + column * (side + gap), row * (side + gap)))
    return sheet


def _whole(side: int, stored: Stored) -> int:
    """The largest multiple of the images' width up to `side`, so that every pixel is drawn equally large; `side` for larger images."""
    width = int(stored.pixels.shape[2])
    return side // width * width or side


def _background(stored: Stored) -> Image.Image:
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
        picture.save(buffer, kind, quality=60, method=6)
    else:
        flat = picture.quantize(255) if picture.mode == "RGBA" else picture.quantize(256)
        flat.save(buffer, kind, optimize=True)
    return buffer.getvalue()
