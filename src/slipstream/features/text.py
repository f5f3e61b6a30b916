"""Words of titles and names: folded to lower case without accents, numbers kept, stop words dropped."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "das",
        "de",
        "der",
        "die",
        "el",
        "for",
        "from",
        "in",
        "la",
        "le",
        "les",
        "of",
        "on",
        "or",
        "the",
        "to",
        "und",
        "with",
    ]
)
_MOST_WORDS = 64


def words(text: str) -> list[str]:
    """The words of `text`, at most 64, without stop words; O(len(text)).

    Scripts without spaces (Chinese, Japanese) give pairs of neighbouring characters.
    """
    folded = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    found: list[str] = []
    for word in _WORD.findall(plain):
        found.extend(_pairs(word) if "\u3040" <= word[0] <= "\u9fff" else [word])
        if len(found) >= _MOST_WORDS:
            break
    return [w for w in found[:_MOST_WORDS] if w not in _STOP]


def _pairs(word: str) -> list[str]:
    return [word[i : i + 2] for i in range(len(word) - 1)] or [word]
