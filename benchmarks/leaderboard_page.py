"""How fast the board is with many rows: python benchmarks/leaderboard_page.py [ROWS] (needs Chromium and Playwright)

Builds a board of generated records on `cifar10-lite`, opens it from a file five times, and types eight searches. First
render: from the start of the navigation until the table is there. Filter: from the key until the frame with the new rows.
Prints JSON. Aims: 1,500 ms and 150 ms with 2,000 rows on two idle cores; on a busy machine it measures the others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from mabench import leaderboard, submissions, suites
from mabench.schema import Card, Cell, RunRecord, SetSummary, digest

TYPE = """async (text) => {
  const search = document.getElementById("search"), count = document.getElementById("count"), before = count.textContent;
  search.value = text;
  const start = performance.now();
  search.dispatchEvent(new Event("input"));
  while (count.textContent === before) await new Promise((next) => requestAnimationFrame(next));
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  return performance.now() - start;
}"""


def generate(folder: Path, rows: int) -> None:
    """`rows` submissions with every cell of the scratch track; qualities from a fixed seed."""
    exam, chance = suites.load("cifar10-lite"), random.Random(0)
    for index in range(rows):
        records = {}
        sha, quality = digest(index), chance.gauss(0.3, 0.04)
        summary = SetSummary(
            sha256=sha, name="generated", dataset="cifar10", ipc=10, stored_images=100, decoded_images=100,
            image_shape=(3, 32, 32), image_dtype="uint8", decode="none", labels="hard", stored_bytes=307_200 * chance.choice((1, 2, 4)),
        )  # fmt: skip
        for evaluator in exam.evaluators["scratch"]:
            for seed in exam.suite.seeds:
                hits = round(10_000 * min(0.9, max(0.1, quality + chance.gauss(0, 0.01))))
                record = RunRecord(
                    cell=Cell(
                        set_sha256=sha, suite=exam.id, suite_digest=exam.digest, track="scratch", evaluator=evaluator,
                        recipe=exam.recipes["scratch"], seed=seed,
                    ),
                    synthetic_set=summary, test_sha256="1" * 64, total=10_000,
                    curve=tuple((25 * (i + 1), hits * (i + 1) // 4) for i in range(4)),
                    environment={}, seconds=1.0, started="2026-01-01T00:00:00+00:00",
                )  # fmt: skip
                records[submissions.record_name(record)] = submissions.record_bytes(record)
        entry = submissions.make_entry(
            who="A. Generator", action="submitted", tier="self-run", why="generated", set_sha256=sha,
            records={name: submissions.sha256(content) for name, content in records.items()},
        )  # fmt: skip
        card = Card(title=f"Generated {index}", authors=(f"Author {index % 97}",))
        files = {f"{submissions.RECORDS}{name}.json": content for name, content in records.items()}
        files |= {submissions.CARD: card.toml().encode(), submissions.AUDIT: submissions.appended((), entry)}
        submissions.write(folder / f"generated-{index:05d}", files)


def main(rows: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        generate(root / "submissions", rows)
        start = time.perf_counter()
        leaderboard.build(root / "submissions", root / "out")
        built = time.perf_counter() - start
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            renders, filters = [], []
            for _ in range(5):
                page.goto("about:blank")
                page.goto((root / "out" / "index.html").as_uri())
                page.wait_for_selector("body[data-ready]")
                renders.append(page.evaluate("performance.now()"))
            page.wait_for_timeout(3000)
            for text in ("generated 1", "7", "", "author 5", "nobody", "author", "42", ""):
                filters.append(page.evaluate(TYPE, text))
                page.wait_for_timeout(1000)
            browser.close()
    print(
        json.dumps(
            {
                "rows": rows,
                "build_seconds": round(built, 2),
                "first_render_ms": [round(x) for x in renders],
                "first_render_ms_median": round(median(renders)),
                "filter_ms": [round(x) for x in filters],
                "filter_ms_median": round(median(filters)),
                "load_average": os.getloadavg()[0],
                "cores": os.cpu_count(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
