"""Shared by all tests: where real data may lie, a private cache, and the command run as a user runs it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import Command
from filelock import FileLock


def shared_data() -> Path | None:
    """The folder with real data: $MABENCH_SHARED_DATA, or `../shared/data` beside a checkout; None if there is none."""
    named = os.environ.get("MABENCH_SHARED_DATA")
    for candidate in [Path(named)] if named else [p / "shared" / "data" for p in Path(__file__).resolve().parents]:
        if (candidate / "cifar10-digests.json").exists():
            return candidate
    return None


def pytest_configure() -> None:
    """Real data comes from the copy at hand. Said before any test imports huggingface_hub, which asks once."""
    folder = shared_data()
    if folder is not None:
        os.environ.setdefault("HF_HUB_CACHE", str(folder / "hub"))
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = shared_data()
    if folder is None:
        pytest.skip("no real data here: set MABENCH_SHARED_DATA to a folder with hub/, sets/ and weights/")
    return folder


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never touch the user's cache; one cache a session, so that CIFAR-10 is decoded once."""
    os.environ.setdefault("MABENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mabench demo` leaves behind: the bundled digits set and all 12 cells of its suite, run once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "digits_run"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            made = tmp_path_factory.mktemp("digits") / "run"
            subprocess.run(
                [sys.executable, "-m", "mabench.cli.main", "demo", "--out", str(made)], check=True, capture_output=True
            )
            made.rename(folder)
    return folder


TIMEOUT = 1500  # seconds of a command


class Warm:
    """The process of `warm.py`, started when first wanted."""

    def __init__(self) -> None:
        self.threads = os.environ.get("OMP_NUM_THREADS")  # the one variable that PyTorch reads as it is imported
        self.process: subprocess.Popen[bytes] | None = None

    def run(
        self, arguments: list[str], cwd: Path, environment: dict[str, str], scratch: Path, *, program: str = "", typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        if self.process is None:
            command = [sys.executable, str(Path(__file__).parent / "support" / "warm.py")]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdin and self.process.stdout
        out, err = scratch / "out", scratch / "err"
        (scratch / "in").write_text(typed)
        request = {"arguments": arguments, "program": program, "cwd": str(cwd), "environment": environment}
        request |= {name: str(scratch / name) for name in ("in", "out", "err")}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        if not select.select([self.process.stdout], [], [], TIMEOUT)[0]:
            raise subprocess.TimeoutExpired(arguments, TIMEOUT)
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def mabench(tmp_path: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`mabench(*arguments)` runs the real program in an empty folder and returns the finished process.

    `typed`: what the user types. `fresh`: started by the operating system instead of forked, for variables that Python or PyTorch
    reads as it starts.
    """

    def call(
        *arguments: object, cwd: Path = tmp_path, fresh: bool = False, typed: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        words, whole = [str(a) for a in arguments], os.environ | environment
        if not fresh and whole.get("OMP_NUM_THREADS") == warm.threads:
            return warm.run(words, cwd, dict(whole), tmp_path_factory.mktemp("streams"), typed=typed)
        command = [sys.executable, "-m", "mabench.cli.main", *words]
        return subprocess.run(command, cwd=cwd, env=whole, input=typed, capture_output=True, text=True, timeout=TIMEOUT)

    return call


@pytest.fixture(scope="session")
def python(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`python(program, *arguments)` runs Python text in a process of its own and an empty folder, as `python -c` does."""

    def call(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words, scratch = [str(a) for a in arguments], tmp_path_factory.mktemp("streams")
        (scratch / "cwd").mkdir()
        return warm.run(words, scratch / "cwd", dict(os.environ | environment), scratch, program=program)

    return call
