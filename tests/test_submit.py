"""Submissions: what the gates let through and what they refuse, what is written, the log, and re-runs. On real records."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import BUNDLED, Command, tree, write_card
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mabench import data, suites
from mabench.board import audit_log, card_files, submit
from mabench.board import submission as submissions
from mabench.board.hub import client
from mabench.cli.main import main
from mabench.errors import MabenchError
from mabench.results import lifts, scoring
from mabench.runs.folder import read_records
from mabench.schema import BLANK, Card
from mabench.sets import readers as adapters
from mabench.sets import synthetic
from mabench.sets.probes import class_probe
from mabench.sets.synthetic import SyntheticSet


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.png")))


@pytest.fixture
def part(run: Path) -> Path:
    """Only the three MLP cells: an incomplete track that is quick to re-run."""
    for path in (run / "records").glob("*.json"):
        if "mlp" not in path.name:
            path.unlink()
    (run / "results.json").unlink()
    return run


@pytest.fixture
def compares(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`compares("class order")`: of the gates that compare a set's images with real ones, only these run in this test."""

    def keep(*names: str) -> None:
        monkeypatch.setattr(submit, "LOOKS_AT_IMAGES", {name: submit.LOOKS_AT_IMAGES[name] for name in names})

    return keep


@pytest.fixture
def records_alone(compares: Callable[..., None]) -> None:
    """The test is about records, cards or slugs: its set is the bundled one, whose images other tests look at."""
    compares()


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    value.pop("checksum", None)  # whoever wants to cheat leaves it out
    change(value)
    path.write_text(json.dumps(value))


# -- the command ---------------------------------------------------------------------------------------------------


def test_a_submission_is_written_once(mabench: Command, tmp_path: Path, digits_run: Path) -> None:
    write_card(tmp_path / "card.toml")
    arguments = ("submit", BUNDLED, "--records", digits_run, "--card", "card.toml")
    dry = mabench(*arguments, "--dry-run")
    assert dry.returncode == 0 and "all gates are open" in dry.stdout, dry.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["card.toml"]
    done = mabench(*arguments)
    assert done.returncode == 0 and "1 of 1 tracks complete" in done.stdout and "[panel mean]" in done.stdout
    folder = tmp_path / "submissions" / "digits-kmeans"
    before = tree(folder)
    assert len(before) == 15 and synthetic.load(folder / "set.safetensors").sha256 == synthetic.load(BUNDLED).sha256
    found = submissions.read(folder)
    assert found is not None and (found.tier, len(found.records), found.card.authors) == ("self-run", 12, ("A. Author",))
    again = mabench(*arguments)
    assert again.returncode == 0 and "nothing to add" in again.stdout and tree(folder) == before
    shown = mabench("audit", "digits-kmeans")
    assert (
        shown.stdout.count("\n") == 2 and "tier: self-run" in shown.stdout and "A. Author: submitted, 12 records" in shown.stdout
    )


def test_what_was_submitted_stands_on_the_board(mabench: Command, tmp_path: Path, digits_run: Path) -> None:
    """From records to the board's file, through the program: the numbers are those of `scoring`."""
    write_card(tmp_path / "card.toml", source_networks=["mlp"], decoder_bytes=1000, bibtex="@misc{own, title = {Own}}")
    assert mabench("submit", BUNDLED, "--records", digits_run).returncode == 0
    done = mabench("leaderboard", "build", "--out", "board")
    assert done.returncode == 0 and "1 of 1 rows ranked" in done.stdout, done.stderr
    (row,) = [r for r in json.loads((tmp_path / "board" / "leaderboard.json").read_text())["rows"] if r["key"] == "digits-kmeans"]
    loaded_suite, records = suites.load("digits-agnostic"), read_records(digits_run)
    lines = lifts.rows(loaded_suite, records)
    by_name = {line.name: line for line in lines}
    head, low = scoring.headline(loaded_suite, "scratch", lines), scoring.worst(lines)
    assert head is not None
    assert (row["rank"], row["tier"], row["status"], row["runs"]) == (1, "self-run", "ranked", 12)
    assert (row["score"], row["std"], row["random"]) == (head.mean, head.std, head.random)
    assert (row["best"], row["plateau"], row["last"]) == (head.best, head.plateau, head.last)
    assert (row["worst_lift"], row["worst_evaluator"]) == ((low.lift, low.name) if low is not None else (None, ""))
    assert row["lift"] == head.lift
    assert (row["seen"], row["unseen"]) == scoring.seen_and_unseen(loaded_suite, "scratch", lines, ["mlp"])
    assert {n: (e["mean"], e["std"], e["last"], e["runs"]) for n, e in row["evaluators"].items()} == {
        n: (x.mean, x.std, x.last, x.runs) for n, x in by_name.items() if not x.panel
    }
    own = synthetic.load(BUNDLED)
    assert (row["ipc"], row["set_sha256"], row["bytes"]) == (5, own.sha256, own.stored_bytes + 1000)
    page = tmp_path / "board" / "sets" / "digits-kmeans"
    assert "@misc{own, title = {Own}}" in (page / "index.html").read_text() and (page / "preview.png").exists()


