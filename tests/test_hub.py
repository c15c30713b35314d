"""The Hub dataset: the unmodified huggingface_hub, hf_xet and datasets clients, each in its own process, against hub_server."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import BUNDLED, Command, tree, write_card
from builders import write_submission as make_submission
from support import hub_server
from support.hub_server import Blob, Fault, Hub, Repo

from mabench import digests
from mabench.board import audit_log, cells, submit
from mabench.board import site as leaderboard
from mabench.board import submission as submissions
from mabench.board.cells import CellRow
from mabench.board.hub.errors import CONFLICTS, explained
from mabench.board.submission import AUDIT, CARD, Submission
from mabench.errors import MabenchError
from mabench.results import paper_tables as papers

REPO = "board/results"
SPACE = "board/page"
CARD_OF_THE_SPACE = Path(__file__).parents[1] / "leaderboard" / "README.md"
Client = Callable[..., "subprocess.CompletedProcess[str]"]

PUSH = """
import sys
from pathlib import Path
from mabench.board import submission as submissions
from mabench.board.hub import client as hub
def make(existing):
    source = Path(sys.argv[3])
    files = {p.relative_to(source).as_posix(): p.read_bytes() for p in sorted(source.rglob('*')) if p.is_file()}
    if existing is None:
        return files
    return {n: c for n, c in files.items() if n != 'set.safetensors' and existing.files.get(n) != c}
flags = {f.lstrip('-').replace('-', '_'): True for f in sys.argv[4:]}
done = hub.push(sys.argv[1], sys.argv[2], make, message=f'submission: {sys.argv[2]}', **flags)
print(len(done.changed), *done.changed)
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The variables of a machine of its own: nothing cached, one user logged in."""

    def make(server: Hub, user: str = "alice", machine: str = "m", xet: bool = False) -> dict[str, str]:
        return hub_server.machine(server, tmp_path / f"home-{machine}", user, xet=xet)

    return make


@pytest.fixture(scope="module")
def written(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written submission, for reading only: all 12 cells of the bundled digits set."""
    place = tmp_path_factory.mktemp("written")
    case = submit.examine(BUNDLED, [digits_run], write_card(place / "card.toml", title="k-means's <script>|[x](y)"))
    assert not case.refusals
    submissions.write(place / case.slug, submit.changes(case, None, who="alice"))
    return place / case.slug


@pytest.fixture
def submission(written: Path, tmp_path: Path) -> Path:
    """A copy of the written submission."""
    return Path(shutil.copytree(written, tmp_path / "made" / written.name))


@pytest.fixture
def push(submission: Path, python: Command, environment: Callable[..., dict[str, str]]) -> Client:
    """`push(server, *flags)`: a process of its own sends the written submission; `meanwhile` while another does."""

    def call(
        server: Hub, *flags: str, slug: str = submission.name, folder: Path = submission, meanwhile: bool = False, **who: Any
    ) -> subprocess.CompletedProcess[str]:
        arguments, variables = [REPO, slug, str(folder), *flags], environment(server, **who)
        if not meanwhile:
            return python(PUSH, *arguments, **variables)
        command = [sys.executable, "-c", PUSH, *arguments]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300)

    return call


@pytest.fixture(scope="module")
def state(written: Path, python: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Repo], dict[str, bytes]]:
    """What a server holds after the written submission was pushed to it."""
    with Hub() as server:
        done = python(PUSH, REPO, written.name, written, **hub_server.machine(server, tmp_path_factory.mktemp("home")))
        assert done.returncode == 0, done.stderr
        return server.repos, server.storage


@pytest.fixture
def pushed(server: Hub, state: tuple[dict[str, Repo], dict[str, bytes]]) -> Hub:
    """A server to which the written submission was pushed."""
    server.repos, server.storage = copy.deepcopy(state)
    return server


def whole(server: Hub, folder: Path, slug: str = "digits-kmeans") -> None:
    """The repository holds exactly this submission, once, and a table that says so."""
    files = server.repos[REPO].files()
    inside = {
        n.removeprefix(f"submissions/{slug}/"): server.content(b)
        for n, b in files.items()
        if n.startswith(f"submissions/{slug}/")
    }
    assert inside == tree(folder)
    rows = table(server)
    mine = [r for r in rows if r["slug"] == slug]
    assert len(mine) == 12 and len({(r["suite"], r["track"], r["evaluator"], r["seed"]) for r in mine}) == 12
    assert all((r["status"], r["tier"]) == ("ranked", "self-run") for r in mine)


def table(server: Hub) -> list[dict[str, Any]]:
    """The rows that were run; papers' numbers lie in a table of their own, and are those of the program."""
    import io

    import pyarrow.parquet as pq

    files = server.repos[REPO].files()
    printed = pq.read_table(io.BytesIO(server.content(files["data/papers.parquet"]))).to_pylist()
    assert printed == [row._asdict() for row in cells.of_papers(papers.read(papers.INSTALLED))] and len(printed) > 100
    soft = {r["suite"] for r in printed if r["labels"] == "soft"}
    assert soft == {r["suite"] for r in printed if re.search("-gvbsm|-rded", r["suite"])} != set()
    assert all(r["where"] and r["slug"].startswith("paper.") for r in printed)
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(server.content(files["data/cells.parquet"]))).to_pylist()
    return rows


# -- the whole way -------------------------------------------------------------------------------------------------

