"""The gates that a submission passes, and what it writes when all of them are open.

A gate states what it found; a closed one says how to mend it. All gates run, so that one command shows every problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mabench import data, suites
from mabench.board import submission as submissions
from mabench.board.submission import AUDIT, CARD, RECORDS, SET, Submission, record_bytes, record_name
from mabench.data import RealData
from mabench.errors import MabenchError, first_line
from mabench.files import read_bytes
from mabench.results import ranking, scoring
from mabench.results import tables as report
from mabench.results.ranking import Status
from mabench.runs.folder import MAX_RECORD_BYTES, read_record
from mabench.runs.plan import plan
from mabench.schema import Card, Cell, RunRecord, Tier
from mabench.sets import readers as adapters
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import Exam

LEAK_RMS = (
    0.04  # ours: two thirds of the smallest distance of 600 real training images to a test image (digits .060, CIFAR-10 .067)
)
LEAK_SIDE = 32  # ours: larger images are averaged down to this side; averaging never makes a distance larger
MAX_RESULTS_BYTES = 2**26  # ours: 10,000 cells take 3 MB
PROBE_TRAIN = 5000  # ours: real images that the class probe is asked about; their share has a standard error below 0.7 points
PROBE_SIDE = 16  # ours: pixels a side that the probe sees
PROBE_SET = 2000  # ours: images of the set that it learns from, so that its kernel matrix stays small
PROBE_LOSS = (
    0.5  # ours: refuse when the stated order loses half of what the best one gains over chance (random IPC 1: at most .20)
)
PROBE_LOSS_CLEAR = (
    0.15  # ours: ... or this where the probe knows the classes (>= 2x chance, >= 0.25): two swapped of ten lose .20
)
PROBE_NOISE = 0.03  # ours: and never for less than this, which chance alone gives at a few thousand images
ENVIRONMENT = ("mabench", "torch", "device", "arithmetic")


@dataclass(frozen=True)
class Gate:
    """One check: its name, what it found, and, if it is closed, what to mend."""

    name: str
    found: str
    refusals: tuple[str, ...] = ()


@dataclass
class Examination:
    """A submission on its way through the gates; what could not be read is None and its gates say so."""

    gates: list[Gate] = field(default_factory=list)
    card: Card | None = None
    synthetic_set: SyntheticSet | None = None
    records: list[RunRecord] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """The evaluation folders that hold the records."""
    tracks: list[Status] = field(default_factory=list)
    exams: dict[str, Exam] = field(default_factory=dict)
    """Suite id -> exam, of the suites that are known."""

    @property
    def refusals(self) -> list[str]:
        return [f"{gate.name}: {text}" for gate in self.gates for text in gate.refusals]

    @property
    def slug(self) -> str:
        assert self.card is not None
        return submissions.slug_of(self.card)

    def check(self, name: str, gate: Callable[[], str]) -> None:
        """Run one gate: it returns what it found, or raises Refused or MabenchError."""
        try:
            self.gates.append(Gate(name, gate()))
        except Refused as refused:
            self.gates.append(Gate(name, "refused", refused.texts))
        except MabenchError as error:
            self.gates.append(Gate(name, "refused", (str(error),)))

    def needs(self) -> SyntheticSet:
        if self.synthetic_set is None:
            raise Refused("not checked, because the set could not be read: mend the set first")
        return self.synthetic_set


class Refused(Exception):
    """What a gate found wrong: one text a problem, each with its cure."""

    def __init__(self, *texts: str) -> None:
        super().__init__(*texts)
        self.texts = texts


def _all_or(problems: Sequence[str], found: str) -> str:
    if problems:
        more = (f"... and {len(problems) - 6} more of this kind",) if len(problems) > 6 else ()
        raise Refused(*problems[:6], *more)
    return found


def examine(
    set_path: Path,
    records: Sequence[Path],
    card_path: Path,
    *,
    card_fields: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> Examination:
    """Run every gate. `reading`: arguments of `adapters.read`; `card_fields` replaces the card file's content (interactive);
    `root`: the folder of submissions in which the slug must be free or one's own. Raises nothing that a gate can say."""
    case = Examination()
    case.check("card", lambda: _card(case, card_path, card_fields))
    case.check("set", lambda: _set(case, set_path, reading or {}))
    case.check("records", lambda: _records(case, records))
    case.check("identity", lambda: _identity(case))
    case.check("budget", lambda: _budget(case))
    case.check("suites", lambda: _suites(case))
    case.check("curves", lambda: _curves(case))
    case.check("aggregates", lambda: _aggregates(case))
    case.check("class order", lambda: _class_order(case))
    case.check("test images", lambda: _leak(case))
    if root is not None and case.card is not None:
        case.check("slug", lambda: _slug(case, root))
    return case


