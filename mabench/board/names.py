"""Are two names one to a reader? Compared by their skeleton, as Unicode's technical report 39 has it, for the scripts that matter.

A skeleton refuses, and never allows: whoever is called almost as an owner or a maintainer must not act for him.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from mabench.schema import BLANK

_LOOKALIKES = {
    # Cyrillic and Greek letters that are drawn like Latin ones (a selection of Unicode's confusables.txt), after casefold
    "а": "a", "в": "b", "с": "c", "ԁ": "d", "е": "e", "ѐ": "e", "ё": "e", "һ": "h", "н": "h", "і": "i", "ї": "i", "ј": "j", "к": "k",
    "ӏ": "l", "м": "m", "п": "n", "о": "o", "р": "p", "ԛ": "q", "г": "r", "ѕ": "s", "т": "t", "υ": "u", "ѵ": "v", "ԝ": "w", "х": "x",
    "у": "y", "ү": "y", "з": "3", "α": "a", "β": "b", "ϲ": "c", "ε": "e", "η": "n", "ι": "i", "κ": "k", "μ": "m", "ν": "v", "ο": "o",
    "ρ": "p", "σ": "o", "τ": "t", "χ": "x", "γ": "y", "ω": "w", "ı": "i", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ʏ": "y", "օ": "o", "ո": "n",
    "հ": "h", "ս": "u", "ց": "g", "ƽ": "s", "ß": "ss",
}  # fmt: skip
_SHAPES = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "5": "s"})
"""After the letters: digits and letters that many fonts draw alike."""
_VARIANT = re.compile("(?:LATIN LETTER SMALL CAPITAL|LISU LETTER) ([A-Z])|LATIN SMALL LETTER ([A-Z]) WITH .*")
"""Unicode's names of small capitals, of letters with strokes and hooks, and of an alphabet of Latin capitals."""


def skeleton(name: str) -> str:
    """What a reader sees of a name: compatibility forms, case, accents, spaces, punctuation and look-alike letters set aside.

    A name without any letter or digit is its own.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    latin = "".join(_LOOKALIKES.get(c, c) for c in folded)
    plain = (c for c in unicodedata.normalize("NFKD", latin) if unicodedata.category(c)[0] in "LN" and c not in BLANK)
    drawn = "".join(map(_drawn, plain)).translate(_SHAPES)
    return drawn.replace("rn", "m").replace("vv", "w") or folded


def _drawn(letter: str) -> str:
    """The Latin letter that this one is drawn like, else itself."""
    variant = _VARIANT.fullmatch(unicodedata.name(letter, ""))
    return (variant[1] or variant[2]).lower() if variant else _LOOKALIKES.get(letter, letter)


def skeletons(names: Iterable[str]) -> frozenset[str]:
    """Of every name that has one."""
    return frozenset(skeleton(name) for name in names) - {""}
