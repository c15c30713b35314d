"""A real Ray cluster of several nodes on this machine: the records of a plain run, also when workers and nodes are lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import BUNDLED, Command
from click.testing import CliRunner

from mabench import data, suites
from mabench.cli import main as cli
from mabench.errors import MabenchError
from mabench.runs import costs, ray_worker
from mabench.runs import ray_cluster as cluster
from mabench.runs.folder import read_record, read_records
from mabench.runs.plan import plan
from mabench.schema import RunRecord
from mabench.sets import readers as adapters

QUICK = ("--suite", "digits-agnostic", "--evaluator", "[lm]*", "--device", "cpu")  # six cells: lenet and mlp, three seeds
NODE_MEMORY = 3 * 2**30


def facts(record: RunRecord) -> dict[str, Any]:
    """All of a record but when it was made and how long it took."""
    return json.loads(record.model_dump_json(exclude={"seconds", "started"}))  # type: ignore[no-any-return]


# -- without a cluster -------------------------------------------------------------------------------------------------


def test_without_ray_the_text_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MabenchError, match=re.escape("pip install 'mabench[ray]'")), cluster.connected("auto"):
        pass


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--address", "auto"], "Add --launcher ray"),
        (["--gpus-per-cell", "0.5"], "Add --launcher ray"),
        (["--launcher", "ray", "--device", "cuda:1"], "which GPU, Ray decides"),
        (["--launcher", "ray", "--gpus-per-cell", "2"], "at most one GPU"),
        (["--launcher", "ray", "--gpus-per-cell", "nan"], "at most one GPU"),
        (["--launcher", "ray", "--gpus-per-cell", "0.5", "--device", "cpu"], "exclude each other"),
        (["--launcher", "ray", "--cpus-per-cell", "0"], "at least one"),
    ],
)
def test_flags_that_no_cluster_could_serve(tmp_path: Path, flags: list[str], message: str) -> None:
    arguments = ["eval", str(BUNDLED), "--suite", "digits-agnostic", "--out", str(tmp_path / "out"), *flags]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2 and message in done.output, done.output
    assert not (tmp_path / "out").exists()


def test_a_set_and_a_test_split_travel_unchanged() -> None:
    synthetic_set, test = adapters.read(BUNDLED), data.load("digits", "test")
    there = ray_worker.unpack_set(ray_worker.pack_set(synthetic_set))
    assert there.summary() == synthetic_set.summary() and there.class_names == synthetic_set.class_names
    arrived = ray_worker.unpack_test(ray_worker.pack_test(test))
    assert (arrived.sha256, arrived.dataset, arrived.split) == (test.sha256, test.dataset, test.split)
    assert (arrived.images == test.images).all() and (arrived.labels == test.labels).all()


def test_needs_grow_with_the_network_and_name_what_was_asked() -> None:
    loaded_suite, synthetic_set, test = suites.load("digits-agnostic"), adapters.read(BUNDLED), data.load("digits", "test")
    cells = {c.evaluator.name: c for c in plan(loaded_suite, synthetic_set, seeds=[0])}
    ask = {n: costs.needs(c, synthetic_set, test, cpus=2, gpus=0) for n, c in cells.items()}
    assert all((n.cpus, n.gpus) == (2, 0) for n in ask.values())
    assert costs.PROCESS_BYTES < ask["lenet-scratch"].memory_bytes < ask["convnet3-scratch"].memory_bytes < NODE_MEMORY
    half = costs.needs(cells["mlp-scratch"], synthetic_set, test, cpus=1, gpus=0.5)
    assert half.gpus == 0.5 and half.memory_bytes > costs.GPU_PROCESS_BYTES


# -- on a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster with a head that sits no cell and two nodes with one processor each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mabench[ray]'")
    from ray.cluster_utils import Cluster

    # workers start in the environment of the node that starts them: one thread each, and this checkout's mabench
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "memory": NODE_MEMORY, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, memory=NODE_MEMORY)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def start(cwd: Path, cluster_address: str, *arguments: object) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "mabench.cli.main",
        "eval",
        BUNDLED,
        *arguments,
        "--launcher",
        "ray",
        "--address",
        cluster_address,
    ]
    return subprocess.Popen(
        [*map(str, command)], cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def plain(mabench: Command, tmp_path: Path, *arguments: object) -> list[dict[str, Any]]:
    done = mabench("eval", BUNDLED, *arguments, "--out", "plain", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return [facts(r) for r in read_records(tmp_path / "plain")]


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def running(node: Any) -> list[int]:
    """Process ids of this node's workers that run a cell: children of its raylet, named after their task."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            title = (entry / "cmdline").read_text()
        except (OSError, ValueError, IndexError):
            continue
        if entry.name.isdigit() and parent == raylet and re.match(r"ray::.*(sit|seed)", title):
            found.append(int(entry.name))
    return found


