"""One mutation engine for every kind of file: valid samples go in, damaged and hostile ones come out.

Bytes are flipped, cut, repeated and spliced; and what a file is made of is taken apart and put together wrongly: the values of JSON
and TOML, the members and sizes of archives, the headers of numpy and safetensors files, the operations of pickles, the chunks of PNGs.
Every input follows from the reader's name and its number, so that a failure is repeated by naming both.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import pickletools
import random
import re
import resource
import shutil
import signal
import struct
import time
import traceback
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mabench.errors import MabenchError
from mabench.sets import _open_in_child, limits

HANG_SECONDS = 10.0  # of the processor
WAIT_SECONDS = 60.0  # of the clock: whoever waits for something that does not come
MEMORY_BYTES = 2 * 2**30
NAMES = [
    "../../escaped",
    "/tmp/mabench-escaped",
    "..\\escaped",
    "a/b",
    "",
    ".",
    "\x1b[31mred\x07",
    "\u202egnp",
    "é" * 300,
    "con\nfig",
    "²",
]
"""Texts that would leave a folder, a line or a colour behind them if somebody obeyed them."""
TEXTS = [*NAMES, "a" * 20_000, "[" * 5000, "NaN", "1e999", "-1", "9" * 5000, "grid²", "grid8", "cifar10", "none", "²" * 9]
NUMBERS = [0, -1, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400]
VALUES: list[Any] = [None, True, 1.5, float("nan"), float("inf"), -1e308, [], {}, [[]], *NUMBERS, *TEXTS]
MARK = '"@deep@"'  # replaced by nesting that no recursive parser survives

Files = Mapping[str, bytes]
"""A sample: path in its folder -> content."""


def run_in_this_process(request: dict[str, Any], answer: Path, wall: int) -> int:
    """`sandbox._run` without a child process: the same functions and the same answer, without limits."""
    limits.start(request["max_bytes"])
    with answer.open("xb") as file:
        _open_in_child.answer(request, file)
    return 0


# -- mutations ---------------------------------------------------------------------------------------------------------


def mutated(content: bytes, rng: random.Random, depth: int = 0) -> bytes:
    """`content` with one thing wrong with it: by its structure where that is known, else by its bytes."""
    structural = next((change for magic, change in STRUCTURES if re.match(magic, content, re.DOTALL)), None)
    if structural is None and _is_text(content):
        structural = _toml
    if structural is not None and depth < 4 and rng.random() < 0.7:
        try:
            return structural(content, rng, depth)
        except Exception:  # an earlier change left nothing that could be taken apart
            pass
    return _bytes(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    size = len(data)
    if not size:
        return rng.randbytes(rng.randrange(64))
    # headers and indices stand at the ends of a file: half of all changes go there
    start = rng.choice([rng.randrange(size), rng.randrange(min(size, 256)), max(0, size - 1 - rng.randrange(256))])
    stop = min(size, start + rng.choice([1, 2, 4, 8, 64, 1024]))
    kind = rng.randrange(9)
    if kind == 0:
        data[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[start:stop] = rng.randbytes(stop - start)
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        del data[start:stop]
    elif kind == 4:
        data[start:start] = bytes(data[start:stop]) * rng.choice([1, 2, 100])
    elif kind == 5:
        other = rng.randrange(size)
        data[start:stop] = data[other : other + stop - start]
    elif kind == 6:
        number = rng.choice(NUMBERS) & (2**64 - 1)
        width = rng.choice([1, 2, 4, 8])
        data[start : start + width] = number.to_bytes(8, rng.choice(["little", "big"]))[:width]
    elif kind == 7:
        data[start:start] = rng.choice(TEXTS).encode()
    else:
        data += rng.choice([bytes(data), bytes(1000), rng.randbytes(1000)])
    return bytes(data)


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content[:4096].decode()
    except UnicodeDecodeError:
        return False


def _toml(content: bytes, rng: random.Random, depth: int) -> bytes:
    """TOML, JSON lines and plain text: lines and values exchanged."""
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines)) if lines else 0
    if not lines:
        return b"a = 1\n"
    if lines[at].startswith("{"):  # a line of JSON
        lines[at] = _json(lines[at].encode(), rng, depth).decode(errors="surrogatepass")
        return "\n".join(lines).encode(errors="surrogatepass")
    value = json.dumps(rng.choice(VALUES), ensure_ascii=rng.random() < 0.5)
    value = rng.choice(
        [value, value, value, value.replace("NaN", "nan").replace("Infinity", "inf"), "[" * 5000, "1979-05-27", "{a={}}", "0x1_0"]
    )
    kind = rng.randrange(6)
    if kind == 0 and "=" in lines[at]:
        lines[at] = lines[at].partition("=")[0] + "= " + value
    elif kind == 1:
        spans = list(re.finditer(r'"[^"]*"|[\d.]+|true|false', lines[at]))
        if spans:
            span = rng.choice(spans)
            lines[at] = lines[at][: span.start()] + value + lines[at][span.end() :]
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 4:
        lines.insert(at, rng.choice(["[a]", "[[a]]", "a" + ".a" * 5000 + " = 1", f"{json.dumps(rng.choice(NAMES))} = {value}"]))
    else:
        keys = list(re.finditer(r"[\w-]+(?= *=)|(?<=\[)[\w.-]+(?=\])", lines[at]))
        if keys:
            key = rng.choice(keys)
            lines[at] = lines[at][: key.start()] + json.dumps(rng.choice(NAMES)) + lines[at][key.end() :]
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")


def _json(content: bytes, rng: random.Random, depth: int) -> bytes:
    value = json.loads(content)
    for _ in range(rng.choice([1, 1, 1, 3])):
        value = _changed(value, rng, depth)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    if rng.random() < 0.05:  # the same key twice: the last one counts, for whoever checked the first
        text = text.replace("{", "{" + f'"{rng.choice(["record_schema", "sha256", "a"])}": {json.dumps(rng.choice(VALUES))},', 1)
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    levels = rng.choice([50, 100_000])
    return text.replace(MARK, opening * levels + "1" + closing * levels).encode(errors="surrogatepass")


def _changed(value: Any, rng: random.Random, depth: int) -> Any:
    """A JSON value with one thing inside it exchanged; JSON and other files that are kept as text are taken apart too."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return value | {rng.choice(NAMES): value[key]}
        return value | {key: _changed(value[key], rng, depth)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return rng.choice([value[:at], value + value[at:], value[:at] + [_changed(value[at], rng, depth)] + value[at + 1 :]])
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.8:
        return _json(value.encode(), rng, depth + 1).decode(errors="surrogatepass")
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 2**32, -(2**40)])
    return rng.choice([*VALUES, MARK.strip('"')])


