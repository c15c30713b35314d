"""Parquet and arrow files, and folders saved by `datasets`: an entry a column, images decoded. Imports no torch.

Files are opened in a child process (`sandbox.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mabench.errors import MabenchError, first_line, one_line
from mabench.files import read_bytes
from mabench.sets import limits, pictures

MAX_JSON = 2**22  # ours: 21,000 class names take 400 kB


def list_parquet(path: Path) -> list[Path]:
    """The parquet files of the one split that a folder holds: shards are called SPLIT-00000-of-00010.parquet."""
    files = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith("."))
    splits = sorted({split_of(file.relative_to(path)) for file in files})
    if len(splits) > 1:
        raise MabenchError(f"{path}: holds several tables ({first_line(splits)}). Name the file of one of them.")
    check_shards(str(path), [file.relative_to(path) for file in files], "Fetch the others too.")
    return files


def split_of(file: PurePath) -> str:
    """What the shards of one table share: data/train-00000-of-00010.parquet is of data/train."""
    return str(file.parent / file.stem.split("-")[0])


def shards_of(file: PurePath) -> int:
    """How many shards the table has, by the name of one: 10 of train-00000-of-00010.parquet; 0 where it does not say."""
    match = re.search(r"-\d+-of-(\d{1,6})$", file.stem)  # and not best-of-10.pt
    return int(match[1]) if match else 0


def check_shards(where: str, files: Sequence[PurePath], cure: str) -> None:
    """Raise MabenchError where the names say that there are more shards: part of a set would be another set."""
    counts = {shards_of(file) for file in files} - {0}
    if counts and counts != {len(files)}:
        raise MabenchError(
            f"{where}: {len(files)} of {max(counts)} shards of {one_line(split_of(files[0]), 80)} are there. {cure}"
        )


def list_saved(path: Path) -> list[Path]:
    """The arrow files of a folder written by `save_to_disk`; empty where it is none."""
    cure = "Save the set again with save_to_disk."
    try:
        if (path / "dataset_dict.json").is_file():
            splits = json.loads(read_bytes(path / "dataset_dict.json", MAX_JSON, cure)).get("splits", [])
            if len(splits) != 1:
                raise MabenchError(f"{path}: holds the splits {first_line(map(str, splits))}. Name the folder of one of them.")
            path = path / Path(str(splits[0])).name
        if not (path / "state.json").is_file():
            return []
        state = json.loads(read_bytes(path / "state.json", MAX_JSON, cure))
        files = [path / Path(str(entry["filename"])).name for entry in state["_data_files"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise MabenchError(f"{path}: its state.json or dataset_dict.json is damaged. {cure}") from error
    if state.get("_indices_files"):
        raise MabenchError(f"{path}: is a selection of rows. Save it with .flatten_indices().save_to_disk(...).")
    return files


def read_table(path: Path) -> dict[str, Any]:
    """One parquet or arrow file: `columns` (name -> array [N,...] or texts), `converted` as `pictures.decode`, and `unread` columns."""
    pa.set_cpu_count(1)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                source = pq.ParquetFile(path)
                groups = source.metadata
                limits.declare(size + sum(groups.row_group(k).total_byte_size for k in range(groups.num_row_groups)), path)
                table = source.read(use_threads=False)
            else:
                limits.declare(2 * size, path)
                content = pa.py_buffer(path.read_bytes())
                opened = pa.ipc.open_file if file.seek(0) == 0 and file.read(6) == b"ARROW1" else pa.ipc.open_stream
                table = opened(content).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MabenchError(
            f"{path}: not a readable parquet or arrow file ({one_line(str(error), 160)}). Fetch it again."
        ) from error
    return _read_columns(path, table)


def _read_columns(path: Path, table: Any) -> dict[str, Any]:
    features = _features(table)
    columns: dict[str, Any] = {}
    converted: dict[str, int] = {}
    unread = []
    for name in table.column_names:
        column, place = table.column(name), f"{path}: column '{one_line(name, 60)}'"
        if pa.types.is_dictionary(column.type):  # categories of pandas
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
            encoded = [row["bytes"] for row in column.to_pylist()]
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            encoded = column.to_pylist()
        else:
            fields = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
            inner = zip([f"{name}.{field}" for field in fields], column.flatten(), strict=True) if fields else [(name, column)]
            for key, part in inner:
                values = None if part.null_count else _values(place, part, features.get(name) if key == name else None)
                if values is None:
                    unread.append(str(key))
                else:
                    columns[key] = values
            continue
        if column.null_count:
            raise MabenchError(f"{place} has {column.null_count} empty rows. Save the set without them.")
        if any(content is None for content in encoded):
            raise MabenchError(f"{place} names image files that are elsewhere. Save the set with its images inside.")
        answer = pictures.decode(path, [(f"{place}, row {k}", lambda c=c: c) for k, c in enumerate(encoded)])  # type: ignore[misc]
        columns[name] = answer["images"]
        converted |= answer["converted"]
    return {"columns": columns, "converted": converted, "unread": unread}


def _features(table: Any) -> dict[str, Any]:
    """What `datasets` wrote of the columns into the file's metadata."""
    said = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(said)["info"]["features"] if len(said) <= MAX_JSON else {}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _values(place: str, column: Any, feature: Any) -> Any:
    """An array [N,...], texts, or None for a column of another kind."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [str(text) for text in column.to_pylist()]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = column.to_numpy()
        names = feature.get("names") if isinstance(feature, dict) else None
        if (
            isinstance(names, list)
            and names != [str(k) for k in range(len(names))]
            and len(numbers)
            and numbers.min() >= 0
            and numbers.max() < len(names)
        ):
            return [str(names[int(k)]) for k in numbers]  # the name says which class it is, whatever its number here
        return numbers
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or isinstance(kind, pa.BaseExtensionType):
        try:
            array = np.array([np.array(row) for row in column.to_pylist()])
        except ValueError as error:
            raise MabenchError(f"{place}: its rows have different lengths. Save arrays of one shape.") from error
        return array if array.dtype.kind in "fiub" else None
    return None
