"""Scores -> what people read: the terminal table, Markdown, CSV, JSON and a plot of the curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mabench.errors import first_line
from mabench.files import atomic_write, write_text
from mabench.results.ranking import status
from mabench.results.scoring import Baseline, Row, chance, rows, worst
from mabench.schema import RunRecord, SetSummary
from mabench.suites import Exam


@cache
def _baselines() -> list[dict[str, Any]]:
    text = resources.files("mabench.suites").joinpath("baselines.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def known_baseline(exam: Exam, summary: SetSummary) -> Baseline | None:
    """Random real images of the same budget and label kind, as measured for exactly this exam; None if never run.

    `suites/baselines.json` holds them with the command and the machine they come from.
    """
    for entry in _baselines():
        if (entry["suite_digest"], entry["ipc"], entry["labels"]) == (exam.digest, summary.ipc, summary.labels):
            return {name: (mean, std, runs) for name, (mean, std, runs) in entry["evaluators"].items()}
    return None


def known_full_data(exam: Exam) -> Baseline | None:
    """The whole real training split under this exam: the entry of `suites/baselines.json` whose `ipc` is null; None if never run."""
    for entry in _baselines():
        if (entry["suite_digest"], entry["ipc"]) == (exam.digest, None):
            return {name: (mean, std, runs) for name, (mean, std, runs) in entry["evaluators"].items()}
    return None


def percent(value: float | None, signed: bool = False) -> str:
    """A fraction as percent with two digits; an absent number is a dash, never a zero."""
    return "-" if value is None else f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def table(exam: Exam, lines: Sequence[Row], style: str = "simple") -> str:
    """The result as text. `style` is a tabulate format: `simple` for a terminal, `github` for Markdown."""
    rule = "best" if all(r.score == "best" for r in exam.recipes.values()) else "last"
    with_random = any(line.random is not None for line in lines)
    headers = ["track", "evaluator", "accuracy %", "std", "runs"]
    headers += ["last %", "best - last"] if rule == "best" else []
    headers += ["random %", "lift"] if with_random else []
    body = []
    for line in lines:
        name = f"[{line.name}]" if line.panel and style != "github" else f"**{line.name}**" if line.panel else line.name
        runs = f"{line.runs}" if line.runs == line.planned else f"{line.runs} of {line.planned}"
        cells = [line.track, name, percent(line.mean), percent(line.std), runs]
        cells += [percent(line.last), percent(line.optimism)] if rule == "best" else []
        cells += [percent(line.random), percent(line.lift, signed=True)] if with_random else []
        body.append(cells)
    align = ["left", "left"] + ["right"] * (len(headers) - 2)
    return tabulate(body, headers, tablefmt=style, disable_numparse=True, colalign=align if body else None)


def notes(exam: Exam, lines: Sequence[Row], records: Sequence[RunRecord]) -> list[str]:
    """What a reader has to know to trust the table."""
    out = [
        f"accuracy: {'best of the looks at' if 'best' in {r.score for r in exam.recipes.values()} else 'last look at'} the test "
        f"split, {exam.suite.std} std over seeds"
    ]
    answers = [status(exam, track, records) for track in exam.evaluators]
    for answer in answers:
        if answer.finished and not answer.ranked:
            first = f" (missing: {first_line(answer.missing)}); a panel mean needs them all" if answer.missing else ""
            out.append(f"{answer.track}: not ranked, {answer.reason}{first}")
    low = worst(lines)
    if low is not None:
        out.append(f"worst evaluator: {low.name} {percent(low.mean)}")
    engines = sorted({f"{r.engine} ({r.environment.get('arithmetic', 'float32')})" for r in records})
    out.append(f"engine: {', '.join(engines)}")
    diverged = [r for r in records if r.diverged_epoch is not None]
    if diverged:
        named = first_line(f"{r.cell.name} in epoch {r.diverged_epoch}" for r in diverged)
        out.append(f"diverged: {named}; counted as chance level, {percent(chance(diverged[0]))} %")
    if lines and all(line.random is None for line in lines):
        out.append("random baseline: not run for this suite and budget")
    return out


def write(folder: Path, exam: Exam, records: Sequence[RunRecord]) -> list[Row]:
    """Write table.md, results.json, results.csv and curves.png beside the records; returns the rows."""
    summary = records[0].synthetic_set
    lines = rows(exam, records, known_baseline(exam, summary))
    text = [f"# {summary.name} on {exam.id}", "", f"{exam.suite.title}", "", table(exam, lines, "github"), ""]
    text += [f"- {note}" for note in notes(exam, lines, records)]
    text += [
        f"- set: {summary.sha256[:16]}, {summary.dataset}, IPC {summary.ipc}, {summary.stored_bytes:,} bytes stored, "
        f"{summary.decoded_images} training images after decoding ({summary.decode}), {summary.labels} labels"
    ]
    if summary.recorded_bytes:
        text += [
            f"- labels recorded for every epoch: {summary.recorded_bytes:,} bytes more, record {str(records[0].cell.labels_sha256)[:16]}"
        ]
    if summary.learning_rate is not None and any(r.cell.recipe.rate == "learned" for r in records):
        text += [f"- rate learned with the images: {summary.learning_rate:.6g}"]
    text += [f"- environment: {', '.join(f'{k} {v}' for k, v in records[-1].environment.items())}"]
    write_text(folder / "table.md", "\n".join(text) + "\n")
    cells = [_flat(record) for record in records]
    value = {
        "suite": exam.id,
        "suite_digest": exam.digest,
        "set": summary.model_dump(mode="json"),
        "rows": [vars(line) | {"optimism": line.optimism, "lift": line.lift} for line in lines],
        "cells": cells,
    }
    write_text(folder / "results.json", json.dumps(value, indent=1) + "\n")
    import pandas

    write_text(folder / "results.csv", pandas.DataFrame(cells).to_csv(index=False))
    plot_curves(folder / "curves.png", exam, records)
    return lines


def _flat(record: RunRecord) -> dict[str, Any]:
    return {
        "track": record.cell.track,
        "evaluator": record.cell.evaluator.name,
        "seed": record.cell.seed,
        "acc_best": record.best,
        "best_epoch": record.best_epoch,
        "acc_last": record.last,
        "diverged_epoch": record.diverged_epoch,
        "seconds": record.seconds,
    }


def plot_curves(path: Path, exam: Exam, records: Sequence[RunRecord]) -> None:
    """PNG: test accuracy against epoch, a panel per track, a line per evaluator (mean of its seeds), a dot at each best.

    Where looks were pruned only the best so far is known at every epoch, so that is what the line shows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tracks = [t for t in exam.evaluators if any(r.cell.track == t for r in records)]
    figure = Figure(figsize=(6.5 * len(tracks), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for position, track in enumerate(tracks):
        axes = figure.add_subplot(1, len(tracks), position + 1)
        for entry in exam.evaluators[track]:
            runs = [r for r in records if r.cell.track == track and r.cell.evaluator.name == entry.name]
            if not runs:
                continue
            epochs = [epoch for epoch, _ in runs[0].curve]
            pruned = any(r.upper_bounds for r in runs)
            counts = [list(accumulate((hits for _, hits in r.curve), max if pruned else lambda _, hits: hits)) for r in runs]
            means = [100 * sum(c[i] / r.total for c, r in zip(counts, runs, strict=True)) / len(runs) for i in range(len(epochs))]
            label = f"{entry.name} (best so far)" if pruned else entry.name
            (line,) = axes.plot(epochs, means, marker="o" if len(epochs) == 1 else "", label=label)
            axes.scatter([r.best_epoch for r in runs], [100 * r.best for r in runs], s=14, color=line.get_color(), zorder=3)
        axes.set(title=f"{exam.id}, {track}", xlabel="epoch", ylabel="test accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