def _safetensors(content: bytes, rng: random.Random, depth: int) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = content[8 : 8 + length], content[8 + length :]
    changed = _json(header, rng, depth)
    if rng.random() < 0.2:
        length = rng.choice(NUMBERS) & (2**64 - 1)
        return struct.pack("<Q", length) + changed + rest
    changed += b" " * (-len(changed) % 8)
    return struct.pack("<Q", len(changed)) + changed + rest


def _numpy(content: bytes, rng: random.Random, depth: int) -> bytes:
    length = struct.unpack("<H", content[8:10])[0]
    text = content[10 : 10 + length].decode("latin1")
    shape = str(tuple(rng.choice([0, 1, 3, 10, 32, -1, 2**31, 2**40, 2**62]) for _ in range(rng.randrange(6))))
    new = rng.choice(
        [
            re.sub(r"\([^)]*\)", shape, text),
            re.sub(
                r"'descr': '[^']*'",
                "'descr': " + repr(rng.choice(["|O", "<f2", ">f8", "<U9", "<M8[s]", "<c16", "|V4", "<f16", "|b1", "<u8", "x"])),
                text,
            ),
            re.sub(r"'fortran_order': \w+", "'fortran_order': True", text),
            re.sub(r"'[^']*'", rng.choice(["__import__('os')", "[" * 500, "'" + "a" * 20000 + "'"]), text, count=1),
            text.replace("}", ", 'extra': 1}"),
        ]
    ).rstrip()
    new = (new + " " * (-(len(new) + 11) % 64) + "\n").encode("latin1", "replace")  # type: ignore[assignment]
    return content[:8] + struct.pack("<H", len(new) & 0xFFFF) + new + content[10 + length :]  # type: ignore[operator]


