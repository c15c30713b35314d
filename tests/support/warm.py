"""A process that has imported PyTorch and forks for every command: the real program, without three seconds of imports each time.

One request a line on standard input, JSON: `arguments`, `program` (Python text to run instead of mabench, or empty), `cwd`,
`environment`, and the files `in`, `out` and `err`. The answer is the exit code. Nothing of mabench or of the Hub's libraries is
imported before the fork, since they read the environment; what these import themselves does not, and is.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import sys
import traceback
from typing import Any

import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo  # noqa: F401  (what an optimizer imports at its first step)
import torchvision  # noqa: F401

for needed in ("anyio", "click", "fsspec", "httpx", "httpx2", "jinja2", "multiprocess", "PIL.Image", "pyarrow.parquet", "pydantic",
               "requests", "rich.progress", "safetensors.torch", "tabulate", "tqdm", "truststore", "xxhash", "yaml"):  # fmt: skip
    with contextlib.suppress(ImportError):  # versions of the Hub's libraries differ in what they need
        importlib.import_module(needed)


def become(request: dict[str, Any]) -> None:
    """In the forked process: what a shell would set up."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, path in ((1, request["out"]), (2, request["err"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    typed = os.open(request["in"], os.O_RDONLY)
    os.dup2(typed, 0)
    sys.argv = ["mabench" if not request["program"] else "-c", *request["arguments"]]


def serve() -> str:
    """Returns in the forked processes only, with the program to run."""
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            request = json.loads(line)
            become(request)
            return str(request["program"])
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    sys.exit()


def run(program: str) -> int:
    """mabench, or the program, and what Python makes of its end."""
    try:
        if program:
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module("mabench.cli.main", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


gc.freeze()  # what was imported before the fork stays shared
code = run(serve())
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # taking PyTorch apart object by object takes a second
