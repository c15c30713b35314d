"""The page as a reader meets it: opened from a file in Chromium, without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import DIGITS, HOSTILE, LITE, PAPER, Command, records_of
from builders import write_submission as submit

from mabench.board import site as leaderboard
from mabench.papers import paper_tables as papers
from mabench.results import scoring

REPOSITORY = Path(__file__).parents[1]

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built board: twelve ranked rows, one incomplete, one withdrawn, one of a paper, one hostile; and a second suite."""
    root = tmp_path_factory.mktemp("board")
    for index in range(12):
        tier = "verified" if index % 3 == 0 else None
        sources = ["convnet3"] if index % 2 else ["mlp"]
        submit(
            root / "s",
            f"set-{index:02d}",
            0.3 + 0.03 * index,
            tier=tier,
            card={"source_networks": sources, "authors": [f"Author {index}"]},
        )
    submit(root / "s", "partial", 0.8, skip=("mlp-scratch", 2))
    submit(root / "s", "gone", 0.8, tier="withdrawn")
    submit(root / "s", "hostile", 0.2, card={"title": HOSTILE, "authors": [HOSTILE], "source_networks": [HOSTILE]})
    for ipc in (1, 10):
        submit(root / "s", f"lite-{ipc}", 0.2 + 0.01 * ipc, ipc=ipc, exam=LITE)
    (root / "methods" / "digits-paper").mkdir(parents=True)
    (root / "methods" / "digits-paper" / "paper.toml").write_text(PAPER)
    leaderboard.build(root / "s", root / "out", root / "methods")
    return root / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Reader:
    """One tab: remembers what it asked for and what went wrong."""

    def __init__(self, browser: Any, site: Path, *, width: int = 1300, scheme: str = "light") -> None:
        self.site = site
        self.requests: list[str] = []
        self.trouble: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
        self.page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.trouble.append(str(e)))

    def go(self, fragment: str = "", page: str = "index.html") -> Reader:
        self.page.goto("about:blank")
        self.page.goto(f"{(self.site / page).as_uri()}{fragment}")
        if page == "index.html":
            self.page.wait_for_selector("body[data-ready]")
        return self

    def methods(self) -> list[str]:
        """Names of the rows in the order shown."""
        return [text.strip() for text in self.page.locator(".tabulator-row .method").all_inner_texts()]

    def count(self) -> str:
        return str(self.page.inner_text("#count"))

    def settled(self, fragment: str) -> None:
        """Wait until the address holds `fragment`."""
        self.page.wait_for_function("part => location.hash.includes(part)", arg=fragment)


@pytest.fixture
def reader(browser: Any, site: Path) -> Iterator[Reader]:
    """A tab on the digits table; at the end it must have asked for nothing outside the folder and met no error."""
    tab = Reader(browser, site).go(f"#suite={DIGITS.id}")
    yield tab
    allowed = (site.as_uri() + "/", "about:", "data:", "blob:")
    assert [r for r in tab.requests if not r.startswith(allowed)] == []
    assert tab.trouble == []
    assert tab.page.evaluate("window.hacked") is None
    tab.page.context.close()


def test_the_table_shows_ranks_and_what_is_not_ranked(reader: Reader) -> None:
    assert reader.count() == "16 of 16 rows, 13 ranked"
    names = reader.methods()
    assert names[0] == "Set 11" and set(names[13:]) == {"Partial", "Gone", "digits-paper"}
    row = reader.page.locator(".tabulator-row", has_text="Partial")
    assert "unranked" in row.get_attribute("class") and "incomplete: 11 of 12 runs" in row.inner_text()
    assert "reported" in reader.page.locator(".tabulator-row", has_text="digits-paper").get_attribute("class")
    assert "<script>" in "".join(names), "a hostile title is shown as text"


