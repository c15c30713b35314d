"""Files made on purpose to run code, to fill memory, to take time, or to show what is in memory: each ends in one message."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import struct
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import Command
from PIL import Image
from support.fuzzing import invisible, run_in_this_process
from support.hostile import detonate, numpy_header, pickled, png, safetensors_header, text, torch_file, zipped
from support.in_child import connect, crash, fill, look_around, odd, spin, write_beside

from mabench import suites
from mabench.board import cells
from mabench.board.cells import CellRow
from mabench.errors import MabenchError
from mabench.networks import evaluators
from mabench.sets import pickles, readers, sandbox
from mabench.sets.synthetic import SyntheticSet

X = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10)
Files = Mapping[str, bytes]

LIMIT = 32 * 2**20  # in the place of 4 GiB, so that a bomb that goes off is seen without harm
ZEROS = bytes(8 * LIMIT)
TOWER = b")" + b"q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(60))  # a tuple of itself twice, sixty times over
CODEC = b"c_codecs\nencode\n"
STORAGE: bytes = (
    b"]ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nLongStorage\n" + text("0") + text("cpu") + b"K\x0atQ"
)
"""A list, and a call of _rebuild_tensor_v2 over the storage of torch.arange(10) that the rest of the call completes."""
LEGACY: bytes = torch_file((X, Y), _use_new_zipfile_serialization=False)
BOMBS: dict[str, Callable[[], Files]] = {
    "archive of torch": lambda: {"set.pt": zipped({"archive/data.pkl": b"\x80\x02N.", "archive/data/0": ZEROS})},
    "npz that unpacks": lambda: {"set.npz": zipped({"images.npy": numpy_header((len(ZEROS) // 4,)) + ZEROS})},
    "npz that declares": lambda: {"set.npz": zipped({"images.npy": numpy_header((2**28,)) + bytes(100)})},
    "npz that declares nothing": lambda: {"set.npz": zipped({"images.npy": numpy_header((2**40, 2**40, 0))})},
    "npy that declares": lambda: {"set.npy": numpy_header((2**28,)) + bytes(100)},
    "one number of any shape": lambda: {"set.pt": torch_file((torch.zeros(1).expand(10**6, 3, 32, 32), Y))},
    "labels of any shape": lambda: {"set.pt": torch_file((X, torch.zeros(1).expand(10**9)))},
    "key that takes years to hash": lambda: {"set.pt": pickled(b"}", TOWER, b"Ns")},
    "set of such keys": lambda: {"set.pt": pickled(b"\x8f(", TOWER, b"\x90")},
    "text that doubles": lambda: {"set.pt": pickled((CODEC + b"(") * 40 + CODEC + text("x") + text("latin1") + b"\x86R" + (text("hex") + b"tR") * 40)},
    "bytes of any size": lambda: {"set.pt": pickled(b"cbuiltins\nset\n(cbuiltins\nbytearray\nJ", struct.pack("<i", 2**31 - 1), b"\x85RtR")},
    "array of objects": lambda: {"set.pt": pickled(b"cnumpy\nndarray\nJ", struct.pack("<i", 2**28), text("O"), b"\x86R")},
    "array that is filled later": lambda: {"set.pt": pickled(
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ", struct.pack("<i", 2**28), b"\x85", text("O"), b"\x87R")},
    "tensor without numbers": lambda: {"set.pt": torch_file((torch.zeros(10**9, 3, 32, 32, device="meta"), Y))},
    "header of safetensors": lambda: {"set.safetensors": struct.pack("<Q", 2**62) + b'{"images": 1}'},
    "offsets of safetensors": lambda: {"set.safetensors": safetensors_header(
        {"images": {"dtype": "U8", "shape": [2**34, 3, 32, 32], "data_offsets": [0, 3072 * 2**34]}})},
    "deep header of safetensors": lambda: {"set.safetensors": safetensors_header(
        {"__metadata__": {"format": "mabench-set", "class_names": "[" * 10**6}})},
    "large image": lambda: {f"{k}/0.png": png(2049, 2049) for k in range(10)},
    "image that unpacks": lambda: {f"{k}/0.png": png(32, 32) for k in range(10)},
    "record": lambda: {"evaluation.json": b"{}", "records/a.json": b"[" * 10**6},
    "card of one key": lambda: {"card.toml": b"a" + b".a" * 32_000 + b" = 1"},
    "card of one number": lambda: {"card.toml": b"a = " + b"9" * 60_000},
    "suite of one key": lambda: {"mine.toml": b"a" + b".a" * 500_000 + b" = 1"},
    "safetensors header of 90 MB": lambda: {"set.safetensors": safetensors_header(
        {"__metadata__": {"format": "mabench-set", "dataset": "x" * 90 * 2**20}})},
    "member called data.PKL": lambda: {"set.pt": renamed("data.pkl", "data.PKL")},
    "data.pkl twice": lambda: {"set.pt": doubled()},
    "empty zip behind a legacy file": lambda: {"set.pt": LEGACY + b"PK\x05\x06" + bytes(18)},
    "two indices": lambda: {"set.pt": two_indices()},
    "tuple of 300,000": lambda: {"set.pt": pickled(b"(" + b"N" * 300_000 + b"t")},
    "ten million operations": lambda: {"set.pt": pickled(b"N" * 10**7, packed=True)},
    "lists that never end": lambda: {"set.pt": pickled(b"]" * 950_000)},
    "lists within lists": lambda: {"set.pt": pickled(b"]" * 900_000 + b"a" * 899_999)},
    "dictionary within itself": lambda: {"set.pt": pickled(b"}q\x00" + text("x") + b"h\x00s")},
    "list of itself twice": lambda: {"set.pt": pickled(b"]q\x00" + b"".join(b"]q" + bytes([i + 1]) + b"h" + bytes([i]) * 1 + b"ah" + bytes([i]) + b"a" for i in range(60)))},
    "numpy scalar of any size": lambda: {"set.pt": pickled(
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n(" + text("(15000,10000)f8") + b"NNtR\x85R")},
    "numpy scalar without content": lambda: {"set.pt": pickled(
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n(" + text("f8") + b"NNtR\x85R")},
    "numpy dtype with fields": lambda: {"set.pt": pickled(
        b"cnumpy\ndtype\n(" + text("f8") + b"NNtR(K\x03" + text("|") + b"NNNK\x01K\x01K\x01tb")},
    "numpy array larger than its bytes": lambda: {"set.pt": pickled(
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01J" + struct.pack("<i", 2**30)
        + b"\x85cnumpy\ndtype\n(" + text("f4") + b"NNtRNC\x01atb")},
    "bzip2 member": lambda: {"set.pt": packed_member(zipfile.ZIP_BZIP2, bz2.compress(ZEROS))},
    "LZMA member": lambda: {"set.npz": packed_member(zipfile.ZIP_LZMA, lzma.compress(ZEROS, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1}]))},
    "deflated member that lies": lambda: {"set.pt": packed_member(zipfile.ZIP_DEFLATED, deflated(ZEROS))},
    "npz member that lies": lambda: {"set.npz": packed_member(zipfile.ZIP_DEFLATED, deflated(numpy_header((25,)) + ZEROS), "images.npy")},
    "npz of one member a thousand times": lambda: {"set.npz": overlapping()},
    "zip of a million members": lambda: {"set.npz": many_members(10**6)},
    "set an item of a tensor": lambda: {"set.pt": pickled(STORAGE + b"K\x00K\x0a\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRK\x00Nsa")},
    "storage larger than its record": lambda: {"set.pt": with_numel(2**28)},
    "tensor beyond its storage": lambda: {"set.pt": pickled(STORAGE + b"J" + struct.pack("<i", 2**30) + b"K\x0a\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR")},
    "tensor with a stride of 2^40": lambda: {"set.pt": pickled(
        STORAGE + b"K\x00K\x02\x85\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x89ccollections\nOrderedDict\n)RtR")},
    "tensor with a negative stride": lambda: {"set.pt": pickled(
        STORAGE + b"K\x09K\x0a\x85J\xff\xff\xff\xff\x85\x89ccollections\nOrderedDict\n)RtR")},
    "legacy file without storages": lambda: {"set.pt": legacy(keys=[])},
    "legacy file with another storage": lambda: {"set.pt": legacy(keys=["elsewhere"])},
    "legacy file cut in its storage": lambda: {"set.pt": LEGACY[:-1000]},
    "progressive JPEG": lambda: {f"{k}/0.jpg": scans(6000) for k in range(10)},
    "JPEG of the right size with many scans": lambda: {f"{k}/0.jpg": scans(150_000, 32) for k in range(10)},
    "PNG with a long comment": lambda: {f"{k}/0.png": commented() for k in range(10)},
    "EPS called PNG": lambda: {f"{k}/0.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n" for k in range(10)},
    "labels that are links to nowhere": lambda: {"set.safetensors": safetensors_header({"__metadata__": {}}), "labels/x": b""},
    "one image a hundred thousand times": lambda: {"set.pt": torch_file([torch.zeros(3, 32, 32)] * 10**5)},
    "dictionaries in dictionaries": lambda: {"set.pt": pickled(
        b"}q\0" + b"".join(b"}q" + bytes([i + 1]) + b"(" + text("a") + b"h" + bytes([i]) + text("b") + b"h" + bytes([i]) + b"u" for i in range(40)))},
    "300,000 arrays": lambda: {"set.pt": torch_file([torch.zeros(1)] * 300_000)},
    "folders in folders": lambda: {"a/" * 200 + "0.png": png(32, 32), "b/0.png": png(32, 32)},
    "gzip of 4 GiB": lambda: {"set.tar.gz": gzipped(bytes(2**24), 256)},
    "tar of one image of 8 GiB": lambda: {"set.tar.gz": gzipped(bytes(2**24), 32, tar_header("0/0.png", 8 * 2**30))},
    "colour profile of 250 MB": lambda: {f"{k}/0.png": commented(b"iCCP", b"a\0\0", 1) for k in range(10)},
    "table of one long text": lambda: {"table.parquet": repeated(10**6, 10**5)},
}  # fmt: skip
"""Small files that ask for much. What reads them is chosen by their name."""


def renamed(old: str, new: str) -> bytes:
    """A torch file of which one member has another name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file((X, Y)))) as honest, zipfile.ZipFile(buffer, "w") as archive:
        for name in honest.namelist():
            archive.writestr(name.replace(old, new), honest.read(name))
    return buffer.getvalue()


