"""Files that nobody should have to trust, given to everything that reads files, and command lines that nobody should have typed.

The default run takes 4,000 inputs and the slow one 20,000; `python tests/test_fuzz.py 1000000` takes more and prints the table of benchmarks/results.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import Command
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.fuzzing import HANG_SECONDS, NAMES, Files, Reader, fuzz, invisible, run_in_this_process, write
from support.hostile import numpy_file, torch_file

import mabench as package
from mabench import data, digests, suites, training
from mabench.board import audit_log, cells, submit
from mabench.board import submission as submissions
from mabench.board.cells import CellRow
from mabench.board.hub import cards
from mabench.board.site import folder as board_folder
from mabench.board.site import sources
from mabench.board.submission import AUDIT, CARD, RECORDS
from mabench.cli import console as display
from mabench.cli import main as cli
from mabench.errors import Interrupted, MabenchError, printable
from mabench.files import read_bytes
from mabench.results import paper_tables as papers
from mabench.runs.folder import MAX_RECORD_BYTES, Folder, read_record, read_records
from mabench.schema import Card, Cell, RunRecord
from mabench.sets import label_files, recorded, sandbox, synthetic
from mabench.sets import readers as adapters
from mabench.sets.synthetic import SyntheticSet
from mabench.training import state
from mabench.training.loop import Trainer
from mabench.training.material import Material
from mabench.training.testing import VisitingOrder
from mabench_methods.gvbsm import teachers
from mabench_methods.trajectory import experts

INPUTS = 4_000
MORE_INPUTS = int(os.environ.get("MABENCH_FUZZ_INPUTS", "20000"))
"""Among all readers: in the default run, and in the slow one, which begins where the default one ends."""
COMMAND_LINES = 0.02
"""Command lines for every file: a thousand take as long as twenty thousand files."""
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are opened as the child opens them, but without a child each; test_hostile_files.py starts it."""
    monkeypatch.setattr(sandbox, "_run", run_in_this_process)


# -- valid samples -----------------------------------------------------------------------------------------------------

X = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10)
MADE = SyntheticSet(images=(X * 255).to(torch.uint8), labels=Y, dataset="digits", ipc=1, name="made")


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
    cell = Cell(
        set_sha256=MADE.sha256,
        suite=EXAM.id,
        suite_digest=EXAM.digest,
        track="scratch",
        evaluator=entry,
        recipe=recipe,
        seed=seed,
        seed_streams=EXAM.suite.seed_streams,
    )
    looks = range(recipe.test_every, recipe.epochs + 1, recipe.test_every)
    test = data.load("digits", "test")
    return RunRecord(
        cell=cell, synthetic_set=MADE.summary(), test_sha256=test.sha256, total=len(test.labels),
        curve=tuple((epoch, 100 + epoch) for epoch in looks), train_loss=tuple((epoch, 1.0 / epoch) for epoch in looks),
        environment={"mabench": "0", "python": "3", "torch": "2", "timm": "1", "platform": "x", "device": "cpu", "arithmetic": "x"},
        seconds=1.0, started="2026-01-01T00:00:00+00:00", initial_weights_sha256="1" * 64, first_losses=(2.3,) * 10,
    )  # fmt: skip


RECORD = made_record()
CARD_TEXT = Card(
    title="made", authors=("A. Author",), licence="CC0-1.0", paper="https://example.org/a", slug="made-set", gpu_hours=0.5,
    source_networks=("convnet3",), command="mabench reproduce\nrandom", decoder_bytes=3,
).toml().encode()  # fmt: skip


def log_of(records: Files, card: bytes = CARD_TEXT) -> bytes:
    entry = audit_log.make_entry(
        who="A. Author", action="submitted", tier="self-run", why="made", set_sha256=MADE.sha256,
        records={Path(n).stem: digests.sha256(c) for n, c in records.items()}, card_sha256=digests.sha256(card),
    )  # fmt: skip
    again = audit_log.make_entry(who="B. Reader", action="tier", tier="challenged", why="a doubt", set_sha256=MADE.sha256)
    first = audit_log.appended((), entry)
    return audit_log.appended(audit_log.parse(first, Path("x")), again)


def record_files() -> dict[str, bytes]:
    return {f"{RECORDS}{submissions.record_name(RECORD)}.json": submissions.record_bytes(RECORD)}


