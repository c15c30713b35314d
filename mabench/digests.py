"""Canonical JSON, its digest, and named seed streams. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def stream(seed: int, name: str, *scope: str) -> int:
    """A seed for the named stream of random numbers; streams of two seeds, names or scopes are unrelated.

    `scope`: what else the numbers belong to, a suite and a set for instance; without it they follow from seed and name alone.
    """
    return int.from_bytes(hashlib.sha256("/".join(("mabench", str(seed), *scope, name)).encode()).digest()[:7], "big")


def canonical_json(value: Any) -> str:
    """One text per value: keys sorted, no spaces, no NaN. The input of every digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return sha256(canonical_json(value).encode())
