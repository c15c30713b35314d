"""Which cells an evaluation consists of: a set, a suite, and the part of it that is asked for."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from mabench.data import DATASETS
from mabench.errors import MabenchError, first_line, lookup
from mabench.schema import Cell, Evaluator
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import LoadedSuite

T = TypeVar("T")


def plan(
    loaded_suite: LoadedSuite,
    synthetic_set: SyntheticSet,
    *,
    track: str | Sequence[str] | None = None,
    evaluator: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """The cells of this set on this suite, see `select`. Raises MabenchError for a set that the suite does not admit, too."""
    check_admitted(loaded_suite, synthetic_set)
    return [
        Cell(
            set_sha256=synthetic_set.sha256,
            suite=loaded_suite.id,
            suite_digest=loaded_suite.digest,
            track=name,
            evaluator=entry,
            recipe=loaded_suite.recipes[name],
            seed=seed,
            seed_streams=loaded_suite.suite.seed_streams,
            labels_sha256=synthetic_set.recorded.sha256 if loaded_suite.recipes[name].recorded is not None else None,
        )
        for name, entry, seed in select(loaded_suite, track=track, evaluator=evaluator, seeds=seeds)
    ]


def select(
    loaded_suite: LoadedSuite,
    *,
    track: str | Sequence[str] | None = None,
    evaluator: str | Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[tuple[str, Evaluator, int]]:
    """(track, evaluator, seed) in table order, seed by seed within an evaluator.

    `evaluator` is a glob over names, or several; one that matches is enough. Raises MabenchError for a track, a glob or a seed
    that matches nothing of the suite.
    """
    tracks, globs = _several(track), _several(evaluator)
    for name in tracks or ():
        lookup(loaded_suite.evaluators, name, f"track of {loaded_suite.id}")
    names = {e.name: e for evaluators in loaded_suite.evaluators.values() for e in evaluators}
    for glob in globs or ():
        if not fnmatch.filter(names, glob):
            lookup(names, glob, f"evaluator of {loaded_suite.id}", "mabench list")
    return [
        (name, entry, seed)
        for name, entries in loaded_suite.evaluators.items()
        if tracks is None or name in tracks
        for entry in entries
        if globs is None or any(fnmatch.fnmatchcase(entry.name, glob) for glob in globs)
        for seed in _seeds(loaded_suite, seeds)
    ]


def _several(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One name, several, or None (also an empty list) for all."""
    return ((names,) if isinstance(names, str) else tuple(names)) or None if names is not None else None


def _seeds(loaded_suite: LoadedSuite, seeds: Sequence[int] | None) -> tuple[int, ...]:
    if seeds is None:
        return loaded_suite.suite.seeds
    extra = sorted(set(seeds) - set(loaded_suite.suite.seeds))
    if extra:
        count = f"; for {extra[0]} seeds write --seeds 0-{extra[0] - 1}" if list(seeds) == [len(loaded_suite.suite.seeds)] else ""
        raise MabenchError(
            f"seed {first_line(map(str, extra))} is not one of {loaded_suite.id}'s seeds ({first_line(map(str, loaded_suite.suite.seeds))}): "
            f"a number under other seeds is not comparable{count}."
        )
    return tuple(seeds)


def part_of(text: str) -> tuple[int, int]:
    """`2/8` -> (2, 8), the second of eight parts. Raises MabenchError for anything else, and for a part that there is not."""
    index, separator, count = text.partition("/")
    if not separator or not index.isdecimal() or not count.isdecimal():
        raise MabenchError(f"--shard {text}: write it as part/parts, e.g. --shard 1/4 for the first of four.")
    part = int(index), int(count)
    shard((), *part)
    return part


def shard(all_of_it: Sequence[T], index: int, count: int) -> list[T]:
    """Every `count`-th of these cells, or whatever they are, from the `index`-th on, counted from 1: all shards together are all.

    Raises MabenchError for a shard that there is not.
    """
    if count < 1:
        raise MabenchError(f"--shard {index}/{count}: there is no part of {count}. Allowed: 1/N to N/N, e.g. --shard 1/4.")
    if not 1 <= index <= count:
        raise MabenchError(f"--shard {index}/{count}: no such part. Allowed: 1/{count} to {count}/{count}.")
    return list(all_of_it[index - 1 :: count])


def check_admitted(loaded_suite: LoadedSuite, synthetic_set: SyntheticSet) -> None:
    """Raise MabenchError unless the suite is about this set's dataset, admits its balance, and has the labels that it replays."""
    lookup(DATASETS, loaded_suite.suite.dataset, "dataset", "mabench list")
    if synthetic_set.dataset != loaded_suite.suite.dataset:
        raise MabenchError(
            f"{synthetic_set.name}: is a set for {synthetic_set.dataset}, but {loaded_suite.id} is for {loaded_suite.suite.dataset}. "
            f"Choose a suite for {synthetic_set.dataset} (mabench list), or correct the guess with --dataset."
        )
    if loaded_suite.suite.balanced and not synthetic_set.balanced:
        counts = synthetic_set.class_counts
        raise MabenchError(
            f"{synthetic_set.name}: classes have {min(counts)} to {max(counts)} stored images; {loaded_suite.id} asks for the same number "
            "for every class. Store equally many, or use a suite of your own with balanced = false."
        )
    for recipe in loaded_suite.recipes.values():
        if recipe.recorded is not None:
            synthetic_set.recorded.check(recipe, loaded_suite.id)


def default_folder(synthetic_set: SyntheticSet, loaded_suite: LoadedSuite) -> Path:
    """`results/<set>-<first 8 of its sha256>/<suite>`: stable, so that the same command resumes."""
    return set_folder(synthetic_set) / loaded_suite.id


def set_folder(synthetic_set: SyntheticSet) -> Path:
    """Where the evaluations of a set are kept, unless the command says otherwise."""
    return Path("results") / f"{synthetic_set.file_stem}-{synthetic_set.sha256[:8]}"