LOAD = """
import sys, datasets
assert datasets.get_dataset_config_names(sys.argv[1]) == ['cells', 'papers', 'digits-kmeans']
pictures = datasets.load_dataset(sys.argv[1], 'digits-kmeans', split='train')
assert isinstance(pictures.features['image'], datasets.Image) and len(pictures) == 50
assert pictures.features['label'].names[3] == 'three' or pictures.features['label'].names[3] == '3', pictures.features
assert pictures[7]['image'].size == (32, 32) and pictures['label'] == sorted(pictures['label'])
rows = datasets.load_dataset(sys.argv[1], 'cells', split='train')
papers = datasets.load_dataset(sys.argv[1], 'papers', split='train')
assert len(papers) > 100 and not set(papers['slug']) & set(rows['slug'])
print(len(rows), rows.column_names == sys.argv[2].split(','), round(sum(rows['score']) / len(rows), 6), rows[0]['tier'])
"""


NO_XET = importlib.util.find_spec("hf_xet") is None
XET = pytest.mark.skipif(NO_XET, reason="this huggingface_hub came without hf_xet")


@pytest.mark.parametrize(
    "storage", ["lfs", *(pytest.param(kind, marks=[pytest.mark.slow, XET]) for kind in ("xet", "xet-client-lfs-server"))]
)
def test_round_trip(
    mabench: Command, python: Command, tmp_path: Path, digits_run: Path, environment: Callable[..., dict[str, str]], storage: str
) -> None:
    """Pull request, merge, refresh, load_dataset, pull on a clean machine, re-run there, load again."""
    with Hub(xet=storage == "xet") as server:
        server.create(REPO)
        alice = environment(server, "reader", "a", xet=storage != "lfs")  # may not write to board/
        write_card(tmp_path / "card.toml")
        sending = ("submit", BUNDLED, "--records", digits_run, "--repo", REPO)
        denied = mabench(*sending, **alice)
        assert denied.returncode == 2 and "--create-pr" in denied.stderr.splitlines()[-1], denied.stderr
        assert "identity" not in denied.stdout, "said before the gates run"
        done = mabench(*sending, "--create-pr", **alice)
        assert done.returncode == 0 and "/discussions/1" in done.stdout, done.stderr
        assert not (tmp_path / "submissions").exists()
        again = mabench(*sending, "--create-pr", **alice)
        assert again.returncode == 0 and "nothing to send" in again.stdout and len(server.repos[REPO].pulls) == 1, again.stderr
        bob = environment(server, "bob", "b", xet=storage == "xet")
        merge = f"from huggingface_hub import HfApi; HfApi().merge_pull_request({REPO!r}, 1, repo_type='dataset')"
        assert python(merge, **bob).returncode == 0
        assert "data/cells.parquet" not in server.repos[REPO].files()
        fresh = mabench("refresh", "--repo", REPO, **bob)
        assert fresh.returncode == 0 and "sent: 4 files" in fresh.stdout, fresh.stderr
        assert "nothing to send" in mabench("refresh", "--repo", REPO, **bob).stdout

        def load() -> list[str]:
            shown = python(LOAD, REPO, ",".join(CellRow._fields), **environment(server, "", "c"))
            assert shown.returncode == 0, shown.stderr
            return shown.stdout.split()

        mean = json.loads((digits_run / "results.json").read_text())["cells"]
        assert load() == ["12", "True", str(round(sum(c["acc_best"] for c in mean) / 12, 6)), "self-run"]
        clean = environment(server, "carol", "d", xet=storage == "xet")
        pulled = mabench("pull", "digits-kmeans", "--repo", REPO, **clean)
        assert pulled.returncode == 0 and "12 records, tier self-run" in pulled.stdout, pulled.stderr
        assert submissions.read(tmp_path / "submissions" / "digits-kmeans") is not None
        if storage == "xet":
            stored = server.repos[REPO].files()["submissions/digits-kmeans/set.safetensors"]
            assert stored.xet and server.count("GET", "xet-read-token") >= 1
            without = mabench(
                "pull", "digits-kmeans", "--repo", REPO, "--submissions", "plain", **environment(server, "dave", "e")
            )
            assert without.returncode == 0, without.stderr
            return
        seed = next(s for s in range(200) if "mlp" in next(iter(sampled(tmp_path, s))))
        checked = mabench("verify", "digits-kmeans", "--cells", "1", "--draw", seed, "--repo", REPO, **clean)
        assert checked.returncode == 0 and "self-run -> spot-checked" in checked.stdout, checked.stderr
        assert load()[-1] == "spot-checked"
        found = submissions.read(tmp_path / "submissions" / "digits-kmeans")
        assert found is not None and [(e.who, e.action) for e in found.audit] == [("reader", "submitted"), ("carol", "re-run")]
        offline = mabench("pull", "digits-kmeans", "--repo", REPO, "--submissions", "off", **clean | {"HF_HUB_OFFLINE": "1"})
        assert offline.returncode == 0 and tree(tmp_path / "off") == tree(tmp_path / "submissions"), offline.stderr


def sampled(tmp_path: Path, seed: int) -> list[str]:
    from mabench.board import verify

    found = submissions.read(tmp_path / "submissions" / "digits-kmeans")
    assert found is not None
    return [submissions.record_name(r) for r in verify.sample(found, 1, seed)]


# -- faults --------------------------------------------------------------------------------------------------------


def race(server: Hub) -> Callable[[], None]:
    return lambda: server.put(REPO, "notes.md", b"hello")


