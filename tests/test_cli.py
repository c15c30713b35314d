"""The real program on real files: what it prints, what it writes, how it fails, how it resumes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import torch
from builders import Command
from click.shell_completion import BashComplete
from click.testing import CliRunner

import mabench as package
from mabench import suites
from mabench.cli import main as cli
from mabench.cli.options import seed_list
from mabench.data import DATASETS
from mabench.networks.evaluators import EVALUATORS
from mabench.runs.folder import read_records
from mabench_methods import METHODS

BUNDLED = Path(package.__file__).parent / "assets" / "digits_kmeans_ipc5.safetensors"
QUICK = ("--suite", "digits-agnostic", "--evaluator", "mlp*", "--device", "cpu")


def test_every_command_has_help_with_an_example() -> None:
    assert set(cli.main.commands) == {
        "list", "show", "check", "pack", "demo", "eval", "table", "reproduce", "submit", "pull", "verify", "audit", "review", "refresh",
        "board", "leaderboard",
    }  # fmt: skip
    assert sorted(name for names in cli.SECTIONS.values() for name in names) == sorted(cli.main.commands)
    groups = {"leaderboard": {"build", "publish", "serve"}, "board": {"init"}}
    for group, names in groups.items():
        found = cli.main.commands[group]
        assert isinstance(found, click.Group) and set(found.commands) == names
    for name in [*(set(cli.main.commands) - set(groups)), *(f"{group} {name}" for group in groups for name in groups[group])]:
        done = CliRunner().invoke(cli.main, [*name.split(), "--help"], prog_name="mabench")
        assert done.exit_code == 0 and f"\n  mabench {name}" in done.output.split("\nOptions:")[1], done.output


def test_list_is_one_line_a_thing_within_80_columns(mabench: Command) -> None:
    lines = mabench("list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for name in [*suites.released(), *EVALUATORS, *DATASETS, *METHODS]:
        assert sum(line.split(" ")[0] == name for line in lines) == 1, name
    only = json.loads(mabench("list", "datasets", "--json").stdout)
    assert only == {"datasets": list(DATASETS)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10-agnostic", "How well networks of every kind learn CIFAR-10"),
        ("vit_tiny-scratch", "family ViT"),
        ("imagewoof", "golden_retriever"),
        ("dc", "paper-ipc10"),
    ],
)
def test_show_explains_one_thing(mabench: Command, name: str, words: str) -> None:
    done = mabench("show", name)
    assert done.returncode == 0 and words in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert json.loads(mabench("show", name, "--json").stdout)["name"] in (name, name.partition("@")[0])


def test_show_answers_a_typo_with_the_nearest_name(mabench: Command) -> None:
    done = mabench("show", "cifar10-lit")
    assert done.returncode == 2 and "Did you mean 'cifar10-lite'?" in done.stderr


def test_no_summary_of_help_is_cut_at_80_columns() -> None:
    for group in (cli.main, cli.main.commands["leaderboard"]):
        text = CliRunner().invoke(group, ["--help"], terminal_width=80).output
        assert "..." not in text.replace("[ARGS]...", "") and max(map(len, text.splitlines())) <= 80
        assert all(name in text for name in group.commands)  # type: ignore[attr-defined]


def test_every_command_takes_json_and_quiet() -> None:
    groups = [command for command in cli.main.commands.values() if isinstance(command, click.Group)]
    within = [command for group in groups for command in group.commands.values()]
    for command in [*(set(cli.main.commands.values()) - set(groups)), *within]:
        assert {"--json", "--quiet"} <= {name for option in command.params for name in option.opts}, command.name


@pytest.mark.parametrize(
    ("words", "begun", "name"),
    [
        (["eval", "set.pt", "--suite"], "cifar10-l", "cifar10-lite@1"),
        (["eval", "set.pt", "--evaluator"], "convnet3", "convnet3-scratch"),
        (["check", "set.pt", "--dataset"], "imagew", "imagewoof"),
        (["reproduce"], "hm", "hmdc"),
        (["show"], "cifar10-agn", "cifar10-agnostic"),
    ],
)
def test_the_shell_completes_names(words: list[str], begun: str, name: str) -> None:
    completed = BashComplete(cli.main, {}, "mabench", "_MABENCH_COMPLETE").get_completions(words, begun)
    assert name in [item.value for item in completed] and all(item.value.startswith(begun) for item in completed)


def test_the_environment_gives_defaults(mabench: Command) -> None:
    done = mabench("eval", BUNDLED, MABENCH_EVAL_SUITE="digits-agnostic", MABENCH_EVAL_SEEDS="9")
    assert done.returncode == 2 and "seed 9 is not one of digits-agnostic@1's seeds" in done.stderr


@pytest.mark.parametrize(("text", "seeds"), [("0,1", [0, 1]), ("0-2", [0, 1, 2]), ("2,0-1", [0, 1, 2]), ("2", [2])])
def test_seeds_are_lists_and_ranges(text: str, seeds: list[int]) -> None:
    assert seed_list(None, None, text) == seeds  # type: ignore[arg-type]


def test_a_count_of_seeds_is_explained(mabench: Command) -> None:
    done = mabench("eval", BUNDLED, "--suite", "digits-agnostic", "--seeds", "3")
    assert done.returncode == 2 and "for 3 seeds write --seeds 0-2" in done.stderr


def test_check_shows_the_set_and_draws_it(mabench: Command, tmp_path: Path) -> None:
    done = mabench("check", BUNDLED, "--out", "grid.png")
    assert done.returncode == 0 and "digits" in done.stdout and "IPC 5" in done.stdout
    from PIL import Image

    with Image.open(tmp_path / "grid.png") as image:
        assert image.width > 200 and image.height > 300


def test_pack_makes_a_file_that_is_the_same_set(mabench: Command, tmp_path: Path) -> None:
    from mabench.sets import readers as adapters

    images = torch.rand(20, 3, 32, 32)
    torch.save((images, torch.arange(10).repeat_interleave(2)), tmp_path / "s.pt")
    assert mabench("pack", "s.pt", "--dataset", "cifar10", "-o", "s.safetensors").returncode == 0
    packed, original = adapters.read(tmp_path / "s.safetensors"), adapters.read(tmp_path / "s.pt", dataset="cifar10")
    assert packed.sha256 == original.sha256 and torch.equal(packed.images, images)
    again = mabench("pack", "s.pt", "--dataset", "cifar10", "-o", "s.safetensors")
    assert again.returncode == 2 and "--force" in again.stderr


def test_eval_ends_with_a_table_files_and_a_picture(mabench: Command, tmp_path: Path) -> None:
    done = mabench("eval", BUNDLED, *QUICK, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "mlp-scratch" in done.stdout and all(name in done.stdout for name in ("best %", "plateau %", "last %"))
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [c["seed"] for c in result["cells"]] == [0, 1, 2] and result["rows"][0]["mean"] > 0.5
    assert "mlp-scratch" in (tmp_path / "out" / "table.md").read_text()
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 4
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "records").iterdir()}
    again = mabench("eval", BUNDLED, *QUICK, "--out", "out")
    assert "3 of 3 runs were finished before" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "records").iterdir()} == before
    as_json = json.loads(mabench("eval", BUNDLED, *QUICK, "--out", "out", "--json").stdout)
    assert as_json["cells"] == result["cells"] and not as_json["complete"] and as_json["missing"] == []
    quiet = mabench("eval", BUNDLED, *QUICK, "--out", "out", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_evaluators_and_shards_add_up(mabench: Command, tmp_path: Path) -> None:
    both = ("eval", BUNDLED, "--suite", "digits-agnostic", "--evaluator", "mlp*", "--evaluator", "lenet*", "--seeds", "0")
    for part in ("1/2", "2/2"):
        done = mabench(*both, "--device", "cpu", "--out", "out", "--shard", part)
        assert done.returncode == 0, done.stderr
    assert [r.cell.evaluator.name for r in read_records(tmp_path / "out")] == ["lenet-scratch", "mlp-scratch"]
    assert "lenet-scratch" in done.stdout and "mlp-scratch" in done.stdout, "the table shows what the other part left"
    wrong = mabench(*both, "--out", "out", "--shard", "3/2")
    assert wrong.returncode == 2 and "1/2 to 2/2" in wrong.stderr


def test_minutes_run_what_fits_and_say_what_is_left(mabench: Command, tmp_path: Path) -> None:
    done = mabench("eval", BUNDLED, *QUICK, "--evaluator", "lenet*", "--minutes", "0.02", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "runs fit, cheapest first" in done.stderr or re.search(r"no run fits; .*--minutes [1-9]", done.stderr)
    assert "The same command continues from there" in done.stderr
    records = read_records(tmp_path / "out") if (tmp_path / "out" / "records").exists() else []
    assert len(records) < 6


def test_several_sets_in_one_table(mabench: Command, tmp_path: Path) -> None:
    torch.save((torch.rand(50, 3, 32, 32), torch.arange(50) % 10), tmp_path / "noise.pt")
    for name, path in (("kmeans", BUNDLED), ("noise", tmp_path / "noise.pt")):
        done = mabench("eval", path, "--dataset", "digits", *QUICK, "--seeds", "0-1", "--out", f"results/{name}")
        assert done.returncode == 0, done.stderr
    good, bad = ([r.best for r in read_records(tmp_path / "results" / name)] for name in ("kmeans", "noise"))
    mean, std = 50 * sum(good), 100 * statistics.stdev(good)
    markdown = mabench("table", "results", "--format", "markdown").stdout
    assert f"**{mean:.2f} ± {std:.2f}*" in markdown and f"{50 * sum(bad):.2f}" in markdown
    latex = mabench("table", "results", "--format", "latex").stdout
    assert rf"\textbf{{{mean:.2f} $\pm$ {std:.2f}*}}" in latex and r"\toprule" in latex
    rows = list(csv.DictReader(mabench("table", "results", "--format", "csv").stdout.splitlines()))
    assert [row["set"] for row in rows] == ["digits_kmeans_ipc5", "noise"]
    assert abs(float(rows[0]["mlp-scratch mean"]) - mean) < 1e-3 and rows[0]["mlp-scratch runs"] == "2"
    text = mabench("table", "results/kmeans", "results/noise").stdout
    assert f"> {mean:.2f} +- {std:.2f}*" in text
    none = mabench("table", tmp_path / "elsewhere")
    assert none.returncode == 2 and "no such folder" in none.stderr


def curves(folder: Path) -> list[tuple[str, object]]:
    return [(r.cell.name, r.curve) for r in read_records(folder)]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_run_continues_where_it_stopped(mabench: Command, tmp_path: Path, digits_run: Path, number: int) -> None:
    arguments = ["eval", str(BUNDLED), "--suite", "digits-agnostic", "--evaluator", "[lm]*", "--device", "cpu", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mabench.cli.main", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    records = tmp_path / "out" / "records"
    while process.poll() is None and len(list(records.glob("*.json"))) < 2:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert "The same command continues from there" in errors
    finished = {p: p.stat().st_mtime_ns for p in records.glob("*.json")}
    assert 2 <= len(finished) < 6
    done = mabench(*arguments)
    assert done.returncode == 0 and f"{len(finished)} of 6 runs were finished before" in done.stderr
    assert all(p.stat().st_mtime_ns == t for p, t in finished.items()), "nothing finished is repeated"
    undisturbed = dict(curves(digits_run))
    assert curves(tmp_path / "out") == [(name, undisturbed[name]) for name, _ in curves(tmp_path / "out")]


def test_dry_run_plans_and_writes_nothing(mabench: Command, tmp_path: Path) -> None:
    done = mabench("eval", BUNDLED, *QUICK, "--dry-run")
    assert done.returncode == 0 and "3 runs to do" in done.stdout and "FLOPs" in done.stdout
    header, rule, row = [line for line in done.stdout.splitlines() if line.startswith(("track ", "---", "scratch "))]
    assert len(header) == len(rule) == len(row) == 80
    assert not list(tmp_path.iterdir())


def save(
    path: Path, n: int = 10, *, side: int = 32, labels: torch.Tensor | None = None, images: torch.Tensor | None = None
) -> Path:
    images = torch.rand(n, 3, side, side) if images is None else images
    torch.save((images, torch.arange(n) % 10 if labels is None else labels), path)
    return path


def test_bad_input_gets_a_message_exit_code_2_and_no_file(mabench: Command, tmp_path: Path) -> None:
    """One process per mistake: cause and cure in one paragraph, no traceback, nothing written."""
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    inputs.mkdir()
    work.mkdir()
    good = save(inputs / "cifar10_good.pt")
    (inputs / "empty").mkdir()
    (inputs / "page.pt").write_text("<!DOCTYPE html><html>Sign in</html>")
    (inputs / "cut.pt").write_bytes(good.read_bytes()[:5000])
    (inputs / "file").write_text("x")
    nan = torch.rand(10, 3, 32, 32)
    nan[3, 0, 0, 0] = float("nan")
    cifar = ["--dataset", "cifar10"]
    suite = ["--suite", "cifar10-lite", "--device", "cpu"]
    cases: list[tuple[list[object], str]] = [
        (["check", "absent.pt"], "absent.pt"),
        (["check", inputs / "empty", *cifar], "image"),
        (["check", inputs / "page.pt", *cifar], "HTML"),
        (["check", inputs / "cut.pt", *cifar], "cut.pt"),
        (["check", save(inputs / "side.pt", side=28), *cifar], "28"),
        (["check", save(inputs / "rows.pt", 100, labels=torch.arange(99) % 10), *cifar], "99"),
        (["check", save(inputs / "range.pt", labels=torch.arange(1, 11)), *cifar], "10"),
        (["check", save(inputs / "nan.pt", images=nan), *cifar], "NaN"),
        (["check", save(inputs / "none.pt", 0), *cifar], "none.pt"),
        (["check", good, "--dataset", "cifar11"], "Did you mean 'cifar10"),
        (["eval", save(inputs / "odd.pt", labels=torch.tensor([0, 0, *range(1, 9)])), *cifar, *suite], "stored images"),
        (["eval", good, "--suite", "cifar10-lit"], "Did you mean 'cifar10-lite'"),
        (["eval", good, *suite, "--evaluator", "convnet3-scrach"], "Did you mean 'convnet3-scratch'"),
        (["eval", good, *suite, "--track", "pretraind"], "Did you mean 'pretrained'"),
        (["eval", good, *suite, "--seeds", "7"], "not one of"),
        (["eval", good, *suite, "--seeds", "a"], "--seeds 0,1,2"),
        (["eval", good, *suite, "--out", inputs], "not empty"),
        (["eval", good, *suite, "--out", inputs / "file"], "is a file"),
        (["eval", good, "--suite", "digits-agnostic"], "is for digits"),
        (["eval", good, "--suite", "cifar10-lite", "--device", "tpu"], "tpu"),
        (["submit", good, *cifar, "--dry-run"], "Make them with: mabench eval"),
        (["pack", good, "-o", "x.pt"], ".safetensors"),
    ]
    if not torch.cuda.is_available():
        cases.append((["eval", good, "--suite", "cifar10-lite", "--device", "cuda"], "no GPU"))
    for arguments, words in cases:
        done = mabench(*arguments, cwd=work)
        where = f"{arguments}: {done.stdout} {done.stderr}"
        assert done.returncode == 2, where
        assert words in done.stderr and "Traceback" not in done.stderr + done.stdout, where
        assert not list(work.iterdir()), where


def test_a_pickle_with_code_is_not_executed(mabench: Command, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"data": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.pt", "bare.pt"):
        done = mabench("check", name, "--dataset", "cifar10")
        assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "executed").exists()


def test_a_folder_with_another_sets_records_is_refused(mabench: Command, tmp_path: Path) -> None:
    one = ("--suite", "digits-agnostic", "--evaluator", "mlp*", "--seeds", "0", "--device", "cpu", "--out", "out")
    assert mabench("eval", BUNDLED, *one).returncode == 0
    other = save(tmp_path / "digits_other.pt", 10)
    done = mabench("eval", other, "--dataset", "digits", *one)
    assert done.returncode == 2 and "another set" in done.stderr and len(list((tmp_path / "out" / "records").iterdir())) == 1


def test_an_unusable_cache_is_explained(mabench: Command, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    good = save(tmp_path / "cifar10_good.pt")
    done = mabench(
        "eval", good, "--suite", "cifar10-lite", "--device", "cpu", "--out", "out", MABENCH_CACHE=str(tmp_path / "cache")
    )
    assert done.returncode == 2 and "MABENCH_CACHE" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full") or os.geteuid() != 0, reason="needs a small file system of its own (root)")
def test_no_space_left(mabench: Command, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        (small / "ballast").write_bytes(b"x" * 12000)
        done = mabench("eval", BUNDLED, *QUICK, "--out", small / "out")
        assert done.returncode == 2 and "Free some space" in done.stderr and "Traceback" not in done.stderr
        assert not list(small.rglob("*.partial"))
        (small / "ballast").unlink()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_users_own_suite_runs(mabench: Command, tmp_path: Path) -> None:
    from mabench import suites

    text = (suites.FOLDER / "digits-agnostic@1.toml").read_text().replace("epochs = 60", "epochs = 10")
    (tmp_path / "mine.toml").write_text(text)
    done = mabench(
        "eval", BUNDLED, "--suite", "mine.toml", "--evaluator", "mlp*", "--seeds", "0", "--device", "cpu", "--out", "out"
    )
    assert done.returncode == 0 and "1 of 3" in done.stdout
