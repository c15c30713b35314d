"""Run whatever a suite's rows still lack, and add it to the submissions: python benchmarks/rows.py SUITE

    python benchmarks/rows.py cifar10-lite                         # every submission that the suite admits; IPC 1 first
    python benchmarks/rows.py cifar10-lite --shard 1/2 &           # two processes share the rows
    python benchmarks/rows.py cifar10-agnostic --track scratch --only 'random-*' --minutes 9
    python benchmarks/rows.py cifar10-lite --set dc-ipc1-published=res_DC_CIFAR10_ConvNet_1ipc_3000.pt
    python benchmarks/rows.py cifar10-lite --list                  # what is there, what is missing

A row comes from a submission's `set.safetensors` (more sets of the method: `set-2.safetensors`, ...), from a folder of `--from`, for
sets that are on no board yet (`condense_sets.py` makes them), or from the file that `--set` names, for a submission whose set its
authors publish themselves. Each set is evaluated into results/rows/SUITE/SLUG/SET/, which resumes, and submitted as soon as it is
complete, through the gates of `mabench submit`. A row that fails is named, and the next one is run; the exit code is 1 then. Killed at
any moment, the same command continues; a signal lets the run under way save itself first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from background import STOPPED, add_options, call, explained, place

from mabench import suites
from mabench.board import owners
from mabench.board import submission as store
from mabench.errors import MabenchError, first_line
from mabench.evaluation import inputs
from mabench.files import copy, write_bytes
from mabench.runs import local
from mabench.runs.folder import HARDENED, Folder
from mabench.runs.plan import plan, shard
from mabench.runs.process import stop_on_signal
from mabench.schema import Cell, RunRecord
from mabench.sets.synthetic import SyntheticSet

MABENCH = (sys.executable, "-m", "mabench.cli.main")


@dataclass(frozen=True)
class Row:
    """A set, its card, and what its submission has and lacks of the suite."""

    slug: str
    file: Path
    condensed: SyntheticSet
    card: Path
    submission: store.Submission | None
    cells: tuple[Cell, ...]
    hardened: bool
    """Whether every run is made a second time, with hardened labels."""

    @property
    def joins(self) -> bool:
        """Whether this is one more set of a submission that is there."""
        return self.submission is not None and self.condensed.sha256 not in self.submission.sets

    @property
    def place(self) -> str:
        """`set`, `set-2`, ...: as the submission calls it, or else its file."""
        if self.submission is None or self.joins:
            return self.file.stem
        return Path(store.set_file(self.submission.sets.index(self.condensed.sha256) + 1)).stem

    @property
    def name(self) -> str:
        return self.slug if self.place == "set" else f"{self.slug}, {self.place}"

    @property
    def planned(self) -> int:
        return len(self.cells) * (2 if self.hardened else 1)

    @property
    def held(self) -> list[str]:
        """Names of the submission's records of these runs."""
        records = self.submission.records if self.submission else {}
        return [name for name, record in records.items() if record.cell in self.cells]

    @property
    def missing(self) -> int:
        """Runs that the submission lacks."""
        harder = self.submission.hardened if self.submission and self.hardened else {}
        return self.planned - len(self.held) - sum(name in harder for name in self.held)

    @property
    def outdated(self) -> bool:
        """Whether the submission holds records of another edition of the suite, which are in the way of new ones."""
        suite, digest = self.cells[0].suite, self.cells[0].suite_digest
        held = self.submission.records.values() if self.submission else ()
        return any(record.cell.suite == suite and record.cell.suite_digest != digest for record in held)

    def finished(self, out: Path) -> int:
        """Runs that have a record in the folder of an evaluation."""
        folders = [out, *([out / HARDENED] if self.hardened else [])]
        return sum((folder / "records" / f"{cell.name}.json").exists() for folder in folders for cell in self.cells)


def named_sets(given: Sequence[str], submissions: Path, dataset: str) -> dict[str, Path]:
    """Slug -> file, of every SLUG=FILE. Raises MabenchError for a file that is not a set of the submission called SLUG."""
    found: dict[str, Path] = {}
    for text in given:
        slug, separator, file = text.partition("=")
        if not separator or not file:
            raise MabenchError(
                f"--set {text}: write it as SLUG=FILE, e.g. --set dc-ipc1-published=res_DC_CIFAR10_ConvNet_1ipc_3000.pt"
            )
        submission = store.read(submissions / store.check_slug(slug))
        if submission is None:
            there = first_line(path.name for path in store.folders(submissions)) or "none"
            raise MabenchError(f"--set {text}: no submission {slug} in {submissions}. There are: {there}.")
        sha = inputs.read_file(file, {}, dataset).sha256
        if sha not in submission.sets:
            raise MabenchError(
                f"--set {text}: holds the set {sha[:16]}, but the log of {slug} names {first_line(s[:16] for s in submission.sets)}. "
                "Name the file that was submitted; if it was read with flags: mabench pack FILE --set-index 2 -o packed.safetensors "
                f"(or what else they were), then --set {slug}=packed.safetensors"
            )
        found[slug] = Path(file)
    return found


