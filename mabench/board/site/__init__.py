"""Submissions -> one static page, Markdown, CSV, JSON and parquet. A pure function of files: same input, same bytes.

Importing this package imports no torch; it is loaded only to draw the images of sets whose preview is not there yet.
"""

from mabench.board.site.page import build

__all__ = ["build"]
