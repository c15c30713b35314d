"""Scores -> what people read and paste: text, Markdown, LaTeX and CSV, and the files beside the records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from mabench.errors import MabenchError, first_line
from mabench.files import write_text
from mabench.results import lifts
from mabench.results.plots import write_curves
from mabench.results.ranking import status
from mabench.results.scoring import Row, chance, plateau, score, second, worst
from mabench.schema import RunRecord
from mabench.suites import LoadedSuite

if TYPE_CHECKING:
    import pandas

STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs", "csv": "csv"}
OPTIONAL = ("same bytes %", "alike %", "runs", "hardened %", "second test %")  # left out in this order where a terminal is narrow


# -- numbers as text ---------------------------------------------------------------------------------------------------


def percent(value: float | None, signed: bool = False) -> str:
    """A fraction as percent with two digits; an absent number is a dash, never a zero."""
    return "-" if value is None else f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def plus_minus_sign(style: str) -> str:
    """The sign before a spread; ASCII in text, so that every terminal shows it."""
    return {"markdown": "±", "latex": r"$\pm$"}.get(style, "+-")


def plus_minus(mean: float | None, std: float | None, style: str = "text", signed: bool = False) -> str:
    """`81.20 +- 0.45` in percent."""
    text = percent(mean, signed)
    return text if mean is None or std is None else f"{text} {plus_minus_sign(style)} {percent(std)}"


def duration(seconds: float) -> str:
    """3,725 -> '1 h 02 min'."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.1f} days"


# -- one set on one suite ----------------------------------------------------------------------------------------------