COMMIT, BATCH, STORE = r"/commit/main$", r"objects/batch$", r"^/storage/"
FAULTS: dict[str, Callable[[Hub], list[Fault]]] = {
    "somebody else was faster (412)": lambda s: [Fault("POST", COMMIT, before=race(s))],
    "429 at the commit": lambda s: [Fault("POST", COMMIT, status=429, headers={"Retry-After": "1"})],
    "500 at the commit": lambda s: [Fault("POST", COMMIT, status=500)],
    "cut in the middle of an upload": lambda s: [Fault("PUT", STORE, cut=True)],
    "answer to the commit lost": lambda s: [Fault("POST", COMMIT, lost=True)],
}
RARE_FAULTS: dict[str, Callable[[Hub], list[Fault]]] = {
    "three times": lambda s: [Fault("POST", COMMIT, before=race(s), times=3)],
    "409": lambda s: [Fault("POST", COMMIT, status=409)],
    "412": lambda s: [Fault("POST", COMMIT, status=412)],
    "429 before": lambda s: [Fault("POST", "/preupload/", status=429, headers={"Retry-After": "1"})],
    "500 at the batch": lambda s: [Fault("POST", BATCH, status=500)],
    "500 in storage": lambda s: [Fault("PUT", STORE, status=500)],
    "500 when reading": lambda s: [Fault("GET", "/api/datasets/board/results$", status=500)],
    "cut in the middle of the commit": lambda s: [Fault("POST", COMMIT, cut=True)],
    "answer to the upload lost": lambda s: [Fault("PUT", STORE, lost=True)],
}


@pytest.mark.parametrize("name", [*FAULTS, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE_FAULTS)])
def test_a_push_survives(server: Hub, push: Client, submission: Path, name: str) -> None:
    server.create(REPO)
    server.fault(*(FAULTS | RARE_FAULTS)[name](server))
    done = push(server)
    assert done.returncode == 0, done.stderr
    assert not any(f.times for f in server.faults), "the fault happened"
    whole(server, submission)
    ours = [s for _, s in server.repos[REPO].history if s.startswith("submission")]
    assert len(ours) == 1, "one commit, whatever happened"


def test_two_at_once_lose_nothing(server: Hub, push: Client, submission: Path, tmp_path: Path) -> None:
    """A second push, of another submission, lands between the first one's reading and its commit."""
    other = tmp_path / "other" / "digits-again"
    shutil.copytree(submission, other)
    server.create(REPO)
    answers = []
    server.fault(
        Fault(
            "POST",
            COMMIT,
            before=lambda: answers.append(push(server, slug="digits-again", folder=other, machine="n", meanwhile=True)),
        )
    )
    done = push(server)
    assert done.returncode == answers[0].returncode == 0, done.stderr + answers[0].stderr
    whole(server, submission)
    whole(server, other, "digits-again")
    assert len(table(server)) == 24


def test_endless_conflicts_end_with_a_message(server: Hub, push: Client) -> None:
    server.create(REPO)
    server.fault(Fault("POST", COMMIT, status=412, times=99))
    done = push(server)
    assert done.returncode == 1 and f"others changed it {CONFLICTS} times" in done.stderr
    server.faults.clear()
    server.fault(Fault("POST", COMMIT, status=429, headers={"Retry-After": "7200"}, times=99))
    assert "asks for a pause" in push(server).stderr
    assert server.repos[REPO].files().keys() == {".gitattributes"}, "nothing half there"


@pytest.mark.slow
def test_a_server_in_trouble_ends_with_a_message(server: Hub, push: Client) -> None:
    """Slow, since the client tries again and again."""
    server.create(REPO)
    server.fault(Fault("POST", COMMIT, status=503, times=99))
    assert "the Hub answered 503" in push(server).stderr
    assert server.repos[REPO].files().keys() == {".gitattributes"}, "nothing half there"


