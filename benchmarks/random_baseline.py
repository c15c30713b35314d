"""Measure the baselines of a suite: random real images in the forms that condensed sets are compared with.

    python benchmarks/random_baseline.py cifar10-lite                      # every budget, the usual forms; the same command continues
    python benchmarks/random_baseline.py cifar10-lite --ipc 1 --shard 1/2  # every other draw of one budget
    python benchmarks/random_baseline.py cifar10-agnostic --evaluator '*-scratch' --minutes 9
    python benchmarks/random_baseline.py cifar10-lite --collect            # only write what has been run into the package

Forms of a budget of N images per class: `plain`, N real images; `packed`, 4 N in N grids; `float32`, 4 N real images, whose bytes
in uint8 are those of a set that stores float32. Rarer ones are run where `--forms` names them: `float16`, 2 N; `grid4` and `grid8`,
16 N and 64 N in N grids. `--labels soft` labels them by the suite's teacher. Draw d of a form is trained once, with the suite's seed d modulo the
number of seeds, so that five draws are five independent numbers. Records lie in OUT, one a run; a run that was stopped, by a signal or
by `--minutes`, continues.
The numbers are added to mabench/suites/baselines.json; a draw that is there for every network is not run again, so another machine
can continue from that file. A board uses a form once it has five draws.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from background import explained, in_time, parser_of

from mabench import data, suites
from mabench.files import cache_folder, write_text
from mabench.results import scoring
from mabench.results.baselines import DRAWS
from mabench.runs import local
from mabench.runs.events import Event, Finished
from mabench.runs.folder import Folder, read_record
from mabench.runs.plan import plan, select, shard
from mabench.schema import RunRecord
from mabench.sets.synthetic import SyntheticSet
from mabench.suites import LoadedSuite
from mabench_methods.baselines.condense import TEACHER_SEED, Config, condense
from mabench_methods.kit import Run

PACKAGED = suites.FOLDER / "baselines.json"
TEACHER = (
    f"ConvNet-3 of width {Config.width}, {Config.epochs} epochs on the train split, seed {TEACHER_SEED}; softmax at temperature 1"
)
FORMS = {"plain": (1, 1), "packed": (1, 2), "float32": (4, 1), "float16": (2, 1), "grid4": (1, 4), "grid8": (1, 8)}
"""Name -> (images per class in multiples of the budget, real images a side in one image)."""


class Draw(NamedTuple):
    """One random set to be trained on."""

    ipc: int
    formation: int
    soft: bool
    number: int

    @property
    def form(self) -> tuple[int, str, str]:
        """As an entry has it: images per class, decode, labels."""
        return self.ipc, f"grid{self.formation}" if self.formation > 1 else "none", "soft" if self.soft else "hard"

    @property
    def name(self) -> str:
        grid = f"-grid{self.formation}" if self.formation > 1 else ""
        return f"{'soft' if self.soft else 'hard'}-ipc{self.ipc}{grid}-draw{self.number}"


def wanted(ipcs: list[int], forms: list[str], labels: list[str], draws: int) -> list[Draw]:
    """Every draw once, draw by draw, so that a stopped run has measured all forms alike."""
    kinds = dict.fromkeys(
        (ipc * FORMS[form][0], FORMS[form][1], kind == "soft") for ipc in ipcs for form in forms for kind in labels
    )
    return [Draw(*kind, number) for number in range(draws) for kind in kinds]


def drawn(loaded_suite: LoadedSuite, draw: Draw, should_stop: Callable[[], bool]) -> SyntheticSet:
    """The draw; with soft labels by the pinned teacher, which is trained once and kept in the cache."""
    config = Config(draw.ipc, "random", labels="soft" if draw.soft else "hard")
    if draw.formation > 1:
        config = replace(config, packed=True, formation=draw.formation)
    folder = cache_folder() / "baselines" / f"{loaded_suite.suite.dataset}-{draw.name}" if draw.soft else None
    train = data.load(loaded_suite.suite.dataset, "train")
    return condense(train, config, draw.number, torch.device("cpu"), Run(folder, should_stop=should_stop))


def lacking(loaded_suite: LoadedSuite, draws: list[Draw], into: Path, evaluator: str | None = None) -> dict[Draw, int]:
    """The draws that `into` does not hold for every network whose name matches, and how many networks they lack."""
    networks = [
        f"{track}/{entry.name}"
        for track, entry, _ in select(loaded_suite, evaluator=evaluator, seeds=[loaded_suite.suite.seeds[0]])
    ]
    forms = {_form(entry): entry["evaluators"] for entry in json.loads(into.read_text()) if _same_state(entry, loaded_suite)}

    def missing(draw: Draw) -> int:
        evaluators = forms.get(draw.form, {})
        return sum(str(draw.number) not in evaluators.get(name, {}) for name in networks)

    return {draw: count for draw in draws if (count := missing(draw))}


def run(
    loaded_suite: LoadedSuite, draws: Iterable[Draw], out: Path, arguments: argparse.Namespace, should_stop: Callable[[], bool]
) -> None:
    test = data.load(loaded_suite.suite.dataset, "test")
    for draw in draws:
        images = drawn(loaded_suite, draw, should_stop)
        seed = loaded_suite.suite.seeds[draw.number % len(loaded_suite.suite.seeds)]
        cells = plan(loaded_suite, images, evaluator=arguments.evaluator, seeds=[seed])
        folder = Folder(out / draw.name, images.sha256, loaded_suite.id, loaded_suite.digest)

        def show(event: Event, draw: Draw = draw) -> None:
            if isinstance(event, Finished) and not event.resumed:
                record = event.record
                print(f"{draw.name} {record.cell.name}: {100 * scoring.score(record):.2f} in {record.seconds:.0f} s", flush=True)

        local.run(
            images,
            cells,
            folder,
            test,
            device=arguments.device,
            engine=arguments.engine,
            on_event=show,
            should_stop=should_stop,
        )


def collected(loaded_suite: LoadedSuite, out: Path) -> Iterator[dict[str, Any]]:
    """An entry a form: what its records say, whoever ran them."""
    forms: dict[tuple[int, str, str], dict[str, dict[str, list[float | None]]]] = defaultdict(lambda: defaultdict(dict))
    environments: dict[tuple[int, str, str], list[dict[str, str]]] = defaultdict(list)
    for path in sorted(out.glob("*-draw*/records/*.json")):
        record = read_record(path)
        form = record.synthetic_set.ipc, record.synthetic_set.decode, record.synthetic_set.labels
        number = path.parts[-3].rpartition("draw")[2]
        forms[form][f"{record.cell.track}/{record.cell.evaluator.name}"][number] = accuracies(record)
        environments[form].append(record.environment)
    for (ipc, decode, labels), evaluators in sorted(forms.items()):
        more = {"teacher": TEACHER} if labels == "soft" else {}
        yield entry(loaded_suite, (ipc, decode, labels), "random_baseline", evaluators, environments[ipc, decode, labels], **more)


def entry(
    loaded_suite: LoadedSuite,
    form: tuple[int | None, str, str],
    script: str,
    evaluators: Mapping[str, Mapping[str, list[float | None]]],
    environments: list[dict[str, str]],
    **more: object,
) -> dict[str, Any]:
    """What the package keeps of one form; an `ipc` of None is the whole training split."""
    ipc, decode, labels = form
    return {
        "suite": loaded_suite.id, "suite_digest": loaded_suite.digest, "ipc": ipc, "decode": decode, "labels": labels, **more,
        "command": f"python benchmarks/{script}.py {loaded_suite.suite.name}", "environment": common(environments), "evaluators": dict(evaluators),
    }  # fmt: skip


def accuracies(record: RunRecord) -> list[float | None]:
    """Best, plateau and last of a run, as an entry has them."""
    values = scoring.score(record), scoring.plateau(record), scoring.last(record)
    return [None if value is None else round(value, 6) for value in values]


def common(environments: list[dict[str, str]]) -> dict[str, str]:
    """What the runs ran on; where they differ, every value once."""
    values = {key: [part for each in environments for part in each.get(key, "").split("; ")] for key in environments[-1]}
    return {key: "; ".join(dict.fromkeys(parts)) for key, parts in values.items()}


def _form(entry: dict[str, Any]) -> tuple[int, str, str]:
    return entry["ipc"], entry["decode"], entry["labels"]


def _same_state(entry: dict[str, Any], loaded_suite: LoadedSuite) -> bool:
    """Whether an entry holds draws (not the full-data mark) of exactly this state of the suite."""
    return entry["suite_digest"] == loaded_suite.digest and entry["ipc"] is not None


def joined(held: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """One entry of two of the same form; a run that was made again is replaced."""
    if held is None:
        return new
    every = held["evaluators"] | new["evaluators"]
    evaluators = {name: held["evaluators"].get(name, {}) | new["evaluators"].get(name, {}) for name in every}
    return new | {"environment": common([held["environment"], new["environment"]]), "evaluators": evaluators}


def collect(loaded_suite: LoadedSuite, out: Path, into: Path) -> None:
    """Add the records to the suite's entries. Entries of other suites and full-data marks stay; those of an earlier state go."""
    entries = [
        e for e in json.loads(into.read_text()) if e["suite"] != loaded_suite.id or e["suite_digest"] == loaded_suite.digest
    ]
    forms = {_form(entry): entry for entry in entries if _same_state(entry, loaded_suite)}
    others = [entry for entry in entries if not _same_state(entry, loaded_suite)]
    for new in collected(loaded_suite, out):
        forms[_form(new)] = joined(forms.get(_form(new)), new)
    own = [entry for _, entry in sorted(forms.items())]
    write(into, others + own)
    for entry in own:
        draws = {name: len(found) for name, found in entry["evaluators"].items()}
        print(f"IPC {entry['ipc']}, {entry['decode']}, {entry['labels']}: draws {draws}")


