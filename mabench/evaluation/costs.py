"""What a job would cost on this device: measured on the first steps of each evaluator, cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mabench.data import DATASETS
from mabench.engine import wanted
from mabench.evaluation import Job
from mabench.runs import costs
from mabench.runs.folder import HARDENED
from mabench.runs.process import resolve_device
from mabench.schema import Cell


@dataclass(frozen=True)
class PlanLine:
    """One evaluator of a plan."""

    track: str
    evaluator: str
    runs: int
    """That are not finished."""
    steps: int
    """Of one run."""
    flops: float
    """Of all its runs."""
    seconds: float
    """Of all its runs, estimated."""


def plan_lines(job: Job, out: Path | None, *, device: str = "auto", engine: str = "auto") -> Iterator[PlanLine]:
    """A line an evaluator, cheapest first, each as soon as it was measured; nothing is written. Hardened labels come last, at the same
    speeds."""
    speeds: dict[costs.Kind, costs.Speed] = {}
    yield from _lines(job, out, device, engine, speeds)
    if job.hardened is not None:
        for line in _lines(job.hardened, None if out is None else out / HARDENED, device, engine, speeds):
            yield replace(line, evaluator=f"{line.evaluator}, hardened")


def _lines(job: Job, out: Path | None, device: str, engine: str, speeds: dict[costs.Kind, costs.Speed]) -> Iterator[PlanLine]:
    where, computed_by = resolve_device(device), wanted(engine)
    dataset = DATASETS[job.loaded_suite.suite.dataset]
    decoded = job.synthetic_set.summary().decoded_images
    folder = None if out is None else job.folder(out)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in job.here:
        if folder is None or folder.finished(cell) is None:
            groups.setdefault((cell.track, cell.evaluator.name), []).append(cell)
    flops = {kind: sum(costs.flops(c, dataset, decoded, dataset.test_size) for c in same) for kind, same in groups.items()}
    for (track, name), same in sorted(groups.items(), key=lambda item: flops[item[0]] / len(item[1])):
        costs.learn(speeds, same, job.synthetic_set, dataset.test_size, device=where, engine=computed_by)
        seconds = costs.estimate(same, job.synthetic_set, dataset.test_size, speeds, device=where, engine=computed_by)
        steps = same[0].recipe.epochs * -(-decoded // same[0].recipe.batch_size)
        yield PlanLine(track, name, len(same), steps, flops[track, name], sum(seconds.values()))
