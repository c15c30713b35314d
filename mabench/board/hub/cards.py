"""The dataset repository's README: its configs lead the Hub's viewer to the tables, its tables show the ranked sets."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean
from types import MappingProxyType
from typing import Any

from mabench import suites
from mabench.board import cells
from mabench.board.cells import CellRow, PaperRow
from mabench.board.submission import FOLDER
from mabench.errors import printable
from mabench.results import scoring
from mabench.results.tables import percent

TABLE, PAPERS = f"data/{cells.CELLS}", f"data/{cells.PAPERS}"
"""The tables' places in the repository."""
README = "README.md"
BEGIN, END = "<!-- mabench: generated -->", "<!-- mabench: end -->"


def readme(
    repo: str,
    rows: Sequence[CellRow],
    papers: Sequence[PaperRow] = (),
    images: Mapping[str, str] = MappingProxyType({}),
    before: str = "",
    page: str = "",
) -> str:
    """The card of the repository `repo`. `images` are the tables of pictures, by set; `page` is the Space that a new card names.

    Of the card `before`, everything that people wrote outside the generated part is kept, and of the metadata everything but
    `configs` and `size_categories`.
    """
    generated = "\n".join([BEGIN, *_introduction(repo, rows, images), *_results(rows), *_paper_table(papers), END])
    found = _parsed(before)
    if found is None or BEGIN not in before or END not in before:
        data, text = (
            METADATA | {"license_link": f"https://huggingface.co/datasets/{repo}/tree/main/{FOLDER}"},
            PROSE.format(results=_results_of(page)) + generated + "\n",
        )
    else:
        head, rest = before.split(BEGIN, 1)
        data, text = found, head.split("\n---\n", 1)[1] + generated + rest.split(END, 1)[1]
    data = {"configs": _configs(images), "size_categories": [_size(len(rows))]} | {
        k: v for k, v in data.items() if k not in ("configs", "size_categories")
    }
    return f"---\n{_yaml(data)}---\n{text}"


def _parsed(card: str) -> dict[str, Any] | None:
    """The metadata of a card; None where there is none that can be read."""
    from huggingface_hub import DatasetCard

    try:
        return dict(DatasetCard(card).data.to_dict()) if card.startswith("---\n") else None  # type: ignore[no-untyped-call]
    except Exception:  # whatever YAML finds in a stranger's text: the card is then written anew
        return None


def _yaml(data: Mapping[str, Any]) -> str:
    from huggingface_hub import DatasetCardData

    return str(DatasetCardData(**data).to_yaml()).rstrip("\n") + "\n"


def _configs(images: Mapping[str, str]) -> list[dict[str, Any]]:
    """What `datasets` loads and the viewer offers: the runs first, then papers' numbers, then the pictures of each set."""
    places = {cells.CELLS.partition(".")[0]: TABLE, cells.PAPERS.partition(".")[0]: PAPERS} | dict(images)
    found = [{"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in places.items()]
    return [found[0] | {"default": True}, *found[1:]]


def _size(rows: int) -> str:
    """The Hub's word for a number of rows."""
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((word for limit, word in limits if rows < limit), "100K<n<1M")


def _results_of(page: str) -> str:
    return f"The results of [this leaderboard](https://huggingface.co/spaces/{page})" if page else "Results"


def _introduction(repo: str, rows: Sequence[CellRow], images: Mapping[str, str]) -> list[str]:
    """What is here and how to use it; every command names this repository."""
    example, sets = next(iter(images), ""), len({r.slug for r in rows})
    lines = [
        f"{sets} {'submission' if sets == 1 else 'submissions'}, {len(rows):,} evaluator runs. Accuracies are percent, means over families",
        "of networks and over seeds; only ranked rows have them. Columns: `CellRow` in `mabench/board/cells.py`.",
        "",
        "```python",
        "from datasets import load_dataset",
        f'runs = load_dataset("{repo}", "cells", split="train")      # every run: set, evaluator, seed, accuracy',
        f'papers = load_dataset("{repo}", "papers", split="train")   # what papers report, not run here',
    ]
    if example:
        lines.append(f'images = load_dataset("{repo}", "{example}", split="train")   # one configuration per set: the pictures')
    shown_slug = example or next((r.slug for r in rows), "SLUG")
    return [
        *lines,
        "```",
        "",
        "```sh",
        f"mabench pull {shown_slug} --repo {repo}               # fetch a set and check it",
        f"mabench verify {shown_slug} --repo {repo} --create-pr # run part of it again and send what comes out",
        f"mabench submit my_set.safetensors --records RESULTS --repo {repo} --create-pr",
        "```",
        "",
    ]


def _results(rows: Sequence[CellRow]) -> list[str]:
    lines: list[str] = []
    for (suite, track), group in groupby(sorted(rows, key=cells.order), key=lambda r: (r.suite, r.track)):
        lines += _track_table(suite, track, list(group))
    return lines


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


METADATA: dict[str, Any] = {
    "pretty_name": "Condensed datasets and what networks learn from them",
    "license": "other",
    "license_name": "one-per-set",
    "task_categories": ["image-classification"],
    "tags": ["dataset-condensation", "dataset-distillation", "benchmark"],
}
PROSE = f"""# Condensed datasets and what networks learn from them

{{results}} of [mabench](https://pypi.org/project/mabench/): one row per set, evaluator and seed in `{TABLE}`, the numbers that papers
report in `{PAPERS}`, and the sets with their records, cards and audit logs in `{FOLDER}/`. Every set has the licence that its
`card.toml` names; the records are facts, free to use.

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
    """A stranger's text as one line of Markdown that shows it and does nothing else."""
    line = printable(" ".join(text.split()))  # names of files may be no text at all
    return re.sub(r"[\\`*_\[\]|#!()~:@]", lambda m: f"&#{ord(m[0])};", html.escape(line, quote=False))
