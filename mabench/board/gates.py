"""What a submission must be: pure gates that take what they look at and return what is wrong. Imports no torch.

The gates here need no set: they run on the submitter's machine and again whenever a submission is read (`acceptance.py`). Those that
need the set stand in `probes.py`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from statistics import fmean

from mabench import suites
from mabench.board.submission import CARD, slug_of
from mabench.data import DATASETS, SECOND
from mabench.errors import MabenchError, first_line, one_line
from mabench.results import ranking, scoring
from mabench.results.baselines import VALUE_BYTES, known_full_data
from mabench.results.ranking import Status
from mabench.schema import Card, Cell, RunRecord
from mabench.suites import LoadedSuite

ENVIRONMENT = ("mabench", "torch", "device", "arithmetic")
REQUIRED = ("title", "authors", "licence")
"""What every card says. Paper, code and command make a row worth more; a set without them may still be measured."""
FORM = ("dataset", "ipc", "decode", "labels", "image_dtype")
"""In what the sets of one submission agree: one row stands for them all, beside one pair of baselines."""
MAX_SECONDS = 1e8  # ours: three years; a longer run is no run, and sums of such numbers are not finite
SHOWN = 6  # ours: refusals of one kind that are printed
ABOVE_FULL = 0.005  # ours: half a point above the whole training set may be chance


@dataclass(frozen=True)
class Gate:
    """One check: its name, what it found, and, where it is closed, what is wrong and how to fix it."""

    name: str
    found: str
    refusals: tuple[str, ...] = ()
    checked: bool = True
    """False where something could not be compared, as `found` says: such a gate is open, and is not shown as passed."""

    @property
    def line(self) -> str:
        """Name and result, for a terminal."""
        return f"{self.name:<12} {'ok  ' if self.checked and not self.refusals else ''}{self.found}"

    @property
    def colour(self) -> str | None:
        """Of the line: red is refused, yellow not checked."""
        return "red" if self.refusals else None if self.checked else "yellow"


def gate(name: str, found: str, problems: Sequence[str], *, checked: bool = True) -> Gate:
    """A gate that is open where there are no problems; of many problems the first are said."""
    if not problems:
        return Gate(name, found, checked=checked)
    more = (f"... and {len(problems) - SHOWN} more of this kind",) if len(problems) > SHOWN else ()
    return Gate(name, "refused", (*problems[:SHOWN], *more))


def no_run_repeated(slug: str) -> str:
    """What gates leave open about a submission, and who closes it."""
    return f"No run was repeated whole: mabench verify {slug} --cells 1 repeats one, drawn at random."


def attempted(name: str, check: Callable[[], Gate]) -> Gate:
    """The gate, or a closed one that says what could not be read."""
    try:
        return check()
    except MabenchError as error:
        return Gate(name, "refused", (str(error),))


def of_records(records: Sequence[RunRecord], *, kept: bool = False) -> list[Gate]:
    """All gates that need records alone; `kept`: see `suites_known`."""
    return [suites_known(records, kept=kept), one_set(records), curves(records), plausible(records)]


def card(value: Card, path: Path | str = CARD) -> Gate:
    """The fields that every card has, and a title that gives a slug."""
    lacking = [name for name in REQUIRED if not getattr(value, name)]
    if lacking:
        text = f"{path}: lacks {', '.join(lacking)}. Write them into the card, or let --interactive ask for them."
        return gate("card", "", [text])
    slug_of(value)
    return gate("card", f"{value.title!r} by {first_line(value.authors)}", [])


def suites_known(records: Sequence[RunRecord], *, fresh: bool = False, kept: bool = False) -> Gate:
    """Suite released, digest equal, and every record one that the suite asks for.

    `fresh`: any seed will do; `kept`: so will an earlier edition of the suite, under which nothing is ranked.
    """
    problems: list[str] = []
    known = suites.released()
    for suite_id in sorted({r.cell.suite for r in records}):
        if suite_id not in known:
            problems.append(
                f"{suite_id}: is not a released suite (released: {', '.join(sorted(known))}). Run mabench eval on one of them."
            )
            continue
        loaded_suite = suites.load(suite_id)
        problems += _of_suite(loaded_suite, [r for r in records if r.cell.suite == suite_id], fresh, kept)
    tracks = statuses(records) if not problems else []
    complete = sum(track.complete for track in tracks)
    named = sorted({track.suite for track in tracks})
    return gate("suites", f"{first_line(named) or 'none'}; {complete} of {len(tracks)} tracks complete", problems)


def _of_suite(loaded_suite: LoadedSuite, records: Sequence[RunRecord], fresh: bool, kept: bool) -> list[str]:
    accepted = {loaded_suite.digest, *(loaded_suite.earlier if kept else ())}
    stale = [r for r in records if r.cell.suite_digest not in accepted]
    if stale:
        return [
            f"{loaded_suite.id}: {len(stale)} records were made under a changed suite (digest {stale[0].cell.suite_digest[:16]}, released "
            f"{loaded_suite.digest[:16]}). Run mabench eval SET --suite {loaded_suite.id} with an unchanged mabench."
        ]
    return [
        f"{r.cell.name}: is not a cell of {loaded_suite.id}{wrong}. Run it again: mabench eval."
        for r in records
        if (wrong := _difference(loaded_suite, r, fresh))
    ]


def _difference(loaded_suite: LoadedSuite, record: RunRecord, fresh: bool) -> str:
    """How a record differs from what the suite asks for; empty where it does not.

    Of an earlier edition's only its place is known: the track, the network and the dataset.
    """
    cell = record.cell
    entries = {entry.name: entry for entry in loaded_suite.evaluators.get(cell.track, ())}
    if cell.evaluator.name not in entries or not (fresh or cell.seed in loaded_suite.suite.seeds):
        return " (no such track, evaluator or seed)"
    if record.synthetic_set.dataset != loaded_suite.suite.dataset:
        return f" (a set of {record.synthetic_set.dataset[:40]}, the suite is for {loaded_suite.suite.dataset})"
    if cell.suite_digest in loaded_suite.earlier:
        return ""
    if (loaded_suite.recipes[cell.track].recorded is None) != (cell.labels_sha256 is None):
        return (
            " (the suite replays recorded labels, the record names none)" if cell.labels_sha256 is None else " (recorded labels)"
        )
    planned = Cell(
        set_sha256=cell.set_sha256, suite=loaded_suite.id, suite_digest=loaded_suite.digest, track=cell.track,
        evaluator=entries[cell.evaluator.name], recipe=loaded_suite.recipes[cell.track], seed=cell.seed, seed_streams=loaded_suite.suite.seed_streams,
        labels_sha256=cell.labels_sha256,
    )  # fmt: skip
    here, there = cell.model_dump(), planned.model_dump()
    wrong = [name for name in here if here[name] != there[name]]
    return f" (differs in {', '.join(wrong)})" if wrong else ""


def statuses(records: Sequence[RunRecord]) -> list[Status]:
    """Of every track that has records, by set, suite and in table order; unknown suites are left out."""
    known = sorted({r.cell.suite for r in records} & set(suites.released()))
    answers = [
        ranking.status(loaded_suite, track, group)
        for group in by_set(records)
        for loaded_suite in map(suites.load, known)
        for track in loaded_suite.evaluators
    ]
    return [answer for answer in answers if answer.finished]


def by_set(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """The records of every set, in the order in which the sets come."""
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[record.cell.set_sha256].append(record)
    return list(groups.values())


def one_set(records: Sequence[RunRecord]) -> Gate:
    """All records of a set describe it in the same way, as a set that there can be; several sets of one submission have one budget and form."""
    problems = [
        f"{record.cell.name}: describes no set that there can be ({wrong}). mabench eval did not write this: run the cell again."
        for record in records
        if (wrong := _contradiction(record))
    ]
    forms: dict[str, RunRecord] = {}
    for runs in by_set(records):
        described: dict[str, list[RunRecord]] = defaultdict(list)
        for record in runs:
            described[record.synthetic_set.model_dump_json(exclude={"name", "findings", "recorded_bytes"})].append(record)
        problems += [
            f"{group[0].cell.name}: describes the set differently from {len(runs) - len(group)} other records. Run it again: mabench eval."
            for group in sorted(described.values(), key=len)[:-1]
        ]
        replayed = {(r.cell.labels_sha256, r.synthetic_set.recorded_bytes) for r in runs if r.cell.labels_sha256 is not None}
        if len(replayed) > 1:
            problems.append(
                f"{one_line(runs[0].synthetic_set.name)}: its records replayed {len(replayed)} different records of labels; a submission holds one "
                "for every set. Run all cells with the same labels."
            )
        form = runs[0].synthetic_set.model_dump_json(include=set(FORM))
        if forms and form not in forms:
            problems.append(
                f"{one_line(runs[0].synthetic_set.name)}: sets of one submission agree in {', '.join(FORM)}; this one is {form}, another "
                f"{next(iter(forms))}. Submit it under its own slug."
            )
        forms[form] = runs[0]
    return gate("budget", "every record describes the set alike", problems)


def _contradiction(record: RunRecord) -> str:
    """In what a record's summary of its set contradicts itself or the dataset; empty where it does not."""
    summary, entry = record.synthetic_set, DATASETS.get(record.synthetic_set.dataset)
    packed = re.fullmatch("none|grid([2-8])", summary.decode)
    if entry is None or packed is None or summary.image_dtype not in VALUE_BYTES:
        return "dataset, decode or image_dtype is unknown"
    images, rate = summary.stored_images, summary.learning_rate
    label_bytes = 4 * entry.num_classes if summary.labels == "soft" else 0
    expected: dict[str, object] = {
        "image_shape": entry.shape,
        "ipc": -(-images // entry.num_classes),
        "decoded_images": images * int(packed[1] or 1) ** 2,
        "stored_bytes": images * (math.prod(entry.shape) * VALUE_BYTES[summary.image_dtype] + label_bytes),
    }
    wrong = [
        f"{name} is {getattr(summary, name)}, not {value}" for name, value in expected.items() if getattr(summary, name) != value
    ]
    wrong += ["no images"] if images == 0 else []
    wrong += [f"learning_rate is {rate}"] if rate is not None and not 0 < rate < math.inf else []
    replays = record.cell.labels_sha256 is not None
    wrong += [f"recorded_bytes is {summary.recorded_bytes}"] if (summary.recorded_bytes > 0) != replays else []
    return ", ".join(wrong)


def curves(records: Sequence[RunRecord]) -> Gate:
    """What the loop could have written: test passes where the recipe has them, the real test split, finite numbers, runs of their own."""
    problems = _copied(records)
    for record in records:
        if wrong := _impossible(record):
            problems.append(f"{record.cell.name}: {'; '.join(wrong)}. mabench eval did not write this: run the cell again.")
        elif text := _other_split(record):
            problems.append(text)
    return gate("curves", "test passes, test split and numbers are those of the recipe", problems)


def _copied(records: Sequence[RunRecord]) -> list[str]:
    """Runs of one network on one set under two seeds that began with the same weights: no two seeds do."""
    seen: dict[tuple[str, ...], RunRecord] = {}
    problems = []
    for record in records:
        cell = record.cell
        begun = (cell.set_sha256, cell.suite_digest, cell.track, cell.evaluator.name, record.initial_weights_sha256)
        first = seen.setdefault(begun, record)
        if record.initial_weights_sha256 and first.cell.seed != cell.seed:
            problems.append(
                f"{cell.name}: began with the weights of seed {first.cell.seed}: a copy of that run. Run the cell again: mabench eval."
            )
    return problems


def _impossible(record: RunRecord) -> list[str]:
    passes, wrong = record.cell.recipe.test_epochs, []
    if tuple(epoch for epoch, _ in record.curve) != passes:
        wrong.append(
            f"{len(record.curve)} test passes up to epoch {record.curve[-1][0]}, the recipe has {len(passes)} up to {passes[-1]}"
        )
    losses = (*record.first_losses, *(loss for _, loss in record.train_loss))
    if not all(map(math.isfinite, losses)) or not 0 <= record.seconds < math.inf:
        wrong.append("losses or seconds are not finite")
    elif record.seconds > MAX_SECONDS:
        wrong.append(f"{record.seconds:.3g} seconds are more than {MAX_SECONDS:.0e}")
    if record.upper_bounds and record.engine == "reference":
        wrong.append("the reference engine prunes no test pass")
    before = accumulate((correct for _, correct in record.curve), max, initial=-1)
    if any(e in record.upper_bounds and correct > best for (e, correct), best in zip(record.curve, before, strict=False)):
        wrong.append("a test pass that ended early counts more than the best before it")
    if set(record.upper_bounds) & set(record.cell.recipe.plateau_epochs):
        wrong.append("one of the last test passes, whose mean is the plateau, ended early")
    if record.cell.seed_streams == "set" and not (record.initial_weights_sha256 and record.first_losses):
        wrong.append("the losses of the first steps or the digest of the initial weights are missing")
    if lacking := [name for name in ENVIRONMENT if not record.environment.get(name)]:
        wrong.append(f"the environment lacks {', '.join(lacking)}")
    try:
        datetime.fromisoformat(record.started)
    except ValueError:
        wrong.append(f"started is not a valid time: {record.started[:40]!r}")
    return wrong


def _other_split(record: RunRecord) -> str:
    """Empty where the record was tested on the dataset's own test split, as far as its size and digest are pinned."""
    entry = DATASETS.get(record.synthetic_set.dataset)
    if entry is None:
        return f"{record.cell.name}: a set of an unknown dataset. Run the cell again: mabench eval."
    second, known = record.second_test, SECOND.get(entry.name)
    if second is not None and (
        known is None or (second.name, second.sha256, second.total) != (known.name, known.sha256, known.size)
    ):
        return (
            f"{record.cell.name}: second test on {second.total:,} images of {second.name!r} with digest {second.sha256[:16]}; "
            f"{entry.title} has {f'{known.size:,} of {known.name!r}, digest {known.sha256[:16]}' if known else 'none'}. Run the cell again: mabench eval."
        )
    size, pinned = entry.test_size or record.total, entry.digests.get("test", record.test_sha256)
    if (record.total, record.test_sha256) == (size, pinned):
        return ""
    return (
        f"{record.cell.name}: was tested on {record.total:,} images with digest {record.test_sha256[:16]}; {entry.title}'s test split "
        f"has {size:,}, digest {pinned[:16]}. Run the cell on the real split."
    )


def plausible(records: Sequence[RunRecord]) -> Gate:
    """No evaluator learns more from a condensed set than from the whole training split, where that was measured."""
    problems = []
    groups: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[record.cell.suite, record.cell.track, record.cell.evaluator.name].append(record)
    for (suite, track, name), runs in sorted(groups.items()):
        full = known_full_data(suites.load(suite)) if suite in suites.released() else None
        mark = (full or {}).get(f"{track}/{name}")
        mean = fmean(map(scoring.score, runs))
        if mark is not None and mean > mark[0] + ABOVE_FULL:
            problems.append(
                f"{suite}, {name}: {100 * mean:.2f}% is more than the whole training set gives ({100 * mark[0]:.2f}%). Ask the "
                "board's maintainers before you submit."
            )
    return gate("plausible", "no evaluator learns more than from all real images", problems)