def rows(loaded_suite: suites.LoadedSuite, options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Every set that the suite admits, in the order of `--only`, the smallest first; and the slugs that cannot be read."""
    named = named_sets(options.sets, options.submissions, loaded_suite.suite.dataset)
    folders = store.folders(options.submissions)
    if options.source:
        if not options.source.is_dir():
            raise MabenchError(
                f"--from {options.source}: no such folder. Name one that holds SLUG/card.toml and SLUG/set.safetensors."
            )
        folders += sorted(folder for folder in options.source.iterdir() if folder.is_dir())
    files: dict[str, list[Path]] = {}
    for folder in folders:
        files.setdefault(folder.name, []).extend(file for file in sorted(folder.iterdir()) if store.is_set_file(file.name))
    for slug, file in named.items():
        files[slug].append(file)
    found: list[Row] = []
    unread: list[str] = []
    for slug in (slug for slug in files if place(slug, options.only) is not None):
        try:
            found += rows_of(slug, files[slug], loaded_suite, options, wanted=slug in named)
        except MabenchError as error:  # the others do not suffer
            print(f"{slug}: {error}", flush=True)
            unread.append(slug)

    def order(row: Row) -> tuple[int, int, str, str]:
        return place(row.slug, options.only) or 0, row.condensed.summary().decoded_images, row.slug, row.place

    return sorted(found, key=order), unread


def rows_of(
    slug: str, files: Sequence[Path], loaded_suite: suites.LoadedSuite, options: argparse.Namespace, *, wanted: bool
) -> list[Row]:
    """The rows of one slug. A set that the suite does not admit is left out, unless it is `wanted`: then MabenchError says why."""
    found: dict[str, Row] = {}
    submission = store.read(options.submissions / slug)
    for file in files:
        card = (options.submissions / slug if submission else file.parent) / store.CARD
        if not card.exists():
            continue
        condensed = inputs.read_file(str(file), {}, loaded_suite.suite.dataset)
        try:
            cells = plan(loaded_suite, condensed, track=options.track or None)
        except MabenchError:  # another dataset, classes of different sizes
            if wanted:
                raise
            continue
        hardened = condensed.label_kind == "soft" and loaded_suite.scores_hardened
        found.setdefault(condensed.sha256, Row(slug, file, condensed, card, submission, tuple(cells), hardened))
    return list(found.values())


def evaluate(row: Row, out: Path, options: argparse.Namespace, minutes: float | None, asked: Callable[[], bool]) -> int:
    """Evaluate what is missing; the exit code of `mabench eval`. What the submission has of it is not run again."""
    for name in row.held:
        put_back(row, out, store.RECORDS, name, row.submission.records)
        if name in row.submission.hardened:
            put_back(row, out / HARDENED, store.HARDENED, name, row.submission.hardened)
    chosen = [part for track in options.track for part in ("--track", track)]
    budget = ["--minutes", f"{minutes:.2f}"] if minutes is not None else []
    return call(
        [*MABENCH, "eval", str(row.file), "--suite", options.suite, *chosen, *budget, "--out", str(out), "--quiet"], asked
    )


def put_back(row: Row, out: Path, part: str, name: str, records: Mapping[str, RunRecord]) -> None:
    """Let the folder of an evaluation hold a record of the submission."""
    assert row.submission is not None
    cell = records[name].cell
    folder = Folder(out, cell.set_sha256, cell.suite, cell.suite_digest)
    if not folder.record_path(cell).exists():
        local.claim(folder, row.condensed)
        write_bytes(folder.record_path(cell), row.submission.files[f"{part}{name}{store.JSON}"])


def submit(row: Row, out: Path, submissions: Path, records: Sequence[Path] = ()) -> bool:
    """Add the records to the submission, through every gate, which says why where it is closed; whether they are in."""
    folders = [part for folder in (out, *records) for part in ("--records", str(folder))]
    there = [*folders, "--card", str(row.card), "--submissions", str(submissions)]
    another = ["--another-set"] if row.joins else []
    return call([*MABENCH, "submit", str(row.file), *there, *another, "--quiet"], lambda: False) == 0


def renew(row: Row, out: Path, submissions: Path) -> bool:
    """Begin the submission again, with the new records and those of other suites; whether that went through every gate.

    Records of an earlier edition are dropped: a log only grows, and never names two records of one run.
    """
    assert row.submission is not None
    if len(row.submission.sets) > 1:
        print(f"{row.name}: has several sets; begin its submission again by hand: mabench submit", flush=True)
        return False
    with tempfile.TemporaryDirectory(dir=submissions.parent, prefix=".renewed-") as scratch:
        root, kept = Path(scratch) / store.FOLDER, Path(scratch) / "kept"
        root.mkdir()
        if (submissions / owners.BOARD).exists():
            copy(submissions / owners.BOARD, root / owners.BOARD)
        for part, folder in ((store.RECORDS, kept), (store.HARDENED, kept / HARDENED)):
            for name, record in row.submission.records.items():
                if record.cell.suite != row.cells[0].suite and f"{part}{name}{store.JSON}" in row.submission.files:
                    write_bytes(folder / "records" / f"{name}.json", row.submission.files[f"{part}{name}{store.JSON}"])
        if not submit(row, out, root, [kept] if kept.exists() else []):
            return False
        if row.slug in row.submission.board.external:  # its authors publish it, nobody else
            (root / row.slug / store.SET).unlink()
        (submissions / row.slug).rename(Path(scratch) / "before")
        shutil.move(root / row.slug, submissions / row.slug)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--submissions", type=Path, default=Path("submissions"))
    parser.add_argument("--from", type=Path, dest="source", help="a folder of folders with card.toml and set.safetensors")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="SLUG=FILE", help="the set of a submission that keeps none, from its authors' file; may be repeated")  # fmt: skip
    parser.add_argument("--only", action="append", default=[], help="only rows whose slug matches; may be repeated, and rows come in this order")  # fmt: skip
    parser.add_argument("--track", action="append", default=[], help="only this track; may be repeated")
    parser.add_argument("--renew", action="store_true", help="where records of an earlier edition of the suite are in the way, begin the submission again without them")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="run nothing")
    add_options(parser, "the rows' slugs")
    options = parser.parse_args()
    with explained("rows"):
        sys.exit(run(options))


def run(options: argparse.Namespace) -> int:
    """Every row of this part; the exit code."""
    loaded_suite, begun = suites.load(options.suite), time.monotonic()
    planned, failed = rows(loaded_suite, options)
    slugs = shard(list(dict.fromkeys(row.slug for row in planned)), *options.shard)
    with stop_on_signal() as asked:
        for row in (row for row in planned if row.slug in slugs):
            print(f"{row.name}: {row.planned - row.missing} of {row.planned} runs are there", flush=True)
            if options.list or not row.missing:
                continue
            left = None if options.minutes is None else options.minutes - (time.monotonic() - begun) / 60
            if left is not None and left <= 0:
                print("the time is up; the same command continues")
                break
            if not complete(row, options, left, asked) and not asked():
                failed.append(row.name)
            if asked():
                print("stopped; the same command continues")
                return STOPPED
    if failed:
        print(f"failed: {'; '.join(failed)}. What is finished is kept; the same command tries them again")
    return 1 if failed else 0


def complete(row: Row, options: argparse.Namespace, minutes: float | None, asked: Callable[[], bool]) -> bool:
    """Run and submit one row, as far as `minutes` go; whether nothing went wrong."""
    if row.outdated and not options.renew:
        print(
            f"{row.name}: its submission holds records of an earlier edition, which are never replaced; --renew begins it again"
        )
        return False
    out = Path("results/rows") / options.suite / row.slug / row.place
    try:
        code = evaluate(row, out, options, minutes, asked)
    except MabenchError as error:
        print(f"{row.name}: {error}", flush=True)
        return False
    finished = row.finished(out)
    if code and not asked():
        print(f"{row.name}: mabench eval ended with exit code {code}; {finished} of {row.planned} runs are finished", flush=True)
        return False
    if finished < row.planned:
        print(f"{row.name}: {finished} of {row.planned} runs are finished; the same command continues", flush=True)
        return True
    submitted = (renew if row.outdated else submit)(row, out, options.submissions)
    if not submitted:  # it says why; the records stay where they are, and the other rows do not suffer
        print(f"{row.name}: not submitted", flush=True)
    return submitted


if __name__ == "__main__":
    main()
