"""Files that nobody should have to trust, given to everything that reads files, and command lines that nobody should have typed.

The default run takes 20,000 inputs; `python tests/test_fuzz.py 1000000` takes more and prints the table of benchmarks/results.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import Files, Outcome, Reader, fuzz
from PIL import Image

import mabench as package
from mabench import adapters, data, display, hub, papers, protocol, submissions, submit, suites, synthetic
from mabench.files import read_bytes
from mabench.leaderboard import page, sources
from mabench.schema import Card, RunRecord
from mabench.store import Folder, read_records
from mabench.submissions import AUDIT, CARD, RECORDS
from mabench.synthetic import SyntheticSet
from mabench_methods import _kit
from mabench_methods.gvbsm import labels, teachers
from mabench_methods.gvbsm import condense as gvbsm
from mabench_methods.trajectory import experts

INPUTS = int(os.environ.get("MABENCH_FUZZ_INPUTS", "20000"))
CPU = torch.device("cpu")

# -- valid samples -----------------------------------------------------------------------------------------------------

X = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10)
MADE = SyntheticSet(images=(X * 255).to(torch.uint8), labels=Y, dataset="digits", ipc=1, name="made")


def torch_file(value: Any, **arguments: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **arguments)
    return buffer.getvalue()


def numpy_file(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def saved(save: Callable[[Path], Any]) -> dict[str, bytes]:
    """What `save` writes into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def image_files() -> dict[str, bytes]:
    files = {}
    for k in range(10):
        buffer = io.BytesIO()
        kind = ("PNG", "JPEG", "WEBP", "BMP")[k % 4]
        Image.fromarray((X[k] * 255).byte().permute(1, 2, 0).numpy()).save(buffer, kind)
        files[f"{k}/0.{kind.lower()}"] = buffer.getvalue()
    return files


EXAM = suites.load("digits-agnostic")