def cells(
    loaded_suite: LoadedSuite, lines: Sequence[Row], style: str = "text", without: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the table, as text; columns in `without` and those that say nothing are left out.

    Best, plateau and last always stand there; the one that counts comes first, with its spread.
    """
    sign = plus_minus_sign(style)
    counts = "best" if any(recipe.score == "best" for recipe in loaded_suite.recipes.values()) else "last"
    beside: dict[str, list[float | None]] = {
        "best": [line.best for line in lines],
        "plateau": [line.plateau for line in lines],
        "last": [line.last for line in lines],
    }
    del beside[counts]
    alike = any(line.alike is not None for line in lines)
    same_bytes = any(line.same_bytes is not None for line in lines)
    lift = any(line.lift is not None for line in lines)
    columns = {
        "track": [line.track for line in lines] if len({line.track for line in lines}) > 1 else None,
        "evaluator": [_name(line, style) for line in lines],
        f"{counts} % {sign} std" if any(line.std is not None for line in lines) else f"{counts} %": [
            plus_minus(line.mean, line.std, style) for line in lines
        ],
        **{f"{name} %": [percent(value) for value in values] for name, values in beside.items()},
        "hardened %": [percent(line.hardened) for line in lines] if any(line.hardened is not None for line in lines) else None,
        "second test %": [percent(line.second) for line in lines] if any(line.second is not None for line in lines) else None,
        "runs": [f"{line.runs}" if line.runs == line.planned else f"{line.runs} of {line.planned}" for line in lines],
        "alike %": [percent(line.alike) for line in lines] if alike else None,
        "same bytes %": [percent(line.same_bytes) for line in lines] if same_bytes else None,
        f"lift {sign} 95 %": [plus_minus(line.lift, line.lift_half, style, signed=True) for line in lines] if lift else None,
    }
    shown = {name: values for name, values in columns.items() if values is not None and name not in without}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


def _name(line: Row, style: str) -> str:
    if not line.panel:
        return line.name
    return {"markdown": f"**{line.name}**", "latex": rf"\textbf{{{line.name}}}", "csv": line.name}.get(style, f"[{line.name}]")


def table(loaded_suite: LoadedSuite, lines: Sequence[Row], style: str = "text", width: int | None = None) -> str:
    """The result in one of STYLES. Text leaves columns out, the least important first, until it fits into `width` characters."""
    hidden: list[str] = []
    while True:
        headers, body = cells(loaded_suite, lines, style, hidden)
        text = draw(headers, body, style)
        remaining = [name for name in OPTIONAL if name in headers]
        if style != "text" or width is None or not remaining or max(map(len, text.splitlines())) <= width:
            return text
        hidden.append(remaining[0])


def draw(headers: Sequence[str], body: Sequence[Sequence[str]], style: str, left: int = 0) -> str:
    """A table of texts: the first `left` columns (default: up to `evaluator`) flush left, all others right.

    Raises MabenchError for a style that there is not.
    """
    if style not in STYLES:
        raise MabenchError(f"--format {style}: unknown. Allowed: {', '.join(STYLES)}.")
    if style == "csv":
        import csv
        import io

        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([list(headers), *body])
        return out.getvalue().rstrip("\n")
    left = left or (list(headers).index("evaluator") + 1 if "evaluator" in headers else 1)
    align = ["left"] * left + ["right"] * (len(headers) - left)
    if style == "latex":
        headers, body = [_latex(h) for h in headers], [[_latex(value) for value in row] for row in body]
        style_name = "latex_raw"
        text = str(tabulate(body, headers, tablefmt=style_name, disable_numparse=True, colalign=align if body else None))
        return _booktabs(text)
    return str(tabulate(body, headers, tablefmt=STYLES[style], disable_numparse=True, colalign=align if body else None))


def _latex(text: str) -> str:
    """Names hold `_`, `%` and `&`; what is LaTeX already (our own bold and plus-minus) stays."""
    if text.startswith(r"\textbf{") and text.endswith("}"):
        return rf"\textbf{{{_latex(text[8:-1])}}}"
    kept = text.replace(r"$\pm$", "\0")
    for character in "&%#_":
        kept = kept.replace(character, "\\" + character)
    return kept.replace("\0", r"$\pm$")


def _booktabs(text: str) -> str:
    """tabulate's LaTeX with the rules that papers use; no package but booktabs is needed."""
    lines = text.replace(r"\hline", "RULE").split("\n")
    names = iter((r"\toprule", r"\midrule", r"\bottomrule"))
    return "\n".join(next(names) if line.strip() == "RULE" else line for line in lines)


def frame(records: Iterable[RunRecord], hardened: Iterable[RunRecord] = ()) -> pandas.DataFrame:
    """One row a run, with set, suite, dataset and IPC, so that frames and files of several sets can be concatenated."""
    import pandas

    return pandas.DataFrame(_runs(records, hardened))


def _runs(records: Iterable[RunRecord], hardened: Iterable[RunRecord]) -> list[dict[str, Any]]:
    """One entry a run; `hardened` is the score of the same run with hardened labels, None where there is none."""
    same = {record.cell.name: score(record) for record in hardened}
    return [_flat(record) | {"hardened": same.get(record.cell.name)} for record in records]


def _flat(record: RunRecord) -> dict[str, Any]:
    return {
        "set": record.synthetic_set.name,
        "set_sha256": record.synthetic_set.sha256,
        "suite": record.cell.suite,
        "dataset": record.synthetic_set.dataset,
        "ipc": record.synthetic_set.ipc,
        "track": record.cell.track,
        "evaluator": record.cell.evaluator.name,
        "seed": record.cell.seed,
        "accuracy": score(record),
        "acc_best": record.best,
        "best_epoch": record.best_epoch,
        "acc_plateau": plateau(record),
        "acc_last": record.last,
        "acc_second": second(record),
        "diverged_epoch": record.diverged_epoch,
        "seconds": record.seconds,
        "engine": record.engine,
    }


def notes(loaded_suite: LoadedSuite, lines: Sequence[Row], records: Sequence[RunRecord]) -> list[str]:
    """What a reader has to know to trust the table."""
    best = "best" in {r.score for r in loaded_suite.recipes.values()}
    counts = "best of the test passes" if best else "last test pass"
    passes = max(len(recipe.plateau_epochs) for recipe in loaded_suite.recipes.values())
    mean = f"mean of the last {passes} passes" if passes > 1 else "the last pass"
    out = [f"score: {counts}, {loaded_suite.suite.std} std over seeds; plateau: {mean}"]
    if loaded_suite.suite.open_rates is not None:
        out.append(f"rates not yet frozen: {loaded_suite.suite.open_rates}")
    for answer in (status(loaded_suite, track, records) for track in loaded_suite.evaluators):
        if answer.finished and not answer.ranked:
            networks = first_line(dict.fromkeys(name.split("--")[1] for name in answer.missing))
            first = f" (missing: {networks}); a panel mean needs them all" if answer.missing else ""
            out.append(f"{answer.track}: not ranked, {answer.reason}{first}")
    if any(line.hardened is not None for line in lines):
        out.append("hardened: the same runs with hard labels, each the class of its largest entry; never ranked")
    tested = [record.second_test for record in records if record.second_test is not None]
    if tested:
        titles = first_line(dict.fromkeys(f"{each.name} ({each.total:,} images)" for each in tested))
        part = "" if len(tested) == len(records) else f"; {len(tested)} of {len(records)} runs were tested on it"
        out.append(f"second test: {titles} after the last epoch, never ranked{part}")
    low = worst(lines)
    if low is not None and sum(not line.panel for line in lines) > 1:
        out.append(f"smallest lift: {low.name} {percent(low.lift, signed=True)}")
    engines = sorted({f"{r.engine} ({r.environment.get('arithmetic', 'float32')})" for r in records})
    out.append(f"engine: {', '.join(engines)}")
    diverged = [r for r in records if r.diverged_epoch is not None]
    if diverged:
        named = first_line(f"{r.cell.name} in epoch {r.diverged_epoch}" for r in diverged)
        out.append(f"diverged: {named}; counted as chance level, {percent(chance(diverged[0]))} %")
    return out + (lifts.notes(loaded_suite, records) if records else [])


# -- files -------------------------------------------------------------------------------------------------------------


def write(folder: Path, loaded_suite: LoadedSuite, records: Sequence[RunRecord], hardened: Sequence[RunRecord] = ()) -> list[str]:
    """Write table.md, table.tex, results.json, results.csv and, last, the curves beside the records; returns warnings."""
    if not records:
        return ["no run has a record: nothing was written"]
    lines = lifts.rows(loaded_suite, records, hardened)
    write_text(folder / "table.md", _markdown(loaded_suite, lines, records))
    write_text(folder / "table.tex", table(loaded_suite, lines, "latex") + "\n")
    write_text(folder / "results.json", json.dumps(as_json(loaded_suite, lines, records, hardened), indent=1) + "\n")
    write_text(folder / "results.csv", frame(records, hardened).to_csv(index=False))
    warning = write_curves(folder, loaded_suite, records)
    return [warning] if warning is not None else []


def _markdown_text(text: str) -> str:
    """Text of a stranger in one line that stays text: no heading, table, link, picture or tag begins in it."""
    marks = r"[<>\[\]|*`#!&\\]|(?<=http):|(?<=https):|www"
    return re.sub(marks, lambda found: "".join(f"&#{ord(c)};" for c in found[0]), " ".join(text.split()))


def as_json(
    loaded_suite: LoadedSuite, lines: Sequence[Row], records: Sequence[RunRecord], hardened: Sequence[RunRecord] = ()
) -> dict[str, Any]:
    """The content of results.json."""
    return {
        "suite": loaded_suite.id,
        "suite_digest": loaded_suite.digest,
        "set": records[0].synthetic_set.model_dump(mode="json"),
        "rows": [vars(line) | {"lift": line.lift} for line in lines],
        "cells": _runs(records, hardened),
    }


def _markdown(loaded_suite: LoadedSuite, lines: Sequence[Row], records: Sequence[RunRecord]) -> str:
    summary = records[0].synthetic_set
    text = [
        f"# {_markdown_text(summary.name)} on {loaded_suite.id}",
        "",
        _markdown_text(loaded_suite.suite.title),
        "",
        table(loaded_suite, lines, "markdown"),
        "",
    ]
    text += [f"- {note}" for note in notes(loaded_suite, lines, records)]
    text += [
        f"- set: {summary.sha256[:16]}, {summary.dataset}, IPC {summary.ipc}, {summary.stored_bytes:,} bytes stored, "
        f"{summary.decoded_images} training images after decoding ({summary.decode}), {summary.labels} labels"
    ]
    text += [
        f"- read as: {_markdown_text(f'{finding.field} {finding.value} ({finding.reason})')}" for finding in summary.findings
    ]
    if summary.recorded_bytes:
        text += [
            f"- labels recorded for every epoch: {summary.recorded_bytes:,} bytes more, record {str(records[0].cell.labels_sha256)[:16]}"
        ]
    if summary.learning_rate is not None and any(r.cell.recipe.rate == "learned" for r in records):
        text += [f"- rate learned with the images: {summary.learning_rate:.6g}"]
    text += [f"- environment: {', '.join(f'{k} {v}' for k, v in records[-1].environment.items())}"]
    return "\n".join(text) + "\n"