def write(into: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write the entries as JSON, an evaluator a line."""
    write_text(into, "[\n" + ",\n".join(map(_text, entries)) + "\n]\n")


def _text(entry: dict[str, Any]) -> str:
    head = json.dumps({name: value for name, value in entry.items() if name != "evaluators"})[:-1]
    evaluators = {name: dict(sorted(draws.items(), key=lambda draw: int(draw[0]))) for name, draws in entry["evaluators"].items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(draws)}" for name, draws in sorted(evaluators.items()))
    return f' {head}, "evaluators": {{\n{lines}\n }}}}'


def main() -> None:
    parser = parser_of(__doc__, "results/baselines", PACKAGED, "the draws")
    parser.add_argument("--ipc", type=int, nargs="+", help="budgets (default: the suite's)")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["plain", "packed", "float32"])
    parser.add_argument("--labels", nargs="+", choices=["hard", "soft"], default=["hard"])
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    with explained("random_baseline"):
        sys.exit(measure(arguments, time.monotonic()))


def measure(arguments: argparse.Namespace, begun: float) -> int:
    """Run this part of the draws, add what is finished to the entries, say what is left; the exit code."""
    loaded_suite = suites.load(arguments.suite)
    out = arguments.out / f"{loaded_suite.id}-{loaded_suite.digest[:8]}"
    into, evaluator = arguments.into, arguments.evaluator
    every = wanted(arguments.ipc or list(loaded_suite.suite.ipcs), arguments.forms, arguments.labels, arguments.draws)
    draws = shard(every, *arguments.shard)
    return in_time(
        arguments,
        begun,
        lambda should_stop: run(loaded_suite, lacking(loaded_suite, draws, into, evaluator), out, arguments, should_stop),
        lambda: collect(loaded_suite, out, into),
        lambda: f"{sum(lacking(loaded_suite, draws, into, evaluator).values())} of these runs are left",
    )


if __name__ == "__main__":
    main()