def made_record(evaluator: str = "mlp-scratch", seed: int = 0) -> RunRecord:
    entry = next(e for e in EXAM.evaluators["scratch"] if e.name == evaluator)
    recipe = EXAM.recipes["scratch"]
    cell = protocol.Cell(
        set_sha256=MADE.sha256, suite=EXAM.id, suite_digest=EXAM.digest, track="scratch", evaluator=entry, recipe=recipe, seed=seed
    )
    looks = range(recipe.test_every, recipe.epochs + 1, recipe.test_every)
    test = data.load("digits", "test")
    return RunRecord(
        cell=cell, synthetic_set=MADE.summary(), test_sha256=test.sha256, total=len(test.labels),
        curve=tuple((epoch, 100 + epoch) for epoch in looks), train_loss=tuple((epoch, 1.0 / epoch) for epoch in looks),
        environment={"mabench": "0", "python": "3", "torch": "2", "timm": "1", "platform": "x", "device": "cpu", "arithmetic": "x"},
        seconds=1.0, started="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


RECORD = made_record()
CARD_TEXT = Card(
    title="made", authors=("A. Author",), licence="CC0-1.0", paper="https://example.org/a", slug="made-set", gpu_hours=0.5,
    source_networks=("convnet3",), command="mabench reproduce\nrandom", decoder_bytes=3,
).toml().encode()  # fmt: skip


def log_of(records: Files) -> bytes:
    entry = submissions.make_entry(
        who="A. Author", action="submitted", tier="self-run", why="made", set_sha256=MADE.sha256,
        records={Path(n).stem: submissions.sha256(c) for n, c in records.items()},
    )  # fmt: skip
    again = submissions.make_entry(who="B. Reader", action="tier", tier="challenged", why="a doubt", set_sha256=MADE.sha256)
    first = submissions.appended((), entry)
    return submissions.appended(submissions.parse_audit(first, Path("x")), again)


RECORD_FILES = {f"{RECORDS}{submissions.record_name(RECORD)}.json": submissions.record_bytes(RECORD)}
SUBMISSION = {f"made-set/{n}": c for n, c in {CARD: CARD_TEXT, AUDIT: log_of(RECORD_FILES), **RECORD_FILES}.items()}


def evaluation_folder(folder: Path) -> None:
    place = Folder(folder, MADE.sha256, EXAM.id, EXAM.digest)
    place.claim({})
    place.save(RECORD)


TINY = dataclasses.replace(  # a dataset as if from the Hub, so that the cache and the parquet files are read
    data.DATASETS["digits"], train_size=10, test_size=10, digests={}, hub_repo="some/where", files={"test": "*.parquet"}
)


def cached_split(folder: Path) -> None:
    images = (X * 255).byte().numpy()
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", Y.numpy())
    meta = {"format": data.CACHE_FORMAT, "digests": data.content_digests(images, Y.numpy())}
    (folder / "meta.json").write_text(json.dumps(meta))


def parquet_split(folder: Path) -> None:
    encoded = [{"bytes": c, "path": n} for n, c in image_files().items() if n.endswith(("png", "jpeg"))]
    table = pa.table({"image": [encoded[k % len(encoded)] for k in range(10)], "label": pa.array(range(10), pa.int64())})
    pq.write_table(table, folder / "test-0.parquet")


SITTING_CELL = RECORD.cell.model_copy(
    update={"recipe": RECORD.cell.recipe.model_copy(update={"epochs": 2, "test_every": 1, "decay_after": None})}
)


def checkpoint_file(folder: Path) -> None:
    sitting = protocol.Sitting(MADE, SITTING_CELL, data.load("digits", "test"), CPU, checkpoint=folder / "cell.pt")
    sitting._clock = sitting._saved_at = time.monotonic()
    sitting._epoch()
    sitting._save()


def run_folder(folder: Path) -> None:
    run = _kit.Run(folder)
    run.begin("made", KIT_CONFIG, 0, data.load("digits", "train"))
    (folder / "checkpoint.pt").write_bytes(torch_file({"losses": [(1, {"loss": 0.5})], "seconds": 1.0, "state": {"x": X[0]}}))


@dataclasses.dataclass(frozen=True)
class KitConfig:
    ipc: int = 1


KIT_CONFIG = KitConfig()


def expert_file(folder: Path) -> None:
    made = experts.Expert((1.0, 2.0), (0.5, 0.6), weights=torch.rand(3, 7))
    made.save(folder / "expert-000.safetensors", {"seed": 1})


def label_files(folder: Path) -> None:
    pixels, views = torch.zeros(2, 10, 4, dtype=torch.int16), torch.zeros(2, 10, dtype=torch.uint8)
    pixels[..., 2:] = 32
    tensors = {
        "order": torch.stack([torch.randperm(10), torch.randperm(10)]).int(), "boxes": pixels, "flipped": views,
        "partner": torch.zeros(2, 10, dtype=torch.int32), "mix": torch.zeros(2, 2, 4, dtype=torch.int16),
        "logits": torch.zeros(2, 10, 10, dtype=torch.float16),
    }  # fmt: skip
    header = {"format": labels.FORMAT, "version": labels.VERSION, "set_sha256": MADE.sha256, "batch": 5, "first_epoch": 0}
    labels._save(folder / "labels-00000.safetensors", tensors, header)


# -- readers -----------------------------------------------------------------------------------------------------------


def shown_and_packed(chosen: SyntheticSet) -> None:
    """What `mabench check` and `mabench pack` do with a set that was read; the packed file has to be the same set."""
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
        display.describe(chosen)
    assert chosen.images.nbytes <= adapters.MAX_BYTES
    with tempfile.TemporaryDirectory() as scratch:
        synthetic.preview(chosen, Path(scratch) / f"{chosen.file_stem}.png", 2)
        chosen.save(Path(scratch) / "set.safetensors")
        assert synthetic.load(Path(scratch) / "set.safetensors").sha256 == chosen.sha256
        chosen.summary().model_dump_json()
        assert len(list(Path(scratch).iterdir())) == 2


def read_set(**arguments: Any) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        files = sorted(folder.iterdir())
        shown_and_packed(adapters.read(files[0] if len(files) == 1 else folder, **arguments))

    return read


def read_submission(folder: Path) -> None:
    """With the log's sums set right, so that a changed record is looked at and not only its sum."""
    place = folder / "made-set"
    records = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.glob(f"{RECORDS}*") if p.is_file() and not p.is_symlink()}
    if records != RECORD_FILES and (place / AUDIT).is_file():
        (place / AUDIT).write_bytes(log_of(records))
    found = sources.read_submissions(folder)
    hub.readme(hub._rows(written(folder / "table", hub.parquet(hub.tidy(found)))))