def test_filter_search_sort_and_the_address_brings_it_all_back(reader: Reader) -> None:
    page = reader.page
    page.click("summary:has-text('Trust')")
    page.get_by_label("verified", exact=False).first.check()
    assert reader.count() == "4 of 16 rows, 4 ranked"
    page.keyboard.press("Escape")
    page.fill("#search", "convnet3")
    reader.settled("q=convnet3")
    assert reader.count() == "2 of 16 rows, 2 ranked"
    page.click("#clear")
    reader.page.wait_for_function("document.getElementById('count').textContent.startsWith('16 of')")
    page.click("summary:has-text('Source networks')")
    page.locator("details[data-facet=source] label", has_text="mlp").locator("input").check()
    page.keyboard.press("Escape")
    page.locator(".sort", has_text="Worst %").click()
    reader.settled("sort=worst")
    page.click("summary:has-text('Columns')")
    page.locator("#columns label", has_text="Authors").locator("input").check()
    page.keyboard.press("Escape")
    page.locator("#plots button", has_text="Best and last").click()
    shown, address = reader.methods(), page.url
    assert shown == sorted(shown) and len(shown) == 6
    reader.go(address[address.index("#") :])
    assert (reader.methods(), page.url) == (shown, address)
    assert "Author 0" in page.inner_text("#table") and reader.count() == "6 of 16 rows, 6 ranked"
    assert page.locator("#plots [aria-selected=true]").inner_text() == "Best and last"
    assert page.locator("[aria-sort=ascending]").count() == 1
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert reader.methods() == shown


def test_tabs_choose_the_table(reader: Reader) -> None:
    page = reader.page
    page.locator("#suites button", has_text=LITE.id).click()
    reader.settled(f"suite={LITE.id}")
    assert reader.methods() == ["Lite 1"] or reader.methods() == ["Lite 10"]
    page.locator("#ipcs button", has_text="all").click()
    reader.settled("ipc=all")
    assert sorted(reader.methods()) == ["Lite 1", "Lite 10"]
    page.locator("#tracks button", has_text="pretrained").click()
    reader.settled("track=pretrained")
    assert page.locator(".sort", has_text="efficientnet_lite0").count() == 1


def test_an_address_of_nonsense_shows_a_table_that_exists(reader: Reader) -> None:
    reader.go("#suite=<script>&track=x&ipc=99&sort=-nothing&cmp=nobody&plot=pie&tier=gold&col=rank&col=title&theme=pink")
    assert reader.page.locator("#suites [aria-selected=true]").count() == 1
    assert reader.count().startswith("0 of")


def test_comparing_pairs_the_seeds(reader: Reader, site: Path) -> None:
    page = reader.page
    for slug in ("set-03", "set-02", "digits-paper"):
        page.locator(f"input[data-pick='{slug}'], input[data-pick='paper.{slug}.1']").check()
    page.click("#compare-go")
    page.wait_for_selector("#compare-chart[data-drawn]")
    reader.settled("view=compare")
    records = {slug: records_of(site.parent / "s" / slug) for slug in ("set-03", "set-02")}
    rows = page.locator("#paired tbody tr")
    for index, entry in enumerate(DIGITS.evaluators["scratch"]):
        first, second = (
            {r.cell.seed: scoring.score(r) for r in records[s] if r.cell.evaluator.name == entry.name}
            for s in ("set-03", "set-02")
        )
        found = scoring.paired(first, second)
        assert found is not None and found[1] is not None
        text = rows.nth(index).inner_text().replace("\u2212", "-")
        numbers = re.findall(r"[-+]?\d+\.\d\d", text)
        assert [float(n) for n in numbers[:2]] == pytest.approx([100 * found[0], 100 * found[1]], abs=0.006)
        assert "no common seeds" in text, "a paper's row has none"
    assert "panel mean" in rows.last.inner_text()
    address = page.url
    reader.go(address[address.index("#") :])
    page.wait_for_selector("#compare-chart[data-drawn]")
    assert page.locator("#tray .chip").count() == 3
    for slug in ("set-04", "set-05"):
        box = page.locator(f"input[data-pick='{slug}']")
        if slug == "set-04":
            box.check()
        else:
            assert box.is_disabled(), "four are enough"


