"""What all pages of a board are made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mabench
from mabench.board.site import answers, claims, names
from mabench.board.site.setpage import Sheet
from mabench.board.site.sources import loaded_suite
from mabench.board.site.standings import Standing
from mabench.board.site.views import Table, tables
from mabench.results.paper_tables import PaperTable
from mabench.results.works import Work, by_method, normal

NO_TRUST = answers.Trust(0, 0, 0, "")


@dataclass(frozen=True)
class Site:
    """What the owner of a board chooses."""

    title: str = "mabench leaderboard"
    headline: str = "Which tiny dataset teaches any network best?"
    dataset: str = ""
    """ORG/NAME of the Hub repository with the submissions."""
    address: str = ""
    """Where the board will be, with a slash at its end: social cards and feeds need whole addresses."""
    version: str = mabench.__version__
    trust: answers.Trust = NO_TRUST


@dataclass(frozen=True)
class Board:
    """What every page is made from."""

    site: Site
    sheets: Sequence[Sheet]
    rows: Sequence[Standing]
    pictures: Mapping[str, Mapping[str, bytes]]
    """Slug -> file name -> content."""
    reported: Sequence[tuple[str, PaperTable]] = ()
    works: Sequence[Work] = ()
    suite_ids: Sequence[str] = ()
    """Suites that the board is about, with rows or without."""

    @cached_property
    def work(self) -> dict[str, Work]:
        return by_method(list(self.works))

    @cached_property
    def tables(self) -> list[Table]:
        return tables(self.rows, self.pictures)

    @cached_property
    def by_slug(self) -> dict[str, list[Standing]]:
        found: dict[str, list[Standing]] = defaultdict(list)
        for row in self.rows:
            found[row.key].append(row)
        for rows in found.values():
            rows.sort(key=_order)
        return found

    @cached_property
    def claims(self) -> list[claims.Claim]:
        commands = {sheet.slug: sheet.about["made_by"] for sheet in self.sheets}
        return claims.claims(self.reported, self.rows, commands)

    @property
    def has_claims(self) -> bool:
        """Whether there is anything that a measurement stands, or could stand, beside."""
        return bool(self.reported)

    @cached_property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Folder -> name, work, measured rows and papers' rows of every method, by name."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            work = self.work.get(normal(row.method))
            name = work.name if work else row.method
            key = normal(name)
            if not key:
                continue
            entry = found.setdefault(key, {"key": key, "name": name, "work": work, "rows": [], "reported": []})
            entry["reported" if row.tier == "reported" else "rows"].append(row)
        for entry in found.values():
            entry["rows"].sort(key=_order)
        return dict(sorted(found.items(), key=lambda item: (not item[1]["rows"], item[1]["name"].lower())))


def _order(row: Standing) -> tuple[object, ...]:
    """Rows of one set or method: by suite, track and budget."""
    return (*names.suite_order(row.suite), list(loaded_suite(row.suite).evaluators).index(row.track), row.ipc, row.key)
