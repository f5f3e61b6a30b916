"""How well a title and a year fit the candidates for a link: the scores that linking.py decides by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import polars as pl
from rapidfuzz import fuzz, process

from slipstream.config import Settings
from slipstream.graph.titles import Title, joined, parse_title

_PART_LIKENESS = {1: 0.84, 2: 0.88, 3: 0.94}  # by words: `Blue` alone is not `Three Colors: Blue`
_SERIES_LIKENESS = 0.84
_SURE = 0.93
_WORTH_SHOWING = 50  # percent of the spelling that agrees
_UNTAGGED, _OTHER_KIND = 0.97, 0.7
_NOT_ONE = frozenset(["series", "franchise", "editor"])  # `film series`, `film editor`


class LinkSettings(Settings):
    """When to link. The defaults are what we ship; they were not fitted to any title."""

    least_confidence: float = 0.86
    margin: float = 0.025  # by which the best must lead the second
    year_tolerance: int = 1
    least_similarity: float = 0.88  # of two folded titles, 0 .. 1 (rapidfuzz)
    tags: tuple[str, ...] = ("film", "movie", "miniseries", "short", "documentary")
    """Words in parentheses that name the kind that is meant; `other_tags` name other kinds."""
    other_tags: tuple[str, ...] = (
        "album", "song", "novel", "book", "band", "musical", "play", "soundtrack", "series", "franchise",
        "tv", "character", "actor", "actress", "director", "comics", "magazine", "company", "game", "video",
        "disambiguation", "serial", "trilogy", "episode", "manga", "comic", "opera",
    )  # fmt: skip
    fewest_sure: int = 20  # sure links from which the facts of a kind are learned
    common_fact: float = 0.3  # share of the sure links that has a fact for it to count
    other_kind: float = 0.87  # factor for a candidate without any such fact
    nearest: int = 3  # candidates shown for an item that was not linked
    most_compared: int = 400  # candidates that one item is compared with, the rarest shared words first


@dataclass(frozen=True)
class Candidate:
    """One entity or row that an item may be."""

    number: int
    name: str
    label: str
    title: Title
    year: int | None
    right_kind: float  # 1: the tag says so; less without a tag or with another one
    facts: tuple[str, ...]  # relations that the graph knows of it


@dataclass(frozen=True)
class Match:
    """A candidate, how well it fits (0 .. 1), and by what."""

    candidate: Candidate
    score: float
    method: str


@dataclass(frozen=True)
class Item:
    """What is known of an item that wants a link."""

    item_id: str
    title: str
    year: int | None


class CandidateIndex:
    """Candidates by every key of their title, and by their words."""

    def __init__(self, candidates: list[Candidate], settings: LinkSettings) -> None:
        self.settings = settings
        self.tags = frozenset((*settings.tags, *settings.other_tags))
        self.by_key: dict[str, list[Candidate]] = defaultdict(list)
        self.by_word: dict[str, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            for key in _keys(candidate.title):
                self.by_key[key].append(candidate)
            for word in set(candidate.title.bare.split()):
                self.by_word[word].append(candidate)

    def matches(self, item: Item) -> list[Match]:
        """All candidates worth a thought, best first; ties by candidate number."""
        title = parse_title(item.title, self.tags)
        year = item.year or title.year
        alike = {c.number: c for key in _keys(title) for c in self.by_key.get(key, ())}
        matches = [self._match(likeness(title, c.title), year, c) for c in alike.values()]
        matches = [m for m in matches if m.method]  # the same series alone says nothing
        found = {m.candidate.number for m in matches}
        if not any(m.score >= self.settings.least_confidence for m in matches):
            matches += [
                self._match((similarity, "similar title"), year, c)
                for similarity, c in self._similar(title, year)
                if c.number not in found
            ]
        return _ranked(matches)

    def nearest(self, item: Item) -> list[tuple[Candidate, float]]:
        """The most similar titles that share a word, for a person to look at: (candidate, likeness 0 .. 1).

        Numbers and years that speak against them are no bar here.
        """
        title = parse_title(item.title, self.tags)
        block = list(self._sharing_a_word(title))
        texts = [c.title.bare for c in block]
        found = process.extract(
            title.bare, texts, scorer=fuzz.ratio, score_cutoff=_WORTH_SHOWING, limit=self.settings.nearest
        )
        return [(block[place], value / 100) for _, value, place in found]

    def _sharing_a_word(self, title: Title) -> Iterator[Candidate]:
        """Each once, those with the rarest words first; what is taken is what counts towards the bound."""
        words = sorted(set(title.bare.split()), key=lambda w: (len(self.by_word.get(w, ())), w))
        seen: set[int] = set()
        for word in words:
            if len(seen) >= self.settings.most_compared:
                return
            for c in self.by_word.get(word, ())[: self.settings.most_compared]:
                if c.number not in seen:
                    seen.add(c.number)
                    yield c

    def _similar(self, title: Title, year: int | None) -> list[tuple[float, Candidate]]:
        """Candidates with a similar title: they share a word, no number and no year speaks against it."""
        codes = _codes(title)
        chosen = [
            c
            for c in self._sharing_a_word(title)
            if c.title.numbers == title.numbers
            and self._year_factor(year, c.year)
            and _codes(c.title) == codes
        ]
        texts = [c.title.bare for c in chosen]
        best: dict[int, float] = {}
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio):
            cutoff = 100 * self.settings.least_similarity
            for _, value, place in process.extract(
                title.bare, texts, scorer=scorer, score_cutoff=cutoff, limit=None
            ):
                best[place] = max(best.get(place, 0.0), value / 100)
        return [(0.99 * value, chosen[place]) for place, value in best.items()]

    def _match(self, found: tuple[float, str], year: int | None, candidate: Candidate) -> Match:
        value, method = found
        score = value * self._year_factor(year, candidate.year) * candidate.right_kind
        return Match(candidate, round(score, 4), method)

    def _year_factor(self, a: int | None, b: int | None) -> float:
        if a is None or b is None:
            return 0.93
        apart = abs(a - b)
        return 1.0 if apart == 0 else 0.97 if apart <= self.settings.year_tolerance else 0.0


def likeness(a: Title, b: Title) -> tuple[float, str]:
    """How alike two titles are by their keys, 0 or .86 .. 1, and the name of the method."""
    if a.key == b.key:
        return 1.0, "title"
    if a.bare == b.bare:
        return 0.96 if _both_have_articles(a, b) else 0.97, "title"
    if joined(a.bare) == joined(b.bare):
        return 0.97, "title"
    if a.bare in b.aliases or b.bare in a.aliases or set(a.aliases) & set(b.aliases):
        return 0.96, "other title"
    if b.bare in a.parts[1:] or a.bare in b.parts[1:]:
        short = min(a.bare, b.bare, key=len)
        return _PART_LIKENESS[min(3, len(short.split()))], "part of title"
    if a.bare in b.parts or b.bare in a.parts:
        return _SERIES_LIKENESS, "part of title"  # the name of a series, maybe
    return 0.0, ""


def _both_have_articles(a: Title, b: Title) -> bool:
    return a.key != a.bare and b.key != b.bare


def _codes(title: Title) -> set[str]:
    """Words with a digit in them: `H2O` and `H3O` are no misspelling of each other."""
    return {word for word in title.bare.split() if not word.isalpha() and any(c.isdigit() for c in word)}


def _keys(title: Title) -> list[str]:
    return [joined(k) for k in dict.fromkeys((title.bare, *title.aliases, *title.parts))]


def by_facts(found: dict[str, list[Match]], settings: LinkSettings) -> dict[str, list[Match]]:
    """Scores again, knowing what the graph says of the things that items surely are.

    The entities of sure links show which facts (relation and direction) such things have; a candidate that
    has none of those is of another kind: the circus, not the film of that name.
    """
    sure = [m[0] for m in found.values() if m and _is_sure(m, settings)]
    if len(sure) < settings.fewest_sure:
        return found
    counts: Counter[str] = Counter(fact for m in sure for fact in m.candidate.facts)
    common = {fact for fact, count in counts.items() if count >= settings.common_fact * len(sure)}
    return {item: _ranked(_of_kind(m, common, settings) for m in matches) for item, matches in found.items()}


def _is_sure(matches: list[Match], settings: LinkSettings) -> bool:
    return matches[0].score >= _SURE and lead(matches) >= settings.margin


def lead(matches: list[Match]) -> float:
    """By how much the best match leads the best of another entity."""
    best = matches[0]
    return best.score - next((m.score for m in matches if m.candidate.name != best.candidate.name), 0.0)


def _of_kind(match: Match, common: set[str], settings: LinkSettings) -> Match:
    if common.intersection(match.candidate.facts):
        return match
    return replace(match, score=round(match.score * settings.other_kind, 4))


def _ranked(matches: Iterable[Match]) -> list[Match]:
    return sorted(matches, key=lambda m: (-m.score, m.candidate.number))


def parsed_candidates(candidates: pl.DataFrame, settings: LinkSettings) -> list[Candidate]:
    """The candidates with their titles taken apart. Where labels bear tags, one without is less sure."""
    tags = frozenset((*settings.tags, *settings.other_tags))
    names, labels = (candidates[c].cast(pl.String).to_list() for c in ("id", "label"))
    absent: list[None] = [None] * len(names)
    years = (
        candidates["year"].cast(pl.Int64, strict=False).to_list() if "year" in candidates.columns else absent
    )
    facts = candidates["facts"].to_list() if "facts" in candidates.columns else absent
    titles = [parse_title(label or "", tags) for label in labels]
    untagged = _UNTAGGED if any(t.tag for t in titles) else 1.0
    return [
        Candidate(
            number=number,
            name=names[number],
            label=labels[number],
            title=title,
            year=years[number] or title.year,
            right_kind=_kind(title, untagged, settings),
            facts=tuple(facts[number] or ()),
        )
        for number, title in enumerate(titles)
        if names[number] and labels[number]
    ]


def _kind(title: Title, untagged: float, settings: LinkSettings) -> float:
    words = set(title.tag.split())
    if not words:
        return untagged
    right = words & set(settings.tags) and not words & _NOT_ONE
    return 1.0 if right else _OTHER_KIND
