"""Image files: which of them belong to which class, and their pixels as uint8 arrays.

`list_*` only look at names; `decode_*` open the files, and run in a child process (`sandbox.py`). Imports no torch.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401 - before memory is limited

from mabench.errors import MabenchError, one_line
from mabench.files import size_of
from mabench.sets import archives, foreign, keys, limits

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # whatever a file calls itself: Pillow gives others (EPS) to programs outside
TEXTS = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".yaml", ".yml", ".xml", ".html", ".log", ".cls"}
"""What may lie among images and be none. Anything else may be an image in a format that is not read: a set would lose it."""
MAX_SIDE = 2048  # ours: no dataset has larger images
MAX_DEPTH = 30  # ours: folders in folders
MAX_CLASS_BYTES = 200  # ours: a class number or name
MAX_IMAGES = 2_000_000  # ours: ImageNet-1k itself has 1.3 million images

Array = np.ndarray[Any, np.dtype[Any]]
Source = tuple[str, Callable[[], bytes]]
"""What a message calls an encoded image, and how to get its bytes."""


# -- names ----------------------------------------------------------------------------------------------------------------


def list_folder(path: Path) -> tuple[list[str], dict[str, int]]:
    """Image files below a folder, relative to it and in order of names; and how many others there are, by ending."""
    return _sorted_out(path, (file.relative_to(path).as_posix() for file in _walk(path)))


def _walk(path: Path, depth: int = 0) -> Iterable[Path]:
    if depth > MAX_DEPTH:
        raise MabenchError(
            f"{one_line(str(path), 200)}: folders in folders, {depth} deep; a link may lead back to where it lies. Remove it, or name the "
            "folder of the set itself."
        )
    for entry in sorted(path.iterdir()):
        if keys.is_leftover(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry, depth + 1)
        else:
            size_of(entry)  # a pipe would keep the reader waiting for ever
            yield entry


def list_archive(path: Path) -> dict[str, Any]:
    """As `list_folder`, for a zip or tar file: `names`, `left_out`, and `classes` where each image has a file `.cls` (WebDataset)."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            names, left_out = _sorted_out(path, sorted(archives.read_zip(path, file)))
            return {"names": names, "left_out": left_out, "classes": None}
    limits.declare(path.stat().st_size, path)
    members, said = list[str](), dict[str, str]()
    with _open_tar(path) as archive:
        for item in archive:
            if item.isfile():
                members.append(item.name)
                if item.name.endswith(".cls") and item.size <= MAX_CLASS_BYTES and (file_of := archive.extractfile(item)):
                    said[item.name.removesuffix(".cls")] = file_of.read().decode("utf-8", "replace").strip()
            if len(members) > MAX_IMAGES:
                break  # refused below
    names, left_out = _sorted_out(path, sorted(members))
    keyed = [_key(name) for name in names]
    classes = [said[key] for key in keyed] if names and len(set(keyed)) == len(names) and set(keyed) <= set(said) else None
    if classes is not None:
        del left_out[".cls"]
    return {"names": names, "left_out": left_out, "classes": classes}


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path)
    except tarfile.ReadError as error:
        raise MabenchError(
            f"{path}: is not a readable tar archive. If it is one compressed file, unpack it (gunzip, xz -d, bzip2 -d) and name what was inside; "
            "else fetch it again."
        ) from error


def _key(name: str) -> str:
    """What the files of one sample share in a WebDataset: the name up to its first dot."""
    place = PurePosixPath(name)
    return name[: len(name) - len(place.name)] + place.name.split(".", 1)[0]


