"""Opening what lies at a path: which files belong to a set, and their raw contents as containers of tensors and texts.

Files of strangers are opened in a child process (`sandbox.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch

from mabench.errors import MabenchError, first_line
from mabench.files import size_of
from mabench.sets import formats, keys, limits, pickles, pictures, synthetic, tables
from mabench.sets.sandbox import open_in_child
from mabench.sets.selecting import Draft, as_array, select, set_rate

PICTURES_AT_ONCE = 4000  # ours: a child opens so many images
ARRAY_SUFFIXES = (".pt", ".pth", ".npz", ".npy", ".safetensors")
P = TypeVar("P", bound=PurePath)


def head_of(path: Path) -> bytes:
    """The first bytes of a file. Raises MabenchError for what is no set at a glance."""
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
    if head.lstrip()[:1] == b"<":
        raise MabenchError(
            f"{path}: is an HTML page, not a set: the download was answered with a web page. Fetch the file itself."
        )
    if head.startswith(b"version https://git-lfs"):
        raise MabenchError(f"{path}: is a Git LFS pointer, not the set. Run `git lfs pull` where it comes from.")
    return head


def is_safetensors(path: Path, head: bytes) -> bool:
    """By its name, or by a header that begins like one."""
    return path.suffix.lower() == ".safetensors" or (len(head) > 9 and head[8:10] in (b'{"', b"{ ") and head[5:8] == b"\0\0\0")


def content_of(path: Path) -> Any:
    """Raw contents of one file of arrays."""
    head = head_of(path)
    if is_safetensors(path, head):
        return _safetensors(path)
    if head.startswith(b"\x93NUMPY") or (head.startswith(b"PK") and path.suffix.lower() == ".npz"):
        arrays = open_in_child(formats.read_numpy, path, synthetic.MAX_BYTES)
        return arrays["images"] if head.startswith(b"\x93NUMPY") else arrays
    return open_in_child(pickles.load, path, synthetic.MAX_BYTES)


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
    if head.startswith(b"PAR1") or path.suffix == ".arrow":
        return _table(path, [path], images_key, labels_key)
    if _is_archive(path, head):
        listed = open_in_child(pictures.list_archive, path, synthetic.MAX_BYTES)
        return _pictures(path, listed["names"], listed["left_out"], pictures.decode_members)
    draft = select(path, content_of(path), set_index, images_key, labels_key)
    return _with_files_beside(draft, path)


def _is_archive(path: Path, head: bytes) -> bool:
    if head.startswith(b"PK"):
        return path.suffix.lower() == ".zip"
    return head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


# -- folders --------------------------------------------------------------------------------------------------------------


def _folder(path: Path, set_index: int | None, images_key: str | None, labels_key: str | None) -> Draft:
    saved = tables.list_saved(path)
    if saved:
        return _table(path, saved, images_key, labels_key)
    arrays = sorted(p for p in path.iterdir() if p.suffix.lower() in ARRAY_SUFFIXES and not keys.is_leftover(p.name))
    pictured, best = with_images(arrays)
    if pictured:
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


def with_images(arrays: Sequence[P]) -> tuple[list[P], list[P]]:
    """Those of a folder's files of arrays that hold images, by their names; and the preferred ones among them."""
    pictured = [p for p in arrays if not _role(p, "labels") and not _role(p, "rate")]
    best = [p for p in pictured if p.stem.endswith("_best")] or pictured
    return pictured, [p for p in best if "_zca" in p.stem] or best


def _pictures(path: Path, names: list[str], left_out: dict[str, int], decode: Any) -> Draft:
    others = first_line(f"{n} {suffix}" for suffix, n in sorted(left_out.items()))
    if not names:
        raise MabenchError(
            f"{path}: holds no images in sub-folders (found: {others or 'nothing'}). Expected one sub-folder per class with "
            f"{', '.join(sorted(pictures.SUFFIXES))}."
        )
    classes = pictures.class_names(path, names)
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


def _place_for(path: Path, count: int, like: torch.Tensor) -> torch.Tensor:
    """Room for `count` images like these; where they take 1 GiB or more, in a temporary file that is mapped into memory."""
    size = count * like[0].nbytes
    if size > synthetic.max_bytes():
        raise MabenchError(f"{path}: {count:,} images of {size:,} bytes; sets up to {synthetic.max_bytes():,} bytes are read.")
    return torch.from_numpy(limits.allocate((count, *like.shape[1:]), "u1", path))