def test_all_refusals_come_together_and_nothing_is_written(mabench: Command, tmp_path: Path, run: Path) -> None:
    write_card(tmp_path / "card.toml", licence=None, slug="../../etc")
    edit(next((run / "records").glob("*mlp*seed0.json")), lambda r: r["cell"].update(suite="cifar10-mine@1"))
    images = torch.rand(50, 3, 32, 32)
    torch.save((images, torch.arange(10).repeat_interleave(5)), tmp_path / "digits_other.pt")
    before = tree(tmp_path)
    done = mabench("submit", "digits_other.pt", "--dataset", "digits", "--records", run)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for words in ("slug: ", "records belong to another set", "is not a released suite", "nothing was written"):
        assert words in done.stderr, done.stderr
    assert tree(tmp_path) == before
    absent = mabench("submit", "absent.pt", "--records", run / "absent")
    assert absent.returncode == 2 and "absent.pt" in absent.stderr and "holds no records/" in absent.stderr


def test_who_sends_is_asked_before_the_gates_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not at all where nothing is sent."""
    asked: list[object] = []

    def account(repo: str, *, create_pr: bool) -> str:
        asked.append((repo, create_pr))
        raise MabenchError("no token")

    def gates(*_: object, **__: object) -> None:
        raise MabenchError("the gates run")

    monkeypatch.setattr(client, "account", account)
    monkeypatch.setattr(submit, "examine", gates)
    send = ["submit", str(BUNDLED), "--records", str(tmp_path), "--repo", "org/board"]
    for more, words, calls in (
        ([], "no token", [("org/board", False)]),
        (["--create-pr"], "no token", [("org/board", True)]),
        (["--dry-run"], "the gates run", []),
    ):
        asked.clear()
        done = CliRunner().invoke(main, [*send, *more])
        assert (done.exit_code, asked) == (2, calls) and words in done.output, done.output


def test_interactive_asks_for_what_the_card_lacks(mabench: Command, tmp_path: Path, digits_run: Path) -> None:
    write_card(tmp_path / "card.toml", licence=None, title=None)
    answers = "Typed title\n\nCC-BY-4.0\nk-means\nhttps://example.org/paper\n\n\n\n"
    done = mabench("submit", BUNDLED, "--records", digits_run, "--interactive", typed=answers)
    assert done.returncode == 0, done.stderr
    card = card_files.read(tmp_path / "card.toml")
    assert (card.title, card.licence, card.paper, card.slug) == (
        "Typed title",
        "CC-BY-4.0",
        "https://example.org/paper",
        "digits-kmeans",
    )


def test_an_incomplete_track_is_said_so_and_completed_later(
    mabench: Command, tmp_path: Path, part: Path, digits_run: Path
) -> None:
    write_card(tmp_path / "card.toml")
    first = mabench("submit", BUNDLED, "--records", part)
    assert first.returncode == 0 and "9 of 12 cells are missing" in first.stdout and "not ranked" in first.stdout, first.stderr
    folder = tmp_path / "submissions" / "digits-kmeans"
    old = tree(folder)
    assert mabench("submit", BUNDLED, "--records", digits_run).returncode == 0
    found = submissions.read(folder)
    assert found is not None and len(found.records) == 12 and [e.action for e in found.audit] == ["submitted", "changed"]
    new = tree(folder)
    assert all(new[name] == content for name, content in old.items() if name != "audit.jsonl")
    assert new["audit.jsonl"].startswith(old["audit.jsonl"]), "the log only grows"


# -- gate by gate --------------------------------------------------------------------------------------------------


def refusals(run: Path, tmp_path: Path, set_path: Path = BUNDLED, root: Path | None = None, **fields: Any) -> str:
    path = tmp_path / "gate-card.toml"
    case = submit.examine(set_path, [run], write_card(path, **fields), root=root)
    return "\n".join(case.refusals)


def card_refusals(tmp_path: Path, **fields: Any) -> str:
    """What is wrong with the card, beside a set that is not there: the gates that compute have nothing to do."""
    case = submit.examine(tmp_path / "absent.pt", [], write_card(tmp_path / "gate-card.toml", **fields))
    return "\n".join(line for line in case.refusals if line.startswith("card: "))


def test_nothing_is_refused_where_nothing_is_wrong(digits_run: Path, tmp_path: Path) -> None:
    assert refusals(digits_run, tmp_path, root=tmp_path / "submissions") == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"title": "a\x1b[31mred"}, "control characters (U+001B)"),
        ({"title": "abc\u202edef"}, "U+202E"),
        ({"title": "two\nlines"}, "must be one line"),
        ({"title": ""}, "title: "),
        ({"title": "x" * 121}, "at most 120"),
        ({"code": "javascript:alert(1)"}, "code: "),
        ({"paper": 'https://x.org/"onclick='}, "paper: "),
        ({"slug": "../../etc"}, "slug: "),
        ({"slug": "A"}, "slug: "),
        ({"authors": []}, "lacks authors"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"bibtex": "x" * 70_000}, "at most 65,536 are read"),
        ({"title": "!!", "slug": None}, 'Set slug = "my-method-ipc10"'),
    ],
)
def test_hostile_cards_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    said = card_refusals(tmp_path, **fields)
    assert said.startswith("card: ") and words in said and said.count("\n") == 0


TEXT_FIELDS = [name for name, field in Card.model_fields.items() if "str" in str(field.annotation) and name != "slug"]


@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_every_text_field_refuses_controls_and_takes_markup_as_text(tmp_path: Path, name: str) -> None:
    """What a terminal would obey is refused; a script tag is text, which whoever shows it escapes, except in an address."""
    several = name in ("authors", "source_networks")
    address = "https://example.org/" if name in ("paper", "code") else ""
    for hostile, shown in (("\x1b]0;gone\x07", "U+0007, U+001B"), ("\u202edesrever", "U+202E"), ("a\x00b", "U+0000")):
        said = card_refusals(tmp_path, **{name: [address + hostile] if several else address + hostile})
        assert said.startswith("card: ") and shown in said and f"{name}" in said, said
        assert not set("\x00\x07\x1b\u202e") & set(said)
    script = address + "<script>alert(1)</script>"
    said = card_refusals(tmp_path, **{name: [script] if several else script})
    assert (f"card: {tmp_path / 'gate-card.toml'}: {name}: " in said) if address else (said == "")


OBEYED = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\x08"
"""Clears the screen, renames the window, colours, reverses, goes back: what a stranger's file may try on a terminal."""