def doubled() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file((X, Y)))) as honest, zipfile.ZipFile(buffer, "w") as archive:
        for name in honest.namelist():
            archive.writestr(name, honest.read(name))
        archive.writestr(next(n for n in honest.namelist() if n.endswith("data.pkl")).upper(), b"\x80\x02N.")
    return buffer.getvalue()


def two_indices() -> bytes:
    """The end record points at the second index; programs that look before the end record find the first one."""
    first, second = zipped({"a/data.pkl": b"\x80\x02N."}), zipped({"a/data.pkl": b"\x80\x02]."})
    place = second.rfind(b"PK\x05\x06")
    start = int.from_bytes(second[place + 16 : place + 20], "little")
    first_start = first.rfind(b"PK\x01\x02")
    joined = first[: first.rfind(b"PK\x05\x06")] + second[start:place]
    end = bytearray(second[place:])
    end[16:20] = struct.pack("<I", first_start)
    return joined + bytes(end)


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def packed_member(method: int, content: bytes, name: str = "a/data.pkl") -> bytes:
    """A zip of one member, packed by `method`, whose index says that it unpacks to 228 bytes."""
    if method == zipfile.ZIP_LZMA:
        content = b"\x09\x04\x05\x00" + b"\x5d\x00\x00\x80\x00" + content
    facts = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, 0, len(content), 228, len(name), 0)
    local = b"PK\x03\x04" + facts + name.encode() + content
    index = b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    return local + index + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(index), len(local), 0)


