"""What a reader sees, as files: every `--help` at 80 columns, lists and explanations, every table at 80 and 120 and in all formats.

python tests/test_outputs.py    # writes tests/golden/outputs/ where the change is meant
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from builders import BUNDLED, DIGITS, made_record
from click.testing import CliRunner

from mabench import suites
from mabench.board.verify import Comparison
from mabench.cli import console
from mabench.cli.audits import rerun_table
from mabench.cli.main import main
from mabench.evaluation.costs import PlanLine
from mabench.papers import compare as comparison
from mabench.papers.compare import Line
from mabench.results import scoring, tables
from mabench.results.comparison import compare

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


AGNOSTIC = suites.load("cifar10-agnostic")
STYLES = ("text", "markdown", "latex", "csv")


def several_sets() -> str:
    """Two sets of one suite, as `mabench table` prints them in every format, and as text at both widths."""
    records = [
        made_record(
            AGNOSTIC, "scratch", entry.name, seed, 0.4 + 0.03 * index + 0.02 * number + 0.004 * seed, sha=f"{number}" * 64
        )
        for number in range(2)
        for index, entry in enumerate(AGNOSTIC.evaluators["scratch"])
        for seed in AGNOSTIC.suite.seeds
    ]
    names = {"0" * 64: "random-ipc10", "1" * 64: "my_set"}
    named = [
        r.model_copy(update={"synthetic_set": r.synthetic_set.model_copy(update={"name": names[r.cell.set_sha256]})})
        for r in records
    ]
    (table,) = compare(named, AGNOSTIC)
    parts = [f"{width} columns\n{table.draw(width=width)}" for width in (80, 120)]
    return "\n\n".join([*parts, *(f"{style}\n{table.draw(style)}" for style in STYLES[1:])]) + "\n"


def reproduction() -> str:
    """Our numbers beside those of a paper: inside, outside, and a row that is about another configuration."""
    title = "Table 5, row 3 (w/ main model & similar other models), 3,000 iterations"
    suite, name = "cifar10-modelpool@1", "random real images (DC, Table 1)"
    lines = [
        Line(title, suite, "convnet3-scratch", 44.60, 0.44, 10, 45.05, 0.26, 10, baseline=26.0, baseline_name=name),
        Line(title, suite, "resnet18_in-scratch", 19.33, 0.93, 10, 12.88, 0.15, 3),
        Line(title, suite, "vgg11_in-scratch", 35.50, None, 10, 35.01, None, 1),
        Line(
            "Table 5, row 1 (total random)",
            suite,
            "mlp-scratch",
            10.00,
            None,
            10,
            30.71,
            0.45,
            10,
            differs="similar_depth: 1, not 3",
        ),
    ]
    parts = [f"{width} columns\n{comparison.text(lines, width)}" for width in (80, 120)]
    return "\n\n".join([*parts, f"markdown\n{comparison.markdown(lines)}"]) + "\n"


def reruns() -> str:
    cells = [
        Comparison("cifar10-lite@1--pretrained--efficientnet_lite0-pretrained--seed2", 0.4531, 0.4489, False),
        Comparison("cifar10-lite@1--scratch--convnet3-scratch--seed0", 0.2931, 0.2931, True),
    ]
    return rerun_table(cells) + "\n"


def one_result() -> str:
    """A result in the formats that papers and programs take."""
    records = [
        made_record(DIGITS, "scratch", entry.name, seed, 0.5 + 0.03 * index + 0.004 * seed, sha="0" * 64)
        for index, entry in enumerate(DIGITS.evaluators["scratch"])
        for seed in DIGITS.suite.seeds
    ]
    lines = scoring.rows(DIGITS, records)
    return "\n\n".join(f"{style}\n{tables.table(DIGITS, lines, style)}" for style in STYLES) + "\n"


def dry_run() -> str:
    """The plan of an evaluation, with seconds that were not measured."""

    @click.command()
    def command() -> None:
        lines = [
            PlanLine("pretrained", "efficientnet_lite0-pretrained", 3, 200_000, 1.2e16, 90_000.0),
            PlanLine("scratch", "convnet3-scratch", 3, 20_000, 1.4e14, 4_800.0),
        ]
        console.plan_header()
        for line in lines:
            console.plan_line(line)
        console.plan_total(lines, 36, "cifar10")

    return CliRunner().invoke(command, env={"COLUMNS": "80"}).output


def outputs() -> Iterator[tuple[str, str]]:
    """The name and the text of every golden file."""
    for path in commands(main):
        yield "-".join(("help", *path)), printed(*path, "--help")
    yield "list", printed("list")
    for name in NAMES:
        yield f"show-{name}", printed("show", name)
    yield "result-digits-agnostic", results(DIGITS)
    yield "result-cifar10-agnostic", results(AGNOSTIC)
    yield "result-formats", one_result()
    yield "table-several-sets", several_sets()
    yield "reproduction", reproduction()
    yield "verify", reruns()
    yield "dry-run", dry_run()
    yield "check", printed("check", str(BUNDLED), "--no-preview").replace(str(BUNDLED.parent), "assets")


OUTPUTS = dict(outputs())


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_printed(name: str) -> None:
    assert OUTPUTS[name] == (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), "meant? python tests/test_outputs.py"


def too_long(text: str, width: int) -> list[str]:
    return [line for line in text.splitlines() if len(line) > width]


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name.startswith(("help", "list", "show", "verify", "dry-run"))])
def test_it_fits_eighty_columns(name: str) -> None:
    assert too_long(OUTPUTS[name], 80) == []


@pytest.mark.parametrize("name", ["result-digits-agnostic", "result-cifar10-agnostic", "table-several-sets", "reproduction"])
def test_tables_fit_the_terminal(name: str) -> None:
    _, narrow, wide = re.split(r"^(?:80|120) columns$", OUTPUTS[name].partition("\nmarkdown\n")[0], flags=re.M)
    assert too_long(narrow, 80) == [] and too_long(wide, 120) == []


def test_lists_are_the_same_on_a_wide_terminal() -> None:
    assert printed("list", columns=120) == OUTPUTS["list"]


def test_every_golden_file_is_still_printed() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(OUTPUTS)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name, text in OUTPUTS.items():
        (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")
