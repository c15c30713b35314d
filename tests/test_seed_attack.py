"""A set that is made for known seeds gains on them, and gains nothing once the seeds follow from the set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "seed_attack.py"


@pytest.mark.slow
def test_an_attack_on_known_seeds_is_worth_nothing_under_seeds_from_the_set(tmp_path: Path) -> None:
    """Shorter than what docs/evidence/seeds.md shows: a third of the steps, eight fresh seeds."""
    arguments = ["--steps", "20", "--fresh", "8", "--out", str(tmp_path / "found.json")]
    subprocess.run([sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())["sets"]["made for the official seeds"]
    known, bound = found["fixed"], found["set"]
    assert known["gap"] > 2 * known["standard_error"] and known["gap"] > 3
    assert abs(bound["gap"]) < 3 * bound["standard_error"]