def overlapping() -> bytes:
    content = numpy_header((10**6,)) + bytes(4 * 10**6)
    packed = deflated(content)

    def facts(name: str) -> bytes:
        return struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, zlib.crc32(content), len(packed), len(content), len(name), 0)

    local = b"PK\x03\x04" + facts("a") + b"a" + packed
    names = [f"{k:06d}.npy" for k in range(1000)]
    index = b"".join(
        b"PK\x01\x02" + struct.pack("<H", 20) + facts(n) + struct.pack("<HHHII", 0, 0, 0, 0, 0) + n.encode() for n in names
    )
    return local + index + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1000, 1000, len(index), len(local), 0)


def many_members(count: int) -> bytes:
    """An index of a million entries, as zip64 says it."""
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    index = entry * count
    end64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(index), len(local))
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(local) + len(index), 1)
    return (
        local + index + end64 + locator + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )


def with_numel(count: int) -> bytes:
    tail = b"K\x00J" + struct.pack("<i", count) + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRa"
    return pickled(STORAGE.replace(b"K\x0atQ", b"J" + struct.pack("<i", count) + b"tQ") + tail)


def legacy(keys: list[str]) -> bytes:
    """As torch wrote before 1.6, with another list of storages: torch itself leaves their memory as it finds it."""
    import pickle

    stream, parts = io.BytesIO(LEGACY), []
    for _ in range(4):
        begin = stream.tell()
        for _ in __import__("pickletools").genops(stream):
            pass
        parts.append(LEGACY[begin : stream.tell()])
    return b"".join(parts) + pickle.dumps(keys, 2)


