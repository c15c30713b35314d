"""A record checked by its first steps: whoever invents a curve has no losses that another machine finds again. Needs torch.

What it cannot see: a run whose first steps are real and whose curve was invented after them. That takes `mabench verify`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from mabench import data, training
from mabench.board import hardened
from mabench.board.gates import Gate, attempted, gate, suites_known
from mabench.errors import MabenchError
from mabench.networks import sizes
from mabench.schema import RunRecord
from mabench.sets.synthetic import SyntheticSet

NAME = "first steps"
TOLERANCE = {
    "reference": 0.01,  # ours: float32 sums in another order differ by 1e-6 of a loss at first, and by less than 1e-3 after ten steps
    "fast": 0.05,  # ours: bfloat16 keeps three digits of a product
}
"""Engine of the record -> how far a loss may lie from the reference engine's here, as a part of it."""
SMALL = 0.1  # ours: losses below are compared as if they were this large


def first_steps(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> Gate:
    """The runs of every track's cheapest network begin here as their records say, all of its seeds.

    The gate is open, and says why, where nothing can be compared: records of before the field, no weights, no GPU. Only networks
    that a suite asks for are ever built.
    """
    tracks = _cheapest([record for record in records if record.cell.set_sha256 == synthetic_set.sha256])
    if not tracks:
        return gate(NAME, "not checked: no record holds the losses of its first steps", [])
    found, problems = [], []
    for runs in tracks:
        text, wrong = _of_network(synthetic_set, runs)
        found.append(text)
        problems += wrong
    return gate(NAME, "; ".join(found), problems)


def _of_network(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> tuple[str, list[str]]:
    """What was found for the runs of one network, and what is wrong with them."""
    problems, largest = [], 0.0
    for record in records:
        device = torch.device("cpu" if record.environment.get("accelerator", "none") == "none" else "cuda")
        if device.type == "cuda" and not torch.cuda.is_available():
            return f"not checked: {record.cell.name} was run on a GPU, which draws its augmentation otherwise", []
        try:
            test = data.load(synthetic_set.dataset, "test")
            with training.deterministic(device):
                _, losses = training.first_losses(synthetic_set, record.cell, test, device)
        except MabenchError as error:
            return f"not checked: {error}", []
        problem, difference = compared(record, losses)
        problems += [problem] if problem else []
        largest = max(largest, difference)
    names = f"{records[0].cell.evaluator.name}, {len(records)} seeds"
    return f"{names}: the first losses are the same within {100 * largest:.2g} %", problems


def of_hardened(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> list[Gate]:
    """The runs with hardened labels are about the hardened set, and begin as their records say: they are shown beside the score.

    Nothing to say where there are none, and of hard labels: that these have none to harden, `hardened.of_records` says.
    """
    if not records or synthetic_set.label_kind == "hard":
        return []
    hard = synthetic_set.hardened()
    found = attempted(NAME, lambda: first_steps(hard, records))
    return [hardened.same_images(hard.sha256, records), replace(found, name=f"hardened, {NAME}")]


def compared(record: RunRecord, losses: Sequence[float]) -> tuple[str, float]:
    """What is wrong with the losses in a record, empty where nothing is, and the largest difference as a part of a loss."""
    allowed = TOLERANCE[record.engine]
    if len(record.first_losses) != len(losses):
        return f"{record.cell.name}: holds {len(record.first_losses)} first losses, the run has {len(losses)}. {CURE}", 0.0
    differences = [abs(old - new) / max(abs(new), SMALL) for old, new in zip(record.first_losses, losses, strict=True)]
    step = next((k for k, difference in enumerate(differences) if not difference <= allowed), None)
    if step is None:
        return "", max(differences, default=0.0)
    text = (
        f"{record.cell.name}: step {step + 1} has the loss {losses[step]:.4f} here, the record says {record.first_losses[step]:.4f} "
        f"(allowed: {100 * allowed:g} %). {CURE}"
    )
    return text, max(differences)


CURE = "mabench eval did not write this on this set: run the cell again."


def _cheapest(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Of every track the runs of the network that costs least, of those whose records hold first losses and whose recipe needs no teacher.

    Runs that no suite of today asks for rank nothing, and do not count.
    """
    tracks: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.first_losses and record.cell.recipe.distillation is None and not suites_known([record], fresh=True).refusals:
            tracks[record.cell.suite, record.cell.track].append(record)
    least = {key: min(runs, key=lambda r: (_cost(r), r.cell.name)).cell.evaluator.name for key, runs in tracks.items()}
    return [[r for r in runs if r.cell.evaluator.name == least[key]] for key, runs in sorted(tracks.items())]


def _cost(record: RunRecord) -> int:
    entry = data.DATASETS[record.synthetic_set.dataset]
    return sizes.of(record.cell.evaluator, entry.num_classes, entry.channels).flops
