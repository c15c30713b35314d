"""The shape of the packages: rooms, floors and arrows stay few, files and functions short."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOUSE = runpy.run_path(str(ROOT / "dev" / "house.py"))


def test_the_house_stays_small() -> None:
    imports = HOUSE["arrows"]()
    levels = HOUSE["floors"](imports)
    assert set(levels) == set(imports), "two rooms import each other"
    assert not HOUSE["upward"](imports)
    assert len(imports) <= 22 and max(levels.values()) <= 9 and sum(map(len, imports.values())) <= 110


def test_long_files_and_functions_have_a_reason() -> None:
    reasons = set(re.findall(r"^- `(mabench/[^`]+)`: \w", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M))
    long = {place.rpartition(": ")[0] for place in HOUSE["long_places"]()}
    assert long <= reasons, f"too long, without a reason in CONTRIBUTING.md: {sorted(long - reasons)}"
    assert reasons <= long, f"no longer too long: {sorted(reasons - long)}"