def scans(count: int, side: int = 2048) -> bytes:
    """A progressive JPEG whose last scan is repeated: some bytes and a pass over all pixels each."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def gzipped(part: bytes, times: int, begin: bytes = b"") -> bytes:
    """`begin`, then `part` so many times, packed part by part."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(begin) + b"".join(packer.compress(part) for _ in range(times)) + packer.flush()


def tar_header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def commented(name: bytes = b"zTXt", begin: bytes = b"a\0\0", times: int = 50) -> bytes:
    """A PNG with a chunk that unpacks to 256 MiB, so many times."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    honest = png(32, 32)
    return honest[:33] + chunk(name, begin + zlib.compress(ZEROS)) * times + honest[33:]


def repeated(length: int, rows: int) -> bytes:
    """A repository's table whose texts are all one, `length` letters long, kept once."""
    one = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * length]))
    columns = {
        n: one if kind == "string" else pa.nulls(rows, pa.type_for_alias(kind)) for n, kind in cells.columns(CellRow).items()
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd", store_schema=False)
    return out.getvalue()


HARMLESS = {"image that unpacks", "JPEG of the right size with many scans"}
"""Read as what they say they are: Pillow takes no more than a header declares, and these scans are small."""


@pytest.mark.slow
def test_no_bomb_goes_off(tmp_path: Path) -> None:
    """One after another: how each ends, the peak of memory and the time."""
    for name, (said, more_bytes, seconds) in detonate(tmp_path, {name: make() for name, make in BOMBS.items()}, LIMIT).items():
        limit = 4 * max(LIMIT, sum(file.stat().st_size for file in (tmp_path / name).rglob("*")))
        assert more_bytes <= limit and seconds <= 10, (name, said, more_bytes, seconds)
        assert said != "accepted" or name in HARMLESS, name
        assert len(said) < 1000 and said.count("\n") == 0 and not invisible(said), (name, said)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool])
def test_a_set_at_the_limit_takes_no_more_than_four_times_as_much(tmp_path: Path, dtype: torch.dtype) -> None:
    size = 1 if dtype == torch.uint8 else 8 if dtype == torch.float64 else 4
    count = LIMIT // 3072 // size - 200  # room for labels and header
    content = torch_file((torch.ones(count, 3, 32, 32).to(dtype), torch.arange(count) % 10))
    ((said, more_bytes, _),) = detonate(tmp_path, {"one": {"set.pt": content}}, LIMIT).values()
    assert said == "accepted" and more_bytes <= 4 * LIMIT + 2**24, (said, more_bytes)