# -- the gates -----------------------------------------------------------------------------------------------------


def _card(case: Examination, path: Path, fields: Mapping[str, Any] | None) -> str:
    card = submissions.read_card(path) if fields is None else submissions.make_card(fields, path)
    lacking = [name for name in REQUIRED if not getattr(card, name)]
    if lacking:
        raise Refused(f"{path}: lacks {', '.join(lacking)}. Write them into the card, or let --interactive ask for them.")
    submissions.slug_of(card)
    case.card = card
    return f"{card.title!r} by {first_line(card.authors)}"


REQUIRED = ("title", "authors", "licence")
"""What every card says. Paper, code and command make a row worth more; a set without them may still be measured."""


def _set(case: Examination, path: Path, reading: Mapping[str, Any]) -> str:
    case.synthetic_set = chosen = adapters.read(path, **reading)  # shape, type, finite values, label range, ipc
    largest = float(chosen.images.float().abs().max())
    limit = 255 if chosen.images.dtype == torch.uint8 else 100  # ours: white is 1.0; a hundred times that is no pixel
    if largest > limit:
        raise Refused(
            f"{path}: pixel values up to {largest:.3g}, where 1.0 is white. Name what they are with --space, or mend them."
        )
    entry = chosen.entry
    if chosen.class_names and entry.class_names and tuple(chosen.class_names) != entry.class_names:
        wrong = [k for k, (a, b) in enumerate(zip(chosen.class_names, entry.class_names, strict=False)) if a != b]
        first = f"class {wrong[0]} is called {chosen.class_names[wrong[0]]!r}, {chosen.dataset} has " if wrong else ""
        first += (
            f"{entry.class_names[wrong[0]]!r}" if wrong else f"{len(chosen.class_names)} names for {chosen.num_classes} classes"
        )
        raise Refused(
            f"{path}: class names are not {chosen.dataset}'s, in its order: {first}. Sort the classes as the dataset does."
        )
    return f"{chosen.sha256[:16]}, {chosen.dataset}, {len(chosen.images)} images, {chosen.label_kind} labels, all finite"


def _folders(given: Sequence[Path]) -> list[Path]:
    """Evaluation folders: those named, or all inside them."""
    folders: list[Path] = []
    problems = []
    for path in given:
        inside = [path] if (path / "records").is_dir() else sorted(p.parent for p in path.glob("*/records") if p.is_dir())
        inside = inside or ([path.parent] if path.name == "records" and path.is_dir() else [])
        folders += inside
        if not inside:
            problems.append(f"{path}: holds no records/ folder. Name the folder that mabench eval wrote (its --out).")
    if problems:
        raise Refused(*problems)
    return folders


def _records(case: Examination, given: Sequence[Path]) -> str:
    case.folders = _folders(given)
    problems: list[str] = []
    seen: dict[str, tuple[Path, RunRecord]] = {}
    for path in (p for folder in case.folders for p in sorted((folder / "records").glob("*.json"))):
        try:
            if path.stat().st_size > MAX_RECORD_BYTES:
                raise MabenchError(
                    f"{path}: {path.stat().st_size:,} bytes; a record has at most {MAX_RECORD_BYTES:,}. Run its cell again."
                )
            record = read_record(path)
        except MabenchError as error:
            problems.append(str(error))
            continue
        name = record_name(record)
        if path.stem not in (record.cell.name, name):
            problems.append(f"{path}: holds the cell {record.cell.name}. Give the file its cell's name, or run the cell again.")
        elif name in seen and seen[name][1] != record:
            problems.append(
                f"{path}: a second, different record of the cell in {seen[name][0]}. Keep the one that mabench eval wrote."
            )
        seen[name] = (path, record)
    case.records = [record for _, record in seen.values()]
    if not seen and not problems:
        problems.append(f"{first_line(map(str, given))}: holds no record. Run mabench eval on the set first.")
    return _all_or(problems, f"{len(seen)} cells, one record each")


