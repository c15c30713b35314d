"""The pages as a reader meets them: opened in Chromium, from a file or in a frame, without a network."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DIGITS, HOSTILE, LITE, PAPER, Command, made_record, put
from builders import write_submission as submit

from mabench import suites
from mabench.board import site as leaderboard
from mabench.board import submission as submissions
from mabench.board.site import content, folder, render, setpage
from mabench.board.site.placing import placed
from mabench.digests import digest
from mabench.results import baselines
from mabench.results import paper_tables as papers
from mabench.schema import Card
from mabench.sets.synthetic import SyntheticSet

REPOSITORY = Path(__file__).parents[1]
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")


def random_images(loaded_suite: suites.LoadedSuite) -> list[baselines.RandomImages]:
    """Baselines as they might have been measured: every form that a small set is compared with, five draws of each network."""
    learned = {"convnet": (0.17, 0.31), "vit": (0.17, 0.23), "efficientnet": (0.27, 0.49)}
    made = []
    for ipc, decode in itertools.product((1, 4, 10, 40), ("none", "grid2")):
        measured = {}
        for track, entries in loaded_suite.evaluators.items():
            for entry in entries:
                score = learned.get(entry.name.split("3")[0].split("_")[0], (0.17, 0.23))[ipc >= 10]
                draws = {k: baselines.Measured(score + 0.002 * k, score, score) for k in range(baselines.DRAWS)}
                measured[f"{track}/{entry.name}"] = draws
        made.append(baselines.RandomImages(ipc, decode, "hard", measured))
    return made


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board of this repository's own submissions, whatever they are today."""
    out = tmp_path_factory.mktemp("real") / "out"
    leaderboard.build(REPOSITORY / "submissions", out, papers.INSTALLED)
    return out


def pages_of(site: Path, most: int = 1) -> list[str]:
    """The pages that every board has, and `most` of each kind that it may have many of."""
    fixed = ["index", "methods/index", "suites/index", "networks/index", "claims/index", "changes/index", "scoring/index"]
    found = [f"{name}.html" for name in (*fixed, "submit/index", "data/index")]
    for kind in ("methods", "suites", "networks", "sets"):
        found += [f"{kind}/{path.name}/index.html" for path in sorted((site / kind).iterdir()) if path.is_dir()][:most]
    return found


