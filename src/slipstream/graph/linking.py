"""Items of a catalogue linked to entities of a graph, or to rows of another catalogue; or not at all.

A wrong link is worse than none, so every step may abstain. In this order: links given by hand, explicit
links, equal ids, equal titles, similar titles. A title alone decides nothing: the year must not contradict
(one year of tolerance: festivals), numbers must agree (a sequel is another film), and the best candidate must
lead the second by a margin. An entity is given to one item; others that wanted it abstain, unless they are the
same title of the same year (the same film listed twice).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl
from rapidfuzz import fuzz, process

from slipstream.config import Progress, Settings, silent
from slipstream.errors import BadInput
from slipstream.graph.knowledge_graph import KnowledgeGraph, inverse_name
from slipstream.graph.titles import Title, joined, parse_title


class LinkSettings(Settings):
    """When to link. The defaults are what we ship; they were not fitted to any title."""

    least_confidence: float = 0.86
    margin: float = 0.025  # by which the best must lead the second
    year_tolerance: int = 1
    least_similarity: float = 0.88  # of two folded titles, 0 .. 1 (rapidfuzz)
    tags: tuple[str, ...] = (
        "film",
        "movie",
        "miniseries",
        "short",
        "documentary",
    )  # in parentheses: the kind meant
    other_tags: tuple[str, ...] = (
        "album", "song", "novel", "book", "band", "musical", "play", "soundtrack", "series", "franchise",
        "character", "actor", "actress", "director", "comics", "magazine", "company", "disambiguation", "opera",
        "video", "game", "serial", "trilogy", "episode", "manga", "comic", "tv",
    )  # fmt: skip
    fewest_sure: int = 20  # sure links from which the facts of a kind are learned
    common_fact: float = 0.3  # share of the sure links that has a fact for it to count
    other_kind: float = 0.87  # factor for a candidate without any such fact
    nearest: int = 3  # candidates shown for an item that was not linked
    most_compared: int = 400  # candidates that one item is compared with, the rarest shared words first


@dataclass(frozen=True)
class Links:
    """links: item_id, entity_id, confidence (Float32), method; unlinked: item_id, title, year, reason, nearest."""

    links: pl.DataFrame
    unlinked: pl.DataFrame
    counts: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Counts by method and by reason."""
        return {
            "linked": self.links.height,
            "unlinked": self.unlinked.height,
            "methods": dict(self.links["method"].value_counts().sort("method").iter_rows()),
            "reasons": dict(self.unlinked["reason"].value_counts().sort("reason").iter_rows()),
            **self.counts,
        }

    def doubtful(self, below: float = 0.93) -> pl.DataFrame:
        """Links for a person to look at, the least sure first."""
        return self.links.filter(pl.col("confidence") < below).sort("confidence", "item_id")


@dataclass(frozen=True)
class _Candidate:
    number: int
    name: str
    label: str
    title: Title
    year: int | None
    right_kind: float  # 1 the tag says so, .97 no tag, .7 the tag says something else
    facts: tuple[str, ...] | None  # what the graph tells about it, if known


@dataclass(frozen=True)
class _Match:
    candidate: _Candidate
    score: float
    method: str


def readable(name: str) -> str:
    """What a person reads in an entity's name: `dbr:The_Quest_(film)` is `The Quest (film)`."""
    last = name.rsplit("/", 1)[-1].rsplit("#", 1)[-1] if "://" in name else name
    if last == name and ":" in name and not name.split(":", 1)[1].startswith(" "):
        last = name.split(":", 1)[1]
    return unquote(last).replace("_", " ").strip() or name


def candidates_of(graph: KnowledgeGraph, types: Iterable[str] | None = None) -> pl.DataFrame:
    """id, label, type, facts of the entities of a graph, of some types or of all but users.

    facts: the relations an entity has, the inverse ones by their inverse names.
    """
    kinds = graph.types.to_list()
    frame = pl.DataFrame(
        {
            "number": np.arange(graph.entity_count, dtype=np.int32),
            "id": graph.entities.series(),
            "label": graph.entities.series() if graph.labels is None else graph.labels.series("label"),
            "type": pl.Series("type", [kinds[t] for t in graph.entity_type.tolist()], pl.String),
        }
    )
    wanted = list(types) if types is not None else [t for t in kinds if t != "user"]
    frame = (
        frame.filter(pl.col("type").is_in(wanted)).join(_facts(graph), on="number", how="left").drop("number")
    )
    unlabelled = pl.col("label") == pl.col("id")
    return frame.with_columns(
        pl.when(unlabelled)
        .then(pl.col("id").map_elements(readable, pl.String))
        .otherwise("label")
        .alias("label")
    )


