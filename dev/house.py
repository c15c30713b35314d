"""Rooms, floors and arrows of the packages, counted on the import graph that import-linter checks (grimp).

    python dev/house.py            # one line
    python dev/house.py --rooms    # every room: floor, lines, what it imports
    python dev/house.py --long     # files above 350 lines and functions well above 50

A room is a direct child of `mabench` (module or package), `mabench_methods.kit`, or all methods together. An arrow is one room that
imports another, however often. The floor of a room is one more than the highest floor that it imports; floor 1 imports nothing.
Upward arrows are those against the layers of pyproject.toml.
"""

from __future__ import annotations

import argparse
import ast
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FILE, LONGEST_FUNCTION = 350, 55  # the house says about 50 lines for a function: a tenth more is no finding


def room_of(module: str) -> str | None:
    """The room of a module; None for the two package faces themselves."""
    package, _, rest = module.partition(".")
    if not rest:
        return None
    child = rest.split(".")[0]
    return child if package == "mabench" else "methods.kit" if child == "kit" else "methods"


def arrows() -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    graph = grimp.build_graph("mabench", "mabench_methods", cache_dir=None)
    found: dict[str, set[str]] = {room: set() for module in graph.modules if (room := room_of(module))}
    for module in graph.modules:
        room = room_of(module)
        for imported in graph.find_modules_directly_imported_by(module):
            other = room_of(imported)
            if room and other and other != room:
                found[room].add(other)
    return found


def floors(imports: dict[str, set[str]]) -> dict[str, int]:
    """Room -> floor. Rooms on a cycle, or above one, have none."""
    levels: dict[str, int] = {}
    while True:
        ready = [r for r in imports if r not in levels and all(i in levels for i in imports[r])]
        if not ready:
            return levels
        levels |= {room: 1 + max((levels[i] for i in imports[room]), default=0) for room in ready}


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Arrows against the layers that pyproject.toml declares for `mabench`."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    rank = {name.strip("() "): i for i, layer in enumerate(reversed(layers)) for name in layer.replace("|", ":").split(":")}
    beside = {frozenset((a.strip(), b.strip())) for layer in layers for a in layer.split(":") for b in layer.split(":")}
    pairs = [(a, b) for a in imports for b in imports[a] if a in rank and b in rank]
    return [f"{a} -> {b}" for a, b in pairs if rank[b] >= rank[a] and frozenset((a, b)) not in beside]


def long_places() -> list[str]:
    """Files and functions of `mabench/` that are longer than the house allows."""
    places = []
    for path in sorted((ROOT / "mabench").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT).as_posix()
        if (lines := text.count("\n")) > LONGEST_FILE:
            places.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    places.append(f"{name}:{node.name}: {length} lines")
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", action="store_true", help="every room")
    parser.add_argument("--long", action="store_true", help="files and functions that are too long")
    arguments = parser.parse_args()
    imports = arrows()
    levels = floors(imports)
    cyclic = sorted(set(imports) - set(levels))
    against = upward(imports)
    print(
        f"{len(imports)} rooms, {max(levels.values())} floors, {sum(map(len, imports.values()))} arrows, "
        f"{len(against)} upward, {len(cyclic)} rooms on or above a cycle"
    )
    for line in [*(f"  upward: {a}" for a in against), *(f"  cycle: {room}" for room in cyclic)]:
        print(line)
    if arguments.rooms:
        for room in sorted(imports, key=lambda r: (-levels.get(r, 0), r)):
            print(f"  {levels.get(room, '?'):>2}  {room:<12} {', '.join(sorted(imports[room]))}")
    if arguments.long:
        for place in long_places():
            print(f"  {place}")


if __name__ == "__main__":
    main()
