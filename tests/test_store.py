"""Records on disk: whole or absent, and a folder belongs to one set's evaluation on one suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import DIGITS as EXAM
from builders import run_record as record

from mabench.errors import MabenchError
from mabench.files import write_text
from mabench.runs.folder import Folder, read_record, read_records


def folder(path: Path, sha: str = "0" * 64) -> Folder:
    return Folder(path, sha, EXAM.id, EXAM.digest)


def test_round_trip_and_finished(tmp_path: Path) -> None:
    place = folder(tmp_path / "out")
    one = record("mlp-scratch", 0, [100, 300])
    assert place.finished(one.cell) is None
    place.claim({})
    place.save(one)
    assert folder(tmp_path / "out").finished(one.cell) == one == read_records(tmp_path / "out")[0]
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_folder_of_another_set_is_refused_and_untouched(tmp_path: Path) -> None:
    place = folder(tmp_path / "out")
    place.claim({})
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    with pytest.raises(MabenchError, match="holds records of another set"):
        folder(tmp_path / "out", "f" * 64)
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(MabenchError, match="not empty"):
        folder(tmp_path / "home")


def test_damaged_records_are_named(tmp_path: Path) -> None:
    one = record("mlp-scratch", 0, [100, 300])
    path = tmp_path / "r.json"
    for text, message in [
        (one.model_dump_json()[:-20], "damaged"),
        ("[]", "damaged"),
        ("{}", "is not a record"),
        (json.dumps(json.loads(one.model_dump_json()) | {"record_schema": 9}), "Upgrade"),
        (json.dumps(json.loads(one.model_dump_json()) | {"curve": [[1, 2000]]}), "0..total"),
    ]:
        path.write_text(text)
        with pytest.raises(MabenchError, match=message):
            read_record(path)


def test_a_record_made_under_other_settings_is_refused(tmp_path: Path) -> None:
    place = folder(tmp_path / "out")
    one = record("mlp-scratch", 0, [100])
    place.save(one)
    other = one.cell.model_copy(update={"suite_digest": "e" * 64})
    with pytest.raises(MabenchError, match="other settings"):
        place.finished(other)


def test_nothing_half_written_when_the_disk_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MabenchError, match="cannot write"):
        write_text(tmp_path / "file" / "inside.json", "{}")
    assert (tmp_path / "file").read_text() == "x"