def examined(folder: Path) -> None:
    """All gates of `mabench submit`."""
    case = submit.examine(folder / "set.safetensors", [folder / "run"], folder / "card.toml", root=folder / "submissions")
    assert all(isinstance(text, str) for text in case.refusals)


def read_evaluation(folder: Path) -> None:
    place = Folder(folder, MADE.sha256, EXAM.id, EXAM.digest)
    place.finished(RECORD.cell)
    for record in read_records(folder):
        assert place.record_path(record.cell).resolve().is_relative_to((folder / "records").resolve())


def read_suite(folder: Path) -> None:
    exam = suites.load(str(folder / "mine.toml"))
    assert exam.digest and "/" not in exam.id
    for track, entries in exam.evaluators.items():
        for entry in entries:
            cell = RECORD.cell.model_copy(update={"suite": exam.id, "track": track, "evaluator": entry})
            assert "/" not in cell.name and "\n" not in cell.name


def read_parquet(folder: Path) -> None:
    files = sorted(folder.glob("*.parquet"))
    kept = data._read_labels(TINY, "test", files)
    for _ in data._batches(TINY, files, kept):
        pass


def resume(folder: Path) -> None:
    sitting = protocol.Sitting(MADE, SITTING_CELL, data.load("digits", "test"), CPU, checkpoint=folder / "cell.pt")
    sitting._resume()


def read_labels(folder: Path) -> None:
    record = labels.Record(folder, MADE)
    for epoch in (0, 1, 5):
        record.batches(epoch)


