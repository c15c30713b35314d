"""Shared by all tests: where real data may lie, a private cache, and the command run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
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
            subprocess.run([sys.executable, "-m", "mabench.cli", "demo", "--out", str(made)], check=True, capture_output=True)
            made.rename(folder)
    return folder


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mabench(tmp_path: Path) -> Command:
    """`mabench(*arguments)` runs the real program in an empty folder and returns the finished process."""

    def call(*arguments: object, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mabench.cli", *map(str, arguments)],
            cwd=cwd,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=1500,
        )

    return call


def flipped(content: bytes, place: int) -> bytes:
    """The content with one bit of one byte changed."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)
