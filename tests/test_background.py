"""The scripts that run rows in the background: parts, failures, signals, sets of others, and which sets they make."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import DIGITS, write_card
from test_several_sets import CARD, add, condensed, runs

import mabench_methods
from mabench.board import card_files, submit
from mabench.board import submission as store
from mabench.errors import MabenchError
from mabench.papers import condensing, presets
from mabench.runs.folder import HARDENED
from mabench.runs.plan import part_of, shard

ROOT = Path(__file__).parents[1]
SCRIPTS = ["rows.py SUITE", "rates.py SUITE OUT", "condense_sets.py OUT", "random_baseline.py SUITE", "full_data.py SUITE"]
CELLS = 12  # of digits-agnostic


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / arguments[0]), *arguments[1:]]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3", "½/2"])
@pytest.mark.parametrize("command", SCRIPTS)
def test_every_script_counts_its_parts_from_one_and_refuses_others(
    command: str, text: str, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*command.split(), f"--shard={text}"])
    with pytest.raises(SystemExit) as ended:
        script(command.split(".")[0]).main()
    assert ended.value.code == 2 and f"--shard {text}: " in capsys.readouterr().err


def test_the_parts_are_the_whole() -> None:
    whole = list(range(11))
    assert [shard(whole, *part_of(f"{i}/3")) for i in (1, 2, 3)] == [whole[0::3], whole[1::3], whole[2::3]]
    with pytest.raises(MabenchError, match="Allowed: 1/N to N/N"):
        shard(whole, 0, 0)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "random_baseline.py digits-agnostic --ipc 1 --forms plain packed --draws 3 --shard 2/2",
            "stopped, 3 of these runs are left",
        ),
        ("full_data.py digits-agnostic --epochs 2", "stopped, 1 networks are left (mlp-scratch)"),
    ],
)
def test_a_script_that_ran_out_of_time_says_what_is_left(
    command: str,
    said: str,
    tmp_path: Path,
    script: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    into = tmp_path / "baselines.json"
    into.write_text("[]")
    more = ["--evaluator", "mlp*", "--device", "cpu", "--out", str(tmp_path / "out"), "--into", str(into), "--minutes", "1e-6"]
    monkeypatch.setattr(sys, "argv", [*command.split(), *more])
    with pytest.raises(SystemExit) as ended:
        script(command.split(".")[0]).main()
    assert ended.value.code == 0 and f"{said}; the same command continues" in capsys.readouterr().out


# -- rows.py -----------------------------------------------------------------------------------------------------------


def ready(tmp_path: Path, *slugs: str) -> Path:
    """A folder for `--from` with one set each."""
    for number, slug in enumerate(slugs):
        (tmp_path / "new" / slug).mkdir(parents=True)
        condensed(number).save(tmp_path / "new" / slug / "set.safetensors")
        write_card(tmp_path / "new" / slug / "card.toml", slug=slug)
    return tmp_path / "new"


def called(monkeypatch: pytest.MonkeyPatch, module: Any, answer: Callable[[list[str]], int]) -> list[list[str]]:
    """Let `answer` stand for the processes that rows.py starts; the list gets their arguments."""
    seen: list[list[str]] = []

    def call(command: Sequence[str], asked: object) -> int:
        seen.append(list(command[len(module.MABENCH) :]))
        return answer(seen[-1])

    monkeypatch.setattr(module, "call", call)
    return seen


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rows.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        module.main()
    return int(ended.value.code or 0)


def flag(arguments: list[str], name: str) -> Path:
    return Path(arguments[arguments.index(name) + 1])


def evaluates(arguments: list[str], number: int = 0, accuracy: float = 0.7) -> None:
    """What `mabench eval` leaves behind."""
    out = flag(arguments, "--out") / "records"
    out.mkdir(parents=True, exist_ok=True)
    for record in runs(condensed(number), accuracy):
        if not (out / f"{record.cell.name}.json").exists():
            (out / f"{record.cell.name}.json").write_bytes(store.record_bytes(record))


def test_a_row_that_fails_is_named_and_the_next_one_is_run(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("rows")
    source = ready(tmp_path, "first", "second", "third")
    (source / "second" / "set.safetensors").write_bytes(b"no set")
    monkeypatch.chdir(tmp_path)
    codes = {"first": 2, "third": 130}
    seen = called(monkeypatch, module, lambda arguments: codes[Path(arguments[1]).parent.name])
    assert run(module, monkeypatch, "digits-agnostic", "--from", str(source)) == 1
    said = capsys.readouterr().out
    assert [Path(arguments[1]).parent.name for arguments in seen] == ["first", "third"]
    assert f"first: mabench eval ended with exit code 2; 0 of {CELLS} runs are finished" in said and "exit code 130" in said
    assert "failed: second; first; third." in said


def test_rows_come_in_the_order_of_only_and_one_more_set_joins_its_submission(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("rows")
    source = ready(tmp_path, "aaa", "bbb", "ccc")
    add(tmp_path / "submissions", condensed(4), 0.6)
    (source / CARD.slug).mkdir()  # a second seed, as condense_sets.py leaves it: without a card of its own
    condensed(5).save(source / CARD.slug / "set-2.safetensors")
    monkeypatch.chdir(tmp_path)

    def answer(arguments: list[str]) -> int:
        if arguments[0] == "eval":
            evaluates(arguments, {"ccc": 2, CARD.slug: 5}[Path(arguments[1]).parent.name])
        return 0

    seen = called(monkeypatch, module, answer)
    assert run(module, monkeypatch, "digits-agnostic", "--from", str(source), "--only", "c*", "--only", "made-*") == 0
    assert [(a[0], Path(a[1]).parent.name, Path(a[1]).name) for a in seen] == [
        ("eval", "ccc", "set.safetensors"),
        ("submit", "ccc", "set.safetensors"),
        ("eval", CARD.slug, "set-2.safetensors"),
        ("submit", CARD.slug, "set-2.safetensors"),
    ]
    assert "--another-set" in seen[3] and "--another-set" not in seen[1]
    assert flag(seen[3], "--card") == Path("submissions", CARD.slug, "card.toml")


def test_a_set_that_its_authors_publish_is_taken_from_their_file(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its half of the runs is there: the other half is run and added, and the set stays out of the submission."""
    module = script("rows")
    root, theirs = tmp_path / "submissions", tmp_path / "theirs.pt"
    add(root, condensed(0), 0.7)
    (root / CARD.slug / "set.safetensors").unlink()
    torch.save((condensed(0).images.float() / 255, condensed(0).labels), theirs)
    condensed(1).save(tmp_path / "another.safetensors")
    monkeypatch.chdir(tmp_path)
    for text, said in {
        f"{CARD.slug}=another.safetensors": f"holds the set {condensed(1).sha256[:16]}, but the log of {CARD.slug} names {condensed(0).sha256[:16]}",
        f"{CARD.slug}=nothing.pt": "nothing.pt",
        "unknown=another.safetensors": f"no submission unknown in submissions. There are: {CARD.slug}",
        "another.safetensors": "write it as SLUG=FILE",
    }.items():
        assert run(module, monkeypatch, "digits-agnostic", "--set", text) == 2
        assert said in capsys.readouterr().err
    condensed(0).save(tmp_path / "packed.safetensors")
    seen = called(monkeypatch, module, lambda arguments: 0)
    assert run(module, monkeypatch, "digits-agnostic", "--set", f"{CARD.slug}=packed.safetensors") == 0 and not seen
    assert f"{CARD.slug}: {CELLS} of {CELLS} runs are there" in capsys.readouterr().out