@pytest.mark.slow
def test_killed_at_every_request_and_repeated(
    push: Client, submission: Path, environment: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """The client is killed when its n-th request arrives (the server still acts on it); then the same call again."""
    with Hub() as counting:
        counting.create(REPO)
        assert push(counting, machine="count").returncode == 0
        steps = len(counting.requests)
    assert steps > 8
    for n in range(0, steps, 3):
        with Hub() as server:
            server.create(REPO)
            seen = 0
            process: list[subprocess.Popen[bytes]] = []

            def kill(limit: int = n, process: list[subprocess.Popen[bytes]] = process) -> None:
                nonlocal seen
                seen += 1
                if seen == limit + 1:
                    process[0].kill()

            server.fault(*(Fault(m, "", before=kill, times=99) for m in ("GET", "HEAD", "POST", "PUT")))
            command = [sys.executable, "-c", PUSH, REPO, "digits-kmeans", str(submission)]
            process.append(
                subprocess.Popen(command, env=os.environ | environment(server, machine=f"k{n}"), stderr=subprocess.DEVNULL)
            )
            assert process[0].wait(timeout=120) == -signal.SIGKILL
            server.faults.clear()
            main = server.repos[REPO].files()
            there = [name for name in main if name.startswith("submissions/")]
            assert len(there) in (0, 15), "all of it or none of it"
            assert push(server, machine=f"k{n}").returncode == 0
            whole(server, submission)
            assert len([s for _, s in server.repos[REPO].history if s.startswith("submission")]) == 1


PROGRAM = """
import atexit, os, signal, sys
left = [int(os.environ['KILL_AT_RENAME'])]
def hook(event, _):
    if event == 'os.rename':
        left[0] -= 1
        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from mabench.cli.main import run
atexit.register(lambda: open(os.environ['RENAMES'], 'w').write(str(-left[0])))
run()
"""


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of the steps 1..count, first and last among them."""
    return sorted({1 + round(i * (count - 1) / max(1, most - 1)) for i in range(most)}) if count else []


@pytest.mark.slow
def test_the_whole_way_killed_in_every_stage_and_repeated(
    tmp_path: Path, digits_run: Path, environment: Callable[..., dict[str, str]]
) -> None:
    """Submit as a pull request, merge, refresh, pull, build from the Hub, re-run a cell, publish; each killed at several of its
    requests and of its renames, on a clean machine, then repeated: the outcome is that of the stage that was not killed."""
    write_card(tmp_path / "card.toml")
    with Hub() as server:
        server.create(REPO)
        runs = iter(range(10_000))

        def start(arguments: tuple[object, ...], place: Path, user: str, kill_at: int = 0) -> subprocess.Popen[bytes]:
            variables = environment(server, user, place.name) | {
                "KILL_AT_RENAME": str(kill_at), "RENAMES": str(tmp_path / "renames"), "PYTHONHASHSEED": "0",
            }  # fmt: skip
            command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
            return subprocess.Popen(command, cwd=place, env=os.environ | variables, stdout=subprocess.DEVNULL)

        def fresh(source: Path | None) -> Path:
            place = tmp_path / f"machine{next(runs)}"
            return Path(shutil.copytree(source, place)) if source else (place.mkdir(), place)[1]  # type: ignore[func-returns-value]

        def sound() -> None:
            """At any moment: all rows of the submission or none, and a submission on main is whole."""
            files = server.repos[REPO].files()
            assert len([n for n in files if n.startswith("submissions/") and "/reruns/" not in n]) in (0, 15)
            if "data/cells.parquet" in files:
                assert len(table(server)) == 12

        def stage(arguments: tuple[object, ...], user: str, outcome: Callable[[Path], Any], source: Path | None = None) -> Path:
            """Run it whole from this state, then again from this state for every kill; leave the state of the whole run."""
            before = copy.deepcopy(server.repos), dict(server.storage)
            asked = len(server.requests)
            place = fresh(source)
            assert start(arguments, place, user).wait(timeout=300) == 0
            expected = outcome(place)
            after = copy.deepcopy(server.repos), dict(server.storage)
            requests, renames = len(server.requests) - asked, int((tmp_path / "renames").read_text())
            kills = [("request", n) for n in spread(requests, 4)] + [("rename", n) for n in spread(renames, 3)]
            for kind, number in kills:
                server.repos, server.storage = copy.deepcopy(before[0]), dict(before[1])
                machine = fresh(source)
                process: list[subprocess.Popen[bytes]] = []
                seen = [0]

                def at_request(
                    limit: int = number, process: list[subprocess.Popen[bytes]] = process, seen: list[int] = seen
                ) -> None:
                    seen[0] += 1
                    if seen[0] == limit:
                        process[0].kill()

                if kind == "request":
                    server.fault(*(Fault(m, "", before=at_request, times=999) for m in ("GET", "HEAD", "POST", "PUT")))
                process.append(start(arguments, machine, user, number if kind == "rename" else 0))
                assert process[0].wait(timeout=300) == -signal.SIGKILL, (arguments, kind, number)
                server.faults.clear()
                sound()
                assert start(arguments, machine, user).wait(timeout=300) == 0, (arguments, kind, number)
                sound()
                assert outcome(machine) == expected, (arguments, kind, number)
            server.repos, server.storage = after
            return place

        def inside(ref: str) -> dict[str, bytes]:
            files = server.repos[REPO].files(ref)
            return {n: server.content(b) for n, b in files.items() if not n.endswith(AUDIT)}

        def log(content: bytes) -> list[tuple[str, str, str, str]]:
            return [(e.who, e.action, e.tier, e.why) for e in audit_log.parse(content, Path("log"))]

        def hub_log(ref: str = "main") -> list[tuple[str, str, str, str]]:
            return log(server.content(server.repos[REPO].files(ref)[f"submissions/digits-kmeans/{AUDIT}"]))

        def commits() -> list[tuple[str, str]]:
            return server.repos[REPO].history

        def without_partials(folder: Path) -> dict[str, bytes]:
            """What a reader sees: what a killed write left has a hidden name."""
            return {n: c for n, c in tree(folder).items() if ".partial" not in n}

        send = ("submit", BUNDLED, "--records", digits_run, "--card", tmp_path / "card.toml", "--repo", REPO, "--create-pr")
        stage(send, "reader", lambda _: (inside("refs/pr/1"), hub_log("refs/pr/1"), len(server.repos[REPO].pulls), commits()))
        merge = f"from huggingface_hub import HfApi; HfApi().merge_pull_request({REPO!r}, 1, repo_type='dataset')"
        subprocess.run([sys.executable, "-c", merge], env=os.environ | environment(server, "bob", "merge"), check=True)

        def rows() -> Any:
            varies = {"audit_blob", "seconds", "started"}  # a re-run replaces numbers, and takes its own time
            return [{k: v for k, v in r.items() if k not in varies} for r in table(server)]

        stage(("refresh", "--repo", REPO), "bob", lambda _: (rows(), commits()))
        pulled = stage(("pull", "digits-kmeans", "--repo", REPO), "carol", lambda m: without_partials(m / "submissions"))
        assert submissions.read(pulled / "submissions" / "digits-kmeans") is not None
        build = ("leaderboard", "build", "--repo", REPO, "--out", "page")
        built = stage(build, "carol", lambda m: (without_partials(m / "page"), without_partials(m / "submissions")))
        seed = next(n for n in range(200) if "mlp" in sampled(pulled, n)[0])
        check = ("verify", "digits-kmeans", "--cells", "1", "--draw", seed, "--repo", REPO)
        stage(
            check,
            "carol",
            lambda m: (hub_log(), log((m / "submissions" / "digits-kmeans" / AUDIT).read_bytes()), rows(), commits()),
        )
        assert [(who, action) for who, action, _, _ in hub_log()] == [("reader", "submitted"), ("carol", "re-run")]
        assert {row["tier"] for row in rows()} == {"spot-checked"}, "computed from the records; a re-run's line decides nothing"
        shutil.copy(CARD_OF_THE_SPACE, built / "page")
        publish = ("leaderboard", "publish", "page", "--repo", SPACE)
        stage(publish, "bob", lambda _: (space(server), server.repos[f"spaces/{SPACE}"].history), built)


# -- what is sent --------------------------------------------------------------------------------------------------


def test_only_what_changed_is_sent(server: Hub, push: Client, submission: Path) -> None:
    """The repository is made on the first push; the second sends nothing, the third a card, its log, table and README."""
    first = push(server)
    assert first.returncode == 0 and first.stdout.startswith("19 "), first.stderr
    whole(server, submission)
    commits = len(server.repos[REPO].history)
    assert push(server).stdout.split() == ["0"] and len(server.repos[REPO].history) == commits
    found = submissions.read(submission)
    assert found is not None
    card = found.card.model_copy(update={"method": "k-means"})
    entry = audit_log.make_entry(
        who="alice",
        action="changed",
        tier="self-run",
        why="card changed",
        set_sha256=found.set_sha256,
        card_sha256=digests.sha256(card.toml().encode()),
    )
    submissions.write(submission, {CARD: card.toml().encode(), **submissions.with_entry(found, entry)})
    stored = set(server.storage)
    third = push(server)
    assert set(third.stdout.split()[1:]) == {
        f"submissions/digits-kmeans/{CARD}", f"submissions/digits-kmeans/{AUDIT}", "data/cells.parquet",
    }, third.stderr  # fmt: skip
    assert len(set(server.storage) - stored) == 1 and {r["method"] for r in table(server)} == {"k-means"}


def test_the_readme_shows_strangers_text_and_keeps_the_owners(pushed: Hub, push: Client) -> None:
    server = pushed
    text = server.repos[REPO].files()["README.md"].content.decode()
    assert "<script>" not in text and "&lt;script&gt;&#124;&#91;x&#93;&#40;y&#41;" in text and "[x](y)" not in text
    assert "&#x27;" not in text and "&#35;x27" not in text, "an apostrophe is an apostrophe"
    head = yaml.safe_load(text.split("---\n")[1])
    assert [c["config_name"] for c in head["configs"]] == ["cells", "papers", "digits-kmeans"]
    assert head["task_categories"] == ["image-classification"] and head["size_categories"] == ["n<1K"] and head["license"]
    commands = [line for line in text.splitlines() if line.startswith("mabench ")]
    assert len(commands) == 3 and all(f"--repo {REPO}" in line for line in commands) and "THIS/" not in text
    server.put(
        REPO,
        "README.md",
        text.replace("license: other", "license: mit")
        .replace("\n# ", "\n# Our own words\n\n# ", 1)
        .replace("12 evaluator runs", "99 evaluator runs")
        .encode(),
    )
    server.put(REPO, "data/cells.parquet", b"no parquet")
    assert push(server).returncode == 0
    text = server.repos[REPO].files()["README.md"].content.decode()
    assert (
        "# Our own words" in text
        and "license: mit" in text
        and "12 evaluator runs" in text
        and "99 evaluator runs" not in text
        and len(table(server)) == 12
    )


def test_a_broken_submission_does_not_stop_the_others(
    server: Hub, push: Client, mabench: Command, environment: Callable[..., dict[str, str]]
) -> None:
    server.create(REPO)
    server.put(REPO, "submissions/broken-one/audit.jsonl", b"{}\n")
    server.put(REPO, "submissions/half-one/card.toml", b'title = "half"\n')
    server.put(REPO, "submissions/huge-one/audit.jsonl", b" " * 2_000_000)
    assert push(server).returncode == 0 and len(table(server)) == 12
    done = mabench("refresh", "--repo", REPO, **environment(server, machine="z"))
    assert (
        done.returncode == 1
        and "left out of the table" in done.stderr
        and "broken-one" in done.stderr
        and "huge-one" in done.stderr
    )


def test_a_card_that_somebody_else_changed_is_left_out_of_the_table(
    server: Hub, push: Client, submission: Path, mabench: Command, environment: Callable[..., dict[str, str]]
) -> None:
    """Merged without a review: the table is made of the others."""
    found = submissions.read(submission)
    assert found is not None
    card = found.card.model_copy(update={"title": "HACKED"}).toml().encode()
    entry = audit_log.make_entry(
        who="mallory", action="changed", why="card", set_sha256=found.set_sha256, card_sha256=digests.sha256(card)
    )
    assert push(server).returncode == 0
    for name, content in (tree(submission) | {CARD: card} | submissions.with_entry(found, entry)).items():
        server.put(REPO, f"submissions/hacked/{name}", content)
    done = mabench("refresh", "--repo", REPO, **environment(server, machine="z"))
    assert done.returncode == 1 and "hacked: changes: changed on" in done.stderr and "by 'mallory'" in done.stderr
    assert len(table(server)) == 12 and {row["slug"] for row in table(server)} == {"digits-kmeans"}
    pulled = mabench("pull", "hacked", "--repo", REPO, **environment(server, machine="y"))
    assert pulled.returncode == 2 and "by 'mallory'" in pulled.stderr


# -- the board as a static Space -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two submissions and the board built of them, with the Space's card; for reading only."""
    place = tmp_path_factory.mktemp("built")
    make_submission(place / "made-up", "alpha", 0.7)
    make_submission(place / "made-up", "beta", 0.6)
    leaderboard.build(place / "made-up", place / "board")
    shutil.copy(CARD_OF_THE_SPACE, place / "board")
    return place


@pytest.fixture
def board(built: Path, tmp_path: Path) -> Path:
    """A copy of the board, beside a copy of its submissions."""
    shutil.copytree(built / "made-up", tmp_path / "made-up")
    return Path(shutil.copytree(built / "board", tmp_path / "board"))


def space(server: Hub) -> dict[str, bytes]:
    files = server.repos[f"spaces/{SPACE}"].files()
    return {name: server.content(blob) for name, blob in files.items() if name != ".gitattributes"}


FETCH = "import sys, huggingface_hub as h; h.snapshot_download(sys.argv[1], repo_type='space', local_dir=sys.argv[2])"


@pytest.mark.parametrize("storage", ["lfs", pytest.param("xet", marks=[pytest.mark.slow, XET])])
def test_publish_makes_a_space_and_sends_only_what_differs(
    mabench: Command, python: Command, tmp_path: Path, board: Path, environment: Callable[..., dict[str, str]], storage: str
) -> None:
    with Hub(xet=storage == "xet") as server:
        bob = environment(server, "bob", "b", xet=storage == "xet")
        publish = ("leaderboard", "publish", board, "--repo", SPACE)
        dry = mabench(*publish, "--dry-run", **bob)
        assert dry.returncode == 0 and "+ index.html" in dry.stdout and f"to be sent: {len(tree(board))} files" in dry.stdout
        assert not server.repos, "a dry run makes nothing"
        (board / "notes.txt").write_text("what no build wrote stays here")
        done = mabench(*publish, **bob)
        assert done.returncode == 0 and "/spaces/board/page/commit/" in done.stdout, done.stderr
        assert server.repos[f"spaces/{SPACE}"].sdk == "static"
        (board / "notes.txt").unlink()
        assert python(FETCH, SPACE, tmp_path / "space", **bob).returncode == 0
        fetched = {n: c for n, c in tree(tmp_path / "space").items() if not n.startswith((".cache/", ".gitattributes"))}
        assert fetched == tree(board), "a client gets the page, byte for byte"
        again = mabench(*publish, **bob)
        assert again.returncode == 0 and "nothing to send" in again.stdout, again.stderr
        assert len(server.repos[f"spaces/{SPACE}"].history) == 2
        server.put(f"spaces/{SPACE}", "by-hand.txt", b"kept")
        shutil.rmtree(tmp_path / "made-up" / "beta")
        old = tree(board)
        leaderboard.build(tmp_path / "made-up", board)
        new = tree(board)
        changed = {n for n, c in new.items() if old.get(n) != c}
        assert 0 < len(changed) < len(new) / 2 and set(old) - set(new)
        sent = f"{len(changed)} files, {len(set(old) - set(new))} removed"
        dry = mabench(*publish, "--dry-run", **bob)
        assert (
            f"to be sent: {sent}" in dry.stdout
            and "- sets/beta/index.html" in dry.stdout
            and space(server) == old | {"by-hand.txt": b"kept"}
        )
        assert f"sent: {sent}" in mabench(*publish, **bob).stdout
        assert space(server) == new | {"by-hand.txt": b"kept"}


SPACE_FAULTS: dict[str, list[Fault]] = {
    "somebody else was faster": [Fault("POST", r"/commit/main$", status=412)],
    "429 with Retry-After": [Fault("POST", r"/commit/main$", status=429, headers={"Retry-After": "1"})],
    "500 when reading": [Fault("GET", r"^/api/spaces/board/page$", status=500)],
    "cut in the middle of an upload": [Fault("PUT", r"^/storage/", cut=True)],
    "answer to the commit lost": [Fault("POST", r"/commit/main$", lost=True)],
}


RARE = ("500 when reading", "cut in the middle of an upload")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in RARE else ()) for name in SPACE_FAULTS])
def test_publish_survives(
    server: Hub, mabench: Command, board: Path, environment: Callable[..., dict[str, str]], name: str
) -> None:
    server.create(f"spaces/{SPACE}", sdk="static")
    server.fault(*SPACE_FAULTS[name])
    done = mabench("leaderboard", "publish", board, "--repo", SPACE, **environment(server))
    assert done.returncode == 0, done.stderr
    assert not any(f.times for f in server.faults), "the fault happened"
    assert space(server) == tree(board)
    assert [s for _, s in server.repos[f"spaces/{SPACE}"].history if s.startswith("board")] == [
        "board: up to date with the records"
    ]


