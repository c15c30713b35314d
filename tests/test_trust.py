"""Trust is derived: what forgers try, and what follows for their rows. On made records, without training."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from builders import DIGITS, LITE, listed, made_record, put, tree, write_submission
from click.testing import CliRunner

from mabench import digests, suites
from mabench.board import acceptance, audit_log, gates, names, owners, review, site, tiers, verify
from mabench.board import submission as submissions
from mabench.board.submission import Submission
from mabench.cli.main import main
from mabench.digests import digest
from mabench.errors import MabenchError
from mabench.results import scoring
from mabench.results.uncertainty import Spread
from mabench.schema import RunRecord, Tier


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A submission of every cell of the digits suite, by `A. Submitter`."""
    return write_submission(tmp_path / "submissions", "made", 0.5)


def inflate(record: dict[str, Any]) -> None:
    """Every test pass 25 points higher."""
    record["curve"] = [[e, min(record["total"], c + 125)] for e, c in record["curve"]]


def test_tiers_follow_from_the_records_of_reruns(folder: Path) -> None:
    """Whoever did not submit raises a tier, by records that agree; nothing that a log says does."""

    def add(who: str, count: int, change: Callable[[dict[str, Any]], None] | None = None) -> Submission:
        found = submissions.read(folder)
        assert found is not None
        again = []
        for record in list(found.records.values())[:count]:
            value = record.model_dump(mode="json")
            if change is not None:
                change(value)
            again.append(type(record).model_validate(value))
        submissions.write(folder, verify.logged(found, again, who=who, seed=0))
        changed = submissions.read(folder)
        assert changed is not None
        return changed

    assert add("A. Submitter", 12).tier == "self-run", "nobody raises his own"
    assert add("\u0410. Author", 3).tier == "self-run", "nor does a look-alike of his name"
    assert add("a  SUBMITTER", 12).tier == "self-run"
    assert add("R. Reader", 5).tier == "spot-checked"
    assert add("R. Reader", 12).tier == "verified"
    assert add("S. Other", 3, inflate).tier == "challenged"
    assert add("T. Third", 12).tier == "challenged", "what one account found is not undone by another"
    assert add("S. Other", 3).tier == "verified", "but by itself: the last re-run of a run counts"
    assert add("A. Submitter", 3, inflate).tier == "challenged", "the submitter's own doubts count"


def test_every_track_has_a_tier_of_its_own(tmp_path: Path) -> None:
    """Neither runs of a paper's suite nor those of an earlier edition, which cannot be repeated, keep a row from being verified."""
    root = tmp_path / "submissions"
    ranking, paper = ("cifar10-lite@1", "scratch"), ("cifar10-modelpool@1", "modelpool")
    records = [*cells(LITE, 0.3), *cells(suites.load(paper[0]), 0.3)]
    folder = submitted(root / "made", records)

    def repeated(names: Callable[[RunRecord], bool], change: Callable[[RunRecord], RunRecord] = again) -> Submission:
        before = submissions.read(folder)
        assert before is not None
        submissions.write(
            folder, verify.logged(before, [change(r) for r in before.records.values() if names(r)], who="R. Reader", seed=0)
        )
        after = submissions.read(folder)
        assert after is not None
        return after

    found = repeated(lambda r: (r.cell.suite, r.cell.track) == ranking)
    assert (found.tier_of(*ranking), found.tier_of(*paper), found.tier) == ("verified", "self-run", "spot-checked")
    found = repeated(lambda r: r.cell.suite == ranking[0])
    assert {found.tier_of(ranking[0], track) for track in LITE.evaluators} == {"verified"} and found.tier == "spot-checked"
    found = repeated(lambda r: r.cell.suite == paper[0], lowered)
    assert (found.tier, found.tier_of(*ranking)) == ("challenged", "challenged"), "a contradiction is about the whole submission"
    old = [r.model_copy(update={"cell": r.cell.model_copy(update={"suite_digest": min(LITE.earlier)})}) for r in cells(LITE, 0.3)]
    folder = submitted(root / "older", [*old, *cells(suites.load(paper[0]), 0.3)])
    found = repeated(lambda r: r.cell.suite == paper[0])
    assert (found.tier, found.tier_of(*paper), found.tier_of(*ranking)) == ("verified", "verified", "self-run")


