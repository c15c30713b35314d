"""Submissions -> the static folder of a board. Opens from a file, asks nothing of the network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from mabench import suites as released
from mabench.board import stored
from mabench.board.acceptance import named
from mabench.board.owners import BoardFileError
from mabench.board.site import folder, nearest, pictures, render
from mabench.board.site.answers import Trust
from mabench.board.site.content import Board, Site
from mabench.board.site.placing import placed
from mabench.board.site.setpage import Sheet, read
from mabench.board.site.standings import Standing, of_paper
from mabench.board.submission import SET, folders
from mabench.errors import MabenchError
from mabench.results import paper_tables as papers
from mabench.results import works

MANY = 500  # ours: submissions from which helpers pay: each takes a second to start, 500 submissions take two or more
MAX_PROCESSES = 8  # ours: beyond that the one process that writes is what takes time
DRAWN = ("strip.webp", "preview.png", "pixels.png")
PICTURES = (*DRAWN, nearest.PICTURE, nearest.FACTS)


def build(
    submissions: Path,
    out: Path,
    methods: Path | None = None,
    left_out: Callable[[str], None] | None = None,
    *,
    site: Site | None = None,
    suites: Sequence[str] = (),
) -> list[Standing]:
    """Write the board of the folder `submissions` (and of the papers' tables in `methods/*/paper.toml`) to `out`.

    `suites` limits the board to these suites. Files of an earlier build that are no longer part of the board are removed; other
    files of `out` are left alone. Returns the rows. A submission that cannot be read or that a gate refuses is left out,
    and `left_out` hears its name and why; without `left_out` it is a MabenchError, before anything is written.
    """
    if not submissions.is_dir():
        raise MabenchError(f"{submissions}: no such folder. Name the folder of submissions with --submissions.")
    wanted = tuple(released.load(name).id for name in suites)
    known = folder.earlier(out)
    sheets: list[Sheet] = []
    drawn: dict[str, dict[str, bytes]] = {}
    for found in _sheets(submissions):
        try:
            if not isinstance(found, Sheet):
                raise MabenchError(found)
            sheet = _limited(found, wanted) if wanted else found
            if not sheet.rows:
                continue
            with named(sheet.slug):
                here = _pictures(sheet, submissions / sheet.slug, out / "sets" / sheet.slug, known)
            drawn |= {sheet.slug: here} if here is not None else {}
            sheets.append(sheet)
        except MabenchError as error:
            if left_out is None:
                raise
            left_out(str(error))
    reported = [] if methods is None else papers.read(methods)
    reported = [(k, t) for k, t in reported if not wanted or released.load(t.suite).id in wanted]
    rows = placed([*(r for s in sheets for r in s.rows), *(r for key, table in reported for r in of_paper(key, table))])
    newest = max((s.about["audit"][-1].when[:10] for s in sheets), default="")
    trust = Trust(len(sheets), sum(len(s.runs) for s in sheets), sum(s.rerun for s in sheets), newest)
    board = Board(
        site=replace(site or Site(), trust=trust),
        sheets=sheets,
        rows=rows,
        pictures=drawn,
        reported=reported,
        works=[] if methods is None else works.read(methods),
        suite_ids=wanted or tuple(released.released()),
    )
    folder.write(out, render.files(board), known, {s.slug: s.set_sha256 for s in sheets if s.slug in drawn})
    return rows


def _limited(sheet: Sheet, wanted: Sequence[str]) -> Sheet:
    """The sheet with the results of these suites only."""
    rows = [row for row in sheet.rows if row.suite in wanted]
    return replace(sheet, rows=rows, runs=[run for run in sheet.runs if run.suite in wanted])


def _sheet(place: Path) -> Sheet | str | None:
    """Read one submission; None for an unfinished one, the reason for one that cannot be shown."""
    try:
        with named(place.name):
            return read(place)
    except BoardFileError:
        raise
    except MabenchError as error:
        return str(error)


def _sheets(submissions: Path) -> list[Sheet | str]:
    """Every finished submission, by slug, or why it cannot be shown; many are read by as many processes as there are processors."""
    places, processes = folders(submissions), min(os.cpu_count() or 1, MAX_PROCESSES)
    if len(places) < MANY or processes < 2:
        return [sheet for sheet in map(_sheet, places) if sheet is not None]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return [sheet for sheet in pool.map(_sheet, places, chunksize=16) if sheet is not None]


def _pictures(sheet: Sheet, own: Path, place: Path, known: folder.Earlier) -> dict[str, bytes] | None:
    """Pictures of the set in the folder `own`: those of an earlier build in `place` if they are intact and of this set, else drawn;
    None where the set is kept elsewhere. Raises MabenchError for a file that is not the set that was submitted and described."""
    path = own / SET
    if not path.exists():
        return None
    found: dict[str, bytes] = {}
    if known.pictures.get(sheet.slug) == sheet.set_sha256:
        kept = {name: (place / name).read_bytes() for name in PICTURES if (place / name).is_file()}
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in kept.items()}
        listed = {
            name: known.files[f"sets/{sheet.slug}/{name}"] for name in PICTURES if f"sets/{sheet.slug}/{name}" in known.files
        }
        found = kept if sums == listed and set(DRAWN) <= set(kept) else {}
    if not found:
        stored.check(own, sheet.about["sets"])
        found = pictures.draw(path, sheet.set_sha256).files()
    if nearest.lacks_data(found.get(nearest.FACTS)):
        found |= nearest.files(path, sheet.set_sha256, sheet.about["summary"].decode)
    return found