def _facts(graph: KnowledgeGraph) -> pl.DataFrame:
    """number, facts: the distinct relations of each entity."""
    names = graph.relations.to_list()
    relation = np.asarray(graph.relation).astype(np.int32)
    ends = pl.DataFrame(
        {
            "number": np.concatenate([graph.head, graph.tail]),
            "fact": np.concatenate([relation, relation + len(names)]),
        }
    ).unique()
    words = pl.Series("fact", [*names, *map(inverse_name, names)], pl.String)
    told = ends.with_columns(words.gather(ends["fact"].cast(pl.Int64)).alias("fact")).sort("number", "fact")
    return told.group_by("number", maintain_order=True).agg(pl.col("fact").alias("facts"))


def link(
    items: pl.DataFrame,
    candidates: pl.DataFrame,
    *,
    explicit: pl.DataFrame | None = None,
    overrides: pl.DataFrame | None = None,
    settings: LinkSettings | None = None,
    progress: Progress = silent,
) -> Links:
    """Link items (item_id, optional title, year) to candidates (id, label, optional year).

    explicit: item_id, entity_id; overrides: the same, and an empty entity_id forbids every link. Both may only
    name ids that exist; others are counted, not linked. O(items + candidates) for equal titles; the rest is
    compared with at most `most_compared` candidates each.
    """
    settings = settings or LinkSettings()
    for frame, what, needed in ((items, "items", "item_id"), (candidates, "candidates", "id")):
        if needed not in frame.columns:
            raise BadInput(
                f"linking {what} needs a column {needed!r}", hint="columns: " + ", ".join(frame.columns)
            )
    known = _ids(candidates["id"])
    item_rows = list(_item_rows(items))
    given = _given(overrides, "manual", item_rows, known, empty=True)
    for item, found in _given(explicit, "explicit", item_rows, known).items():
        given.setdefault(item, found)
    bad = _dangling(overrides, known) + _dangling(explicit, known)
    for row in item_rows:
        if row.item_id in known:
            given.setdefault(row.item_id, (row.item_id, 1.0, "id"))
    open_rows = [r for r in item_rows if r.item_id not in given and r.title]
    matches = _match(open_rows, candidates, settings, progress) if open_rows else {}
    taken = {entity for entity, _, _ in given.values() if entity}
    decided, reasons = _one_each(open_rows, matches, taken, settings)
    return _links(item_rows, given, decided, reasons, matches, settings, {"links_to_unknown_ids": bad})


@dataclass(frozen=True)
class _Item:
    item_id: str
    title: str
    year: int | None


def _item_rows(items: pl.DataFrame) -> Iterator[_Item]:
    year = next((c for c in ("year", "release_year") if c in items.columns), None)
    years = items[year].cast(pl.Int64, strict=False).to_list() if year else [None] * items.height
    titles = items["title"].cast(pl.String).to_list() if "title" in items.columns else [None] * items.height
    for item_id, title, when in zip(items["item_id"].cast(pl.String).to_list(), titles, years, strict=True):
        if item_id:
            yield _Item(item_id, title or "", when)


def _ids(ids: pl.Series) -> set[str]:
    return set(ids.drop_nulls().cast(pl.String).to_list())


def _given(
    links: pl.DataFrame | None, method: str, items: list[_Item], known: set[str], *, empty: bool = False
) -> dict[str, tuple[str, float, str]]:
    """{item: (entity or "", confidence, method)} for links that name an item and an entity that exist."""
    if links is None:
        return {}
    wanted = {i.item_id for i in items}
    result: dict[str, tuple[str, float, str]] = {}
    for item, entity in links.select("item_id", "entity_id").cast(pl.String).iter_rows():
        if item in wanted and (entity in known or (empty and not entity)):
            result.setdefault(item, (entity or "", 1.0, method))
    return result


def _dangling(links: pl.DataFrame | None, known: set[str]) -> int:
    if links is None:
        return 0
    return sum(1 for e in links["entity_id"].cast(pl.String).to_list() if e and e not in known)


def _match(
    rows: list[_Item], candidates: pl.DataFrame, settings: LinkSettings, progress: Progress
) -> dict[str, list[_Match]]:
    """The best matches of each item, in descending score."""
    index = _Index(_parsed(candidates, settings), settings)
    result = {}
    for done, row in enumerate(rows):
        if done % 1000 == 0:
            progress(done, len(rows), "linking")
        result[row.item_id] = index.matches(row)
    progress(len(rows), len(rows), "linking")
    return _by_facts(result, settings) if "facts" in candidates.columns else result


