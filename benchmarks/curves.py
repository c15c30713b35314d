"""Whether a change of the code moves a single count of a curve: run the demo's cells and benchmarks/golden.toml, compare digests.

    python benchmarks/curves.py --write    # before a change: benchmarks/results/curves.json
    python benchmarks/curves.py            # after it, on the same machine: exit code 1 where a curve differs

Curves are compared count by count: the digest of a cell covers its whole curve, its losses and, with the engine `fast`, which
test passes ended early. Rounding differs between processors and versions of PyTorch, so that digests hold for one machine alone.
Everything goes through the command `mabench eval`, the surface that a user sees. The demo's suite is run with seeds that do not
depend on the suite's digest or the set, as in the file of curves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

from mabench import suites

HERE = Path(__file__).resolve().parent
FILE = HERE / "results" / "curves.json"
RUNS = {  # name -> suite, further arguments
    "demo": ("", []),
    "reference": (str(HERE / "golden.toml"), ["--engine", "reference"]),
    "fast": (str(HERE / "golden.toml"), ["--engine", "fast"]),
}


def curves(name: str, folder: Path) -> dict[str, str]:
    """Cell -> digest of what it observed."""
    suite, more = RUNS[name]
    out = folder / name
    if not suite:
        suite = str(folder / "digits.toml")
        text = (suites.FOLDER / "digits-agnostic@1.toml").read_text(encoding="utf-8")
        Path(suite).write_text(text.replace('seed_streams = "set"', 'seed_streams = "fixed"'), encoding="utf-8")
    with resources.as_file(resources.files("mabench").joinpath("assets", "digits_kmeans_ipc5.safetensors")) as path:
        command = [
            str(Path(sys.executable).with_name("mabench")),
            "eval",
            str(path),
            "--suite",
            suite,
            "--device",
            "cpu",
            "--out",
            str(out),
        ]
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {}
    for file in sorted((out / "records").glob("*.json")):
        text = file.read_text(encoding="utf-8")
        record = json.loads(text[: text.rindex("}") + 1])
        observed = {key: record[key] for key in ("curve", "train_loss", "upper_bounds", "diverged_epoch")}
        found[f"{name}/{file.stem}"] = hashlib.sha256(json.dumps(observed, sort_keys=True).encode()).hexdigest()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the digests instead of comparing them")
    parser.add_argument("--file", type=Path, default=FILE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {cell: value for name in RUNS for cell, value in curves(name, Path(folder)).items()}
    if arguments.write:
        arguments.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found)} digests written to {arguments.file}")
        return 0
    known = json.loads(arguments.file.read_text(encoding="utf-8"))
    differing = sorted(cell for cell in known.keys() | found.keys() if known.get(cell) != found.get(cell))
    print(f"{len(known)} curves known, {len(found)} run, {len(differing)} differ")
    for cell in differing:
        print("  differs:", cell)
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
