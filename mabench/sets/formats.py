"""What files hold, before anybody asks what it means: one pure function a format, path -> containers and arrays.

`sandbox.open_in_child` runs these functions in a process with limits, so this module imports no torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import numpy as np

from mabench.errors import MabenchError
from mabench.sets import archives, limits

MAX_SIDE = 2048  # ours: no dataset has larger images
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever a file calls itself: Pillow gives others (EPS) to programs outside

Array = np.ndarray[Any, np.dtype[Any]]


def read_numpy(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file by their names, those of texts as lists; that of an .npy file as `images`."""
    with path.open("rb") as file:
        try:
            if file.read(2) != b"PK":
                file.seek(0)
                size = path.stat().st_size
                limits.declare(size, path)
                return {"images": _read_array(file, size)}
            members = archives.read_zip(path, file)
            arrays = dict[str, Any]()
            for name, item in members.items():
                with members.archive.open(item) as member:
                    arrays[name.removesuffix(".npy")] = _read_array(member, item.file_size)
            return arrays
        except ValueError as error:
            raise MabenchError(
                f"{path}: not a readable numpy file ({error}). Save arrays of numbers or texts, and no objects: "
                "numpy.savez('set.npz', images=images, labels=labels)."
            ) from error


def _read_array(file: IO[bytes], size: int) -> Any:
    """One array, after its header was compared with the `size` of all there is."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = header(file)
    if dtype.kind not in "fiubU":
        raise ValueError(f"{dtype} where numbers belong")
    rest = math.prod(shape) * dtype.itemsize
    if file.tell() + rest != size:
        raise ValueError(f"its header declares {list(shape)} {dtype}, which is not what is there")
    content = file.read(rest + 1)
    if len(content) != rest:
        raise ValueError("it does not unpack to the size that its index says")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array.tolist() if dtype.kind == "U" else array
