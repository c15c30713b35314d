"""Real datasets: what is known of each (`registry`), and its images (`cache`). Imports no torch."""

from mabench.data.cache import RealData, at_hand, content_digests, load
from mabench.data.registry import DATASETS, Dataset, Split, describe

__all__ = ["DATASETS", "Dataset", "RealData", "Split", "at_hand", "content_digests", "describe", "load"]
