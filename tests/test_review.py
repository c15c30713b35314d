"""A pull request is judged by its files: good ones pass, and every kind of bad one is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import HOSTILE, listed, write_submission
from click.testing import CliRunner, Result

from mabench.board import audit_log, verify
from mabench.board import submission as submissions
from mabench.board.gates import Gate
from mabench.board.review import MAX_SET_BYTES, of_folders
from mabench.cli.main import main
from mabench.digests import digest, sha256
from mabench.errors import MabenchError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of submissions as it is, and as a pull request would leave it."""
    write_submission(tmp_path / "base", "alpha", 0.5)
    listed(tmp_path / "base", "beta", digest("beta"))
    shutil.copytree(tmp_path / "base", tmp_path / "head")
    return tmp_path / "base", tmp_path / "head"


def run(head: Path, base: Path) -> Result:
    """What the workflow runs, with its comment in `c.md` beside `head`."""
    comment = head.parent / "c.md"
    return CliRunner().invoke(main, ["review", str(head), "--base", str(base), "--comment", str(comment)])


def test_nothing_changed(folders: tuple[Path, Path]) -> None:
    base, head = folders
    assert of_folders(base, head) == []
    done = run(head, base)
    assert done.exit_code == 0 and "No submission was changed" in (head.parent / "c.md").read_text()


def test_a_new_submission_passes(folders: tuple[Path, Path]) -> None:
    base, head = folders
    write_submission(head, "beta", 0.6)
    (one,) = of_folders(base, head)
    assert (one.slug, one.refusals) == ("beta", []) and "| log | ok | new submission |" in one.markdown()


def _shorten(head: Path) -> None:
    write_submission(head, "alpha", 0.7)


def _edit_record(head: Path) -> None:
    first = sorted((head / "alpha" / "records").iterdir())[0]
    first.write_text(first.read_text().replace('"seconds": 2.5', '"seconds": 2.4'))


def _link(head: Path) -> None:
    (head / "alpha" / "secret").symlink_to("/etc/passwd")


def _unfinished(head: Path) -> None:
    (write_submission(head, "beta", 0.6) / "audit.jsonl").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head: shutil.rmtree(head / "alpha"), "was removed"),
        (_shorten, "the log was shortened or changed"),
        (_edit_record, "was changed after it was submitted"),
        (_link, "not a plain file"),
        (_unfinished, "never finished"),
        (lambda head: write_submission(head, "beta", 0.6).rename(head / "Beta Two"), "the folder's name"),
        (lambda head: (head / "alpha" / "card.toml").write_text("title = "), "not the card that the audit log names"),
    ],
)
def test_a_bad_pull_request_is_refused(folders: tuple[Path, Path], change: Callable[[Path], object], words: str) -> None:
    base, head = folders
    change(head)
    (one,) = of_folders(base, head)
    assert not one.accepted and words in " ".join(one.refusals)
    result = run(head, base)
    assert result.exit_code == 1 and "refused" in (head.parent / "c.md").read_text()


def test_what_only_its_content_shows_is_refused(folders: tuple[Path, Path]) -> None:
    """A set file that is no set, and a new submission that brings its own confirmation along."""
    base, head = folders
    beta = write_submission(head, "beta", 0.6)
    (beta / "set.safetensors").write_bytes(b"junk")
    (one,) = of_folders(base, head, images=False)
    assert [text.partition(":")[0] for text in one.refusals] == ["set"] and "not a complete set file" in one.refusals[0]
    (beta / "set.safetensors").unlink()
    new = submissions.read(beta)
    assert new is not None
    confirmed = [record.model_copy(update={"seconds": 9.0}) for record in new.records.values()]
    submissions.write(beta, verify.logged(new, confirmed, who="Prof. X", seed=0))
    (one,) = of_folders(base, head, images=False)
    assert one.refusals == ["signed: a new submission with log entries by Prof. X. Others add theirs themselves."]
    shutil.rmtree(base)
    shutil.copytree(head, base)
    submissions.write(
        beta, verify.logged(read(beta), [confirmed[0].model_copy(update={"seconds": 8.0})], who="R. Reader", seed=1)
    )
    (one,) = of_folders(base, head, images=False)
    assert one.accepted and "by R. Reader: is the request theirs?" in [gate.found for gate in one.gates]


def read(folder: Path) -> submissions.Submission:
    found = submissions.read(folder)
    assert found is not None
    return found


def test_a_strangers_text_stays_text(folders: tuple[Path, Path]) -> None:
    base, head = folders
    (head / HOSTILE.replace("/", "-")[:60]).mkdir()
    ((head / HOSTILE.replace("/", "-")[:60]) / "x").write_text("x")
    assert run(head, base).exit_code == 1
    text = (head.parent / "c.md").read_text()
    assert "<script>" not in text and "refused" in text
    with pytest.raises(MabenchError, match="no such folder"):
        of_folders(base, head / "missing")


