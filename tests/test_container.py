"""The Dockerfile, line by line in a scratch folder: what it copies is all that an installation needs, and its command runs the demo.

There is no container here: `FROM` is a virtual environment that sees the dependencies of these tests, and paths begin in the folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of every line that is not a comment."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [(word, rest) for word, rest in (line.split(None, 1) for line in lines if line.strip() and not line.startswith("#"))]


def rooted(text: str, root: Path) -> str:
    """Absolute paths of the image as paths within `root`."""
    return re.sub(r"(?<![\w.:/])/(?=\w)", f"{root}/", text)


@pytest.mark.slow
def test_the_image_runs_the_demo(tmp_path: Path) -> None:
    root, base = tmp_path / "image", tmp_path / "base"
    venv.create(base, with_pip=True)
    site = next((base / "lib").glob("python*/site-packages"))
    for path in site.glob("setuptools*"):  # that of the tests is new enough
        shutil.rmtree(path)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n" + nested(Path(sysconfig.get_path("purelib"))))
    environment = {name: value for name, value in os.environ.items() if name in ("LANG", "TMPDIR", "OMP_NUM_THREADS")}
    environment |= {"PATH": f"{base / 'bin'}:{os.environ['PATH']}", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    work, command = root, list[str]()
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = rest.split()
            place = Path(rooted(target, root))
            for source in (ROOT / name for name in sources):
                if source.is_dir():
                    shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, place / source.name)
        elif word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(rooted(rest, root)))
        elif word == "RUN":
            done = subprocess.run(["sh", "-c", rooted(rest, root)], cwd=work, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        elif word == "WORKDIR":
            work = Path(rooted(rest, root))
            work.mkdir(parents=True, exist_ok=True)
        elif word in ("ENTRYPOINT", "CMD"):
            command += json.loads(rest)
        else:
            assert word in ("ARG", "FROM"), word
    assert command == ["mabench", "demo"] and not (root / "src").exists()
    done = subprocess.run([base / "bin" / command[0], *command[1:]], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[panel mean]" in done.stdout and (work / "results" / "demo" / "page" / "index.html").is_file()


def nested(site: Path) -> str:
    """What the .pth files of that folder name: a .pth in a .pth's folder is not read."""
    lines = [
        line for path in site.glob("*.pth") if not path.name.startswith("__editable__") for line in path.read_text().splitlines()
    ]
    return "".join(f"{line}\n" for line in lines if Path(line).is_dir())
