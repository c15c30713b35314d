"""What papers report, as data: `methods/*/paper.toml` -> tables of accuracies, each with its suite. Imports no torch."""

from __future__ import annotations

import tomllib
from importlib import resources

from pydantic import Field, ValidationError

from mabench.schema import Count, Frozen, MabenchError
from mabench_methods import METHODS


class PaperTable(Frozen):
    """One row or table of a paper: accuracies of one method at one budget, in percent as printed."""

    method: str
    title: str
    """Where it stands, e.g. `Table 5, row 3`."""
    dataset: str
    ipc: Count
    suite: str
    """The paper suite that measures the same thing."""
    runs: Count | None = None
    """Runs behind each mean; None = the paper does not say."""
    config: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Fields of the method's configuration (dotted path -> value) that made the paper's images."""
    published: bool = True
    """Whether a published file's default set (the last of several) is what this table measured."""
    note: str = ""
    values: dict[str, tuple[float, float | None]] = Field(default_factory=dict)
    """Evaluator -> (mean, standard deviation), percent."""


def tables(method: str) -> list[PaperTable]:
    """Everything that is known of a method of `mabench_methods.METHODS`; an empty list where nothing was reported."""
    found: list[PaperTable] = []
    path = resources.files(f"mabench_methods.{METHODS[method]}").joinpath("paper.toml")
    if path.is_file():
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("table", []):
            try:
                values = {name: (v[0], v[1] if len(v) > 1 else None) for name, v in entry.pop("values").items()}
                table = PaperTable.model_validate(entry | {"values": values})
            except (ValidationError, KeyError, IndexError, TypeError) as error:
                raise MabenchError(f"{path}: table '{entry.get('title', '?')}' is malformed: {error}") from error
            if table.method == method:
                found.append(table)
    return found
