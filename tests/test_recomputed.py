"""The generated tables against fifty lines that read the raw files and know nothing of mabench."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import write_submission
from support import recompute

from mabench import suites
from mabench.board.site import exports
from mabench.board.site.placing import placed
from mabench.board.site.standings import submitted
from mabench.board.submission import read_all
from mabench.results import baselines

ROOT = Path(__file__).parents[1]
DIGESTS = json.loads((ROOT / "tests/golden/suites.json").read_text())


def agree(printed: dict[tuple[str, ...], dict[str, str]], expected: dict[tuple[str, ...], dict[str, str]]) -> int:
    """Every number of both, to the digit; how many there were."""
    assert set(printed) == set(expected)
    count, ties = 0, 0
    for key, columns in expected.items():
        for column, text in columns.items():
            shown = printed[key][column]
            if column == "lift" and text != "-":
                shown = shown.split(" ±")[0]  # its interval is tested in test_lifts.py
            same = shown == text or (column == "lift" and text == "-" and shown == "baseline not run")
            assert same or _nearly(shown, text), (key, column, shown, text)
            count, ties = count + (text != "-"), ties + (not same)
    assert ties <= max(3, count / 50), ties
    return count


def _nearly(shown: str, text: str) -> bool:
    """Equal but for the last digit of a number that lies between two: sums were taken in another order."""
    first, second = ([float(v) for v in re.findall(r"[-+]?\d+\.\d+", value)] for value in (shown, text))
    return re.sub(r"\d", "", shown) == re.sub(r"\d", "", text) and first == pytest.approx(second, abs=0.0101)


def test_it_imports_nothing_of_mabench() -> None:
    tree = ast.parse(Path(recompute.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith(("mabench", "builders")) for name in names)


def test_the_results_page_follows_from_the_raw_records() -> None:
    known = json.loads((suites.FOLDER / "baselines.json").read_text())
    expected = recompute.rows(ROOT / "submissions", suites.FOLDER, known, DIGESTS, random=True)
    assert agree(recompute.printed((ROOT / "docs/results.md").read_text(), baselines=True), expected) > 100


def test_the_tables_rows_of_random_images_follow_from_their_draws() -> None:
    """Score, plateau and last of every baseline, on the page as it would be made today."""
    known = json.loads((suites.FOLDER / "baselines.json").read_text())
    page = exports.markdown(placed(row for one in read_all(ROOT / "submissions") for row in submitted(one)))
    expected = recompute.rows(ROOT / "submissions", suites.FOLDER, known, DIGESTS, random=True)
    random = {key: columns for key, columns in expected.items() if key[4].startswith("random real images")}
    assert agree(recompute.printed(page, baselines=True), expected) > 100 and random
    assert all("-" not in (columns["best"], columns["plateau"], columns["last"]) for columns in random.values())


def test_the_readmes_table_of_published_sets_follows_from_the_raw_records() -> None:
    expected = recompute.rows(ROOT / "submissions", suites.FOLDER, [], DIGESTS)
    columns = [
        expected["cifar10-modelpool@1", "modelpool", "1", "hard", "DC, IPC 1, the file published with Model Pool"],
        expected["cifar10-modelpool@1", "modelpool", "10", "hard", "Model Pool, IPC 10, the published file"],
    ]
    names = {
        "MLP": "mlp",
        "ConvNet-3": "convnet3",
        "LeNet": "lenet",
        "VGG-11": "vgg11_in",
        "ResNet-18": "resnet18_in",
        "AlexNet": "alexnet",
    }
    for title, name in names.items():
        (line,) = re.findall(rf"^\| {title} \|.*$", (ROOT / "README.md").read_text(), re.M)
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert [cells[2], cells[4]] == [column[f"{name}-scratch"].split(" ")[0] for column in columns]


def test_a_board_with_families_and_baselines_follows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The headline's panels, two ResNets in one of five families, with both baselines: what no committed row has yet."""
    loaded_suite, chance = suites.load("cifar10-agnostic"), np.random.default_rng(3)
    write_submission(tmp_path / "s", "first", 0.45, loaded_suite=loaded_suite)
    write_submission(tmp_path / "s", "second", 0.52, loaded_suite=loaded_suite)
    write_submission(tmp_path / "s", "partial", 0.5, loaded_suite=loaded_suite, skip=("swin_tiny-scratch", 1))

    def entry(ipc: int, decode: str, mean: float) -> dict[str, Any]:
        def drawn() -> Any:
            return chance.normal(mean, 0.02, 5)

        scores: dict[str, dict[str, list[float | None]]] = {
            f"{track}/{e.name}": {str(k): [float(v), float(v) - 0.01, float(v) - 0.02] for k, v in enumerate(drawn())}
            for track, entries in loaded_suite.evaluators.items()
            for e in entries
        }
        return {"suite_digest": loaded_suite.digest, "ipc": ipc, "decode": decode, "labels": "hard", "evaluators": scores}

    known = [entry(10, "none", 0.4), entry(1, "none", 0.2)]
    known[0]["evaluators"]["pretrained/vit_tiny-pretrained"]["3"][1] = None  # a pass was pruned
    monkeypatch.setattr(baselines, "_data", {"baselines.json": known, "spread.json": {}}.__getitem__)
    monkeypatch.setattr(baselines, "_measured", baselines._measured.__wrapped__)
    page = exports.markdown(placed(row for one in read_all(tmp_path / "s") for row in submitted(one)))
    expected = recompute.rows(tmp_path / "s", suites.FOLDER, known, DIGESTS, random=True)
    assert agree(recompute.printed(page, baselines=True), expected) > 60
    random = {key[1]: columns for key, columns in expected.items() if key[4].startswith("random real images, 10 per class")}
    assert random["pretrained"]["plateau"] == "-" != random["pretrained"]["last"] and random["scratch"]["plateau"] != "-"
    whole = expected["cifar10-agnostic@1", "scratch", "10", "hard", "First"]
    assert whole["lift"] != "-" and whole["smallest lift"] != "-"
    assert expected["cifar10-agnostic@1", "scratch", "10", "hard", "Partial"]["best"] == "-"
