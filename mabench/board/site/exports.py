"""Standings -> what leaves the page: Markdown, CSV, JSON, parquet, badges, citations and commands. Each escapes for its format."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tabulate import tabulate

from mabench.board.hub.cards import BEGIN, END
from mabench.board.site.names import network
from mabench.board.site.placing import estimate
from mabench.board.site.sources import cells, loaded_suite, plain, web_address
from mabench.board.site.standings import Standing, baselines_of
from mabench.board.site.views import Table
from mabench.board.submission import Submission
from mabench.errors import MabenchError
from mabench.results import scoring, uncertainty
from mabench.results.baselines import RandomImages
from mabench.results.lifts import NOT_RUN
from mabench.results.tables import percent
from mabench.suites import LoadedSuite

CLAIMED = "submitter's"
"""The column of a submitter's own score, in tables where somebody else's re-runs count for a row."""
BADGE_COLOURS = {"verified": "#00664f", "spot-checked": "#0a5c8f", "self-run": "#4a5560", "challenged": "#9c3d00"}


def markdown(rows: Sequence[Standing]) -> str:
    """The board as GitHub tables, one a suite, track, IPC and kind of labels."""
    return "\n".join(
        [
            "# Leaderboard",
            "",
            "Made by `mabench leaderboard build` from records. Accuracies in percent; rank with its 95 % interval;",
            "rows without a rank say why.",
            "",
            *_tables(rows, "##"),
        ]
    )


def into_readme(text: str, rows: Sequence[Standing], path: Path) -> str:
    """`text` with the tables of submissions between its two marks; papers' numbers stand on the page.

    Raises MabenchError, which names `path`, where a mark is missing.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise MabenchError(f"{path}: has no lines {BEGIN} and {END}. Put both where the tables should go.")
    return "\n".join([head + begin, "", *_tables([row for row in rows if row.tier != "reported"], "###"), end + tail])


def _tables(rows: Sequence[Standing], heading: str) -> list[str]:
    out: list[str] = []
    apart = sorted(rows, key=lambda row: (row.table, row.outdated))
    for ((suite, track, ipc, labels), outdated), found in groupby(apart, key=lambda row: (row.table, row.outdated)):
        group = list(found)
        chosen = loaded_suite(suite)
        names = [e.name for e in chosen.evaluators[track]]
        rule = chosen.recipes[track].score
        out += [
            f"{heading} {suite}, {track}, IPC {ipc}, {labels} labels{' (earlier edition)' if outdated else ''}",
            "",
            *(
                ["Run under other rules than today's: not comparable with rows of another table, and not ranked."]
                if outdated
                else []
            ),
            f"{chosen.suite.title}.",
            f"Counts: the {rule} test pass of each run.",
            *([f"Rates not yet frozen: {chosen.suite.open_rates}."] if chosen.suite.open_rates is not None else []),
            "Numbers after ± are standard deviations over seeds; after a lift, half of its 95 % interval.",
            "",
        ]
        beside = ["hardened"] if labels == "soft" else []
        beside += [CLAIMED] if any(row.claimed is not None for row in group) else []
        beside += ["second test"] if any(row.second is not None for row in group) else []
        headers = ["rank", "set", "of", "trust", "best", "plateau", "last", *beside, "lift", "smallest lift", "bytes", *names]
        body = [_line(row, headers, rule) for row in group]
        body += [_baseline(images, chosen, track, headers) for images in baselines_of(group)]
        align = ["right", "left", "left", "left"] + ["right"] * (len(headers) - 4)
        out += [tabulate(body, headers, tablefmt="github", disable_numparse=True, colalign=align), ""]
        if CLAIMED in headers:
            out += [
                f"{CLAIMED.capitalize()}: the score by the submitter's own runs, where what others have run again counts.",
                "",
            ]
        if any(row.diverged for row in group):
            out += ["† At least one of these runs diverged (its loss was not finite); it counts as chance level.", ""]
    return out


