"""Sets named by their address on the Hub: the unmodified client in a process of its own, against hub_server and from a cache offline."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.hub_server import Blob, Fault, Hub

X = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
Y = torch.arange(10).repeat(2)[torch.randperm(20, generator=torch.Generator().manual_seed(1))]
TABLE, PACKED, PAIRS, FOLDER = (
    "he-yang/2025-rethinkdc-cifar10-random-ipc-2",
    "icml2022/condensation",
    "lab/data-dam",
    "lab/pictures",
)
READ = """
import json, sys, torch, mabench
from mabench.errors import MabenchError
out = []
for address in sys.argv[1:]:
    try:
        s = mabench.load_set(address, space="pixel", decode="none", dataset=None if "cifar" in address else "cifar10")
        order = torch.argsort(s.images.flatten(1).double().sum(1), stable=True)
        out.append({"name": s.name, "labels": s.labels[order].tolist(), "sum": float(s.images.double().sum()),
                    "source": [f"{f.value} {f.reason}" for f in s.findings if f.field == "source"]})
    except MabenchError as error:
        out.append(str(error))
print(json.dumps(out))
"""


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def shard(rows: range) -> bytes:
    """As the rethinkdc sets have it: columns image and class_id."""
    images = [{"bytes": png(X[k]), "path": None} for k in rows]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "class_id": pa.array([int(Y[k]) for k in rows], pa.int32())}), buffer)
    return buffer.getvalue()


REPOSITORIES: dict[str, dict[str, bytes]] = {
    TABLE: {f"data/train-{k:05d}-of-00002.parquet": shard(range(10 * k, 10 * k + 10)) for k in range(2)} | {"README.md": b"# a set"},
    PACKED: {"cifar10_ipc1.pt": saved([X[:10], torch.arange(10)]), "cifar10_ipc2.pt": saved([X, Y]), "notes.txt": b"x"},
    PAIRS: {"images_best.pt": saved(X.float() / 255), "labels_best.pt": saved(Y), "lr_best.pt": saved(torch.tensor(0.02))},
    FOLDER: {f"set/{int(Y[k]):05d}/{k}.png": png(X[k]) for k in range(20)},
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as running:
        for name, files in REPOSITORIES.items():
            running.create(name)
            for path, content in files.items():
                running.put(name, path, content)
        for path, content in REPOSITORIES[TABLE].items():  # large files lie in another storage
            if path.endswith(".parquet"):
                sha = hashlib.sha256(content).hexdigest()
                running.storage[sha] = content
                repo = running.repos[TABLE]
                repo.commit("main", repo.refs["main"], repo.files() | {path: Blob(lfs=sha, size=len(content))}, "lfs")
        yield running


@pytest.fixture
def read(tmp_path: Path, private_cache: None) -> Callable[..., list[Any]]:
    """`read(server, *addresses)`: a fresh process loads each of them."""

    def call(server: Hub | None, *addresses: str, **variables: str) -> list[Any]:
        home = tmp_path / "home"
        set_here = {
            "HF_ENDPOINT": server.endpoint if server else "http://127.0.0.1:9", "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"),
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", READ, *addresses],
            env=os.environ | set_here | variables, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1]))

    return call


ORDER = torch.argsort(X.flatten(1).double().sum(1), stable=True)


def is_whole(answer: Any) -> bool:
    return isinstance(answer, dict) and answer["labels"] == Y[ORDER].tolist()


def test_sets_are_read_by_their_address(server: Hub, read: Callable[..., list[Any]]) -> None:
    addresses = (
        TABLE,
        f"hf://datasets/{TABLE}@main",
        f"{PACKED}/cifar10_ipc2.pt",
        PAIRS,
        f"{FOLDER}/set",
        f"hf://datasets/{FOLDER}",
    )
    answers = read(server, *addresses)
    assert all(map(is_whole, answers)), answers
    assert [a["name"] for a in answers] == [TABLE.split("/")[1]] * 2 + ["cifar10_ipc2", "images_best", "set", "pictures"]
    for address, answer in zip(addresses, answers, strict=True):
        repo = next(name for name in REPOSITORIES if name in address)
        assert answer["source"][0].startswith(f"{repo}@{server.repos[repo].refs['main']} Hugging Face Hub: "), answer
    fetched = {path for method, path, _ in server.requests if method == "GET" and "/resolve/" in path}
    assert not any(path.endswith(("README.md", "notes.txt", "ipc1.pt")) for path in fetched)

    offline = read(None, *addresses, HF_HUB_OFFLINE="1")
    assert all(map(is_whole, offline)) and all("the Hub was not reached" in a["source"][0] for a in offline)
    unplugged = read(None, TABLE, f"{PACKED}/cifar10_ipc1.pt")
    assert is_whole(unplugged[0]) and "the Hub cache has no copy" in unplugged[1]


def test_a_cache_folder_made_by_somebody_else_serves_offline(tmp_path: Path, read: Callable[..., list[Any]]) -> None:
    commit = hashlib.sha1(b"x").hexdigest()
    for name, files in REPOSITORIES.items():
        cache = tmp_path / "cache" / f"datasets--{name.replace('/', '--')}"
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text(commit)
        for path, content in files.items():
            target = cache / "snapshots" / commit / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    elsewhere = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    assert all(map(is_whole, read(None, TABLE, f"{PACKED}/cifar10_ipc2.pt", PAIRS, FOLDER, **elsewhere)))
    next((tmp_path / "cache").rglob("train-00001-*")).unlink()
    half, absent = read(None, TABLE, "nobody/nothing", **elsewhere)
    assert "1 of 2 shards" in half
    assert "no such file or folder is here" in absent and "HF_HUB_OFFLINE" in absent


def test_a_local_path_wins(server: Hub, tmp_path: Path, read: Callable[..., list[Any]]) -> None:
    folder = tmp_path / PAIRS
    folder.mkdir(parents=True)
    torch.save((X[:10].float() / 255, torch.arange(10)), folder / "set.pt")
    (answer, missing) = read(server, PAIRS, f"{PAIRS}/other.pt")
    assert answer["labels"] != Y[ORDER].tolist() and len(answer["labels"]) == 10 and not answer["source"]
    assert "No such file" in missing and not server.requests


def test_what_the_hub_refuses_is_said(server: Hub, read: Callable[..., list[Any]]) -> None:
    gated = {"X-Error-Code": "GatedRepo"}
    server.create("lab/gated")
    server.create("lab/busy")
    server.create("lab/large")
    server.create("lab/words")
    server.put("lab/words", "a.txt", b"x")
    repo = server.repos["lab/large"]
    repo.commit("main", repo.refs["main"], {"set.pt": Blob(lfs="0" * 64, size=2**50)}, "a set of a pebibyte")
    server.fault(
        Fault("GET", "lab/gated", status=403, headers=gated, times=100),
        Fault("GET", "lab/busy", status=429, times=100),
    )
    addresses = {
        "nobody/nothing": "no dataset repository of this name",
        f"{TABLE}@v9": "no such branch, tag or commit",
        PACKED: f"Name one of them, e.g. mabench check {PACKED}/cifar10_ipc1.pt",
        f"{PACKED}/cifar10_ipc3.pt": "no such file or folder. It holds:",
        "lab/gated": "accept its terms on https://huggingface.co/datasets/lab/gated",
        "lab/busy": "wait some minutes and run the same command, or log in first: hf auth login",
        "lab/large": "nothing was fetched",
        "lab/words": "holds no set: a.txt",
        f"https://huggingface.co/datasets/{PACKED}/resolve/main/cifar10_ipc2.pt": f"mabench check {PACKED}/cifar10_ipc2.pt",
        f"https://huggingface.co/datasets/{TABLE}": f"mabench check {TABLE}",
        "https://example.org/cifar10.pt": "curl -LO 'https://example.org/cifar10.pt'",
        "https://github.com/a/b/blob/main/cifar10.pt": "curl -LO 'https://github.com/a/b/raw/main/cifar10.pt'",
        "https://drive.google.com/file/d/1a2b/view": "open it in a browser",
        "huggingface.co/datasets/lab/words": "mabench check lab/words",
        "file:///sets/cifar10.pt": "mabench check /sets/cifar10.pt",
        "s3://bucket/cifar10.pt": "a program for s3",
        "hf://lab/model/x.pt": "hf://datasets/",
        "runs/cifar10.pt": "No such file",
    }
    for (address, cure), answer in zip(addresses.items(), read(server, *addresses), strict=True):
        assert isinstance(answer, str) and cure in answer, (address, answer)
    assert not any("/resolve/" in path for method, path, _ in server.requests if method == "GET")


def test_the_command_takes_an_address(server: Hub, tmp_path: Path, private_cache: None) -> None:
    here = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "mabench.cli.main", "check", TABLE, "--decode", "none", "--no-preview"]
    done = subprocess.run(command, env=os.environ | here, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (
        f"{TABLE}@{server.repos[TABLE].refs['main']}" in done.stdout.replace("\n", "") and f"mabench eval {TABLE}" in done.stdout
    )
