"""Standings -> the static folder: a page for the board, a page a set, data files, bundled libraries. Opens from a file, asks no network."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import asdict
from functools import cache
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import mabench
from mabench import papers, scoring
from mabench.files import read_bytes, write_bytes
from mabench.leaderboard import exports
from mabench.leaderboard.columns import COLUMNS, EVALUATOR_NOTE
from mabench.leaderboard.sources import TIERS, cells, exam, plain, read_submissions, web_address
from mabench.leaderboard.standings import Standing, standings
from mabench.report import percent
from mabench.schema import MabenchError
from mabench.submissions import SET, Submission

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**28  # ours: 100,000 submissions with six files each take 60 MB
LIBRARIES = ("tabulator.min.js", "tabulator.min.css", "vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
OWN = ("board.js", "charts.js", "page.js", "board.css")
LICENCES = ("LICENSE-tabulator.txt", "LICENSE-vega.txt", "LICENSE-vega-lite.txt", "LICENSE-vega-embed.txt")


def build(submissions: Path, out: Path, methods: Path | None = None) -> list[Standing]:
    """Write the board of the folder `submissions` (and of the papers' tables in `methods/*/paper.toml`) to `out`.

    Files of an earlier build that are no longer part of the board are removed; other files of `out` are left alone.
    Returns the rows. Raises MabenchError, before anything is written, for a submission that cannot be read.
    """
    entries = read_submissions(submissions)
    rows = standings(entries, [] if methods is None else papers.read(methods))
    known = _manifest(out)
    files = _data_files(entries, rows)
    templates = Environment(loader=PackageLoader("mabench.leaderboard", "templates"), autoescape=True, undefined=StrictUndefined)
    templates.filters.update(percent=percent, plain=plain)
    files["index.html"] = templates.get_template("index.html.j2").render(columns=COLUMNS, tiers=TIERS, rows=rows).encode()
    by_slug: dict[str, list[Standing]] = defaultdict(list)
    for row in rows:
        by_slug[row.key].append(row)
    page = templates.get_template("set.html.j2")
    previews = {}
    for entry in entries:
        folder = f"sets/{entry.slug}"
        preview = _preview(entry, submissions / entry.slug / SET, out / folder / "preview.png", known)
        if preview is not None:
            files[f"{folder}/preview.png"] = preview
            previews[entry.slug] = entry.set_sha256
        for row in by_slug[entry.slug]:
            files[f"{folder}/{exports.badge_name(row)}"] = exports.badge(row).encode()
        files[f"{folder}/curves.js"] = _curves(entry)
        files[f"{folder}/index.html"] = page.render(_about(entry, by_slug[entry.slug], preview is not None)).encode()
    _write(out, files, known, previews)
    return rows


def _data_files(entries: list[Submission], rows: list[Standing]) -> dict[str, bytes]:
    """What the pages read and what readers download."""
    board = {
        "mabench": mabench.__version__,
        "suites": {row.suite: _suite(row.suite) for row in rows},
        "tiers": TIERS,
        "columns": [asdict(column) for column in COLUMNS],
        "evaluator_note": EVALUATOR_NOTE,
        "t95": [scoring.t_quantile(runs) for runs in range(31)],
        "rows": [exports.record_of(row) for row in rows],
    }
    board_frame, cells_frame = exports.board_frame(rows), exports.cells_frame(entries)
    files = {
        "data.js": f"window.BOARD={exports.json_text(board)};\n".encode(),
        "leaderboard.md": exports.markdown(rows).encode(),
        "leaderboard.json": (json.dumps(board, sort_keys=True, indent=1, allow_nan=False) + "\n").encode(),
        "leaderboard.csv": board_frame.to_csv(index=False, lineterminator="\n").encode(),
        "leaderboard.parquet": exports.parquet(board_frame),
        "cells.csv": cells_frame.to_csv(index=False, lineterminator="\n").encode(),
        "cells.parquet": exports.parquet(cells_frame),
    }
    folder = resources.files("mabench.leaderboard").joinpath("templates")
    files |= {f"assets/{name}": folder.joinpath(name).read_bytes() for name in OWN}
    files |= {f"assets/{name}": folder.joinpath("vendor", name).read_bytes() for name in LIBRARIES + LICENCES}
    return files


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


def _curves(entry: Submission) -> bytes:
    """A script with every run's test accuracy at every look; where looks were pruned, the best so far."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for record in cells(entry):
        counts = [correct for _, correct in record.curve]
        if record.upper_bounds:
            counts = list(accumulate(counts, max))
        here = found[f"{record.cell.suite}/{record.cell.track}"].setdefault(record.cell.evaluator.name, {"best_so_far": False})
        here["best_so_far"] |= bool(record.upper_bounds)
        here[str(record.cell.seed)] = [[epoch for epoch, _ in record.curve], [round(c / record.total, 6) for c in counts]]
    return f"(window.CURVES=window.CURVES||{{}})[{json.dumps(entry.slug)}]={exports.json_text(found)};\n".encode()


def _about(entry: Submission, rows: list[Standing], has_preview: bool) -> dict[str, Any]:
    """What the page of one set shows."""
    records = cells(entry)
    summary = records[0].synthetic_set
    environments: dict[str, list[str]] = defaultdict(list)
    for record in records:
        text = "\n".join(f"{plain(k, 60)}: {plain(v, 200)}" for k, v in sorted(record.environment.items()))
        environments[text].append(record.cell.name)
    card = entry.card
    return {
        "slug": entry.slug,
        "title": plain(card.title, 120) or entry.slug,
        "tier": entry.tier,
        "tier_note": TIERS[entry.tier],
        "rows": rows,
        "rank_text": exports.rank_text,
        "with_std": exports.with_std,
        "badge_name": exports.badge_name,
        "suites": {row.suite: exam(row.suite).suite for row in rows},
        "summary": summary,
        "decoder_bytes": card.decoder_bytes,
        "card": [
            ("Title", plain(card.title), None),
            ("Method", plain(card.method), None),
            ("Authors", plain(", ".join(card.authors[:100])), None),
            ("Paper", plain(card.paper), web_address(card.paper)),
            ("Code", plain(card.code), web_address(card.code)),
            ("Command that made it", plain(card.command), None),
            ("Licence", plain(card.licence), None),
            ("Source networks", plain(", ".join(card.source_networks)), None),
        ],
        "records": records,
        "environments": sorted(environments.items()),
        "audit": entry.audit,
        "commands": exports.commands(entry) if has_preview else [],
        "bibtex": exports.bibtex(entry),
        "has_preview": has_preview,
    }


def _preview(entry: Submission, path: Path, place: Path, known: dict[str, Any]) -> bytes | None:
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

    from mabench import synthetic

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
        raise MabenchError(f"{path}: is damaged ({error}). Delete {out} and build again.") from error
    return {"files": files, "previews": previews if value.get("mabench") == mabench.__version__ else {}}


def _write(out: Path, files: dict[str, bytes], known: dict[str, Any], previews: dict[str, str]) -> None:
    """Write what changed, then remove what an earlier build wrote and this one did not."""
    for name, content in sorted(files.items()):
        path = out / name
        if not (path.is_file() and path.read_bytes() == content):
            write_bytes(path, content)
    root = out.resolve()
    for name in sorted(set(known["files"]) - set(files)):
        path = (out / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            path.unlink()
            if path.parent != root and not any(path.parent.iterdir()):
                path.parent.rmdir()
    manifest = {
        "mabench": mabench.__version__,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "previews": previews,
    }
    write_bytes(out / MANIFEST, (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode())
