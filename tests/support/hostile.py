"""Files that no honest program writes, and what reads them in a process whose memory and time are measured."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


def torch_file(value: Any, **arguments: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **arguments)
    return buffer.getvalue()


def numpy_file(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pickled(*operations: bytes, packed: bool = False) -> bytes:
    """A torch file whose pickle is made by hand: what no honest writer makes."""
    buffer, method = io.BytesIO(), zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(torch_file(torch.arange(10)))) as honest, zipfile.ZipFile(buffer, "w", method) as archive:
        for name in honest.namelist():
            archive.writestr(name, b"\x80\x02" + b"".join(operations) + b"." if name.endswith("data.pkl") else honest.read(name))
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def numpy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(2**26))) + chunk(b"IEND", b"")


def safetensors_header(header: Any) -> bytes:
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content


WEIGH = """
import json, resource, subprocess, sys
with open(sys.argv[2], "xb") as file:
    code = subprocess.run([sys.executable, "-P", sys.argv[1]], stdin=sys.stdin, stdout=file, stderr=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime]))
"""
"""Between the process that asks and its child: a child starts with the peak of memory of whoever starts it."""

DETONATE = """
import json, resource, subprocess, sys, time
from pathlib import Path
import numpy, pyarrow.parquet, torch
from PIL import Image
from mabench import suites
from mabench.board import submission as submissions
from mabench.board import card_files, cells
from mabench.sets import readers as adapters, sandbox, synthetic
from mabench.errors import MabenchError
from mabench.runs.folder import read_records
adapters.MAX_BYTES = synthetic.MAX_BYTES = cells.MAX_TABLE_BYTES = int(sys.argv[1])
child = Path(sandbox.__file__).with_name("_open_in_child.py")
children = []

def run(request, answer, wall):
    weigh = [sys.executable, "-S", "-c", sys.argv[2], str(child), str(answer)]
    done = subprocess.run(weigh, input=json.dumps(request).encode(), capture_output=True, timeout=wall)
    code, *used = json.loads(done.stdout)
    children.append(used)
    return code

sandbox._run = run
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
idle = 0
for line in sys.stdin:
    path = Path(line.strip())
    children.clear()
    before, begun = peak(), time.process_time()
    try:
        if (path / "card.toml").exists():
            card_files.read(path / "card.toml")
        elif (path / "mine.toml").exists():
            suites.load(str(path / "mine.toml"))
        elif (path / "records").exists():
            read_records(path)
        elif (path / "table.parquet").exists():
            if not cells.read(path / "table.parquet"):
                raise MabenchError("no table of ours")
        else:
            files = list(path.iterdir())
            adapters.read(files[0] if len(files) == 1 else path, dataset="digits")
        said = "accepted"
    except MabenchError as error:
        said = str(error)
    more = peak() - before + max([bytes - idle for bytes, _ in children], default=0)
    print(json.dumps([path.name, said, more, time.process_time() - begun + sum(seconds for _, seconds in children)]), flush=True)
    idle = idle or max([bytes for bytes, _ in children], default=0)
"""


def detonate(folder: Path, samples: Mapping[str, Mapping[str, bytes]], limit: int) -> dict[str, tuple[str, int, float]]:
    """What reading each sample ends with, the bytes that it takes (here and in its child, more than an honest file of ten images), and
    the processor's seconds. `limit` stands in the place of what a set may have."""
    honest = torch_file((torch.zeros(10, 3, 32, 32), torch.arange(10)))
    everything = {"honest": {"set.pt": honest}, **samples}
    for name, files in everything.items():
        for inside, content in files.items():
            (folder / name / inside).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / inside).write_bytes(content)
    command = [sys.executable, "-W", "ignore", "-c", DETONATE, str(limit), WEIGH]
    lines = "".join(f"{folder / name}\n" for name in everything)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=1800)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    ends = {name: (said, more, seconds) for name, said, more, seconds in map(json.loads, done.stdout.splitlines())}
    assert list(ends) == list(everything), done.stderr[-2000:]
    del ends["honest"]
    return ends