LAB = {  # slug -> title, images per class, accuracy of ConvNets, of other networks from scratch, of pretrained ones, images
    "heavy-ipc1": ("Heavy, IPC 1", 1, 0.36, 0.24, 0.33, 1),
    "twin-a": ("Twin A, IPC 1", 1, 0.25, 0.20, 0.30, 2),
    "twin-b": ("Twin B, IPC 1", 1, 0.25, 0.20, 0.30, 2),
    "near": ("Near, IPC 1", 1, 0.251, 0.201, 0.30, 3),
    "conv-only": ("ConvNets only, IPC 10", 10, 0.60, 0.235, 0.40, 4),
    "vit-best": ("ViTs first, IPC 10", 10, 0.30, 0.28, 0.55, 5),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ranked sets with images and baselines on the small suite of CIFAR-10: two are one set, two are tied, one is for ConvNets."""
    root = tmp_path_factory.mktemp("lab")
    for slug, (title, ipc, conv, other, pretrained, seed) in LAB.items():
        pixels = torch.randint(0, 256, (10 * ipc, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        stored = SyntheticSet(pixels, torch.arange(10).repeat_interleave(ipc), "cifar10", ipc)
        records = {}
        for track, entries in LITE.evaluators.items():
            for entry in entries:
                score = pretrained if track == "pretrained" else conv if entry.name.startswith("conv") else other
                for k in LITE.suite.seeds:
                    record = made_record(LITE, track, entry.name, k, score + 0.004 * (k % 3), sha=stored.sha256, ipc=ipc)
                    records[submissions.record_name(record)] = submissions.record_bytes(record)
        card = Card(title=title, authors=("A. Author",), licence="CC0-1.0", method=title.partition(",")[0])
        place = put(root / "s" / slug, card.toml().encode(), records, stored.sha256)
        stored.save(place / submissions.SET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_measured", lambda digest: random_images(LITE) if digest == LITE.digest else [])
        leaderboard.build(root / "s", root / "out", papers.INSTALLED)
    return root / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve ranked rows, one incomplete, one withdrawn, one of a paper, one hostile; and a second suite."""
    root = tmp_path_factory.mktemp("made")
    for index in range(12):
        submit(
            root / "s",
            f"set-{index:02d}",
            0.3 + 0.03 * index,
            card={"source_networks": ["convnet3"], "authors": [f"Author {index}"], "method": "Kind"},
        )
    submit(root / "s", "partial", 0.8, skip=("mlp-scratch", 2))
    submit(root / "s", "gone", 0.8, tier="withdrawn")
    submit(root / "s", "hostile", 0.2, card={"title": HOSTILE, "authors": [HOSTILE], "method": HOSTILE, "note": HOSTILE})
    for ipc in (1, 10):
        submit(root / "s", f"lite-{ipc}", 0.2 + 0.01 * ipc, ipc=ipc, loaded_suite=LITE)
    (root / "methods" / "digits-paper").mkdir(parents=True)
    (root / "methods" / "digits-paper" / "paper.toml").write_text(PAPER)
    leaderboard.build(root / "s", root / "out", root / "methods")
    return root / "out"


@pytest.fixture(scope="module")
def young(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A lab's boards of its first days: nothing submitted, and one set; no papers."""
    root = tmp_path_factory.mktemp("young")
    (root / "s-none").mkdir()
    submit(root / "s-one", "the-first", 0.3, ipc=1, loaded_suite=LITE)
    for name in ("none", "one"):
        leaderboard.build(root / f"s-{name}", root / name)
    return {"none": root / "none", "one": root / "one"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Reader:
    """One tab: remembers what it asked for and what went wrong."""

    def __init__(self, browser: Any, site: Path, *, width: int = 1440, height: int = 900, **context: Any) -> None:
        self.site = site
        self.requests: list[str] = []
        self.trouble: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.trouble.append(str(e)))

    def go(self, fragment: str = "", page: str = "index.html", ready: bool = True) -> Reader:
        self.page.goto("about:blank")
        self.page.goto(f"{(self.site / page).as_uri()}{fragment}")
        if ready:
            self.page.wait_for_selector("body[data-ready]")
        return self

    def sets(self) -> list[str]:
        """Names of the sets in the order shown."""
        links = self.page.locator("table.board tbody tr:visible .c-set > a")
        return [text.strip() for text in links.all_inner_texts()]

    def quiet(self) -> bool:
        """Whether nothing was asked of the network and nothing was complained about."""
        allowed = (self.site.as_uri() + "/", "about:", "data:")
        return not self.trouble and all(url.startswith(allowed) for url in self.requests)


@pytest.fixture
def reader(browser: Any, lab: Path) -> Iterator[Reader]:
    tab = Reader(browser, lab).go()
    yield tab
    assert tab.quiet(), (tab.trouble, tab.requests)
    tab.context.close()


def scrolls_sideways(page: Any, width: int) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth") > width)


def test_a_suites_page_shows_score_plateau_and_last_of_random_images(lab: Path) -> None:
    page = (lab / f"suites/{LITE.id}/index.html").read_text()
    (table,) = re.findall(r"<table[^>]*><caption[^>]*>Random real images on this suite.*?</table>", page, re.S)
    head, *lines = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall(r"<tr>.*?</tr>", table, re.S))
    assert head[2:] == ["Score %", "Plateau %", "Last %", "Draws"]
    assert next(line for line in lines if line[0].startswith("1 per class") and line[1] == "ConvNet-3")[2:] == [
        "17.40", "17.00", "17.00", "5",
    ]  # fmt: skip


# ---- the first screen


def test_the_first_screen_answers(reader: Reader) -> None:
    page = reader.page
    cards = page.locator(".card").all_inner_texts()
    assert re.search(r"Heavy \d\d\.\d %", cards[0]) and "points over random real images. Clear first." in cards[0]
    assert "ConvNets only 3" in cards[1] and "No better than random on" in cards[1] and "(40.4 against 49." in cards[1]
    assert "6 sets" in cards[2] and "nobody but the submitters" in cards[2]
    assert "cifar10-agnostic@1" in page.inner_text(".waiting:visible"), "the headline suite is there before it has a set"
    first = page.locator("table.board tbody tr:not(.group)").first.bounding_box()
    assert first["y"] + first["height"] < 900, "the first row is on the first screen"


def test_five_questions_take_at_most_two_clicks(reader: Reader) -> None:
    """docs/read-the-board.md writes the same questions and clicks down."""
    rows = re.findall(r"^\| ([A-Z].*?) \| (.*?) \|", (REPOSITORY / "docs" / "read-the-board.md").read_text(), re.MULTILINE)
    assert [question for question, _ in rows][:5] == [
        "Which set for a ViT at 10 images per class?",
        "Is a paper's number true?",
        "Can I trust the first row?",
        "How do I submit?",
        "Give me the images",
    ]
    assert all(1 <= len(clicks.split(", ")) <= 2 for _, clicks in rows[:5])
    page = reader.page
    page.select_option("[name=ipc]", "10")
    page.select_option("[name=train]", "scratch/scratch-vit")
    assert reader.sets()[0] == "ViTs first" and "ViTs first: 28.4 %, " in page.inner_text("#answer"), (
        "which set for a ViT at 10 images"
    )
    reader.go()
    page.click("text=Claims >> nth=0")
    assert page.inner_text("h1") == "Is a paper's number true?", "is the paper's number true"
    reader.go()
    page.click("table.board tbody .c-set > a >> nth=0")
    assert "Self-run" in page.inner_text("main") and "mabench verify heavy-ipc1" in page.inner_text("main"), (
        "can I trust the first row"
    )
    assert "mabench pull heavy-ipc1" in page.inner_text("main") and page.locator("img.preview").is_visible(), "the images"
    reader.go()
    page.click("text=Submit a set")
    assert "mabench submit" in page.inner_text("main"), "how to submit"


def test_rows_show_what_the_numbers_say(reader: Reader) -> None:
    page = reader.page
    row = page.locator("table.board tr", has_text="Twin A").first
    assert "same set as Twin B" in row.inner_text(), "one set under two names is one row"
    assert page.locator("table.board >> nth=0 >> tbody tr:not(.group)").count() == 3
    assert "tied 2 to 3" in page.inner_text("table.board >> nth=0")
    assert str(page.locator("table.board >> nth=0 >> thead .c-gain svg").get_attribute("aria-label")).startswith(
        "Families: ConvNet, "
    )
    labels = page.locator("table.board >> nth=0 >> tbody svg").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert "95 percent interval" in labels[0] and "random images" in labels[0]
    assert labels[1].startswith("Gain over random images. ConvNet: +")
    assert page.locator("table.board img").first.evaluate("e => e.complete && e.naturalWidth") == 320


def test_the_first_days_of_a_board(browser: Any, young: dict[str, Path]) -> None:
    """With no set it says what to do next, with one it compares it with nothing; neither shows what has nothing to show."""
    tab = Reader(browser, young["none"], width=390, height=844, color_scheme="dark").go()
    page = tab.page
    assert "Nothing has been submitted yet" in page.inner_text("main") and "cifar10-agnostic" in page.inner_text(".start .code")
    assert not page.locator("#search, #tools:visible, #picker, table, .waiting").count()
    assert "Claims" not in page.inner_text("header") and not (young["none"] / "claims").exists()
    page.click(".start a >> nth=0")
    assert "mabench submit" in page.inner_text("main")
    assert "No method has a set here yet" in tab.go(page="methods/index.html").page.inner_text("main")
    one = Reader(browser, young["one"], width=390, height=844, forced_colors="active").go()
    assert one.sets() == ["The First"] and "The only set so far." in one.page.inner_text(".card >> nth=0")
    assert not one.page.locator("#which").count(), "no table of the best of one"
    for reader in (tab, one):
        for path in sorted(p.relative_to(reader.site).as_posix() for p in reader.site.rglob("*.html")):
            if not path.startswith(("networks/", "suites/")) or path.endswith(("s/index.html", f"{LITE.id}/index.html")):
                assert not scrolls_sideways(reader.go(page=path).page, 390), path
        assert reader.quiet()
        reader.context.close()


# ---- the script


def test_back_and_permalinks(reader: Reader) -> None:
    page = reader.page
    page.select_option("[name=ipc]", "10")
    page.select_option("[name=train]", "pretrained")
    shown, address = reader.sets(), page.url
    assert shown == ["ViTs first", "ConvNets only"] and "ipc=10" in address and "train=pretrained" in address
    page.go_back()
    assert "train" not in page.url and page.input_value("[name=train]") == "scratch"
    page.go_back()
    assert page.url.endswith("index.html") and page.input_value("[name=ipc]") == ""
    page.go_forward()
    page.go_forward()
    assert reader.sets() == shown
    reader.go(address[address.index("#") :])
    assert reader.sets() == shown and page.url == address
    reader.go("#data=<script>&ipc=99&train=nothing&sort=-nonsense&col=x&q=")
    assert len(reader.sets()) == 5, "an address of nonsense shows the first table"


def test_sorting_columns_and_search(browser: Any, made: Path) -> None:
    tab = Reader(browser, made).go(page=f"suites/{DIGITS.id}/index.html")
    page = tab.page
    assert tab.sets()[0] == "Set 11"
    page.locator("th.c-score button").click()
    assert (
        tab.sets()[0] in ("Partial", "Gone", "Set 11") and page.locator("th.c-score").get_attribute("aria-sort") == "descending"
    )
    page.locator("th.c-lift button").press("Enter")
    page.locator("th.c-set button").click()
    assert tab.sets() == sorted(tab.sets(), key=str.lower)
    page.click("#columns summary")
    page.locator("#columns label", has_text="Authors").locator("input").check()
    assert "Author 3" in page.inner_text("table.board") and "col=authors" in page.url
    address = page.url
    page.fill("#search", "author set-03")
    assert tab.sets() == ["Set 03"]
    page.wait_for_selector("#found a")
    assert page.locator("#found a").first.get_attribute("href") == "../../sets/set-03/index.html"
    page.fill("#search", "lite")
    assert "Lite 1" in page.inner_text("#found"), "a set of another suite is found too"
    tab.go(address[address.index("#") :], page=f"suites/{DIGITS.id}/index.html")
    assert "Author 3" in page.inner_text("table.board") and tab.sets() == sorted(tab.sets(), key=str.lower)
    tab.go("#col=authors", page=f"suites/{LITE.id}/index.html")
    assert page.locator("table.board th.c-score:visible").count() == 4, "a chosen column takes none away"
    assert tab.quiet() and page.evaluate("window.hacked") is None


def test_the_keyboard_reaches_the_rows_in_ten_stops(reader: Reader) -> None:
    page = reader.page
    stop = 0
    while stop < 12:
        stop += 1
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('tbody a')"):
            break
    assert stop <= 11, "ten stops, then the first row"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "Rank"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("th.c-score[aria-sort=descending]").count() == 1
    page.reload()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_theme_is_the_readers_own(reader: Reader) -> None:
    page = reader.page

    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    page.click("#theme")
    page.click("#theme")
    assert paper() != light and "theme" not in page.url
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert paper() != light


def test_commands_can_be_copied(browser: Any, real: Path) -> None:
    tab = Reader(browser, real).go(page="submit/index.html")
    button = tab.page.locator(".code button").first
    button.click()
    playwright.expect(button).to_have_text(re.compile("Copied|Selected"))  # the page's policy forbids evaluating text


# ---- without a script, printed, narrow, framed


def test_without_a_script_everything_is_there(browser: Any, lab: Path) -> None:
    tab = Reader(browser, lab, java_script_enabled=False).go(ready=False)
    assert tab.page.locator("table.board:visible").count() == 4 and len(tab.sets()) == 10
    assert not tab.page.locator("#picker").is_visible() and tab.page.locator(".jump a").count() == 4
    assert not tab.page.locator("#search").is_visible(), "a field that cannot search is not shown"
    tab.go(page="sets/heavy-ipc1/index.html", ready=False)
    assert tab.page.locator("svg.curves polyline").count() == sum(map(len, LITE.evaluators.values())) and tab.quiet()


def test_it_prints_whole(browser: Any, lab: Path, real: Path) -> None:
    tab = Reader(browser, lab, width=1050).go()
    tab.page.emulate_media(media="print")
    assert len(tab.sets()) == 10, "every table, every row"
    heads = tab.page.locator("table.board").first.locator("thead th")
    shown = [head for head in heads.all() if head.is_visible()]
    families = tab.page.locator("table.board").first.locator("thead th.c-network")
    assert len(shown) >= 9 + families.count() and all(head.is_visible() for head in families.all()), "every column of numbers"
    assert tab.page.locator("th.c-score button").first.is_visible(), "the heads of columns are printed too"
    assert not scrolls_sideways(tab.page, 1052), "no column is cut off on A4"
    pdf = tab.page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    tab = Reader(browser, real, width=1050).go(page="suites/cifar10-modelpool@1/index.html")
    tab.page.emulate_media(media="print")
    assert "Table 5, row 3" in tab.page.inner_text("main"), "what is folded on the screen is printed"


def test_no_width_scrolls_sideways(browser: Any, real: Path, lab: Path, made: Path) -> None:
    """On a narrow phone, on another, on a tablet and on a desk: every page, loaded once and made narrower."""
    for site, pages in ((real, pages_of(real, 2)), (lab, pages_of(lab)), (made, ["sets/hostile/index.html"])):
        tab = Reader(browser, site)
        for path in pages:
            tab.go(page=path)
            for width in (1440, 768, 390, 320):
                tab.page.set_viewport_size({"width": width, "height": 844})
                assert not scrolls_sideways(tab.page, width), (path, width)
        assert tab.quiet() and tab.page.evaluate("window.hacked") is None
        tab.context.close()


def test_in_a_space_the_visible_address_follows(browser: Any, lab: Path) -> None:
    """The Hub shows a static Space in a frame and takes the address from messages to its own origin."""
    tab = Reader(browser, lab)
    inner = "https://org-board.static.hf.space/"
    frame = f'<iframe src="{inner}index.html" width="1400" height="800" sandbox="allow-scripts allow-same-origin"></iframe>'
    tab.page.route(f"{inner}**", lambda route: route.fulfill(path=lab / route.request.url.removeprefix(inner)))
    tab.page.route("https://huggingface.co/**", lambda route: route.fulfill(body=frame, content_type="text/html"))
    tab.page.goto("https://huggingface.co/spaces/org/board")
    tab.page.evaluate("window.heard = []; addEventListener('message', e => heard.push(e.data))")
    inside = tab.page.frame_locator("iframe")
    inside.locator("body[data-ready]").wait_for()
    inside.locator("[name=ipc]").select_option("10")
    tab.page.wait_for_function("heard.length > 0")
    assert tab.page.evaluate("heard") == [{"hash": "#ipc=10"}]
    assert inside.locator("a[href^=http]").first.get_attribute("target") == "_blank"


# ---- speed and accessibility


@pytest.mark.parametrize("which", ["real", "lab"])
def test_first_paint_layout_and_weight(browser: Any, real: Path, lab: Path, which: str) -> None:
    """Nothing moves once it is painted, also where the address names another view; the landing page stays small."""
    site = {"real": real, "lab": lab}[which]
    for fragment in ("", "#ipc=10&train=scratch%2Fscratch-vit"):
        for width in (390, 1440):
            tab = Reader(browser, site, width=width)
            tab.page.add_init_script(
                "window.moved = 0; new PerformanceObserver(l => { for (const e of l.getEntries()) window.moved += e.value; })"
                ".observe({type: 'layout-shift', buffered: true});"
            )
            tab.go(fragment)
            tab.page.wait_for_timeout(400)
            assert tab.page.evaluate("window.moved") < 0.05, (fragment, width)
            assert tab.page.evaluate("performance.getEntriesByName('first-contentful-paint').length") == 1
            tab.context.close()
    page = site / "index.html"
    names = {"index.html", "assets/board.css", "assets/board.js", "assets/icon.svg"}
    names |= set(re.findall(r'(?:src)="((?:sets|assets)/[^"]+)"', page.read_text()))
    assert sum((site / name).stat().st_size for name in names) < 300_000


AXE_RULES = {
    "light": "{runOnly: {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}}",
    "dark": "{runOnly: {type: 'rule', values: ['color-contrast']}}",  # all that a colour scheme changes
}


@pytest.mark.parametrize("scheme", AXE_RULES)
def test_axe_finds_nothing(browser: Any, real: Path, lab: Path, young: dict[str, Path], scheme: str) -> None:
    package = pytest.importorskip("axe_playwright_python", reason="no axe here: pip install axe-playwright-python")
    script = next(Path(package.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
    found = {}
    for site, pages in (
        (real, pages_of(real)),
        (lab, ["index.html", "sets/heavy-ipc1/index.html"]),
        (young["none"], ["index.html"]),
    ):
        tab = Reader(browser, site, color_scheme=scheme, bypass_csp=True)
        for path in pages:
            tab.go(page=path)
            tab.page.evaluate(script)
            result = tab.page.evaluate(f"axe.run(document, {AXE_RULES[scheme]})")
            for violation in result["violations"]:
                found[path, violation["id"]] = [node["html"][:160] for node in violation["nodes"][:3]]
    assert found == {}


def test_forced_colours_keep_the_charts(browser: Any, lab: Path) -> None:
    tab = Reader(browser, lab, forced_colors="active").go()
    dot = tab.page.locator("circle.pt").first
    assert dot.evaluate("e => getComputedStyle(e).fill") not in ("none", "rgba(0, 0, 0, 0)")
    assert tab.page.locator(".card").first.evaluate("e => getComputedStyle(e).borderTopStyle") == "solid"


@pytest.mark.slow
def test_two_thousand_rows(browser: Any, tmp_path: Path) -> None:
    sheet = setpage.read(submit(tmp_path / "s", "one", 0.2))
    assert sheet is not None
    first = sheet.rows[0]
    rows = [
        replace(
            first,
            key=f"set-{index:04d}",
            title=f"Set {index:04d}",
            set_sha256=digest(index),
            sets=(digest(index),),
            score=0.2 + 0.0003 * index,
        )
        for index in range(2000)
    ]
    board = content.Board(content.Site(), [], placed(rows), {}, suite_ids=(DIGITS.id,))
    folder.write(tmp_path / "out", render.files(board), folder.earlier(tmp_path / "out"), {})
    tab = Reader(browser, tmp_path / "out").go()
    assert len(tab.sets()) == 50 and (tmp_path / "out" / "index.html").stat().st_size < 300_000
    tab.go(page=f"suites/{DIGITS.id}/index.html")
    assert len(tab.sets()) == 2000
    tab.page.fill("#search", "set-1234")
    assert tab.sets() == ["Set 1234"]
    tab.page.fill("#search", "")
    tab.page.locator("th.c-set button").click()
    assert tab.sets()[0] == "Set 0000" and tab.quiet()


# ---- other pages


def test_every_link_of_the_board_leads_somewhere(real: Path, lab: Path, made: Path, young: dict[str, Path]) -> None:
    for site in (real, lab, made, *young.values()):
        pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
        for path, text in pages.items():
            for target in re.findall(r'(?:href|src)="([^"#]*)(?:#[^"]*)?"', text):
                if target and not target.startswith(("http:", "https:", "data:")):
                    assert (path.parent / target.partition("?")[0]).resolve().is_file(), (path, target)
            ids = re.findall(r'\sid="([^"]+)"', text)
            assert len(ids) == len(set(ids)), path


def test_claims_stand_beside_measurements(browser: Any, real: Path) -> None:
    tab = Reader(browser, real).go(page="claims/index.html")
    row = tab.page.locator("table.claims >> nth=0 >> tbody tr", has_text="Model Pool, 10 images per class")
    text = row.inner_text()
    rows = tab.page.locator("table.claims >> nth=0 >> tbody tr").all_inner_texts()
    assert not any("total random" in line for line in rows), "a variant's row is no claim about another configuration"
    assert "30.6" in text and "30.8" in text and "the published file, run again" in text
    row.locator("a").click()
    section = tab.page.locator("section:target")
    assert "ConvNet-3" in section.inner_text() and "44.60" in section.inner_text()


def test_a_set_is_credited_to_its_authors(browser: Any, real: Path) -> None:
    tab = Reader(browser, real).go(page="sets/model-pool-ipc10-published/index.html")
    text = tab.page.inner_text("main")
    assert "Made by Binglin Zhou, Linhao Zhong, Wentao Chen; submitted by mabench authors" in text
    assert "author = {Binglin Zhou and Linhao Zhong and Wentao Chen}" in text


def test_the_demo_ends_with_a_page_that_shows_it(browser: Any, mabench: Command, digits_run: Path, tmp_path: Path) -> None:
    """The path that `mabench demo` prints, opened as a reader would; papers' rows are not of its suite."""
    shutil.copytree(digits_run, tmp_path / "demo", ignore=shutil.ignore_patterns("page"))
    done = mabench("demo", "--out", "demo")
    (path,) = re.findall(r"the page of this run: (\S+)", done.stdout)
    tab = Reader(browser, (tmp_path / path).parent).go()
    assert tab.sets() == ["k-means on digits"]
    tab.page.locator("table.board .c-set > a").first.click()
    assert tab.page.locator("img.preview").evaluate("e => e.naturalWidth") > 100 and tab.quiet()