def _line(row: Standing, headers: Sequence[str], rule: str) -> list[str]:
    """A submission's or a paper's row of the Markdown table."""
    known = {
        "rank": rank_text(row) if row.rank else row.why_unranked,
        "set": _markdown_text(row.title) + (f" ({_markdown_text(row.where)})" if row.where else ""),
        "of": "paper" if row.tier == "reported" else row.about,
        "trust": row.tier,
        "best": with_std(row.best, row.std if rule == "best" else None),
        "plateau": percent(row.plateau),
        "last": with_std(row.last, row.std if rule == "last" else None),
        "hardened": percent(row.hardened),
        CLAIMED: percent(row.claimed),
        "second test": percent(row.second),
        "lift": lift_text(row),
        "smallest lift": percent(row.worst_lift, signed=True),
        "bytes": "-" if row.bytes is None else f"{row.bytes:,}",
    }
    known |= {name: with_std(s.mean, s.std) + ("†" if s.diverged else "") for name, s in row.network_results.items()}
    return [known.get(header, "-") for header in headers]


def _baseline(images: RandomImages, chosen: LoadedSuite, track: str, headers: Sequence[str]) -> list[str]:
    """A row of the Markdown table: score, plateau, last and evaluators, nothing else."""
    draws = images.draws(chosen, track)
    known = {name: with_std(fmean(scores), scoring.spread(scores, "unbiased")) for name, scores in draws.items()}
    count = f", {len(next(iter(draws.values())))} draws" if draws else f", {NOT_RUN}"
    known |= {"rank": "baseline", "set": _markdown_text(images.title + count)}
    if (means := images.means(chosen, track)) is not None:
        known |= {"plateau": percent(means.plateau), "last": percent(means.last)}
        known[chosen.recipes[track].score] = percent(means.score)
    return [known.get(header, "-") for header in headers]


def lift_text(row: Standing) -> str:
    """`+3.10 ± 1.20`; what is missing where there is no lift."""
    if row.lift is None:
        return NOT_RUN if row.baselines and row.score is not None else "-"
    return percent(row.lift, signed=True) + ("" if row.lift_half is None else f" ± {percent(row.lift_half)}")


def rank_text(row: Standing) -> str:
    """`2 (1-3)`, or `2` where one seed gives no interval, or a dash."""
    if row.rank is None:
        return "-"
    sure = row.rank_low is None or row.rank_low == row.rank_high
    return f"{row.rank}" if sure else f"{row.rank} ({row.rank_low}-{row.rank_high})"


def with_std(mean: float | None, std: float | None) -> str:
    """Percent, with its spread where there is one."""
    return percent(mean) + ("" if mean is None or std is None else f" ± {percent(std)}")


def _markdown_text(text: str) -> str:
    """Text that stays text in a GitHub table cell: whatever could have a meaning there becomes an entity."""
    return re.sub(r"[^\w ,;'\-%]|www|_", lambda m: "".join(f"&#{ord(c)};" for c in m[0]), text)


def badge(row: Standing) -> str:
    """A static SVG for a README: suite, score, rank and tier."""
    left = f"mabench {row.suite.partition('@')[0]} {row.track} IPC {row.ipc}"
    right = percent(row.score) + ("" if row.score is None else " %")
    right += f" · rank {rank_text(row)}" if row.rank else f" · {row.why_unranked}"
    right += f" · {row.tier}" if row.tier not in row.why_unranked else ""
    widths = [round(6.3 * len(text)) + 14 for text in (left, right)]  # ours: Verdana at 11 px is about 6.3 px a character
    total, colour = sum(widths), BADGE_COLOURS.get(row.tier, "#4a5560")
    texts = "".join(
        f'<text x="{x}" y="14" textLength="{w - 14}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
        for x, w, text in ((widths[0] / 2, widths[0], left), (widths[0] + widths[1] / 2, widths[1], right))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{escape(left)}: {escape(right)}">'
        f"<title>{escape(left)}: {escape(right)}</title>"
        f'<clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{widths[0]}" height="20" fill="#24292f"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="{colour}"/></g>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">{texts}</g></svg>\n'
    )


def badge_name(row: Standing) -> str:
    return f"badge-{row.suite.replace('@', '-')}-{row.track}.svg"


