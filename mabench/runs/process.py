"""What runs ask of the process that they are in: a device, a way to be stopped, and that it is left as it was."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from mabench.errors import MabenchError

if TYPE_CHECKING:
    import torch

ALLOWED = "Allowed: auto, cpu, cuda, cuda:N, mps."
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Ctrl-C; kill and Slurm; a closed terminal; Slurm's --signal=USR1


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` is the first GPU, else the processor. Raises MabenchError if it is not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MabenchError(f"--device {name}: no such kind of device. {ALLOWED}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise MabenchError(f"--device {name}: not supported. {ALLOWED}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MabenchError(f"--device {name}: this PyTorch has no Apple GPU (mps) here. Use --device cpu, or auto.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MabenchError(f"--device {name}: this machine has no GPU that torch can use. Use --device cpu, or auto.")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise MabenchError(f"--device {name}: this machine has {torch.cuda.device_count()} GPU(s), numbered from 0.")
    return device


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within it, the first signal of STOP_SIGNALS only sets a flag that the loop reads; the next one acts as usual."""
    caught: list[int] = []
    previous: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    try:
        for name in STOP_SIGNALS:
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:  # as under nohup
                previous[getattr(signal, name)] = signal.signal(getattr(signal, name), handle)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        previous.clear()
    try:
        yield lambda: bool(caught)
    finally:
        restore()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it, torch computes as in a fresh process; afterwards the caller's process is as it was.

    Covers the global random state (torch on every device, numpy, random), grad mode, inference mode, autocast, the default
    type and device, threads, and the flags of deterministic algorithms, cuDNN and TF32.
    """
    import numpy
    import torch

    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    dtype, threads, tf32 = torch.get_default_dtype(), torch.get_num_threads(), matmul.allow_tf32
    strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.device("cpu"))  # a default device of the caller's
        # no cache: autocast empties it when the outermost context ends, so that a step inside would meet the weights of the first
        for kind in ("cpu", "cuda") if cuda else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        torch.set_default_dtype(torch.float32)
        if strict:  # the call imports torch's compiler, seconds that the usual process is spared
            torch.use_deterministic_algorithms(False)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if strict:
                torch.use_deterministic_algorithms(True, warn_only=warn_only)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            matmul.allow_tf32 = tf32
            cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
