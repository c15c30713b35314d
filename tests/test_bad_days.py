"""A run on a bad day: a notebook's back end, memory that ends, schedulers' signals, a user without a home, a Hub that says wait."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import BUNDLED, Command

import mabench as package
import mabench_methods
from mabench import training
from mabench.papers import condensing, presets
from mabench.runs import events
from mabench.runs.folder import read_records

ONE = ("--suite", "digits-agnostic", "--evaluator", "mlp*", "--seeds", "0", "--device", "cpu", "--out", "out")
LONG = """name = "long"
version = 1
title = "A long cell"
measures = "Nothing: it only takes its time."
dataset = "digits"
seeds = [0]
ipcs = [5]
[tracks]
scratch = ["mlp-scratch"]
[recipe]
epochs = 100000
batch_size = 16
test_every = 50000
score = "best"
"""


def test_a_notebooks_back_end_costs_nothing(mabench: Command, tmp_path: Path) -> None:
    done = mabench("eval", BUNDLED, *ONE, fresh=True, MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert done.returncode == 0 and "mlp-scratch" in done.stdout and "warning" not in done.stderr
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_picture_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a library call too: the picture comes last, and its failure is a note."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    heard: list[events.Event] = []
    result = package.evaluate(
        BUNDLED, suite="digits-agnostic", evaluators="mlp*", seeds=[0], device="cpu", out=tmp_path / "out", on_event=heard.append
    )
    (warning,) = [event for event in heard if isinstance(event, events.Note) and event.warning]
    assert "no picture curves.png" in warning.text and "\n" not in warning.text
    assert result.score > 0.5 and (tmp_path / "out" / "table.md").exists() and not (tmp_path / "out" / "curves.png").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_network_that_does_not_fit_is_named_and_the_panel_continues(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.run
    batches = []

    def run(synthetic_set: Any, cell: Any, *arguments: Any, **named: Any) -> Any:
        batches.append(cell.recipe.batch_size)
        if cell.evaluator.name == "lenet-scratch":
            raise error
        return real(synthetic_set, cell, *arguments, **named)

    monkeypatch.setattr(training, "run", run)
    how: dict[str, Any] = {
        "suite": "digits-agnostic",
        "evaluators": "[lm]*",
        "seeds": [0],
        "device": "cpu",
        "out": tmp_path / "out",
    }
    result = package.evaluate(BUNDLED, **how)
    assert [r.cell.evaluator.name for r in result.records] == ["mlp-scratch"] and len(set(batches)) == 1
    (failed,) = result.failed
    assert (
        failed.cell.evaluator.name == "lenet-scratch"
        and "out of memory" in failed.reason
        and "run the same command" in failed.cure
    )
    assert result.missing == (failed.cell.name,) and result.missing == ("scratch--lenet-scratch--seed0",)
    monkeypatch.setattr(training, "run", real)
    assert len(package.evaluate(BUNDLED, **how).records) == 2, "and the same call continues"


def test_a_picture_that_cannot_be_drawn_costs_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    method = mabench_methods.load("dm")
    with pytest.warns(UserWarning, match=r"no picture losses\.png: ValueError: no font\. Everything else was written"):
        condensing.condense(method, presets.preset(method, "smoke", None, []), 0, tmp_path, torch.device("cpu"))
    assert (tmp_path / "set.safetensors").exists() and (tmp_path / "losses.csv").exists()


def test_another_error_is_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(training, "run", run)
    with pytest.raises(RuntimeError, match="size mismatch"):
        package.evaluate(BUNDLED, suite="digits-agnostic", evaluators="mlp*", seeds=[0], device="cpu")


def test_the_command_names_what_is_missing_and_ends_with_1(tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom mabench import training\nreal = training.run\n"
        "def run(s, cell, *a, **k):\n"
        "    if cell.evaluator.name == 'lenet-scratch': raise torch.OutOfMemoryError('CUDA out of memory. Tried')\n"
        "    return real(s, cell, *a, **k)\n"
        "training.run = run\nfrom mabench.cli.main import run\nrun()\n"
    )
    words = [
        "eval",
        str(BUNDLED),
        "--suite",
        "digits-agnostic",
        "--evaluator",
        "[lm]*",
        "--seeds",
        "0",
        "--device",
        "cpu",
        "--out",
        "out",
    ]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "missing: scratch--lenet-scratch--seed0: out of memory" in done.stderr and "mlp-scratch" in done.stdout
    assert len(read_records(tmp_path / "out")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_schedulers_signals_leave_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(LONG)
    words = ["eval", str(BUNDLED), "--suite", "./long.toml", "--device", "cpu", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mabench.cli.main", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip  # tests started under nohup ignore SIGHUP, and their children would inherit that
    _wait_for(lambda: bool(list((tmp_path / "out").glob("checkpoints/*.lock"))))
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "The same command continues from there" in errors and "Traceback" not in errors
    assert list((tmp_path / "out" / "checkpoints").glob("*.pt"))


def test_nohup_stays_nohup(tmp_path: Path) -> None:
    """A command that was told to ignore a closed terminal continues when the terminal closes."""
    (tmp_path / "long.toml").write_text(LONG)
    words = f"{sys.executable} -m mabench.cli.main eval {BUNDLED} --suite ./long.toml --device cpu --out out"
    process = subprocess.Popen(["bash", "-c", f"trap '' HUP; exec {words}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: bool(list((tmp_path / "out").glob("checkpoints/*.lock"))))
    process.send_signal(signal.SIGHUP)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 130


def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never began"
        time.sleep(0.1)


NOBODY = [
    "unshare",
    "--user",
    "--map-user=54321",
    "--map-group=54321",
]  # a user that no passwd file knows, as `docker run --user`


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NOBODY, "true"], capture_output=True).returncode != 0,
    reason="no user namespaces here",
)
def test_a_user_without_home_and_passwd_entry(tmp_path: Path) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    words = [*NOBODY, sys.executable, "-m", "mabench.cli.main", "eval", str(BUNDLED), *ONE]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "mlp-scratch" in done.stdout and (tmp_path / "out" / "curves.png").exists()


def test_an_ascii_terminal_shows_everything(mabench: Command, tmp_path: Path) -> None:
    shutil.copy(BUNDLED, tmp_path / "süß_猫.safetensors")
    ascii_only = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    done = mabench("eval", "süß_猫.safetensors", *ONE, fresh=True, **ascii_only)
    assert done.returncode == 0 and "mlp-scratch" in done.stdout, done.stderr


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_refused(mabench: Command, tmp_path: Path) -> None:
    done = mabench("eval", BUNDLED, "--suite", "digits-agnostic", "--device", "mps", "--out", "out")
    assert done.returncode == 2 and "no Apple GPU" in done.stderr and not (tmp_path / "out").exists()


def test_an_apple_gpu_is_asked_nothing_that_only_cuda_answers() -> None:
    """As far as this can be run without one: what the engine and the record ask of the device."""
    device = torch.device("mps")
    from mabench.engine.reference import Engine
    from mabench.training import provenance

    engine = Engine.__new__(Engine)
    engine.device = device
    assert engine.resident_bytes() > 0
    facts = provenance.environment(device)
    assert facts["device"].startswith("Apple GPU") and facts["accelerator"] == facts["device"]
    assert provenance.environment(torch.device("cpu"))["accelerator"] == "none"


ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a clone")
def test_a_clone_with_windows_line_ends_runs_and_keeps_its_digests(tmp_path: Path) -> None:
    """git as it is set up on Windows: the clone's text has the line ends that digests were taken of, and a run works in it."""
    clone = tmp_path / "clone"
    settings = ["--config", "core.autocrlf=true", "--config", "core.eol=crlf"]
    subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", "--depth", "1", *settings, f"file://{ROOT}", str(clone)], check=True
    )
    texts = [
        p for kind in ("toml", "json", "jsonl", "md", "py", "txt") for p in clone.rglob(f"*.{kind}") if ".git" not in p.parts
    ]
    assert len(texts) > 200 and not [p for p in texts if b"\r\n" in p.read_bytes()]
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    words = [sys.executable, "-m", "mabench.cli.main", "eval", str(BUNDLED), *ONE]
    done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "mlp-scratch" in done.stdout, done.stderr
    (record,) = read_records(clone / "out")
    assert record.environment["commit"] == subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=clone, text=True).strip()


def test_the_hubs_429_says_wait_or_log_in(mabench: Command, tmp_path: Path) -> None:
    """A real server that answers 429 to whatever is asked of it."""

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(429)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    torch.save((torch.rand(10, 3, 32, 32), torch.arange(10)), tmp_path / "a_cifar10.pt")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    empty = {"HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "hub"), "MABENCH_CACHE": str(tmp_path / "cache")}
    here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    done = mabench("eval", "a_cifar10.pt", "--suite", "cifar10-lite", "--seeds", "0", "--out", "out", **empty, **here)
    server.shutdown()
    server.server_close()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "mabench: the Hub answers 429" in done.stderr and "wait some minutes" in done.stderr and "hf auth login" in done.stderr
