"""The board: its numbers are those of scoring, its bytes those of its input, and nothing in a card gets out of its text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.request import urlopen

import pandas
import pytest
from builders import DIGITS, HOSTILE, LITE, PAPER, made_record, put, records_of
from builders import write_submission as submit
from click.testing import CliRunner

from mabench import suites
from mabench.board import audit_log
from mabench.board import cells as table
from mabench.board import site as leaderboard
from mabench.board import submission as submissions
from mabench.board.cells import CellRow
from mabench.board.hub import cards
from mabench.board.site import exports, pictures
from mabench.board.site.placing import placed
from mabench.board.site.sources import TIERS, plain, read_submission, web_address
from mabench.board.site.standings import submitted
from mabench.cli.main import main
from mabench.digests import digest
from mabench.errors import MabenchError
from mabench.results import scoring
from mabench.results.tables import percent
from mabench.sets import synthetic

MINIMAL = b'title = "xyz"\nauthors = ["A"]\nlicence = "CC0-1.0"\n'
CONTROLS = "\u202e\u0000\x1b[31m"
"""What no card and no log may hold, but a record's free text may."""


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first record as one who also writes the log could: the log names what the file holds."""
    found = {p.stem: p.read_bytes() for p in sorted((path / "records").iterdir())}
    first = next(iter(found))
    value = json.loads(found.pop(first))
    sha = value["cell"]["set_sha256"]
    change(value)
    cell = value["cell"]
    name = f"{cell['suite']}--{cell['track']}--{cell['evaluator']['name']}--seed{cell['seed']}"
    found[first if "/" in name else name] = json.dumps(value).encode()
    (path / "records" / f"{first}.json").unlink()
    put(path, (path / submissions.CARD).read_bytes(), found, sha)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven submissions of every kind, and a paper's table in `methods/`."""
    here = tmp_path / "submissions"
    submit(here, "alpha", 0.70, card={"authors": ["A. One"], "paper": "https://example.org/a", "source_networks": ["convnet3"]})
    submit(here, "beta", 0.60, tier="verified", card={"source_networks": ["mlp", "lenet"]})
    submit(here, "gamma", 0.50)
    submit(here, "gone", 0.80, tier="withdrawn")
    submit(here, "partial", 0.90, skip=("mlp-scratch", 2))
    submit(here, "soft-one", 0.75, labels="soft")
    submit(here, "small", 0.40, ipc=1, loaded_suite=LITE)
    (tmp_path / "methods" / "digits-paper").mkdir(parents=True)
    (tmp_path / "methods" / "digits-paper" / "paper.toml").write_text(PAPER, encoding="utf-8")
    return here


def built(folder: Path, out: Path | None = None) -> Path:
    out = out or folder.parent / "out"
    leaderboard.build(folder, out, folder.parent / "methods")
    return out


def board(out: Path) -> dict[str, Any]:
    """The whole board as data."""
    value: dict[str, Any] = json.loads((out / "leaderboard.json").read_text())
    return value


