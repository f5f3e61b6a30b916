"""Titles as people and catalogues write them, brought to keys that can be compared.

`Usual Suspects, The (1995)`, `The Usual Suspects (film)` and `THE USUAL SUSPECTS` share a key. What differs
in meaning stays apart: numbers (a sequel is another film), years, and words.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

ARTICLES = frozenset(
    [
        "the",
        "a",
        "an",
        "le",
        "la",
        "les",
        "l",
        "un",
        "une",
        "des",
        "der",
        "die",
        "das",
        "den",
        "dem",
        "ein",
        "eine",
        "el",
        "los",
        "las",
        "il",
        "lo",
        "gli",
        "i",
        "uno",
        "una",
        "o",
        "os",
        "as",
        "um",
        "uma",
        "det",
        "de",
        "het",
        "een",
        "en",
        "ett",
    ]
)
_INNER_ARTICLES = frozenset(["the", "a", "an"])
_TRAILING_ARTICLE = re.compile(
    r"^(?P<rest>.+),\s*(?P<article>" + "|".join(sorted(ARTICLES, key=len, reverse=True)) + r")(?P<mark>')?$",
    re.I,
)
_PARENTHESES = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_YEAR = re.compile(r"\b(1[89]\d\d|20\d\d)\b")
_ALIAS = re.compile(
    r"(?:^|,\s*)(?:a\.?\s?k\.?\s?a\.?|also known as|original title)\s*:?\s+|,\s+(?=\S+ \S)", re.I
)
_ROMAN = {
    "ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9",
    "xi": "11", "xii": "12", "xiii": "13", "xiv": "14", "xv": "15", "xvi": "16",
}  # fmt: skip
_LAST_ONLY_ROMAN = {"v": "5", "x": "10"}  # letters that are numbers only where a title ends
_SAME_WORD = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "doctor": "dr", "mister": "mr", "versus": "vs",
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+")
_ELIDED = re.compile(r"^[ld]['’](.+)$", re.I)
_PIECES = re.compile(r":\s|\s-\s|;\s")
_OWNER = re.compile(r"(?<=\w)['’]s\s+")
_PART = frozenset(["part", "episode", "chapter", "vol", "volume", "no", "number", "pt"])
_SPECIAL = str.maketrans(
    {
        "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th",
        "’": "'", "`": "'", "&": " and ", "+": " and ", "²": " 2", "³": " 3", "½": " 1/2",
    }
)  # fmt: skip
LONGEST_TITLE = 300


@dataclass(frozen=True)
class Title:
    """What a title says. Keys are words joined by spaces, folded to lower case without accents."""

    key: str  # with its article in front
    bare: str  # without the leading article, numerals as digits
    aliases: tuple[str, ...]  # bare keys of the names in parentheses
    parts: tuple[str, ...]  # bare keys of the pieces around colons and dashes
    numbers: frozenset[str]
    year: int | None  # from a parenthesis
    tag: str  # words of a parenthesis that say what it is: `film`, `1995 film` gives `film`, `album`


def fold(text: str) -> str:
    """Lower case, no accents, words only, joined by single spaces. Apostrophes join: `don't` is `dont`."""
    text = text.casefold()
    if text.isascii():
        text = text.replace("&", " and ").replace("+", " and ")
    else:
        text = unicodedata.normalize("NFKD", text.translate(_SPECIAL))
        text = "".join(c for c in text if not unicodedata.combining(c)).casefold()  # 𝐀 became A
    return " ".join(_WORD.findall(text.replace("'", "")))


def parse_title(text: str, known_tags: frozenset[str] = frozenset()) -> Title:
    """Take a title apart. A parenthesis is a year, a tag (it has a word of `known_tags`) or another name."""
    if "%" in text:
        text = unquote(text)  # labels taken from addresses: `Virginia Woolf%3F`
    text = " ".join(text[:LONGEST_TITLE].split())
    year, tag, aliases = None, "", []
    for inside in _PARENTHESES.findall(text):
        words = fold(inside).split()
        if not words:
            continue
        found = _YEAR.search(inside)
        if found and (len(words) == 1 or known_tags & set(words)):
            year = int(found.group(1))
        rest = [w for w in words if not _YEAR.fullmatch(w)]
        if not rest:
            continue
        if known_tags & set(rest):
            tag = " ".join(rest)
        else:
            aliases += [inside, *_ALIAS.split(inside)]
    main = " ".join(_PARENTHESES.sub(" ", text).split()).strip(" -:,") or text
    main = article_in_front(main)
    key = fold(main) or main.casefold()  # `!!!` is a name too
    bare = bare_key(main) or key
    return Title(
        key=key,
        bare=bare,
        aliases=tuple(
            dict.fromkeys(k for a in aliases if (k := bare_key(article_in_front(a))) and k != bare)
        ),
        parts=tuple(k for p in _pieces(main) if (k := bare_key(p)) and k != bare),
        numbers=frozenset(w for w in bare.split() if w.isdigit()),
        year=year,
        tag=tag,
    )


def _pieces(main: str) -> list[str]:
    """What a title is made of: `Star Wars: Episode IV`, and `Disney's The Kid` without its owner."""
    pieces = _PIECES.split(main)
    owned = _OWNER.split(main, maxsplit=1)
    return [*pieces, *owned[1:]] if len(owned) > 1 else pieces


def joined(key: str) -> str:
    """A key without spaces and inner articles: `chain saw` meets `chainsaw`."""
    return "".join(w for w in key.split() if w not in _INNER_ARTICLES) or key.replace(" ", "")


def article_in_front(text: str) -> str:
    """`Postino, Il` becomes `Il Postino`; `L'Avventura` and `Avventura, L'` meet."""
    found = _TRAILING_ARTICLE.match(text)
    if not found:
        return text
    joint = "" if found["mark"] else " "
    return f"{found['article']}{found['mark'] or ''}{joint}{found['rest']}"


def bare_key(text: str) -> str:
    """The folded words without a leading article; `Part II` and `2` are the same number."""
    elided = _ELIDED.match(text)
    words = fold(elided.group(1) if elided else text).split()
    if len(words) > 1 and words[0] in ARTICLES:
        words = words[1:]
    result: list[str] = []
    for place, word in enumerate(words):
        last = place == len(words) - 1
        number = _ROMAN.get(word) or (_LAST_ONLY_ROMAN.get(word) if last else None)
        word = number if place and number else _SAME_WORD.get(word, word)
        if place and word.isdigit() and result and result[-1] in _PART:
            result.pop()
        result.append(word)
    return " ".join(result)
