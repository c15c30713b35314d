"""What is kept of one submission once its records are read: little, for a board may hold 100,000 of them."""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from mabench.board import cells as table
from mabench.board.cells import CellRow
from mabench.board.site import charts, exports, names
from mabench.board.site.sources import TIERS, cells, plain, read_submission, web_address
from mabench.board.site.standings import Standing, submitted
from mabench.board.stored import summaries
from mabench.board.submission import SET, Submission

MOST_POINTS = 100  # ours: a curve of 620 pixels shows no more


@dataclass(frozen=True)
class Sheet:
    """One submission as the pages need it."""

    slug: str
    title: str
    set_sha256: str
    rows: list[Standing]
    """Without their places, which take all submissions."""
    runs: list[CellRow]
    packed_curves: bytes
    about: dict[str, Any]
    card_text: str
    """What the card says, for search and for matching papers' settings."""
    rerun: bool
    """Whether somebody else has run at least one evaluator again."""

    def curves(self) -> list[tuple[str, Markup]]:
        """(suite and track, drawing) of every track."""
        return [(name, Markup(svg)) for name, svg in json.loads(zlib.decompress(self.packed_curves))]


def read(folder: Path) -> Sheet | None:
    """Read one submission; None for an unfinished one. Raises MabenchError for one that no board can show."""
    entry = read_submission(folder)
    if entry is None:
        return None
    card = entry.card
    text = " ".join([card.title, card.method, card.command, card.note, " ".join(card.source_networks), " ".join(card.authors)])
    curves = json.dumps([(name, str(svg)) for name, svg in _curves(entry)])
    return Sheet(
        slug=entry.slug,
        title=plain(card.title, 120) or entry.slug,
        set_sha256=entry.set_sha256,
        rows=submitted(entry),
        runs=table.of_submissions([entry]),
        packed_curves=zlib.compress(curves.encode(), 1),
        about=_about(entry, (folder / SET).exists()),
        card_text=plain(text, 4000),
        rerun=bool(entry.confirming),
    )


def _curves(entry: Submission) -> list[tuple[str, Markup]]:
    """Mean over seeds of the test accuracy at every pass, with the band of the seeds; where passes were pruned, best so far."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for record in cells(entry):
        found[record.cell.suite, record.cell.track][record.cell.evaluator.name].append(record)
    drawn = []
    for (suite, track), networks in found.items():
        lines = []
        for name, records in networks.items():
            epochs = [epoch for epoch, _ in records[0].curve]
            records = [r for r in records if [e for e, _ in r.curve] == epochs]
            pruned = any(r.upper_bounds for r in records)
            values = []
            for record in records:
                counts = [correct for _, correct in record.curve]
                values.append([c / record.total for c in (accumulate(counts, max) if pruned else counts)])
            kept = range(0, len(epochs), max(1, len(epochs) // MOST_POINTS))
            columns = [[v[i] for v in values] for i in kept]
            label = names.network(name) + (" (best so far)" if pruned else "")
            lines.append(
                charts.Line(
                    label, [epochs[i] for i in kept], list(map(fmean, columns)), list(map(min, columns)), list(map(max, columns))
                )
            )
        if any(len(line.epochs) > 1 for line in lines):
            drawn.append((f"{suite}, {names.track(track)}", charts.curves(lines)))
    return drawn


def _about(entry: Submission, has_set: bool) -> dict[str, Any]:
    """What the page of one set shows beside its rows and its runs."""
    records = cells(entry)
    environments: Counter[str] = Counter()
    for environment, times in Counter(tuple(sorted(r.environment.items())) for r in records).items():
        environments["\n".join(f"{plain(k, 60)}: {plain(v, 200)}" for k, v in environment)] += times
    card = entry.card
    return {
        "slug": entry.slug,
        "title": plain(card.title, 120) or entry.slug,
        "tier": entry.tier,
        "tier_note": TIERS[entry.tier],
        "badge_name": exports.badge_name,
        "badge_markdown": exports.badge_markdown,
        "summary": records[0].synthetic_set,
        "sets": summaries(entry),
        "decoder_bytes": card.decoder_bytes,
        "gpu_hours": card.gpu_hours,
        "method": plain(card.method, 80),
        "authors": [plain(a, 80) for a in card.authors[:100]],
        "submitter": plain(entry.owner, 80),
        "submitted": entry.audit[0].when[:10],
        "changed": entry.audit[-1].when[:10],
        "paper": web_address(card.paper),
        "code": web_address(card.code),
        "made_by": plain(card.command, 400),
        "note": plain(card.note, 2000),
        "licence": plain(card.licence),
        "sources": [plain(s, 60) for s in card.source_networks],
        "environments": sorted(environments.items()),
        "audit": entry.audit,
        "confirmed": sum(name in entry.confirming for name in entry.records),
        "commands": exports.commands(entry),
        "bibtex": exports.bibtex(entry),
        "own_bibtex": bool(card.bibtex.strip()),
        "has_set": has_set,
    }