def _zip(content: bytes, rng: random.Random, depth: int) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > 2**24:
            raise ValueError("grown too large to be worth it")
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, data = members[at]
    kind = rng.randrange(8)
    if kind < 4:
        members[at] = (name, mutated(data, rng, depth + 1))
    elif kind == 4:
        members[at] = (rng.choice([rng.choice(NAMES), name.replace("/", "/../"), name.upper(), "archive/data.pkl"]), data)
    elif kind == 5:
        members.insert(rng.randrange(len(members)), (rng.choice([name, *NAMES]), rng.choice(members)[1]))
    elif kind == 6:
        del members[at]
    else:
        members[at] = (name, rng.choice([b"", bytes(2**22), data * 2, data[: len(data) // 2]]))
    out = io.BytesIO()
    compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name.replace("\0", "") or "x")
            info.compress_type = compression
            archive.writestr(info, data)
    made = bytearray(out.getvalue())
    if rng.random() < 0.2:  # the index lies about sizes and places
        index = made.rfind(b"PK\x01\x02")
        place = index + rng.choice([10, 16, 20, 24, 28, 30, 42])
        made[place : place + 4] = (rng.choice(NUMBERS) & (2**32 - 1)).to_bytes(4, "little")
    return bytes(made)


def _pickle(content: bytes, rng: random.Random, depth: int) -> bytes:
    """One operation of a pickle removed, repeated, exchanged with another, or given another argument."""
    operations: list[tuple[int, int]] = []
    stream = io.BytesIO(content)
    places = [place for _, _, place in pickletools.genops(stream)]
    operations = list(zip(places, [*places[1:], stream.tell()], strict=True))  # type: ignore[arg-type, list-item]
    (start, stop), (other, until) = rng.choice(operations), rng.choice(operations)
    piece = content[other:until]
    kind = rng.randrange(6)
    if kind == 0:
        return content[:start] + content[stop:]
    if kind == 1:
        return content[:start] + piece * rng.choice([1, 2, 50]) + content[start:]
    if kind == 2:
        return content[:start] + piece + content[stop:]
    if kind == 3:
        number = rng.choice(NUMBERS)
        large = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)[:255]
        return content[:start] + b"\x8a" + bytes([len(large)]) + large + content[stop:]
    if kind == 4:
        text = rng.choice(TEXTS).encode()
        return content[:start] + b"X" + struct.pack("<I", len(text)) + text + content[stop:]
    return content[:start] + rng.choice(GLOBALS) + rng.choice([b")R", b"", b"(K\x03tR", b")\x81"]) + content[stop:]


GLOBALS = [
    f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n".encode()
    for name in (
        "os.system", "builtins.eval", "builtins.set", "builtins.bytearray", "builtins.complex", "collections.Counter",
        "collections.OrderedDict", "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_parameter", "torch._tensor._rebuild_from_type_v2",
        "torch.FloatTensor", "torch.Size", "torch.device", "torch.float16", "torch.complex64", "numpy.ndarray", "numpy.dtype",
        "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "_codecs.encode",
        "torch.HalfStorage", "torch.DoubleStorage", "torch.BoolStorage", "torch.ComplexFloatStorage", "torch.LongStorage",
    )
]  # fmt: skip


def _png(content: bytes, rng: random.Random, depth: int) -> bytes:
    """A chunk changed, repeated, dropped or moved; checksums are right again."""
    chunks, place = [], 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    at = rng.randrange(len(chunks))
    name, data = chunks[at]
    kind = rng.randrange(5)
    if kind == 0 and name == b"IHDR":
        sides = [rng.choice([0, 1, 8, 32, 2048, 2049, 60_000, 2**31 - 1]) for _ in range(2)]
        data = struct.pack(">IIBBBBB", *sides, rng.choice([1, 8, 16]), rng.choice([0, 2, 3, 4, 6]), 0, 0, rng.randrange(2))
        chunks[at] = (name, data)
    elif kind == 1:
        chunks[at] = (name, _bytes(data, rng))
    elif kind == 2:
        chunks.insert(at, rng.choice(chunks))
    elif kind == 3:
        del chunks[at]
    else:
        packed = zlib.compress(bytes(rng.choice([10, 2**24])))
        chunks.insert(
            at,
            rng.choice(
                [
                    (b"iTXt", b"a\0\1\0\0\0" + packed),
                    (b"zTXt", b"a\0\0" + packed),
                    (b"iCCP", b"a\0\0" + packed),
                    (b"acTL", bytes(8)),
                    (b"IDAT", packed),
                ]
            ),
        )
    out = content[:8]
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


STRUCTURES: list[tuple[bytes, Callable[[bytes, random.Random, int], bytes]]] = [
    (rb"PK\x03\x04", _zip),
    (rb"\x93NUMPY", _numpy),
    (rb"\x89PNG", _png),
    (rb"\x80[\x02-\x05]", _pickle),
    (rb".{3}.\0\0\0\0\{", _safetensors),
    (rb"[\[{].*[\]}]\s*\Z(?<!\}\n)|\{\s+\"", _json),
]
"""First bytes -> the mutation that knows the format."""


def hostile(files: Files, rng: random.Random, strangers: bool) -> dict[str, bytes | Path]:
    """One file of a sample changed, once or a few times; now and then a folder, a pipe or a link in its place."""
    name = rng.choice(sorted(files))
    content: bytes | Path = files[name]
    if strangers and rng.random() < 0.03:
        content = rng.choice([Path("folder"), Path("pipe"), Path("link"), Path("nothing"), Path("/dev/zero")])
    else:
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            assert isinstance(content, bytes)
            content = mutated(content, rng)
            if len(content) > 2**23:
                break
    return {**files, name: content}


def write(folder: Path, files: Mapping[str, bytes | Path], outside: Path) -> None:
    """The files in an empty `folder`; `Path("link")` becomes a link to a file in `outside`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.name == "folder":
            path.mkdir()
        elif content.name == "pipe":
            os.mkfifo(path)
        elif content.name != "nothing":
            path.symlink_to(content if content.is_absolute() else outside / "precious.txt")


# -- running -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Something that reads files: `read(folder)` is given a folder that holds one of the `samples`, damaged."""

    name: str
    read: Callable[[Path], Any]
    samples: Callable[[], tuple[Files, ...]]
    weight: float = 1.0
    """Its share of all inputs; less for readers that take long."""
    strangers: bool = True
    """Whether others give it these files; what the program keeps for itself is damaged, but no pipe or link."""


@dataclass
class Outcome:
    """What came of the inputs of one reader. `failures`: number of an input -> what it raised, or what else was wrong."""

    reader: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    """Of the processor, in the reader alone."""
    slowest_seconds: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)


class Hang(BaseException):
    """An input took longer than WAIT_SECONDS."""


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def no_more_than(more_bytes: int) -> Iterator[None]:
    """Whoever asks for more address space than this within, on top of what the process has, gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(reader: Reader, inputs: int, scratch: Path, first: int = 0) -> Outcome:
    """Give `inputs` damaged samples to the reader. Each must be read or end in a MabenchError that a terminal can show."""
    outcome, samples = Outcome(reader.name), reader.samples()
    outside = scratch / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "precious.txt").write_text("precious")
    for number in range(first, first + inputs):
        rng = random.Random(f"{reader.name}/{number}")
        write(scratch / "in", hostile(rng.choice(samples), rng, reader.strangers), outside)
        begun = time.process_time()
        try:
            faulthandler.dump_traceback_later(2 * WAIT_SECONDS, exit=True)  # native code that no signal stops
            with no_longer_than(WAIT_SECONDS), no_more_than(MEMORY_BYTES):
                reader.read(scratch / "in")
            outcome.accepted += 1
        except MabenchError as error:
            outcome.refused += 1
            if hidden := invisible(str(error)):
                outcome.failures[number] = f"message with {hidden}"
        except (Exception, Hang) as error:
            place = traceback.extract_tb(error.__traceback__)
            own = [f for f in place if "/mabench/" in f.filename or "/methods/" in f.filename] or list(place)
            outcome.failures[number] = (
                f"{type(error).__name__}: {str(error)[:150]!r} at {Path(own[-1].filename).name}:{own[-1].lineno}"
            )
        finally:
            faulthandler.cancel_dump_traceback_later()
        took = time.process_time() - begun
        outcome.inputs += 1
        outcome.seconds += took
        outcome.slowest_seconds = max(outcome.slowest_seconds, took)
        if took > HANG_SECONDS:
            outcome.failures[number] = f"took {took:.0f} s"
        if (outside / "precious.txt").read_text() != "precious" or len(list(outside.iterdir())) != 1:
            outcome.failures[number] = "touched a file outside its folder"
    shutil.rmtree(scratch / "in", ignore_errors=True)
    return outcome


def invisible(text: str) -> str:
    """Characters of `text` that a terminal would obey instead of show."""
    return ", ".join(sorted({f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"}))
