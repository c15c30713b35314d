"""Sets beyond what is held in memory, with the thresholds lowered: mapped, streamed, limited by what the dataset can need."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save
from safetensors.torch import save_file as library_save

import mabench_methods
from mabench import data, suites, training
from mabench.data import DATASETS, RealData
from mabench.errors import Interrupted, MabenchError
from mabench.runs.plan import plan
from mabench.sets import containers, limits, readers, synthetic
from mabench.sets.synthetic import SyntheticSet
from mabench.training import material
from mabench_methods.kit import Run, check_train

X = torch.randint(0, 256, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
Y = torch.arange(10).repeat_interleave(20)


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything above 100 kB counts as large; the temporary files that were opened for it."""
    opened: list[Any] = []
    new = tempfile.TemporaryFile

    def temporary(*given: Any, **named: Any) -> Any:
        opened.append(new(*given, **named))
        return opened[-1]

    monkeypatch.setattr(limits, "MAPPED_BYTES", 100_000)
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    return opened


def test_the_limit_is_what_the_dataset_can_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert synthetic.max_bytes() >= 1000 * 50 * 3 * 224 * 224 * 4  # ImageNet-1k at 50 images a class, as float32 too
    assert synthetic.max_bytes(DATASETS["cifar10"]) == synthetic.MAX_BYTES
    made = SyntheticSet(X, Y, "cifar10", ipc=20)
    made.save(tmp_path / "set.safetensors")
    library_save({"images": X, "labels": Y}, tmp_path / "plain_cifar10.safetensors")
    torch.save((X, Y), tmp_path / "cifar10.pt")
    monkeypatch.setattr(synthetic, "MAX_BYTES", 1000)
    assert readers.read(tmp_path / "set.safetensors").sha256 == made.sha256
    assert readers.read(tmp_path / "plain_cifar10.safetensors", decode="none").sha256 == made.sha256
    with pytest.raises(MabenchError, match="up to 1,000 bytes are read. Larger ones as safetensors"):
        readers.read(tmp_path / "cifar10.pt")
    monkeypatch.setattr(synthetic, "MAX_IPC", 19)
    with pytest.raises(MabenchError, match="sets of this dataset up to 583,680 bytes"):
        readers.read(tmp_path / "set.safetensors")


@pytest.mark.parametrize("first", ["RGB", "L"])
def test_folders_stream_into_a_mapped_file(
    first: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scratch: list[Any]
) -> None:
    for k in range(200):
        file = tmp_path / "cifar10" / f"{int(Y[k])}" / f"{k:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[k].permute(1, 2, 0).numpy()).convert(first if k < 50 else "RGB").save(file)
    whole = readers.read(tmp_path / "cifar10", decode="none")
    before = len(scratch)
    monkeypatch.setattr(containers, "PICTURES_AT_ONCE", 30)
    streamed = readers.read(tmp_path / "cifar10", decode="none")
    assert len(scratch) - before == (1 if first == "RGB" else 2)
    assert streamed.sha256 == whole.sha256 and torch.equal(streamed.labels, Y)
    assert torch.equal(streamed.images[50:], X[50:])
    monkeypatch.setattr(synthetic, "max_bytes", lambda entry=None: 600_000)
    with pytest.raises(MabenchError, match=r"200 images of 6\d\d,\d\d\d bytes"):
        readers.read(tmp_path / "cifar10", decode="none")


@pytest.mark.parametrize("images", [X, X.float() / 255, (X.float() / 255).half()], ids=["uint8", "float32", "float16"])
@pytest.mark.parametrize("labels", [Y, torch.full((200, 10), 0.1)], ids=["hard", "soft"])
def test_the_file_is_the_librarys_but_for_the_order_of_keys(images: torch.Tensor, labels: torch.Tensor, tmp_path: Path) -> None:
    made = SyntheticSet(images, labels, "cifar10", ipc=20)
    made.save(tmp_path / "set.safetensors")
    content = (tmp_path / "set.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    theirs = save({"images": images, "labels": labels}, header["__metadata__"])
    (their_length,) = struct.unpack("<Q", theirs[:8])
    assert json.loads(theirs[8 : 8 + their_length]) == header and theirs[8 + their_length :] == content[8 + length :]
    assert length % 8 == 0 and torch.equal(load_file(tmp_path / "set.safetensors")["images"], images)


# -- training on them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["mlp-scratch", "convnet3-scratch"])
def test_a_set_that_stays_as_it_is_stored_trains_as_one_that_is_decoded(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number by number: the same losses, the same curve, the same weights' digest."""
    images = X if dtype == torch.uint8 else (X.float() / 255).to(dtype)
    chosen = SyntheticSet(images, Y, "digits", ipc=20)
    loaded_suite = suites.load("digits-agnostic")
    (cell,) = plan(loaded_suite, chosen, track="scratch", evaluator=name, seeds=[0])
    short = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"epochs": 2, "test_every": 1})})
    whole = data.load("digits", "test")
    test = replace(whole, images=whole.images[:50], labels=whole.labels[:50])
    records = []
    for limit in (2**40, 1):
        monkeypatch.setattr(material, "RESIDENT_SET_BYTES", limit)
        assert isinstance(material.Material(chosen, short, test, torch.device("cpu")).images, torch.Tensor) == (limit > 1)
        records.append(training.run(chosen, short, test, device=torch.device("cpu")))
    first, second = (record.model_dump(exclude={"seconds", "started", "environment"}) for record in records)
    assert first == second


