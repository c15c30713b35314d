"""Run whatever a suite's rows still lack, and add it to the submissions: python benchmarks/rows.py SUITE

    python benchmarks/rows.py cifar10-lite                         # every submission that the suite admits; IPC 1 first
    python benchmarks/rows.py cifar10-lite --shard 0/2 &           # two processes share the rows
    python benchmarks/rows.py cifar10-agnostic --track scratch --only 'random-*' --minutes 9
    python benchmarks/rows.py cifar10-lite --list                  # what is there, what is missing

A row comes from a folder that holds `card.toml`, `set.safetensors` and, for more sets of the method, `set-2.safetensors`, ...: a
submission, or one of `--from`, for sets that are on no board yet (`condense_sets.py` makes them). Each set is evaluated into
results/rows/SUITE/SLUG/SET/, which resumes, and submitted as soon as it is complete, through the gates of `mabench submit`. Killed at
any moment, the same command continues.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mabench import suites
from mabench.board import submission as store
from mabench.errors import MabenchError
from mabench.runs.plan import plan
from mabench.sets import readers
from mabench.sets.synthetic import SyntheticSet

MABENCH = (sys.executable, "-m", "mabench.cli.main")


@dataclass(frozen=True)
class Row:
    """A set beside its card, and how many runs of the suite its submission lacks."""

    file: Path
    condensed: SyntheticSet
    missing: int
    planned: int

    @property
    def slug(self) -> str:
        return self.file.parent.name

    @property
    def name(self) -> str:
        return f"{self.slug}, {self.file.stem}" if self.file.stem != "set" else self.slug


def rows(loaded_suite: suites.LoadedSuite, folders: list[Path], submissions: Path, tracks: list[str]) -> list[Row]:
    """Every set that the suite admits, the smallest first."""
    found = []
    for file in (file for folder in folders for file in sorted(folder.glob("set*.safetensors"))):
        if not (file.parent / "card.toml").exists():
            continue
        condensed = readers.read(file)
        try:
            cells = plan(loaded_suite, condensed, track=tracks or None)
        except MabenchError:  # another dataset, another budget
            continue
        submission = store.read(submissions / file.parent.name)
        recorded = [record.cell for record in submission.records.values()] if submission else []
        missing = sum(cell not in recorded for cell in cells)
        found.append(Row(file, condensed, missing, len(cells)))
    return sorted(found, key=lambda row: (row.condensed.summary().decoded_images, row.slug, row.file.stem))


def evaluate(row: Row, suite: str, tracks: list[str], minutes: float | None) -> Path:
    """Evaluate what is missing; the folder of the records."""
    out = Path("results/rows") / suite / row.slug / row.file.stem
    chosen = [part for track in tracks for part in ("--track", track)]
    budget = ["--minutes", f"{minutes:.2f}"] if minutes is not None else []
    source = str(row.file)
    subprocess.run([*MABENCH, "eval", source, "--suite", suite, *chosen, *budget, "--out", str(out), "--quiet"], check=True)
    return out


def submit(row: Row, out: Path, submissions: Path) -> None:
    """Add the records to the submission, through every gate."""
    held = store.read(submissions / row.slug)
    joins = held is not None and all(r.cell.set_sha256 != row.condensed.sha256 for r in held.records.values())
    there = ["--records", str(out), "--card", str(row.file.parent / "card.toml"), "--submissions", str(submissions)]
    another = ["--another-set"] if joins else []
    done = subprocess.run([*MABENCH, "submit", str(row.file), *there, *another, "--quiet"], check=False)
    if done.returncode:  # it says why; the records stay where they are, and the other rows do not suffer
        print(f"{row.name}: not submitted", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--submissions", type=Path, default=Path("submissions"))
    parser.add_argument("--from", type=Path, dest="source", help="a folder of folders with card.toml and set.safetensors")
    parser.add_argument("--only", default="*", help="only rows whose slug matches")
    parser.add_argument("--track", action="append", default=[], help="only this track; may be repeated")
    parser.add_argument("--minutes", type=float, help="stop after this time; the same command continues")
    parser.add_argument("--shard", default="0/1", help="i/n: every nth submission, from the ith")
    parser.add_argument("--list", action="store_true", help="run nothing")
    options = parser.parse_args()
    loaded_suite, begun = suites.load(options.suite), time.monotonic()
    folders = {folder.name: folder for folder in store.folders(options.submissions)}
    if options.source:
        folders |= {folder.name: folder for folder in sorted(options.source.iterdir()) if folder.is_dir()}
    chosen = [folder for name, folder in sorted(folders.items()) if fnmatch.fnmatchcase(name, options.only)]
    index, count = map(int, options.shard.split("/"))
    planned = rows(loaded_suite, chosen, options.submissions, options.track)
    slugs = list(dict.fromkeys(row.slug for row in planned))[index::count]
    for row in (row for row in planned if row.slug in slugs):
        print(f"{row.name}: {row.planned - row.missing} of {row.planned} runs are there", flush=True)
        if options.list or not row.missing:
            continue
        left = None if options.minutes is None else options.minutes - (time.monotonic() - begun) / 60
        if left is not None and left <= 0:
            print("the time is up; the same command continues")
            break
        out = evaluate(row, options.suite, options.track, left)
        finished = len(list((out / "records").glob("*.json")))
        if finished < row.planned:
            print(f"{row.name}: {finished} of {row.planned} runs are finished; the same command continues", flush=True)
        else:
            submit(row, out, options.submissions)


if __name__ == "__main__":
    main()
