"""Standings and runs -> the data files of the board: CSV, JSON and parquet. Same input, same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas

import mabench
from mabench.board import cells as table
from mabench.board.cells import CellRow
from mabench.board.site import exports
from mabench.board.site.placing import differences
from mabench.board.site.sources import TIERS, loaded_suite, plain
from mabench.board.site.standings import Standing


def suite_facts(name: str) -> dict[str, Any]:
    """The suite as the data files describe it."""
    chosen = loaded_suite(name)
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
                "test_every": chosen.recipes[track].test_every,
                "score": chosen.recipes[track].score,
            }
            for track, entries in chosen.evaluators.items()
        },
    }


def downloads(rows: Sequence[Standing], runs: Sequence[CellRow]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the data files: the whole board, and one file for each suite."""
    by_suite: dict[str, list[Standing]] = {}
    for row in rows:
        by_suite.setdefault(row.suite, []).append(row)
    for suite, here in sorted(by_suite.items()):
        facts = {
            "mabench": mabench.__version__,
            "suites": {suite: suite_facts(suite)},
            "rows": list(map(record_of, here)),
            "differences": differences(here),
        }
        yield f"data/{suite}.json", json_lines(facts).encode()
    whole = {
        "mabench": mabench.__version__,
        "suites": {suite: suite_facts(suite) for suite in sorted(by_suite)},
        "tiers": TIERS,
        "rows": list(map(record_of, rows)),
    }
    yield "leaderboard.json", json_lines(whole).encode()
    yield "leaderboard.md", exports.markdown(rows).encode()
    frame = board_frame(rows)
    yield "leaderboard.csv", frame.to_csv(index=False, lineterminator="\n").encode()
    yield "leaderboard.parquet", parquet(frame)
    runs = sorted(runs, key=table.order)
    yield "cells.csv", cells_csv(runs)
    yield table.CELLS, table.parquet(runs, CellRow)


def record_of(row: Standing) -> dict[str, Any]:
    """A row as plain values, derived ones included; accuracies are fractions."""
    value = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("network_results", "baselines", "elsewhere")}
    panel = {kind: None if images is None else images.mean(loaded_suite(row.suite), row.track) for kind, images in row.baselines}
    value |= {"random_alike": panel.get("packed alike"), "random_same_bytes": panel.get("same bytes")}
    value |= {
        "sets": list(row.sets),
        "sources": list(row.sources),
        "families": dict(row.families),
        "lift": row.lift,
        "gap": row.gap,
        "bytes": row.bytes,
    }
    value["status"] = row.why_unranked or "ranked"
    value["evaluators"] = {
        name: {
            "mean": s.mean,
            "std": s.std,
            "best": s.best,
            "plateau": s.plateau,
            "last": s.last,
            "runs": s.runs,
            "half_width": s.half_width,
            "diverged": s.diverged,
            "seeds": {str(seed): v for seed, v in s.seeds},
            "sets": [{str(seed): v for seed, v in seeds} for seeds in s.sets],
        }
        for name, s in row.network_results.items()
    }
    return value


def board_frame(rows: Sequence[Standing]) -> pandas.DataFrame:
    """One line per row and evaluator (tidy), the row's own values repeated; text that a spreadsheet would run is quoted."""
    flat = []
    for row in rows:
        value = record_of(row)
        evaluators = value.pop("evaluators")
        del value["families"]
        value["sets"] = len(value["sets"])
        value["sources"] = " ".join(value["sources"])
        for name, entry in evaluators.items():
            entry = {f"evaluator_{k}": v for k, v in entry.items() if k not in ("seeds", "sets")}
            flat.append({k: inert(v) for k, v in value.items()} | {"evaluator": name} | entry)
    return pandas.DataFrame(flat).convert_dtypes() if flat else pandas.DataFrame({"key": pandas.Series(dtype="string")})


def cells_csv(rows: Sequence[CellRow]) -> bytes:
    """The table of runs as CSV; text that a spreadsheet would run is quoted."""
    lines = ([inert(plain(value)) if isinstance(value, str) else value for value in row] for row in rows)
    return pandas.DataFrame(lines, columns=list(CellRow._fields)).to_csv(index=False, lineterminator="\n").encode()


def inert(value: Any) -> Any:
    """Text that a spreadsheet takes for a formula gets an apostrophe before it; anything else is itself."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") and value else value


def parquet(frame: pandas.DataFrame) -> bytes:
    """The frame as a parquet file; same frame, same bytes."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def json_lines(board: Mapping[str, Any]) -> str:
    """The board as JSON to read and to compare: a key a line, and under `rows` a row a line."""

    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True, allow_nan=False)

    lines = [
        f"{text(key)}: " + ("[\n" + ",\n".join(map(text, value)) + "\n]" if key == "rows" else text(value))
        for key, value in sorted(board.items())
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def json_text(value: Any) -> str:
    """Canonical, readable JSON, safe inside a script element too: `<` and the line separators are escaped."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