def test_only_runs_that_can_be_repeated_are_drawn_and_those_that_rank_first(tmp_path: Path) -> None:
    root, paper = tmp_path / "submissions", suites.load("cifar10-modelpool")
    old = [r.model_copy(update={"cell": r.cell.model_copy(update={"suite_digest": min(LITE.earlier)})}) for r in cells(LITE, 0.3)]

    def of(slug: str, records: list[RunRecord]) -> Submission:
        found = submissions.read(submitted(root / slug, records))
        assert found is not None
        return found

    both = of("both", [*cells(LITE, 0.3), *cells(paper, 0.3)])
    assert {r.cell.suite for n in range(50) for r in verify.sample(both, 3, n)} == {LITE.id}
    assert sorted(r.cell.suite for r in verify.sample(both, 20, 0)) == [LITE.id] * 18 + [paper.id] * 2
    assert {r.cell.suite for r in verify.sample(both, 3, 0, suite="cifar10-modelpool")} == {paper.id}
    assert {r.cell.track for r in verify.sample(both, 9, 0, tracks=["pretrained"])} == {"pretrained"}
    older = of("older", [*old, *cells(paper, 0.3)])
    assert {r.cell.suite for n in range(50) for r in verify.sample(older, 3, n)} == {paper.id}
    done = CliRunner().invoke(
        main, ["verify", "older", "--submissions", str(root), "--who", "R. Reader", "--suite", "cifar10-lite", "--draw", "1"]
    )
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "older: none of its runs with --suite cifar10-lite can be repeated here" in said
    assert "Allowed: --suite cifar10-modelpool@1 --track modelpool" in said
    with pytest.raises(MabenchError, match="none of its 18 runs can be repeated here.* Verify a submission that the board ranks"):
        verify.sample(of("oldest", old), 3, 0)


def cells(suite: suites.LoadedSuite, accuracy: float) -> list[RunRecord]:
    """A record of every run of a suite, of one set."""
    return [
        made_record(suite, track, entry.name, seed, accuracy, sha=digest("one"))
        for track, entries in suite.evaluators.items()
        for entry in entries
        for seed in suite.suite.seeds
    ]


def submitted(place: Path, records: list[RunRecord]) -> Path:
    card = b'title = "Made"\nauthors = ["A. Author"]\nlicence = "CC0-1.0"\n'
    return put(place, card, {submissions.record_name(r): submissions.record_bytes(r) for r in records}, digest("one"))


def test_only_a_maintainer_settles_what_reruns_found(folder: Path) -> None:
    """An owner's reinstatement takes his own withdrawal back, and no more; a maintainer is none for his own submission."""
    (folder.parent / owners.BOARD).write_text('maintainers = ["Keeper", "A. Submitter"]\n')

    def now() -> Submission:
        found = submissions.read(folder)
        assert found is not None
        return found

    def decided(who: str) -> Tier:
        entry = audit_log.make_entry(who=who, action="tier", tier="self-run", why="x", set_sha256=now().set_sha256)
        submissions.write(folder, submissions.with_entry(now(), entry))
        return now().tier

    low = [lowered(record) for record in list(now().records.values())[:3]]
    submissions.write(folder, verify.logged(now(), low, who="R. Reader", seed=0))
    assert now().tier == "challenged"
    assert decided("A. Submitter") == "challenged", "neither as the owner nor as a maintainer"
    for almost in ("keeper", "K-eeper", "\u041aeeper"):
        assert decided(almost) == "challenged", "rights are for names letter by letter"
        with pytest.raises(MabenchError, match="may not decide 'withdrawn'. Its submitter, A. Submitter, may"):
            verify.decision(now(), "withdrawn", who=almost, why="x")
    assert decided("Keeper") == "self-run"
    before = now()
    entry = audit_log.make_entry(who="a. submitter", action="tier", tier="withdrawn", why="x", set_sha256=before.set_sha256)
    submissions.write(folder, submissions.with_entry(before, entry))
    assert now().tier == "self-run"
    assert "only 'A. Submitter' or a maintainer may" in "\n".join(reviewed(folder, before=before))