READERS = [
    Reader("set: torch files", read_set(dataset="digits"), (
        {"set.pt": torch_file({"data": [[X, Y]], "accs_all_exps": {"MLP": [np.float64(0.5)], "all": np.arange(3.0)}})},
        {"set.pt": torch_file({"synthetic_images": X[:, None], "init": "aug_kmeans", "factor": 2, "iteration": 3})},
        {"set.pt": torch_file((X, torch.eye(10)))},
        {"set.pt": torch_file([MADE.images, Y])},
        {"set.pt": torch_file({"images": X.half(), "labels": Y.int()})},
        {"set.pt": torch_file(X)},
        {"images_best.pt": torch_file(X), "labels_best.pt": torch_file(Y)},
    ), 4),
    Reader("set: torch files before 1.6", read_set(dataset="digits"), (
        {"set.pt": torch_file({"data": [[X[:, :, :, :32], Y]]}, _use_new_zipfile_serialization=False)},
        {"set.pt": torch_file((MADE.images, Y), _use_new_zipfile_serialization=False)},
    ), 2),
    Reader("set: numpy files", read_set(dataset="digits"), (
        {"set.npz": numpy_file(images=X.numpy(), labels=Y.numpy())},
        {"set.npz": numpy_file(x=(X.permute(0, 2, 3, 1) * 255).byte().numpy(), y=Y.numpy())},
        saved(lambda folder: np.save(folder / "set.npy", X.numpy())),
    ), 3),
    Reader("set: canonical", read_set(), (
        saved(lambda folder: MADE.save(folder / "set.safetensors")),
        {"set.safetensors": (Path(package.__file__).parent / "assets" / "digits_kmeans_ipc5.safetensors").read_bytes()},
    ), 4),
    Reader("set: canonical, with flags", read_set(dataset="digits", space="pixel"),
           (saved(lambda folder: MADE.save(folder / "set.safetensors")),)),
    Reader("set: folder of images", read_set(dataset="digits"), (image_files(),), 1.5),
    Reader("submission", read_submission, (SUBMISSION,), 3),
    Reader("card", lambda folder: submissions.read_card(folder / CARD).toml(), ({CARD: CARD_TEXT},), 3),
    Reader("audit log", lambda folder: submissions.parse_audit(
        read_bytes(folder / AUDIT, submissions.MAX_RECORD_BYTES, "Get it again."), folder / AUDIT), ({AUDIT: log_of(RECORD_FILES)},), 2),
    Reader("gates of submit", examined, ({
        "set.safetensors": saved(lambda folder: MADE.save(folder / "s"))["s"], "card.toml": CARD_TEXT,
        **{f"run/{n}": c for n, c in saved(evaluation_folder).items()},
        "run/results.json": json.dumps({
            "suite": EXAM.id, "cells": [{"track": "scratch", "evaluator": "mlp-scratch", "seed": 0, "acc_best": 0.1, "best_epoch": 1, "acc_last": 0.1}],
            "rows": [{"track": "scratch", "name": "mlp-scratch", "mean": 0.1, "std": None, "last": 0.1, "runs": 1}]}).encode(),
    },), 0.2),
    Reader("evaluation folder", read_evaluation, (saved(evaluation_folder),), 3),
    Reader("suite", read_suite, tuple({"mine.toml": suites.released()[name].read_bytes()}
           for name in ("digits-agnostic@1", "cifar10-modelpool-kd@1", "cifar10-hmdc@1", "imagenet1k-agnostic@1")), 3),
    Reader("tables of a paper", papers.read, tuple({f"{path.parent.name}/paper.toml": path.read_bytes()}
           for path in sorted(papers.INSTALLED.glob("*/paper.toml"))[:3]), 2),
    Reader("manifest of a board", lambda folder: page._write(folder, {"index.html": b"x"}, page._manifest(folder), {}), (
        {"manifest.json": json.dumps({"mabench": package.__version__, "files": {"sets/a/x.js": "0" * 64}, "previews": {"made-set": "0" * 64}}).encode(),
         "sets/a/x.js": b"x"},)),
    Reader("table of a repository", lambda folder: hub._rows(folder / "t.parquet"), (
        {"t.parquet": hub.parquet([])},)),
    Reader("cache of a dataset", lambda folder: data._open_cached(TINY, "test", folder), (saved(cached_split),), 2),
    Reader("parquet of a dataset", read_parquet, (saved(parquet_split),), 2),
    Reader("checkpoint of a cell", resume, (saved(checkpoint_file),), 0.3),
    Reader("folder of a condensation", lambda folder: _kit.Run(folder).begin("made", KIT_CONFIG, 0, data.load("digits", "train")),
           (saved(run_folder),), 0.7),
    Reader("expert", lambda folder: experts.load(folder / "expert-000.safetensors").rows(0, -1), (saved(expert_file),)),
    Reader("labels of every epoch", read_labels, (saved(label_files),)),
    Reader("network or statistics of a teacher", lambda folder: teachers._read(folder / "t.safetensors"), (
        saved(lambda folder: teachers._write(folder / "t.safetensors", {"a": X[0]}, {"sha256": "0" * 64})),), 0.5),
    Reader("images of a stage", lambda folder: gvbsm._finished(folder / "images.pt"), ({"images.pt": torch_file(X)},), 0.5),
]  # fmt: skip
