"""Gates that look at the set's images: pixel values, class order, images of the test split. Need torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mabench import data, suites
from mabench.board.gates import Gate, attempted, gate
from mabench.data import RealData
from mabench.errors import MabenchError
from mabench.runs.plan import plan
from mabench.schema import Card, RunRecord
from mabench.sets import leaks
from mabench.sets import probes as order_probe
from mabench.sets.labelling import is_one_hot
from mabench.sets.synthetic import SyntheticSet


def of_set(synthetic_set: SyntheticSet, records: Sequence[RunRecord], card: Card | None) -> list[Gate]:
    """All gates that need the set; images of the dataset are fetched where they are not there."""
    return [
        identity(synthetic_set, records),
        attempted("budget", lambda: budget(synthetic_set, records, card)),
        admitted(synthetic_set, records),
        class_order(synthetic_set, data.load(synthetic_set.dataset, "train")),
        leak(synthetic_set, data.load(synthetic_set.dataset, "test"), data.load(synthetic_set.dataset, "train")),
    ]


def pixels(synthetic_set: SyntheticSet, path: object) -> Gate:
    """Values that can be pixels, and class names that are the dataset's."""
    largest = float(synthetic_set.images.float().abs().max())
    limit = 255 if synthetic_set.images.dtype == torch.uint8 else 100  # ours: white is 1.0; a hundred times that is no pixel
    problems = []
    if largest > limit:
        problems.append(f"{path}: pixel values up to {largest:.3g}, where 1.0 is white. Say what they are with --space.")
    if synthetic_set.label_kind == "soft" and is_one_hot(synthetic_set.labels):
        problems.append(
            f"{path}: soft labels that are one-hot are hard labels. Write them so: mabench pack {path} -o hard.safetensors"
        )
    entry, names = synthetic_set.entry, tuple(synthetic_set.class_names)
    if names and entry.class_names and names != entry.class_names:
        wrong = [k for k, (a, b) in enumerate(zip(names, entry.class_names, strict=False)) if a != b]
        if wrong:
            first = f"class {wrong[0]} is called {names[wrong[0]]!r}, {synthetic_set.dataset} has {entry.class_names[wrong[0]]!r}"
        else:
            first = f"{len(names)} names for {synthetic_set.num_classes} classes"
        problems.append(
            f"{path}: class names are not {synthetic_set.dataset}'s, in its order: {first}. Sort the classes as the dataset does."
        )
    described = f"{synthetic_set.dataset}, {len(synthetic_set.images)} images, {synthetic_set.label_kind} labels, all finite"
    return gate("set", f"{synthetic_set.sha256[:16]}, {described}", problems)


def identity(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> Gate:
    """The records are about this set."""
    sha = synthetic_set.sha256
    others = [r for r in records if {r.cell.set_sha256, r.synthetic_set.sha256} != {sha}]
    problems = [
        f"{len(others)} of {len(records)} records belong to another set ({r.cell.set_sha256[:16]}, SET is {sha[:16]}), the first is "
        f"{r.cell.name}. Name the set's own records with --records, or run mabench eval."
        for r in others[:1]
    ]
    return gate("identity", f"set and records are {sha[:16]}", problems)


def budget(synthetic_set: SyntheticSet, records: Sequence[RunRecord], card: Card | None) -> Gate:
    """What the records say of the set is true of it."""
    true = synthetic_set.summary().model_dump(exclude={"name", "findings", "recorded_bytes"})
    problems = []
    for record in records:
        said = record.synthetic_set.model_dump(exclude={"name", "findings"})
        wrong = [f"{k} {said[k]} instead of {true[k]}" for k in true if said[k] != true[k] and k != "sha256"]
        recorded_bytes = synthetic_set.recorded.bytes if record.cell.labels_sha256 is not None else 0
        if said["recorded_bytes"] != recorded_bytes:
            wrong.append(f"recorded_bytes {said['recorded_bytes']} instead of {recorded_bytes}")
        if wrong:
            problems.append(f"{record.cell.name}: says {', '.join(wrong)}. Run the cell again: mabench eval.")
    images, decoder = synthetic_set.images.nbytes, card.decoder_bytes if card else 0
    labels = synthetic_set.stored_bytes - images
    recorded = max((record.synthetic_set.recorded_bytes for record in records), default=0)
    found = f"IPC {synthetic_set.ipc}, {images:,} bytes of images, {labels:,} of labels, {decoder:,} of a decoder"
    found += f", {recorded:,} of recorded labels" if recorded else ""
    return gate("budget", found, problems)


def admitted(synthetic_set: SyntheticSet, records: Sequence[RunRecord]) -> Gate:
    """The suites of the records, as they are today, take this set."""
    problems = []
    for suite in sorted({r.cell.suite for r in records} & set(suites.released())):
        loaded_suite = suites.load(suite)
        here = [r for r in records if r.cell.suite_digest == loaded_suite.digest]
        try:
            replayed = {cell.labels_sha256 for cell in plan(loaded_suite, synthetic_set)} if here else set()
        except MabenchError as error:
            problems.append(str(error))
            continue
        others = [r for r in here if r.cell.labels_sha256 not in replayed]
        problems += [
            f"{r.cell.name}: replayed other labels than those in {synthetic_set.labels_folder}. Name its own with --recorded-labels."
            for r in others[:1]
        ]
    return gate("admitted", "the suites take this set", problems)


def class_order(synthetic_set: SyntheticSet, train: RealData) -> Gate:
    """A linear probe that learns the set's labels knows the dataset's classes by their own numbers."""
    found, problem = order_probe.class_order(synthetic_set, train)
    return gate("class order", found, [problem] if problem else [])


def leak(synthetic_set: SyntheticSet, test: RealData, train: RealData) -> Gate:
    """No training image is an image of the test split, copied or in disguise. One that the train split has as well is none."""
    images, _ = synthetic_set.decoded()
    report = leaks.find(images, leaks.Split(test), leaks.Split(train), synthetic_set.factor)
    problems = [
        f"{len(report.leaks)} of {len(images)} training images are images of the TEST split (the first is image {first.image}, test image "
        f"{first.test_image}, {first.how}; no train image is as near). Make the set from the train split only."
        for first in report.leaks[:1]
    ]
    found = f"nearest to a test image: distance {report.nearest:.3f} of full range, correlation {report.most_alike:.3f}"
    if report.looked_at < len(images):
        found += f"; {report.looked_at:,} of {len(images):,} images were searched for disguises"
    return gate("test images", found, problems)
