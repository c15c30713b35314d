"""Opening what lies at a path: which files belong to a set, and their raw contents as containers of tensors and texts.

Files of strangers are opened in a child process (`sandbox.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from mabench.errors import MabenchError, first_line
from mabench.files import size_of
from mabench.sets import beside, by_class, foreign, formats, keys, limits, pickles, pictures, synthetic, tables
from mabench.sets.draft import Draft, as_array, is_images
from mabench.sets.sandbox import open_in_child
from mabench.sets.selecting import select

NESTED = (".zip", ".tar", ".gz", ".tgz", ".parquet", ".arrow")  # what may lie in an archive instead of the set itself
PICTURES_AT_ONCE = 4000  # ours: a child opens so many images


def head_of(path: Path) -> bytes:
    """The first bytes of a file. Raises MabenchError for what is clearly not a set."""
    size = size_of(path)
    with path.open("rb") as file:
        head = file.read(512)
    if size == 0:
        raise MabenchError(f"{path}: is empty (0 bytes). Fetch it again.")
    limit = synthetic.max_bytes() if is_safetensors(path, head) else synthetic.MAX_BYTES  # those are mapped, others are copied
    if size > limit:
        raise MabenchError(
            f"{path}: {size:,} bytes; condensed sets up to {limit:,} bytes are read"
            + (". Larger ones as safetensors or folders of images." if limit < synthetic.max_bytes() else ".")
        )
    foreign.check(path, head)
    return head


def is_safetensors(path: Path, head: bytes) -> bool:
    """By its name, or by a header that begins like one."""
    return path.suffix.lower() == ".safetensors" or (len(head) > 9 and head[8:10] in (b'{"', b"{ ") and head[5:8] == b"\0\0\0")


def content_of(path: Path) -> Any:
    """Raw contents of one file of arrays."""
    head = head_of(path)
    if is_safetensors(path, head):
        return _safetensors(path)
    if head.startswith(b"\x93NUMPY") or _first_member(head).endswith(b".npy"):
        arrays = open_in_child(formats.read_numpy, path, synthetic.MAX_BYTES)
        return arrays["images"] if head.startswith(b"\x93NUMPY") else arrays
    return open_in_child(pickles.load, path, synthetic.MAX_BYTES)


def _first_member(head: bytes) -> bytes:
    """The name of a zip file's first member: `archive/data.pkl` in torch's, `images.npy` in numpy's; empty for other files."""
    return head[30 : 30 + int.from_bytes(head[26:28], "little")] if head.startswith(b"PK\x03\x04") else b""


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    from mabench.files import check_header

    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise MabenchError(f"{path}: not a complete safetensors file ({error}). Fetch it again.") from error


def draft_of(path: Path, set_index: int | None, images_key: str | None, labels_key: str | None) -> Draft:
    """The draft of the set at a path: a file, a pair of files, or a folder."""
    if path.is_dir():
        return _folder(path, set_index, images_key, labels_key)
    head = head_of(path)
    if (parts := tables.shards_of(path)) > 1:
        raise MabenchError(
            f"{path}: is one of {parts} parts, by its name. Name the folder of all parts (parquet), or join them into one file."
        )
    if head.startswith((b"PAR1", b"ARROW1")) or path.suffix == ".arrow":
        return _table(path, [path], images_key, labels_key)
    if _is_archive(path, head):
        listed = open_in_child(pictures.list_archive, path, synthetic.MAX_BYTES)
        return _pictures(path, listed["names"], listed["left_out"], pictures.decode_members, listed["classes"])
    draft = select(path, content_of(path), set_index, images_key, labels_key)
    return beside.complete(draft, path, content_of)


def _is_archive(path: Path, head: bytes) -> bool:
    if head.startswith(b"PK"):
        return path.suffix.lower() == ".zip" and not _first_member(head).endswith(b"/data.pkl")  # torch's files are zips too
    return head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


# -- folders --------------------------------------------------------------------------------------------------------------


def _folder(path: Path, set_index: int | None, images_key: str | None, labels_key: str | None) -> Draft:
    saved = tables.list_saved(path)
    if saved:
        return _table(path, saved, images_key, labels_key)
    arrays = sorted(p for p in path.iterdir() if p.suffix.lower() in beside.ARRAY_SUFFIXES and not keys.is_leftover(p.name))
    pictured, best = beside.with_images(arrays)
    if pictured:
        if len(best) > 1 and all(re.fullmatch(r"(class_?)?\d{1,6}|n\d{8}", p.stem) for p in best):
            return _class_files(path, best)
        if len(best) > 1:
            raise MabenchError(f"{path}: holds several sets ({first_line(p.name for p in best)}). Name the file of one of them.")
        draft = draft_of(best[0], set_index, images_key, labels_key)
        others = [p.name for p in pictured if p != best[0]]
        if others:
            draft.note(
                "not used",
                first_line(others),
                f"{best[0].name} was taken" + (": whitening (ZCA) is undone in it" if "_zca" in best[0].stem else ""),
            )
        return draft
    parquet = tables.list_parquet(path)
    if parquet:
        return _table(path, parquet, images_key, labels_key)
    names, left_out = pictures.list_folder(path)
    return _pictures(path, names, left_out, pictures.decode_files)