def _sorted_out(path: Path, names: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    images: list[str] = []
    left_out, unread = Counter[str](), list[PurePosixPath]()
    for name in names:
        place = PurePosixPath(name)
        if any(map(keys.is_leftover, (part for part in place.parts if part != "."))):
            continue
        if place.suffix.lower() in SUFFIXES:
            images.append(name)
        else:
            left_out[place.suffix.lower() or place.name] += 1
            if place.suffix.lower() not in TEXTS:
                unread.append(place)
        if len(images) + sum(left_out.values()) > MAX_IMAGES:
            raise MabenchError(f"{path}: more than {MAX_IMAGES:,} files. A condensed set has fewer: name its own folder.")
    folders = {PurePosixPath(name).parent for name in images}
    lost = [place for place in unread if place.parent in folders]
    if lost:
        raise MabenchError(
            f"{path}: {len(images)} images are read, {len(lost)} files among them are not, e.g. {one_line(str(lost[0]), 80)}. Save all "
            "images as PNG, or remove what does not belong to the set."
        )
    return images, dict(left_out)


FLAT = (r"class_?(\d+)[_-](?:image|img|id)?_?\d+", r"(n\d{8})[_-].*", r"(\d+)[_-](?:image|img|id)_?\d+",
        r"([A-Za-z][A-Za-z _-]*?)[_-](?:image|img|id)?_?\d+")  # fmt: skip
"""Names of image files that say the class, where all lie in one folder."""


def class_names(path: Path, names: Sequence[str]) -> list[str]:
    """What says the class of each image: its folder, or a part of its name. Raises MabenchError where that is unclear."""
    places = [PurePosixPath(name) for name in names]
    folders = {place.parent for place in places}
    while len(folders) > 1 and len({folder.name for folder in folders}) == 1:  # n01443537/images/0.png
        places = [place.parent for place in places]
        folders = {place.parent for place in places}
    if len(folders) == 1:
        for pattern in FLAT:
            matches = [re.fullmatch(pattern, place.stem) for place in places]
            said = [match[1] for match in matches if match]
            if all(matches) and (len(set(said)) > 1 or len(said) == 1):
                return said
        raise MabenchError(
            f"{path}: holds no images in sub-folders: its {len(places)} images lie in one, and names such as "
            f"{one_line(places[0].name, 60)} do not say the class. Expected one sub-folder per class, or class000_id000.png."
        )
    above = {parent for folder in folders for parent in folder.parents}
    beside = next((place for place in places if place.parent in above), None)
    if beside is not None:
        raise MabenchError(
            f"{path}: {one_line(str(beside), 80)} is not in any class's folder. Move it into its class's folder, "
            "or out of the set."
        )
    first: dict[str, PurePosixPath] = {}
    for folder in sorted(folders):
        if first.setdefault(folder.name, folder) != folder:
            raise MabenchError(
                f"{path}: class {one_line(folder.name, 60)!r} lies in {one_line(str(first[folder.name]), 80)} and in "
                f"{one_line(str(folder), 80)}: two sets in one folder. Name the folder of one of them."
            )
    return [place.parent.name for place in places]


# -- pixels: in the child -------------------------------------------------------------------------------------------------


def decode_files(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """`decode` of these files of a folder."""
    return decode(path, [(f"{path}/{name}", (path / name).read_bytes) for name in names])


def decode_members(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """`decode` of these members of a zip or tar file."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            members = archives.read_zip(path, file)
            return decode(path, [(f"{path}: {name}", lambda name=name: members.read(name)) for name in names])  # type: ignore[misc]
    wanted, contents = set(names), {}
    with tarfile.open(path) as archive:
        for item in archive:
            if item.name in wanted and item.isfile():
                limits.declare(item.size, path)
                source = archive.extractfile(item)
                contents[item.name] = source.read() if source is not None else b""
    return decode(path, [(f"{path}: {name}", lambda name=name: contents[name]) for name in names])  # type: ignore[misc]


def decode(path: Path, sources: Sequence[Source]) -> dict[str, Any]:
    """`images` uint8 [N,C,H,W], C = 1 where all are grey, else 3; `converted`: what was converted -> how many.

    Raises MabenchError for an image that cannot be read, has another size than the first, or colours that no conversion keeps.
    """
    converted = Counter[str]()
    images: Array = np.empty((0, 1, 0, 0), np.uint8)
    for number, (name, read) in enumerate(sources):
        array, note = _decode(name, read())
        if number == 0:
            limits.declare(2 * len(sources) * 3 * array[0].size, path)  # twice: grey images may have to become RGB
            images = np.empty((len(sources), *array.shape), np.uint8)
        if array.shape[1:] != images.shape[2:]:
            raise MabenchError(
                f"{name}: {array.shape[2]} x {array.shape[1]} px, the first image has {images.shape[3]} x {images.shape[2]}. "
                "Resize the images yourself, so that you know what is measured."
            )
        if array.shape[0] > images.shape[1]:  # the first coloured one
            images = np.repeat(images, 3, axis=1)
        images[number] = array
        converted[note] += 1
    del converted[""]
    return {"images": images, "converted": dict(converted)}


def _decode(name: str, content: bytes) -> tuple[Array, str]:
    """uint8 [C,H,W] of one image, C = 1 or 3, and what had to be converted."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE:
                raise MabenchError(f"{name}: {image.size[0]} x {image.size[1]} px; images up to {MAX_SIDE} px per side are read.")
            if getattr(image, "n_frames", 1) > 1:
                raise MabenchError(f"{name}: holds several images. Save one image per file.")
            return _pixels(name, image)
    except (MabenchError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # its text holds an address in memory
        if content.startswith(foreign.LFS):
            raise MabenchError(f"{name}: is a Git LFS pointer, not the image. Run `git lfs pull` where it comes from.") from error
        raise MabenchError(
            f"{name}: is not a {', '.join(FORMATS)} image, whatever its name says. Replace or remove it."
        ) from error
    except Exception as error:  # Pillow raises whatever comes up in a damaged file
        first = one_line((str(error).strip().splitlines() or [type(error).__name__])[0], 160)
        raise MabenchError(f"{name}: not a readable image ({first}). Replace or remove it.") from error


def _pixels(name: str, image: Image.Image) -> tuple[Array, str]:
    notes = []
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
        notes.append("turned as the EXIF orientation says")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535 or 1 < values.max() <= 255:
            raise MabenchError(
                f"{name}: a 16-bit image with values {values.min()} to {values.max()}, expected 0 to 65535. Save it with 8 bits."
            )
        return np.rint(values / 257).astype(np.uint8)[None], " and ".join([*notes, "16 bits scaled to 8"])
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "F", "RGBX"):
        raise MabenchError(f"{name}: its colours are {image.mode}, not RGB or grey. Convert it to RGB yourself.")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise MabenchError(
                f"{name}: is partly transparent. Put it on the background it was trained with, and save it as RGB."
            )
        notes.append("opaque alpha channel dropped")
    elif image.mode == "P":
        notes.append("palette converted to RGB")
    array = np.asarray(image.convert("L" if image.mode in ("L", "1") else "RGB"))
    return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), " and ".join(notes)
