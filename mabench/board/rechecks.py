"""A record checked by its first steps: whoever invents a curve has no losses that another machine finds again. Needs torch.

What it cannot see: a run whose first steps are real and whose curve was invented after them. That takes `mabench verify`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mabench import data, training
from mabench.board import hardened
from mabench.board.gates import Gate, attempted, gate, suites_known
from mabench.errors import MabenchError, first_line
from mabench.networks import sizes
from mabench.schema import RunRecord
from mabench.sets.synthetic import SyntheticSet

NAME = "first steps"


@dataclass(frozen=True)
class _Arithmetic:
    """How far losses of one arithmetic may lie from the reference engine's here, as parts of a loss."""

    allowed: float
    at_first: float
    """Of step 1, where the initial weights have another digest."""
    moved: float
    """By which part of itself every weight is moved, to see which steps depend on rounding."""


ARITHMETIC = {
    # ours: where sums in another order changed a loss by more than 1 %, weights moved by eight roundings always did by 0.1 %
    "float32": _Arithmetic(allowed=0.01, at_first=1e-5, moved=2.0**-20),
    # ours: bfloat16 rounds to one part in 2^9; ConvNet-3's first losses differ by up to 0.03 %
    "bfloat16": _Arithmetic(allowed=0.05, at_first=5e-3, moved=2.0**-9),
}
"""Arithmetic of a record's training -> what is compared."""
STABLE = 0.1  # ours: a step counts while moved weights change its loss by less than this part of what is allowed
SMALL = 0.1  # ours: losses below are compared as if they were this large


@dataclass(frozen=True)
class Beginning:
    """The first steps of a run as they are here."""

    initial_weights: str
    losses: tuple[float, ...]
    stable: int
    """Steps, counted from the first, whose losses do not depend on rounding; at least one."""


