"""How far runs of one evaluator on one set spread over seeds, pooled over many sets of a suite -> mabench/suites/spread.json.

    python benchmarks/pooled_spread.py [FOLDER ...] [--into mabench/suites/spread.json]

A FOLDER (default: submissions) holds submissions, or evaluations that `mabench eval` or `rows.py` wrote, at any depth: every
record under a folder called `records` counts, each run of a set once, wherever it lies. Only records of the suites as they are now
are taken; what the file says of other suites stays, and what it says of suites that have changed since goes. Evaluators with fewer
than four degrees of freedom get no entry.

Verification judges a re-run by these numbers, never by the submission's own. Where a suite has no entry, the re-run's own seeds
stand in, and at least one point a run; `mabench verify` says which of the two it was.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from mabench import suites
from mabench.errors import MabenchError
from mabench.files import write_text
from mabench.results import scoring, uncertainty
from mabench.runs.folder import read_record
from mabench.schema import RunRecord

OUT = Path(suites.__file__).parent / "spread.json"
LEAST = 4  # ours: degrees of freedom; two sets of three seeds

Spreads = dict[str, dict[str, tuple[float, int]]]
"""Digest of a suite -> evaluator -> (standard deviation, a fraction; degrees of freedom)."""


def records(folders: Iterable[Path]) -> Iterable[RunRecord]:
    """Every record in these folders; damaged ones are named and left out."""
    for path in (path for folder in folders for path in sorted(folder.glob("**/records/*.json"))):
        try:
            yield read_record(path)
        except MabenchError as error:
            print(f"left out: {error}")


def pooled(found: Iterable[RunRecord]) -> Spreads:
    """Of the suites as they are now."""
    current = {suites.load(name).digest for name in suites.released()}
    scores: dict[str, dict[str, dict[str, dict[int, float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for record in found:
        cell = record.cell
        if cell.suite_digest in current:
            scores[cell.suite_digest][cell.set_sha256][cell.evaluator.name][cell.seed] = scoring.score(record)
    return {
        digest: {
            name: (round(spread.std, 5), spread.degrees)
            for name, spread in sorted(uncertainty.pooled(sets.items()).items())
            if spread.degrees >= LEAST
        }
        for digest, sets in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("submissions")])
    parser.add_argument("--into", type=Path, default=OUT)
    arguments = parser.parse_args()
    current = {suites.load(name).digest for name in suites.released()}
    known: Spreads = json.loads(arguments.into.read_text()) if arguments.into.is_file() else {}
    new = {digest: spreads for digest, spreads in pooled(records(arguments.folders)).items() if spreads}
    kept = {digest: spreads for digest, spreads in known.items() if digest in current}
    write_text(arguments.into, json.dumps(kept | new, indent=1, sort_keys=True) + "\n")
    for name in suites.released():
        for evaluator, (std, degrees) in new.get(suites.load(name).digest, {}).items():
            print(f"{name}  {evaluator}  {100 * std:.2f} points, {degrees} degrees of freedom")


if __name__ == "__main__":
    main()
