"""Figures in prose: those of a page that no computed sentence accounts for, and the tracked results that they come from."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = re.compile(
    r"(?<![\w.,@-])-?\d[\d,]*\.\d+(?![\w-]|\.\d)"  # any decimal
    r"|(?<![\w.,-])\d[\d,]*(?=(?: to [\d,.]+)? (?:s|ms|seconds|minutes|hours|GiB|MiB|MB|GB|kB|%|points|core-hours|GPU-hours|cores|GPUs)\b)"
)


@cache
def record(name: str) -> Any:
    """A file of `benchmarks/results/`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def unexplained(text: str, said: list[str]) -> set[str]:
    """Figures of a page that are in none of the sentences and rows that were computed. Raises AssertionError for one not found."""
    for sentence in said:
        assert sentence in text, sentence
    for sentence in sorted(said, key=len, reverse=True):  # one may stand within another
        text = text.replace(sentence, "")
    text = re.sub(r"^```.*?^```|^    \S[^\n]*|`[^`\n]+`|\]\([^)]+\)|<[a-z]+:[^>]+>|arXiv [\d.]+", "", text, flags=re.M | re.S)
    return set(FIGURE.findall(text))


def percents(name: str, **fields: Any) -> dict[str, list[float]]:
    """Evaluator -> accuracies in percent, in the order of seeds, of the runs of a record whose fields have these values.

    Records differ in how they write an accuracy; where a run has a curve its best pass counts, as its suite says.
    """
    chosen: dict[str, list[tuple[int, float]]] = {}
    for cell in record(name)["cells"]:
        if all(cell[key] == value for key, value in fields.items()):
            hits = cell.get("correct_of_10000")
            if isinstance(hits, list):
                value = max(correct for _, correct in hits) / 100
            elif hits is not None:
                value = hits / 100
            else:
                value = cell["percent"] if "percent" in cell else 100 * cell["acc_last"]
            chosen.setdefault(cell["evaluator"], []).append((cell["seed"], value))
    assert chosen, (name, fields)
    return {evaluator: [value for _, value in sorted(runs)] for evaluator, runs in chosen.items()}


def mean(values: list[float]) -> float:
    """The mean, with halves of the last shown digit rounded up as the tables have them."""
    return fmean(values) + 1e-9
