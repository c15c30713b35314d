"""The bundled set of digits: what `mabench demo` evaluates."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path

CARD = {
    "title": "k-means on digits, IPC 5",
    "authors": ["mabench maintainers"],
    "licence": "CC-BY-4.0",  # of the UCI digits that the images are means of
    "slug": "digits-kmeans",
    "method": "k-means",
}


def bundled_set() -> AbstractContextManager[Path]:
    """A canonical file; as a file on disk only within the context."""
    return resources.as_file(resources.files("mabench").joinpath("assets", "digits_kmeans_ipc5.safetensors"))
