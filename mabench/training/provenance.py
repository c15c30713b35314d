"""What made a record: versions, sources, machine, arithmetic. A reader needs it to judge or repeat a number."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

import mabench
from mabench.networks.compiling import processor

if TYPE_CHECKING:
    from mabench.engine import Engine

PACKAGE = Path(mabench.__file__).parent


def environment(device: torch.device, engine: Engine | None = None) -> dict[str, str]:
    """Versions, commit, device and threads, and of an engine its name, arithmetic and kernels."""
    facts = {
        "mabench": mabench.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),  # importing it takes seconds, and some networks do without
        "platform": f"{platform.system()}-{platform.machine()}-{''.join(platform.libc_ver())}",  # no kernel: it names the host
        "device": f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else accelerator(device),
        "processor": processor(),
        "accelerator": accelerator(device),
        "threads": str(torch.get_num_threads()),
    }
    if engine is not None:
        kernels = "; ".join(engine.kernels) or "PyTorch's own"
        facts |= {"engine": engine.name, "arithmetic": engine.describe(), "kernels": kernels}
    return facts


def accelerator(device: torch.device) -> str:
    """What a GPU is called; `none` for a processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "none" if device.type == "cpu" else f"Apple GPU ({device.type}), {processor()}"


@lru_cache
def commit() -> str:
    """The commit of the sources that run, `dirty` where they differ from it; for an installed package the digest of its sources."""
    digest = f"sources {sources_digest()}"
    if not (PACKAGE.parent / ".git").exists():
        return digest
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", PACKAGE.name)
    if head is None or changes is None:
        return digest
    return f"{head.strip()}, dirty, {digest}" if changes else head.strip()


def sources_digest() -> str:
    """sha256 over the package's own files, names and contents."""
    whole = hashlib.sha256()
    for path in sorted(p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".toml", ".json")):
        whole.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """sha256 of all parameters and buffers, names and values."""
    whole = hashlib.sha256()
    for name, value in model.state_dict().items():
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        whole.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _git(*arguments: str) -> str | None:
    """The answer of git about the package's checkout; None without git, or where it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
