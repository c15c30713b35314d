"""What papers report, as data: `methods/*/paper.toml` -> tables of accuracies, each with its suite. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

import mabench_methods
from mabench.errors import MabenchError
from mabench.files import read_toml
from mabench.schema import Count, Frozen

INSTALLED = Path(mabench_methods.__file__).parent
"""Where the methods that came with this program keep their tables."""

Percent = Annotated[float, Field(ge=0, le=100)]
Value = bool | int | float | str


class PaperTable(Frozen):
    """One row or table of a paper: accuracies of one method at one budget, in percent as printed."""

    method: str
    title: str
    """Where it stands, e.g. `Table 5, row 3`."""
    dataset: str
    ipc: Count
    suite: str
    """The paper suite that measures the same thing."""
    labels: Literal["hard", "soft"] = "hard"
    """Of the paper's set; soft where they are recorded, too."""
    runs: Count | None = None
    """Runs behind each mean; None = the paper does not say."""
    presets: tuple[str, ...] = ()
    """Presets whose whole configuration, after the changes in `config`, the row stands for; none = no configuration of ours is known
    to be the row's, and nothing is ever judged by it."""
    config: dict[str, Value] = Field(default_factory=dict)
    """Fields in which the row's configuration differs from those presets (dotted path -> value)."""
    file_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Of the published file whose last set is what was measured; empty = none was published, or it was never at hand."""
    baseline: dict[str, Percent] = Field(default_factory=dict)
    """Evaluator -> mean of what the method has to be told from (`baseline_name`), on the same suite."""
    baseline_name: str = ""
    note: str = ""
    values: Annotated[dict[str, tuple[Percent, Percent | None]], Field(min_length=1)]
    """Evaluator -> (mean, standard deviation), percent; in the file the second may be left out."""

    @property
    def where(self) -> str:
        """Title, settings and note on one line."""
        settings = ", ".join(f"{k} {str(v).lower() if isinstance(v, bool) else v}" for k, v in self.config.items())
        return "; ".join(part for part in (self.title, settings, self.note) if part)

    @field_validator("values", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return {k: [*v, None] if isinstance(v, list) and len(v) == 1 else v for k, v in value.items()}


def read(folder: Path) -> list[tuple[str, PaperTable]]:
    """Return every table of `folder/*/paper.toml` under a key that names it. Raises MabenchError for a file that is malformed."""
    return [
        (f"paper.{path.parent.name}.{number}", table)
        for path in sorted(folder.glob("*/paper.toml"))
        for number, table in _read(path)
    ]


def _read(path: Path) -> list[tuple[int, PaperTable]]:
    """The tables of one file, numbered from 1."""
    entries = read_toml(path, "Fix that line.").get("table", [])
    if not isinstance(entries, list):
        raise MabenchError(f"{path}: 'table' is not a list. Begin every table with a line [[table]].")
    tables = []
    for number, entry in enumerate(entries, 1):
        try:
            tables.append((number, PaperTable.model_validate(entry)))
        except (ValidationError, AttributeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("values",), "msg": str(error)}
            raise MabenchError(
                f"{path}, table {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}. "
                f"Fields: {', '.join(PaperTable.model_fields)}."
            ) from error
    return tables


def tables(method: mabench_methods.Method | str) -> list[PaperTable]:
    """Return everything that is known of a method; an empty list where nothing was reported."""
    known = mabench_methods.load(method) if isinstance(method, str) else method
    if known.paper is None:
        return []
    return [table for _, table in _read(known.paper) if table.method == known.name]
