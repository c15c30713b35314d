"""The lie that a re-run lets through: how many points a submitter may add to every record before somebody's re-run notices.

    python benchmarks/verify_power.py [--out benchmarks/results/verify_power.json]

A submitter adds a lie to all records of a track; somebody repeats all of its runs on another machine, where float32 rounds otherwise,
so that every run is another draw of the same distribution. The largest lie that passes in more than 5 % of re-runs is printed, and how
often an honest submission passes, is refused, or stays undecided. The margin, one point, was stated beforehand (mabench/board/tiers.py).

Panels whose spread was never measured come last: there the re-run's own seeds stand in for it. A lie that passes in exactly 5 % of
re-runs is printed or not by the chance of the simulation.

Two rules are compared: that of `tiers`, and the one that it replaced, whose tolerance was taken from the submitter's own records:
one point and three standard deviations of a difference, cell by cell and for the mean. Against that one a liar scatters seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mabench.board import tiers
from mabench.files import write_text
from mabench.results.uncertainty import Spread

Array = NDArray[np.float64]
Rule = Callable[[Array, Array, float], Array]
"""(recorded [R,networks,seeds], again [R,networks,seeds], true spread) -> [R]: 1 passes, 0 stays undecided, -1 is contradicted."""

PANELS = {  # name -> networks, standard deviation over seeds; the spreads of mabench/suites/spread.json and of a quiet suite
    "six networks, 0.5 points": (6, 0.005),
    "six networks, 1.0 points": (6, 0.010),
    "two networks, 0.9 points": (2, 0.009),
    "one network, 1.7 points": (1, 0.017),
    "one network, 2.6 points": (1, 0.026),
}
UNKNOWN = {  # as PANELS; the rule is not told the spread, and takes it from the re-run's three seeds a network
    "six networks, 0.5 points, not measured": (6, 0.005),
    "six networks, 2.0 points, not measured": (6, 0.020),
    "two networks, 3.0 points, not measured": (2, 0.030),
}
SEEDS, TOLERATED = 3, 0.05
SCATTER = 0.10  # ours: the review's forger moved the three seeds of a network by -10, 0 and +10 points
LIES = np.arange(0, 0.3001, 0.0025)


def measured(recorded: Array, again: Array, spread: float) -> Array:
    """The rule of `tiers`, with the suite's pooled spread."""
    known = Spread(spread, 10**6)
    return np.array([_verdict(float(d), [known] * recorded.shape[1]) for d in (again - recorded).mean((1, 2))])


def unmeasured(recorded: Array, again: Array, spread: float) -> Array:
    """The rule of `tiers` where nobody has measured the suite's spread."""
    differences, scores = (again - recorded).mean((1, 2)).tolist(), again.tolist()
    return np.array(
        [_verdict(d, [tiers.spread_of(None, seeds) for seeds in of_run]) for d, of_run in zip(differences, scores, strict=True)]
    )


def _verdict(difference: float, spreads: list[Spread]) -> float:
    errors = [(1 / len(spreads), Spread(each.std * (2 / SEEDS) ** 0.5, each.degrees)) for each in spreads]
    found = tiers.together(errors, difference)
    assert found is not None
    verdicts = {"agrees": 1.0, "open": 0.0, "contradicts": -1.0}
    return verdicts[tiers.Agreement("", "", "official", difference, found.error, found.degrees, 1, 0).verdict]


def former(recorded: Array, again: Array, spread: float) -> Array:
    """The first rule: tolerance from the submitter's own spread, every cell and the mean."""
    own = recorded.std(2, ddof=1, keepdims=True)
    tolerance = 0.01 + 3 * np.sqrt(2) * own
    cells = (np.abs(again - recorded) <= tolerance).all((1, 2))
    count = recorded.shape[1] * SEEDS
    summed = np.sqrt((SEEDS * (tolerance[..., 0] - 0.01) ** 2).sum(1)) / count
    mean = np.abs((again - recorded).mean((1, 2))) <= 0.01 + summed
    return np.where(cells & mean, 1.0, -1.0)


def outcome(
    rule: Rule, networks: int, spread: float, lie: float, scatter: float, tries: int, chance: np.random.Generator
) -> Array:
    recorded, again = chance.normal(0.5, spread, (2, tries, networks, SEEDS))
    turns = (np.arange(networks)[:, None] + np.arange(SEEDS)) % SEEDS - 1  # signs turn from network to network
    return rule(recorded + lie + scatter * turns, again, spread)


def largest(rule: Rule, networks: int, spread: float, scatter: float, tries: int, chance: np.random.Generator) -> float:
    """The largest lie that passes in more than 5 % of re-runs, in points; 0 where none does."""
    tried = LIES if rule is former else LIES[LIES <= 0.05]  # five points pass the present rule only if chance takes four back
    passed = [lie for lie in tried if (outcome(rule, networks, spread, lie, scatter, tries, chance) == 1).mean() > TOLERATED]
    return round(100 * max(passed, default=0.0), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="write the result here; it is always printed")
    options = parser.parse_args()
    chance = np.random.default_rng(0)
    found = {}
    for name, (networks, spread) in (PANELS | UNKNOWN).items():
        present = measured if name in PANELS else unmeasured
        honest = {rule: outcome(rule, networks, spread, 0.0, 0.0, options.tries, chance) for rule in (former, present)}
        found[name] = {
            "before: largest lie": largest(former, networks, spread, 0.0, options.tries, chance),
            "before: largest lie, seeds scattered": largest(former, networks, spread, SCATTER, options.tries, chance),
            "before: honest, refused %": round(100 * float((honest[former] == -1).mean()), 1),
            "now: largest lie": largest(present, networks, spread, 0.0, options.tries, chance),
            "now: largest lie, seeds scattered": largest(present, networks, spread, SCATTER, options.tries, chance),
            "now: honest, agrees %": round(100 * float((honest[present] == 1).mean()), 1),
            "now: honest, refused %": round(100 * float((honest[present] == -1).mean()), 1),
        }
    result = {
        "margin": 100 * tiers.MARGIN,
        "tries": options.tries,
        "command": "python benchmarks/verify_power.py",
        "panels": found,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
