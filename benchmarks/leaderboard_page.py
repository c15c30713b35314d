"""How large a board may grow: python benchmarks/leaderboard_page.py [RECORDS] [--suite NAME] [--keep FOLDER] (needs Chromium and Playwright)

Generates submissions with every cell of a suite until there are RECORDS of them, runs `mabench leaderboard build` on them in a
process of its own, twice (the second must give the same bytes), opens the board from a file, sorts it three times and types eight searches.
`build_seconds`: the whole command. `peak_MiB`: resident memory of the command, and of it with its helpers, shared pages counted
once. First render: from the start of the navigation until the table is there. Filter: from the key until the frame with the new
rows. Prints JSON.

    python benchmarks/leaderboard_page.py --real submissions              # the board as it is
    python benchmarks/leaderboard_page.py 720                             # 40 rows: the landing page under 300 KB
    python benchmarks/leaderboard_page.py 36000                           # 2,000 rows a table: aims 1,500 ms and 150 ms
    python benchmarks/leaderboard_page.py 100000                          # aims: 60 s, 2,048 MiB, 200 ms
    python benchmarks/leaderboard_page.py 100000 --suite cifar10-agnostic # fewer rows, records of 200 test passes

Aims are for two idle cores; on a busy machine it measures the others too. The sets themselves are not there, as on a board whose
sets are kept on the Hub: no previews are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import sync_playwright

from mabench import suites
from mabench.board import audit_log
from mabench.board import submission as submissions
from mabench.data import DATASETS
from mabench.digests import digest, sha256
from mabench.files import sha256_of
from mabench.schema import Card, Cell, RunRecord, SetSummary

TYPE = """async (text) => {
  const search = document.getElementById("search");
  search.value = text;
  const start = performance.now();
  search.dispatchEvent(new Event("input"));
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  return performance.now() - start;
}"""
SORT = """async (column) => {
  const start = performance.now();
  document.querySelector(`th.${column} button`).click();
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  return performance.now() - start;
}"""
WATCH = """window.moved = 0;
new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.moved += entry.value; })
  .observe({type: "layout-shift", buffered: true});"""
SEARCHES = ("generated 1", "7", "", "author 5", "nobody", "author", "42", "")
TEST_IMAGES = 10_000


def generate(folder: Path, suite: str, records: int) -> tuple[int, int]:
    """Submissions with every cell of the suite until there are `records`; qualities from a fixed seed. (submissions, records)."""
    loaded_suite, chance, made, index = suites.load(suite), random.Random(0), 0, 0
    split, listed = DATASETS[loaded_suite.suite.dataset].digests["test"], []
    while made < records:
        files, sha, quality = {}, digest(index), chance.gauss(0.3, 0.04)
        summary = SetSummary(
            sha256=sha, name="generated", dataset=loaded_suite.suite.dataset, ipc=10, stored_images=100, decoded_images=100,
            image_shape=(3, 32, 32), image_dtype="uint8", decode="none", labels="hard", stored_bytes=307_200 * chance.choice((1, 2, 4)),
        )  # fmt: skip
        for track, evaluators in loaded_suite.evaluators.items():
            recipe = loaded_suite.recipes[track]
            epochs = recipe.test_epochs
            for evaluator in evaluators:
                for seed in loaded_suite.suite.seeds:
                    top = TEST_IMAGES * min(0.9, max(0.1, quality + chance.gauss(0, 0.01)))
                    hits = [round(top * (1 - 0.8 * 0.9**step) * chance.uniform(0.99, 1)) for step in range(len(epochs))]
                    record = RunRecord(
                        cell=Cell(
                            set_sha256=sha, suite=loaded_suite.id, suite_digest=loaded_suite.digest, track=track, evaluator=evaluator,
                            recipe=recipe, seed=seed, seed_streams=loaded_suite.suite.seed_streams,
                        ),
                        synthetic_set=summary, test_sha256=split, total=TEST_IMAGES,
                        curve=tuple(zip(epochs, hits, strict=True)),
                        train_loss=tuple((epoch, chance.uniform(0.001, 2.3)) for epoch in epochs),
                        environment={"mabench": "0.1.0", "torch": "2.15.0", "device": "cpu", "threads": "2", "arithmetic": "float32"},
                        seconds=chance.uniform(10, 4000), started="2026-01-01T00:00:00+00:00",
                        initial_weights_sha256="1" * 64, first_losses=(2.3,) * 10,
                    )  # fmt: skip
                    files[submissions.record_name(record)] = submissions.record_bytes(record)
        card = Card(title=f"Generated {index}", authors=(f"Author {index % 97}",), licence="CC0-1.0").toml().encode()
        entry = audit_log.make_entry(
            who="A. Generator", action="submitted", why="generated", set_sha256=sha, card_sha256=sha256(card),
            records={name: sha256(content) for name, content in files.items()},
        )  # fmt: skip
        place = folder / f"generated-{index:06d}"
        (place / submissions.RECORDS).mkdir(parents=True)
        for name, content in files.items():
            (place / submissions.RECORDS / f"{name}.json").write_bytes(content)
        (place / submissions.CARD).write_bytes(card)
        listed.append(f'{place.name} = "{sha}"')
        (place / submissions.AUDIT).write_bytes(audit_log.appended((), entry))
        made, index = made + len(files), index + 1
    (folder / submissions.BOARD).write_text("\n".join(["[external]", *listed]) + "\n")
    return index, made


def build(folder: Path, out: Path) -> dict[str, Any]:
    """Run the command; seconds and the most memory that it held, sampled ten times a second."""
    command = [sys.executable, "-m", "mabench.cli.main", "leaderboard", "build", "--submissions", str(folder), "--out", str(out)]
    start = time.perf_counter()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    alone = together = 0
    while running.poll() is None:
        sizes = [_proportional(pid) for pid in _family(running.pid)]
        alone, together = max(alone, sizes[0] if sizes else 0), max(together, sum(sizes))
        time.sleep(0.1)
    if running.returncode:
        raise SystemExit("the build failed")
    return {
        "build_seconds": round(time.perf_counter() - start, 1),
        "peak_MiB": round(alone / 2**20),
        "peak_with_helpers_MiB": round(together / 2**20),
    }


def _family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*"):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:  # it has just ended
                pass
    return found


def _proportional(pid: int) -> int:
    """Resident bytes, pages shared by n processes counted as 1/n."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def weight(out: Path) -> dict[str, Any]:
    """Bytes of what is read to open the landing page, its pictures with it, and of the whole board."""
    names = {"assets/board.css", "assets/board.js", "assets/icon.svg"}
    names |= set(re.findall(r'src="((?:sets|assets)/[^"]+)"', (out / "index.html").read_text()))
    opened = [out / "index.html", *(out / name for name in names)]
    files = [path for path in out.rglob("*") if path.is_file()]
    return {
        "files": len(files),
        "board_bytes": sum(path.stat().st_size for path in files),
        "page_bytes": sum(path.stat().st_size for path in opened),
        "index_bytes": (out / "index.html").stat().st_size,
        "search_bytes": (out / "assets" / "index.js").stat().st_size,
    }


