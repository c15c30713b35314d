"""What a cheat tries against a board, and what one stranger's files could do to everybody else's. On made records, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import DIGITS, LITE, listed, made_record, put, write_submission
from click.testing import CliRunner
from safetensors.numpy import save_file

from mabench import digests, suites
from mabench.board import (
    acceptance,
    audit_log,
    cells,
    gates,
    names,
    owners,
    pull_request,
    rechecks,
    review,
    site,
    stored,
    tiers,
    verify,
)
from mabench.board import submission as submissions
from mabench.board.hub import client, tables
from mabench.board.site import claims, page, placing, render, setpage, standings
from mabench.board.submission import Submission
from mabench.cli.main import main
from mabench.digests import digest
from mabench.errors import MabenchError
from mabench.schema import AuditEntry, RunRecord
from mabench.sets import leaks

Value = dict[str, Any]
EARLIER = min(DIGITS.earlier)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A submission of every cell of the digits suite, by `A. Submitter`."""
    return write_submission(tmp_path / "submissions", "made", 0.5)


def read(folder: Path) -> Submission:
    found = submissions.read(folder)
    assert found is not None
    return found


def remade(path: Path, change: Callable[[Value], object]) -> None:
    """Change every record as a forger would who also writes the log."""
    old = read(path)
    found = {}
    for record in old.records.values():
        value = record.model_dump(mode="json")
        change(value)
        cell = value["cell"]
        found[f"{cell['suite']}--{cell['track']}--{cell['evaluator']['name']}--seed{cell['seed']}"] = json.dumps(value).encode()
    shutil.rmtree(path)
    put(path, old.files[submissions.CARD], found, old.set_sha256)


def logged(folder: Path, **fields: Any) -> None:
    """One more line of the log."""
    found = read(folder)
    entry = audit_log.make_entry(**({"why": "x", "set_sha256": found.set_sha256} | fields))
    submissions.write(folder, submissions.with_entry(found, entry))


def again(record: RunRecord, points: float = 0.0, **fields: Any) -> RunRecord:
    """A run of the same cell an hour later, `points` of a hundred better."""
    curve = tuple((epoch, min(record.total, max(0, count + round(points * record.total / 100)))) for epoch, count in record.curve)
    return record.model_copy(update={"curve": curve, "seconds": 9.0, "started": "2026-11-20T10:00:00+00:00"} | fields)


def of_seed_zero(record: Value) -> None:
    record["initial_weights_sha256"] = "1" * 64


def bound(record: Value) -> None:
    record["curve"][2][1], record["engine"], record["upper_bounds"] = record["total"], "fast", [record["curve"][2][0]]


