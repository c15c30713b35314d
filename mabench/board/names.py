"""Are two names one to a reader? Compared by their skeleton, as Unicode's technical report 39 has it, for the scripts that matter.

A skeleton refuses, and never allows: whoever is called almost as an owner or a maintainer must not act for him.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_LOOKALIKES = {
    # Cyrillic and Greek letters that are drawn like Latin ones (a selection of Unicode's confusables.txt), after casefold
    "а": "a", "в": "b", "с": "c", "ԁ": "d", "е": "e", "ѐ": "e", "ё": "e", "һ": "h", "н": "h", "і": "i", "ї": "i", "ј": "j", "к": "k",
    "ӏ": "l", "м": "m", "п": "n", "о": "o", "р": "p", "ԛ": "q", "г": "r", "ѕ": "s", "т": "t", "υ": "u", "ѵ": "v", "ԝ": "w", "х": "x",
    "у": "y", "ү": "y", "з": "3", "α": "a", "β": "b", "ϲ": "c", "ε": "e", "η": "n", "ι": "i", "κ": "k", "μ": "m", "ν": "v", "ο": "o",
    "ρ": "p", "σ": "o", "τ": "t", "χ": "x", "γ": "y", "ω": "w", "ı": "i", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ʏ": "y", "օ": "o", "ո": "n",
    "հ": "h", "ս": "u", "ց": "g", "ƽ": "s", "ø": "o", "đ": "d", "ħ": "h", "ł": "l", "ß": "ss",
}  # fmt: skip
_SHAPES = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "5": "s"})
"""After the letters: digits and letters that many fonts draw alike."""


def skeleton(name: str) -> str:
    """What a reader sees of a name: compatibility forms, case, accents, spaces, punctuation and look-alike letters set aside."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    latin = "".join(_LOOKALIKES.get(c, c) for c in folded)
    plain = (c for c in unicodedata.normalize("NFKD", latin) if unicodedata.category(c)[0] in "LN")
    return "".join(_LOOKALIKES.get(c, c) for c in plain).translate(_SHAPES)


def skeletons(names: Iterable[str]) -> frozenset[str]:
    """Of every name that has one."""
    return frozenset(skeleton(name) for name in names) - {""}