def contents(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256_of(p) for p in out.rglob("*") if p.is_file()}


def use(out: Path, suite: str) -> dict[str, Any]:
    """Open the suite's page, which has every row, five times, then search."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        renders, filters = [], []
        for _ in range(5):
            page.goto("about:blank")
            page.goto((out / "suites" / f"{suites.load(suite).id}" / "index.html").as_uri())
            page.wait_for_selector("body[data-ready]")
            renders.append(page.evaluate("performance.now()"))
        page.wait_for_timeout(3000)
        sorts = {column: round(page.evaluate(SORT, column)) for column in ("c-set", "c-score", "c-set")}
        for text in SEARCHES:
            filters.append(page.evaluate(TYPE, text))
            page.wait_for_timeout(1000)
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        shown = page.locator("table.board tbody tr:visible").count()
        painted = {name: paint(browser, out / name) for name in ("index.html", f"suites/{suites.load(suite).id}/index.html")}
        browser.close()
    return {
        "paint": painted,
        "sort_ms": sorts,
        "first_render_ms": [round(x) for x in renders],
        "first_render_ms_median": round(median(renders)),
        "filter_ms": {f"{i + 1}: {text!r}": round(x) for i, (text, x) in enumerate(zip(SEARCHES, filters, strict=True))},
        "filter_ms_median": round(median(filters)),
        "filter_ms_worst": round(max(filters)),
        "page_heap_MiB": round(heap / 2**20),
        "rows": shown,
    }


def paint(browser: Any, page: Path) -> dict[str, Any]:
    """First contentful paint, least, median and most of five, and the layout shift summed over a second, the most of five."""
    paints, shifts = [], []
    for _ in range(5):
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.add_init_script(WATCH)
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-ready]")
        tab.wait_for_timeout(1000)
        paints.append(tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        shifts.append(tab.evaluate("window.moved"))
        tab.close()
    return {
        "first_contentful_paint_ms": [round(x) for x in (min(paints), median(paints), max(paints))],
        "layout_shift": round(max(shifts), 4),
    }


def main(suite: str, records: int, keep: Path | None, real: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = keep or Path(scratch)
        if real is not None:
            shutil.copytree(real, root / "submissions")
        if not (root / "submissions").exists():
            generate(root / "submissions", suite, records)
        number = sum(1 for path in (root / "submissions").iterdir() if path.is_dir())
        found = sum(1 for path in (root / "submissions").glob("*/records/*.json"))
        load = os.getloadavg()[0]
        for place in ("out", "again"):
            shutil.rmtree(root / place, ignore_errors=True)
        first, second = build(root / "submissions", root / "out"), build(root / "submissions", root / "again")
        same = contents(root / "out") == contents(root / "again")
        onto = build(root / "submissions", root / "out")
        result = {
            "suite": suite,
            "submissions": number,
            "records": found,
            **first,
            "second_build_seconds": second["build_seconds"],
        }
        result |= {
            "same_bytes": same,
            "build_again_onto_it_seconds": onto["build_seconds"],
            **weight(root / "out"),
            **use(root / "out", suite),
        }
        print(
            json.dumps(
                result | {"load_average_before": round(load, 1), "cores": os.cpu_count(), "python": sys.version.split()[0]},
                indent=1,
            )
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="?", type=int, default=18_000)
    parser.add_argument("--suite", default="cifar10-lite")
    parser.add_argument(
        "--keep", type=Path, help="generate and build here, and leave it there; records that are there already are used"
    )
    parser.add_argument("--real", type=Path, help="these submissions instead of generated ones")
    chosen = parser.parse_args()
    main(chosen.suite, chosen.records, chosen.keep, chosen.real)
