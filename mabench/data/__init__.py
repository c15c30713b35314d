"""Real datasets: what is known of each (`registry`), and its images (`cache`). Imports no torch."""

from mabench.data.cache import RealData, at_hand, content_digests, load
from mabench.data.registry import DATASETS, Dataset, Split, describe
from mabench.data.second import SECOND, load_test

__all__ = ["DATASETS", "SECOND", "Dataset", "RealData", "Split", "at_hand", "content_digests", "describe", "load", "load_test"]