MEASURED = """
import sys, torch
from pathlib import Path
import mabench
from mabench import data, suites
from mabench.runs.plan import plan
from mabench.training import material

def anonymous():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

material.RESIDENT_SET_BYTES = int(sys.argv[2])
chosen = mabench.load_set(sys.argv[1])
(cell,) = plan(suites.load("digits-agnostic"), chosen, track="scratch", evaluator="mlp-scratch", seeds=[0])
test = data.load("digits", "test")
before = anonymous()
made = material.Material(chosen, cell, test, torch.device("cpu"))
for begin in range(0, 30_000, 3_000):
    made.images[torch.arange(begin, begin + 16)]
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read off /proc")
def test_a_large_set_is_not_copied_into_memory(tmp_path: Path) -> None:
    """90 MB of bytes, 360 MB as floats."""
    count = 30_000
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    SyntheticSet(images, torch.arange(count) % 10, "digits", ipc=count // 10).save(tmp_path / "set.safetensors")
    program = [sys.executable, "-c", MEASURED, str(tmp_path / "set.safetensors")]
    taken = [int(subprocess.check_output([*program, limit], text=True)) for limit in (str(2**40), "1000000")]
    assert taken[0] > 300_000 and taken[1] < 30_000, "kilobytes: decoded, and as it is stored"


@pytest.mark.parametrize(
    ("ipc", "value_bytes", "tiles", "refused"),
    [
        (20, 1, 4, ""),  # RDED's 2 x 2 crops: 3 GB of a limit of 30.1 GB
        (50, 4, 4, ""),  # HMDC's 2 x 2 tiles, float32: 30.1 GB
        (51, 4, 4, "a set of IPC 51 takes 30,707,712,000 bytes; sets up to 30,105,600,000 bytes"),
        (200, 1, 4, ""),
        (201, 1, 4, "a set of IPC 201 takes"),
        (200, 1, 9, "IPC 200, which takes 1800 images of a class, is impossible, the smallest class has 1300 images"),
        (0, 1, 4, "IPC 0"),
    ],
)
def test_a_method_is_refused_for_what_it_stores_and_for_what_it_is_made_of(
    ipc: int, value_bytes: int, tiles: int, refused: str
) -> None:
    labels = np.arange(1000).repeat(1300)
    train = RealData(np.zeros((1, 3, 224, 224), np.uint8), labels, DATASETS["imagenet1k"], "train", "made in the test")
    with pytest.raises(MabenchError, match=refused) if refused else nullcontext():
        check_train(train, ipc, value_bytes, tiles=tiles)


@pytest.mark.parametrize("name", ["rded", "hmdc", "random"])
def test_methods_of_several_images_in_one_count_the_stored_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object) -> None:
        raise Interrupted  # the checks are behind us

    monkeypatch.setattr(Run, "begin", begun)
    labels = np.arange(1000).repeat(1300)
    train = RealData(np.zeros((1, 3, 224, 224), np.uint8), labels, DATASETS["imagenet1k"], "train", "made in the test")
    method = mabench_methods.load(name)
    every: dict[str, dict[str, Any]] = {"rded": {"factor": 2}, "hmdc": {}, "random": {"packed": True}}
    config: Any = next(iter(method.presets.values())).config
    config = replace(config, ipc=20, **every[name])
    with pytest.raises(Interrupted):
        method.condense(train, config, 0, torch.device("cpu"))