def _by_facts(found: dict[str, list[_Match]], settings: LinkSettings) -> dict[str, list[_Match]]:
    """Scores again, knowing what the graph says of the things that items surely are.

    The entities of sure links show which facts (relation and direction) such things have; a candidate that
    has none of those is of another kind: the circus, not the film of that name.
    """
    sure = [m[0] for m in found.values() if m and _is_sure(m, settings)]
    if len(sure) < settings.fewest_sure:
        return found
    counts: Counter[str] = Counter(fact for m in sure for fact in m.candidate.facts or ())
    common = {fact for fact, count in counts.items() if count >= settings.common_fact * len(sure)}
    return {item: _ranked(_of_kind(m, common, settings) for m in matches) for item, matches in found.items()}


def _is_sure(matches: list[_Match], settings: LinkSettings) -> bool:
    second = matches[1].score if len(matches) > 1 else 0.0
    return matches[0].score >= 0.93 and matches[0].score - second >= settings.margin


def _of_kind(match: _Match, common: set[str], settings: LinkSettings) -> _Match:
    if common.intersection(match.candidate.facts or ()):
        return match
    return replace(match, score=round(match.score * settings.other_kind, 4))


def _ranked(matches: Iterable[_Match]) -> list[_Match]:
    return sorted(matches, key=lambda m: (-m.score, m.candidate.number))


def _parsed(candidates: pl.DataFrame, settings: LinkSettings) -> list[_Candidate]:
    tags = frozenset((*settings.tags, *settings.other_tags))
    wanted = frozenset(settings.tags)
    years = (
        candidates["year"].cast(pl.Int64, strict=False).to_list() if "year" in candidates.columns else None
    )
    facts = candidates["facts"].to_list() if "facts" in candidates.columns else None
    result = []
    names, labels = (candidates[c].cast(pl.String).to_list() for c in ("id", "label"))
    for number, (name, label) in enumerate(zip(names, labels, strict=True)):
        if not name or not label:
            continue
        title = parse_title(label, tags)
        kind = 0.97 if not title.tag else 1.0 if wanted & set(title.tag.split()) else 0.7
        if wanted & set(title.tag.split()) and set(title.tag.split()) & {"series", "franchise", "editor"}:
            kind = 0.7  # `film series`, `film editor`
        year = years[number] if years else None
        told = tuple(facts[number] or ()) if facts else None
        result.append(_Candidate(number, name, label, title, year or title.year, kind, told))
    return result


_PART_LIKENESS = {1: 0.86, 2: 0.90, 3: 0.94}  # by words: `Blue` alone is not `Three Colors: Blue`


class _Index:
    """Candidates by every key of their title, and by their words."""

    def __init__(self, candidates: list[_Candidate], settings: LinkSettings) -> None:
        self.settings = settings
        self.tags = frozenset((*settings.tags, *settings.other_tags))
        self.by_key: dict[str, list[_Candidate]] = defaultdict(list)
        self.by_word: dict[str, list[_Candidate]] = defaultdict(list)
        for candidate in candidates:
            for key in _keys(candidate.title):
                self.by_key[key].append(candidate)
            for word in set(candidate.title.bare.split()):
                self.by_word[word].append(candidate)

    def matches(self, item: _Item) -> list[_Match]:
        """All candidates worth a thought, best first; ties by candidate number."""
        title = parse_title(item.title, self.tags)
        year = item.year or title.year
        found = {c.number: c for key in _keys(title) for c in self.by_key.get(key, ())}
        matches = [self._match(self._likeness(title, c.title), year, c) for c in found.values()]
        if not any(m.score >= self.settings.least_confidence for m in matches):
            matches += [
                self._match((similarity, "similar title"), year, c)
                for similarity, c in self._similar(title, year)
                if c.number not in found
            ]
        return _ranked(m for m in matches if m.method)

    def _similar(self, title: Title, year: int | None) -> list[tuple[float, _Candidate]]:
        """Candidates with a similar title: they share a word, no number and no year speaks against it."""
        words = sorted(set(title.bare.split()), key=lambda w: (len(self.by_word.get(w, ())), w))
        block: dict[int, _Candidate] = {}
        for word in words:
            if len(block) >= self.settings.most_compared:
                break
            for c in self.by_word.get(word, ())[: self.settings.most_compared]:
                if c.title.numbers == title.numbers and self._year_factor(year, c.year):
                    block.setdefault(c.number, c)
        chosen, texts = list(block.values()), [c.title.bare for c in block.values()]
        best: dict[int, float] = {}
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio):
            cutoff = 100 * self.settings.least_similarity
            for _, value, place in process.extract(
                title.bare, texts, scorer=scorer, score_cutoff=cutoff, limit=None
            ):
                best[place] = max(best.get(place, 0.0), value / 100)
        return [(0.99 * value, chosen[place]) for place, value in best.items()]

    def _match(self, likeness: tuple[float, str], year: int | None, candidate: _Candidate) -> _Match:
        value, method = likeness
        score = value * self._year_factor(year, candidate.year) * candidate.right_kind
        return _Match(candidate, round(score, 4), method)

    def _year_factor(self, a: int | None, b: int | None) -> float:
        if a is None or b is None:
            return 0.93
        apart = abs(a - b)
        return 1.0 if apart == 0 else 0.97 if apart <= self.settings.year_tolerance else 0.0

    def _likeness(self, a: Title, b: Title) -> tuple[float, str]:
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
            return 0.86, "part of title"  # the name of a series, maybe
        return 0.0, ""


