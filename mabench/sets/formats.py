"""What files hold, before anybody asks what it means: one pure function a format, path -> containers and arrays.

`sandbox.open_in_child` runs these functions in a process with limits, so this module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mabench.errors import MabenchError, printable
from mabench.sets import archives, limits

MAX_SIDE = 2048  # ours: no dataset has larger images
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever a file calls itself: Pillow gives others (EPS) to programs outside

Array = np.ndarray[Any, np.dtype[Any]]


def read_numpy(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by their names; that of an .npy file as `images`."""
    with path.open("rb") as file:
        try:
            if file.read(2) != b"PK":
                file.seek(0)
                size = path.stat().st_size
                limits.declare(size, path)
                return {"images": _read_array(file, size)}
            members = archives.read_zip(path, file)
            arrays = {}
            for name, item in members.items():
                with members.archive.open(item) as member:
                    arrays[name.removesuffix(".npy")] = _read_array(member, item.file_size)
            return arrays
        except ValueError as error:
            raise MabenchError(
                f"{path}: not a readable numpy file ({error}). Arrays of numbers only, no pickled objects."
            ) from error


def _read_array(file: IO[bytes], size: int) -> Array:
    """One array, after its header was compared with the `size` of all there is."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = header(file)
    if dtype.kind not in "fiub":
        raise ValueError(f"{dtype} where numbers belong")
    rest = math.prod(shape) * dtype.itemsize
    if file.tell() + rest != size:
        raise ValueError(f"its header declares {list(shape)} {dtype}, which is not what is there")
    content = file.read(rest + 1)
    if len(content) != rest:
        raise ValueError("it does not unpack to the size that its index says")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def read_images(folder: Path, names: Sequence[str], side: int) -> Array:
    """The image files `names` of a folder, all of `side` x `side` pixels: uint8 [N,H,W,3], in this order."""
    from PIL import Image

    images: Array = limits.allocate((len(names), side, side, 3), "u1", folder)
    for number, name in enumerate(names):
        file = folder / name
        try:
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                if image.size != (side, side):  # before anything is decoded
                    raise MabenchError(
                        f"{file}: {image.size[0]} x {image.size[1]} px, {side} x {side} are needed. "
                        "Resize the images yourself, so that what is measured is what you chose."
                    )
                images[number] = np.asarray(image.convert("RGB"))
        except (MabenchError, MemoryError):
            raise
        except Exception as error:  # Pillow raises whatever comes up in a damaged file
            first = printable((str(error).strip().splitlines() or [type(error).__name__])[0], 160)
            raise MabenchError(f"{file}: not a readable image ({first}). Replace or remove it.") from error
    return images
