"""The page of one evaluated set, made as if it were submitted: what its row would look like. Nothing is submitted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mabench.board import site, submit
from mabench.board import submission as submissions
from mabench.errors import MabenchError
from mabench.results import paper_tables


def trial_page(set_path: Path, run: Path, card: dict[str, Any]) -> Path:
    """Build the page in `run`/page; returns its index.html. Raises MabenchError with what a gate would refuse."""
    case = submit.examine(set_path, [run], Path("card.toml"), card_fields=card)
    if case.refusals:
        raise MabenchError("\n".join(case.refusals))
    assert case.card is not None
    with tempfile.TemporaryDirectory() as root:
        submissions.write(Path(root) / case.slug, submit.changes(case, None, who=submit.submitter(case.card)))
        site.build(Path(root), run / "page", paper_tables.INSTALLED)
    return run / "page" / "index.html"