def tree(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


# ---- numbers


def test_rows_are_ranked_by_scoring(folder: Path) -> None:
    rows = {(r["key"], r["suite"], r["track"]): r for r in board(built(folder))["rows"]}
    ranked = {slug: rows[slug, DIGITS.id, "scratch"] for slug in ("alpha", "beta", "gamma")}
    records = {slug: records_of(folder / slug) for slug in ranked}
    for slug, row in ranked.items():
        place = ("alpha", "beta", "gamma").index(slug) + 1
        assert (row["rank"], row["rank_low"], row["rank_high"]) == (place, place, place), "ten points apart"
        lines = {line.name: line for line in scoring.rows(DIGITS, records[slug])}
        assert (row["score"], row["std"], row["last"]) == tuple(vars(lines["panel mean"])[k] for k in ("mean", "std", "last"))
        assert {n: e["mean"] for n, e in row["evaluators"].items()} == {n: x.mean for n, x in lines.items() if not x.panel}
    assert [ranked[s]["rank"] for s in ("alpha", "beta", "gamma")] == [1, 2, 3]
    seen, unseen = scoring.seen_and_unseen(DIGITS, "scratch", list(lines.values()), ["mlp", "lenet"])
    assert seen is not None and unseen is not None
    assert ranked["beta"]["gap"] == pytest.approx(seen - unseen) and ranked["gamma"]["gap"] is None
    one = rows["small", LITE.id, "pretrained"]
    assert one["rank"] == 1 and one["score"] == one["evaluators"]["efficientnet_lite0-pretrained"]["mean"]


def test_what_is_incomplete_or_not_trusted_is_shown_without_a_rank(folder: Path) -> None:
    rows = {r["key"]: r for r in board(built(folder))["rows"] if r["suite"] == DIGITS.id}
    assert rows["partial"]["rank"] is None and rows["partial"]["status"] == "incomplete: 11 of 12 runs"
    assert rows["partial"]["evaluators"]["mlp-scratch"]["runs"] == 2
    assert rows["gone"]["rank"] is None and rows["gone"]["status"] == "withdrawn"
    paper = rows["paper.digits-paper.1"]
    assert (paper["rank"], paper["tier"], paper["where"]) == (None, "reported", "Table 5, row 3; packed true")
    assert paper["score"] == pytest.approx((0.9078 + 0.955 + 0.91 + 0.6) / 4) and paper["std"] is None
    assert rows["soft-one"]["rank"] == 1, "soft labels have a table of their own"
    assert rows["soft-one"]["hardened"] == pytest.approx(0.9 * rows["soft-one"]["score"], abs=0.002)


@pytest.mark.parametrize("tier", TIERS)
def test_a_maintainer_unranks_and_nobody_raises(tmp_path: Path, tier: str) -> None:
    submit(tmp_path / "s", "one", 0.5, tier=tier)
    (row,) = leaderboard.build(tmp_path / "s", tmp_path / "out")
    unranked = tier in ("challenged", "superseded", "withdrawn")
    assert (row.tier, row.rank is None) == (tier if unranked else "self-run", unranked)


def test_differences_are_those_of_scoring(folder: Path) -> None:
    """The page only shows them: nothing statistical is computed in a browser."""
    pairs = json.loads((built(folder) / "data" / f"{DIGITS.id}.json").read_text())["differences"][
        "digits-agnostic@1/scratch/10/hard"
    ]
    assert {"alpha beta", "alpha gamma", "beta gamma"} <= set(pairs) and not any("paper." in key for key in pairs)
    scores = {
        slug: {
            name: {r.cell.seed: scoring.score(r) for r in records_of(folder / slug) if r.cell.evaluator.name == name}
            for name in pairs["alpha beta"]
            if name != "panel mean"
        }
        for slug in ("alpha", "beta")
    }
    for name, (mean, half, degrees) in pairs["alpha beta"].items():
        if name != "panel mean":
            first, second = (list(scores[slug][name].values()) for slug in ("alpha", "beta"))
            assert (
                mean == pytest.approx(fmean(first) - fmean(second)) and half > 0 and degrees >= 9
            )  # what was withdrawn is no part of the spread
    assert pairs["alpha beta"]["panel mean"][0] == pytest.approx(0.1)


def test_markdown_shows_the_numbers_of_scoring(folder: Path) -> None:
    text = (built(folder) / "leaderboard.md").read_text()
    part = text.split(f"## {DIGITS.id}, scratch, IPC 10, hard labels")[1].split("\n## ")[0]
    lines = {c[1]: c for c in ([x.strip() for x in row.split("|")[1:-1]] for row in part.splitlines() if row.startswith("|"))}
    for slug, title in (("alpha", "Alpha"), ("beta", "Beta"), ("gamma", "Gamma")):
        records = records_of(folder / slug)
        rows = {r.name: r for r in scoring.rows(DIGITS, records)}
        head = rows["panel mean"]
        assert lines[title][4:7] == [f"{percent(head.best)} ± {percent(head.std)}", percent(head.plateau), percent(head.last)]
        assert lines[title][2] == "one set" and lines[title][8] == "-", "no baseline of this budget, no smallest lift"
        for position, entry in enumerate(DIGITS.evaluators["scratch"]):
            line = rows[entry.name]
            assert lines[title][10 + position] == f"{percent(line.mean)} ± {percent(line.std)}"
    assert lines["Partial"][0] == "incomplete: 11 of 12 runs" and lines["Alpha"][0] == "1"


def test_a_readme_gets_the_tables_between_its_marks(folder: Path) -> None:
    readme = folder.parent / "README.md"
    arguments = ["leaderboard", "build", "--submissions", str(folder), "--out", str(folder.parent / "o"), "--readme", str(readme)]
    for text in (None, "no marks", f"{cards.END} {cards.BEGIN}"):
        if text is not None:
            readme.write_text(text)
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and "README.md: " in result.output and (text is None or readme.read_text() == text)
    readme.write_text(f"before\n{cards.BEGIN}\nold\n{cards.END}\nafter\n")
    for _ in range(2):
        assert CliRunner().invoke(main, arguments).exit_code == 0
        text = readme.read_text()
        assert text.startswith(f"before\n{cards.BEGIN}\n") and text.endswith(f"{cards.END}\nafter\n") and "old" not in text
        assert "| Alpha " in text and "digits-paper" not in text


def test_the_results_page_of_this_repository_shows_its_submissions() -> None:
    """Its tables are those of `leaderboard build`, and what is submitted here is whole, small and of the released suites."""
    root = Path(__file__).parents[1]
    rows = placed(row for entry in submissions.read_all(root / "submissions") for row in submitted(entry))
    page = root / "docs" / "results.md"
    text = page.read_text()
    assert exports.into_readme(text, rows, page) == text, "run: mabench leaderboard build --readme docs/results.md"
    assert rows and not any("another state" in row.why_unranked or "other settings" in row.why_unranked for row in rows)
    for folder in (root / "submissions").iterdir():
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        assert size < 500_000, f"{folder.name}: sets and records of this repository stay small"
    for row in rows:
        path = root / "submissions" / row.key / "set.safetensors"
        if row.key.endswith("-published"):
            assert not path.exists(), "other people's files are not redistributed"
        else:
            assert synthetic.load(path).sha256 == row.set_sha256


def test_downloads_agree(folder: Path) -> None:
    out = built(folder)
    assert (out / "cells.parquet").read_bytes() == table.parquet(table.of_submissions(submissions.read_all(folder)), CellRow)
    csv, parquet = pandas.read_csv(out / "leaderboard.csv"), pandas.read_parquet(out / "leaderboard.parquet")
    assert len(csv) == len(parquet) == sum(len(r["evaluators"]) for r in board(out)["rows"])
    assert csv["evaluator_mean"].tolist() == pytest.approx(parquet["evaluator_mean"].tolist())
    parts = [json.loads(path.read_text()) for path in (out / "data").glob("*.json")]
    assert sorted((r["key"], r["track"]) for part in parts for r in part["rows"]) == sorted(
        (r["key"], r["track"]) for r in board(out)["rows"]
    )
    cells = pandas.read_parquet(out / "cells.parquet")
    assert len(cells) == len(pandas.read_csv(out / "cells.csv")) == sum(1 for _ in folder.glob("*/records/*.json"))
    mean = cells[(cells["slug"] == "alpha") & (cells["evaluator"] == "mlp-scratch")]["acc_best"].mean()
    found = csv[(csv["key"] == "alpha") & (csv["evaluator"] == "mlp-scratch")]["evaluator_mean"]
    assert found.item() == pytest.approx(mean)


def test_a_decoder_counts_and_is_shown(tmp_path: Path) -> None:
    submit(tmp_path / "s", "one", 0.5, card={"decoder_bytes": 1_000_000})
    (row,) = board_rows = leaderboard.build(tmp_path / "s", tmp_path / "out")
    assert (row.stored_bytes, row.decoder_bytes, row.bytes) == (307_200, 1_000_000, 1_307_200)
    assert board(tmp_path / "out")["rows"][0]["bytes"] == 1_307_200 and "| 1,307,200 |" in exports.markdown(board_rows)
    assert "1,000,000 bytes, as the card says" in (tmp_path / "out" / "sets" / "one" / "index.html").read_text()


def test_the_cards_own_citation_wins(tmp_path: Path) -> None:
    submit(tmp_path / "s", "made", 0.5)
    submit(tmp_path / "s", "own", 0.5, card={"bibtex": "@article{x,\n  title = {A <b> of A & B},\n}\n"})
    made, own = map(read_submission, submissions.folders(tmp_path / "s"))
    assert exports.bibtex(made).startswith("@misc{made,") and exports.bibtex(own) == "@article{x,\n  title = {A <b> of A & B},\n}"  # type: ignore[arg-type]
    leaderboard.build(tmp_path / "s", tmp_path / "out")
    page = (tmp_path / "out" / "sets" / "own" / "index.html").read_text()
    assert "@article{x,\n  title = {A &lt;b&gt; of A &amp; B},\n}" in page and "@misc" not in page


def test_seeds_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """In file names seed 10 comes before seed 2; no suite has so many today."""
    from mabench.board.site.sources import cells

    sha = digest("many")
    many = [made_record(DIGITS, "scratch", "mlp-scratch", seed, 0.5, sha=sha) for seed in range(12)]
    path = put(tmp_path / "many", b'title = "x"', {submissions.record_name(r): submissions.record_bytes(r) for r in many}, sha)
    found = submissions.read(path)
    assert found is not None and [r.cell.seed for r in cells(found)] == list(range(12))


# ---- bytes


def test_same_input_same_bytes(folder: Path) -> None:
    first, second = tree(built(folder, folder.parent / "a")), tree(built(folder, folder.parent / "b"))
    assert first == second
    assert tree(built(folder, folder.parent / "a")) == second, "a second build into the same folder"
    assert not [name for name, content in first.items() if str(folder.parent).encode() in content]


def test_a_rebuild_removes_what_it_made_and_nothing_else(folder: Path) -> None:
    out = built(folder)
    (out / "README.md").write_text("by hand")
    (out / "sets" / "gamma" / "mine.txt").write_text("by hand")
    shutil.rmtree(folder / "gamma")
    shutil.rmtree(folder / "beta")
    built(folder)
    assert (out / "README.md").read_text() == "by hand"
    assert [p.name for p in (out / "sets" / "gamma").iterdir()] == ["mine.txt"] and not (out / "sets" / "beta").exists()


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "site"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(MabenchError, match="mabench did not build"):
        built(folder, other)
    assert (other / "index.html").read_text() == "mine"
    out = built(folder)
    (out / "manifest.json").write_text('{"files": {"../../submissions/alpha/card.toml": "0"}, "previews": {}}')
    built(folder)
    assert (folder / "alpha" / "card.toml").exists(), "nothing outside of the folder is removed"


def test_the_images_of_a_set_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mabench.sets import synthetic

    images = torch.arange(10 * 3 * 32 * 32, dtype=torch.float32).reshape(10, 3, 32, 32).remainder(255).to(torch.uint8)
    made = synthetic.SyntheticSet(images, torch.arange(10), "digits", 1)
    path = submit(tmp_path / "s", "with-set", 0.5)
    made.save(path / "set.safetensors")
    with pytest.raises(MabenchError, match="Put back the set that was submitted"):
        leaderboard.build(tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(path / "records")
    record = made_record(DIGITS, "scratch", "mlp-scratch", 0, 0.5, sha=made.sha256, ipc=1)
    put(path, MINIMAL, {submissions.record_name(record): submissions.record_bytes(record)}, made.sha256)
    leaderboard.build(tmp_path / "s", tmp_path / "out")
    preview = (tmp_path / "out" / "sets" / "with-set" / "preview.png").read_bytes()
    assert preview.startswith(b"\x89PNG")
    page = (tmp_path / "out" / "sets" / "with-set" / "index.html").read_text()
    command = "mabench eval submissions/with-set/set.safetensors \\\n  --suite digits-agnostic@1 --track scratch"
    assert command in page, "one command, broken where a shell allows it"
    monkeypatch.setattr(pictures, "draw", lambda *_: pytest.fail("drawn again"))
    leaderboard.build(tmp_path / "s", tmp_path / "out")
    assert (tmp_path / "out" / "sets" / "with-set" / "preview.png").read_bytes() == preview


def test_the_board_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys, mabench.board.site\nassert 'torch' not in sys.modules\nfrom click.testing import CliRunner\n"
        "from mabench.cli.main import main\nr = CliRunner().invoke(main, sys.argv[1:])\nprint(r.output, r.exit_code, 'torch' in sys.modules)"
    )
    command = ["leaderboard", "build", "--submissions", str(folder), "--out", str(folder.parent / "o")]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("0 False"), done.stdout + done.stderr
    assert (folder.parent / "o" / "index.html").exists()


def test_serving_needs_a_built_page(folder: Path) -> None:
    result = CliRunner().invoke(main, ["leaderboard", "serve", str(folder)])
    assert result.exit_code == 2 and "mabench leaderboard build --out" in result.output
    out = built(folder)
    command = [sys.executable, "-u", "-m", "mabench.cli.main", "leaderboard", "serve", str(out), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urlopen(f"{address}leaderboard.json", timeout=60) as answer:
                assert answer.read() == (out / "leaderboard.json").read_bytes()
        finally:
            server.terminate()


# ---- strangers


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    card = {
        "title": HOSTILE,
        "authors": ["=HYPERLINK(1)", HOSTILE],
        "code": "https://example.org/?a=1&b=}{%23",
        "command": HOSTILE,
        "licence": "</pre><script>window.hacked=1</script>",
        "source_networks": ["</script><script>window.hacked=1</script>"],
    }
    path = submit(tmp_path / "s", "evil", 0.5, card=card)
    submit(tmp_path / "s", "evil-too", 0.4, card=card | {"bibtex": "</pre><script>window.hacked=1</script>"})

    def free_text(value: dict[str, Any]) -> None:
        text = HOSTILE + CONTROLS
        value["environment"] |= {text: text}
        value["synthetic_set"]["name"] = text
        value["synthetic_set"]["findings"] = [{"field": text, "value": text, "reason": text, "flag": text}]

    edited(path, free_text)
    found = submissions.read(path)
    assert found is not None
    entry = audit_log.make_entry(who=HOSTILE, action="tier", tier="self-run", why=HOSTILE, set_sha256=found.set_sha256)
    submissions.write(path, submissions.with_entry(found, entry))
    out = tmp_path / "out"
    leaderboard.build(tmp_path / "s", out)
    for name, content in tree(out).items():
        if name.startswith("assets/") or name.endswith((".png", ".parquet")):
            continue
        shown = content.decode()
        if not name.endswith((".json", ".csv")):
            assert "<script>window" not in shown and "<img src=x" not in shown and "</script><script>" not in shown, name
        assert not re.search("[\u202e\x00\x1b]", shown), name
        if name.endswith(".html"):
            assert "javascript:alert" not in "".join(re.findall(r'(?:href|src)="([^"]*)"', shown)), name
            assert not re.search(r"<[^>]*\sonmouseover=", shown), name
        if name.endswith(".svg"):
            ElementTree.fromstring(shown)
    frame = pandas.read_csv(out / "leaderboard.csv")
    assert frame["authors"][0].startswith("'=HYPERLINK")
    markdown = (out / "leaderboard.md").read_text()
    assert "&#60;script&#62;" in markdown and "](javascript" not in markdown and "`" not in markdown.split("##", 1)[1]
    bib = exports.bibtex(read_submission(submissions.folders(tmp_path / "s")[0]))  # type: ignore[arg-type]
    body = re.sub(r"\\[{}]", "", bib)
    assert body.count("{") == body.count("}") and "javascript" in bib and "\x1b" not in bib


def test_only_web_addresses_become_links() -> None:
    assert web_address("https://arxiv.org/abs/1?x=%20&y#z") == "https://arxiv.org/abs/1?x=%20&y#z"
    for text in (
        "",
        "javascript:alert(1)",
        "data:text/html,x",
        "//evil",
        "https://a b",
        'https://a"b',
        "https://a\nb",
        "HTTPS//x",
    ):
        assert web_address(text) is None
    assert plain("a\n\tb\u202e\u200bc\u2028d") == "a b c d" and plain("x" * 1000, 10) == "x" * 9 + "\u2026"


def _edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda path: edited(path, change)


def _behind_the_log(path: Path) -> None:
    first = sorted((path / "records").iterdir())[0]
    first.write_text(first.read_text().replace('"seconds": 2.5', '"seconds": 2.4'))


def _card(text: str) -> Callable[[Path], object]:
    """As one who also writes the log could."""

    def write(path: Path) -> None:
        records = {p.stem: p.read_bytes() for p in (path / "records").iterdir()}
        sha = json.loads(next(iter(records.values())))["cell"]["set_sha256"]
        put(path, text.encode(), records, sha)

    return write


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_behind_the_log, "was changed after it was submitted"),
        (_edit(lambda v: v["cell"].update(set_sha256="0" * 64)), "a record of another set"),
        (_edit(lambda v: v["cell"].update(suite="../../x")), "cell.suite: String should match"),
        (_edit(lambda v: v["cell"].update(suite="digits")), "is not a released suite"),
        (_edit(lambda v: v["cell"].update(suite="digits-agnostic")), "is not a released suite"),
        (_edit(lambda v: v["cell"].update(suite="x.toml")), "as no record is called"),
        (_edit(lambda v: v["cell"].update(track="etc")), "no such track, evaluator or seed"),
        (_edit(lambda v: v["cell"]["evaluator"].update(name="<b>")), "as no record is called"),
        (_edit(lambda v: v["synthetic_set"].update(dataset="cifar10")), "the suite is for digits"),
        (_edit(lambda v: v.update(seconds=float("nan"))), "losses or seconds are not finite"),
        (_card('title = "x"\nstars = 5\n'), "card.toml: stars"),
        (_card("title = "), "not TOML"),
        (_card('title = "' + "x" * 2**21 + '"'), "get it again: mabench pull one --repo"),
        (_card('title = "a\\u202eb"'), "invisible or control characters (U+202E)"),
        (_card('title = "x"\npaper = "javascript:alert(1)"'), "card.toml: paper"),
        (_card('title = "x"\ncode = "https://x.org/\\"onclick="'), "card.toml: code"),
        (lambda p: (p / "card.toml").write_bytes(b"title = '\xff'"), "not the card that the audit log names"),
        (lambda p: (p / "card.toml").unlink(), "has no card.toml"),
        (lambda p: shutil.rmtree(p / "records"), "is missing, but the audit log names it"),
        (lambda p: put(p, MINIMAL, {}, "0" * 64), "no records/"),
        (lambda p: (p / "audit.jsonl").write_text('{"tier": "gold"}\n'), "line 1 is not an audit entry"),
        (lambda p: (p / "set.safetensors").write_bytes(b"no"), "set.safetensors"),
    ],
)
def test_what_cannot_be_read_is_left_out_by_name_and_the_rest_is_built(
    tmp_path: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    submit(tmp_path / "s", "two", 0.5)
    break_it(submit(tmp_path / "s", "one", 0.5))
    result = CliRunner().invoke(
        main, ["leaderboard", "build", "--submissions", str(tmp_path / "s"), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1 and "left out: " in result.output and message in result.output, result.output
    rows = board(tmp_path / "out")["rows"]
    assert "two" in {row["key"] for row in rows} and "one" not in {row["key"] for row in rows}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("digits-agnostic", "digits-agnostik", "Did you mean 'digits-agnostic'"),
        ("mlp-scratch", "mlq-scratch", "Did you mean 'mlp-scratch'"),
        ("90.78", "900.78", "table 1"),
        ("90.78", "nan", "table 1"),
        ('"digits"', '"cifar10"', "is for digits"),
    ],
)
def test_a_papers_table_is_checked(folder: Path, old: str, new: str, message: str) -> None:
    path = folder.parent / "methods" / "digits-paper" / "paper.toml"
    path.write_text(PAPER.replace(old, new))
    with pytest.raises(MabenchError, match=re.escape(message)):
        built(folder)


def test_what_was_never_finished_is_left_out_and_named(tmp_path: Path) -> None:
    submit(tmp_path / "s", "one", 0.5)
    (submit(tmp_path / "s", "killed", 0.6) / "audit.jsonl").unlink()
    submit(tmp_path / "s", "two", 0.6).rename(tmp_path / "s" / "Two_Copy")
    (tmp_path / "s" / ".git").mkdir()
    arguments = ["leaderboard", "build", "--submissions", str(tmp_path / "s"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--methods", str(tmp_path)])
    assert result.exit_code == 0 and "1 of 1 rows ranked: " in result.output, result.output
    assert [line.split(":")[1].rsplit("/", 1)[1] for line in result.output.splitlines() if line.startswith("left out")] == [
        "Two_Copy",
        "killed",
    ]


def test_a_board_of_nothing_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert leaderboard.build(tmp_path / "s", tmp_path / "out") == []
    assert "Nothing has been submitted yet" in (tmp_path / "out" / "index.html").read_text()
    with pytest.raises(MabenchError, match="no such folder"):
        leaderboard.build(tmp_path / "missing", tmp_path / "out")


def test_a_paper_suite_has_places_of_its_own_and_none_on_the_first_page(folder: Path) -> None:
    """PROTOCOL.md: they hold under the paper's rules alone."""
    paper = suites.load("cifar10-dsa")
    submit(folder, "as-printed", 0.5, loaded_suite=paper)
    out = built(folder)
    (row,) = [row for row in board(out)["rows"] if row["key"] == "as-printed"]
    assert row["rank"] == 1
    assert "As Printed" in (out / f"suites/{paper.id}/index.html").read_text()
    first = (out / "index.html").read_text()
    assert "Alpha" in first and "As Printed" not in first and f"{paper.id}/index.html" not in first
