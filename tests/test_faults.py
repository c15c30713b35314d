"""What happens when things go wrong: killed, starved, damaged, run twice, diverging. `benchmarks/faults.py` does the same at length."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import BUNDLED, CARD, Command, flipped, tree, write_card
from builders import DIGITS as EXAM
from builders import run_record as record

from mabench import data, files
from mabench.board import submission as submissions
from mabench.errors import Interrupted, MabenchError
from mabench.runs.folder import Folder, read_record, read_records
from mabench.sets import readers as adapters
from mabench.sets import synthetic
from mabench.sets.synthetic import SyntheticSet
from mabench_methods import kit
from mabench_methods.dc.presets import DC
from mabench_methods.kit.run import SET

HARNESS = Path(__file__).parents[1] / "benchmarks" / "faults.py"
ONE_CELL = ("--suite", "digits-agnostic", "--evaluator", "mlp*", "--seeds", "0", "--device", "cpu")
CPU = torch.device("cpu")


@pytest.mark.slow
def test_nothing_is_lost_in_a_short_round_of_the_harness(tmp_path: Path) -> None:
    """Real kills of every command, at random moments and before file operations; damage to every kind of file; two at once."""
    result = tmp_path / "faults.json"
    done = subprocess.run([sys.executable, HARNESS, "--quick", "--out", result], capture_output=True, text=True, timeout=1200)
    rows = json.loads(result.read_text())["rows"]
    assert done.returncode == 0 and not [row for row in rows if row["lost"]], done.stdout + done.stderr
    for command in ("eval", "reproduce", "submit", "build"):
        mine = {row["fault"]: row["tries"] for row in rows if row["command"] == command}
        assert mine["killed at a random moment"] >= 3 and mine["killed before a file operation"] >= 2, mine


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_checksum_breaks_at_every_change(tmp_path: Path) -> None:
    path = tmp_path / "checksummed"
    path.write_bytes(b"what was measured")
    with path.open("r+b") as file:
        files.append_checksum(file)
    content = path.read_bytes()
    assert files.read_checksummed(path) == b"what was measured"
    for changed in [flipped(content, i) for i in range(len(content))] + [content[:n] for n in range(len(content))]:
        path.write_bytes(changed)
        assert files.read_checksummed(path) is None
    assert files.read_checksummed(tmp_path / "absent") is None


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom mabench.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n    file.write(b'half')\n    file.flush()\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    path = tmp_path / "table.json"
    writer = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    files.write_text(path, "whole")
    (left,) = tmp_path.glob(".table.json.*")
    assert left.read_text() == "half" and left.suffix == ".partial", "no reader of *.json ever sees it"
    writer.kill()
    writer.wait()
    files.write_text(path, "whole again")
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_writers_of_one_file_do_not_sweep_each_other(tmp_path: Path) -> None:
    """Without the second look after the lock, one in three such rounds lost a file between its making and its lock."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom mabench import files\n"
        "for i in range(1000):\n    files.write_text(Path(sys.argv[1]), str(i) * 100)\n"
    )
    path = tmp_path / "table.md"
    writers = [subprocess.Popen([sys.executable, "-c", program, path], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [writer.communicate()[1] for writer in writers] == [""] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"] and path.read_text() == "999" * 100


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom mabench.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])) as mine:\n    print(mine, flush=True)\n    time.sleep(60)\n"
    )
    lock = tmp_path / "cell.lock"
    holder = subprocess.Popen([sys.executable, "-c", program, lock], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    with files.exclusive(lock) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    with files.exclusive(lock) as mine:
        assert mine
    assert not lock.exists()


# -- evaluations -------------------------------------------------------------------------------------------------------


def folder(path: Path, sha: str = "0" * 64) -> Folder:
    return Folder(path, sha, EXAM.id, EXAM.digest)


def test_a_changed_digit_in_a_record_is_found(tmp_path: Path) -> None:
    place = folder(tmp_path / "out")
    one = record("mlp-scratch", 0, [100, 300])
    place.claim({})
    place.save(one)
    path = place.record_path(one.cell)
    text = path.read_text()
    path.write_text(text.replace("300", "301"))
    with pytest.raises(MabenchError, match=r"its checksum does not match.*Run the same mabench eval"):
        read_record(path)
    assert place.finished(one.cell) is None and "checksum" in place.damaged[one.cell.name]
    value = json.loads(text)
    del value["checksum"]
    path.write_text(json.dumps(value))
    assert read_record(path) == one, "a file without a checksum is read as it is"


def test_a_damaged_evaluation_json_is_written_again_from_what_the_records_say(tmp_path: Path) -> None:
    place = folder(tmp_path / "out")
    place.claim({"set_name": "mine"})
    one = record("mlp-scratch", 0, [100])
    place.save(one)
    manifest = tmp_path / "out" / "evaluation.json"
    whole = manifest.read_bytes()
    for content in (whole[:40], b"", flipped(whole, whole.index(b"mine")), whole.replace(b'"suite"', b'"suit3"')):
        manifest.write_bytes(content)
        again = folder(tmp_path / "out", one.cell.set_sha256)
        again.claim({"set_name": "mine"})
        assert json.loads(manifest.read_bytes())["suite"] == EXAM.id
        manifest.write_bytes(content)
        with pytest.raises(MabenchError, match="another set"):
            folder(tmp_path / "out", "f" * 64)


def test_killed_between_a_record_and_its_checkpoint(mabench: Command, tmp_path: Path) -> None:
    """The checkpoint of a cell that has its record is of no more use: the next command removes it."""
    arguments = ("eval", BUNDLED, *ONE_CELL, "--out", tmp_path / "out")
    assert mabench(*arguments).returncode == 0
    (finished,) = (tmp_path / "out" / "records").iterdir()
    checkpoints = tmp_path / "out" / "checkpoints"
    left = [checkpoints / f"{finished.stem}.pt", checkpoints / f".{finished.stem}.pt.1.partial", checkpoints / "another-cell.pt"]
    for path in left:
        path.write_bytes(b"x")
    assert mabench(*arguments).returncode == 0
    assert [path.exists() for path in left] == [False, False, True]


def test_killed_while_claiming_its_folder(tmp_path: Path) -> None:
    """All there is then is a half-written evaluation.json under its temporary name."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".evaluation.json.4711.partial").write_text("{")
    folder(tmp_path / "out").claim({})
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["evaluation.json"]


def test_damage_is_mended_by_the_same_command(mabench: Command, tmp_path: Path) -> None:
    arguments = ("eval", BUNDLED, *ONE_CELL, "--out", "out")
    assert mabench(*arguments).returncode == 0
    (whole,) = read_records(tmp_path / "out")
    (path,) = (tmp_path / "out" / "records").iterdir()
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "out" / "evaluation.json").write_text("")
    done = mabench(*arguments)
    assert done.returncode == 0 and "computed again: " in done.stderr and path.name in done.stderr
    assert read_records(tmp_path / "out")[0].curve == whole.curve


def test_two_commands_in_one_folder_share_the_cells(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mabench.cli.main", "eval", str(BUNDLED), *ONE_CELL[:4], "--device", "cpu", "--out", "out"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = "".join(process.communicate(timeout=600)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0], errors
    for seed in range(3):
        assert errors.count(f"mlp-scratch seed {seed}: ") == 1, errors
    assert len(read_records(tmp_path / "out")) == 3 and not list((tmp_path / "out" / "checkpoints").iterdir())


def test_a_full_disk_is_said_and_made_good(mabench: Command, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is refused here")
    try:
        arguments = ("eval", BUNDLED, *ONE_CELL, "--out", disk / "out")
        done = mabench(*arguments)
        assert done.returncode == 2 and "No space left on device" in done.stderr and "Traceback" not in done.stderr
        assert not [p for p in disk.rglob("*.json") if not json.loads(p.read_text())]
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        assert mabench(*arguments).returncode == 0
        assert not list(disk.rglob("*.partial"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# -- condensations -----------------------------------------------------------------------------------------------------


SMOKE = DC.presets["smoke"].config


def test_a_condensation_mends_what_can_be_made_again(tmp_path: Path) -> None:
    train = data.load("digits", "train")
    whole = DC.condense(train, SMOKE, 0, CPU, kit.Run(tmp_path))
    path = tmp_path / SET
    path.write_bytes(flipped(path.read_bytes(), -5))
    with pytest.warns(UserWarning, match="It is made again"):
        assert DC.condense(train, SMOKE, 0, CPU, kit.Run(tmp_path)).sha256 == whole.sha256
    assert synthetic.load(path).sha256 == whole.sha256
    (tmp_path / "run.json").write_text('{"identity"')
    with pytest.raises(MabenchError, match="run.json is missing or damaged"):
        DC.condense(train, SMOKE, 0, CPU, kit.Run(tmp_path))
    assert synthetic.load(path).sha256 == whole.sha256, "nothing of it is touched"


def test_a_checkpoint_knows_whose_it_is_and_whether_it_is_whole(tmp_path: Path) -> None:
    train = data.load("digits", "train")
    whole = DC.condense(train, SMOKE, 0, CPU, kit.Run())
    stopping = kit.Run(tmp_path, should_stop=lambda: True)
    with pytest.raises(Interrupted):
        DC.condense(train, SMOKE, 0, CPU, stopping)
    checkpoint = tmp_path / "checkpoint.pt"
    content = checkpoint.read_bytes()
    (tmp_path / "run.json").unlink()
    with pytest.raises(MabenchError, match="its seed differ"):
        DC.condense(train, SMOKE, 1, CPU, kit.Run(tmp_path))
    (tmp_path / "run.json").write_text("[]")
    checkpoint.write_bytes(flipped(content, len(content) // 2))
    assert kit.Run(tmp_path).begin("dc", SMOKE, 0, train) is None
    checkpoint.write_bytes(content)
    assert kit.Run(tmp_path).begin("dc", SMOKE, 0, train) is not None
    assert DC.condense(train, SMOKE, 0, CPU, kit.Run(tmp_path)).sha256 == whole.sha256


# -- submissions and the board -----------------------------------------------------------------------------------------


KILLED_AT = (
    "import os, signal, sys\nfrom mabench.cli import main as cli\n"
    "def hook(event, arguments):\n"
    "    if event == 'os.rename' and str(arguments[1]).endswith(os.environ['KILL_AT']): os.kill(os.getpid(), signal.SIGKILL)\n"
    "sys.addaudithook(hook)\ncli.run()\n"
)


def killed_at(name: str, *arguments: object, cwd: Path) -> None:
    """The real command, killed just before the file called `name` takes its place."""
    done = subprocess.run([sys.executable, "-c", KILLED_AT, *map(str, arguments)], cwd=cwd, env=os.environ | {"KILL_AT": name})
    assert done.returncode == -signal.SIGKILL


def test_a_board_killed_in_its_first_build_is_completed(mabench: Command, tmp_path: Path) -> None:
    build = ("leaderboard", "build", "--submissions", "submissions", "--out")
    (tmp_path / "submissions").mkdir()
    killed_at("leaderboard.csv", *build, "board", cwd=tmp_path)
    assert (tmp_path / "board" / "leaderboard.md").exists() and not (tmp_path / "board" / "index.html").exists()
    done = mabench(*build, "board")
    assert done.returncode == 0, done.stderr
    assert mabench(*build, "whole").returncode == 0
    assert tree(tmp_path / "board") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_a_changed_card_is_never_there_without_its_line_in_the_log(mabench: Command, tmp_path: Path, digits_run: Path) -> None:
    send = ("submit", BUNDLED, "--records", digits_run, "--card", write_card(tmp_path / "card.toml"))
    assert mabench(*send).returncode == 0
    shutil.copytree(tmp_path / "submissions", tmp_path / "before")
    write_card(tmp_path / "card.toml", note="made with care")
    for name in ("card.toml", "audit.jsonl"):
        shutil.rmtree(tmp_path / "submissions")
        shutil.copytree(tmp_path / "before", tmp_path / "submissions")
        killed_at(f"digits-kmeans/{name}", *send, cwd=tmp_path)
        assert mabench(*send).returncode == 0
        found = submissions.read(tmp_path / "submissions" / "digits-kmeans")
        assert found is not None and found.card.note == "made with care"
        assert [entry.why for entry in found.audit[1:]] == ["card changed"]


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_diverged_cell_counts_as_chance_from_the_record_to_the_board(mabench: Command, tmp_path: Path) -> None:
    """A set that passes every gate and blows up the MLP: the bundled one with 190 times the contrast."""
    calm = adapters.read(BUNDLED)
    loud = SyntheticSet((calm.images.float() / 255 - 0.5) * 190, calm.labels, "digits", calm.ipc, name="loud")
    loud.save(tmp_path / "loud.safetensors")
    done = mabench("eval", "loud.safetensors", *ONE_CELL, "--out", "out")
    assert done.returncode == 0, done.stderr
    (found,) = read_records(tmp_path / "out")
    assert found.diverged_epoch is not None and all(hits >= 0 for _, hits in found.curve)
    assert f"diverged in epoch {found.diverged_epoch}, counts as chance level (10.00%)" in done.stderr
    assert f"seed0 in epoch {found.diverged_epoch}; counted as chance level, 10.00 %" in done.stdout
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (row["mean"], row["best"], row["plateau"], row["last"], row["diverged"]) == (0.1, 0.1, 0.1, 0.1, 1)
    write_card(tmp_path / "card.toml")
    done = mabench("submit", "loud.safetensors", "--records", "out", "--card", "card.toml")
    assert done.returncode == 0, done.stderr
    assert mabench("leaderboard", "build", "--out", "board").returncode == 0
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    (mine,) = [row for row in board["rows"] if row["key"] == CARD["slug"]]
    assert mine["diverged"] == 1 and mine["evaluators"]["mlp-scratch"]["mean"] == 0.1
    assert "10.00†" in (tmp_path / "board" / "leaderboard.md").read_text()
    page = (tmp_path / "board" / "sets" / CARD["slug"] / "index.html").read_text()  # type: ignore[operator]
    assert f"epoch {found.diverged_epoch}, counts as chance" in page


# -- determinism -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_digits_network_gives_the_same_record_twice(mabench: Command, tmp_path: Path) -> None:
    """In fresh processes, on one thread and on two; between one thread and two nothing is promised."""
    found: dict[str, list[object]] = {}
    for name, threads in (("a1", "1"), ("b1", "1"), ("a2", "2"), ("b2", "2")):
        run = ("eval", BUNDLED, "--suite", "digits-agnostic", "--seeds", "0", "--device", "cpu", "--out", name)
        assert mabench(*run, OMP_NUM_THREADS=threads).returncode == 0
        records = read_records(tmp_path / name)
        assert all(f"{threads} threads" in r.environment["device"] for r in records)
        found[name] = [(r.cell.name, r.curve, r.train_loss) for r in records]
    assert len(found["a1"]) == 4 and found["a1"] == found["b1"] and found["a2"] == found["b2"]
