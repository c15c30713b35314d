"""Several sets in one table, from records whose numbers are known."""

from __future__ import annotations

import csv
import io
import re
import statistics
from pathlib import Path

import pytest
from builders import DIGITS, run_record

from mabench.errors import MabenchError
from mabench.evaluation import folders
from mabench.results import comparison, tables
from mabench.results.scoring import rows
from mabench.schema import RunRecord

COUNTS = {
    "first": {"mlp-scratch": (600, 640, 620), "lenet-scratch": (500, 500, 530)},
    "second_50%": {"mlp-scratch": (700, 690, 710)},
}


def records() -> list[RunRecord]:
    out = []
    for name, networks in COUNTS.items():
        for network, counts in networks.items():
            for seed, count in enumerate(counts):
                record = run_record(network, seed, [count])
                summary = record.synthetic_set.model_copy(update={"name": name, "sha256": name})
                cell = record.cell.model_copy(update={"set_sha256": name})
                out.append(record.model_copy(update={"synthetic_set": summary, "cell": cell}))
    return out


def accuracy(name: str, network: str) -> tuple[str, str]:
    values = [count / 10 for count in COUNTS[name][network]]
    return f"{statistics.mean(values):.2f}", f"{statistics.stdev(values):.2f}"


def test_the_best_of_each_column_is_bold_and_nothing_is_made_up() -> None:
    (table,) = comparison.compare(records(), DIGITS)
    assert table.networks == ("mlp-scratch", "lenet-scratch"), "in the suite's order, and only what was run"
    mean, std = accuracy("second_50%", "mlp-scratch")
    other, other_std = accuracy("first", "mlp-scratch")
    lines = table.draw("markdown").splitlines()
    assert f"**{mean} ± {std}**" in lines[-1] and lines[-1].rstrip().endswith("- |"), "what was not run is a dash"
    assert f"{other} ± {other_std}" in lines[-2] and f"**{other}" not in lines[-2]
    latex = table.draw("latex")
    assert rf"\textbf{{{mean} $\pm$ {std}}}" in latex and r"second\_50\%" in latex and r"\bottomrule" in latex
    assert not re.search(r"(?<!\\)[%_&](?!.*\n?%)", latex.split("\n", 1)[1].replace(" & ", "  "))


def test_the_best_is_marked_among_sets_of_one_budget() -> None:
    other = [r.model_copy(update={"synthetic_set": r.synthetic_set.model_copy(update={"ipc": 50})}) for r in records()]
    mixed = [b if a.synthetic_set.name == "first" else a for a, b in zip(records(), other, strict=True)]
    (table,) = comparison.compare(mixed, DIGITS)
    assert "**" not in table.draw("markdown") and "\n>" not in table.draw("text").replace("; >", "")


def test_csv_holds_numbers_that_a_program_can_read() -> None:
    (table,) = comparison.compare(records(), DIGITS)
    first, second = csv.DictReader(io.StringIO(table.draw("csv")))
    assert (first["set"], second["set"]) == ("first", "second_50%")
    assert float(first["lenet-scratch mean"]) == pytest.approx(statistics.mean((50, 50, 53)), abs=1e-4)
    assert (second["lenet-scratch mean"], second["lenet-scratch runs"]) == ("", "")


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
def test_plateau_and_last_stand_beside_the_mean(style: str) -> None:
    """Of the panel, or of the only network; not where several networks have no mean, for CSV has each network's."""
    whole = [run_record(entry.name, seed, [300, 900, 500, 600]) for entry in DIGITS.evaluators["scratch"] for seed in (0, 1, 2)]
    (table,) = comparison.compare(whole, DIGITS)
    counts = DIGITS.recipes["scratch"].score
    headers, (cells,) = table._cells(style)
    beside = dict(zip(headers, cells, strict=True))
    assert counts == "best" and headers[-3:] == ["mean", "plateau", "last"]
    assert (beside["plateau"], beside["last"]) == ("60.00", "60.00") and "90.00" in beside["mean"]
    title = table.draw(style).split("\n")[0]
    assert "best test pass of each run" in title and "plateau and last are of the mean" in title
    (one,) = comparison.compare([r for r in whole if r.cell.evaluator.name == "mlp-scratch"], DIGITS)
    assert one._cells(style)[0] == ["set", "IPC", "mlp-scratch", "plateau", "last"]
    assert "plateau and last are of mlp-scratch" in one.draw(style)
    (partial,) = comparison.compare(records(), DIGITS)
    assert partial._cells(style)[0] == ["set", "IPC", "mlp-scratch", "lenet-scratch"]


def test_csv_has_best_plateau_and_last_of_every_network() -> None:
    (table,) = comparison.compare([run_record("mlp-scratch", seed, [300, 900, 500, 600]) for seed in (0, 1, 2)], DIGITS)
    (line,) = csv.DictReader(io.StringIO(table.draw("csv")))
    assert line["counts"] == "best"
    assert [float(line[f"mlp-scratch {kind}"]) for kind in ("mean", "best", "plateau", "last")] == [90, 90, 60, 60]


def test_a_table_that_is_too_wide_is_turned() -> None:
    (table,) = comparison.compare(records(), DIGITS)
    wide, narrow = table.draw(), table.draw(width=45)
    assert max(map(len, wide.split("\n\n", 1)[1].splitlines())) > 45 >= max(map(len, narrow.split("\n\n", 1)[1].splitlines()))
    assert all(name in narrow for name in ("first", "second_50%", "mlp-scratch", "lenet-scratch"))


@pytest.mark.parametrize("width", [80, 120])
def test_the_headlines_table_fits_the_terminal(width: int) -> None:
    from mabench import suites

    loaded_suite = suites.load("cifar10-agnostic")
    runs = [
        record.model_copy(update={"cell": record.cell.model_copy(update={"track": track, "evaluator": entry})})
        for track, evaluators in loaded_suite.evaluators.items()
        for entry in evaluators
        for seed in loaded_suite.suite.seeds
        for record in [run_record("mlp-scratch", seed, [500 + seed])]
    ]
    text = tables.table(loaded_suite, rows(loaded_suite, runs), width=width)
    assert (
        max(map(len, text.splitlines())) <= width
        and all(name in text for name in ("best %", "plateau %", "last %"))
        and "[panel mean]" in text
    )


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MabenchError, match="holds no records"):
        folders.read([tmp_path])
    with pytest.raises(MabenchError, match="no such folder"):
        folders.read([tmp_path / "absent"])
