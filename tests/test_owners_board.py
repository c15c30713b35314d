"""What a board's owner chooses, and what leaves the board for elsewhere: a title, a choice of suites, the feed, badges, a takedown."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from builders import DIGITS, LITE, PAPER, Command
from builders import write_submission as submit

ADDRESS = "https://lab-board.static.hf.space/"


@pytest.fixture
def submissions(tmp_path: Path) -> Path:
    """Two sets on digits, one on the small suite of CIFAR-10."""
    submit(tmp_path / "submissions", "alpha", 0.70)
    submit(tmp_path / "submissions", "beta", 0.60)
    submit(tmp_path / "submissions", "small", 0.40, ipc=1, loaded_suite=LITE)
    return tmp_path / "submissions"


def test_title_papers_and_suites_are_the_owners_choice(mabench: Command, submissions: Path, tmp_path: Path) -> None:
    (tmp_path / "methods" / "digits-paper").mkdir(parents=True)
    (tmp_path / "methods" / "digits-paper" / "paper.toml").write_text(PAPER)
    whole = mabench("leaderboard", "build", "--methods", "methods", "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    own = mabench("leaderboard", "build", "--no-papers", "--suite", DIGITS.id, "--title", "Our lab & co", "--out", "own")
    assert own.returncode == 0, own.stderr
    page = (tmp_path / "own" / "index.html").read_text()
    assert "<title>Our lab &amp; co" in page and "Our lab & co" not in page
    assert (tmp_path / "own" / "sets" / "alpha" / "index.html").is_file()
    assert LITE.id in (tmp_path / "whole" / "leaderboard.csv").read_text()
    assert LITE.id not in (tmp_path / "own" / "leaderboard.csv").read_text()
    assert ",reported," in (tmp_path / "whole" / "leaderboard.csv").read_text()
    assert ",reported," not in (tmp_path / "own" / "leaderboard.csv").read_text()
    both = mabench("leaderboard", "build", "--no-papers", "--methods", "methods", "--out", "both")
    assert both.returncode == 2 and "exclude each other" in both.stderr and not (tmp_path / "both").exists()


def test_the_feed_and_badges_lead_to_the_board(mabench: Command, submissions: Path, tmp_path: Path) -> None:
    done = mabench("leaderboard", "build", "--no-papers", "--address", ADDRESS, "--out", "board")
    assert done.returncode == 0, done.stderr
    board = tmp_path / "board"
    feed = ElementTree.fromstring((board / "feed.xml").read_bytes())
    assert feed.tag == "rss" and feed.get("version") == "2.0"
    for item in feed.iter("item"):
        link = item.findtext("link") or ""
        assert link.startswith(ADDRESS) and (board / link.removeprefix(ADDRESS)).is_file()
    assert len({item.findtext("guid") for item in feed.iter("item")}) == 3
    page = (board / "sets" / "alpha" / "index.html").read_text()
    (name,) = re.findall(r'src="(badge-[^"]+)"', page)
    image = ElementTree.fromstring((board / "sets" / "alpha" / name).read_bytes())
    words = "".join(image.itertext())
    assert image.tag.endswith("svg") and "73.77 %" in words and "rank 1" in words and "self-run" in words
    assert f"({ADDRESS}sets/alpha/{name})]({ADDRESS}sets/alpha/index.html)" in page


def test_a_takedown_leaves_a_tombstone(mabench: Command, submissions: Path, tmp_path: Path) -> None:
    """The set's page stays and says who took it back and why; it holds no rank."""
    taken = mabench("audit", "alpha", "--tier", "withdrawn", "--why", "images of persons", "--who", "A. Submitter")
    assert taken.returncode == 0, taken.stderr
    done = mabench("leaderboard", "build", "--no-papers", "--address", ADDRESS, "--out", "board")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "board" / "sets" / "alpha" / "index.html").read_text()
    assert "withdrawn" in page and "images of persons" in page
    items = ElementTree.fromstring((tmp_path / "board" / "feed.xml").read_bytes()).iter("item")
    said = [item.findtext("description") or "" for item in items]
    assert any("images of persons (withdrawn)" in text for text in said), said
    assert sum("(" in text for text in said) == 1, "only a decision names a tier: other lines decide none"
    lines = (tmp_path / "board" / "leaderboard.csv").read_text().splitlines()
    rows = [line for line in lines if "alpha" in line]
    assert rows and all("withdrawn" in row for row in rows)
