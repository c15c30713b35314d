"""For which evaluators and recipes, on which kind of device and in which arithmetic, the fast engine was shown to give the
reference's numbers.

The evidence is data, `equivalence.json`, written by `benchmarks/equivalence.py`. Its key is the digest of evaluator and recipe:
another depth, norm or learning rate under the same name has to be shown again.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from mabench.digests import digest
from mabench.engine.cuda_graphs import REPLAYED
from mabench.schema import Evaluator, Recipe

FILE = Path(__file__).parents[1] / "suites" / "equivalence.json"


def evidence_key(evaluator: Evaluator, recipe: Recipe) -> str:
    """sha256 of evaluator and recipe.

    Not in it: seed, set, dataset and number of classes. What was measured on `cifar10-lite` therefore also counts for the suites
    that train the same networks by the same recipe on other images, `cifar100-lite` and `tinyimagenet-lite`, where it was not
    measured.
    """
    return digest(
        {
            "evaluator": evaluator.model_dump(mode="json", exclude={"note"}, exclude_defaults=True),
            "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        }
    )


def shown_equivalent(evaluator: Evaluator, recipe: Recipe, device_type: str) -> frozenset[str]:
    """Return the arithmetics, as records name them, that the evidence covers for this evaluator under this recipe on "cpu" or
    "cuda"; none where nothing was shown."""
    return _evidence().get((evidence_key(evaluator, recipe), device_type), frozenset())


@lru_cache
def _evidence() -> dict[tuple[str, str], frozenset[str]]:
    shown: dict[tuple[str, str], frozenset[str]] = {}
    for row in json.loads(FILE.read_text(encoding="utf-8")):
        place = row["key"], row["device"]
        shown[place] = shown.get(place, frozenset()).union(row["arithmetic"].replace(REPLAYED, "").split("; "))
    return shown
