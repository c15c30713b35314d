"""The publications behind methods: `[[work]]` in `methods/*/paper.toml` -> authors, year, address, BibTeX. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from mabench.errors import MabenchError
from mabench.files import read_toml
from mabench.schema import Frozen, Line, Link


class Work(Frozen):
    """One publication that introduced a method."""

    name: Line
    """What the field calls the method: DC, G-VBSM."""
    methods: Annotated[tuple[Line, ...], Field(min_length=1)]
    """Names under which tables and cards know it; compared without case, spaces and hyphens."""
    title: Line
    authors: Annotated[tuple[Line, ...], Field(min_length=1)]
    year: Annotated[int, Field(ge=1950, le=2100)]
    venue: Line
    url: Link
    code: Link = ""

    @property
    def cited(self) -> str:
        """`Zhao et al., ICLR 2021`."""
        families = [author.split()[-1] for author in self.authors]
        who = families[0] + (" et al." if len(families) > 2 else f" and {families[1]}" if len(families) == 2 else "")
        return f"{who}, {self.venue} {self.year}"

    @property
    def bibtex(self) -> str:
        """The entry that a paper about the method needs."""
        word = next((w for w in re.findall(r"[a-z]+", self.title.lower()) if len(w) > 3), "paper")
        key = f"{re.sub(r'[^a-z]', '', self.authors[0].split()[-1].lower())}{self.year}{word}"
        kind, place = ("misc", "howpublished") if self.venue == "arXiv" else ("inproceedings", "booktitle")
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            place: self.venue,
            "year": str(self.year),
            "url": self.url,
        }
        return "\n".join([f"@{kind}{{{key},", *(f"  {name} = {{{value}}}," for name, value in fields.items()), "}"])


def read(folder: Path) -> list[Work]:
    """Every work of `folder/*/paper.toml`, by file. Raises MabenchError for an entry that is malformed."""
    found = []
    for path in sorted(folder.glob("*/paper.toml")):
        for number, entry in enumerate(read_toml(path, "Correct that line.").get("work", []), 1):
            try:
                found.append(Work.model_validate(entry))
            except ValidationError as error:
                first = error.errors()[0]
                raise MabenchError(
                    f"{path}, work {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}. "
                    f"Fields: {', '.join(Work.model_fields)}."
                ) from error
    return found


def normal(name: str) -> str:
    """A method's name as it is compared: G-VBSM, gvbsm and `G VBSM` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def by_method(works: list[Work]) -> dict[str, Work]:
    """Normal name -> work."""
    return {normal(name): work for work in works for name in (work.name, *work.methods)}