def test_a_strangers_files_cannot_act_on_the_terminal(mabench: Command, tmp_path: Path, run: Path) -> None:
    """Names in headers, records, tables, cards, logs and file names reach the terminal in messages and tables: as text only."""
    own = bundled()
    saved(tmp_path / "named.safetensors", own.images, own.labels, name=f"set {OBEYED}")
    saved(tmp_path / "classes.safetensors", own.images, own.labels, class_names=tuple(f"{k}{OBEYED}" for k in range(10)))
    (tmp_path / f"no{OBEYED}set.pt").write_bytes(b"not a set")
    torch.save({f"images{OBEYED}": own.images, "labels": own.labels}, tmp_path / "keys.pt")
    write_card(tmp_path / "card.toml")
    (tmp_path / "hostile.toml").write_text(f"{json.dumps(OBEYED)} = 1\n")
    edit(first(run), lambda r: r.update({OBEYED: 1}))
    edit(first(run, "*mlp*seed1.json"), lambda r: r["cell"].update(suite=f"digits{OBEYED}@1", set_sha256=OBEYED))
    edit(first(run, "*mlp*seed2.json"), lambda r: r.update(started=OBEYED, environment={}))
    shutil.copytree(run, tmp_path / "submissions" / "digits-kmeans")
    shutil.copy(tmp_path / "card.toml", tmp_path / "submissions" / "digits-kmeans")
    (tmp_path / "submissions" / "digits-kmeans" / "audit.jsonl").write_text(json.dumps({OBEYED: OBEYED}))
    (tmp_path / "mine.toml").write_text(f'name = "x"\ntitle = {json.dumps(OBEYED)}\n')
    calls: list[tuple[tuple[object, ...], int, str]] = [
        (("check", "named.safetensors"), 0, "set \\x1b[2J"),
        (("check", f"no{OBEYED}set.pt"), 2, "no\\x1b[2J"),
        (("check", "keys.pt", "--dataset", "digits"), 0, "keys"),
        (("submit", "named.safetensors", "--records", run), 2, "is no"),
        (("submit", "classes.safetensors", "--records", run), 2, "is called"),
        (("submit", "named.safetensors", "--records", run, "--card", "hostile.toml"), 2, "\\x1b[2J"),
        (("audit", "digits-kmeans"), 2, "line 1 is not an audit entry"),
        (("leaderboard", "build", "--out", "page"), 1, "line 1 is not an audit entry"),
        (("eval", "named.safetensors", "--suite", "mine.toml"), 2, "mine.toml"),
    ]
    for arguments, code, words in calls:
        done = mabench(*arguments)
        said = done.stdout + done.stderr
        assert done.returncode == code and words in said and "Traceback" not in said, (arguments, said)
        assert not [c for c in said if c not in "\n\t" and (ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e")], (
            arguments,
            said,
        )


@pytest.mark.usefixtures("records_alone")
def test_a_set_that_does_not_name_its_dataset_is_of_its_records(digits_run: Path, tmp_path: Path) -> None:
    """As for `mabench eval`, where the suite says it."""
    bundled = synthetic.load(BUNDLED)
    torch.save((bundled.images, bundled.labels), tmp_path / "my_set.pt")
    case = submit.examine(tmp_path / "my_set.pt", [digits_run], write_card(tmp_path / "card.toml"))
    assert case.refusals == [] and case.synthetic_set is not None and case.synthetic_set.dataset == "digits"


def test_submit_finds_where_eval_wrote_for_a_file_without_a_dataset(mabench: Command, digits_run: Path, tmp_path: Path) -> None:
    """What `mabench eval my_set.pt` accepted, `mabench submit my_set.pt` accepts, with neither --records nor --dataset."""
    bundled = synthetic.load(BUNDLED)
    torch.save((bundled.images, bundled.labels), tmp_path / "my_set.pt")
    write_card(tmp_path / "card.toml")
    shutil.copytree(digits_run, tmp_path / "results" / f"my_set-{bundled.sha256[:8]}" / "digits-agnostic@1")
    done = mabench("submit", "my_set.pt", "--dry-run")
    assert done.returncode == 0 and "all gates are open" in done.stdout, done.stderr


@pytest.mark.usefixtures("records_alone")
def test_a_card_of_ten_megabytes_is_not_even_read(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "big.toml").write_bytes(b'title = "' + b"x" * 10_000_000 + b'"')
    (said,) = submit.examine(BUNDLED, [digits_run], tmp_path / "big.toml").refusals
    assert "at most 65,536 are read" in said


def first(run: Path, pattern: str = "*mlp*seed0.json") -> Path:
    return next((run / "records").glob(pattern))


def more_hits(record: dict[str, Any]) -> None:
    record["curve"][-1][1] += 20


def other_epochs(record: dict[str, Any]) -> None:
    record["curve"] = record["curve"][:3]


def other_recipe(record: dict[str, Any]) -> None:
    record["cell"]["recipe"]["learning_rate"] = 0.5


def other_digest(record: dict[str, Any]) -> None:
    record["cell"]["suite_digest"] = "0" * 64


def other_test(record: dict[str, Any]) -> None:
    record["test_sha256"] = "0" * 64


def other_budget(record: dict[str, Any]) -> None:
    record["synthetic_set"]["ipc"] = 1


def not_a_number(record: dict[str, Any]) -> None:
    record["train_loss"][0][1] = float("nan")


def no_device(record: dict[str, Any]) -> None:
    del record["environment"]["device"]


@pytest.mark.parametrize(
    ("change", "gate", "words"),
    [
        (more_hits, "aggregates", "One of them was edited"),
        (other_epochs, "curves", "3 test passes up to epoch 30, the recipe has 6 up to 60"),
        (other_recipe, "suites", "differs in recipe"),
        (other_digest, "suites", "made under a changed suite"),
        (other_test, "curves", "Run the cell on the real split"),
        (other_budget, "budget", "ipc 1 instead of 5"),
        (not_a_number, "curves", "losses or seconds are not finite"),
        (no_device, "curves", "the environment lacks device"),
    ],
)
@pytest.mark.usefixtures("records_alone")
def test_an_edited_record_is_refused(
    run: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], gate: str, words: str
) -> None:
    edit(first(run), change)
    said = refusals(run, tmp_path)
    assert f"{gate}: " in said and words in said


