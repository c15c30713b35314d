"""For which evaluators and recipes, on which kind of device, the fast engine was shown to give the reference's numbers.

The evidence is data, `equivalence.json`, written by `benchmarks/equivalence.py`. Its key is the digest of evaluator and recipe:
another depth, norm or learning rate under the same name has to be shown again.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from mabench.digests import digest
from mabench.schema import Evaluator, Recipe

FILE = Path(__file__).parents[1] / "suites" / "equivalence.json"


def evidence_key(evaluator: Evaluator, recipe: Recipe) -> str:
    """sha256 of everything about an evaluator run that can change its numbers, except the set and the seed."""
    return digest(
        {
            "evaluator": evaluator.model_dump(mode="json", exclude={"note"}, exclude_defaults=True),
            "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        }
    )


def shown_equivalent(evaluator: Evaluator, recipe: Recipe, device_type: str) -> bool:
    """Return whether the evidence covers this evaluator under this recipe on "cpu" or "cuda"."""
    return (evidence_key(evaluator, recipe), device_type) in _evidence()


@lru_cache
def _evidence() -> frozenset[tuple[str, str]]:
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    return frozenset((row["key"], row["device"]) for row in rows)