def bibtex(submission: Submission) -> str:
    """The card's own entry, else a @misc made from the card in which whatever TeX would act on is text."""
    card = submission.card
    if card.bibtex.strip():
        return card.bibtex.strip()
    lines = [("title", f"{{{_tex(plain(card.title, 300) or submission.slug)}}}")]
    if card.authors:
        lines.append(("author", " and ".join(f"{{{_tex(plain(a, 100))}}}" for a in card.authors[:100])))
    address = web_address(card.paper) or web_address(card.code)
    if address:
        lines.append(("url", re.sub(r"[{}%#]", lambda m: f"\\{m[0]}", address)))
    lines.append(("note", f"Condensed set {submission.slug}, sha256 {submission.set_sha256[:16]}"))
    return "\n".join([f"@misc{{{submission.slug},", *(f"  {key} = {{{value}}}," for key, value in lines), "}"])


def _tex(text: str) -> str:
    table = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return re.sub(r"[\\{}%$&#_~^]", lambda m: table.get(m[0], f"\\{m[0]}"), text)


def commands(submission: Submission) -> list[tuple[str, str]]:
    """(what it does, command line) that run evaluators of this submission again, once `mabench pull` has fetched it."""
    out = []
    path = f"submissions/{submission.slug}/set.safetensors"
    records = cells(submission)
    for suite, track, engine in sorted({(r.cell.suite, r.cell.track, r.engine) for r in records}):
        first = min(
            (r for r in records if (r.cell.suite, r.cell.track, r.engine) == (suite, track, engine)),
            key=lambda r: (r.seconds, r.cell.name),
        )
        name = first.cell.evaluator.name
        minutes = max(1, round(first.seconds / 60))
        out.append(
            (
                f"{suite}, {network(name)}, seed {first.cell.seed}: {minutes} {'minute' if minutes == 1 else 'minutes'} where it was first run",
                f"mabench eval {path} --suite {suite} --track {track} --engine {engine} --evaluator {name} "
                f"--seeds {first.cell.seed} --out results/{submission.slug}/{suite}",
            )
        )
    return out


class Rival(NamedTuple):
    """Another set of the same table, and by how much it is worse, by the suite's pooled spread."""

    key: str
    title: str
    difference: float
    half_width: float | None


def rivals(row: Standing, table: Table) -> list[Rival]:
    """Up to six sets around the row in its table and the difference to each: the row's score minus theirs."""
    place = table.places.get(row.key)
    if place is None:
        return []
    found = []
    for other in (line.row for line in table.ranked[max(0, place - 3) : place + 4]):
        if other.key == row.key or other.labels != row.labels:
            continue
        if (one := estimate(row)) is not None and (two := estimate(other)) is not None:
            gap = uncertainty.between(one, two)
            found.append(Rival(other.key, other.title, gap.mean, gap.half))
    return found


def badge_markdown(row: Standing, address: str) -> str:
    """What a README needs to show the badge: an image that leads to the set's page."""
    page = f"{address or 'https://ORG-BOARD.static.hf.space/'}sets/{row.key}/"
    return f"[![mabench {row.suite} {row.track}]({page}{badge_name(row)})]({page}index.html)"


def space_card(title: str, dataset: str) -> str:
    """README.md of the static Space that shows the board; its owner may edit it, a build never overwrites it."""
    head = [
        f"title: {json.dumps(title)}", "emoji: 🧪", "colorFrom: blue", "colorTo: green", "sdk: static", "app_file: index.html", "pinned: false",
        "license: mit", "short_description: How well do networks learn from a condensed dataset?", "thumbnail: assets/card.png",
    ]  # fmt: skip
    head += [f"datasets: [{dataset}]"] if dataset else []
    head += [
        "tags: [leaderboard, 'submission:semiautomatic', 'test:public', 'judge:auto', 'modality:image', dataset-distillation]"
    ]
    source = f" of <https://huggingface.co/datasets/{dataset}>" if dataset else ""
    return "---\n" + "\n".join(head) + f"\n---\n\n# {title}\n\nMade by `mabench leaderboard build` from the records{source}.\n"