def earlier(root: Path) -> None:
    """Let the submission's records be of an earlier edition of the suite."""
    images, place = condensed(0), root / CARD.slug
    (digest, *_) = DIGITS.earlier
    old = [r.model_copy(update={"cell": r.cell.model_copy(update={"suite_digest": digest})}) for r in runs(images, 0.6)]
    store.write(place, submit.changes(submit.Examination((), CARD, images, tuple(old), ()), None, who="A. Author"))


def test_records_of_an_earlier_edition_are_renewed_where_that_is_asked_for(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("rows")
    root = tmp_path / "submissions"
    earlier(root)
    condensed(0).save(tmp_path / "theirs.safetensors")
    (root / CARD.slug / "set.safetensors").unlink()
    (root / "board.toml").write_text(f'maintainers = []\n[external]\n{CARD.slug} = "{condensed(0).sha256}"\n')
    monkeypatch.chdir(tmp_path)

    def answer(arguments: list[str]) -> int:
        if arguments[0] == "eval":
            evaluates(arguments)
        else:
            add(flag(arguments, "--submissions"), condensed(0), 0.7)
        return 0

    seen = called(monkeypatch, module, answer)
    command = ["digits-agnostic", "--set", f"{CARD.slug}=theirs.safetensors"]
    assert run(module, monkeypatch, *command) == 1 and not seen
    assert "--renew" in capsys.readouterr().out
    assert run(module, monkeypatch, *command, "--renew") == 0
    assert [arguments[0] for arguments in seen] == ["eval", "submit"]
    found = store.read(root / CARD.slug)
    assert found is not None and {r.cell.suite_digest for r in found.records.values()} == {DIGITS.digest}
    assert not (root / CARD.slug / "set.safetensors").exists() and len(found.audit) == 1
    assert not list(tmp_path.glob(".renewed-*"))


def test_runs_of_the_submission_are_not_run_again_and_hardened_ones_count(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("rows")
    root, images = tmp_path / "submissions", condensed(0)
    case = submit.Examination((), CARD, images, runs(images, 0.6)[:5], ())
    store.write(root / CARD.slug, submit.changes(case, None, who="A. Author"))
    monkeypatch.chdir(tmp_path)
    before: list[int] = []

    def answer(arguments: list[str]) -> int:
        if arguments[0] == "eval":
            before.append(len(list((flag(arguments, "--out") / "records").glob("*.json"))))
            evaluates(arguments)
        return 0

    seen = called(monkeypatch, module, answer)
    assert run(module, monkeypatch, "digits-agnostic") == 0
    assert before == [5] and [arguments[0] for arguments in seen] == ["eval", "submit"]
    row = module.Row(
        "made", Path("set.safetensors"), images, Path("card.toml"), None, tuple(r.cell for r in runs(images, 0.6)), True
    )
    assert row.planned == row.missing == 2 * CELLS
    out = flag(seen[0], "--out")
    assert row.finished(out) == CELLS
    (out / HARDENED / "records").mkdir(parents=True)
    (out / HARDENED / "records" / f"{row.cells[0].name}.json").write_text("{}")
    assert row.finished(out) == CELLS + 1


def test_a_signal_stops_rows_after_the_run_has_saved_itself(tmp_path: Path) -> None:
    """Sent to the whole group, as `timeout` and Ctrl-C do; the run hears of it once."""
    source = ready(tmp_path, "first", "second")
    rows = started("rows.py", "digits-agnostic", "--from", str(source), cwd=tmp_path)
    records = tmp_path / "results" / "rows" / "digits-agnostic" / "first" / "set" / "records"
    until = time.monotonic() + 300
    while not list(records.glob("*.json")) and rows.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    rows.send_signal(signal.SIGTERM)
    said, _ = rows.communicate(timeout=300)
    assert rows.returncode == 130 and "stopped; the same command continues" in said and "Traceback" not in said
    assert "second" not in said.partition("stopped")[2] and not (tmp_path / "submissions").exists()


# -- side_by_side.py ---------------------------------------------------------------------------------------------------


def test_every_share_of_a_gpu_is_measured_once(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a failure after the first share, the same command measures the other two."""
    module = script("side_by_side")
    codes = [0, 2, 0, 0]
    seen: list[list[str]] = []

    def call(command: list[str], asked: object) -> int:
        seen.append(command)
        evaluates(command)
        return codes[len(seen) - 1]

    monkeypatch.setattr(module, "call", call)
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "resolve_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(
        sys, "argv", ["side_by_side.py", "digits-agnostic", "a.pt", "--name", "shares", "--results", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2 and "exit code 2" in capsys.readouterr().err
    module.main()
    assert [str(flag(command, "--gpus-per-cell")) for command in seen] == ["1", "0.5", "0.5", "0.33"]
    shares = json.loads((tmp_path / "shares.json").read_text())["shares"]
    assert {name: row["runs"] for name, row in shares.items()} == {"1": CELLS, "2": CELLS, "3": CELLS}
    assert all(row["seconds_of_the_runs"] >= 2.4 for row in shares.values())  # what the records say each run took: 2.5 s


# -- condense_sets.py --------------------------------------------------------------------------------------------------


def test_sets_of_rows_that_are_there_are_made_as_their_cards_say(script: Callable[[str], Any]) -> None:
    """So that a second seed is one more set of the same method."""
    entries = {entry.slug: entry for entry in script("condense_sets").entries()}
    for slug, entry in entries.items():
        store.check_slug(slug)
        chosen = presets.preset(entry.method, entry.preset, None, entry.config)
        assert chosen.dataset == "cifar10" and f"ipc{chosen.config.ipc}" in slug
        place = ROOT / "submissions" / slug
        if place.exists():
            card = card_files.read(place / store.CARD)
            words = shlex.split(card.command)
            values = {
                name: [words[i + 1] for i, word in enumerate(words) if word == f"--{name}"]
                for name in ("preset", "ipc", "config")
            }
            ipc = int(values["ipc"][0]) if values["ipc"] else None
            said = presets.preset(words[2], values["preset"][0] if values["preset"] else None, ipc, values["config"])
            assert (words[2], said.config) == (entry.method, chosen.config), slug
            assert card.method == entry.name, slug
    asked = {
        f"{name}-ipc10"
        for name in ("random-packed", "k-means-packed", "model-pool-lite", "trajectory-lite", "mtt-lite", "herding")
    }
    asked |= {f"{name}-ipc1" for name in ("random", "herding", "dc", "model-pool")}
    assert asked <= set(entries)


def test_a_set_that_its_submission_holds_is_not_made_again_and_a_second_seed_gets_a_card(
    tmp_path: Path, script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("condense_sets")
    entry = module.Entry("made-ipc1", "random real images", "random", "smoke", 1, "Made", "A note.")
    monkeypatch.setattr(module, "entries", lambda: [entry])
    (tmp_path / "submissions" / "made-ipc1").mkdir(parents=True)
    (tmp_path / "submissions" / "made-ipc1" / "set.safetensors").write_bytes(b"")
    command = ["condense_sets.py", "out", "--seeds", "0", "1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert {path.name for path in (tmp_path / "out" / "rows" / "made-ipc1").iterdir()} == {"card.toml", "set-2.safetensors"}
    (line,) = (tmp_path / "out" / "sets.jsonl").read_text().splitlines()
    assert json.loads(line)["folder"] == "made-ipc1-seed1"


@pytest.mark.parametrize("name", ["random", "herding", "k-center", "k-means", "forgetting"])
def test_another_seed_selects_other_images(name: str) -> None:
    """The ConvNet in which selections measure is drawn and trained with the seed."""
    method = mabench_methods.load(name)
    chosen = presets.preset(method, "smoke", None, ["ipc=5"])
    first, second = (condensing.condense(method, chosen, seed, None, torch.device("cpu")) for seed in (0, 1))
    assert first.sha256 != second.sha256 and not np.array_equal(first.images, second.images)
