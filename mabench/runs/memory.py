"""What happens when a network does not fit into memory: it is said, with a cure, and the batch of the protocol stays as it is."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from mabench.runs.events import Failed
from mabench.schema import Cell

if TYPE_CHECKING:
    import torch

SIGNS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # on a processor only torch's text says so


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error of torch or Python says that memory was not enough."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)


def failure(cell: Cell, error: BaseException, device_type: str) -> Failed:
    """What to say of a cell that ran out of memory on a device of this type."""
    sentence = " ".join(str(error).split()).split(". ")[0][:200].rstrip(".")
    cure = "Free some memory, or use a machine with more, and run the same command: finished cells are kept."
    if device_type == "cuda":
        cure = (
            "Free the GPU of other programs (nvidia-smi lists them), or use one with more memory, and run the same command: "
            f"finished cells are kept. On the processor: --device cpu --evaluator '{cell.evaluator.name}'"
        )
    return Failed(cell, f"out of memory ({sentence})" if sentence else "out of memory", cure)


def give_back(device: torch.device) -> None:
    """Return the memory of a network that failed, so that the next one finds it. Call it outside of the error's handler."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
