"""Submissions -> static pages, Markdown, CSV, JSON and parquet. A pure function of files: same input, same bytes.

Importing this package, and building a board, imports no torch.
"""

from mabench.board.site.content import Site
from mabench.board.site.page import build

__all__ = ["Site", "build"]
