"""What survives: the real commands killed, starved of disk, given damaged files, run twice at once, with the clock set back.

    python benchmarks/faults.py --kills 60 --out benchmarks/results/faults_HARDWARE_YYYYMM.json      # an hour or two on one core
    python benchmarks/faults.py --quick                                                              # what the tests run

Every try runs a command in a folder of its own, does something bad to it, and runs the same command again. It has survived
when that ends well and every file equals that of a run that nothing happened to (but for seconds, times of day and what is
sealed over them). Where the program refuses and says how to mend it, the cure is applied first, and counted apart. Anything else
is lost. Processes are forked from this one, which has imported everything and computed nothing, and each is the leader of a
process group that really gets the signal. Checkpoints are written all the time instead of once a minute, so that kills meet them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)  # before anything computes: a forked process has no pool of threads

import matplotlib.font_manager  # noqa: E402, F401
import pandas  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import timm  # noqa: E402, F401

import mabench  # noqa: E402
import mabench_methods.dc.condense  # noqa: E402
from mabench import data  # noqa: E402, F401
from mabench.board import submit  # noqa: E402, F401
from mabench.board.site import page  # noqa: E402, F401
from mabench.cli import main as cli  # noqa: E402
from mabench.papers import reproduce  # noqa: E402, F401
from mabench.results import tables as report  # noqa: E402, F401
from mabench.runs import local  # noqa: E402, F401
from mabench.sets import readers as adapters  # noqa: E402, F401
from mabench.training import progress  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHECKPOINT_SECONDS = 0.05  # instead of a minute
TIMEOUT_SECONDS = 300.0
YEAR_SECONDS = 365 * 86400
BUNDLED = Path(mabench.__file__).parent / "assets" / "digits_kmeans_ipc5.safetensors"
QUICK = ("--evaluator", "mlp*", "--seeds", "0,1", "--device", "cpu", "--out", "out")

# cells of real images, short enough to be run a hundred times
CIFAR_SUITE = """
name = "faults-cifar10"
version = 1
title = "two epochs of the smallest network"
measures = "nothing; the data cache is what it is about"
dataset = "cifar10"
seeds = [0]
ipcs = [1]
[tracks]
scratch = ["mlp-scratch"]
[recipe]
epochs = 2
batch_size = 128
test_every = 1
score = "last"
"""


# -- one process -------------------------------------------------------------------------------------------------------


@dataclass
class Ended:
    """How a process ended: exit code (negative: the signal that ended it) and everything it printed."""

    code: int
    text: str
    seconds: float

    @property
    def refused(self) -> bool:
        """Whether it ended as a user's mistake does: exit code 2, one paragraph, no traceback."""
        return self.code == 2 and "mabench: " in self.text and "Traceback" not in self.text


def start(argv: list[str], cwd: Path, *, before: Callable[[], None] = lambda: None, log: Path, **environment: str) -> int:
    """Fork a process that runs the command line in `cwd` as the leader of a group of its own; returns its id."""
    sys.stdout.flush()
    log.touch()  # here, for the process may be killed before it gets there
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.setsid()
        for stream, target in ((0, os.devnull), (1, str(log)), (2, str(log))):
            os.dup2(os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND), stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(cwd)
        os.environ.update(environment)
        tempfile.tempdir = None
        progress.CHECKPOINT_SECONDS = mabench_methods.kit.run.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
        sys.argv = ["mabench", *argv]
        before()
        cli.run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(number: int, log: Path, *, at: float | None = None, when: Callable[[], bool] | None = None, send: int = 0) -> Ended:
    """Wait for a process; after `at` seconds, or as soon as `when()` holds, its group gets the signal `send`."""
    begun, sent = time.monotonic(), False
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        now = time.monotonic() - begun
        if found:
            return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), now)
        if not sent and ((when is not None and when()) or (at is not None and now >= at)):
            _signal(number, send)
            sent = True
        if now > TIMEOUT_SECONDS:
            _signal(number, signal.SIGKILL)
        time.sleep(0.002)