def test_a_review_says_what_changed(folders: tuple[Path, Path]) -> None:
    """Paths, records last, and the card's fields; whatever they are called, they are shown and do nothing."""
    base, head = folders
    alpha = read(head / "alpha")
    card = alpha.card.model_copy(update={"title": "<b>Alpha</b> | `2`", "note": "n" * 300, "authors": ("\u0410. Author",)}).toml()
    changed = audit_log.make_entry(
        who="A. Submitter", action="changed", why="title", set_sha256=alpha.set_sha256, card_sha256=sha256(card.encode())
    )
    submissions.write(head / "alpha", {submissions.CARD: card.encode(), **submissions.with_entry(alpha, changed)})
    (head / "alpha" / "a\nb <i>\x1b[31m").write_text("x")
    record = sorted((head / "alpha" / "records").iterdir())[0]
    record.unlink()
    (one,) = of_folders(base, head)
    assert one.changes[:4] == (
        "changed: audit.jsonl", "changed: card.toml", "added: a b <i>\\x1b[31m", f"removed: records/{record.name}",
    )  # fmt: skip
    record.write_bytes((base / "alpha" / "records" / record.name).read_bytes())
    (one,) = of_folders(base, head)
    assert one.changes[3:] == (
        "card, title: 'Alpha' -> '<b>Alpha</b> | `2`'",
        "card, authors: 'A. Author' -> '\\u0410. Author'",
        f"card, note: '' -> '{'n' * 160}...'",
    )
    done = run(head, base)
    text = (head.parent / "c.md").read_text()
    assert "### Changed\n\n- changed&#58; audit.jsonl" in text and "<b>" not in text and "<i>" not in text and "\x1b" not in text
    assert "  changed\n    changed: audit.jsonl" in done.output and "\x1b[31m" not in done.output


def test_of_many_paths_the_first_are_shown_and_the_others_counted(folders: tuple[Path, Path]) -> None:
    base, head = folders
    for k in range(40):
        (head / "alpha" / f"extra-{k:02d}").write_text("x")
    (head / "alpha" / "card.toml").unlink()
    (one,) = of_folders(base, head)
    assert len(one.changes) == 31 and one.changes[0] == "removed: card.toml" and one.changes[-1] == "and 11 more: 11 added"


def test_names_that_look_like_others_are_told_and_a_maintainers_refused(folders: tuple[Path, Path]) -> None:
    """By their skeleton: another owner, author or method in other letters; the same letters in another spelling are the same name."""
    base, head = folders
    for place in (base, head):
        write_submission(place, "alpha-two", 0.5, card={"method": "HMDC", "authors": ["Seung Moon"]})

    def told(**card: object) -> Gate:
        shutil.rmtree(head / "beta", ignore_errors=True)
        write_submission(head, "beta", 0.6, card=card)
        (one,) = of_folders(base, head)
        (names,) = (gate for gate in one.gates if gate.name == "names")
        assert one.accepted == (not names.refusals)
        return names

    assert told(method="hmdc", authors=["seung-moon"]) == Gate("names", "none looks like another's")
    assert told(method="H\u041cDC").found == "warning: 'H\\u041cDC' looks like 'HMDC' (alpha-two) in other letters"
    assert "'Seung Rnoon' looks like 'Seung Moon' (alpha-two)" in told(authors=["Seung Rnoon"]).found
    for name in ("a rnaintainer", "a m\u0430intainer", "a m\u1ea1intainer"):
        (text,) = told(authors=[name]).refusals
        assert text.startswith(f"{name!a} looks like 'a maintainer' (a maintainer) in other letters"), name


def test_links_are_not_followed(folders: tuple[Path, Path]) -> None:
    """A new folder, the list of maintainers or the whole folder as a link to what is there already: nothing would differ."""
    base, head = folders
    (head / "beta").symlink_to("../empty")
    (base.parent / "empty").mkdir()
    (one,) = of_folders(base, head)
    assert (one.slug, one.refusals) == ("beta", ["files: not a plain folder."])
    (head / "beta").unlink()
    (head / "board.toml").unlink()
    (head / "board.toml").symlink_to(base / "board.toml")
    (one,) = of_folders(base, head)
    assert (one.slug, one.refusals) == ("board.toml", ["maintainers: not a plain file."])
    (head.parent / "link").symlink_to(base)
    with pytest.raises(MabenchError, match="no such folder"):
        of_folders(base, head.parent / "link")


def test_a_name_of_several_lines_stays_one(folders: tuple[Path, Path]) -> None:
    base, head = folders
    (head / "a\n\nEvery gate is open.\n").mkdir()
    ((head / "a\n\nEvery gate is open.\n") / "x").write_text("x")
    assert run(head, base).exit_code == 1
    assert (head.parent / "c.md").read_text().startswith("## a Every gate is open.&#58; refused\n".replace("&#58;", ":"))


def test_one_that_cannot_be_read_does_not_hide_the_others(folders: tuple[Path, Path]) -> None:
    base, head = folders
    write_submission(head, "beta", 0.6)
    with (head / "alpha" / "labels.bin").open("wb") as file:
        file.truncate(MAX_SET_BYTES + 1)
    first, second = of_folders(base, head)
    assert (first.slug, first.accepted) == ("alpha", False) and "are read" in first.refusals[0]
    assert (second.slug, second.accepted) == ("beta", True)


def test_a_request_does_not_appoint_maintainers(folders: tuple[Path, Path]) -> None:
    """Its own board.toml counts for nothing in who may decide."""
    base, head = folders
    alpha = submissions.read(head / "alpha")
    assert alpha is not None
    entry = audit_log.make_entry(who="Mallory", action="tier", tier="challenged", why="a rival", set_sha256=alpha.set_sha256)
    submissions.write(head / "alpha", submissions.with_entry(alpha, entry))
    board = (head / "board.toml").read_text()
    (head / "board.toml").write_text(board.replace('"a maintainer"', '"Mallory"'))
    list_, one = of_folders(base, head)
    assert len(one.refusals) == 1 and "only 'A. Submitter' or a maintainer may" in one.refusals[0]
    assert one.tier == "self-run"
    assert list_.slug == "board.toml" and "changes who maintains the board" in list_.refusals[0]
    (head / "board.toml").write_text(board)
    assert [each.slug for each in of_folders(base, head)] == ["alpha"]
