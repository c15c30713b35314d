"""The images of every set as a table of its own, which the Hub's viewer shows as pictures and `datasets` loads by the set's name.

The pictures have 8 bits and a hard label; what is trained on is the set itself, in its submission.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mabench.board import stored
from mabench.board.hub.commits import Changes, file_at
from mabench.board.submission import FOLDER, SET
from mabench.errors import MabenchError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

IMAGES = "data/images"
MAX_SET_BYTES = 2**29  # ours: a larger set is not fetched to be drawn; it can be pulled
MAX_PIXEL_BYTES = 2**26  # ours: of one table before compression, about 440 photographs of 224 x 224 or 21,000 images of 32 x 32


def place(slug: str, sha256: str) -> str:
    """The table's place in the repository; another set under the same name gets another."""
    return f"{IMAGES}/{slug}-{sha256[:12]}.parquet"


def update(
    api: HfApi, repo: str, head: str, wanted: Mapping[str, Sequence[str]], own: Mapping[str, bytes]
) -> tuple[dict[str, str], Changes, list[str]]:
    """Tables of images for `wanted` (slug -> sha256 of its sets), of which `own` are being sent with this commit.

    A submission of several sets shows the one in its first file. Only sets that have no table yet are fetched; a table whose set
    is gone is removed. Returns slug -> place of its table, the changes, and why a submission has none.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        there = {entry.path for entry in api.list_repo_tree(repo, IMAGES, repo_type="dataset", revision=head)}
    except EntryNotFoundError:
        there = set()
    places: dict[str, str] = {}
    changes: Changes = {}
    problems = []
    for slug, sums in wanted.items():
        found = next((path for path in (place(slug, sha256) for sha256 in sums) if path in there), None)
        try:
            if found is None:
                sha256, content = _table_of(repo, head, slug, sums, own.get(slug))
                found = place(slug, sha256)
                changes[found] = content
            places[slug] = found
        except MabenchError as error:
            problems.append(str(error))
    gone = {path: None for path in sorted(there - set(places.values()))}
    return places, changes | gone, problems


def _table_of(repo: str, head: str, slug: str, sums: Sequence[str], own: bytes | None) -> tuple[str, bytes]:
    """(sha256, table) of the first set of a submission: of the bytes at hand, or of the file in the repository."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SET
        if own is not None:
            path.write_bytes(own)
        else:
            fetched = file_at(repo, "dataset", f"{FOLDER}/{slug}/{SET}", head)
            if fetched is None:
                raise MabenchError(f"{repo}: {FOLDER}/{slug}/{SET} is gone. Run the command again.")
            path = fetched
        for sha256 in sums[:-1]:
            try:
                return sha256, parquet(path, sha256)
            except MabenchError:  # of another file of the submission
                continue
        return sums[-1], parquet(path, sums[-1])


def parquet(path: Path, sha256: str) -> bytes:
    """The images of the set file `path`, class by class: columns `image` (Image), `label` (ClassLabel) and `index` in the set.

    Of a set with more than MAX_PIXEL_BYTES, the first images of every class that fit. Same set, same bytes. Raises MabenchError
    for a file that is not the set called `sha256`.
    """
    import datasets
    import pyarrow.parquet as pq
    from PIL import Image

    found = stored.read(path, sha256)
    classes = found.classes
    most = max(1, MAX_PIXEL_BYTES // (found.pixels[0].nbytes * len(classes)))
    rows: dict[str, list[object]] = {"image": [], "label": [], "index": []}
    for label in classes:
        for index in found.of_class(label, most):
            buffer = io.BytesIO()
            Image.fromarray(found.pixels[index]).save(buffer, "PNG")
            rows["image"].append({"bytes": buffer.getvalue(), "path": None})
            rows["label"].append(label)
            rows["index"].append(index)
    names = [found.class_name(label) for label in range(max(len(found.names), max(classes) + 1))]
    if len(set(names)) < len(names):
        names = [f"{label} {name}" for label, name in enumerate(names)]
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names), "index": datasets.Value("int64")}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(columns)).data.table
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