@pytest.mark.usefixtures("records_alone")
def test_an_edited_table_is_refused(run: Path, tmp_path: Path) -> None:
    edit(run / "results.json", lambda r: r["rows"][-1].update(mean=0.99))
    assert "does not follow from the records" in refusals(run, tmp_path)


@pytest.mark.usefixtures("records_alone")
def test_two_records_of_one_cell_are_refused(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "both" / "b")
    shutil.copytree(run, tmp_path / "both" / "a")
    assert refusals(tmp_path / "both", tmp_path) == "", "the same records twice are one"
    edit(first(other), more_hits)
    assert "a second, different record of the cell" in refusals(tmp_path / "both", tmp_path)
    shutil.copy(first(run), run / "records" / "scratch--mlp-scratch--seed7.json")
    assert "Give the file its cell's name" in refusals(run, tmp_path)


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff\xfe", b"{}", b" " * 1_100_000])
@pytest.mark.usefixtures("records_alone")
def test_a_damaged_record_is_named(run: Path, tmp_path: Path, content: bytes) -> None:
    first(run).write_bytes(content)
    said = refusals(run, tmp_path)
    assert said.startswith("records: ") and "mlp-scratch--seed0.json" in said


def bundled() -> SyntheticSet:
    return adapters.read(BUNDLED)