def lowered(record: RunRecord) -> RunRecord:
    """A re-run that finds 20 points less."""
    curve = tuple((epoch, max(0, count - record.total // 5)) for epoch, count in record.curve)
    return again(record).model_copy(update={"curve": curve})


def again(record: RunRecord) -> RunRecord:
    """The same result, an hour later."""
    return record.model_copy(update={"seconds": record.seconds + 1.0, "started": "2026-11-20T10:00:00+00:00"})


def test_a_copy_of_a_record_is_no_rerun(folder: Path) -> None:
    before = submissions.read(folder)
    assert before is not None
    records = list(before.records.values())[:2]
    submissions.write(folder, verify.logged(before, records, who="friend", seed=0))
    assert "as the submitted record did: a copy" in "\n".join(reviewed(folder, before=before, account="friend"))


def test_a_rerun_describes_the_same_set(folder: Path) -> None:
    """It counts in the table, so a friend's could move the row to a smaller budget, or above what all real images give."""
    found = submissions.read(folder)
    assert found is not None
    tenth = {"ipc": 1, "stored_images": 10, "decoded_images": 10, "stored_bytes": 30720}
    smaller = [
        again(record).model_copy(update={"synthetic_set": record.synthetic_set.model_copy(update=tenth)})
        for record in found.records.values()
    ]
    submissions.write(folder, verify.logged(found, smaller, who="friend", seed=0))
    with pytest.raises(MabenchError, match="reruns/ budget: .* describes the set differently"):
        acceptance.read_accepted(folder)


def test_an_author_does_not_become_somebody_else(folder: Path) -> None:
    """Whoever leaves the card could confirm the set."""
    before = submissions.read(folder)
    assert before is not None
    after = replace(before, card=before.card.model_copy(update={"authors": ("A. Alias",)}))
    assert "A. Author: removed from the card's names" in review.grown(after, before).refusals[0]
    more = replace(before, card=before.card.model_copy(update={"authors": ("A. Author", "B. Author")}))
    assert not review.grown(more, before).refusals


def test_which_runs_are_repeated_is_not_known_beforehand(tmp_path: Path) -> None:
    """Whoever knew the draw could tell the truth in three runs and lie in the others; a re-run that was interrupted goes on."""
    assert len({verify.draw_of("made", tmp_path) for _ in range(20)}) > 15
    for name in ("made-77", "made-x", "made-1-5"):
        (tmp_path / name).mkdir()
    assert verify.draw_of("made", tmp_path) == 77 and verify.draw_of("made-1", tmp_path) == 5


def test_what_a_spot_check_misses_is_as_the_evidence_says() -> None:
    """18 runs, 6 of them inflated: the chance that none of those drawn is one of the 6."""
    missed = {cells: math.comb(12, cells) / math.comb(18, cells) for cells in (3, 6)}
    assert {cells: round(100 * chance) for cells, chance in missed.items()} == {3: 27, 6: 5}
    text = (Path(__file__).parents[1] / "docs" / "evidence" / "trust.md").read_text()
    assert "three random ones miss all 6 in 27 of 100 cases, and six random ones in 5." in text


def test_a_set_that_is_added_later_is_not_somebody_elses(folder: Path) -> None:
    before = submissions.read(folder)
    assert before is not None
    write_submission(folder.parent, "rival", 0.3)
    entries = [before.audit[0], before.audit[0].model_copy(update={"action": "changed", "set_sha256": digest("rival")})]
    extended = replace(before, audit=tuple(entry.model_copy(update={"who": "mallory"}) for entry in entries))
    found = acceptance.unique(extended, folder.parent, before)
    assert found.refusals and "the same set is rival" in found.refusals[0]
    assert not acceptance.unique(before, folder.parent, before).refusals


def test_a_line_of_the_log_raises_nothing(folder: Path) -> None:
    found = submissions.read(folder)
    assert found is not None
    for action in ("re-run", "tier"):
        forged = audit_log.make_entry(who="Prof. X", action=action, tier="verified", why="all agree", set_sha256=found.set_sha256)
        submissions.write(folder, submissions.with_entry(found, forged))
        found = submissions.read(folder)
        assert found is not None and found.tier == "self-run"


def test_only_owner_and_maintainers_decide_and_it_can_be_taken_back(folder: Path) -> None:
    def decide(who: str, tier: Tier) -> Tier:
        found = submissions.read(folder)
        assert found is not None
        entry = audit_log.make_entry(who=who, action="tier", tier=tier, why="x", set_sha256=found.set_sha256)
        submissions.write(folder, submissions.with_entry(found, entry))
        changed = submissions.read(folder)
        assert changed is not None
        return changed.tier

    (folder.parent / owners.BOARD).write_text('maintainers = ["M. Keeper"]\n')
    assert decide("Anybody", "withdrawn") == "self-run"
    assert decide("A. Submitter", "withdrawn") == "withdrawn"
    assert decide("Anybody", "self-run") == "withdrawn"
    assert decide("A. Submitter", "self-run") == "self-run"
    assert decide("A. Submitter", "challenged") == "self-run", "a challenge is a maintainer's, or follows from a re-run"
    assert decide("M. Keeper", "challenged") == "challenged"
    assert decide("A. Submitter", "self-run") == "challenged", "a maintainer's decision is not the author's to take back"
    assert decide("M. Keeper", "self-run") == "self-run"


@pytest.mark.parametrize(
    ("spread", "networks", "seeds"), [(0.005, 3, 3), (0.0088, 2, 3), (0.0173, 1, 3), (0.01, 6, 3), (0.03, 1, 1)]
)
def test_a_lie_of_a_point_and_a_half_passes_in_five_percent_at_most(spread: float, networks: int, seeds: int) -> None:
    """On another machine, where nothing is identical, whatever the spread: noise makes a re-run undecided, never a liar's friend."""
    draw, error = random.Random(1), math.sqrt(2 * spread**2 / seeds / networks)

    def passed(lie: float) -> float:
        found = (tiers.Agreement("s@1", "t", "official", -lie + draw.gauss(0, error), error, math.inf, 9, 0) for _ in range(4000))
        return sum(agreement.verdict == "agrees" for agreement in found) / 4000

    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 4000)
    assert all(passed(lie / 1000) <= limit for lie in (15, -15, 20, 40, 100))
    assert passed(0.0) > 0.95 or error > 0.004, "an honest re-run agrees, unless its runs are too few for their noise"


@pytest.mark.parametrize(
    ("spread", "networks", "seeds"), [(0.02, 6, 3), (0.02, 6, 2), (0.005, 6, 3), (0.03, 2, 5), (0.012, 1, 9)]
)
def test_a_lie_passes_no_more_often_where_the_spread_was_never_measured(spread: float, networks: int, seeds: int) -> None:
    """The re-run's own seeds stand in for it, and three of them say little: Student's t counts that."""
    draw = random.Random(2)

    def verdict(lie: float) -> str:
        again = [[draw.gauss(0, spread) for _ in range(seeds)] for _ in range(networks)]
        recorded = draw.gauss(lie, spread / math.sqrt(seeds * networks))
        own = [tiers.spread_of(None, scores) for scores in again]
        errors = [(1 / networks, Spread(each.std * math.sqrt(2 / seeds), each.degrees)) for each in own]
        found = tiers.together(errors, sum(map(sum, again)) / seeds / networks - recorded)
        assert found is not None
        return tiers.Agreement("s@1", "t", "official", found.mean, found.error, found.degrees, 9, 0).verdict

    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)
    for lie in (0.015, -0.015, 0.02, 0.04):
        assert [verdict(lie) for _ in range(2000)].count("agrees") <= 2000 * limit
    assert [verdict(0.0) for _ in range(2000)].count("contradicts") <= 2000 * limit


def test_one_seed_of_a_network_whose_spread_nobody_measured_leaves_the_answer_open(folder: Path) -> None:
    """Neither confirmed nor refuted, whatever it finds; a bit-identical run needs no spread."""
    found = submissions.read(folder)
    assert found is not None
    one_each = [record for record in found.records.values() if record.cell.seed == 0]
    for changed in ([higher(r, 2) for r in one_each], [lowered(r) for r in one_each]):
        (answer,) = tiers.agreements(found.records.values(), changed)
        assert (answer.error, answer.verdict) == (None, "open")
    (answer,) = tiers.agreements(found.records.values(), map(again, one_each))
    assert (answer.error, answer.verdict) == (0.0, "agrees")
    (answer,) = tiers.agreements(found.records.values(), map(lowered, found.records.values()))
    assert answer.error is not None and answer.verdict == "contradicts"


def higher(record: RunRecord, images: int) -> RunRecord:
    """A re-run that gets a few images more right."""
    return again(record).model_copy(update={"curve": tuple((e, c + images) for e, c in record.curve)})


def test_the_error_of_a_rerun_is_that_of_the_panel_and_not_the_submitters(folder: Path) -> None:
    """Scattered records buy no tolerance: the spread is the re-run's own where the suite's was never measured."""
    entry = submissions.read(folder)
    assert entry is not None
    honest = list(entry.records.values())
    scores = {r.cell.evaluator.name: [] for r in honest}  # type: ignore[var-annotated]
    for record in honest:
        scores[record.cell.evaluator.name].append(record.best)
    weights = scoring.weights(DIGITS, "scratch")
    expected = math.sqrt(sum((w * max(0.01, stdev(scores[name]))) ** 2 * 2 / 3 for name, w in weights.items()))
    scattered = []
    for number, record in enumerate(honest):
        shift = (number % 3 - 1) * 50 + 30  # test images of 500: minus four, six and sixteen points
        curve = [(epoch, max(0, min(record.total, count + shift))) for epoch, count in record.curve]
        scattered.append(record.model_copy(update={"curve": tuple(curve)}))
    (found,) = tiers.agreements(scattered, honest)
    lie = sum(
        w * (sum(r.best for r in scattered if r.cell.evaluator.name == n) / 3 - sum(scores[n]) / 3) for n, w in weights.items()
    )
    assert found.difference == pytest.approx(-lie) and lie > 0.05
    assert found.error == pytest.approx(expected) and found.verdict == "contradicts"


def test_a_log_stops_before_nobody_would_read_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = submissions.read(folder)
    assert found is not None
    monkeypatch.setattr(audit_log, "MAX_RECORD_BYTES", len(found.files["audit.jsonl"]) + 50)
    entry = audit_log.make_entry(who="x", action="changed", why="y" * 200, set_sha256=found.set_sha256)
    with pytest.raises(MabenchError, match="Nothing was written"):
        submissions.with_entry(found, entry)


@pytest.mark.parametrize(
    ("limit", "room", "words"),
    [
        (
            "MAX_BYTES",
            lambda found: sum(map(len, found.files.values())) + 3000,
            "bytes without its sets, and 19 files and folders",
        ),
        ("MAX_FILES", lambda found: len(found.files) + 3, "bytes without its sets, and 19 files and folders"),
    ],
)
def test_a_rerun_that_would_make_a_submission_unreadable_is_refused_before_it_is_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, room: Callable[[Submission], int], words: str
) -> None:
    """The files are as they were, and no set was asked for: nothing was computed."""
    found, before = submissions.read(folder), tree(folder)
    assert found is not None
    monkeypatch.setattr(submissions, limit, room(found))
    with pytest.raises(
        MabenchError, match=f"made: would have .* {words}; at most .* are read. Nothing was written: add fewer records"
    ):
        verify.logged(found, [again(record) for record in list(found.records.values())[:2]], who="R. Reader", seed=0)
    done = CliRunner().invoke(
        main, ["verify", "made", "--submissions", str(folder.parent), "--who", "R. Reader", "--cells", "2", "--draw", "1"]
    )
    assert done.exit_code == 2 and words in " ".join(done.output.split()) and tree(folder) == before
    assert submissions.read(folder) is not None