def _identity(case: Examination) -> str:
    chosen = case.needs()
    others = [r for r in case.records if {r.cell.set_sha256, r.synthetic_set.sha256} != {chosen.sha256}]
    if others:
        raise Refused(
            f"{len(others)} of {len(case.records)} records are about another set ({others[0].cell.set_sha256[:16]}, SET is "
            f"{chosen.sha256[:16]}), the first is {others[0].cell.name}. Name the set's own records with --records, or run mabench eval."
        )
    return f"set and records are {chosen.sha256[:16]}"


def _budget(case: Examination) -> str:
    chosen = case.needs()
    own = chosen.summary().model_dump(exclude={"name", "findings", "recorded_bytes"})
    problems = []
    for record in case.records:
        said = record.synthetic_set.model_dump(exclude={"name", "findings"})
        wrong = [f"{k} {said[k]} instead of {own[k]}" for k in own if said[k] != own[k] and k != "sha256"]
        if wrong:
            problems.append(f"{record.cell.name}: says {', '.join(wrong)}. Run the cell again: mabench eval.")
    label_bytes = chosen.stored_bytes - chosen.images.nbytes
    decoder = case.card.decoder_bytes if case.card else 0
    return _all_or(
        problems,
        f"IPC {chosen.ipc}, {chosen.images.nbytes:,} bytes of images, {label_bytes:,} of labels, {decoder:,} of a decoder",
    )


def _suites(case: Examination) -> str:
    """Suite known, digest equal, and every cell one that the suite asks of this set; then how complete each track is."""
    chosen = case.needs()
    problems = []
    known = suites.released()
    for suite_id in sorted({r.cell.suite for r in case.records}):
        if suite_id not in known:
            problems.append(
                f"{suite_id}: is no released suite (released: {', '.join(sorted(known))}). Only numbers of released suites can be compared."
            )
            continue
        exam = suites.load(suite_id)
        mine = [r for r in case.records if r.cell.suite == suite_id]
        stale = [r for r in mine if r.cell.suite_digest != exam.digest]
        if stale:
            problems.append(
                f"{suite_id}: {len(stale)} records were made under a changed suite (digest {stale[0].cell.suite_digest[:16]}, released "
                f"{exam.digest[:16]}). Run mabench eval --suite {suite_id} with an unchanged mabench."
            )
            continue
        if any(recipe.recorded is not None for recipe in exam.recipes.values()):
            problems.append(
                f"{suite_id}: replays labels recorded beside the set, which a submission does not hold, so nobody could repeat these "
                "numbers. Leave its records out, or submit to a suite that trains on the set's own labels."
            )
            continue
        planned = {cell.name: cell for cell in plan(exam, chosen)}  # raises for a set that the suite does not admit
        case.exams[suite_id] = exam
        for record in mine:
            if record.cell.set_sha256 == chosen.sha256 and planned.get(record.cell.name) != record.cell:
                problems.append(
                    f"{record.cell.name}: is not a cell of {suite_id}{_difference(record.cell, planned)}. Run it again: mabench eval."
                )
        answers = [ranking.status(exam, track, mine) for track in exam.evaluators]
        case.tracks += [answer for answer in answers if answer.finished]
    complete = sum(track.complete for track in case.tracks)
    return _all_or(problems, f"{first_line(case.exams) or 'none'}; {complete} of {len(case.tracks)} tracks complete")


def _difference(cell: Cell, planned: Mapping[str, Cell]) -> str:
    if cell.name not in planned:
        return " (no such track, evaluator or seed)"
    here, there = cell.model_dump(), planned[cell.name].model_dump()
    return f" (differs in {', '.join(k for k in here if here[k] != there[k])})"