def saved(path: Path, images: torch.Tensor, labels: torch.Tensor, **fields: Any) -> Path:
    SyntheticSet(images, labels, "digits", 5, **fields).save(path)
    return path


def only(gate: str, text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.startswith(f"{gate}: "))


def test_permuted_classes_are_flagged(digits_run: Path, tmp_path: Path, compares: Callable[..., None]) -> None:
    compares("class order")
    own = bundled()
    swapped = torch.arange(10)
    swapped[[3, 8]] = swapped[[8, 3]]
    for order, words in (
        (torch.arange(10).roll(1), "10 classes are renamed"),
        (swapped, "2 classes are renamed (3 -> 8, 8 -> 3)"),
    ):
        said = refusals(digits_run, tmp_path, saved(tmp_path / "permuted.safetensors", own.images, order[own.labels]))
        assert words in only("class order", said)
    soft = torch.nn.functional.one_hot(own.labels.roll(5), 10).float() * 0.9 + 0.01
    said = refusals(digits_run, tmp_path, saved(tmp_path / "soft.safetensors", own.images, soft))
    assert "the classes seem permuted" in said
    names = [str(k) for k in range(10)]
    said = refusals(
        digits_run, tmp_path, saved(tmp_path / "names.safetensors", own.images, own.labels, class_names=tuple(names[::-1]))
    )
    assert "class 0 is called '9', digits has '0'" in said