def test_publish_refuses_with_a_cure(
    server: Hub, mabench: Command, tmp_path: Path, board: Path, environment: Callable[..., dict[str, str]]
) -> None:
    server.create(f"spaces/{SPACE}", sdk="static")
    server.create("spaces/board/app", sdk="gradio")
    server.create("spaces/board/other", sdk="static")
    server.put("spaces/board/other", "index.html", b"somebody's own page")
    before = {name: repo.files() for name, repo in server.repos.items()}
    base = environment(server)
    altered, carded, plain = (Path(shutil.copytree(board, tmp_path / name)) for name in ("altered", "carded", "plain"))
    (altered / "leaderboard.json").write_text("window.BOARD={}")
    (carded / "README.md").write_text("---\nsdk: gradio\n---\n")
    (plain / "README.md").unlink()
    cases: list[tuple[Path, str, dict[str, str], str]] = [
        (board, SPACE, base | {"HF_TOKEN": ""}, "hf auth login"),
        (board, SPACE, base | {"HF_TOKEN": "stolen"}, "hf auth login"),
        (board, SPACE, base | {"HF_HUB_OFFLINE": "1"}, "Unset HF_HUB_OFFLINE"),
        (board, "a/b/c", base, "Write it as ORG/NAME"),
        (board, SPACE, environment(server, "reader", "r"), "a token that may write"),
        (board, "board/new", environment(server, "reader", "r"), "a token that may write"),
        (board, "board/app", base, "kind gradio"),
        (board, "board/other", base, "mabench did not build"),
        (tmp_path, SPACE, base, "mabench leaderboard build --out"),
        (altered, SPACE, base, "leaderboard.json: was changed after it was built"),
        (carded, SPACE, base, "not the card of a static Space"),
        (plain, SPACE, base, "README.md: the Space's card is missing"),
    ]
    for folder, repo, variables, words in cases:
        for flags in (["--dry-run"], []):
            if flags and repo == SPACE and variables["HF_TOKEN"] == "hf_reader":
                continue  # reading is allowed
            if flags and repo == "board/new":
                continue
            done = mabench("leaderboard", "publish", folder, "--repo", repo, *flags, **variables)
            assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, (words, done.stderr)
    assert {name: repo.files() for name, repo in server.repos.items()} == before