def _curves(case: Examination) -> str:
    """What the loop could have written: looks where the recipe has them, the real test split, finite numbers."""
    problems = []
    for record in case.records:
        cell, recipe = record.cell, record.cell.recipe
        looks = list(recipe.test_epochs)
        wrong = []
        if [epoch for epoch, _ in record.curve] != looks:
            wrong.append(
                f"{len(record.curve)} looks up to epoch {record.curve[-1][0]}, the recipe has {len(looks)} up to {looks[-1]}"
            )
        if not all(math.isfinite(loss) for _, loss in record.train_loss) or not 0 <= record.seconds < math.inf:
            wrong.append("losses or seconds are not finite")
        if record.upper_bounds and record.engine == "reference":
            wrong.append("the reference engine stops no look")
        if lacking := [k for k in ENVIRONMENT if not record.environment.get(k)]:
            wrong.append(f"the environment lacks {', '.join(lacking)}")
        try:
            datetime.fromisoformat(record.started)
        except ValueError:
            wrong.append(f"started {record.started[:40]!r} is no time")
        if wrong:
            problems.append(f"{cell.name}: {'; '.join(wrong)}. mabench eval did not write this: run the cell again.")
    if case.synthetic_set is not None:
        test = data.load(case.synthetic_set.dataset, "test")
        for record in case.records:
            if (record.test_sha256, record.total) != (test.sha256, len(test.labels)):
                problems.append(
                    f"{record.cell.name}: was tested on {record.total:,} images with digest {record.test_sha256[:16]}; {test.dataset.title}'s "
                    f"test split has {len(test.labels):,}, digest {test.sha256[:16]}. Run the cell on the real split."
                )
    return _all_or(problems, "looks, test split and numbers are those of the recipe")


def _aggregates(case: Examination) -> str:
    """Tables are always made from cells here; one that lies beside them and says otherwise means that a file was edited."""
    problems, compared = [], 0
    for folder in case.folders:
        path = folder / "results.json"
        if not path.is_file():
            continue
        try:
            value = json.loads(read_bytes(path, MAX_RESULTS_BYTES, "Delete it, or let mabench eval write it again."))
            cells = {
                (c["track"], c["evaluator"], c["seed"]): (c["acc_best"], c["best_epoch"], c["acc_last"]) for c in value["cells"]
            }
            said = {(r["track"], r["name"]): (r["mean"], r["std"], r["last"], r["runs"]) for r in value["rows"]}
            suite = str(value["suite"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append(f"{path}: is damaged ({error}). Delete it, or let mabench eval write it again.")
            continue
        names = {p.stem for p in (folder / "records").glob("*.json")}
        own = [r for r in case.records if r.cell.suite == suite and {r.cell.name, record_name(r)} & names and _key(r) in cells]
        for record in own:
            if cells[_key(record)] != (record.best, record.best_epoch, record.last):
                problems.append(
                    f"{record.cell.name}: the record says best {report.percent(record.best)}, last {report.percent(record.last)}; {path} says "
                    f"best {report.percent(cells[_key(record)][0])}, last {report.percent(cells[_key(record)][2])}. One of them was "
                    "edited: delete the record and run mabench eval again."
                )
        if suite in case.exams:
            for row in scoring.rows(case.exams[suite], own):
                compared += 1
                now = (row.mean, row.std, row.last, row.runs)
                if not problems and not _near(said.get((row.track, row.name)), now):
                    problems.append(
                        f"{path}: {row.track} {row.name} does not follow from the records. Let mabench eval write it again."
                    )
    return _all_or(
        problems, f"{compared} rows recomputed from cells agree" if compared else "no table beside the records; made from cells"
    )


def _key(record: RunRecord) -> tuple[str, str, int]:
    return record.cell.track, record.cell.evaluator.name, record.cell.seed


def _near(said: tuple[Any, ...] | None, own: tuple[Any, ...]) -> bool:
    return said is not None and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, abs_tol=1e-9))
        for a, b in zip(said, own, strict=True)
    )


def _class_order(case: Examination) -> str:
    chosen = case.needs()
    stated, best, order = class_probe(chosen, data.load(chosen.dataset, "train"))
    chance = 1 / chosen.num_classes
    lost = (best - stated) / max(best - chance, 1e-9)
    clear = best >= max(0.25, 2 * chance)
    if best - stated > PROBE_NOISE and best > chance and lost > (PROBE_LOSS_CLEAR if clear else PROBE_LOSS):
        moved = [k for k in range(chosen.num_classes) if order[k] != k]
        named = first_line(f"{chosen.entry.class_name(k)} -> {chosen.entry.class_name(order[k])}" for k in moved)
        raise Refused(
            f"a linear probe that learns the set's labels gets {report.percent(stated)}% of real training images right, but "
            f"{report.percent(best)}% if {len(moved)} classes are renamed ({named}): the classes seem permuted. Number them as "
            f"{chosen.dataset} does: {first_line(chosen.entry.class_name(k) for k in range(chosen.num_classes))}."
        )
    return f"a linear probe agrees with the stated order ({report.percent(stated)}%, best order {report.percent(best)}%)"