def real(split: data.Split) -> tuple[torch.Tensor, torch.Tensor]:
    found = data.load("digits", split)
    rows = [int(i) for k in range(10) for i in (found.labels == k).nonzero()[0][:5]]
    return torch.tensor(found.images[rows]), torch.tensor(found.labels[rows])


def test_real_training_images_pass_both_probes(digits_run: Path, tmp_path: Path) -> None:
    said = refusals(digits_run, tmp_path, saved(tmp_path / "train.safetensors", *real("train")))
    assert only("test images", said) == only("class order", said) == "" and "another set" in said


def test_random_noise_and_one_image_a_class_pass_the_class_probe() -> None:
    train = data.load("digits", "train")
    for seed in range(3):
        rows = [int((train.labels == k).nonzero()[0][seed]) for k in range(10)]
        stated, best, *_ = class_probe(SyntheticSet(torch.tensor(train.images[rows]), torch.arange(10), "digits", 1), train)
        assert best - stated < 0.05 < stated


@pytest.mark.parametrize("disguise", ["none", "mirrored", "noise"])
def test_planted_test_images_are_refused(digits_run: Path, tmp_path: Path, compares: Callable[..., None], disguise: str) -> None:
    compares("test images")
    images, labels = real("train")
    planted = real("test")[0][12]
    if disguise == "mirrored":
        planted = planted.flip(-1)
    images = images.float() / 255
    images[12] = planted.float() / 255
    if disguise == "noise":
        images[12] += 0.02 * torch.randn(images[12].shape, generator=torch.Generator().manual_seed(0))
    said = refusals(digits_run, tmp_path, saved(tmp_path / "leak.safetensors", images, labels))
    assert "1 of 50 training images are images of the TEST split (the first is image 12" in only("test images", said)


def test_test_images_hidden_in_a_grid_are_refused(digits_run: Path, tmp_path: Path, compares: Callable[..., None]) -> None:
    compares("test images")
    train, labels = real("train")
    tiles = torch.cat([train.float() / 255] * 4)
    tiles[60:63] = real("test")[0][10:13].float() / 255
    packed = synthetic.pack_grid(tiles, 2)
    said = refusals(digits_run, tmp_path, saved(tmp_path / "grid.safetensors", packed, labels, decode="grid2"))
    assert "3 of 200 training images are images of the TEST split (the first is image 60" in only("test images", said)


def test_broken_sets_are_refused(digits_run: Path, tmp_path: Path) -> None:
    own = bundled()
    images = own.images.float()
    said = refusals(digits_run, tmp_path, saved(tmp_path / "bright.safetensors", images * 10, own.labels))
    assert "where 1.0 is white" in said and "fix the set first" not in only("records", said)
    altered = bytearray(BUNDLED.read_bytes())
    altered[-1000] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(altered)
    said = refusals(digits_run, tmp_path, tmp_path / "altered.safetensors")
    assert "altered: its content is" in said and "identity: not checked" in said


@pytest.mark.usefixtures("records_alone")
def test_a_slug_belongs_to_its_submission(digits_run: Path, run: Path, tmp_path: Path) -> None:
    root = tmp_path / "submissions"
    case = submit.examine(BUNDLED, [digits_run], write_card(tmp_path / "card.toml"), root=root)
    submissions.write(root / case.slug, submit.changes(case, None, who="A. Author"))
    before = tree(root)
    assert "belongs to a submission by A. Author" in refusals(digits_run, tmp_path, root=root, authors=["M. Mallory"])
    other = saved(tmp_path / "other.safetensors", *real("train"))
    assert "belongs to another set" in refusals(digits_run, tmp_path, other, root=root)
    edit(first(run), lambda r: r.update(seconds=1.0))
    assert "Submitted records are never replaced" in refusals(run, tmp_path, root=root)
    assert tree(root) == before