def test_the_page_is_built_from_the_hub_dataset(
    pushed: Hub, mabench: Command, tmp_path: Path, submission: Path, environment: Callable[..., dict[str, str]]
) -> None:
    """On a clean machine, from the repository alone; a broken submission is named and left out; offline the same again."""
    server = pushed
    server.put(REPO, "submissions/broken-one/audit.jsonl", b"{}\n")
    clean = environment(server, "carol", "clean")
    build = ("leaderboard", "build", "--repo", REPO, "--submissions", "pulled", "--out")
    done = mabench(*build, "page", **clean)
    assert done.returncode == 1 and "left out: " in done.stderr and "broken-one" in done.stderr, done.stderr
    assert "1 submissions of board/results" in done.stdout and " rows ranked" in done.stdout
    assert tree(tmp_path / "pulled" / "digits-kmeans") == tree(submission)
    assert (tmp_path / "page" / "sets" / "digits-kmeans" / "preview.png").is_file()
    leaderboard.build(submission.parent, tmp_path / "here", papers.INSTALLED, site=leaderboard.Site(dataset=REPO))
    assert tree(tmp_path / "here") == tree(tmp_path / "page"), "the page of the local folder, byte for byte"
    assert mabench(*build, "again", **clean | {"HF_HUB_OFFLINE": "1"}).returncode == 1
    assert tree(tmp_path / "again") == tree(tmp_path / "page")