def longer(tmp_path: Path, epochs: int) -> Path:
    """The digits suite with more epochs, so that there is a middle to be killed in."""

    source = next(Path(suites.__file__).parent.glob("digits-agnostic*.toml"))
    path = tmp_path / "long.toml"
    path.write_text(source.read_text().replace("epochs = 60", f"epochs = {epochs}").replace('"digits-agnostic"', '"digits-long"'))
    return path


@pytest.mark.slow
def test_the_records_are_those_of_a_plain_run(mabench: Command, tmp_path: Path, nodes: Any) -> None:
    expected = plain(mabench, tmp_path, *QUICK)
    out, errors = (process := start(tmp_path, nodes.address, *QUICK, "--out", "out")).communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "mlp-scratch" in out and [facts(r) for r in read_records(tmp_path / "out")] == expected
    again = start(tmp_path, "127.0.0.1:1", *QUICK, "--out", "out")
    assert "6 of 6 runs were finished before" in again.communicate(timeout=300)[1], "no cluster is asked when all is done"


@pytest.mark.slow
def test_a_lost_worker_and_a_lost_node_change_no_record(mabench: Command, tmp_path: Path, nodes: Any) -> None:
    long = ("--suite", longer(tmp_path, 600), *QUICK[2:])
    expected = plain(mabench, tmp_path, *long)
    process = start(tmp_path, nodes.address, *long, "--out", "out")
    first, second = nodes.list_all_nodes()[-2:]
    os.kill(wait_for(lambda: running(first))[0], signal.SIGKILL)
    wait_for(lambda: list((tmp_path / "out" / "records").glob("*.json")))
    wait_for(lambda: running(second))
    nodes.remove_node(second, allow_graceful=False)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert errors.count("its worker was lost") >= 2, errors
    assert [facts(r) for r in read_records(tmp_path / "out")] == expected


@pytest.mark.slow
def test_ctrl_c_cancels_and_the_same_command_continues(mabench: Command, tmp_path: Path, nodes: Any) -> None:
    long = ("--suite", longer(tmp_path, 600), *QUICK[2:])
    expected = plain(mabench, tmp_path, *long)
    process = start(tmp_path, nodes.address, *long, "--out", "out")
    records = tmp_path / "out" / "records"
    wait_for(lambda: list(records.glob("*.json")))
    workers = nodes.list_all_nodes()[-2:]
    wait_for(lambda: any(running(node) for node in workers))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "The same command continues from there" in errors
    wait_for(lambda: not any(running(node) for node in workers), 60)
    finished = {p: p.stat().st_mtime_ns for p in records.glob("*.json")}
    assert 1 <= len(finished) < 6
    again = start(tmp_path, nodes.address, *long, "--out", "out")
    _, errors = again.communicate(timeout=900)
    assert again.returncode == 0 and f"{len(finished)} of 6 runs were finished before" in errors
    assert all(p.stat().st_mtime_ns == t for p, t in finished.items()), "nothing finished is repeated"
    assert [facts(r) for r in read_records(tmp_path / "out")] == expected


@pytest.mark.slow
def test_a_reproduction_is_examined_on_the_cluster(mabench: Command, tmp_path: Path, nodes: Any) -> None:
    command = ("reproduce", "random", "--preset", "smoke", "--evaluator", "mlp*")
    found = {}
    for out, flags in (("plain", ()), ("cluster", ("--launcher", "ray", "--address", nodes.address))):
        done = mabench(*command, "--out", out, *flags, OMP_NUM_THREADS="1")
        assert done.returncode in (0, 1), done.stderr  # 1: a number of the paper was not met
        paths = sorted((tmp_path / out).rglob("records/*.json"))
        found[out] = {str(path.relative_to(tmp_path / out)): facts(read_record(path)) for path in paths}
    assert found["plain"] and found["cluster"] == found["plain"]


@pytest.mark.slow
def test_a_cell_that_fits_on_no_node_is_refused(tmp_path: Path, nodes: Any) -> None:
    process = start(tmp_path, nodes.address, *QUICK, "--out", "out", "--cpus-per-cell", "8")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "no node of the cluster has that" in errors, errors


@pytest.mark.slow
def test_no_cluster_at_this_address(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'mabench[ray]'")
    process = start(tmp_path, "127.0.0.1:1", *QUICK, "--out", "out")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "no connection to a Ray cluster" in errors, errors
