"""Run whatever a suite's rows still lack, and add it to the submissions: python benchmarks/rows.py SUITE

    python benchmarks/rows.py cifar10-lite                         # every submission that the suite admits; IPC 1 first
    python benchmarks/rows.py cifar10-lite --shard 0/2 &           # two processes share the rows
    python benchmarks/rows.py cifar10-agnostic --track scratch --only 'random-*' --minutes 9
    python benchmarks/rows.py cifar10-lite --list                  # what is there, what is missing

A row comes from a folder that holds `card.toml` and `set.safetensors`: a submission, or one of `--from`, for sets that are on no
board yet. It is evaluated into results/rows/SUITE/SLUG/, which resumes; a row whose track is complete is submitted at once, through
the gates of `mabench submit`. Killed at any moment, the same command goes on.
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
    """A set with its card, and how many runs of the suite its submission lacks."""

    folder: Path
    condensed: SyntheticSet
    missing: int
    planned: int


def rows(exam: suites.Exam, folders: list[Path], submissions: Path, tracks: list[str]) -> list[Row]:
    """Every set that the suite admits, the smallest first."""
    found = []
    for folder in folders:
        if not (folder / "card.toml").exists() or not (folder / "set.safetensors").exists():
            continue
        condensed = readers.read(folder / "set.safetensors")
        try:
            cells = plan(exam, condensed, track=tracks or None)
        except MabenchError:  # another dataset, another budget
            continue
        submission = store.read(submissions / folder.name)
        recorded = [record.cell for record in submission.records.values()] if submission else []
        found.append(Row(folder, condensed, sum(cell not in recorded for cell in cells), len(cells)))
    return sorted(found, key=lambda row: (row.condensed.summary().decoded_images, row.folder.name))


def evaluate(row: Row, suite: str, tracks: list[str], minutes: float | None) -> Path:
    """Evaluate what is missing; the folder of the records."""
    out = Path("results/rows") / suite / row.folder.name
    chosen = [part for track in tracks for part in ("--track", track)]
    budget = ["--minutes", f"{minutes:.2f}"] if minutes is not None else []
    source = str(row.folder / "set.safetensors")
    subprocess.run([*MABENCH, "eval", source, "--suite", suite, *chosen, *budget, "--out", str(out), "--quiet"], check=True)
    return out


def submit(row: Row, out: Path, submissions: Path) -> None:
    """Add the records to the submission, through every gate."""
    source, card = str(row.folder / "set.safetensors"), str(row.folder / "card.toml")
    there = ["--records", str(out), "--card", card, "--submissions", str(submissions)]
    subprocess.run([*MABENCH, "submit", source, *there, "--quiet"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--submissions", type=Path, default=Path("submissions"))
    parser.add_argument("--from", type=Path, dest="source", help="a folder of folders with card.toml and set.safetensors")
    parser.add_argument("--only", default="*", help="only rows whose slug matches")
    parser.add_argument("--track", action="append", default=[], help="only this track; may be repeated")
    parser.add_argument("--minutes", type=float, help="stop after this time; the same command goes on")
    parser.add_argument("--shard", default="0/1", help="i/n: every nth row, from the ith")
    parser.add_argument("--list", action="store_true", help="run nothing")
    options = parser.parse_args()
    exam, begun = suites.load(options.suite), time.monotonic()
    folders = {folder.name: folder for folder in store.folders(options.submissions)}
    if options.source:
        folders |= {folder.name: folder for folder in sorted(options.source.iterdir()) if folder.is_dir()}
    chosen = [folder for name, folder in sorted(folders.items()) if fnmatch.fnmatchcase(name, options.only)]
    index, count = map(int, options.shard.split("/"))
    for row in rows(exam, chosen, options.submissions, options.track)[index::count]:
        print(f"{row.folder.name}: {row.planned - row.missing} of {row.planned} runs are there", flush=True)
        if options.list or not row.missing:
            continue
        left = None if options.minutes is None else options.minutes - (time.monotonic() - begun) / 60
        if left is not None and left <= 0:
            print("the time is up; the same command goes on")
            break
        out = evaluate(row, options.suite, options.track, left)
        finished = len(list((out / "records").glob("*.json")))
        if finished < row.planned:
            print(f"{row.folder.name}: {finished} of {row.planned} runs are finished; the same command goes on", flush=True)
        else:
            submit(row, out, options.submissions)


if __name__ == "__main__":
    main()