def test_the_command_says_it_in_one_message(mabench: Command, tmp_path: Path) -> None:
    """Exit code 2, no traceback, nothing written."""
    kinds = [
        "member called data.PKL",
        "ten million operations",
        "bzip2 member",
        "legacy file without storages",
        "storage larger than its record",
    ]
    for number, kind in enumerate(kinds):
        (tmp_path / f"{number}.pt").write_bytes(BOMBS[kind]()["set.pt"])
        done = mabench("check", f"{number}.pt")
        assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr) < 2000, (kind, done.stderr)
    assert sorted(os.listdir(tmp_path)) == [f"{number}.pt" for number in range(len(kinds))]


# -- the child process --------------------------------------------------------------------------------------------------


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limits of other systems are fewer: SECURITY.md")


def test_contents_come_back_as_they_were(tmp_path: Path) -> None:
    value = sandbox.open_in_child(odd, tmp_path, 2**20)
    assert value["a"] == [1, (2.5, None, "é", True)] and value[3].tolist() == [0, 2] and value[3].dtype == torch.float32
    assert value["empty"].shape == (0, 3) and value["b"].shape == () and int(value["b"]) == 7
    value["b"] += 1  # their memory is the caller's
    assert int(value["b"]) == 8


@LINUX
@pytest.mark.parametrize(("function", "message"), [(spin, "more computing"), (fill, "more memory"), (crash, "SIGABRT")])
def test_a_child_that_goes_wrong_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[[Path], None], message: str
) -> None:
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 2)
    with pytest.raises(MabenchError, match=message):
        sandbox.open_in_child(function, tmp_path / "set.pt", 2**20)


@LINUX
def test_the_child_has_no_network_no_secrets_and_no_pen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    path = tmp_path / "set.pt"
    path.write_text("as it was")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert connect(path, server.getsockname()[1]) == "connected", "so that the next line means something"
        answer = sandbox.open_in_child(connect, path, 2**20, port=server.getsockname()[1])
    seen = sandbox.open_in_child(look_around, path, 2**20)
    assert seen == {"torch": False, "secrets": [], "core": 0, "status": ["NoNewPrivs:\t1"]}
    if not Path("/sys/kernel/security/landlock").exists() and answer == "connected":
        pytest.skip("this system lets nobody give up the network")
    assert answer.startswith("refused")
    assert sandbox.open_in_child(write_beside, path, 2**20) == []
    assert os.listdir(tmp_path) == ["set.pt"] and path.read_text() == "as it was"


@LINUX
@pytest.mark.parametrize(("limit", "code", "message"), [("-f 10", 2, "no room for its contents"), ("-n 24", 0, "")])
def test_limits_of_the_callers_own_are_kept(mabench: Command, tmp_path: Path, limit: str, code: int, message: str) -> None:
    import subprocess

    (tmp_path / "set.pt").write_bytes(torch_file((X, Y)))
    command = f"ulimit {limit}; exec {sys.executable} -m mabench.cli.main check set.pt --dataset digits --no-preview"
    program = command.replace("-m mabench.cli.main", '-c "from mabench.cli.main import run; run()"')
    done = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (code == 0 or done.returncode == code) and message in done.stderr and "Traceback" not in done.stderr, done.stderr


# -- torch's own files --------------------------------------------------------------------------------------------------