def _signal(group: int, send: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.killpg(group, send)


def run(argv: list[str], cwd: Path, *, log: Path | None = None, **kinds: Any) -> Ended:
    log = log or Path(tempfile.mktemp(dir=SCRATCH, prefix="log"))
    waiting = {name: kinds.pop(name) for name in ("at", "when", "send") if name in kinds}
    return ended(start(argv, cwd, log=log, **kinds), log, **waiting)


# -- the commands and what they should leave behind --------------------------------------------------------------------


@dataclass
class Task:
    """A command line, the folder it needs, and the folder it fills."""

    name: str
    argv: list[str]
    inputs: Path
    made: str
    """Where its output lies."""
    reference: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    def fresh(self, state: Path | None = None) -> Path:
        """A new folder with the inputs, or with a copy of `state`."""
        folder = Path(tempfile.mkdtemp(dir=SCRATCH, prefix=f"{self.name}-"))
        shutil.copytree(state or self.inputs, folder, dirs_exist_ok=True)
        return folder

    def measure(self) -> None:
        """Run it once, undisturbed: what every other run is compared with."""
        folder = self.fresh()
        done = run(self.argv, folder)
        assert done.code == 0, done.text
        self.reference, self.seconds = contents(folder / self.made), done.seconds
        shutil.rmtree(folder)

    def difference(self, folder: Path, skip: str = "") -> str:
        """What is not as it should be; empty if all is well."""
        found = contents(folder / self.made)
        wrong = [
            n
            for n in sorted({*found, *self.reference})
            if found.get(n) != self.reference.get(n) and not re.search(skip or "$^", n)
        ]
        return f"{', '.join(wrong[:4])} differ" if wrong else ""


VARYING = {"seconds", "started", "when", "previous", "checksum"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path, without what differs between two runs that nothing happened to."""
    return {str(p.relative_to(folder)): _steady(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock"}


def _steady(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            return json.dumps(_without(json.loads(content))).encode()
        if path.suffix == ".jsonl":
            return json.dumps([_without(json.loads(line)) for line in content.splitlines()]).encode()
        if path.suffix == ".csv":
            rows = csv.DictReader(content.decode().splitlines())
            return json.dumps([_without(row) for row in rows]).encode()
    except ValueError:
        pass
    return content


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in VARYING}
    return [_without(v) for v in value] if isinstance(value, list) else value


def tasks() -> dict[str, Task]:
    """The four commands, with inputs made by the commands themselves."""
    inputs = SCRATCH / "inputs"
    for name in ("eval", "submit", "build"):
        (inputs / name).mkdir(parents=True)
        shutil.copy(BUNDLED, inputs / name / "set.safetensors")
    evaluate = Task("eval", ["eval", "set.safetensors", "--suite", "digits-agnostic", *QUICK], inputs / "eval", "out")
    sending = ["submit", "set.safetensors", "--records", "run", "--card", "card.toml", "--submissions", "submissions"]
    for slug, place in (("kmeans", inputs / "submit"), ("other-one", inputs / "other")):
        if slug != "kmeans":  # another set: the same one would be refused under a second name
            place.mkdir()
            original = mabench.load_set(BUNDLED)
            replace(original, images=original.images.flip(0), labels=original.labels.flip(0)).save(place / "set.safetensors")
        (place / "card.toml").write_text(f'title = "{slug}"\nauthors = ["A. Author"]\nlicence = "CC0-1.0"\nslug = "{slug}"\n')
        for argv in (evaluate.argv[:-1] + ["run"], [*sending[:-1], str(inputs / "build" / "submissions")]):
            done = run(argv, place)
            assert done.code == 0, done.text
    (inputs / "reproduce").mkdir()
    making = [
        "reproduce",
        "dc",
        "--preset",
        "smoke",
        "--config",
        "iterations=10",
        "--suite",
        "digits-agnostic",
        *QUICK,
    ]
    found = [
        evaluate,
        Task("reproduce", making, inputs / "reproduce", "out"),
        Task("submit", sending, inputs / "submit", "submissions"),
        Task("build", ["leaderboard", "build", "--submissions", "submissions", "--out", "board"], inputs / "build", "board"),
    ]
    for task in found:
        task.measure()
    return {task.name: task for task in found}


# -- the table ---------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One line of the table."""

    fault: str
    command: str
    tries: int = 0
    survived: int = 0
    """The same command finished, and everything is as it should be."""
    cured: int = 0
    """Refused with a sentence that says what to do; after that the same command finished, and everything is as it should be."""
    lost: int = 0
    details: list[str] = field(default_factory=list)
    """Why, where something was lost or not run."""

    def count(self, problem: str, cured: bool = False) -> None:
        self.tries += 1
        if problem:
            self.lost += 1
            self.details.append(problem)
        elif cured:
            self.cured += 1
        else:
            self.survived += 1


def again(task: Task, folder: Path, **environment: str) -> str:
    """The same command once more; what is wrong afterwards."""
    done = run(task.argv, folder, **environment)
    return task.difference(folder) if done.code == 0 else f"exit {done.code}: {done.text.strip()[-400:]}"


def settle(row: Row, task: Task, folder: Path, cure: Callable[[str], None] | None, skip: str = "") -> None:
    """Run the command, apply its cure if it refuses, and count."""
    done = run(task.argv, folder)
    if done.code == 0:
        row.count(task.difference(folder, skip))
    elif done.refused and cure is not None:
        cure(done.text)
        problem = again(task, folder)
        row.count(problem and f"{problem} (after: {done.text.strip()[-300:]})", cured=True)
    else:
        row.count(f"exit {done.code}: {done.text.strip()[-400:]}")


# -- the faults --------------------------------------------------------------------------------------------------------


def kills(task: Task, count: int, chance: random.Random) -> Row:
    """SIGKILL, SIGTERM and SIGINT in turn, at moments drawn over the whole run; one try in three is killed while it resumes, too."""
    row = Row("killed at a random moment", task.name)
    while row.tries < count:
        folder, killed = task.fresh(), 0
        for turn in range(1 if chance.random() < 2 / 3 else 2):
            done = run(task.argv, folder, at=chance.uniform(0, task.seconds), send=SIGNALS[(row.tries + turn) % 3])
            killed += done.code != 0
        if killed:  # else it was faster than the moment drawn
            problem = again(task, folder)
            for _ in range(killed):
                row.count(problem)
        shutil.rmtree(folder)
    return row


def steps(task: Task, numbers: Iterable[int]) -> Row:
    """SIGKILL just before the n-th time that it opens for writing, renames, removes or makes something in its output."""
    row = Row("killed before a file operation", task.name)
    left = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and isinstance(arguments[0], str | os.PathLike) and task.made in Path(arguments[0]).parts:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(number: int) -> None:
        left[0] = number
        sys.addaudithook(hook)

    for number in numbers:
        folder = task.fresh()
        done = run(task.argv, folder, before=partial(watch, number))
        if done.code != -signal.SIGKILL:  # there are not so many
            break
        row.count(again(task, folder))
        if row.lost and row.details[-1][:1] != "n":
            row.details[-1] = f"n = {number}: {row.details[-1]}"
        shutil.rmtree(folder)
    return row


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """A file system of its own in memory. PermissionError where mounting is refused."""
    place = Path(tempfile.mkdtemp(dir=SCRATCH, prefix="disk-"))
    if mounted("-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(place)):
        raise PermissionError
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def mounted(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode


def full_disk(task: Task, count: int, chance: random.Random) -> Row:
    """The output (and everything temporary) lies on a disk that is full somewhere on the way; then it gets larger."""
    row = Row("disk full", task.name)
    need = 4 * sum(1 + len(content) // 4096 for content in task.reference.values())  # in whole pages
    row.details = [f"{need} KiB are needed"] if os.environ.get("FAULTS_VERBOSE") else []
    tried = 0
    while row.tries < count and tried < 4 * count:
        tried += 1
        size = chance.randint(4, max(need, 8))
        inputs = sum(4 * (1 + p.stat().st_size // 4096) for p in task.inputs.rglob("*") if p.is_file())
        with small_disk(inputs + size + 8) as disk:
            folder = disk / "work"
            shutil.copytree(task.inputs, folder)
            (disk / "tmp").mkdir()
            first = run(task.argv, folder, TMPDIR=str(disk / "tmp"))
            if first.code == 0:
                continue
            if not first.refused:
                row.count(f"exit {first.code}: {first.text.strip()[-400:]}")
                continue
            mounted("-o", "remount,size=64m", str(disk))
            row.count(again(task, folder, TMPDIR=str(disk / "tmp")), cured=True)
    return row


def read_only_output(task: Task) -> Row:
    """The output lies on a disk that cannot be written; then it can."""
    row = Row("output read-only", task.name)
    with small_disk(65536) as disk:
        folder = disk / "work"
        shutil.copytree(task.inputs, folder)
        mounted("-o", "remount,ro", str(disk))
        first = run(task.argv, folder)
        mounted("-o", "remount,rw", str(disk))
        row.count("" if first.refused else f"exit {first.code}: {first.text[-400:]}")
        row.tries, row.survived = 0, 0
        row.count(again(task, folder) if first.refused else "not refused", cured=True)
    return row


def damage(path: Path, chance: random.Random, number: int) -> str:
    """Cut the file or flip one bit of it; says what was done."""
    content = bytearray(path.read_bytes())
    kind = number % 4
    if kind == 3 or not content:
        content = bytearray() if number % 8 == 3 else content[:-1]
        what = f"cut to {len(content)}"
    elif kind == 1:
        content = content[: chance.randrange(len(content))]
        what = f"cut to {len(content)}"
    else:
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        content[place] ^= 1 << bit
        what = f"bit {bit} of byte {place} flipped"
    path.write_bytes(bytes(content))
    return what


@dataclass
class Kind:
    """A kind of file, in which state of the work it lies where, and what its refusal tells a user to do."""

    name: str
    task: Task
    state: Path
    pattern: str
    cure: str = ""
    """`delete` the file, `restore` it from where it came, or `obey` the command that is printed; empty = it must mend itself."""
    skip: str = ""
    """Files in which the change may show: a card's text is its owner's, any text is a card."""


def damaged(kind: Kind, count: int, chance: random.Random) -> Row:
    """One file of this kind cut or with a flipped bit, then the same command."""
    row = Row(f"damaged: {kind.name}", kind.task.name)
    for number in range(count):
        folder = kind.task.fresh(kind.state)
        path = chance.choice(sorted(folder.glob(kind.pattern)))
        whole = path.read_bytes()
        what = damage(path, chance, number)

        def cure(text: str, path: Path = path, whole: bytes = whole, folder: Path = folder) -> None:
            if kind.cure == "delete":
                path.unlink()
                (path.parent / "index.html").unlink(missing_ok=True)  # as the board's refusal says
            elif kind.cure == "restore":
                path.write_bytes(whole)
            elif kind.cure == "obey":
                (named,) = re.findall(r"rm -r (\S+)", text)
                assert (folder / named).is_relative_to(SCRATCH)
                shutil.rmtree(folder / named)

        settle(row, kind.task, folder, cure if kind.cure else None, kind.skip)
        if row.details and not row.details[-1].startswith(path.name):
            row.details[-1] = f"{path.name}, {what}: {row.details[-1]}"
        shutil.rmtree(folder)
    return row


def halfway(task: Task, when: str, records: int = 0) -> Path:
    """The folder of a run that was stopped with SIGINT once a file like `when` was there; checkpoint included."""
    for _ in range(20):
        folder = task.fresh()

        def there(folder: Path = folder) -> bool:
            return bool(list(folder.glob(when))) and len(list(folder.glob("out/records/*.json"))) >= records

        done = run(task.argv, folder, when=there, send=signal.SIGINT)
        if done.code == 130 and list(folder.glob(when)):
            return folder
    raise RuntimeError(f"{task.name} is never halfway")


def finished(task: Task) -> Path:
    folder = task.fresh()
    assert run(task.argv, folder).code == 0
    return folder


def kinds(known: dict[str, Task], cifar: Task | None) -> list[Kind]:
    """Every kind of file that these commands read again."""
    evaluate, making, sending, board = (known[name] for name in ("eval", "reproduce", "submit", "build"))
    half, done = halfway(evaluate, "out/checkpoints/*.pt", 1), finished(evaluate)
    condensing, condensed, built = halfway(making, "out/set-seed0/checkpoint.pt"), finished(making), finished(board)
    found = [
        Kind("record", evaluate, half, "out/records/*.json"),
        Kind("checkpoint of a cell", evaluate, half, "out/checkpoints/*.pt"),
        Kind("evaluation.json", evaluate, half, "out/evaluation.json"),
        Kind("tables and curves", evaluate, done, "out/[trc]*.*"),
        Kind("the set", evaluate, half, "set.safetensors", "restore"),
        Kind("checkpoint of a condensation", making, condensing, "out/set-seed0/checkpoint.pt"),
        Kind("run.json of a condensation", making, condensing, "out/set-seed0/run.json", "delete"),
        Kind("condensed set", making, condensed, "out/set-seed0/set.safetensors"),
        Kind("the set", sending, sending.inputs, "set.safetensors", "restore"),
        Kind("card", sending, sending.inputs, "card.toml", "restore", skip="card.toml|set.safetensors"),
        Kind("record", sending, sending.inputs, "run/records/*.json", "restore"),
        Kind("results.json", sending, sending.inputs, "run/results.json", "restore"),
        Kind("card", board, board.inputs, "submissions/kmeans/card.toml", "restore", skip=r"^(?!cells)"),
        Kind("audit log", board, board.inputs, "submissions/kmeans/audit.jsonl", "restore"),
        Kind("record of a submission", board, board.inputs, "submissions/kmeans/records/*.json", "restore"),
        Kind("set of a submission", board, board.inputs, "submissions/kmeans/set.safetensors", "restore"),
        Kind("manifest of a board", board, built, "board/manifest.json", "delete"),
        Kind("pages, pictures and tables of a board", board, built, "board/**/*.*"),
    ]
    if cifar is not None:
        found.append(Kind("cached real data", cifar, cifar.inputs, "cache/cifar10/test/*", "obey"))
    return found


def cifar_task() -> Task | None:
    """An evaluation on CIFAR-10's real test split from a cache of its own; None where there is no Hub cache with it."""
    inputs = SCRATCH / "inputs" / "cifar"
    inputs.mkdir()
    (inputs / "suite.toml").write_text(CIFAR_SUITE)

    def make() -> None:  # computes, so not in this process
        from mabench.sets.synthetic import SyntheticSet

        images = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        SyntheticSet(images, torch.arange(10), "cifar10", 1).save(Path("set.safetensors"))

    task = Task(
        "eval, CIFAR-10", ["eval", "set.safetensors", "--suite", "suite.toml", "--device", "cpu", "--out", "out"], inputs, "out"
    )
    done = run(task.argv, inputs, before=make, MABENCH_CACHE="cache")
    shutil.rmtree(inputs / "out", ignore_errors=True)
    if done.code:
        print(f"no CIFAR-10 here: {done.text.strip()[-200:]}")
        return None
    os.environ["MABENCH_CACHE"] = "cache"  # of every folder its own
    task.measure()
    return task


def read_only_cache(task: Task) -> list[Row]:
    """The cache of real data cannot be written: full it serves; empty it is refused, and another is used."""
    rows = [Row("cache read-only, full", task.name), Row("cache read-only, empty", task.name)]
    for row, empty in zip(rows, (False, True), strict=True):
        with small_disk(65536) as disk:
            folder = task.fresh()
            if empty:
                shutil.rmtree(folder / "cache")
                (folder / "cache").mkdir()
            shutil.copytree(folder / "cache", disk, dirs_exist_ok=True)
            mounted("-o", "remount,ro", str(disk))
            first = run(task.argv, folder, MABENCH_CACHE=str(disk))
            if not empty:
                row.count(task.difference(folder) if first.code == 0 else f"exit {first.code}: {first.text[-400:]}")
            elif first.refused and "MABENCH_CACHE" in first.text:
                row.count(again(task, folder, MABENCH_CACHE=str(folder / "cache")), cured=True)
            else:
                row.count(f"exit {first.code}: {first.text[-400:]}")
    return rows


def twice(task: Task, count: int, chance: random.Random) -> Row:
    """Two of the same command in one folder, the second a random moment later."""
    row = Row("two at once in one folder", task.name)
    for _ in range(count):
        folder = task.fresh()
        logs = [SCRATCH / f"first{row.tries}", SCRATCH / f"second{row.tries}"]
        first = start(task.argv, folder, log=logs[0])
        time.sleep(chance.uniform(0, task.seconds))
        second = start(task.argv, folder, log=logs[1])
        both = [ended(first, logs[0]), ended(second, logs[1])]
        bad = [f"exit {done.code}: {done.text.strip()[-300:]}" for done in both if done.code]
        row.count("; ".join(bad) or task.difference(folder))
        for log in logs:
            log.unlink()
        shutil.rmtree(folder)
    return row


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static time_t back(void) { const char *file = getenv("FAULTS_CLOCK"); return file && !access(file, F_OK) ? YEAR : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, t);
  if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec -= back();
  return result;
}
time_t time(time_t *t) { struct timespec now; clock_gettime(CLOCK_REALTIME, &now); if (t) *t = now.tv_sec; return now.tv_sec; }
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now; clock_gettime(CLOCK_REALTIME, &now); t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000; return 0;
}
"""


def clock(task: Task, count: int, chance: random.Random) -> Row:
    """A year back at a random moment of the run, which is then killed and run again, still a year back; files then lie in the future."""
    row = Row("clock set back a year, then killed", task.name)
    switch = Path(os.environ["FAULTS_CLOCK"])
    for _ in range(count):
        folder, log = task.fresh(), SCRATCH / f"clock{row.tries}"
        first, second = sorted(chance.uniform(0, task.seconds) for _ in range(2))
        number, begun = start(task.argv, folder, log=log), time.monotonic()

        def set_back(begun: float = begun, first: float = first) -> bool:
            if time.monotonic() - begun >= first:
                switch.touch()
            return False

        done = ended(number, log, at=second, when=set_back, send=SIGNALS[row.tries % 3])
        switch.touch()
        assert time.time() < NOW - YEAR_SECONDS / 2, "the clock was not set back"
        row.count(again(task, folder) if done.code else task.difference(folder))
        switch.unlink()
        shutil.rmtree(folder)
    return row


def clocks(options: argparse.Namespace) -> list[Row]:
    """`clock` needs a process that was started with another clock: this script once more."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return [Row("clock set back a year, then killed", "all", details=["not run: no C compiler"])]
    shim, result = SCRATCH / "clock.so", SCRATCH / "clock.json"
    (SCRATCH / "clock.c").write_text(SHIM)
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-DYEAR={YEAR_SECONDS}", str(SCRATCH / "clock.c"), "-o", str(shim), "-ldl"], check=True
    )
    environment = os.environ | {"LD_PRELOAD": str(shim), "FAULTS_CLOCK": str(SCRATCH / "set-back")}
    command = [sys.executable, __file__, "--only-clock", "--out", str(result), "--others", str(options.others)]
    subprocess.run(command, env=environment, check=True)
    return [Row(**row) for row in json.loads(result.read_text())["rows"]]


# -- all of it ---------------------------------------------------------------------------------------------------------

FAMILIES = ("kills", "steps", "twice", "damage", "disk", "clock")
NOW = time.time()
SCRATCH = Path()


def everything(options: argparse.Namespace) -> Iterator[Row]:
    chance = random.Random(options.seed)
    known = tasks()
    if options.only_clock:
        yield from (clock(task, options.others, chance) for task in known.values())
        return
    only, few = options.only or FAMILIES[: 3 if options.quick else None], options.quick
    if "kills" in only:
        for task in known.values():
            yield kills(task, 3 if few else options.kills, chance)
    if "steps" in only:
        for task in known.values():
            yield steps(task, (1, 6) if few else range(0, 2000, options.stride))
    if "twice" in only:
        for task in list(known.values())[: 1 if few else None]:
            yield twice(task, 1 if few else options.others, chance)
    cifar = cifar_task() if {"damage", "disk"} & set(only) else None
    if "damage" in only:
        for kind in kinds(known, cifar):
            yield damaged(kind, options.damages, chance)
    if "disk" in only:
        try:
            for task in known.values():
                yield full_disk(task, options.others, chance)
                yield read_only_output(task)
            if cifar is not None:
                yield from read_only_cache(cifar)
        except PermissionError:
            yield Row("disk full, read-only", "all", details=["not run: mounting is refused here"])
    if "clock" in only:
        yield from clocks(options)


def main() -> None:
    global SCRATCH
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="of every command, at random moments")
    parser.add_argument("--damages", type=int, default=16, help="of every kind of file")
    parser.add_argument("--stride", type=int, default=1, help="before every n-th file operation")
    parser.add_argument("--others", type=int, default=6, help="full disks, two at once, clocks set back: of every command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few of everything")
    parser.add_argument("--only", action="append", choices=FAMILIES, help="of these faults only; repeatable")
    parser.add_argument("--only-clock", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begun, rows = time.monotonic(), []
    numbers = ("kills", "damages", "stride", "others", "seed")
    facts = {
        "command": "python benchmarks/faults.py "
        + " ".join(f"--{name} {getattr(options, name)}" for name in numbers)
        + "".join(f" --only {name}" for name in options.only or ()),
        "when": datetime.now(UTC).strftime("%Y-%m"),
        "mabench": mabench.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "threads": 1,
    }
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as place:
        SCRATCH = Path(place)
        for row in everything(options):
            rows.append(row)
            print(f"{row.fault:<48} {row.command:<15} {row.tries:>4} {row.survived:>4} {row.cured:>4} {row.lost:>4}", flush=True)
            for text in sorted(set(row.details))[:5]:
                print(f"    {text}", flush=True)
            if options.out:
                found = facts | {"seconds": round(time.monotonic() - begun), "rows": [asdict(row) for row in rows]}
                options.out.write_text(json.dumps(found, indent=1) + "\n")
    lost = sum(row.lost for row in rows)
    print(f"{sum(row.tries for row in rows)} tries, {lost} lost, {time.monotonic() - begun:.0f} s")
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
