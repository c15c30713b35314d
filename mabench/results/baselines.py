"""Numbers measured beforehand, as data beside the suites: random real images, full data, and how far runs of one evaluator spread."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from mabench.results.scoring import Baseline
from mabench.schema import SetSummary
from mabench.suites import Exam

UNKNOWN_SPREAD = 0.01  # ours: about what the evaluators whose spread is known have


@cache
def _data(name: str) -> Any:
    return json.loads(resources.files("mabench.suites").joinpath(name).read_text(encoding="utf-8"))


def known_baseline(exam: Exam, summary: SetSummary) -> Baseline | None:
    """Random real images of the same budget and label kind, as measured for exactly this suite; None if never run.

    `suites/baselines.json` holds them with the command and the machine they come from.
    """
    return _entry(exam, {"ipc": summary.ipc, "labels": summary.labels})


def known_full_data(exam: Exam) -> Baseline | None:
    """The whole real training split under this suite: the entry of `suites/baselines.json` whose `ipc` is null; None if never run."""
    return _entry(exam, {"ipc": None})


def _entry(exam: Exam, fields: dict[str, Any]) -> Baseline | None:
    for entry in _data("baselines.json"):
        if all(entry[name] == value for name, value in ({"suite_digest": exam.digest} | fields).items()):
            return {name: (mean, std, runs) for name, (mean, std, runs) in entry["evaluators"].items()}
    return None


def run_spread(exam: Exam, evaluator: str) -> float:
    """Standard deviation over seeds of one evaluator on one set, a fraction, pooled over many sets (`suites/spread.json`).

    Never taken from the submission that is judged by it. `UNKNOWN_SPREAD` where it was never measured.
    """
    spreads: dict[str, list[float]] = _data("spread.json").get(exam.digest, {})
    return spreads[evaluator][0] if evaluator in spreads else UNKNOWN_SPREAD
