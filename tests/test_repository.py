"""The house rules that a machine can check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from builders import BUNDLED

import mabench

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_import_contracts_hold() -> None:
    done = run(str(Path(sys.executable).parent / "lint-imports"))
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout


def test_listing_and_what_needs_no_torch_do_not_import_it() -> None:
    """In one process, in this order: the first module that imports torch is named."""
    code = """
import importlib, sys
for module in ("mabench", "mabench.schema", "mabench.suites", "mabench.data", "mabench.cli.main"):
    importlib.import_module(module)
    assert "torch" not in sys.modules, module
from click.testing import CliRunner
from mabench.cli.main import main
for arguments in (["--help"], ["submit", "--help"], ["list"]):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0 and "torch" not in sys.modules, (arguments, result.output)
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def tracked() -> list[Path]:
    listing = run("git", "ls-files")
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listing.stdout.splitlines()]


def test_no_module_is_a_drawer_or_shadows_the_standard_library() -> None:
    assert not [p for p in tracked() if p.name in ("utils.py", "ast.py", "types.py", "helpers.py", "misc.py")]


def test_no_path_of_a_machine_is_tracked() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w")
    texts = [
        p for p in tracked() if p.suffix in (".py", ".md", ".toml", ".json", ".txt", "") and p.is_file() and p != Path(__file__)
    ]
    assert not [p for p in texts if pattern.search(p.read_text(encoding="utf-8"))]


def test_the_readmes_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text() + (ROOT / ".ci" / "run").read_text()))
    assert {"demo", "test", "install"} <= named <= targets


def test_every_rule_names_a_test_that_exists() -> None:
    text = (ROOT / "PROTOCOL.md").read_text()
    rules = re.findall(r"^(\d+)\. ", text, re.M)
    assert rules == [str(i + 1) for i in range(len(rules))] and len(rules) >= 10
    for file, name in re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", text):
        source = (ROOT / "tests" / file).read_text()
        assert not name or f"def {name}(" in source, f"{file}::{name}"


def test_the_lowest_versions_are_those_that_are_declared() -> None:
    """`make test-lowest` runs what pyproject.toml promises, every dependency of it and nothing else."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = [line for line in (ROOT / "constraints-lowest.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lowest)
    assert set(pinned) == {line.split(">=")[0] for line in declared}
    for name, version in (line.split(">=") for line in declared):
        assert f"{pinned[name]}.".startswith(f"{version}."), name


def test_the_readme_shows_what_the_demo_prints(digits_run: Path) -> None:
    """Columns, evaluators and baselines exactly; accuracies within what another processor may round differently."""
    readme = (ROOT / "README.md").read_text()
    shown = [re.split(r" {2,}", line) for line in re.findall(r"^(?:evaluator|\S+-scratch|\[panel mean\]) .*$", readme, re.M)]
    result = mabench.evaluate(BUNDLED, suite="digits-agnostic", out=digits_run)
    printed = [re.split(r" {2,}", line) for line in result.table().splitlines()]
    assert shown[0] == printed[0]
    for one, other in zip(shown[1:], printed[2:], strict=True):
        assert one[0] == other[0] and one[4:7] == other[4:7]
        assert abs(float(one[1].split()[0]) - float(other[1].split()[0])) < 4, one[0]


def test_the_citation_and_the_typing_marker_are_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {mabench.__version__}\n" in text and re.search(r"^cff-version: 1\.2\.0$", text, re.M)
    assert all(re.search(rf"^{field}:", text, re.M) for field in ("title", "message", "authors", "license"))
    assert (Path(mabench.__file__).parent / "py.typed").is_file()


def test_the_container_is_built_from_files_that_are_there() -> None:
    """`test_container.py` runs its lines. What is copied exists and is all that an installation needs; both bases are new enough."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert copied == {
        "pyproject.toml",
        project["project"]["readme"],
        "LICENSE",
        *project["tool"]["setuptools"]["package-dir"].values(),
    }
    assert all((ROOT / name).exists() for name in copied)
    (python,) = re.findall(r"^ARG BASE=python:(\d+)\.(\d+)-slim$", "\n".join(lines), re.M)
    (torch,) = re.findall(r"BASE=pytorch/pytorch:(\d+)\.(\d+)\.", lines[1])
    assert f">={'.'.join(python)}" == project["project"]["requires-python"]
    assert f"torch>={'.'.join(torch)}" in project["project"]["dependencies"]
    assert f"`{lines[0].removeprefix('# ').split('  ')[0]}`".strip("`") in (ROOT / "docs" / "quick-start.md").read_text()


def test_the_sdist_lists_what_the_tests_read() -> None:
    """`.ci/wheel` builds the sdist and collects its tests; here, that no tracked file was forgotten."""
    manifest = (ROOT / "MANIFEST.in").read_text()
    folders = set(re.findall(r"^(?:graft|recursive-include) (\S+)", manifest, re.M))
    patterns = re.findall(r"^include (.+)$", manifest, re.M)[0].split()
    kept = {".gitattributes", ".gitignore", "pyproject.toml", "MANIFEST.in"}  # the latter two are always packed
    for path in tracked():
        name = path.relative_to(ROOT)
        if name.parts[0] not in folders and name.parts[0] not in (*kept, ".types"):
            assert any(fnmatch(name.as_posix(), pattern) for pattern in patterns), name


def test_the_validation_table_is_what_was_measured() -> None:
    """Mean, spread and runs of every row against the tracked results, which hold every run."""
    rows = re.findall(r"^\| (\S+-scratch) \|(.*)\|$", (ROOT / "docs" / "validation.md").read_text(), re.M)
    assert len(rows) == 6
    for column, ipc in ((1, 1), (4, 10)):
        path = ROOT / "benchmarks" / "results" / f"cifar10-modelpool_ipc{ipc}_epyc-1-thread_202611.json"
        assert path in tracked()
        cells = json.loads(path.read_text())["cells"]
        for name, values in rows:
            accuracies = [100 * c["acc_last"] for c in cells if c["evaluator"] == name]
            shown = [v.strip() for v in values.split("|")]
            mark = "†" if any(c["diverged_epoch"] is not None for c in cells if c["evaluator"] == name) else ""
            expected = [f"{fmean(accuracies):.2f} ({pstdev(accuracies):.2f}){mark}", str(len(accuracies))]
            assert shown[column : column + 2] == expected


def test_the_readme_shows_the_means_of_the_validation_page() -> None:
    """Both tables hold published means and ours, in the same order of networks."""
    short, whole = ((ROOT / name).read_text() for name in ("README.md", "docs/validation.md"))
    shown = re.findall(r"^\| [\w-]+ \| (\d+\.\d+) \| (\d+\.\d+) \| (\d+\.\d+) \| (\d+\.\d+) \|$", short, re.M)
    behind = re.findall(r"^\| \S+-scratch \| (\S+) \| (\S+) .*?\| \d+ \| (\S+) \| (\S+) ", whole, re.M)
    assert len(shown) == 6 and shown == behind


@pytest.mark.parametrize(
    ("name", "lines", "words"), [("README.md", 150, 900), ("PROTOCOL.md", 90, 1500), ("CHANGELOG.md", 15, 250)]
)
def test_the_front_pages_stay_short(name: str, lines: int, words: int) -> None:
    text = (ROOT / name).read_text()
    assert text.count("\n") <= lines and len(text.split()) <= words