def _of_size(path: Path, part: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    if part.shape[2:] != images.shape[2:]:
        raise MabenchError(
            f"{path}: its images have different sizes. Resize them yourself, so that what is measured is what you chose."
        )
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
    answers = [open_in_child(tables.read_table, file, synthetic.MAX_BYTES) for file in files]
    columns: dict[str, Any] = {}
    for name, first in answers[0]["columns"].copy().items():
        parts = [answer["columns"].pop(name, None) for answer in answers]
        if any(part is None for part in parts):
            raise MabenchError(f"{path}: column '{name}' is not in all of its files. Name one file.")
        columns[name] = [text for part in parts for text in part] if isinstance(first, list) else _joined(path, parts)
    draft = select(path, columns, None, images_key, labels_key)
    draft.findings = [f for f in draft.findings if f.field != "format"]
    draft.note("format", "table", f"{len(files)} files, columns {first_line(columns)}", "--images-key --labels-key")
    for answer in answers:
        for what, count in answer["converted"].items():
            draft.note("images", f"{count} converted", what)
    return draft


# -- files beside ---------------------------------------------------------------------------------------------------------


def _role(path: PurePath, role: str) -> bool:
    words = re.split(r"[^a-z]+", path.stem.lower())
    usual = {"labels": {"labels", "label", "targets", "target", "y"}, "rate": {"lr"}}[role]
    return bool(usual & set(words)) and not {"images", "image"} & set(words)


def _with_files_beside(draft: Draft, path: Path) -> Draft:
    """Labels and a learned rate that lie in files of their own: images_best.pt, labels_best.pt, lr_best.pt."""
    beside = [p for p in sorted(path.parent.iterdir()) if p != path and p.suffix.lower() in ARRAY_SUFFIXES]
    if draft.class_major and draft.labels is None:
        stem = path.stem.replace("_zca", "")
        wanted = {re.sub(a, b, stem) for a, b in (("images", "labels"), ("image", "label"), ("images", "targets"), ("data", "labels"),
                  ("data", "targets"), (r"(^|_)[xX](_|$)", r"\1y\2"), (r"(^|_)X(_|$)", r"\1Y\2"))} - {stem}  # fmt: skip
        labels = [p for p in beside if p.stem in wanted]
        alike = [
            p.name for p in beside if _role(p, "labels") and not any(q.stem == p.stem.replace("labels", "images") for q in beside)
        ]
        if not labels and alike and (_speaks_of_images(stem)):
            raise MabenchError(
                f"{path}: {first_line(alike)} beside it may be its labels, but none is called {first_line(sorted(wanted))}. Rename it."
            )
        if len(labels) > 1:
            raise MabenchError(f"{path}: {first_line(p.name for p in labels)} may be its labels. Leave one of them there.")
        if labels:
            found = as_array(content_of(labels[0]))
            if found is None:
                raise MabenchError(f"{labels[0]}: is no array of labels. Store one label per image.")
            trajectory = path.stem.startswith("images_") and "_zca" not in path.stem
            findings = [f for f in draft.findings if f.field != "format"]
            draft = Draft(path, draft.images, found, normalised_by_default=trajectory, findings=findings)
            draft.note("format", "MTT" if trajectory else "two files", f"{path.name} beside {labels[0].name}")
    if (
        path.with_name(path.name.replace("images_", "images_zca_", 1)).exists()
        and "_zca" not in path.stem
        and path.stem.startswith("images_")
    ):
        draft.normalised_by_default = False
        draft.note(
            "zca",
            "whitened",
            f"images_zca{path.stem.removeprefix('images')} beside it is the same with the whitening undone",
            "--space zca",
        )
    rates = [
        p
        for p in beside
        if _role(p, "rate")
        and (p.stem in ("lr", "syn_lr") or p.stem == "lr" + path.stem.replace("_zca", "").removeprefix("images"))
    ]
    if len(rates) == 1 and draft.learning_rate is None:
        value = (
            as_array(content_of(rates[0]))
            if not isinstance(number := content_of(rates[0]), int | float)
            else torch.tensor(number)
        )
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            set_rate(draft, (rates[0].name, float(value)))
    return draft


def _speaks_of_images(stem: str) -> bool:
    return bool(re.search(r"images?|data|(^|_)x(_|$)", stem.lower()))
