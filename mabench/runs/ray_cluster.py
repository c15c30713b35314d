"""Run cells as tasks of a Ray cluster: from one machine with several GPUs to many nodes. Needs `pip install 'mabench[ray]'`.

The driver, which is the process that the user started, alone writes records. The set and the test split lie once per node in
Ray's object store. A cell gives the record that a plain run on that kind of machine gives: the same loop, the same streams.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mabench
from mabench.data import RealData
from mabench.errors import Interrupted, MabenchError
from mabench.runs import costs
from mabench.runs.events import ClusterProgress, Finished, Listener, Note, silent
from mabench.runs.folder import Folder
from mabench.runs.local import begin
from mabench.runs.memory import failure
from mabench.runs.process import undisturbed
from mabench.runs.ray_worker import REPORT_SECONDS, Board, pack_set, pack_test, run_cell
from mabench.schema import Cell, RunRecord
from mabench.sets.synthetic import SyntheticSet

if TYPE_CHECKING:
    from mabench.engine import Wanted

KNOCK_SECONDS = 10.0  # ours: a cluster that does not take a connection by then is not there
LOSSES_ALLOWED = 5  # ours: a cell whose worker is lost more often than this is likely the reason for it
POLL_SECONDS = 0.25  # ours: how soon a signal or a record is noticed; costs nothing measurable
STOP_SECONDS = 60.0  # ours: what workers get to save their checkpoints after Ctrl-C
IDLE_SECONDS = 20.0  # ours: so long nothing runs before the display says why; a worker needs up to ten seconds to start
HEAD = "node:__internal_head__"  # Ray's name for the node that the cluster cannot lose


@dataclass(frozen=True)
class Ray:
    """Where cells run and what each one gets."""

    address: str = "auto"
    """`auto`: $RAY_ADDRESS or the cluster of this machine; `local`: one that lives as long as this command; `HOST:PORT`;
    `ray://HOST:10001`: a distant cluster, through Ray's client."""
    gpus_per_cell: float | None = None
    """0 to 1; a half puts two cells on one GPU. None: a whole one where the cluster has GPUs and the device allows it."""
    cpus_per_cell: int | None = None
    """Threads that a cell computes with. None: 1 beside a GPU, else as many as torch would use here without Ray."""

    def check(self, device: str) -> None:
        """Raise MabenchError for settings that no cluster could serve; asks no cluster."""
        if device not in ("auto", "cpu", "cuda"):
            raise MabenchError(f"--device {device}: with --launcher ray it is auto, cpu or cuda; which GPU, Ray decides.")
        gpus = self.gpus_per_cell
        if gpus is not None and not 0 <= gpus <= 1:
            raise MabenchError(
                f"--gpus-per-cell {gpus:g}: a cell uses at most one GPU. Allowed: 0 to 1, e.g. 0.5 for two on one."
            )
        if gpus is not None and device != "auto" and (gpus > 0) != (device == "cuda"):
            raise MabenchError(f"--gpus-per-cell {gpus:g} and --device {device} exclude each other. Leave one of the two out.")
        if self.cpus_per_cell is not None and self.cpus_per_cell < 1:
            raise MabenchError(f"--cpus-per-cell {self.cpus_per_cell}: a cell needs at least one. Allowed: 1 and more.")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The `ray` module with a connection to the cluster; a connection that the caller made already is used and kept.

    Raises MabenchError when Ray is not installed or no cluster answers, Interrupted on Ctrl-C.
    """
    try:
        import ray
    except ImportError as error:
        raise MabenchError(
            "--launcher ray: Ray is not installed here. Install it with: pip install 'mabench[ray]'  (without it: --launcher local)"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if address == "local":
        _no_usage_reports()
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error", **settings)
    except KeyboardInterrupt as error:
        raise Interrupted from error
    except (OSError, RuntimeError, ValueError, AssertionError, ImportError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MabenchError(
            f"--address {address}: no connection to a Ray cluster: {reason} Allowed: auto (one that runs on this machine: ray start "
            "--head), HOST:PORT, ray://HOST:10001, or local, which starts one for this command."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS):
            pass


def _no_usage_reports() -> None:
    """A Ray that we start tells its makers nothing, unless the user asked for it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def run(
    synthetic_set: SyntheticSet,
    cells: Sequence[Cell],
    folder: Folder,
    test: RealData,
    launcher: Ray,
    *,
    device: str = "auto",
    engine: Wanted = "reference",
    on_event: Listener = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[RunRecord]:
    """What `local.run` does, on a cluster; returns the records of all cells that have one, in order.

    Longest cells start first. A cell whose worker or node is lost starts again elsewhere, from its checkpoint where the output
    folder is shared between the nodes; `on_event` hears of it. Once `should_stop()` answers True the workers save their
    checkpoints, everything is cancelled, and Interrupted is raised.
    """
    launcher.check(device)
    finished, cost = begin(synthetic_set, cells, folder, test, on_event)
    if cost:
        with undisturbed(), connected(launcher.address) as ray:
            crew = Crew(ray, synthetic_set, folder, test, launcher, device, engine, on_event)
            try:
                for record in crew.work([c for c in cells if c.name in cost], cost, should_stop, len(finished)):
                    folder.save(record)
                    finished[record.cell.name] = record
                    on_event(Finished(record, resumed=False))
            finally:
                crew.dismiss()
    return [finished[cell.name] for cell in cells if cell.name in finished]


class Crew:
    """The driver's side: what is shared, which task runs which cell, what was lost."""

    def __init__(
        self,
        ray: Any,
        synthetic_set: SyntheticSet,
        folder: Folder,
        test: RealData,
        launcher: Ray,
        device: str,
        engine: Wanted,
        on_event: Listener,
    ) -> None:
        self.ray, self.on_event, self.engine = ray, on_event, engine
        self.synthetic_set, self.test = synthetic_set, test
        gpus = launcher.gpus_per_cell
        if gpus is None:
            has_gpu = any(node["Resources"].get("GPU", 0) >= 1 for node in self._nodes())
            gpus = 1.0 if device == "cuda" or (device == "auto" and has_gpu) else 0.0
        self.gpus = gpus
        self.cpus = launcher.cpus_per_cell or (1 if gpus else _threads_here())
        self.shared = {"set": ray.put(pack_set(synthetic_set)), "test": ray.put(pack_test(test))}
        self.place = str(folder.path.resolve())
        self.folder = folder
        # on the node that the cluster cannot lose, and no load for it
        head = {HEAD: 0.001} if any(HEAD in node["Resources"] for node in self._nodes()) else {}
        self.board = ray.remote(Board).options(num_cpus=0, resources=head, max_restarts=-1).remote()
        self.run_cell = ray.remote(run_cell)
        self.tasks: dict[Any, Cell] = {}
        self.losses: dict[str, int] = {}

    def work(
        self,
        cells: Sequence[Cell],
        cost: dict[str, float],
        should_stop: Callable[[], bool],
        before: int,
    ) -> Iterator[RunRecord]:
        """Records as they come. Raises Interrupted, or MabenchError for what a second try would not help."""
        self._check_room(cells)
        for cell in sorted(cells, key=lambda c: -cost[c.name]):  # the longest first: no straggler at the end
            self._submit(cell)
        total, settled, count = sum(cost.values()), 0.0, 0
        nodes, looked, busy = len(self._nodes()), time.monotonic(), time.monotonic()
        while self.tasks:
            ready, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=POLL_SECONDS)
            for task in ready:
                record = self._outcome(task)
                if record is not None:
                    settled, count = settled + cost[record.cell.name], count + 1
                    yield record
            if should_stop():
                yield from self._stop()
                raise Interrupted
            if time.monotonic() - looked < REPORT_SECONDS and not ready:
                continue
            looked = time.monotonic()
            nodes = len(self._nodes())
            shares = self._shares()
            done = settled + sum(share * cost[name] for name, share in shares.items())
            self.on_event(ClusterProgress(before + count, len(shares), before + len(cells), done, total, nodes))
            if shares or ready:
                busy = looked
            elif looked - busy > IDLE_SECONDS:
                busy = looked + 10 * IDLE_SECONDS  # said again only after a while
                needed = self._asked_for(next(iter(self.tasks.values())))
                self.on_event(Note(f"waiting for free resources: {needed} per cell, {nodes} nodes"))

    def dismiss(self) -> None:
        """End what still runs and give the shared memory back."""
        for task in self.tasks:
            with suppress(Exception):  # whatever a dying cluster answers: there is nothing left to end then
                self.ray.cancel(task, force=True)
        self.tasks.clear()
        with suppress(Exception):
            self.ray.kill(self.board)
        self.shared.clear()

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _submit(self, cell: Cell) -> None:
        needs = costs.needs(cell, self.synthetic_set, self.test, cpus=self.cpus, gpus=self.gpus, engine=self.engine)
        task = self.run_cell.options(
            name=f"{cell.evaluator.name} seed {cell.seed}",
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=needs.memory_bytes,
            max_retries=0,  # ours instead, in `_outcome`: counted, said, and only for lost workers
            scheduling_strategy="SPREAD",
        ).remote(
            self.shared["set"],
            self.shared["test"],
            cell.model_dump_json(),
            self.cpus,
            "cuda" if self.gpus else "cpu",
            self.engine,
            self.place,
            str(self.folder.checkpoint_path(cell).resolve()),
            self.board,
            mabench.__version__,
        )
        self.tasks[task] = cell

    def _outcome(self, task: Any) -> RunRecord | None:
        """The record of a task that has ended; None when its worker was lost and the cell was submitted again."""
        cell = self.tasks.pop(task)
        errors = self.ray.exceptions
        lost = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError)
        try:
            kind, text = self.ray.get(task)
        except lost as error:
            kind, text = "lost", _why(error)
        except errors.TaskCancelledError:
            kind, text = "lost", "it was cancelled"
        except (errors.RayTaskError, errors.RuntimeEnvSetupError, RuntimeError) as error:
            if "failed to import" in str(error) or "No module named" in str(error):
                raise MabenchError(
                    f"a node of the cluster cannot import mabench ({_last_line(error)}). Install the same version on every node: "
                    f"pip install mabench=={mabench.__version__}"
                ) from error
            raise
        if kind == "record":
            return RunRecord.model_validate_json(text)
        if kind == "refused":
            raise MabenchError(text)
        if kind == "failed":
            self.on_event(failure(cell, RuntimeError(text), "cuda" if self.gpus else "cpu"))
            return None
        self.losses[cell.name] = self.losses.get(cell.name, 0) + 1
        title = f"{cell.evaluator.name} seed {cell.seed}"
        if self.losses[cell.name] > LOSSES_ALLOWED:
            raise MabenchError(
                f"{title}: its worker was lost {self.losses[cell.name]} times, the last time: {text}. Look at memory and at Ray's "
                "logs on the nodes; the same command continues, and runs everything else if --evaluator leaves this one out."
            )
        again = self.losses[cell.name] + 1
        self.on_event(Note(f"{title}: its worker was lost ({text}); it starts again, try {again}", warning=True))
        self._submit(cell)
        return None

    def _stop(self) -> Iterator[RunRecord]:
        """Ask every worker to save and end; yields records that were finished in this very moment."""
        for task in self.tasks:
            self.ray.cancel(task)
        self.on_event(Note("stopping: cells under way save their checkpoints (Ctrl-C again ends at once)"))
        until = time.monotonic() + STOP_SECONDS
        while self.tasks and time.monotonic() < until:
            ready, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=POLL_SECONDS)
            for task in ready:
                del self.tasks[task]
                with suppress(Exception):  # cancelled, crashed, refused: none of it matters any more
                    kind, text = self.ray.get(task)
                    if kind == "record":
                        yield RunRecord.model_validate_json(text)

    # -- what the cluster has --------------------------------------------------------------------------------------

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _shares(self) -> dict[str, float]:
        """Name of every cell under way -> the part of it that is done, 0 to 1."""
        try:
            known: dict[str, float] = self.ray.get(self.board.shares.remote(), timeout=5 * REPORT_SECONDS)
        except (self.ray.exceptions.RayError, TimeoutError):  # the board starts again: only the display suffers
            return {}
        current = {cell.name for cell in self.tasks.values()}
        return {name: share for name, share in known.items() if name in current}

    def _asked_for(self, cell: Cell) -> str:
        needs = costs.needs(cell, self.synthetic_set, self.test, cpus=self.cpus, gpus=self.gpus, engine=self.engine)
        return f"{needs.cpus:g} CPU, {needs.gpus:g} GPU and {needs.memory_bytes / 2**30:.1f} GiB"

    def _check_room(self, cells: Sequence[Cell]) -> None:
        """Raise MabenchError when some cell fits on no node: it would wait for ever."""
        nodes = [node["Resources"] for node in self._nodes()]
        for cell in cells:
            needs = costs.needs(cell, self.synthetic_set, self.test, cpus=self.cpus, gpus=self.gpus, engine=self.engine)
            if not any(
                node.get("CPU", 0) >= needs.cpus
                and node.get("GPU", 0) >= needs.gpus
                and node.get("memory", 0) >= needs.memory_bytes
                for node in nodes
            ):
                offers = ", ".join(
                    sorted(
                        {
                            f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU and {n.get('memory', 0) / 2**30:.1f} GiB"
                            for n in nodes
                        }
                    )
                )
                raise MabenchError(
                    f"{cell.evaluator.name}: a cell asks for {self._asked_for(cell)}, and no node of the cluster has that; they "
                    f"offer {offers}. Ask for less with --cpus-per-cell or --gpus-per-cell, or add a larger node."
                )


def _threads_here() -> int:
    import torch

    return torch.get_num_threads()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _why(error: BaseException) -> str:
    """A reason in a few words for the errors that Ray explains in paragraphs."""
    known = {
        "WorkerCrashedError": "its process ended",
        "NodeDiedError": "its node died",
        "OutOfMemoryError": "its node ran out of memory",
    }
    return known.get(type(error).__name__, type(error).__name__)