def test_a_full_log_is_said_before_runs_are_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = submissions.read(folder)
    assert found is not None
    monkeypatch.setattr(audit_log, "MAX_RECORD_BYTES", len(found.files["audit.jsonl"]) + 50)
    done = CliRunner().invoke(main, ["verify", "made", "--submissions", str(folder.parent), "--who", "R. Reader", "--draw", "1"])
    assert done.exit_code == 2 and "audit log: would have" in " ".join(done.output.split())


def test_the_card_is_in_the_log(folder: Path) -> None:
    card = folder / "card.toml"
    card.write_text(card.read_text().replace("Made", "SUPERSEDED"))
    with pytest.raises(MabenchError, match="not the card that the audit log names"):
        submissions.read(folder)


# -- what forgers try ----------------------------------------------------------------------------------------------


def built(root: Path) -> tuple[dict[str, site.standings.Standing], list[str]]:
    left_out: list[str] = []
    rows = site.build(root, root.parent / "out", None, left_out.append)
    return {row.key: row for row in rows}, left_out


def remade(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every record as a forger would who also writes card and log."""
    sha = ""
    found: dict[str, bytes] = {}
    for place in sorted((path / "records").iterdir()):
        value = json.loads(place.read_bytes())
        value.pop("checksum", None)
        change(value)
        sha = value["cell"]["set_sha256"]
        cell = value["cell"]
        found[f"{cell['suite']}--{cell['track']}--{cell['evaluator']['name']}--seed{cell['seed']}"] = json.dumps(value).encode()
    card = (path / submissions.CARD).read_bytes()
    shutil.rmtree(path)
    put(path, card, found, sha)


def one_pass(record: dict[str, Any]) -> None:
    record.update(curve=[[1, 1]], total=1)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "one test pass of one image": (one_pass, "1 test passes up to epoch 1"),
    "another test split": (lambda r: r.update(test_sha256="f" * 64), "Run the cell on the real split"),
    "no environment": (lambda r: r.update(environment={}), "the environment lacks mabench"),
    "no time": (lambda r: r.update(started="never"), "started is not a valid time"),
    "endless": (lambda r: r.update(seconds=1e308), "1e+308 seconds are more than 1e+08"),
    "a suite of the future": (lambda r: r["cell"].update(suite="digits-agnostic@99"), "is not a released suite"),
    "another recipe": (lambda r: r["cell"]["recipe"].update(learning_rate=0.5), "differs in recipe"),
    "another seed": (lambda r: r["cell"].update(seed=r["cell"]["seed"] + 7), "no such track, evaluator or seed"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_folder_made_by_hand_is_left_out_and_the_rest_is_built(folder: Path, name: str) -> None:
    change, words = FORGERIES[name]
    remade(write_submission(folder.parent, "ghost", 0.9), change)
    rows, left_out = built(folder.parent)
    assert set(rows) == {"made"} and rows["made"].rank == 1
    assert len(left_out) == 1 and left_out[0].startswith("ghost: ") and words in left_out[0], left_out


def test_records_of_an_earlier_edition_are_kept_unranked_and_cannot_be_submitted(folder: Path) -> None:
    """They stay what they are; they rank nothing, lend their spread to nobody, and have no lift over a later edition's baseline."""

    def earlier(record: dict[str, Any]) -> None:
        record["cell"]["suite_digest"] = min(DIGITS.earlier)
        del record["cell"]["seed_streams"]

    before, _ = built(folder.parent)
    old = write_submission(folder.parent, "ghost", 0.9)
    remade(old, earlier)
    rows, left_out = built(folder.parent)
    assert not left_out and rows["ghost"].why_unranked == "run under an earlier edition of the suite"
    assert rows["ghost"].lift is None and rows["ghost"].runs == 12
    current, outdated = (folder.parent.parent / "out" / "leaderboard.md").read_text().split("\n## ")[1:]
    assert "| Made" in current and "Ghost" not in current, "numbers of two editions share no table"
    assert outdated.startswith(f"{DIGITS.id}, scratch, IPC 10, hard labels (earlier edition)\n")
    assert "| Ghost" in outdated and "Made" not in outdated and "baseline |" not in outdated
    assert (rows["made"].rank, rows["made"].half_width) == (1, before["made"].half_width)
    entry = submissions.read(old)
    assert entry is not None and all(record.cell.seed_streams == "fixed" for record in entry.records.values())
    refused = [text for gate in gates.of_records(list(entry.records.values())) for text in gate.refusals]
    assert len(refused) == 1 and "12 records were made under a changed suite" in refused[0]


def test_the_command_says_who_is_left_out_and_exits_with_one(folder: Path) -> None:
    write_submission(folder.parent, "ghost", 0.9)
    (folder.parent / "ghost" / submissions.AUDIT).write_text("{}\n")
    result = CliRunner().invoke(
        main, ["leaderboard", "build", "--submissions", str(folder.parent), "--out", str(folder.parent.parent / "o")]
    )
    assert (
        result.exit_code == 1
        and "left out: " in result.output
        and "ghost" in result.output
        and "1 of 1 rows ranked" in result.output
    )


def test_a_row_without_its_set_needs_the_boards_list(folder: Path) -> None:
    write_submission(folder.parent, "ghost", 0.9)
    (folder.parent / owners.BOARD).write_text("")
    listed(folder.parent, "made", digest("made"))
    rows, left_out = built(folder.parent)
    assert set(rows) == {"made"} and "the board lists no other place of it" in left_out[0]
    listed(folder.parent, "ghost", "0" * 64)
    assert "the board lists no other place of it" in built(folder.parent)[1][0], "the list names a set, not only a slug"


def test_forged_curves_with_right_checksums_stay_self_run_and_fall_to_a_rerun(folder: Path) -> None:
    """Nothing on a page can tell an invented curve from a real one; so it is said who has seen it, and a re-run's numbers count."""
    forged = write_submission(folder.parent, "forged", 0.97 - 0.08)
    rows, _ = built(folder.parent)
    assert rows["forged"].tier == "self-run"
    entry = submissions.read(forged)
    assert entry is not None
    honest = [
        again(made_record(DIGITS, "scratch", r.cell.evaluator.name, r.cell.seed, 0.2, sha=entry.set_sha256))
        for r in entry.records.values()
    ]
    submissions.write(forged, verify.logged(entry, honest, who="R. Reader", seed=0))
    rows, _ = built(folder.parent)
    row = rows["forged"]
    assert (row.tier, row.rank) == ("challenged", None) and row.score == pytest.approx(0.2) and rows["made"].rank == 1
    assert row.claimed == pytest.approx(0.93, abs=0.02), "the submitter's number stays beside"


def test_the_submitters_number_stands_beside_that_of_the_reruns(folder: Path) -> None:
    """On every page that shows the score, and in Markdown; nowhere for a set that nobody has repeated."""
    write_submission(folder.parent, "alone", 0.4)
    entry = submissions.read(folder)
    assert entry is not None
    lower = [again(r).model_copy(update={"curve": tuple((e, c - 4) for e, c in r.curve)}) for r in entry.records.values()]
    submissions.write(folder, verify.logged(entry, lower, who="R. Reader", seed=0))
    rows, _ = built(folder.parent)
    row, page = rows["made"], folder.parent.parent / "out"
    assert row.score is not None and row.claimed is not None and rows["alone"].claimed is None
    assert row.claimed - row.score == pytest.approx(4 / 500, abs=0.001)
    claimed = f"{100 * row.claimed:.1f}"
    for name in ("index.html", f"suites/{DIGITS.id}/index.html"):
        assert (page / name).read_text().count(f">submitter {claimed}</small>") == 1, name
    assert f"<small>{claimed} % by the submitter" in (page / "sets/made/index.html").read_text()
    assert "by the submitter's own runs" not in (page / "sets/alone/index.html").read_text()
    lines = [line for line in (page / "leaderboard.md").read_text().splitlines() if line.startswith("|")]
    header, *body = ([cell.strip() for cell in line.split("|")] for line in (lines[0], *lines[2:]))
    beside = {cells[header.index("set")]: cells[header.index("submitter's")] for cells in body}
    assert beside == {"Made": f"{100 * row.claimed:.2f}", "Alone": "-"}


def test_names_are_compared_as_a_reader_sees_them() -> None:
    alike = [
        ("Seung Moon", "Seung \u041coon"), ("Seung Moon", "seung moon"), ("Seung Moon", "SEUNG-MOON"), ("HMDC", "H\u041cDC"),
        ("Zoe", "Zo\u00eb"), ("alice", "\u0430lice"), ("alice", "al\u0456ce"), ("Paul", "Pau1"), ("Bob", "B0b"), ("xerxes", "\u0445\u0435r\u0445\u0435\u0455"),
        ("fine", "\ufb01ne"), ("A. Author", "\uff21. \uff21uthor"), ("A. Author", "A.\u00a0Author"),
    ]  # fmt: skip
    for first, second in alike:
        assert names.skeleton(first) == names.skeleton(second), (first, second)
    for first, second in (("Seung Moon", "Seung Noon"), ("A. Author", "B. Author"), ("\u4e2d\u6587", "\u65e5\u672c")):
        assert names.skeleton(first) != names.skeleton(second)


def test_honest_submissions_pass(folder: Path) -> None:
    entry = submissions.read(folder)
    assert entry is not None and acceptance.accept(entry, has_set=False) is entry
    assert all(not gate.refusals for gate in acceptance.of_submission(entry, has_set=False))


def vandalise(folder: Path, who: str, action: str = "changed") -> None:
    """The card replaced, and an honest line in the log that says by whom: merged without a review."""
    found = submissions.read(folder)
    assert found is not None
    card = found.files[submissions.CARD].replace(b"Made", b"HACKED")
    entry = audit_log.make_entry(
        who=who, action=action, why="card changed", set_sha256=found.set_sha256, card_sha256=digests.sha256(card)
    )
    submissions.write(folder, {submissions.CARD: card} | submissions.with_entry(found, entry))


@pytest.mark.parametrize("action", ["changed", "submitted"])
def test_a_card_that_somebody_else_changed_leaves_the_row_out_of_the_board(folder: Path, action: str) -> None:
    """Whoever merged it: the board names the row, builds the others and says by its exit code that it is not whole."""
    write_submission(folder.parent, "low", 0.3)
    vandalise(folder, "Mallory", action)
    out = folder.parent.parent / "o"
    result = CliRunner().invoke(main, ["leaderboard", "build", "--submissions", str(folder.parent), "--out", str(out)])
    assert result.exit_code == 1 and "HACKED" not in (out / "leaderboard.json").read_text(), result.output
    said = " ".join(result.output.split())
    assert "1 of 1 rows ranked" in said and f"made: changes: {action} on 20" in said
    assert "by 'Mallory': only 'A. Submitter' or a maintainer may; board.toml names those." in said
    with pytest.raises(MabenchError, match="by 'Mallory'"):
        acceptance.read_accepted(folder)


def test_a_maintainer_may_correct_a_card(folder: Path) -> None:
    vandalise(folder, "a maintainer")
    accepted = acceptance.read_accepted(folder)
    assert accepted is not None and accepted.card.title == "HACKED"


def test_a_set_that_somebody_else_adds_does_not_pull_the_row_down(folder: Path) -> None:
    found, sha = submissions.read(folder), "ab" * 32
    assert found is not None
    worse = [made_record(DIGITS, "scratch", r.cell.evaluator.name, r.cell.seed, 0.1, sha=sha) for r in found.records.values()]
    added = {submissions.record_name(r, 2): submissions.record_bytes(r) for r in worse}
    named = {name: digests.sha256(content) for name, content in added.items()}
    entry = audit_log.make_entry(who="Mallory", action="changed", why="set 2", set_sha256=sha, records=named)
    files = {f"records/{name}.json": content for name, content in added.items()}
    submissions.write(folder, files | submissions.with_entry(found, entry))
    (folder / "set.safetensors").write_bytes(b"x")
    (folder / "set-2.safetensors").write_bytes(b"x")
    with pytest.raises(MabenchError, match="made: changes: changed on .* by 'Mallory'"):
        acceptance.read_accepted(folder)
    assert built(folder.parent)[0] == {}


# -- review --------------------------------------------------------------------------------------------------------


def reviewed(folder: Path, *, before: Submission | None = None, account: str | None = None) -> list[str]:
    return review.review(folder, before=before, account=account).refusals


def test_a_review_opens_for_what_is_honest(folder: Path) -> None:
    assert reviewed(folder) == []
    before = submissions.read(folder)
    assert before is not None
    repeated = [again(record) for record in list(before.records.values())[:2]]
    submissions.write(folder, verify.logged(before, repeated, who="reader", seed=0))
    assert reviewed(folder, before=before, account="reader") == []


def test_a_review_refuses_what_only_a_comparison_shows(folder: Path) -> None:
    before = submissions.read(folder)
    assert before is not None
    repeated = [again(record) for record in list(before.records.values())[:2]]
    submissions.write(folder, verify.logged(before, repeated, who="reader", seed=0))
    assert "sent by 'mallory'" in "\n".join(reviewed(folder, before=before, account="mallory"))
    longer = submissions.read(folder)
    submissions.write(folder, {submissions.AUDIT: before.files[submissions.AUDIT]})
    assert "the log was shortened or changed" in "\n".join(reviewed(folder, before=longer))
    card = before.files[submissions.CARD].replace(b"Made", b"SUPERSEDED, use ours")
    entry = audit_log.make_entry(
        who="mallory", action="changed", why="card", set_sha256=before.set_sha256, card_sha256=digests.sha256(card)
    )
    submissions.write(folder, {submissions.CARD: card} | submissions.with_entry(before, entry))
    assert "only 'A. Submitter' or a maintainer may" in "\n".join(reviewed(folder, before=before, account="mallory"))


def test_the_same_set_under_a_slug_of_somebody_else_is_found(folder: Path) -> None:
    """And where it is on a board, it shares the rank and pushes nobody down."""
    write_submission(folder.parent, "low", 0.3)
    for number in range(10):
        shutil.copytree(folder, folder.parent / f"copy{number}")
        listed(folder.parent, f"copy{number}", digest("made"))
    rows, _ = built(folder.parent)
    assert {rows[f"copy{k}"].rank for k in range(10)} == {rows["made"].rank} == {1} and rows["low"].rank == 2
    stolen = folder.parent / "stolen"
    records = {p.stem: p.read_bytes() for p in (folder / "records").iterdir()}
    put(stolen, (folder / submissions.CARD).read_bytes(), records, digest("made"))
    entry = audit_log.make_entry(
        who="mallory", action="submitted", why="mine", set_sha256=digest("made"),
        records={k: digests.sha256(v) for k, v in records.items()},
        card_sha256=digests.sha256((folder / submissions.CARD).read_bytes()),
    )  # fmt: skip
    submissions.write(stolen, {submissions.AUDIT: audit_log.appended((), entry)})
    assert "the same set is copy0 by A. Author" in "\n".join(reviewed(stolen))


def test_the_review_command_exits_with_one_and_writes_a_comment(folder: Path, tmp_path: Path) -> None:
    comment = tmp_path / "review.md"
    good = CliRunner().invoke(main, ["review", str(folder), "--comment", str(comment)])
    assert good.exit_code == 0 and "every gate is open" in comment.read_text(), good.output
    (folder / submissions.CARD).write_text('title = "<b>x</b>"\n')
    bad = CliRunner().invoke(main, ["review", str(folder), "--comment", str(comment)])
    assert bad.exit_code == 1 and "refused" in comment.read_text() and "not the card that the audit log names" in bad.output
    assert CliRunner().invoke(main, ["review"]).exit_code == 2