def equal(ours: Any, torchs: Any) -> bool:
    """Whether our reader and torch's give the same, with numpy's arrays and numbers as tensors and numbers."""
    if isinstance(torchs, np.ndarray):
        torchs = torch.from_numpy(np.ascontiguousarray(torchs, torchs.dtype.newbyteorder("=")).reshape(torchs.shape))
    if isinstance(torchs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and ours.dtype == torchs.dtype and torch.equal(ours, torchs.detach())
    if isinstance(torchs, np.generic):
        return bool(ours == torchs.item())
    if isinstance(torchs, dict):
        return list(ours) == list(torchs) and all(equal(ours[key], value) for key, value in torchs.items())
    if isinstance(torchs, list | tuple):
        return len(ours) == len(torchs) and all(map(equal, ours, torchs))
    return bool(ours == torchs)


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {"pickle_protocol": 5}], ids=str
)
def test_our_reader_reads_what_torch_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    import argparse

    monkeypatch.setattr(sandbox, "_run", run_in_this_process)
    kinds = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    values: list[Any] = [
        *(X.to(kind) for kind in kinds),
        [X, X[1], X[2:5, :, ::2], X.permute(0, 2, 3, 1), X[:1].expand(4, 3, 32, 32), X.mT],
        torch.nn.Parameter(X), torch.tensor(3.0), torch.zeros(0, 3), X.shape, torch.nn.BatchNorm2d(3).state_dict(),
        {"data": [[X, Y]], "accs_all_exps": {"MLP": [np.float64(0.5)] * 3, "all": np.arange(3.0), "last": np.int64(7)}},
        {"images": X.numpy(), "labels": Y.numpy(), "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "far": np.arange(3, dtype=">i2")},
        [None, True, 1, -1, 2**40, 2.5, "é", (), (1,), (1, 2, 3, 4), [], {}, {1: 2}],
    ]  # fmt: skip
    path = tmp_path / "value.pt"
    for value in values:
        torch.save(value, path, **options)
        ours = sandbox.open_in_child(pickles.load, path, 2**30)
        assert equal(ours, torch.load(path, weights_only=False)), value
    torch.save({"images": X, "args": argparse.Namespace(ipc=1)}, path, **options)
    assert sandbox.open_in_child(pickles.load, path, 2**30)["args"] == {"ipc": 1}, (
        "a record is its fields; its class is not imported"
    )


def test_the_cure_that_a_refusal_names_works(tmp_path: Path) -> None:
    """Also where a file's name is made to be a command."""
    import pathlib
    import subprocess

    path = tmp_path / "'; touch executed; '$(touch executed).pt"
    torch.save({"images": X, "labels": Y, "from": pathlib.PurePosixPath("x")}, path)
    with pytest.raises(MabenchError, match="NOT executed") as caught:
        sandbox.open_in_child(pickles.load, path, 2**30)
    command = str(caught.value).partition("alone: ")[2].replace("python -c", f"{sys.executable} -c", 1)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert sorted(os.listdir(tmp_path)) == [path.name, "set.pt"] and equal(
        torch.load(tmp_path / "set.pt"), {"images": X, "labels": Y}
    )


def test_a_file_that_changes_while_it_is_read_is_one_of_the_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is examined is what is loaded: there is no second look at the file."""
    monkeypatch.setattr(sandbox, "_run", run_in_this_process)
    path, done = tmp_path / "set.pt", threading.Event()
    contents = [torch_file((X, Y)), pickled(b"cbuiltins\nbytearray\nJ" + struct.pack("<i", 2**28) + b"\x85R")]

    def exchange() -> None:
        while not done.is_set():
            for number, content in enumerate(contents):
                (tmp_path / str(number)).write_bytes(content)
                os.replace(tmp_path / str(number), path)

    path.write_bytes(contents[0])
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(200):
            try:
                assert equal(sandbox.open_in_child(pickles.load, path, 2**30), (X, Y))
            except MabenchError as error:
                assert "NOT executed" in str(error)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("fill_with", [b"\xaa", b"\x55"])
def test_no_legacy_file_shows_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill_with: bytes) -> None:
    """Every cut and every list of storages: refused, or filled from the file alone."""
    monkeypatch.setattr(sandbox, "_run", run_in_this_process)
    path = tmp_path / "set.pt"
    for content in [legacy([]), legacy(["1"]), *(LEGACY[:n] for n in range(len(LEGACY) - 130_000, len(LEGACY), 4001))]:
        _ = bytearray(fill_with * 2**20)  # memory that was in use before
        path.write_bytes(content)
        with pytest.raises(MabenchError):
            readers.read(path, dataset="digits")


# -- suites -------------------------------------------------------------------------------------------------------------

SUITE = suites.released()["digits-agnostic@1"].read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('arguments = { checkpoint_path = "evil.bin" }', "argument 'checkpoint_path' is not allowed"),
        ('arguments = { cache_dir = "/tmp/x" }', "not allowed"),
        ('arguments = { pretrained_cfg = "x" }', "not allowed"),
        ("arguments = { scriptable = true }", "not allowed"),
        ('architecture = "hf-hub:evil/model"', "not the plain name"),
        ('architecture = "hf_hub:evil/model"', "not the plain name"),
        ('architecture = "local-dir:/tmp/x"', "not the plain name"),
        ('architecture = "../../etc/passwd"', "not the plain name"),
        ('architecture = "https://example.org/x"', "not the plain name"),
        ("input_size = 1000000", "above 1024"),
        ("arguments = { depth = 2000000 }", "depth"),
        ("arguments = { depth = -1 }", "depth"),
        ("arguments = { depth = 1.5 }", "depth"),
        ("arguments = { depth = true }", "depth"),
        ("arguments = { embed_dim = 4096, depth = 100 }", "fills any memory"),
        ("arguments = { num_heads = [1, 2, 3, 4, 5, 6, 7, 8, 9] }", "num_heads"),
        ('arguments = { norm = "' + "x" * 1000 + '" }', "norm"),
        ('library = "os"', "library"),
    ],
)
def test_a_suite_asks_for_networks_alone(tmp_path: Path, fields: str, message: str) -> None:
    before, table, after = SUITE.partition("[evaluator_fields.vit_mini-scratch]\n")
    own = "" if fields.startswith("arguments") else after  # one `arguments` a table
    (tmp_path / "mine.toml").write_text(f"{before}{table}{fields}\n{own}")
    with pytest.raises(MabenchError, match=message) as caught:
        suites.load(str(tmp_path / "mine.toml"))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "no_such_network"},
        {"architecture": "resnet18", "arguments": {"patch_size": 4}},
        {"arguments": {"img_size": 32, "patch_size": 4, "embed_dim": 100, "num_heads": 7}},
        {"architecture": "convnet", "library": "mabench", "arguments": {"depth": 200}},
        {"architecture": "convnet", "library": "mabench", "arguments": {"norm": "nothing"}},
        {"architecture": "mlp", "library": "mabench", "arguments": {"depth": 2}},
    ],
)
def test_a_network_that_cannot_be_built_is_a_message(fields: dict[str, Any]) -> None:
    entry = evaluators.EVALUATORS["vit_mini-scratch"].model_copy(update=fields)
    with pytest.raises(MabenchError):
        evaluators.build(entry, num_classes=10, channels=3, image_size=32, seed=0)


def test_a_suite_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + SUITE.replace("\n", "\r\n").encode())
    assert suites.load(str(tmp_path / "mine.toml")).digest == suites.load("digits-agnostic").digest


# -- names and messages -------------------------------------------------------------------------------------------------

FORGED = "set\n\n# mabench\n\n| mlp | **99.99** |\n![x](https://example.org/x.png)<img src=x onerror=alert(1)>"


def test_a_name_is_one_line_and_stays_text(tmp_path: Path, mabench: Command) -> None:
    (tmp_path / "a").mkdir()
    SyntheticSet(images=(X * 255).to(torch.uint8), labels=Y, dataset="digits", ipc=1, name=FORGED).save(
        tmp_path / "a" / "set.safetensors"
    )
    assert "\n" not in readers.read(tmp_path / "a" / "set.safetensors").name
    done = mabench(
        "eval", "a/set.safetensors", "--suite", "digits-agnostic", "--evaluator", "mlp*", "--seeds", "0", "--out", "out"
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("\n# ") == 0 and "99.99** |" not in table and "![" not in table and "<img" not in table
    assert "\n| mlp |" not in done.stdout


def test_no_message_holds_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a secret that\x0bis odd")
    for message in (
        "Illegal header value b'Bearer hf_abcdefghijklmnopqrst\\x0bx'",
        "401 for hf_abcdefghijklmnopqrstuvwxyz",
        "sent a secret that\x0bis odd to the server",
        "{'authorization': 'Bearer xyzxyzxyz'}",
    ):
        shown = str(MabenchError(message))
        assert (
            "[secret]" in shown and "hf_" not in shown and "xyzxyz" not in shown and "odd" not in shown.replace("is odd to", "")
        )
    assert str(MabenchError("results/hf_sets_cifar10.pt")) == "results/hf_sets_cifar10.pt"
