"""What a Ray worker does: one cell, and what it needs to travel there and back.

The set and the test split lie once per node in Ray's object store; a worker maps them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mabench
from mabench.data import DATASETS, RealData
from mabench.errors import Interrupted, MabenchError
from mabench.runs.memory import is_out_of_memory
from mabench.runs.process import resolve_device, stop_on_signal
from mabench.schema import Cell, Finding
from mabench.sets.synthetic import SyntheticSet

if TYPE_CHECKING:
    from mabench import training
    from mabench.engine import Wanted

REPORT_SECONDS = 1.0  # ours: between two reports of a worker


class Board:
    """An actor that remembers how far each cell is, for the driver's one display."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}

    def report(self, name: str, share: float | None) -> None:
        """`share` of the cell is done; None takes it off the board."""
        if share is None:
            self._shares.pop(name, None)
        else:
            self._shares[name] = share

    def shares(self) -> dict[str, float]:
        """Name -> share, 0 to 1, of every cell under way."""
        return self._shares


def run_cell(
    packed_set: dict[str, Any],
    packed_test: dict[str, Any],
    cell_json: str,
    threads: int,
    device: str,
    engine: Wanted,
    place: str,
    checkpoint: str,
    board: Any,
    version: str,
) -> tuple[str, str]:
    """One cell, in a worker: ("record", its JSON), ("refused", a MabenchError's text), ("failed", why)
    when memory was not enough, or ("lost", why) when asked to stop.

    The checkpoint is written where the driver's output folder is visible from here, and only there.
    """
    import torch

    from mabench import training

    if mabench.__version__ != version:
        return "refused", (
            f"a node of the cluster has mabench {mabench.__version__}, this command is {version}. Install the same version on "
            f"every node: pip install mabench=={version}"
        )
    cell = Cell.model_validate_json(cell_json)
    last = 0.0

    def on_progress(progress: training.Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            board.report.remote(cell.name, min(progress.done / progress.total, 1.0))

    torch.set_num_threads(threads)
    board.report.remote(cell.name, 0.0)
    try:
        # Ray interrupts a cancelled task as Ctrl-C would, and `ray stop` sends SIGTERM: both mean save and end
        with stop_on_signal() as should_stop:
            where = resolve_device(device)
            with training.deterministic(where):
                record = training.run(
                    unpack_set(packed_set),
                    cell,
                    unpack_test(packed_test),
                    device=where,
                    engine=engine,
                    checkpoint=Path(checkpoint) if (Path(place) / "evaluation.json").exists() else None,
                    on_progress=on_progress,
                    should_stop=should_stop,
                )
    except Interrupted:
        return "lost", "it was asked to stop"
    except MabenchError as error:
        return "refused", str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "failed", str(error)
    finally:
        board.report.remote(cell.name, None)
    return "record", record.model_dump_json()


def unpack_set(packed: dict[str, Any]) -> SyntheticSet:
    """A copy: a condensed set is small, and torch does not know of memory that must not be written."""
    import torch

    return SyntheticSet(
        images=torch.tensor(packed["images"]),
        labels=torch.tensor(packed["labels"]),
        dataset=packed["dataset"],
        ipc=packed["ipc"],
        decode=packed["decode"],
        class_names=tuple(packed["class_names"]),
        name=packed["name"],
        findings=tuple(Finding.model_validate(f) for f in packed["findings"]),
        learning_rate=packed["learning_rate"],
        labels_folder=packed["labels_folder"] and Path(packed["labels_folder"]),
    )


def unpack_test(packed: dict[str, Any]) -> RealData:
    """No copy: the arrays lie in the node's object store, read-only."""
    second = None if packed["second"] is None else unpack_test(packed["second"])
    return RealData(packed["images"], packed["labels"], DATASETS[packed["dataset"]], packed["split"], packed["sha256"], second)


def pack_set(synthetic_set: SyntheticSet) -> dict[str, Any]:
    """As arrays, which workers map instead of copying."""
    return {
        "images": synthetic_set.images.contiguous().numpy(),
        "labels": synthetic_set.labels.contiguous().numpy(),
        "dataset": synthetic_set.dataset,
        "ipc": synthetic_set.ipc,
        "decode": synthetic_set.decode,
        "class_names": synthetic_set.class_names,
        "name": synthetic_set.name,
        "findings": [f.model_dump() for f in synthetic_set.findings],
        "learning_rate": synthetic_set.learning_rate,
        # by its place: a record may be gigabytes; a node that does not see the folder refuses the cell
        "labels_folder": synthetic_set.labels_folder and str(synthetic_set.labels_folder.resolve()),
    }


def pack_test(test: RealData) -> dict[str, Any]:
    # np.asarray: a memory map is pickled by value, a plain array goes to the object store as it is
    return {
        "images": np.asarray(test.images),
        "labels": np.asarray(test.labels),
        "dataset": test.dataset.name,
        "split": test.split,
        "sha256": test.sha256,
        "second": None if test.second is None else pack_test(test.second),
    }