RECORDS: dict[str, tuple[Callable[[Value], object], str]] = {
    "a billion test passes": (
        lambda r: r["cell"]["recipe"].update(epochs=10**9, test_every=1), "are more than 10,000 test passes",
    ),
    "a track of no suite, under an earlier edition": (
        lambda r: r["cell"].update(suite_digest=EARLIER, track="nope"), "no such track, evaluator or seed",
    ),
    "a network of no suite, under an earlier edition": (
        lambda r: (r["cell"].update(suite_digest=EARLIER), r["cell"]["evaluator"].update(name="mine")), "no such track, evaluator or seed",
    ),
    "a loss that is no number": (lambda r: r.update(first_losses=[float("nan")] * 10), "losses or seconds are not finite"),
    "hard labels in the table of soft ones": (lambda r: r["synthetic_set"].update(recorded_bytes=1), "recorded_bytes is 1"),
    "a budget that contradicts itself": (lambda r: r["synthetic_set"].update(stored_images=1000), "ipc is 10, not 100"),
    "bytes of another type": (lambda r: r["synthetic_set"].update(image_dtype="float32"), "stored_bytes is 307200, not 1228800"),
    "a type and a packing of nothing": (lambda r: r["synthetic_set"].update(image_dtype="x" * 99, decode="<b>"), "is unknown"),
    "one run copied to every seed": (of_seed_zero, "a copy of that run"),
    "an estimate above every measured pass": (bound, "ended early counts more than the best before it"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_nobody_ran_are_refused_whenever_they_are_read(folder: Path, name: str) -> None:
    change, words = RECORDS[name]
    remade(folder, change)
    with pytest.raises(MabenchError, match=words):
        acceptance.read_accepted(folder)


def at(entry: AuditEntry, when: str) -> AuditEntry:
    return entry.model_copy(update={"when": when})


def test_a_log_is_what_a_log_can_be(folder: Path) -> None:
    """A time that is none stopped the feed of the whole board; whoever speaks before the submitter is no owner; nothing is named twice."""
    before = read(folder)
    first, path = before.audit[0], folder / submissions.AUDIT
    path.write_bytes(audit_log.appended((), at(first, "2026-99-01T00:00:00+00:00")))
    with pytest.raises(MabenchError, match="line 1 is not an audit entry"):
        read(folder)
    earlier = audit_log.make_entry(who="mallory", action="tier", why="x", set_sha256=first.set_sha256)
    path.write_bytes(audit_log.appended([earlier], first))
    with pytest.raises(MabenchError, match="begins before it was"):
        read(folder)
    for names_ in ({**first.records}, {"../../other/records/x": "0" * 64}):
        entry = audit_log.make_entry(who="A. Submitter", action="changed", why="x", set_sha256=first.set_sha256, records=names_)
        path.write_bytes(audit_log.appended(before.audit, entry))
        with pytest.raises(MabenchError, match="twice, or as no record is called"):
            read(folder)


def test_what_no_line_names_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "records" / "junk.json").write_bytes(b"x" * 2**21)
    assert len(read(folder).records) == 12
    monkeypatch.setattr(submissions, "MAX_BYTES", 10_000)
    with pytest.raises(MabenchError, match="10,000 of a submission without its sets. Move the folder away"):
        read(folder)


# -- one submission never stops the others ---------------------------------------------------------------------------


class Pool:
    """A pool of processes without processes."""

    map = staticmethod(lambda work, places, chunksize: map(work, places))

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("many", [False, True])
def test_whatever_goes_wrong_with_one_the_rest_is_built(folder: Path, many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a board of 500 submissions and more, which other processes read, and for errors that nobody thought of."""
    write_submission(folder.parent, "damaged", 0.9).joinpath(submissions.AUDIT).write_text("{}\n")
    write_submission(folder.parent, "odd", 0.9)

    def opened(place: Path) -> setpage.Sheet | None:
        if place.name == "odd":
            raise KeyError("nothing")
        return setpage.read(place)

    monkeypatch.setattr(page, "read", opened)
    monkeypatch.setattr(page, "MANY", 1 if many else 500)
    monkeypatch.setattr(page, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(render, "files", lambda board: ())
    left_out: list[str] = []
    rows = site.build(folder.parent, folder.parent.parent / "out", None, left_out.append)
    assert {row.key for row in rows} == {"made"} and len(left_out) == 2
    assert "damaged" in left_out[0] and left_out[1].startswith("odd: cannot be read (KeyError: 'nothing')")


def test_the_tables_of_the_hub_leave_out_one_and_keep_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is judged like everything else, and not only once it is read again."""
    rows: list[Any] = []
    problems: list[str] = []
    entry = read(folder)

    def broken(_: object) -> list[cells.CellRow]:
        raise KeyError("nothing")

    tables._add(rows, problems, "made", lambda: [entry])
    monkeypatch.setattr(cells, "of_submissions", broken)
    tables._add(rows, problems, "odd", lambda: [entry])
    assert len(rows) == 12 and len(problems) == 1 and problems[0].startswith("odd: cannot be read (KeyError")


def test_a_wrong_list_of_the_board_is_nobodys_submission(folder: Path) -> None:
    """An owner's slip empties no page: nothing is built."""
    (folder.parent / owners.BOARD).write_text("maintainers = 3\n")
    with pytest.raises(MabenchError, match="holds maintainers = .names."):
        site.build(folder.parent, folder.parent.parent / "out", None, lambda _: None)
    assert not (folder.parent.parent / "out").exists()


def test_which_images_are_searched_is_not_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leaks.drawn(100).tolist() == list(range(100))
    monkeypatch.setattr(leaks, "MOST", 10)
    assert len({tuple(leaks.drawn(1000).tolist()) for _ in range(5)}) == 5


def test_a_pull_request_that_cannot_be_fetched_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(repo: str, number: int, *_: Any, **__: Any) -> review.Review:
        if number == 1:
            raise MabenchError("a name that is too long")
        return review.Review("made", (gates.gate("files", "fine", []),))

    monkeypatch.setattr(pull_request, "opened", lambda _: [1, 2])
    monkeypatch.setattr(pull_request, "of_pull_request", one)
    found = CliRunner().invoke(main, ["review", "--repo", "org/board"])
    assert found.exit_code == 1 and "a name that is too long" in found.output and "made: every gate is open" in found.output


def test_sets_without_a_network_in_common_are_a_row_without_numbers(folder: Path) -> None:
    entry = read(folder)
    other = digest("another set")
    half = {n: r for n, r in entry.records.items() if "mlp" in n or "lenet" in n}
    moved = {
        n: r.model_copy(update={"cell": r.cell.model_copy(update={"set_sha256": other})}) if "lenet" in n else r
        for n, r in half.items()
    }
    audit = (entry.audit[0], entry.audit[0].model_copy(update={"action": "changed", "set_sha256": other}))
    (row,) = placing.placed(standings.submitted(replace(entry, records=moved, audit=audit)))
    assert row.rank is None and row.score is None and len(row.sets) == 2


# -- ranks and badges ------------------------------------------------------------------------------------------------


def ranked(*entries: Submission) -> dict[str, standings.Standing]:
    return {row.key: row for row in placing.placed(row for entry in entries for row in standings.submitted(entry))}


def test_a_copy_with_better_records_lifts_no_verified_row(folder: Path) -> None:
    """The same set under two names of one owner: what others have repeated speaks for it."""
    root = folder.parent
    before = read(folder)
    submissions.write(folder, verify.logged(before, [again(r) for r in before.records.values()], who="R. Reader", seed=0))
    better = {n: submissions.record_bytes(again(r, 25)) for n, r in before.records.items()}
    put(root / "copy", before.files[submissions.CARD], better, before.set_sha256)
    rows = ranked(read(folder), read(root / "copy"), read(write_submission(root, "between", 0.6)))
    assert list(rows) == ["between", "made", "copy"]
    assert [(row.rank, row.tier) for row in rows.values()] == [(1, "self-run"), (2, "verified"), (2, "self-run")]


def test_what_was_taken_back_changes_nobodys_interval(folder: Path) -> None:
    entry, near = read(folder), read(write_submission(folder.parent, "near", 0.51))
    noisy = {n: again(r, 30 * (r.cell.seed - 1)) for n, r in read(write_submission(folder.parent, "noise", 0.3)).records.items()}
    noise = replace(read(folder.parent / "noise"), records=noisy)
    back = audit_log.make_entry(who="A. Submitter", action="tier", tier="withdrawn", why="x", set_sha256=noise.set_sha256)
    alone, with_it = ranked(entry, near), ranked(entry, near, replace(noise, audit=(*noise.audit, back)))
    assert with_it["near"].half_width == alone["near"].half_width != ranked(entry, near, noise)["near"].half_width


def test_nobody_confirms_under_a_name_that_reads_like_his(folder: Path) -> None:
    for first, second in (
        ("A. Submitter", "A. Submitter\u3164"), ("A. Submitter", "A. Subrnitter"), ("Karl", "\u1d0barl"), ("ANNA", "\ua4eeNNA"),
        ("W. Vogel", "VV. Vogel"), ("Tom", "\u0167om"),
    ):  # fmt: skip
        assert names.skeleton(first) == names.skeleton(second), (first, second)
    with pytest.raises(MabenchError, match="invisible or control characters"):
        audit_log.make_entry(who="A. Submitter\u3164", action="re-run", why="x", set_sha256="0" * 64)
    assert names.skeletons(["\U0001f642"]) == {names.skeleton("\U0001f642")} != {names.skeleton("\u2603")}, (
        "a name without letters"
    )


def test_a_maintainers_decision_is_not_the_owners_to_take_back(folder: Path) -> None:
    logged(folder, who="a maintainer", action="tier", tier="superseded")
    logged(folder, who="A. Submitter", action="tier", tier="self-run")
    assert read(folder).tier == "superseded"


def test_a_rerun_is_of_the_very_run_and_of_ones_own(folder: Path) -> None:
    """One under an earlier edition of the suite unranked a rival's row; one of another account's run adds nobody."""
    before = read(folder)
    record = next(iter(before.records.values()))
    old = again(record, cell=record.cell.model_copy(update={"suite_digest": EARLIER}))
    submissions.write(folder, verify.logged(before, [old], who="rival", seed=0))
    with pytest.raises(MabenchError, match="another edition of the suite, than the submitted records"):
        acceptance.read_accepted(folder)
    submissions.write(folder, {submissions.AUDIT: before.files[submissions.AUDIT]})
    submissions.write(folder, verify.logged(before, [again(record)], who="A. Submitter", seed=0))
    submissions.write(folder, verify.logged(read(folder), [again(record)], who="friend", seed=0))
    with pytest.raises(MabenchError, match="entry1 did: a copy. Run it: mabench verify made --who NAME"):
        acceptance.read_accepted(folder)


def test_a_badge_is_about_the_runs_that_were_repeated(tmp_path: Path) -> None:
    """A cheap suite that was run honestly does not lend its badge to the one that ranks; fresh seeds are no runs of the table."""
    folder = write_submission(tmp_path, "made", 0.3, loaded_suite=LITE, ipc=1)
    before = read(folder)
    first = next(iter(before.records.values()))
    fresh = [again(first, cell=first.cell.model_copy(update={"seed": 2**30 + k})) for k in range(3)]
    repeated = [again(r) for r in before.records.values() if r.cell.track == first.cell.track]
    submissions.write(folder, verify.logged(before, [*repeated, *fresh], who="R. Reader", seed=0))
    entry = read(folder)
    assert entry.tier == "spot-checked" and len(LITE.evaluators) == 2
    rows = {row.track: row.tier for row in standings.submitted(entry)}
    assert rows == {t: "verified" if t == first.cell.track else "self-run" for t in LITE.evaluators}
    assert {row.track: row.tier for row in cells.of_submissions([entry])} == rows
    assert setpage._about(entry, False)["confirmed"] == len(repeated) < len(entry.confirming)


def test_whoever_repeated_runs_does_not_become_an_author(folder: Path) -> None:
    """Or his lower numbers would no longer count as somebody else's."""
    first = next(iter(read(folder).records.values()))
    submissions.write(folder, verify.logged(read(folder), [again(first)], who="R. Reader", seed=0))
    before = read(folder)
    joined = replace(before, card=before.card.model_copy(update={"authors": ("A. Author", "r. reader")}))
    assert "R. Reader: repeated runs of this set" in review.grown(joined, before).refusals[0]


def test_claims_about_published_files_are_the_maintainers_to_allow(folder: Path) -> None:
    card = {"method": "DC"}
    (row,) = standings.submitted(read(write_submission(folder.parent, "dc-ipc1-published", 0.5, card=card)))
    assert claims.published(row) and not claims.published(replace(row, elsewhere=False))


def test_the_board_names_the_account_and_not_the_card(folder: Path) -> None:
    (row,) = standings.submitted(read(write_submission(folder.parent, "lab", 0.5, card={"submitter": "Famous Lab"})))
    assert row.submitter == "A. Submitter"


def test_first_steps_are_checked_on_every_track_and_of_no_strangers_network() -> None:
    """A cheap run of another suite does not stand for the one that ranks; a network that no suite asks for is never built."""
    paper = suites.load("cifar10-modelpool")
    records = [made_record(LITE, t, e.name, 0, 0.3, sha="0" * 64) for t, entries in LITE.evaluators.items() for e in entries]
    records += [made_record(paper, t, entries[0].name, 0, 0.3, sha="0" * 64) for t, entries in paper.evaluators.items()]
    mine = records[0].cell.evaluator.model_copy(update={"architecture": "mine"})
    stranger = records[0].model_copy(
        update={"cell": records[0].cell.model_copy(update={"evaluator": mine, "suite": "cifar10-dsa@1"})}
    )
    found = {(runs[0].cell.suite, runs[0].cell.track) for runs in rechecks._tracks([*records, stranger])}
    assert found == {(LITE.id, t) for t in LITE.evaluators} | {(paper.id, t) for t in paper.evaluators}


# -- the set's file --------------------------------------------------------------------------------------------------


def write_set(path: Path, images: Any, labels: Any, **metadata: str) -> str:
    """A canonical file of these arrays, whatever they are; returns its sha256."""
    facts = {"dataset": "digits", "decode": "none", "class_names": "[]"} | metadata
    sha = stored._identity(facts, images, labels)
    facts |= {"format": "mabench-set", "format_version": "1", "name": "made", "findings": "[]", "sha256": sha}
    save_file({"images": images, "labels": labels}, path, facts | {"ipc": str(-(-len(images) // 10))})
    return sha


@pytest.mark.parametrize(
    ("shape", "labels", "metadata", "words"),
    [
        ((0, 3, 32, 32), np.zeros(0, np.int64), {}, "images U8"),
        ((10, 3, 0, 32), np.arange(10), {}, "images U8"),
        ((2001, 3, 32, 32), np.zeros(2001, np.int64), {}, "images U8"),
        ((10, 3, 32, 32), np.full(10, -1), {}, "labels of -1"),
        ((10, 3, 32, 32), np.full(10, 10**15), {}, "labels of 1000000000000000"),
        ((10, 3, 32, 32), np.full((10, 2), 0.5, np.float32), {}, "labels F32"),
        ((10, 3, 32, 32), np.arange(10), {"dataset": "nothing"}, "'nothing'"),
        ((10, 3, 32, 32), np.arange(10), {"class_names": '["a"]'}, "1 class names"),
    ],
)
def test_a_set_that_no_dataset_has_is_not_drawn(tmp_path: Path, shape: Any, labels: Any, metadata: Any, words: str) -> None:
    sha = write_set(tmp_path / "set.safetensors", np.zeros(shape, np.uint8), labels, **metadata)
    with pytest.raises(MabenchError, match=words):
        stored.read(tmp_path / "set.safetensors", sha)


def with_set(folder: Path, images: Any, targets: Any, **summary: Any) -> None:
    """Make the submission one of these images, which its records describe with the fields of `summary`."""
    old = read(folder)
    sha = write_set(folder / "set.safetensors", images, targets)
    content = (folder / "set.safetensors").read_bytes()
    records = {}
    for name, record in old.records.items():
        value = record.model_dump(mode="json")
        value["cell"]["set_sha256"] = sha
        value["synthetic_set"].update(sha256=sha, **summary)
        records[name] = submissions.record_bytes(RunRecord.model_validate(value))
    shutil.rmtree(folder)
    put(folder, old.files[submissions.CARD], records, sha)
    (folder / "set.safetensors").write_bytes(content)


def test_records_are_held_against_the_file_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    """A set of IPC 10 in the table of IPC 1, and hard labels written as soft ones: with `build`, `pull` and `review --no-images`."""
    tenth = {"ipc": 1, "stored_images": 10, "decoded_images": 10, "stored_bytes": 31120, "labels": "soft"}
    with_set(folder, np.zeros((100, 3, 32, 32), np.uint8), np.eye(10, dtype=np.float32)[np.arange(100) % 10], **tenth)
    words = "its records say stored_images 10 instead of 100, labels soft instead of hard"
    assert words in "\n".join(review.review(folder, images=False).refusals)
    left_out: list[str] = []
    site.build(folder.parent, tmp_path / "out", None, left_out.append)
    assert words in left_out[0]
    with pytest.raises(MabenchError, match=words):
        client._taken("org/board", folder, tmp_path / "pulled" / "made")


# -- reviews ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkouts(folder: Path) -> tuple[Path, Path]:
    """The submissions as they are and as a request would leave them."""
    shutil.copytree(folder.parent, folder.parent.parent / "head")
    return folder.parent, folder.parent.parent / "head"


def refused(checkouts: tuple[Path, Path]) -> list[str]:
    return [text for each in review.of_folders(*checkouts, images=False) for text in each.refusals]


def test_a_card_is_not_rolled_back(folder: Path) -> None:
    """An earlier card is in the log too: putting it back took no line of it."""
    before = read(folder)
    card = before.files[submissions.CARD].replace(b"Made", b"Corrected")
    logged(folder, who="A. Submitter", action="changed", card_sha256=digests.sha256(card))
    submissions.write(folder, {submissions.CARD: card})
    now = read(folder)
    submissions.write(folder, {submissions.CARD: before.files[submissions.CARD]})
    assert review.grown(read(folder), now).refusals == (
        "card.toml: is an earlier one than the log names last. Put the last one back.",
    )


def test_a_log_takes_no_rumours_and_no_times_to_come(folder: Path) -> None:
    before = read(folder)
    logged(folder, who="mallory", action="re-run", why="re-ran 12 of 12 cells: none reproduces")
    assert "that keeps no record" in review.allowed(read(folder), before, "mallory").refusals[0]
    for when, wrong in (("2099-01-01T00:00:00+00:00", True), ("2020-01-01T00:00:00+00:00", True), (audit_log.now(), False)):
        after = replace(before, audit=(*before.audit, at(before.audit[0], when)))
        assert bool(review.dated(after, before).refusals) == wrong
    assert "by A. Submitter: is the request theirs?" in review.signed(after, before).found


def test_a_request_does_not_say_what_the_board_does_without(checkouts: tuple[Path, Path]) -> None:
    """Nor does it free itself of its set, or a rival's listing of it; a board without a list gets none from a stranger."""
    base, head = checkouts
    write_submission(head, "ghost", 0.9)
    found = refused(checkouts)
    assert "or which sets it does not store" in found[0] and "the board lists no other place of it" in found[1]
    shutil.rmtree(head / "ghost")
    (head / owners.BOARD).write_text('maintainers = ["a maintainer"]\n')
    assert len(refused(checkouts)) == 1
    (base / owners.BOARD).unlink()
    assert len(refused(checkouts)) == 1


def test_another_name_does_not_settle_a_challenge(checkouts: tuple[Path, Path]) -> None:
    base, head = checkouts
    before = read(base / "made")
    for root in checkouts:
        listed(root, "again", before.set_sha256)
        worse = [again(record, -20) for record in before.records.values()]
        submissions.write(root / "made", verify.logged(before, worse, who="R. Reader", seed=0))
    records = {n: submissions.record_bytes(record) for n, record in before.records.items()}
    put(head / "again", before.files[submissions.CARD], records, before.set_sha256)
    for root in checkouts:  # the same minute in both logs
        (root / "made" / submissions.AUDIT).write_bytes((base / "made" / submissions.AUDIT).read_bytes())
    assert "the same set is made, which is challenged" in "\n".join(refused(checkouts))
    assert tiers.decision(read(base / "made").audit, "A. Submitter", ()) == (None, -1)


def test_a_copy_that_differs_by_what_nobody_sees_is_a_copy(folder: Path) -> None:
    """In another order and with one grey level more: of somebody else's set, and of another set of the same submission."""
    rng = np.random.default_rng(0)
    images, labels, order = rng.integers(0, 250, (100, 3, 32, 32), dtype=np.uint8), np.arange(100) // 10, rng.permutation(100)
    with_set(folder, images, labels)
    with_set(thief := write_submission(folder.parent, "thief", 0.5), images[order] + np.uint8(1), labels[order])
    with_set(honest := write_submission(folder.parent, "honest", 0.5), rng.permutation(images), labels)
    mallory = replace(read(thief), audit=tuple(e.model_copy(update={"who": "mallory"}) for e in read(thief).audit))
    assert "the same set is made by A. Author" in acceptance.unique(mallory, folder.parent, None, thief).refusals[0]
    assert acceptance.unique(read(honest), folder.parent, None, honest).found == "no other submission holds this set"
    shutil.copy(thief / "set.safetensors", folder / "set-2.safetensors")
    more = audit_log.make_entry(who="A. Submitter", action="changed", why="x", set_sha256=read(thief).set_sha256)
    shutil.rmtree(thief)
    twice = replace(read(folder), audit=(*read(folder).audit, more))
    assert "two of its sets are one set" in acceptance.unique(twice, folder.parent, None, folder).refusals[0]


def test_a_name_that_is_no_text_is_refused_in_a_comment(checkouts: tuple[Path, Path]) -> None:
    base, head = checkouts
    (head / "made" / "x\udcff").write_text("1")
    comment = base.parent / "comment.md"
    done = CliRunner().invoke(main, ["review", str(head), "--base", str(base), "--no-images", "--comment", str(comment)])
    assert (
        done.exit_code == 1 and isinstance(done.exception, SystemExit) and "neither the log nor a record" in comment.read_text()
    )
