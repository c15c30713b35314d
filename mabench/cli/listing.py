"""What there is: one line per thing, and everything about one. Imports no torch, but for the presets of a method."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from mabench.cli import console
from mabench.cli.options import Command
from mabench.cli.options import names as complete
from mabench.errors import MabenchError

if TYPE_CHECKING:
    from mabench.data import Dataset
    from mabench.schema import Evaluator
    from mabench.suites import LoadedSuite

WIDTH = 80  # columns that every list fits into
KINDS = ("suites", "evaluators", "methods", "datasets")


@click.command(
    "list",
    cls=Command,
    short_help="List suites, evaluators, methods and datasets, one per line.",
    epilog="mabench list suites\nmabench show cifar10-lite",
)
@click.argument("what", type=click.Choice([*KINDS, "all"]), default="all")
def list_(what: str) -> Any:
    """List suites, evaluators, methods and datasets, one per line; `mabench show NAME` explains one of them."""
    value = {}
    for kind in KINDS if what == "all" else (what,):
        lines = list(_LINES[kind]())
        if what == "all":
            console.say(f"{kind.upper()}\n", bold=True)
        for line in lines:
            console.say(line)
        console.say()
        value[kind] = names(kind.removesuffix("s"))
    console.say("mabench show NAME explains one of them.")
    return value


@click.command(
    cls=Command,
    short_help="Explain one suite, evaluator, method or dataset.",
    epilog="mabench show cifar10-agnostic\nmabench show convnet3-scratch\nmabench show imagewoof",
)
@click.argument("name", shell_complete=lambda *given: complete("all", *given))
def show(name: str) -> Any:
    """Explain one suite, evaluator, method or dataset: everything about it that is fixed."""
    import mabench_methods
    from mabench import suites
    from mabench.data import DATASETS
    from mabench.networks.evaluators import EVALUATORS

    if name in DATASETS:
        return show_dataset(DATASETS[name])
    if name in EVALUATORS:
        return show_evaluator(EVALUATORS[name])
    if name in mabench_methods.METHODS or name.endswith(".py"):
        return show_method(name)
    try:
        loaded_suite = suites.load(name)
    except MabenchError as error:
        if name.endswith(".toml") or "@" in name:
            raise
        near = difflib.get_close_matches(name, names("all"), n=1, cutoff=0.6)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise MabenchError(f"'{name}' is not a suite, evaluator, method or dataset.{hint} All names: mabench list") from error
    return show_suite(loaded_suite, name)


def names(kind: str) -> list[str]:
    """The names of all `suite`s, `evaluator`s, `dataset`s or `method`s, or of `all` of them."""
    import mabench_methods
    from mabench import suites
    from mabench.data import DATASETS
    from mabench.networks.evaluators import EVALUATORS

    tables: dict[str, Iterable[str]] = {
        "suite": suites.released(), "evaluator": EVALUATORS, "dataset": DATASETS, "method": mabench_methods.METHODS,
    }  # fmt: skip
    if kind == "all":
        short = [name.partition("@")[0] for name in tables["suite"]]
        return [*short, *(name for table in tables.values() for name in table)]
    return list(tables[kind])


# -- one line per thing ----------------------------------------------------------------------------------------------


def _suite_lines() -> Iterable[str]:
    from mabench import suites

    loaded_suites = [suites.load(name) for name in suites.released()]
    loaded_suites.sort(key=lambda loaded_suite: ("(paper suite)" in loaded_suite.suite.title, loaded_suite.id))
    yield f"{'name':<26}{'runs':>5}  what it is"
    for loaded_suite in loaded_suites:
        runs = sum(map(len, loaded_suite.evaluators.values())) * len(loaded_suite.suite.seeds)
        yield f"{loaded_suite.id:<26}{runs:>5}  {loaded_suite.suite.title.removesuffix(' (paper suite)')}"


def _evaluator_lines() -> Iterable[str]:
    from mabench.networks.evaluators import EVALUATORS
    from mabench.networks.families import family_of

    yield f"{'name':<31}{'family':<13}{'input':>7}  {'rate':<14}{'weights'}"
    for entry in EVALUATORS.values():
        rate = f"{entry.optimizer} {entry.learning_rate:g}"
        yield f"{entry.name:<31}{family_of(entry):<13}{entry.input_size:>4} px  {rate:<14}{'ImageNet' if entry.pretrained else 'random'}"


def _method_lines() -> Iterable[str]:
    import mabench_methods
    from mabench.results import paper_tables, works

    papers = {name: work for work in works.read(paper_tables.INSTALLED) for name in work.methods}
    yield f"{'name':<14}its paper"
    for method in mabench_methods.METHODS:
        work = papers.get(method)
        yield f"{method:<14}{f'{work.name} ({work.cited})' if work else 'baseline: selected real images'}"


def _dataset_lines() -> Iterable[str]:
    from mabench.data import DATASETS

    yield f"{'name':<16}{'classes':>8}{'side':>9}{'train':>12}{'test':>9}"
    for d in DATASETS.values():
        train = f"{d.train_size:,}" if d.train_size else "-"
        yield f"{d.name:<16}{d.num_classes:>8,}{f'{d.image_size} px':>9}{train:>12}{d.test_size:>9,}"


_LINES = {"suites": _suite_lines, "evaluators": _evaluator_lines, "methods": _method_lines, "datasets": _dataset_lines}


# -- one thing ---------------------------------------------------------------------------------------------------------


def _fields(title: str, fields: dict[str, Any]) -> None:
    console.say(title, bold=True)
    for label, value in fields.items():
        if value not in (None, "", ()):
            text = textwrap.fill(
                str(value), WIDTH, initial_indent=f"  {label:<16}", subsequent_indent=" " * 18, break_on_hyphens=False
            )
            console.say(text)


def show_suite(loaded_suite: LoadedSuite, name: str) -> Any:
    """Print the suite called `name`, or in the file of that name: what it measures, its networks, and how they are trained."""
    suite = loaded_suite.suite
    _fields(
        f"{loaded_suite.id}: {suite.title}",
        {
            "measures": " ".join(suite.measures.split()),
            "dataset": suite.dataset,
            "seeds": ", ".join(map(str, suite.seeds)),
            "IPC with tables": ", ".join(map(str, suite.ipcs)),
            "digest": loaded_suite.digest[:16],
        },
    )
    for track, evaluators in loaded_suite.evaluators.items():
        recipe = loaded_suite.recipes[track]
        _fields(
            f"\ntrack {track}",
            {
                "evaluators": ", ".join(e.name for e in evaluators),
                "recipe": f"{recipe.epochs:,} epochs, batch {recipe.batch_size}, a test pass every {recipe.test_every} epochs, "
                f"the {recipe.score} one counts",
            },
        )
    console.say(f"\nNext: mabench eval YOUR_SET --suite {name} --dry-run")
    return loaded_suite.suite.model_dump(mode="json") | {"digest": loaded_suite.digest}


def show_evaluator(entry: Evaluator) -> Any:
    """Print an evaluator: its network, its input and its optimiser."""
    from mabench import suites
    from mabench.networks.families import family_of

    used = [name for name in suites.released() if any(entry.name in track for track in suites.load(name).suite.tracks.values())]
    _fields(
        entry.name,
        {
            "network": f"{entry.architecture} ({entry.library}) {entry.arguments or ''}",
            "family": family_of(entry),
            "weights": "ImageNet" if entry.pretrained else "random",
            "input": f"{entry.input_size} px",
            "optimizer": f"{entry.optimizer}, rate {entry.learning_rate:g}",
            "note": entry.note,
            "suites": ", ".join(used),
        },
    )
    return entry.model_dump(mode="json") | {"suites": used}


def show_dataset(dataset: Dataset) -> Any:
    """Print a dataset: its size, where it comes from, and its classes in label order, with WordNet ids where there are."""
    from mabench import suites

    _fields(
        f"{dataset.name}: {dataset.title}",
        {
            "images": f"{dataset.channels} x {dataset.image_size} x {dataset.image_size}",
            "train, test": f"{f'{dataset.train_size:,}' if dataset.train_size else 'unknown'} and {dataset.test_size:,} images",
            "mean, std": f"{dataset.mean} and {dataset.std}",
            "source": dataset.hub_repo or "bundled with scikit-learn",
            "suites": ", ".join(suites.names(dataset.name)),
        },
    )
    ids: tuple[str, ...] = getattr(dataset, "wordnet_ids", ()) or ()
    console.say(f"\n{dataset.num_classes:,} classes, in label order")
    for number in range(dataset.num_classes if ids or dataset.class_names else 0):
        name = dataset.class_names[number] if dataset.class_names else ""
        console.say(f"  {number:>4}  {ids[number] + '  ' if ids else ''}{name}".rstrip())
    return {
        "name": dataset.name, "num_classes": dataset.num_classes, "image_size": dataset.image_size,
        "class_names": dataset.class_names, "wordnet_ids": ids,
    }  # fmt: skip


def show_method(name: str) -> Any:
    """Print a method's presets; these are code, which imports torch."""
    import mabench_methods

    presets = mabench_methods.presets(name)
    console.say(f"{name}: presets", bold=True)
    wide = max(map(len, presets))
    for preset_name, preset in presets.items():
        scale = "full" if preset.comparable else "small"
        console.say(f"  {preset_name:<{wide}}  {preset.dataset:<12} IPC {preset.config.ipc:<4} {scale}")
    console.say("\nfull: as in the paper or its code, compared with its table; small: for a laptop")
    first = next(iter(presets))
    console.say(f"\nNext: mabench reproduce {name} --preset {first} --dry-run")
    return {"name": name, "presets": {n: {"dataset": p.dataset, "ipc": p.config.ipc} for n, p in presets.items()}}