def _both_have_articles(a: Title, b: Title) -> bool:
    return a.key != a.bare and b.key != b.bare


def _keys(title: Title) -> list[str]:
    return [joined(k) for k in dict.fromkeys((title.bare, *title.aliases, *title.parts))]


def _one_each(
    rows: list[_Item], matches: dict[str, list[_Match]], taken: set[str], settings: LinkSettings
) -> tuple[dict[str, _Match], dict[str, str]]:
    """({item: its match}, {item: why it has none})."""
    decided: dict[str, _Match] = {}
    reasons: dict[str, str] = {}
    claims: dict[str, list[_Item]] = defaultdict(list)
    for row in rows:
        best, reason = _decide(matches[row.item_id], taken, settings)
        if best is None:
            reasons[row.item_id] = reason
            continue
        decided[row.item_id] = best
        claims[best.candidate.name].append(row)
    for claimants in claims.values():
        for row in _losers(claimants, decided):
            del decided[row.item_id]
            reasons[row.item_id] = "another item fits this entity better"
    return decided, reasons


def _decide(found: list[_Match], taken: set[str], settings: LinkSettings) -> tuple[_Match | None, str]:
    if not found:
        return None, "no candidate"
    best = found[0]
    if best.score < settings.least_confidence:
        return None, "years differ" if best.score == 0 else "no candidate is close enough"
    if len(found) > 1 and best.score - found[1].score < settings.margin:
        return None, "two candidates fit"
    if best.candidate.name in taken:
        return None, "another item fits this entity better"
    return best, ""


def _losers(claimants: list[_Item], decided: dict[str, _Match]) -> list[_Item]:
    """Those that must abstain when several items claim one entity."""
    if len(claimants) == 1:
        return []
    best = max(decided[r.item_id].score for r in claimants)
    first = next(r for r in claimants if decided[r.item_id].score == best)
    same = [r for r in claimants if decided[r.item_id].score == best]
    if len({(r.title.casefold(), r.year) for r in same}) > 1:
        return claimants  # different items fit equally well: none is sure
    return [r for r in claimants if (r.title.casefold(), r.year) != (first.title.casefold(), first.year)]


def _links(
    items: list[_Item],
    given: dict[str, tuple[str, float, str]],
    decided: dict[str, _Match],
    reasons: dict[str, str],
    matches: dict[str, list[_Match]],
    settings: LinkSettings,
    counts: dict[str, int],
) -> Links:
    linked, unlinked = [], []
    for row in items:
        if row.item_id in given:
            entity, confidence, method = given[row.item_id]
            if entity:
                linked.append((row.item_id, entity, confidence, method))
            else:
                unlinked.append((row.item_id, row.title, row.year, "forbidden by hand", []))
        elif row.item_id in decided:
            match = decided[row.item_id]
            linked.append((row.item_id, match.candidate.name, match.score, match.method))
        else:
            near = [
                f"{m.candidate.label} ({m.score:.2f})"
                for m in matches.get(row.item_id, [])[: settings.nearest]
            ]
            reason = reasons.get(row.item_id, "no title")
            unlinked.append((row.item_id, row.title, row.year, reason, near))
    schema = {"item_id": pl.String, "entity_id": pl.String, "confidence": pl.Float64, "method": pl.String}
    left = {
        "item_id": pl.String,
        "title": pl.String,
        "year": pl.Int64,
        "reason": pl.String,
        "nearest": pl.List(pl.String),
    }
    return Links(
        pl.DataFrame(linked, schema=schema, orient="row"),
        pl.DataFrame(unlinked, schema=left, orient="row"),
        counts,
    )
