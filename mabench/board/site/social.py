"""The card that social networks show for a link, 1200 x 630 pixels: the set's images, its name, its best number."""

from __future__ import annotations

import io

INK, FAINT, UP = (240, 243, 245), (160, 172, 182), (116, 195, 242)


def card(background: bytes | None, title: str, line: str, board: str) -> bytes:
    """A PNG with the title, one line of results and the board's name; `background` is `Pictures.card`."""
    from PIL import Image, ImageDraw, ImageFont

    if background is None:
        picture = Image.new("RGB", (1200, 630), (17, 20, 24))
        top = 200
    else:
        picture = Image.open(io.BytesIO(background)).convert("RGB")
        top = 455
    draw = ImageDraw.Draw(picture)

    def fitting(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        font = ImageFont.load_default(size=size)
        while size > 20 and draw.textlength(text, font=font) > 1080:
            size -= 4
            font = ImageFont.load_default(size=size)
        return font

    draw.text((60, top), title, fill=INK, font=fitting(title, 58))
    draw.text((60, top + 72), line, fill=UP, font=fitting(line, 34))
    draw.text((60, 585), board, fill=FAINT, font=ImageFont.load_default(size=24))
    buffer = io.BytesIO()
    picture.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0a5c8f"/>'
    '<g fill="#fff"><rect x="6" y="15" width="5" height="11" rx="1"/><rect x="13.5" y="6" width="5" height="20" rx="1"/>'
    '<rect x="21" y="19" width="5" height="7" rx="1" fill="#f0a070"/></g></svg>\n'
)
