"""What a reader sees, as files: every `--help` at 80 columns, lists and explanations, tables at 80 and 120.

python tests/test_outputs.py    # writes tests/golden/outputs/ where the change is meant
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from builders import DIGITS, made_record
from click.testing import CliRunner

from mabench import suites
from mabench.cli.main import main
from mabench.results import scoring, tables

FOLDER = Path(__file__).parent / "golden" / "outputs"
NAMES = ("digits-agnostic", "cifar10-agnostic", "convnet3-scratch", "hmdc", "imagewoof")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command and group."""
    yield path
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


def printed(*words: str, columns: int = 80) -> str:
    """What a command prints on a terminal of this width."""
    how: dict[str, Any] = {"prog_name": "mabench", "env": {"COLUMNS": str(columns), "LINES": "24"}, "terminal_width": columns}
    result = CliRunner().invoke(main, words, **how)
    assert result.exit_code == 0, result.output
    return result.output


def results(suite: suites.LoadedSuite) -> str:
    """A result as it is printed, at both widths."""
    records = [
        made_record(suite, track, entry.name, seed, 0.5 + 0.03 * index + 0.004 * seed, sha="0" * 64)
        for track, entries in suite.evaluators.items()
        for index, entry in enumerate(entries)
        for seed in suite.suite.seeds
    ]
    lines = scoring.rows(suite, records)
    return "\n\n".join(f"{width} columns\n{tables.table(suite, lines, width=width)}" for width in (80, 120)) + "\n"


def outputs() -> Iterator[tuple[str, str]]:
    """The name and the text of every golden file."""
    for path in commands(main):
        yield "-".join(("help", *path)), printed(*path, "--help")
    yield "list", printed("list")
    for name in NAMES:
        yield f"show-{name}", printed("show", name)
    yield "result-digits-agnostic", results(DIGITS)
    yield "result-cifar10-agnostic", results(suites.load("cifar10-agnostic"))


OUTPUTS = dict(outputs())


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_printed(name: str) -> None:
    assert OUTPUTS[name] == (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), "meant? python tests/test_outputs.py"


@pytest.mark.parametrize("name", [name for name in OUTPUTS if not name.startswith("result")])
def test_it_fits_eighty_columns(name: str) -> None:
    assert [line for line in OUTPUTS[name].splitlines() if len(line) > 80] == []


def test_every_golden_file_is_still_printed() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(OUTPUTS)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name, text in OUTPUTS.items():
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