def submission() -> dict[str, bytes]:
    stored = saved(lambda folder: MADE.save(folder / submissions.SET))
    files = {CARD: CARD_TEXT, AUDIT: log_of(record_files()), **record_files(), **stored}
    return {f"made-set/{name}": content for name, content in files.items()}


def examination() -> dict[str, bytes]:
    """A set, its evaluation and a card, as `mabench submit` takes them."""
    cell = {"track": "scratch", "evaluator": "mlp-scratch", "seed": 0, "acc_best": 0.1, "best_epoch": 1, "acc_last": 0.1}
    row = {"track": "scratch", "name": "mlp-scratch", "mean": 0.1, "std": None, "last": 0.1, "runs": 1}
    run = saved(evaluation_folder) | {"results.json": json.dumps({"suite": EXAM.id, "cells": [cell], "rows": [row]}).encode()}
    made = saved(lambda folder: MADE.save(folder / "set.safetensors"))
    return {**made, "card.toml": CARD_TEXT, **{f"run/{name}": content for name, content in run.items()}}


def board(folder: Path) -> None:
    (folder / "sets" / "a").mkdir(parents=True)
    (folder / "sets" / "a" / "old.js").write_text("x")
    manifest = {"mabench": package.__version__, "files": {"sets/a/old.js": "0" * 64}, "previews": {"made-set": "0" * 64}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


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
    meta = {"format": data.cache.CACHE_FORMAT, "digests": data.content_digests(images, Y.numpy())}
    (folder / "meta.json").write_text(json.dumps(meta))


def parquet_split(folder: Path) -> None:
    encoded = [{"bytes": c, "path": n} for n, c in image_files().items() if n.endswith(("png", "jpeg"))]
    table = pa.table({"image": [encoded[k % len(encoded)] for k in range(10)], "label": pa.array(range(10), pa.int64())})
    pq.write_table(table, folder / "test-0.parquet")


CHECKPOINT_CELL = RECORD.cell.model_copy(
    update={"recipe": RECORD.cell.recipe.model_copy(update={"epochs": 2, "test_every": 1, "decay_after": None})}
)


def checkpoint_file(folder: Path) -> None:
    steps = iter(range(10**9))
    with pytest.raises(Interrupted):
        training.run(
            MADE, CHECKPOINT_CELL, data.load("digits", "test"), device=CPU, checkpoint=folder / "cell.pt",
            should_stop=lambda: next(steps) > 2,
        )  # fmt: skip


def expert_file(folder: Path) -> None:
    made = experts.Expert((1.0, 2.0), (0.5, 0.6), weights=torch.rand(3, 7))
    made.save(folder / "expert-000.safetensors", {"seed": 1}, {})


def files_of_labels(folder: Path) -> None:
    pixels, views = torch.zeros(2, 10, 4, dtype=torch.int16), torch.zeros(2, 10, dtype=torch.uint8)
    pixels[..., 2:] = 32
    tensors = {
        "order": torch.stack([torch.randperm(10), torch.randperm(10)]).int(), "boxes": pixels, "flipped": views,
        "partner": torch.zeros(2, 10, dtype=torch.int32), "mix": torch.zeros(2, 2, 4, dtype=torch.int16),
        "logits": torch.zeros(2, 10, 10, dtype=torch.float16),
    }  # fmt: skip
    recorded.save(folder / label_files.file_name(0), tensors, recorded.header(MADE.sha256, 5, 0))


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
    records = {
        p.relative_to(place).as_posix(): p.read_bytes() for p in place.glob(f"{RECORDS}*") if p.is_file() and not p.is_symlink()
    }
    regular = (place / CARD).is_file() and not (place / CARD).is_symlink()
    card = (place / CARD).read_bytes() if regular else CARD_TEXT
    if (records, card) != (record_files(), CARD_TEXT) and (place / AUDIT).is_file():
        (place / AUDIT).write_bytes(log_of(records, card))
    found = [entry for each in submissions.folders(folder) if (entry := sources.read_submission(each)) is not None]
    rows = cells.of_submissions(found)
    cards.readme("board/results", cells.read(written(folder / "table", cells.parquet(rows, CellRow))))


def read_log(folder: Path) -> None:
    audit_log.parse(read_bytes(folder / AUDIT, MAX_RECORD_BYTES, "Fetch it again."), folder / AUDIT)


def read_manifest(folder: Path) -> None:
    board_folder.write(folder, [("index.html", b"x")], board_folder.earlier(folder), {})


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
    loaded_suite = suites.load(str(folder / "mine.toml"))
    assert loaded_suite.digest and "/" not in loaded_suite.id
    for track, entries in loaded_suite.evaluators.items():
        for entry in entries:
            cell = RECORD.cell.model_copy(update={"suite": loaded_suite.id, "track": track, "evaluator": entry})
            assert "/" not in cell.name and "\n" not in cell.name


def read_parquet(folder: Path) -> None:
    files = [folder / "test-0.parquet"]
    kept = data.cache._read_labels(TINY, "test", files)
    for _ in data.cache._batches(TINY, files, kept):
        pass


def resume(folder: Path) -> None:
    material = Material(MADE, CHECKPOINT_CELL, data.load("digits", "test"), CPU)
    saved = state.load(folder / "cell.pt", CHECKPOINT_CELL, "reference", VisitingOrder.fresh_state(material.test_labels))
    if saved is not None:
        Trainer(material, CHECKPOINT_CELL.evaluator, "reference", saved=saved)


def read_labels(folder: Path) -> None:
    record = recorded.RecordedLabels(folder, MADE.sha256, 10, 32, 10)
    for epoch in range(min(record.epochs, 9)):
        record.order(epoch)
        record.batch_of(epoch, 0)


READERS = [
    Reader("set: torch files", read_set(dataset="digits"), lambda: (
        {"set.pt": torch_file({"data": [[X, Y]], "accs_all_exps": {"MLP": [np.float64(0.5)], "all": np.arange(3.0)}})},
        {"set.pt": torch_file({"synthetic_images": X[:, None], "init": "aug_kmeans", "factor": 2, "iteration": 3})},
        {"set.pt": torch_file((X, torch.eye(10)))},
        {"set.pt": torch_file([MADE.images, Y])},
        {"set.pt": torch_file({"images": X.half(), "labels": Y.int()})},
        {"set.pt": torch_file(X)},
        {"images_best.pt": torch_file(X), "labels_best.pt": torch_file(Y)},
    ), 4),
    Reader("set: torch files before 1.6", read_set(dataset="digits"), lambda: (
        {"set.pt": torch_file({"data": [[X, Y]]}, _use_new_zipfile_serialization=False)},
        {"set.pt": torch_file((MADE.images, Y), _use_new_zipfile_serialization=False)},
    ), 2),
    Reader("set: numpy files", read_set(dataset="digits"), lambda: (
        {"set.npz": numpy_file(images=X.numpy(), labels=Y.numpy())},
        {"set.npz": numpy_file(x=(X.permute(0, 2, 3, 1) * 255).byte().numpy(), y=Y.numpy())},
        saved(lambda folder: np.save(folder / "set.npy", X.numpy())),
    ), 3),
    Reader("set: canonical", read_set(), lambda: (
        saved(lambda folder: MADE.save(folder / "set.safetensors")),
        {"set.safetensors": (Path(package.__file__).parent / "assets" / "digits_kmeans_ipc5.safetensors").read_bytes()},
    ), 4),
    Reader("set: canonical, with flags", read_set(dataset="digits", space="pixel"), lambda: (
        saved(lambda folder: MADE.save(folder / "set.safetensors")),
    )),
    Reader("set: folder of images", read_set(dataset="digits"), lambda: (image_files(),)),
    Reader("submission", read_submission, lambda: (submission(),), 3),
    Reader("card", lambda folder: submissions.read_card(folder / CARD).toml(), lambda: ({CARD: CARD_TEXT},), 3),
    Reader("audit log", read_log, lambda: ({AUDIT: log_of(record_files())},), 2),
    Reader("gates of submit", examined, lambda: (examination(),), 0.02),
    Reader("evaluation folder", read_evaluation, lambda: (saved(evaluation_folder),), 3),
    Reader("suite", read_suite, lambda: tuple({"mine.toml": suites.released()[name].read_bytes()} for name in (
        "digits-agnostic@1", "cifar10-modelpool-kd@1", "cifar10-hmdc@1", "imagenet1k-agnostic@1")), 3),
    Reader("tables of a paper", papers.read, lambda: tuple({f"{path.parent.name}/paper.toml": path.read_bytes()}
        for path in sorted(papers.INSTALLED.glob("*/paper.toml"))[:3]), 2),
    Reader("manifest of a board", read_manifest, lambda: (saved(board),)),
    Reader("table of a repository", lambda folder: cells.read(folder / "t.parquet"), lambda: ({"t.parquet": cells.parquet([], CellRow)},), 0.5),
    Reader("cache of a dataset", lambda folder: data.cache._open_cached(TINY, "test", folder), lambda: (saved(cached_split),), 2),
    Reader("parquet of a dataset", read_parquet, lambda: (saved(parquet_split),)),
    Reader("checkpoint of a cell", resume, lambda: (saved(checkpoint_file),), 0.02, strangers=False),
    Reader("expert", lambda folder: experts.load(folder / "expert-000.safetensors").rows(0, -1), lambda: (saved(expert_file),)),
    Reader("labels of every epoch", read_labels, lambda: (saved(files_of_labels),)),
    Reader("network or statistics of a teacher", lambda folder: teachers._read(folder / "t.safetensors"), lambda: (
        saved(lambda folder: teachers._write(folder / "t.safetensors", {"a": X[0]}, {"sha256": "0" * 64})),), 0.5),
]  # fmt: skip
"""Everything that reads a file, with files that are as they should be."""


# -- the tests ---------------------------------------------------------------------------------------------------------


def share(reader: Reader, inputs: int) -> int:
    """How many of `inputs` this reader gets."""
    return max(1, round(inputs * reader.weight / sum(r.weight for r in READERS)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_reader_refuses_what_it_cannot_read(reader: Reader, tmp_path: Path) -> None:
    outcome = fuzz(reader, share(reader, INPUTS), tmp_path)
    assert len(outcome.failures) == 0, f"of {outcome.inputs} inputs, by number: {list(outcome.failures.items())[:5]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_reader_refuses_the_rest_of_what_it_cannot_read(reader: Reader, tmp_path: Path) -> None:
    outcome = fuzz(reader, share(reader, MORE_INPUTS), tmp_path, first=share(reader, INPUTS))
    assert len(outcome.failures) == 0, f"of {outcome.inputs} inputs, by number: {list(outcome.failures.items())[:5]}"
    assert outcome.refused or reader.name in NEVER_REFUSE


NEVER_REFUSE = ("table of a repository", "gates of submit", "checkpoint of a cell")
"""Damage means that a table or a cell is made again; gates collect refusals."""


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_sample_is_valid(reader: Reader, tmp_path: Path) -> None:
    """So that what is mutated gets past the first check of each reader."""
    for number, files in enumerate(reader.samples()):
        write(tmp_path / f"in{number}", files, tmp_path)
        reader.read(tmp_path / f"in{number}")


CALLS = [
    (os.mkdir, ("executed",)),
    (eval, ("__import__('os').mkdir('executed')",)),
    (exec, ("import os; os.mkdir('executed')",)),
    (__import__("subprocess").call, (["mkdir", "executed"],)),
    (__import__("importlib").import_module, ("this",)),
    (__import__("builtins").__import__, ("antigravity",)),
    (torch.load, ("set.pt",)),
    (np.load, ("set.pt",)),
    (torch.hub.load_state_dict_from_url, ("http://127.0.0.1:9/x",)),
    (torch.Tensor.numpy, (X,)),
]


class Call:
    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_pickle_calls_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    for function, arguments in CALLS:
        evil = Call(function, arguments)
        contents = [torch_file({"data": [[X, Y]], "x": evil}, pickle_protocol=protocol), pickle.dumps(evil, protocol)]
        contents.append(torch_file([X, evil], _use_new_zipfile_serialization=False, pickle_protocol=protocol))
        for content in contents:
            Path("set.pt").write_bytes(content)
            with pytest.raises(MabenchError, match="NOT executed"):
                adapters.read(Path("set.pt"), dataset="digits")
    assert os.listdir() == ["set.pt"] and not {"this", "antigravity"} & (set(sys.modules) - before)


# -- names of strangers: on the terminal and on the disk ---------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.\x9b31m\u2028"


def test_no_message_holds_what_a_terminal_obeys() -> None:
    shown = str(MabenchError(f"{HOSTILE}\nsecond line\tand a tab"))
    assert not invisible(shown) and shown.count("\n") == 1 and "\\x1b]0;owned\\x07" in shown and "\\u202egnp" in shown
    assert str(MabenchError(shown)) == shown == str(pickle.loads(pickle.dumps(MabenchError(shown))))
    assert printable("\udcff") == "\\udcff" and printable("é²漢") == "é²漢" and printable("x" * 99, 9) == "x" * 9 + "..."


def test_the_terminal_never_obeys_a_file(mabench: Command, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    dataclasses.replace(MADE, name=HOSTILE).save(tmp_path / "set.safetensors")
    (tmp_path / f"evil{HOSTILE}.pt").write_bytes(b"no set")
    (tmp_path / "card.toml").write_text(f'{json.dumps(HOSTILE)} = 1\n"title" = "a\\u001b[31m"\n')
    (tmp_path / "mine.toml").write_text(f"[{json.dumps(HOSTILE)}]\n")
    one, two = f"evil{HOSTILE}.pt", "set.safetensors"
    for arguments, code in [
        (("check", two), 0),
        (("check", one), 2),
        (("check", one, two), 2),
        ((one,), 2),
        (("eval", two, "--suite", "mine.toml"), 2),
        (("submit", two, "--records", tmp_path, "--card", "card.toml"), 2),
    ]:
        done = mabench(*arguments)
        assert done.returncode == code and not invisible(done.stdout + done.stderr), (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "a\nb", "", ".."])
def test_names_in_files_lead_nowhere(tmp_path: Path, name: str) -> None:
    """Tracks, suites and evaluators become names of files."""
    text = suites.released()["digits-agnostic@1"].read_text()
    assert "[tracks]\nscratch" in text
    (tmp_path / "mine.toml").write_text(text.replace("[tracks]\nscratch", f"[tracks]\n{json.dumps(name)}"))
    with pytest.raises(MabenchError, match="tracks"):
        suites.load(str(tmp_path / "mine.toml"))
    for field in ("track", "suite", "evaluator"):
        value = RECORD.model_dump(mode="json")
        value["cell"][field] = value["cell"][field] | {"name": name} if field == "evaluator" else name
        (tmp_path / "r.json").write_text(json.dumps(value))
        with pytest.raises(MabenchError, match="is not a record"):
            read_record(tmp_path / "r.json")


def test_a_pipe_keeps_nobody_waiting(mabench: Command, tmp_path: Path) -> None:
    for name in ("set.pt", "set.npz", "set.safetensors", "card.toml"):
        os.mkfifo(tmp_path / name)
    MADE.save(tmp_path / "whole.safetensors")
    for arguments in [("check", "set.pt"), ("check", "set.npz"), ("check", "set.safetensors"), ("check", "/dev/zero"),
                      ("submit", "whole.safetensors", "--records", tmp_path)]:  # fmt: skip
        done = mabench(*arguments)
        assert done.returncode == 2 and "not a file" in done.stderr, done.stderr


# -- command lines -----------------------------------------------------------------------------------------------------

WORDS = [*(n.replace("\0", "") for n in NAMES), "0", "-1", "1e9", "9" * 30, "9" * 5000, "0,1", "cifar10", "digits", "grid2", "grid²", "cpu",
         "cuda:99", "meta", "set.safetensors", "broken.pt", "folder", "run", "card.toml", "mine.toml", "none.toml", "digits-agnostic",
         "digits-agnostic@1", "random", "smoke", "--", "-", "--help", "mlp*", "[", "ipc=1", "ipc=-1", "a.b.c=1", "=", "made-set"]  # fmt: skip
COMMANDS = [
    "check",
    "pack",
    "eval",
    "reproduce",
    "submit",
    "verify",
    "audit",
    "pull",
    "refresh",
    "list",
    "leaderboard build",
    "nothing",
]


def options_of(command: str) -> list[click.Option]:
    found: Any = cli.main
    for part in command.split():
        found = found.commands.get(part)
    # nothing is sent, no browser opens, no cluster starts; an evaluation is only planned, see `line`
    left_out = {"repo", "open_", "launcher", "address", "interactive"}
    return [p for p in getattr(found, "params", []) if isinstance(p, click.Option) and p.name not in left_out]


@st.composite
def line(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(COMMANDS))
    word = st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=12)
    words = draw(st.lists(word, max_size=2))
    for option in draw(st.lists(st.sampled_from(options_of(command) or [click.Option(["--nothing"])]), max_size=5)):
        allowed = option.type.choices if isinstance(option.type, click.Choice) else []
        value = draw(st.sampled_from([str(c) for c in allowed]) | word if allowed else word)
        if isinstance(option.type, click.Path):  # what a user names may lie anywhere
            value = value.replace("/tmp/mabench-escaped", "chosen").replace("escaped", "chosen")
        words += [option.opts[0], *([] if option.is_flag else [value])]
    if command in ("eval", "reproduce"):
        words = [
            "set.safetensors" if command == "eval" else "random",
            "--device",
            "meta",
            *words,
        ]  # no device: nothing is trained
    return [*command.split(), *words]


@pytest.mark.filterwarnings("ignore")
def test_every_command_line_ends_in_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, outside = tmp_path / "work" / "here", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    write(work.parent, {}, outside)
    write(work, {**examination(), "broken.pt": b"PK\x03\x04", "mine.toml": suites.released()["digits-agnostic@1"].read_bytes(),
                 **{f"submissions/{name}": content for name, content in submission().items()}}, outside)  # fmt: skip
    (work / "folder").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    @settings(max_examples=max(1, round(INPUTS * COMMAND_LINES)), deadline=None, database=None, derandomize=True)
    @given(line())
    def run(words: list[str]) -> None:
        begun = time.process_time()
        done = CliRunner().invoke(cli.main, words)
        assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exc_info)
        assert done.exit_code in (0, 1, 2) and not invisible(done.output.replace("\t", "")), (words, done.output)
        assert time.process_time() - begun < HANG_SECONDS
        assert os.listdir(outside) == ["precious.txt"] and {"work", "outside"} <= set(os.listdir(tmp_path)) <= {
            "work",
            "outside",
            "chosen",
        }
        assert os.listdir(work.parent) == ["here"] and not Path("/tmp/mabench-escaped").exists()

    run()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=max(1, MORE_INPUTS // 20), deadline=None, database=None, derandomize=True)
@given(value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9)
    | st.builds(
        lambda kind, shape: torch.zeros(shape).to(kind),
        st.sampled_from([getattr(torch, k) for k in ["uint8", "int64", "uint64", "float16", "bfloat16", "float64", "bool", "complex64", "float8_e4m3fn"]]),
        st.lists(st.sampled_from([0, 1, 3, 10, 32]), max_size=6),
    )
    | st.sampled_from([X, Y, X.to_sparse(), torch.nn.Parameter(X), X.mT, X.numpy(), np.float64(1), torch.tensor(float("nan")), X * float("inf"),
                       Y.double() * float("inf"), torch.eye(10), X.to("meta"), torch.float32]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(
        st.sampled_from(["data", "images", "labels", "synthetic_images", "init", "factor", "image_syn", "label_syn", "x", "y"]) | st.integers(), inner, max_size=4),
    max_leaves=8,
))  # fmt: skip
@pytest.mark.slow
def test_whatever_torch_saves_is_a_set_or_refused(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pt"
    torch.save(value, path)
    try:
        shown_and_packed(adapters.read(path, dataset="digits"))
    except MabenchError as error:
        assert not invisible(str(error))


def main(inputs: int) -> None:
    """The table of benchmarks/results: this many inputs among all readers."""
    print(
        "| reader | inputs | read | refused | failures | seconds of one core | slowest input, s |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for reader in READERS:
        with tempfile.TemporaryDirectory() as scratch:
            one = fuzz(reader, share(reader, inputs), Path(scratch))
        row = [
            one.reader,
            f"{one.inputs:,}",
            f"{one.accepted:,}",
            f"{one.refused:,}",
            len(one.failures),
            f"{one.seconds:.0f}",
            f"{one.slowest_seconds:.2f}",
        ]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        for number, what in list(one.failures.items())[:5]:
            print(f"{reader.name}/{number}: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sandbox._run = run_in_this_process
    main(int(sys.argv[1]))
