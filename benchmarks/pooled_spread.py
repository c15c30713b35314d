"""How far runs of one evaluator on one set spread over seeds, pooled over all submissions of a suite -> mabench/suites/spread.json.

    python benchmarks/pooled_spread.py [SUBMISSIONS]

Sets that lie in several submissions count once. Verification judges a re-run by these numbers, never by the submission's own.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from statistics import variance

from mabench import suites
from mabench.board import submission as submissions
from mabench.files import write_text
from mabench.results import scoring

OUT = Path(suites.__file__).parent / "spread.json"


def main() -> None:
    scores: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for entry in submissions.read_all(Path(sys.argv[1] if len(sys.argv) > 1 else "submissions")):
        for record in entry.records.values():
            cell = record.cell
            scores[cell.suite, cell.suite_digest, cell.evaluator.name][cell.set_sha256][cell.seed] = scoring.score(record)
    spreads: dict[str, dict[str, tuple[float, int]]] = defaultdict(dict)
    for (_, digest, name), sets in sorted(scores.items()):
        runs = [list(seeds.values()) for seeds in sets.values() if len(seeds) > 1]
        degrees = sum(len(values) - 1 for values in runs)
        if degrees >= 4:
            spreads[digest][name] = (round(math.sqrt(sum((len(v) - 1) * variance(v) for v in runs) / degrees), 5), degrees)
    write_text(OUT, json.dumps(spreads, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
