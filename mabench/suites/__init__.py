"""Suites: one TOML file each, data and not code. A released suite never changes; its digest is frozen by a golden test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from pydantic import ValidationError

from mabench.digests import digest
from mabench.errors import MabenchError, lookup, printable
from mabench.files import read_toml
from mabench.networks import allowed
from mabench.networks.evaluators import EVALUATORS
from mabench.schema import Evaluator, Recipe, Suite

FOLDER = Path(__file__).parent
RANKING_PARTS = {"agnostic", "lite"}
"""A suite with one of these in its name compares methods; any other checks the numbers of a paper under that paper's own rules."""


@dataclass(frozen=True)
class LoadedSuite:
    """A suite with its evaluators resolved, ready to be planned, and the digest that names exactly these rules."""

    suite: Suite
    evaluators: dict[str, tuple[Evaluator, ...]]
    """Track name -> evaluators in table order, with the suite's own fields applied."""
    recipes: dict[str, Recipe]
    """Track name -> the recipe of that track."""
    released: bool
    """False for a user's own TOML file."""

    @property
    def id(self) -> str:
        return self.suite.id

    @property
    def scores_hardened(self) -> bool:
        """Whether a set with soft labels is also scored with hard ones: not in suites that repeat a paper's setup."""
        return self.suite.seed_streams == "set" and all(recipe.recorded is None for recipe in self.recipes.values())

    def track_of(self, evaluator: str) -> str:
        """The track that holds an evaluator. Raises MabenchError, with the nearest name, where none does."""
        return lookup(
            {e.name: track for track, entries in self.evaluators.items() for e in entries}, evaluator, "evaluator", "mabench list"
        )

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that can change a number: evaluators and recipes resolved; prose and notes left out.

        Fields at their default do not count, so that a field that is new, and whose default is what was done before, changes
        no digest. Defaults themselves are frozen by a golden test.
        """
        body = self.suite.model_dump(
            mode="json",
            exclude={"title", "measures", "open_rates", "recipe", "track_recipe", "evaluator_fields", "tracks"},
            exclude_defaults=True,
        )
        body["tracks"] = [
            [
                track,
                self.recipes[track].model_dump(mode="json", exclude_defaults=True),
                [e.model_dump(mode="json", exclude={"note"}, exclude_defaults=True) for e in evaluators],
            ]
            for track, evaluators in self.evaluators.items()
        ]
        return digest(body)

    @property
    def earlier(self) -> frozenset[str]:
        """Digests that a suite of this name had before its release; what was run under them is kept and ranks nothing."""
        return frozenset(_earlier().get(self.id, ())) if self.released else frozenset()


@cache
def _earlier() -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads((FOLDER / "earlier.json").read_text(encoding="utf-8"))
    return known


def released() -> dict[str, Path]:
    """Suite id (`name@version`) -> file, for every suite that ships with the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*@*.toml"))}


def names(dataset: str | None = None) -> list[str]:
    """The released suites, `name@version`; with `dataset`, those about it.

    >>> import mabench
    >>> mabench.list_suites("digits")
    ['digits-agnostic@1']
    """
    return [name for name in released() if dataset is None or load(name).suite.dataset == dataset]


def ranks_methods(suite_id: str) -> bool:
    """Whether the suite compares methods; the others check what one paper printed."""
    return bool(RANKING_PARTS & set(suite_id.partition("@")[0].split("-")))


def small(dataset: str) -> str | None:
    """The name of a dataset's suite for a first number in minutes; None where there is none."""
    found = [name for name in names(dataset) if name.startswith((f"{dataset}-lite@", "digits-agnostic@"))]
    return found[-1].partition("@")[0] if found else None


def load(name: str) -> LoadedSuite:
    """The suite called `name@version`, or `name` for its newest version, or the one in a user's TOML file.

    >>> import mabench
    >>> suite = mabench.load_suite("digits-agnostic")
    >>> suite.id, suite.suite.seeds, [evaluator.name for evaluator in suite.evaluators["scratch"]][:2]
    ('digits-agnostic@1', (0, 1, 2), ['convnet3-scratch', 'mlp-scratch'])

    Raises MabenchError for an unknown name (with the nearest), an unreadable file, or fields that do not fit.
    """
    if name.endswith(".toml"):
        return _read(Path(name), released=False)
    known = released()
    newest: dict[str, str] = {}
    for suite_id in sorted(known, key=lambda i: int(i.rpartition("@")[2])):
        newest[suite_id.rpartition("@")[0]] = suite_id
    suite_id = name if "@" in name else newest.get(name, name)
    if suite_id not in known and "@" not in name:
        lookup(newest, name, "suite", "mabench list")  # a typo is answered with plain names
    return _read(lookup(known, suite_id, "suite", "mabench list"), released=True)


def _read(path: Path, *, released: bool) -> LoadedSuite:
    raw = read_toml(path, f"Give the name of a suite of `mabench list`, or start from a copy of one in {FOLDER}.")
    try:
        suite = Suite.model_validate(raw)
        recipes = {track: suite.recipe_for(track) for track in suite.tracks}
    except ValidationError as error:
        raise MabenchError(f"{path}: {_problems(error)}. Start from a copy of a suite in {FOLDER}.") from error
    unknown = (set(suite.track_recipe) - set(suite.tracks)) | (
        set(suite.evaluator_fields) - {name for names in suite.tracks.values() for name in names}
    )
    if unknown:
        raise MabenchError(
            f"{path}: {', '.join(sorted(unknown))} is named in track_recipe or evaluator_fields but in no track. Add it to one under [tracks], or remove it."
        )
    if released and suite.id != path.stem:
        raise MabenchError(f"{path}: holds suite {suite.id}; the file must be called {suite.id}.toml")
    evaluators = {track: tuple(_evaluator(path, suite, name) for name in names) for track, names in suite.tracks.items()}
    return LoadedSuite(suite, evaluators, recipes, released)


def _evaluator(path: Path, suite: Suite, name: str) -> Evaluator:
    entry = lookup(EVALUATORS, name, "evaluator", "mabench list")
    changes = suite.evaluator_fields.get(name, {})
    fields = entry.model_dump()
    if isinstance(changes.get("arguments"), dict):
        changes = changes | {"arguments": fields["arguments"] | changes["arguments"]}
    try:
        evaluator = Evaluator.model_validate(fields | changes)
        allowed.check(evaluator)
    except ValidationError as error:
        raise MabenchError(f"{path}: evaluator {name}: {_problems(error)}. Correct evaluator_fields.") from error
    except MabenchError as error:
        raise MabenchError(f"{path}: {error}") from error
    return evaluator


def _problems(error: ValidationError) -> str:
    places = ((".".join(map(str, e["loc"])) or "suite", e["msg"]) for e in error.errors()[:5])
    return "; ".join(f"{printable(place, 120)}: {printable(message, 200)}" for place, message in places)