def class_probe(chosen: SyntheticSet, train: RealData) -> tuple[float, float, list[int]]:
    """Does the set's class k look like the dataset's class k?

    A kernel ridge regression learns the set's labels from its small standardised pixels and is asked about real TRAINING
    images. Returns the accuracy under the stated class order, that under the best one-to-one renaming, and the renaming
    (set class -> dataset class). Deterministic.
    """
    from scipy.optimize import linear_sum_assignment

    images, labels = chosen.decoded()
    targets = labels if labels.dim() == 2 else F.one_hot(labels, chosen.num_classes).float()
    if len(images) > PROBE_SET:
        kept = torch.linspace(0, len(images) - 1, PROBE_SET).long()
        images, targets = images[kept], targets[kept]
    every = max(1, len(train.labels) // PROBE_TRAIN)
    rows = slice(None, None, every) if len(set(train.labels[::every].tolist())) == chosen.num_classes else slice(None)
    known = _small(chosen, images)
    asked = torch.cat([_small(chosen, _pixels(part)) for part in _chunks(train.images[rows])])
    centre = known.mean(0)
    known, asked = known - centre, asked - centre
    kernel = known @ known.T
    ridge = 0.3 * kernel.diagonal().mean().clamp_min(1e-6)  # ours: a third of an image's own weight
    weights = torch.linalg.solve(kernel + ridge * torch.eye(len(kernel)), targets - targets.mean(0))
    answers = (asked @ known.T @ weights).argmax(1).numpy()
    counts = np.zeros((chosen.num_classes, chosen.num_classes))
    np.add.at(counts, (answers, train.labels[rows]), 1)
    sets, reals = linear_sum_assignment(-counts)
    return float(np.trace(counts) / counts.sum()), float(counts[sets, reals].sum() / counts.sum()), [int(k) for k in reals]


def _small(chosen: SyntheticSet, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (chosen.entry.mean, chosen.entry.std))
    return F.adaptive_avg_pool2d((images - mean) / std, PROBE_SIDE).flatten(1)


def _pixels(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.array(images)).float() / 255


def _chunks(images: np.ndarray[Any, np.dtype[np.uint8]], size: int = 1000) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [images[i : i + size] for i in range(0, len(images), size)]


def _leak(case: Examination) -> str:
    chosen = case.needs()
    images, _ = chosen.decoded()
    distances, nearest = nearest_real(images, data.load(chosen.dataset, "test"), chosen.factor)
    close = torch.nonzero(distances < LEAK_RMS).flatten()
    if len(close):  # a training image may have a twin in the test split: CIFAR-10 has some
        to_train, _ = nearest_real(images[close], data.load(chosen.dataset, "train"), chosen.factor)
        leaked = close[distances[close] < to_train]
        if len(leaked):
            first = int(leaked[0])
            raise Refused(
                f"{len(leaked)} of {len(images)} training images are images of the TEST split (the first is image {first}, test image "
                f"{int(nearest[first])}, distance {float(distances[first]):.4f} of full range; allowed from {LEAK_RMS}, or nearer to the train split). "
                "Make the set from the train split only."
            )
    return f"the nearest of all images to the test split has distance {float(distances.min()):.3f} of full range"


def nearest_real(images: Tensor, real: RealData, factor: int = 1) -> tuple[Tensor, Tensor]:
    """Root-mean-square distance, 1.0 = black to white, of every image [M,C,S,S] to the nearest of a real split, and its index.

    Mirrored images count too; for a set that stores grids, so do real images shrunk to a tile and enlarged again, with and
    without antialiasing. Above 32 px both sides are averaged to 32 px, which can only make distances smaller.
    """
    side = min(images.shape[-1], LEAK_SIDE)

    def flat(batch: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(batch, side).flatten(1)

    queries = torch.cat([flat(images), flat(images.flip(-1))])
    best = torch.full((len(queries),), math.inf)
    index = torch.zeros(len(queries), dtype=torch.int64)
    size = images.shape[-1]
    norms = (queries**2).sum(1, keepdim=True)
    for number, part in enumerate(_chunks(real.images)):
        pixels = _pixels(part)
        variants = [pixels]
        if factor > 1:
            for antialias in (False, True):
                small = F.interpolate(
                    pixels, size=(size // factor,) * 2, mode="bilinear", align_corners=not antialias, antialias=antialias
                )
                variants.append(F.interpolate(small, size=(size, size), mode="bilinear", align_corners=True))
        for variant in variants:
            candidates = flat(variant)
            squares = norms + (candidates**2).sum(1)[None] - 2 * queries @ candidates.T
            values, places = squares.min(1)
            # the expanded square cancels near zero: the winners' distances are taken again from their differences
            exact = ((queries - candidates[places]) ** 2).mean(1).sqrt()
            better = exact < best
            best[better], index[better] = exact[better], places[better] + 1000 * number
            del values
    rows = torch.stack([best[: len(images)], best[len(images) :]])
    chosen = rows.argmin(0)
    return rows.min(0).values, torch.where(chosen == 0, index[: len(images)], index[len(images) :])


def _slug(case: Examination, root: Path) -> str:
    existing = submissions.read(root / case.slug)
    if case.synthetic_set is not None:
        changed = changes(case, existing, who=submitter(case.card))
        if existing is not None:
            return f"{case.slug}: {'adds to your submission' if changed else 'is there already, nothing to add'}"
    return f"{case.slug}: free"


# -- writing -------------------------------------------------------------------------------------------------------


def submitter(card: Card | None) -> str:
    """Under which name a submission is logged where no account says it."""
    assert card is not None
    return card.submitter or card.authors[0]


def changes(case: Examination, existing: Submission | None, *, who: str) -> dict[str, bytes]:
    """The files that the examined submission adds to `existing`, audit log included; empty when all of it is there.

    Adding is all that is possible: MabenchError where the slug is someone else's or another set's, where the submission was
    withdrawn, or where a record would be replaced.
    """
    assert case.card is not None and case.synthetic_set is not None
    slug, card, sha = case.slug, case.card, case.synthetic_set.sha256
    records = {record_name(r): record_bytes(r) for r in case.records}
    files: dict[str, bytes] = {}
    if existing is not None:
        cure = 'Choose another slug: slug = "..." in the card.'
        if existing.set_sha256 != sha:
            raise MabenchError(
                f"slug {slug}: belongs to another set ({existing.set_sha256[:16]}, this one is {sha[:16]}). {cure}"
            )
        if existing.card.authors != card.authors:
            raise MabenchError(f"slug {slug}: belongs to a submission by {first_line(existing.card.authors)}. {cure}")
        if existing.tier in ("withdrawn", "superseded"):
            raise MabenchError(f"slug {slug}: was {existing.tier}. {cure}")
        other = [n for n in records if n in existing.records and existing.files[f"{RECORDS}{n}.json"] != records[n]]
        if other:
            raise MabenchError(
                f"slug {slug}: holds another record of {first_line(other)}. Submitted records are never replaced: submit the first ones, "
                "or this run under another slug."
            )
        records = {n: content for n, content in records.items() if n not in existing.records}
    text = card.toml().encode()
    if existing is None or existing.files[CARD] != text:
        files[CARD] = text
    if existing is None:
        files[SET] = set_bytes(case.synthetic_set)
    files |= {f"{RECORDS}{n}.json": content for n, content in records.items()}
    if not files:
        return {}
    entry = submissions.make_entry(
        who=who,
        action="submitted" if existing is None else "changed",
        tier=_tier(existing, bool(records)),
        why=f"{len(records)} records, all gates passed" if records else "card changed",
        set_sha256=sha,
        records={n: submissions.sha256(content) for n, content in records.items()},
    )
    # an entry that is there already comes from a write that was killed before the card
    return files | ({AUDIT: submissions.appended((), entry)} if existing is None else submissions.with_entry(existing, entry))


def _tier(existing: Submission | None, added: bool) -> Tier:
    """After a submission: new records are nobody else's yet, and adding to it does not answer a challenge."""
    if existing is None:
        return "self-run"
    if not added or existing.tier == "challenged":
        return existing.tier
    return "spot-checked" if existing.confirmed else "self-run"


def set_bytes(chosen: SyntheticSet) -> bytes:
    """The canonical file's bytes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        chosen.save(Path(folder) / SET)
        return (Path(folder) / SET).read_bytes()