def first_steps(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> Gate:
    """The runs of one network of every track begin here as their records say, all of its seeds.

    It is the cheapest network whose steps do not depend on rounding, else the cheapest. The gate is open, and says what was not
    checked, where nothing can be compared: records of before the field, no weights, no GPU. Only networks that a suite asks for
    are ever built.
    """
    tracks = _tracks([record for record in records if record.cell.set_sha256 == synthetic_set.sha256])
    if not tracks:
        return gate(NAME, "not checked: no record holds the losses of its first steps", [], checked=False)
    found, unchecked, problems = [], [], []
    for runs in tracks:
        near = [record for record in runs if _device(record) is not None]
        far = [record.cell.name for record in runs if _device(record) is None]
        unchecked += (
            [f"not checked: runs on a device that is not here, and draws its augmentation otherwise: {first_line(far)}"]
            if far
            else []
        )
        try:
            text, wrong = _of_track(synthetic_set, _networks(near)) if near else ("", [])
        except MabenchError as error:
            unchecked.append(f"not checked: {error}")
        else:
            found += [text] if text else []
            problems += wrong
    return gate(NAME, "; ".join([*unchecked, *found]), problems, checked=not unchecked)


def _of_track(synthetic_set: SyntheticSet, networks: Sequence[Sequence[RunRecord]]) -> tuple[str, list[str]]:
    """What was found for the runs of a track, and what is wrong with them. `networks`: the runs of each, the cheapest first.

    Raises MabenchError where they cannot be repeated here.
    """
    begun: dict[str, Beginning] = {}
    chosen = networks[0]
    for runs in networks:
        here = begun[runs[0].cell.name] = beginning(synthetic_set, runs[0])
        if here.stable == len(here.losses):
            chosen = runs
            break
    problems, largest, steps = [], 0.0, set()
    for record in chosen:
        here = begun.get(record.cell.name) or beginning(synthetic_set, record)
        problem, difference = compared(record, here)
        problems += [problem] if problem else []
        largest = max(largest, difference)
        steps.add(here.stable)
    unstable = (
        "" if min(steps) == len(here.losses) else f" in {min(steps)} of {len(here.losses)} steps; later ones depend on rounding"
    )
    names = f"{chosen[0].cell.evaluator.name}, {len(chosen)} seeds"
    return f"{names}: the first losses are the same within {100 * largest:.2g} %{unstable}", problems


def of_hardened(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> list[Gate]:
    """The runs with hardened labels are about the hardened set, and begin as their records say: they are shown beside the score.

    Nothing to say where there are none, and of hard labels: that these have none to harden, `hardened.of_records` says.
    """
    if not records or synthetic_set.label_kind == "hard":
        return []
    hard = synthetic_set.hardened()
    found = attempted(NAME, lambda: first_steps(hard, records))
    return [hardened.same_images(hard.sha256, records), replace(found, name=f"hardened, {NAME}")]


def beginning(synthetic_set: SyntheticSet, record: RunRecord) -> Beginning:
    """The first steps of this run, taken again here. Raises MabenchError without its weights or its device.

    They are taken twice, the second time with every weight moved by a rounding: steps that then differ would differ on another
    machine, too.
    """
    device, arithmetic = _device(record), _arithmetic(record)
    if device is None:
        raise MabenchError(f"{record.cell.name} was run on a device that is not here. Review it on a machine with a GPU.")
    test = data.load(synthetic_set.dataset, "test")
    with training.deterministic(device):
        digest, losses = training.first_losses(synthetic_set, record.cell, test, device)

        def stable(moved: Sequence[float]) -> int:
            differences = _differences(moved, losses)
            return next((k for k, x in enumerate(differences) if not x <= STABLE * arithmetic.allowed), len(differences))

        _, moved = training.first_losses(
            synthetic_set, record.cell, test, device, moved=arithmetic.moved, enough=lambda moved: stable(moved) < len(moved)
        )
    return Beginning(digest, losses, max(1, stable(moved)))


def compared(record: RunRecord, here: Beginning) -> tuple[str, float]:
    """What is wrong with the losses in a record, empty where nothing is, and the largest difference as a part of a loss.

    Equal digests of the initial weights mean equal weights. Unequal ones mean nothing by themselves, since truncated normal numbers
    round differently from machine to machine; then the loss of step 1 has to be all the closer.
    """
    name, arithmetic = record.cell.name, _arithmetic(record)
    if len(record.first_losses) != len(here.losses):
        return f"{name}: holds {len(record.first_losses)} first losses, the run has {len(here.losses)}. {CURE}", 0.0
    allowed, why = [arithmetic.allowed] * here.stable, ""
    if record.initial_weights_sha256 != here.initial_weights:
        allowed[0], why = arithmetic.at_first, ", since its initial weights have another digest"
    differences = _differences(record.first_losses[: here.stable], here.losses)
    for k, (difference, most) in enumerate(zip(differences, allowed, strict=True)):
        if not difference <= most:
            old, new = record.first_losses[k], here.losses[k]
            text = f"step {k + 1} has the loss {new:.6f} here, the record says {old:.6f} (allowed: {100 * most:g} %{why if k == 0 else ''})"
            return f"{name}: {text}. {CURE}", max(differences)
    return "", max(differences)


CURE = "mabench eval did not write this on this set: run the cell again."


def _differences(losses: Sequence[float], true: Sequence[float]) -> list[float]:
    """Of each loss from the true one, as a part of it."""
    return [abs(a - b) / max(abs(b), SMALL) for a, b in zip(losses, true, strict=False)]


def _arithmetic(record: RunRecord) -> _Arithmetic:
    """That of the record's training, which may differ from that of its tests."""
    narrow = record.engine == "fast" and "bfloat16" in record.environment.get("arithmetic", "bfloat16").split("trained in ")[-1]
    return ARITHMETIC["bfloat16" if narrow else "float32"]


def _device(record: RunRecord) -> torch.device | None:
    """Where the run's first batch can be drawn again; None if not here.

    A device has its own generator for the augmentation. Initial weights and the order of the images are drawn on the processor.
    """
    recipe, accelerator = record.cell.recipe, record.environment.get("accelerator", "none")
    if accelerator == "none" or recipe.augmentation.absent or recipe.recorded is not None:
        return torch.device("cpu")
    return torch.device("cuda") if torch.cuda.is_available() and not accelerator.startswith("Apple") else None


def _tracks(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Of every track the runs whose records hold first losses and whose recipe needs no teacher.

    Runs that no suite of today asks for rank nothing, and do not count.
    """
    tracks: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.first_losses and record.cell.recipe.distillation is None and not suites_known([record], fresh=True).refusals:
            tracks[record.cell.suite, record.cell.track].append(record)
    return [runs for _, runs in sorted(tracks.items())]


def _networks(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """The runs of each network, of those that cost least first."""
    networks: dict[tuple[int, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        entry = data.DATASETS[record.synthetic_set.dataset]
        cost = sizes.of(record.cell.evaluator, entry.num_classes, entry.channels).flops
        networks[cost, record.cell.evaluator.name].append(record)
    return [sorted(runs, key=lambda r: r.cell.seed) for _, runs in sorted(networks.items())]
