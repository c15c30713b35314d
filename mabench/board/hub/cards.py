"""The dataset repository's README: its configs lead the Hub's viewer to the tables, its tables show the ranked sets."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from mabench import suites
from mabench.board import cells
from mabench.board.cells import CellRow, PaperRow
from mabench.board.submission import FOLDER
from mabench.results import scoring
from mabench.results.tables import percent

TABLE, PAPERS = f"data/{cells.CELLS}", f"data/{cells.PAPERS}"
"""The tables' places in the repository."""
README = "README.md"
BEGIN, END = "<!-- mabench: generated -->", "<!-- mabench: end -->"


def readme(rows: Sequence[CellRow], papers: Sequence[PaperRow] = (), before: str = "") -> str:
    """The repository's card. What people wrote outside the generated part of `before` is kept."""
    lines = [
        BEGIN,
        f"{len({r.slug for r in rows})} submissions, {len(rows):,} evaluator runs. Accuracies are percent, means over families",
        "of networks and over seeds; only ranked rows have them. Columns: `CellRow` in `mabench/board/cells.py`.",
        "",
    ]
    for (suite, track), group in groupby(sorted(rows, key=cells.order), key=lambda r: (r.suite, r.track)):
        lines += _track_table(suite, track, list(group))
    lines += _paper_table(papers)
    generated = "\n".join(lines) + END
    if BEGIN in before and END in before and before.startswith("---\n"):
        head, rest = before.split(BEGIN, 1)
        return head + generated + rest.split(END, 1)[1]
    return HEADER + generated + "\n"


def _track_table(suite: str, track: str, rows: Sequence[CellRow]) -> list[str]:
    """The sets on one track, ranked ones first and the best of them on top."""
    lines = [
        f"## {shown(suite)}, {shown(track)}", "",
        "| set | status | tier | IPC | labels | bytes | runs | score | best | plateau | last |",
        "|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    sets = [list(group) for _, group in groupby(rows, key=lambda r: r.slug)]
    means = {runs[0].slug: _means(runs) for runs in sets}

    def place(runs: list[CellRow]) -> tuple[float, str]:
        score = means[runs[0].slug][0]
        return (1.0 if score is None else -score), runs[0].slug

    for runs in sorted(sets, key=place)[:100]:
        row = runs[0]
        lines.append(
            f"| [{shown(row.title)}]({FOLDER}/{row.slug}) | {shown(row.status)} | {row.tier} | {row.ipc} | {row.labels} "
            f"| {row.stored_bytes + row.decoder_bytes:,} | {len(runs)} | {' | '.join(map(percent, means[row.slug]))} |"
        )
    return [*lines, ""]


def _means(runs: Sequence[CellRow]) -> list[float | None]:
    """Panel means of score, best, plateau and last of one set; a run that diverged counts as chance in each."""
    if runs[0].status != "ranked":
        return [None] * 4
    weights = scoring.weights(suites.load(runs[0].suite), runs[0].track)
    groups = {name: [r for r in runs if r.evaluator == name] for name in weights}
    out: list[float | None] = []
    for column in ("score", "acc_best", "acc_plateau", "acc_last"):
        values = {
            name: [r.score if r.diverged_epoch is not None else getattr(r, column) for r in group]
            for name, group in groups.items()
        }
        out.append(scoring.weighted({name: None if None in v or not v else fmean(v) for name, v in values.items()}, weights))
    return out


HEADER = f"""---
configs:
- config_name: cells
  default: true
  data_files:
  - split: train
    path: {TABLE}
- config_name: papers
  data_files:
  - split: train
    path: {PAPERS}
tags:
- dataset-condensation
- dataset-distillation
- benchmark
---
# Condensed datasets and what networks learn from them

Results of [mabench](https://pypi.org/project/mabench/): one row per set, evaluator and seed in `{TABLE}`, the numbers that papers
report in `{PAPERS}`, and the sets with their records, cards and audit logs in `{FOLDER}/`. `mabench pull SLUG --repo THIS/REPOSITORY`
fetches a set and checks it, `mabench verify SLUG` re-runs some of its cells, `mabench submit` adds your own.

"""


def _paper_table(rows: Sequence[PaperRow]) -> list[str]:
    """What papers report, in a part of its own: not run here, not ranked, the panel mean only where a whole track is printed."""
    if not rows:
        return []
    lines = [
        "## Numbers from papers", "",
        "Copied from papers, not run here and not ranked: one row per number, without a seed.", "",
        "| method | suite | IPC | where | numbers | mean |", "|---|---|--:|---|--:|--:|",
    ]  # fmt: skip
    for _, group in groupby(rows, key=lambda r: (r.suite, r.track, r.slug)):
        numbers = list(group)
        row = numbers[0]
        weights = scoring.weights(suites.load(row.suite), row.track)
        mean = percent(scoring.weighted({n.evaluator: n.score for n in numbers}, weights))
        place = f"{shown(row.suite)}, {shown(row.track)}"
        lines.append(f"| {shown(row.method)} | {place} | {row.ipc} | {shown(row.where)} | {len(numbers)} | {mean} |")
    return [*lines, ""]


def shown(text: str) -> str:
    """A stranger's text as Markdown that shows it and does nothing else."""
    return re.sub(r"[\\`*_\[\]|#!()~:@]", lambda m: f"&#{ord(m[0])};", html.escape(text))
