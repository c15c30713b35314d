"""Card files: what their fields are, and what is wrong with them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mabench.errors import MabenchError
from mabench.files import parse_toml, read_toml
from mabench.schema import Card

CURE = 'A card.toml needs title = "...", authors = ["..."] and licence = "..."; --interactive asks for them and writes it.'


def read(path: Path) -> Card:
    """The card in a TOML file. Raises MabenchError that names every wrong field."""
    return make(fields(path), path)


def parse(content: bytes, path: Path) -> Card:
    """As `read`, of the file's content."""
    return make(parse_toml(content, path, CURE), path)


def fields(path: Path) -> dict[str, Any]:
    """What a card file says, not yet validated. Raises MabenchError for one that is too large, unreadable or no TOML."""
    return read_toml(path, CURE)


def make(values: Mapping[str, Any], path: Path) -> Card:
    """A validated card; `path` only names it in messages. Raises MabenchError that names every wrong field."""
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors()[:8]]
        known = ", ".join(Card.model_fields)
        raise MabenchError(f"{path}: {'; '.join(problems)}. Fix these fields; a card may have {known}.") from error
