"""Standings -> the static folder: a page for the board, a page a set, data files, bundled libraries. Opens from a file, asks no network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import mabench
from mabench.papers import paper_tables as papers
from mabench.results import scoring
from mabench.files import read_bytes, write_bytes
from mabench.board import cells as table
from mabench.board.cells import CellRow
from mabench.board.site import exports
from mabench.board.site.columns import COLUMNS, EVALUATOR_NOTE
from mabench.board.site.sources import TIERS, cells, exam, plain, read_submission, web_address
from mabench.board.site.standings import Standing, differences, of_paper, placed, submitted
from mabench.results.tables import percent
from mabench.errors import MabenchError
from mabench.board.submission import SET, Submission, folders

MANIFEST = "manifest.json"
MANY = 500  # ours: submissions from which helpers pay: each takes a second to start, 500 submissions take two or more
MAX_PROCESSES = 8  # ours: beyond that the one process that writes is what takes time
MAX_MANIFEST_BYTES = 2**28  # ours: 100,000 submissions with six files each take 60 MB
LIBRARIES = ("tabulator.min.js", "tabulator.min.css", "vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
OWN = ("board.js", "charts.js", "page.js", "board.css")
LICENCES = ("LICENSE-tabulator.txt", "LICENSE-vega.txt", "LICENSE-vega-lite.txt", "LICENSE-vega-embed.txt")


def build(
    submissions: Path, out: Path, methods: Path | None = None, left_out: Callable[[str], None] | None = None
) -> list[Standing]:
    """Write the board of the folder `submissions` (and of the papers' tables in `methods/*/paper.toml`) to `out`.

    Files of an earlier build that are no longer part of the board are removed; other files of `out` are left alone.
    Returns the rows. A submission that cannot be read or that a gate refuses is left out, and `left_out` hears its name and why;
    without `left_out` it is a MabenchError, before anything is written.
    """
    if not submissions.is_dir():
        raise MabenchError(f"{submissions}: no such folder. Name the folder of submissions with --submissions.")
    known = _manifest(out)
    sheets, previews = [], {}
    for sheet in _sheets(submissions):
        try:
            if not isinstance(sheet, _Sheet):
                raise MabenchError(sheet)
            place = out / "sets" / sheet.slug / "preview.png"
            if (picture := _preview(sheet, submissions / sheet.slug / SET, place, known)) is not None:
                previews[sheet.slug] = picture
            sheets.append(sheet)
        except MabenchError as error:
            if left_out is None:
                raise
            left_out(str(error))
    reported = [] if methods is None else papers.read(methods)
    rows = placed(
        [*(row for sheet in sheets for row in sheet.rows), *(row for key, printed in reported for row in of_paper(key, printed))]
    )
    shas = {sheet.slug: sheet.set_sha256 for sheet in sheets if sheet.slug in previews}
    _write(out, _files(sheets, rows, previews), known, shas)
    return rows


@dataclass(frozen=True)
class _Sheet:
    """What is kept of one submission once its records are read: little, for a board holds 100,000 of them."""

    slug: str
    set_sha256: str
    rows: list[Standing]
    """Without their places, which take all submissions."""
    runs: list[CellRow]
    curves: bytes
    """The script of the curves, packed by zlib."""
    about: dict[str, Any]


def _sheet(folder: Path) -> _Sheet | str | None:
    """Read one submission; None for an unfinished one, the reason for one that cannot be shown."""
    try:
        entry = read_submission(folder)
    except MabenchError as error:
        return str(error)
    if entry is None:
        return None
    curves, about = zlib.compress(_curves(entry), 1), _about(entry, (folder / SET).exists())
    return _Sheet(entry.slug, entry.set_sha256, submitted(entry), table.of_submissions([entry]), curves, about)


def _sheets(submissions: Path) -> list[_Sheet | str]:
    """Every finished submission, by slug, or why it cannot be shown; where there are many, read by as many processes as there are processors."""
    places, processes = folders(submissions), min(os.cpu_count() or 1, MAX_PROCESSES)
    if len(places) < MANY or processes < 2:
        return [sheet for sheet in map(_sheet, places) if sheet is not None]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [sheet for sheet in pool.map(_sheet, places, chunksize=16) if sheet is not None]


def _files(sheets: list[_Sheet], rows: list[Standing], previews: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file of the board, one at a time, the sets' before those that lead to them."""
    templates = Environment(loader=PackageLoader("mabench.board.site", "templates"), autoescape=True, undefined=StrictUndefined)
    templates.filters.update(percent=percent, plain=plain)
    by_slug: dict[str, list[Standing]] = defaultdict(list)
    for row in rows:
        by_slug[row.key].append(row)
    page = templates.get_template("set.html.j2")
    for sheet in sheets:
        folder, mine = f"sets/{sheet.slug}", by_slug[sheet.slug]
        if sheet.slug in previews:
            yield f"{folder}/preview.png", previews[sheet.slug]
        for row in mine:
            yield f"{folder}/{exports.badge_name(row)}", exports.badge(row).encode()
        yield f"{folder}/curves.js", zlib.decompress(sheet.curves)
        yield f"{folder}/index.html", page.render(sheet.about, rows=mine, runs=sheet.runs).encode()
    yield from _data_files([run for sheet in sheets for run in sheet.runs], rows)
    yield "index.html", templates.get_template("index.html.j2").render(columns=COLUMNS, tiers=TIERS, rows=rows).encode()


def _data_files(runs: list[CellRow], rows: list[Standing]) -> Iterator[tuple[str, bytes]]:
    """What the pages read and what readers download."""
    board = {
        "mabench": mabench.__version__,
        "suites": {row.suite: _suite(row.suite) for row in rows},
        "tiers": TIERS,
        "columns": [asdict(column) for column in COLUMNS],
        "evaluator_note": EVALUATOR_NOTE,
        "t95": [scoring.t_quantile(runs) for runs in range(31)],
        "rows": [exports.record_of(row) for row in rows],
        "differences": differences(rows),
    }
    folder = resources.files("mabench.board.site").joinpath("templates")
    yield from ((f"assets/{name}", folder.joinpath(name).read_bytes()) for name in OWN)
    yield from ((f"assets/{name}", folder.joinpath("vendor", name).read_bytes()) for name in LIBRARIES + LICENCES)
    yield "data.js", f"window.BOARD={exports.json_text(board)};\n".encode()
    yield "leaderboard.json", exports.json_lines(board).encode()
    del board
    yield "leaderboard.md", exports.markdown(rows).encode()
    frame = exports.board_frame(rows)
    yield "leaderboard.csv", frame.to_csv(index=False, lineterminator="\n").encode()
    yield "leaderboard.parquet", exports.parquet(frame)
    runs = sorted(runs, key=table.order)
    yield "cells.csv", exports.cells_csv(runs)
    yield table.CELLS, table.parquet(runs, CellRow)


@cache
def _suite(name: str) -> dict[str, Any]:
    chosen = exam(name)
    return {
        "title": chosen.suite.title,
        "measures": chosen.suite.measures,
        "dataset": chosen.suite.dataset,
        "std": chosen.suite.std,
        "seeds": list(chosen.suite.seeds),
        "digest": chosen.digest,
        "track_order": list(chosen.evaluators),
        "tracks": {
            track: {
                "evaluators": [{"name": e.name, "family": e.family, "architecture": e.architecture} for e in entries],
                "epochs": chosen.recipes[track].epochs,
                "looks_every": chosen.recipes[track].test_every,
                "score": chosen.recipes[track].score,
            }
            for track, entries in chosen.evaluators.items()
        },
    }


@lru_cache(2**17)
def _fraction(correct: int, total: int) -> float:
    return round(correct / total, 6)


def _curves(entry: Submission) -> bytes:
    """A script with every run's test accuracy at every look; where looks were pruned, the best so far."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for record in cells(entry):
        counts = [correct for _, correct in record.curve]
        if record.upper_bounds:
            counts = list(accumulate(counts, max))
        here = found[f"{record.cell.suite}/{record.cell.track}"].setdefault(record.cell.evaluator.name, {"best_so_far": False})
        here["best_so_far"] |= bool(record.upper_bounds)
        here[str(record.cell.seed)] = [[epoch for epoch, _ in record.curve], [_fraction(c, record.total) for c in counts]]
    return f"(window.CURVES=window.CURVES||{{}})[{json.dumps(entry.slug)}]={exports.json_text(found)};\n".encode()


def _about(entry: Submission, has_preview: bool) -> dict[str, Any]:
    """What the page of one set shows beside its rows and its runs."""
    records = cells(entry)
    summary = records[0].synthetic_set
    found = Counter(tuple(sorted(record.environment.items())) for record in records)
    environments: Counter[str] = Counter()
    for environment, times in found.items():
        environments["\n".join(f"{plain(k, 60)}: {plain(v, 200)}" for k, v in environment)] += times
    card = entry.card
    return {
        "slug": entry.slug,
        "title": plain(card.title, 120) or entry.slug,
        "tier": entry.tier,
        "tier_note": TIERS[entry.tier],
        "rank_text": exports.rank_text,
        "with_std": exports.with_std,
        "badge_name": exports.badge_name,
        "summary": summary,
        "decoder_bytes": card.decoder_bytes,
        "card": [
            ("Title", plain(card.title), None),
            ("Method", plain(card.method), None),
            ("Authors", plain(", ".join(card.authors[:100])), None),
            ("Paper", plain(card.paper), web_address(card.paper)),
            ("Code", plain(card.code), web_address(card.code)),
            ("Command that made it", plain(card.command), None),
            ("What to know", plain(card.note, 2000), None),
            ("GPU hours", "" if card.gpu_hours is None else f"{card.gpu_hours:g}", None),
            ("Licence", plain(card.licence), None),
            ("Source networks", plain(", ".join(card.source_networks)), None),
        ],
        "environments": sorted(environments.items()),
        "audit": entry.audit,
        "commands": exports.commands(entry) if has_preview else [],
        "bibtex": exports.bibtex(entry),
        "has_preview": has_preview,
    }


def _preview(entry: _Sheet, path: Path, place: Path, known: dict[str, Any]) -> bytes | None:
    """The PNG of the set in `path`: the one of an earlier build in `place` if it is intact and of this set, else drawn (with
    torch); None where the set is kept elsewhere. Raises MabenchError for a file that is not the set that was submitted."""
    if not path.exists():
        return None
    name = f"sets/{entry.slug}/preview.png"
    if known["previews"].get(entry.slug) == entry.set_sha256 and place.is_file():
        content = place.read_bytes()
        if hashlib.sha256(content).hexdigest() == known["files"].get(name):
            return content
    import tempfile

    from mabench.sets import synthetic

    chosen = synthetic.load(path)
    if chosen.sha256 != entry.set_sha256:
        raise MabenchError(
            f"{path}: is {chosen.sha256[:16]}, the submission is about {entry.set_sha256[:16]}. Put back the set that was submitted."
        )
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "preview.png"
        synthetic.preview(chosen, picture)
        return picture.read_bytes()


def _manifest(out: Path) -> dict[str, Any]:
    """What an earlier build left in `out`; empty if there was none. A folder of something else is refused."""
    path = out / MANIFEST
    if not path.exists():
        if (out / "index.html").exists():
            raise MabenchError(f"{out}: holds an index.html that is not of a board. Name another folder with --out.")
        return {"files": {}, "previews": {}, "mabench": ""}
    try:
        value = json.loads(read_bytes(path, MAX_MANIFEST_BYTES, f"Delete {out} and build again."))
        files, previews = dict(value["files"]), dict(value["previews"])
        if not all(re.fullmatch(r"[a-zA-Z0-9_./@-]{1,250}", name) for name in files):
            raise ValueError("names of files that no board has")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MabenchError(
            f"{path}: is damaged ({error}). Delete it and {out / 'index.html'}, and build again; pages of sets that are gone since then stay."
        ) from error
    return {"files": files, "previews": previews if value.get("mabench") == mabench.__version__ else {}}


def _write(out: Path, files: Iterable[tuple[str, bytes]], known: dict[str, Any], previews: dict[str, str]) -> None:
    """Write what changed, then remove what an earlier build wrote and this one did not.

    A manifest comes first, and again at the end: a first build that is killed leaves a folder that is known to be a board's.
    """
    _write_manifest(out, known["files"], known["previews"])
    written = {}
    for name, content in files:
        path = out / name
        written[name] = hashlib.sha256(content).hexdigest()
        if not (path.is_file() and path.read_bytes() == content):
            write_bytes(path, content)
    root = out.resolve()
    for name in sorted(set(known["files"]) - set(written)):
        path = (out / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            path.unlink()
            if path.parent != root and not any(path.parent.iterdir()):
                path.parent.rmdir()
    _write_manifest(out, written, previews)


def _write_manifest(out: Path, sums: dict[str, str], previews: dict[str, str]) -> None:
    manifest = {"mabench": mabench.__version__, "files": sums, "previews": previews}
    write_bytes(out / MANIFEST, (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode())
