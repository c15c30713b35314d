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
    config: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Fields of the method's configuration (dotted path -> value) that made the paper's images."""
    published: bool = True
    """Whether a published file's default set (the last of several) is what this table measured."""
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
    """Every table of `folder/*/paper.toml` under a key that names it. Raises MabenchError for a file that is malformed."""
    found = []
    for path in sorted(folder.glob("*/paper.toml")):
        entries = read_toml(path, "Mend that line.").get("table", [])
        if not isinstance(entries, list):
            raise MabenchError(f"{path}: 'table' is no list. Begin every table with a line [[table]].")
        for number, entry in enumerate(entries, 1):
            try:
                table = PaperTable.model_validate(entry)
            except (ValidationError, AttributeError) as error:
                first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("values",), "msg": str(error)}
                raise MabenchError(
                    f"{path}, table {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}. "
                    f"Fields: {', '.join(PaperTable.model_fields)}."
                ) from error
            found.append((f"paper.{path.parent.name}.{number}", table))
    return found


def tables(method: str) -> list[PaperTable]:
    """Everything that is known of a method that came with this program; an empty list where nothing was reported."""
    return [table for _, table in read(INSTALLED) if table.method == method]