# -- at rest -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(part: Path, tmp_path: Path, records_alone: None) -> Path:
    """A written submission of the three MLP cells."""
    case = submit.examine(BUNDLED, [part], write_card(tmp_path / "card.toml"))
    assert not case.refusals
    submissions.write(tmp_path / "submissions" / case.slug, submit.changes(case, None, who="A. Author"))
    return tmp_path / "submissions" / case.slug


@pytest.mark.slow
def test_killed_at_every_step_and_repeated(digits_run: Path, part: Path, tmp_path: Path) -> None:
    """The program is killed at its n-th rename, for every n; no half submission is ever seen, and a repetition completes it."""
    write_card(tmp_path / "card.toml")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom mabench.board import submit, submission as submissions\n"
        "n, left, root = int(sys.argv[1]), [int(sys.argv[1])], Path(sys.argv[2])\n"
        "def hook(event, _):\n    if event == 'os.rename':\n        left[0] -= 1\n"
        "        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "for records in sys.argv[3:]:\n"
        "    case = submit.examine(Path(sys.argv[-1]).parent / 'set.safetensors', [Path(records)], Path('card.toml'))\n"
        "    changed = submit.changes(case, submissions.read(root / case.slug), who='A')\n"
        "    if records == sys.argv[3]: sys.addaudithook(hook)\n"
        "    submissions.write(root / case.slug, changed)\n"
    )
    shutil.copy(BUNDLED, tmp_path / "set.safetensors")
    records = tmp_path / "records"
    shutil.copytree(part, records)
    for n in (0, 2, 4, 5):
        root = tmp_path / f"root{n}"
        command = [sys.executable, "-c", program]
        killed = subprocess.run([*command, str(n), str(root), str(records)], cwd=tmp_path)
        assert killed.returncode == -signal.SIGKILL
        assert submissions.read_all(root) == [], "a submission exists when its log does"
        subprocess.run([*command, "99", str(root), str(records)], cwd=tmp_path, check=True)
        (found,) = submissions.read_all(root)
        assert len(found.records) == 3 and len(found.audit) == 1
        assert not [
            p
            for p in (root / "digits-kmeans").rglob("*")
            if p.suffix == ".json" and p.stem not in found.records and ".partial" not in p.name
        ]


def test_changes_behind_the_logs_back_are_found(folder: Path) -> None:
    record = next((folder / "records").glob("*seed0.json"))
    content = record.read_bytes()
    edit(record, more_hits)
    with pytest.raises(MabenchError, match="was changed after it was submitted"):
        submissions.read(folder)
    record.unlink()
    with pytest.raises(MabenchError, match="is missing, but the audit log names it"):
        submissions.read(folder)
    record.write_bytes(content)
    shutil.copy(record, folder / "records" / "digits-agnostic@1--scratch--vit_mini-scratch--seed0.json")
    found = submissions.read(folder)
    assert found is not None and len(found.records) == 3, "what the log does not name is not seen"


def test_the_log_is_append_only(mabench: Command, folder: Path) -> None:
    where = ("--submissions", folder.parent)
    for tier, why in (("withdrawn", "a bug"), ("self-run", "no bug after all")):
        done = mabench("audit", folder.name, *where, "--tier", tier, "--why", why, "--who", "A. Author")
        assert done.returncode == 0 and done.stdout.endswith(f"tier: {tier}\n"), done.stderr
    for arguments in (
        ["--tier", "verified", "--why", "x", "--who", "A. Author"],
        ["--tier", "challenged", "--why", "x", "--who", "A. Author"],
        ["--tier", "withdrawn", "--why", "x", "--who", "R. Reader"],
        ["--tier", "withdrawn", "--who", "y"],
        ["--tier", "withdrawn", "--why", "a\nb", "--who", "A. Author"],
    ):
        bad = mabench("audit", folder.name, *where, *arguments)
        assert bad.returncode == 2 and "Traceback" not in bad.stderr
    log = folder / "audit.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    forged = audit_log.parse(lines[0].encode(), log)[0].model_copy(update={"who": "B. Author"})
    edits = (
        lines[1:],
        [lines[0], lines[2]],
        [audit_log.line(forged) + "\n", *lines[1:]],  # with a checksum of its own: the next line tells
        [*lines[:2], lines[2].replace("after all", "at all")],  # nothing follows the last line: its own checksum tells
        [*lines[:2], lines[2].replace('"why":"', '"why":"not ')],
    )
    for changed in edits:
        assert changed != lines
        log.write_text("".join(changed))
        with pytest.raises(MabenchError, match="append-only"):
            submissions.read(folder)


text = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs"), exclude_characters=BLANK), max_size=60)


@settings(max_examples=200, deadline=None)
@given(st.builds(Card, title=text.filter(bool), authors=st.lists(text, max_size=3).map(tuple), command=text, licence=text,
                 bibtex=text, gpu_hours=st.none() | st.floats(0, 1e6)))  # fmt: skip
def test_a_card_survives_its_file(card: Card) -> None:
    import tomllib

    written = card.toml()
    assert card_files.make(tomllib.loads(written), Path("card.toml")) == card
    assert card.toml() == written


# -- re-runs -------------------------------------------------------------------------------------------------------


def test_a_rerun_confirms_honest_records(mabench: Command, tmp_path: Path, folder: Path) -> None:
    own = mabench("verify", folder.name, "--cells", "1", "--who", "A. Author")
    assert own.returncode == 0 and "identical" in own.stdout and "self-run -> self-run" in own.stdout, own.stderr
    one = mabench("verify", folder.name, "--cells", "2", "--draw", "3", "--fresh", "1", "--who", "R. Reader")
    assert "fresh seeds" in one.stdout and "official seeds: agrees" in one.stdout, one.stdout + one.stderr
    found = submissions.read(folder)
    assert found is not None and len(found.reruns) == 4, "one of the submitter, two and a fresh one of the reader"
    (folder / "reruns" / f"{sorted(found.reruns)[0]}.json").write_text("{}")
    with pytest.raises(MabenchError, match="was changed after it was submitted"):
        submissions.read(folder)


def inflate(record: dict[str, Any]) -> None:
    """Every test pass 25 points higher."""
    record["curve"] = [[e, min(record["total"], c + 125)] for e, c in record["curve"]]


def test_a_rerun_challenges_inflated_records(mabench: Command, tmp_path: Path, part: Path) -> None:
    """All gates are open, the re-run is not fooled, and its records stay for everybody to see."""
    for path in (part / "records").glob("*.json"):
        edit(path, inflate)
    write_card(tmp_path / "card.toml")
    assert mabench("submit", BUNDLED, "--records", part).returncode == 0
    done = mabench(
        "verify", "digits-kmeans", "--cells", "2", "--fresh", "3", "--who", "R. Reader"
    )  # five seeds: two say too little
    assert done.returncode == 1 and "self-run -> challenged" in done.stdout and "contradicts" in done.stdout
    found = submissions.read(tmp_path / "submissions" / "digits-kmeans")
    assert found is not None and found.tier == "challenged" and not found.ranked and len(found.reruns) == 5
    assert sum(a.curve != b.curve for a, b in zip(found.records.values(), found.counted.values(), strict=True)) == 2


def test_verify_says_what_is_missing(mabench: Command, folder: Path, tmp_path: Path) -> None:
    assert "--who" in mabench("verify", folder.name).stderr
    assert "Found: digits-kmeans" in mabench("verify", "digits-kmean", "--who", "R").stderr
    (folder / "set.safetensors").unlink()
    done = mabench("verify", folder.name, "--who", "R")
    assert done.returncode == 2 and "mabench pull digits-kmeans" in done.stderr and "mabench pack" in done.stderr
    saved(folder / "set.safetensors", *real("train"))
    done = mabench("verify", folder.name, "--who", "R")
    assert done.returncode == 2 and "the submission is for" in done.stderr


def test_released_suites_name_every_cell_as_records_do() -> None:
    """What a complete track is, the ranking knows without planning one."""
    from mabench.results import ranking
    from mabench.runs.plan import plan

    loaded_suite = suites.load("digits-agnostic")
    planned = [cell.name for cell in plan(loaded_suite, bundled())]
    assert planned == [name for track in loaded_suite.evaluators for name in ranking.status(loaded_suite, track, []).missing]