TITLE = 'Ours: $(it\'s) "new" # board'


def test_an_owner_makes_a_board(
    server: Hub, mabench: Command, tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    """Dataset, Space and workflows out of nothing; a second run changes nothing, neither what the owner edited nor a page in use."""
    init = ("board", "init", "board/new", "--space", "board/new-page", "--title", TITLE, "--out", "kit")
    done = mabench(*init, **environment(server))
    assert done.returncode == 0, done.stderr
    assert "README.md" in server.repos["board/new"].files()
    page = server.repos["spaces/board/new-page"].files()
    assert {"index.html", "README.md", "manifest.json"} <= set(page)
    workflow = tmp_path / "kit" / ".github" / "workflows" / "board.yml"
    assert "mabench refresh --repo board/new\n" in workflow.read_text() and "ORG/" not in workflow.read_text()
    assert (tmp_path / "kit" / "submissions" / "board.toml").is_file()
    built = yaml.safe_load(workflow.read_text())["jobs"]["board"]["steps"][-2]["run"]
    words = shlex.split(built)
    assert (
        words[words.index("--title") + 1] == TITLE
        and words[words.index("--address") + 1] == "https://board-new-page.static.hf.space/"
    )
    workflow.write_text("mine")
    server.put("spaces/board/new-page", "index.html", b"the board as it is by now")
    before = {name: repo.files() for name, repo in server.repos.items()}
    assert mabench(*init, **environment(server)).returncode == 0
    assert workflow.read_text() == "mine" and {name: repo.files() for name, repo in server.repos.items()} == before


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_private_repository_stays_private(
    server: Hub, push: Client, mabench: Command, environment: Callable[..., dict[str, str]]
) -> None:
    assert push(server, "--private").returncode == 0 and server.repos[REPO].private
    for user in ("", "reader"):
        done = mabench("pull", "digits-kmeans", "--repo", REPO, **environment(server, user, f"p{user}"))
        assert done.returncode == 2 and "hf auth login" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert mabench("pull", "digits-kmeans", "--repo", REPO, **environment(server, "alice", "pa")).returncode == 0


def test_what_was_altered_on_the_way_is_refused(
    pushed: Hub, mabench: Command, tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    from mabench.sets import readers as adapters
    from mabench.sets.synthetic import SyntheticSet

    server, repo = pushed, pushed.repos[REPO]
    good = dict(repo.files())
    own = adapters.read(BUNDLED)
    SyntheticSet(own.images, own.labels.flip(0), "digits", 5).save(tmp_path / "swapped.safetensors")
    place = "submissions/digits-kmeans/"
    record = next(n for n in good if n.endswith("seed0.json"))
    cases: list[tuple[str, bytes, str]] = [
        (place + "set.safetensors", (tmp_path / "swapped.safetensors").read_bytes(), "its audit log says"),
        (place + "set.safetensors", good[place + "card.toml"].content, "not a complete"),
        (record, good[record].content.replace(b'"seconds"', b'"seconds" '), "was changed after it was submitted"),
        (place + CARD, b"title = 1", "not the card that the audit log names"),
    ]  # fmt: skip
    for number, (name, content, words) in enumerate(cases):
        repo.commit("main", repo.refs["main"], good | {name: Blob(content)}, "mallory")
        done = mabench("pull", "digits-kmeans", "--repo", REPO, **environment(server, machine=f"x{number}"))
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "submissions").exists(), "nothing is written"


def test_pull_looks_at_sizes_first_and_overwrites_nothing_of_the_users(
    pushed: Hub, mabench: Command, tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    server, repo, place = pushed, pushed.repos[REPO], "submissions/digits-kmeans/"
    good, large = dict(repo.files()), bytes(5 * 2**20)
    for number, name in enumerate((f"{place}records/large.json", place + CARD)):
        repo.commit("main", repo.refs["main"], good | {name: Blob(large)}, "mallory")
        variables = environment(server, machine=f"l{number}")
        done = mabench("pull", "digits-kmeans", "--repo", REPO, **variables)
        assert done.returncode == 2 and "at most" in done.stderr and "Traceback" not in done.stderr, done.stderr
        caches = [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size >= len(large)]
        assert not caches, "nothing of it was fetched"
    repo.commit("main", repo.refs["main"], good, "mallory")
    own = tmp_path / "submissions" / "digits-kmeans" / CARD
    own.parent.mkdir(parents=True)
    own.write_text("title = 'not submitted yet'\n")
    done = mabench("pull", "digits-kmeans", "--repo", REPO, **environment(server, machine="l9"))
    assert done.returncode == 2 and "was never submitted" in done.stderr and own.read_text() == "title = 'not submitted yet'\n"
    own.unlink()
    assert mabench("pull", "digits-kmeans", "--repo", REPO, **environment(server, machine="l9")).returncode == 0


def test_a_slug_on_the_hub_belongs_to_its_submission(
    pushed: Hub, mabench: Command, tmp_path: Path, digits_run: Path, environment: Callable[..., dict[str, str]]
) -> None:
    server = pushed
    head = server.repos[REPO].refs["main"]
    write_card(tmp_path / "card.toml", authors=["M. Mallory"])
    done = mabench("submit", BUNDLED, "--records", digits_run, "--repo", REPO, **environment(server, "mallory", "y"))
    assert done.returncode == 2 and "belongs to a submission by A. Author" in done.stderr
    assert server.repos[REPO].refs["main"] == head


def test_hub_mistakes_get_a_message(
    server: Hub, mabench: Command, tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    server.create(REPO)
    pull = ("pull", "digits-kmeans", "--repo")
    base = environment(server, machine="q")
    cases: list[tuple[tuple[object, ...], dict[str, str], str]] = [
        ((*pull, REPO), base, "has no submission digits-kmeans"),
        ((*pull, "board/absent"), base, "no dataset repository of this name"),
        ((*pull, "a/b/c"), base, "Write it as ORG/NAME"),
        ((*pull, REPO, "--revision", "v9"), base, "no such revision"),
        ((*pull, "board/other"), base | {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (("refresh", "--repo", REPO), base | {"HF_HUB_OFFLINE": "1"}, "Unset HF_HUB_OFFLINE"),
        (("refresh", "--repo", REPO), base | {"HF_TOKEN": "hf_reader"}, "--create-pr"),
        (("refresh", "--repo", REPO), base | {"HF_TOKEN": "stolen"}, "hf auth login"),
        (("pull", "../../etc", "--repo", REPO), base, "allowed are 3 to 64 of a-z"),
        (("submit", BUNDLED, "--records", tmp_path, "--create-pr"), base, "Name it with --repo"),
    ]
    for arguments, variables, words in cases:
        done = mabench(*arguments, **variables)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, (arguments, done.stderr)
    assert server.repos[REPO].files().keys() == {".gitattributes"}


def test_a_hub_that_cannot_be_reached_is_named() -> None:
    with (
        pytest.raises(MabenchError, match=r"board/results: cannot reach http.*Check the network and HF_ENDPOINT"),
        explained(REPO),
    ):
        raise ConnectionError("refused")


@pytest.mark.parametrize("command", ["pull", "publish"])
def test_a_dead_endpoint_ends_the_command(
    server: Hub, mabench: Command, board: Path, environment: Callable[..., dict[str, str]], command: str
) -> None:
    """One message, and no half minute of the client's own attempts: whoever breaks every connection hears of it at most thrice."""
    arguments = (
        ("pull", "digits-kmeans", "--repo", REPO) if command == "pull" else ("leaderboard", "publish", board, "--repo", SPACE)
    )
    dead = environment(server) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    server.fault(*(Fault(method, "", cut=True, times=999) for method in ("GET", "HEAD", "POST")))
    for variables in (dead, environment(server)):
        done = mabench(*arguments, **variables)
        assert done.returncode == 2 and "HF_ENDPOINT" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert 1 <= len(server.requests) <= 3


def test_the_table_is_a_function_of_the_submissions(submission: Path, tmp_path: Path) -> None:
    found: Submission | None = submissions.read(submission)
    assert found is not None
    rows = cells.of_submissions([found])
    content = cells.parquet(rows, CellRow)
    assert len(rows) == 12 and content == cells.parquet(cells.of_submissions([found]), CellRow)
    (tmp_path / "cells.parquet").write_bytes(content)
    assert cells.read(tmp_path / "cells.parquet") == rows, "what is written is read back"
    assert {r.audit_blob for r in rows} == {cells.blob_id((submission / AUDIT).read_bytes())}
    git = subprocess.run(["git", "hash-object", str(submission / AUDIT)], capture_output=True, text=True)
    assert git.stdout.strip() == rows[0].audit_blob