def _class_files(path: Path, files: list[Path]) -> Draft:
    """One array of images in a file for each class, which its name says."""
    classes = {file.stem: as_array(content_of(file)) for file in files}
    arrays = {stem: array for stem, array in classes.items() if isinstance(array, torch.Tensor) and is_images(array)}
    if len(arrays) < len(files):
        raise MabenchError(f"{path}: holds several sets ({first_line(p.name for p in files)}). Name the file of one of them.")
    return by_class.join(path, arrays)


def _pictures(path: Path, names: list[str], left_out: dict[str, int], decode: Any, classes: list[str] | None = None) -> Draft:
    others = first_line(f"{n} {suffix}" for suffix, n in sorted(left_out.items()))
    if not names:
        cure = _cure_of_no_images(path, left_out)
        raise MabenchError(
            f"{path}: holds no images in sub-folders (found: {others or 'nothing'}). Expected one sub-folder per class with "
            f"{', '.join(sorted(pictures.SUFFIXES))}.{cure}"
        )
    classes = classes or pictures.class_names(path, names)
    converted = dict[str, int]()
    images = torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    for begin in range(0, len(names), PICTURES_AT_ONCE):
        answer = open_in_child(decode, path, synthetic.MAX_BYTES, names=names[begin : begin + PICTURES_AT_ONCE])
        part = answer["images"]
        for what, count in answer["converted"].items():
            converted[what] = converted.get(what, 0) + count
        if begin == 0:
            images = part if len(part) == len(names) else _place_for(path, len(names), part)
        if part.shape[1] > images.shape[1]:  # the first coloured ones
            grey, images = images, _place_for(path, len(names), part)
            images[:begin] = grey[:begin]
        if len(part) < len(names):
            images[begin : begin + len(part)] = _of_size(path, part, images)
    draft = Draft(path, images, classes, says_decode=False)
    draft.note("format", "images by class", f"{len(names)} images of {len(set(classes))} classes")
    for what, count in converted.items():
        draft.note("images", f"{count} converted", what)
    if others:
        draft.note("left out", others, "no images")
    return draft


def _cure_of_no_images(path: Path, left_out: dict[str, int]) -> str:
    inside = sorted({*beside.ARRAY_SUFFIXES, *(NESTED if path.is_file() else ())} & set(left_out))
    if not inside:
        return ""
    if path.is_file():
        return f" Unpack it, and name the {inside[0]} file inside."
    several = "Save them as one set: numpy.savez('set.npz', images=images, labels=labels)"
    return f" {several if left_out[inside[0]] > 1 else f'Name the {inside[0]} file inside'}."


def _place_for(path: Path, count: int, like: torch.Tensor) -> torch.Tensor:
    """Room for `count` images like these; where they take 1 GiB or more, in a temporary file that is mapped into memory."""
    size = count * like[0].nbytes
    if size > synthetic.max_bytes():
        raise MabenchError(f"{path}: {count:,} images of {size:,} bytes; sets up to {synthetic.max_bytes():,} bytes are read.")
    return torch.from_numpy(limits.allocate((count, *like.shape[1:]), "u1", path))


def _of_size(path: Path, part: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    if part.shape[2:] != images.shape[2:]:
        raise MabenchError(f"{path}: its images have different sizes. Resize them yourself, so that you know what is measured.")
    return part


def _joined(path: Path, parts: list[Any]) -> torch.Tensor:
    """One tensor of a column's parts, which are let go one by one."""
    if len(parts) == 1:
        return torch.as_tensor(parts[0])
    widest = max(parts, key=lambda part: part.shape[1] if part.ndim == 4 else 0)
    if widest.ndim != 4 or widest.dtype != torch.uint8:
        return torch.cat([torch.as_tensor(part) for part in parts])
    images, begin = _place_for(path, sum(map(len, parts)), widest), 0
    while parts:
        part = parts.pop(0)
        images[begin : begin + len(part)] = _of_size(path, part, images)
        begin += len(part)
    return images


def _table(path: Path, files: list[Path], images_key: str | None, labels_key: str | None) -> Draft:
    for file in files:  # a Git LFS pointer among them, say
        head_of(file)
    answers = [open_in_child(tables.read_table, file, synthetic.MAX_BYTES) for file in files]
    columns: dict[str, Any] = {}
    for name, first in answers[0]["columns"].copy().items():
        parts = [answer["columns"].pop(name, None) for answer in answers]
        if any(part is None for part in parts):
            raise MabenchError(f"{path}: column '{name}' is not in all of its files. Name one file.")
        columns[name] = [text for part in parts for text in part] if isinstance(first, list) else _joined(path, parts)
    columns |= dict.fromkeys(name for answer in answers for name in answer["unread"])
    draft = select(path, columns, None, images_key, labels_key)
    draft.findings = [f for f in draft.findings if f.field != "format"]
    draft.note("format", "table", f"{len(files)} files, columns {first_line(columns)}", "--images-key --labels-key")
    for answer in answers:
        for what, count in answer["converted"].items():
            draft.note("images", f"{count} converted", what)
    return draft
