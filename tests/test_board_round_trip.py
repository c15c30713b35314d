"""A board from nothing to a raised tier, every command as its user types it, each on a machine of its own, on the loopback Hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import BUNDLED, Command, tree, write_card
from support.hub_server import Hub, machine

from mabench.board import audit_log, submit, verify
from mabench.board import submission as submissions
from mabench.board.submission import AUDIT, CARD

REPO, SPACE, SLUG = "board/results", "board/page", "digits-kmeans"
RAW = """
import sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
root = Path(sys.argv[2])
files = [CommitOperationAdd(p.relative_to(root).as_posix(), p.read_bytes()) for p in sorted(root.rglob('*')) if p.is_file()]
HfApi().create_commit(sys.argv[1], files, commit_message=root.name, repo_type='dataset', create_pr=True)
"""
MERGE = "import sys, huggingface_hub as h; h.HfApi().merge_pull_request(sys.argv[1], int(sys.argv[2]), repo_type='dataset')"
As = Callable[[str], dict[str, str]]


@pytest.fixture
def written(digits_run: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """`written(place, slug)`: a folder with the submission as its thief would send it, by hand."""

    def make(place: str, slug: str) -> Path:
        case = submit.examine(BUNDLED, [digits_run], write_card(tmp_path / "thief.toml", slug=slug, authors=["A. Thief"]))
        assert not case.refusals
        folder = tmp_path / place / "submissions" / slug
        submissions.write(folder, submit.changes(case, None, who="thief"))
        return folder

    return make


def python(program: str, *arguments: object, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def said(server: Hub, number: int) -> str:
    """The only comment in a pull request."""
    (comment,) = server.repos[REPO].pulls[number]["comments"]
    return str(comment["data"]["latest"]["raw"])


def shown(server: Hub, page: str) -> str:
    files = server.repos[f"spaces/{SPACE}"].files()
    return server.content(files[page]).decode()


@pytest.mark.slow
def test_a_board_from_nothing_to_a_raised_tier(
    mabench: Command, tmp_path: Path, digits_run: Path, written: Callable[[str, str], Path]
) -> None:
    with Hub() as server:

        def run(user: str, *arguments: object, rc: int = 0) -> str:
            place = tmp_path / user
            place.mkdir(exist_ok=True)
            done = mabench(*arguments, cwd=place, **machine(server, tmp_path / f"home-{user}", user))
            assert done.returncode == rc and "Traceback" not in done.stderr, (arguments, done.stdout, done.stderr)
            return done.stdout + done.stderr

        def merge(number: int) -> None:
            python(MERGE, REPO, number, **machine(server, tmp_path / "home-owner", "owner"))

        def renewed(rc: int = 0) -> str:
            """What `board.yml` runs."""
            text = run("owner", "refresh", "--repo", REPO, rc=rc)
            text += run(
                "owner", "leaderboard", "build", "--repo", REPO, "--submissions", "pulled", "--title", "Our board", "--out",
                "results/board", rc=rc,
            )  # fmt: skip
            return text + run("owner", "leaderboard", "publish", "results/board", "--repo", SPACE)

        # a board of nothing
        run("owner", "board", "init", REPO, "--space", SPACE, "--title", "Our board", "--out", "kit")
        assert 'maintainers = ["owner"]' in server.repos[REPO].files()["submissions/board.toml"].content.decode()
        assert "Our board" in shown(server, "index.html") and "Nothing has been submitted yet" in shown(server, "index.html")
        assert f"https://huggingface.co/spaces/{SPACE}" in server.repos[REPO].files()["README.md"].content.decode()

        # three strangers' pull requests: a good one, one whose record was improved by hand, one that steals and lets itself in
        write_card(tmp_path / "card.toml", title="k-means on digits, IPC 5")
        sending = ("submit", BUNDLED, "--records", digits_run, "--card", tmp_path / "card.toml", "--repo", REPO, "--create-pr")
        assert "/discussions/1" in run("stranger", *sending)
        bad = written("bad", "digits-improved")
        record = sorted((bad / "records").iterdir())[0]
        record.write_bytes(re.sub(rb'"seconds": ?[0-9.e-]+', b'"seconds": 1.0', record.read_bytes()))
        hostile = written("hostile", "digits-stolen")
        (hostile.parent / "board.toml").write_text('maintainers = ["thief"]\n')
        thief = machine(server, tmp_path / "home-thief", "thief")
        python(RAW, REPO, tmp_path / "bad", **thief)
        python(RAW, REPO, tmp_path / "hostile", **thief)

        # the bot, twice: one comment in each
        for _ in range(2):
            run("owner", "review", "--repo", REPO, "--post", rc=1)
        assert "every gate is open" in said(server, 1)
        assert "refused" in said(server, 2) and "was changed after it was submitted" in said(server, 2)
        assert "refused" in said(server, 3) and "board.toml is a maintainer" in said(server, 3)
        merge(1)
        assert "the same set is digits-kmeans" in run("owner", "review", "--repo", REPO, "--pr", 3, rc=1)

        # merged and shown
        renewed()
        page = shown(server, f"sets/{SLUG}/index.html")
        assert "self-run" in page and f"mabench pull {SLUG} --repo {REPO}" in page and "ORG/" not in page

        # a submission of the future and a broken one come in between: named, left out, and nothing else happens
        future = {
            f"submissions/{SLUG}-9/{name}": content.replace(b"digits-agnostic@1", b"digits-agnostic@9")
            for name, content in tree(bad).items()
        }
        for name, content in {**future, "submissions/broken-one/audit.jsonl": b"{}\n"}.items():
            server.put(REPO, name, content)
        text = renewed(rc=1)
        assert "broken-one" in text and f"{SLUG}-9" in text and "1 submissions of board/results" in text
        assert SLUG in shown(server, "index.html") and "broken-one" not in shown(server, "index.html")

        # a third account runs a part again, by pull request, and the tier rises
        found = submissions.read(tmp_path / "owner" / "pulled" / SLUG)
        assert found is not None and found.tier == "self-run"
        draw = next(n for n in range(200) if "mlp" in submissions.record_name(verify.sample(found, 1, n)[0]))
        again = ("verify", SLUG, "--cells", 1, "--draw", draw, "--repo", REPO, "--create-pr")
        assert "self-run -> spot-checked, once the pull request is merged" in run("third", *again)
        assert "every gate is open" in run("owner", "review", "--repo", REPO, "--pr", 4, "--post") and said(server, 4)
        merge(4)
        renewed(rc=1)
        page = shown(server, f"sets/{SLUG}/index.html")
        assert (
            "Spot-checked" in page
            and "spot-checked" in shown(server, "index.html")
            and "third" in shown(server, "changes/index.html")
        )
        log = audit_log.parse((tmp_path / "owner" / "pulled" / SLUG / AUDIT).read_bytes(), Path("log"))
        assert [(e.who, e.action) for e in log] == [("stranger", "submitted"), ("third", "re-run")]
        assert (tmp_path / "owner" / "pulled" / SLUG / CARD).is_file()