def test_every_plot_is_drawn(reader: Reader) -> None:
    page = reader.page
    page.locator("#plot").scroll_into_view_if_needed()
    for name in ("Profile", "Best and last", "Curves", "Accuracy and bytes"):
        before = page.locator("#plot").get_attribute("data-drawn") or ""
        page.locator("#plots button", has_text=name).click()
        page.wait_for_function(
            "old => { const p = document.getElementById('plot'); return (p.dataset.drawn || '') !== old && p.querySelector('svg') }",
            arg=before,
        )
        assert page.locator("#plot svg path, #plot canvas").count() > 3


def test_the_keyboard_is_enough(reader: Reader) -> None:
    page = reader.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("#suites [aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    selected = page.locator("#suites [aria-selected=true]")
    assert selected.evaluate("e => e === document.activeElement")
    page.keyboard.press("ArrowLeft")
    page.locator(".sort", has_text="Score %").focus()
    page.keyboard.press("Enter")
    reader.settled("sort=score")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "How to read Score %"
    page.keyboard.press("Enter")
    assert "Mean test accuracy over all evaluators" in page.inner_text("#note")
    page.keyboard.press("Escape")
    assert not page.locator("#note").is_visible()
    page.locator("input[data-pick]").first.focus()
    page.keyboard.press("Space")
    assert page.locator("#tray .chip").count() == 1
    page.locator("summary", has_text="Trust").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.type") == "checkbox" and "tier=" in page.url
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_every_column_says_how_to_read_it(reader: Reader) -> None:
    page = reader.page
    for label in page.locator("#columns label input").all():
        label.evaluate("e => { if (!e.checked) e.click(); }")
    heads = page.locator(".tabulator-col:visible").count()
    assert page.locator(".tabulator-col:visible .why").count() == heads - 1, "all but the box for comparing"


def test_this_view_downloads_as_shown(reader: Reader, site: Path, tmp_path: Path) -> None:
    page = reader.page
    page.fill("#search", "Set 0")
    reader.settled("q=Set")
    page.click("summary:has-text('Download')")
    with page.expect_download() as waiting:
        page.click("#view-csv")
    target = tmp_path / "view.csv"
    waiting.value.save_as(target)
    lines = target.read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 12 and lines[0].startswith('"Rank","Method"') and "Set 10" in lines[1]
    files = page.locator("#download a[download]").evaluate_all("links => links.map(a => a.getAttribute('href'))")
    assert len(files) == 6 and all((site / name).is_file() for name in files)


def test_light_and_dark(browser: Any, site: Path, reader: Reader) -> None:
    def paper(page: Any) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper(reader.page)
    dark_reader = Reader(browser, site, scheme="dark").go()
    assert paper(dark_reader.page) != light and dark_reader.trouble == []
    reader.page.click("#theme")
    reader.page.click("#theme")
    reader.settled("theme=dark")
    assert paper(reader.page) == paper(dark_reader.page)
    reader.go(reader.page.url[reader.page.url.index("#") :])
    assert paper(reader.page) == paper(dark_reader.page)


@pytest.mark.parametrize("width", [320, 768])
def test_narrow_screens_do_not_scroll_sideways(browser: Any, site: Path, width: int) -> None:
    tab = Reader(browser, site, width=width).go(f"#suite={DIGITS.id}&cmp=set-03&cmp=set-04&view=compare")
    tab.page.wait_for_selector("#compare-chart[data-drawn]")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.go(page="sets/hostile/index.html")
    tab.page.wait_for_selector("#curves[data-drawn]")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.trouble == [] and tab.page.evaluate("window.hacked") is None


def test_the_demo_ends_with_a_page_that_shows_it(browser: Any, mabench: Command, digits_run: Path, tmp_path: Path) -> None:
    """The path that `mabench demo` prints, opened as a reader would; papers' rows are not of its suite."""
    shutil.copytree(digits_run, tmp_path / "demo", ignore=shutil.ignore_patterns("page"))
    done = mabench("demo", "--out", "demo")
    (path,) = re.findall(r"the page of this run: (\S+)", done.stdout)
    tab = Reader(browser, (tmp_path / path).parent).go()
    assert tab.count() == "1 of 1 rows, 1 ranked" and tab.methods() == ["k-means on digits, IPC 5"]
    score = re.search(r"panel mean\]\D+([\d.]+)", done.stdout)
    assert score is not None and score[1] in tab.page.inner_text(".tabulator-row")
    assert tab.page.locator("#plots [aria-selected=true]").inner_text() == "Profile", "one point against bytes says nothing"
    tab.page.locator("#plot").scroll_into_view_if_needed()
    drawn = tab.page.locator("#plot svg.marks").text_content()
    assert "vit_mini-scratch" in drawn and not re.search(r"\de[+-]\d", drawn), "percent, not powers of ten"
    tab.page.locator(".tabulator-row a").first.click()
    tab.page.wait_for_selector("#curves[data-drawn] svg")
    assert tab.page.locator("img.preview").evaluate("e => e.naturalWidth") > 100 and tab.trouble == []


def test_the_submissions_of_this_repository_make_a_page(browser: Any, tmp_path: Path) -> None:
    """The real rows: the page opens on what was submitted, every set's page and plot draws, nothing is asked of the network."""
    leaderboard.build(REPOSITORY / "submissions", tmp_path / "out", papers.INSTALLED)
    slugs = sorted(p.parent.name for p in (REPOSITORY / "submissions").glob("*/audit.jsonl"))
    tab = Reader(browser, tmp_path / "out").go()
    assert tab.page.locator(".tabulator-row:not(.reported)").count() > 0, "opens where there are submissions, not papers only"
    chosen = tab.page.locator("#suites [aria-selected=true]").bounding_box()
    strip = tab.page.locator("#suites").bounding_box()
    assert strip["x"] <= chosen["x"] and chosen["x"] + chosen["width"] <= strip["x"] + strip["width"], (
        "the chosen suite is in view"
    )
    tab.page.locator("#suites button", has_text="cifar10-hmdc@1").click()  # a suite in which papers report
    assert tab.page.locator(".tabulator-row.reported .tier").first.inner_text() == "reported"
    for slug in slugs:
        tab.go(page=f"sets/{slug}/index.html")
        tab.page.wait_for_selector("#curves[data-drawn]")
        if (REPOSITORY / "submissions" / slug / "set.safetensors").is_file():
            assert tab.page.locator("img.preview").evaluate("e => e.naturalWidth") > 100
        else:
            assert "The set itself is kept elsewhere" in tab.page.inner_text("main")
        assert tab.page.locator("main img[src^=badge]").first.evaluate("e => e.naturalWidth") > 100
    assert tab.trouble == [] and all(r.startswith((tab.site.as_uri() + "/", "about:", "data:")) for r in tab.requests)


def test_the_page_of_a_set(reader: Reader) -> None:
    page = reader.page
    page.locator(".tabulator-row a", has_text="Set 11").click()
    page.wait_for_selector("#curves[data-drawn]")
    assert page.inner_text("h1") == "Set 11" and "@misc{set-11," in page.inner_text("main")
    assert page.locator("main img[src^=badge]").first.evaluate("e => e.naturalWidth") > 100
    page.locator("summary", has_text="Every cell").click()
    assert page.locator("details[open] tbody tr").count() == 12
    page.locator("main a", has_text=DIGITS.id).first.click()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#suites [aria-selected=true]").inner_text().startswith(DIGITS.id)
