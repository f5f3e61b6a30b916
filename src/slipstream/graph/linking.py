"""Items of a catalogue linked to entities of a graph, or to rows of another catalogue; or not at all.

A wrong link is worse than none, so every step may abstain. In this order: links given by hand, explicit
links, equal ids, equal titles, similar titles. A title alone decides nothing: the year must not contradict
(one year of tolerance: festivals), numbers must agree (a sequel is another film), and the best candidate
must lead the second by a margin. Equal ids mean nothing where the titles beside them disagree: two tables
that both count from 1. An entity is given to one item; others that wanted it abstain, unless they are the
same title of the same year (the same film listed twice).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from slipstream.config import Progress, silent
from slipstream.errors import BadInput
from slipstream.graph.candidates import candidates_of, readable
from slipstream.graph.matching import (
    CandidateIndex,
    Item,
    LinkSettings,
    Match,
    by_facts,
    lead,
    likeness,
    parsed_candidates,
)
from slipstream.graph.titles import parse_title

__all__ = ["LinkSettings", "Links", "candidates_of", "link", "readable"]


_LINK_SCHEMA: dict[str, Any] = {
    "item_id": pl.String,
    "entity_id": pl.String,
    "confidence": pl.Float64,
    "method": pl.String,
}
_UNLINKED_SCHEMA: dict[str, Any] = {
    "item_id": pl.String,
    "title": pl.String,
    "year": pl.Int64,
    "reason": pl.String,
    "nearest": pl.List(pl.String),
}


@dataclass(frozen=True)
class Links:
    """What was linked, and what was not and why.

    links: item_id, entity_id, confidence, method. unlinked: item_id, title, year, reason, nearest.
    """

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
            "entities_shared": self.shared().height,
            **self.counts,
        }

    def shared(self) -> pl.DataFrame:
        """Entities that several items are linked to: entity_id, item_ids. Each item gets its edges."""
        grouped = self.links.group_by("entity_id", maintain_order=True).agg(
            pl.col("item_id").alias("item_ids")
        )
        return grouped.filter(pl.col("item_ids").list.len() > 1)

    def doubtful(self, below: float = 0.93) -> pl.DataFrame:
        """Links for a person to look at, the least sure first."""
        return self.links.filter(pl.col("confidence") < below).sort("confidence", "item_id")


def link(
    items: pl.DataFrame,
    candidates: pl.DataFrame,
    *,
    explicit: pl.DataFrame | None = None,
    overrides: pl.DataFrame | None = None,
    settings: LinkSettings | None = None,
    progress: Progress = silent,
) -> Links:
    """Link items (item_id, optional title, year) to candidates (id, label, optional year, facts).

    explicit: item_id, entity_id; overrides: the same, and an empty entity_id forbids every link. Links that
    name an id that does not exist are counted, not made. O(items + candidates) for equal titles; every other
    item is compared with at most `most_compared` candidates.
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
    given_rows = [frame for frame in (overrides, explicit) if frame is not None]
    counts = {
        "links_to_unknown_ids": sum(_dangling(frame, known) for frame in given_rows),
        "links_of_unknown_items": sum(_of_no_item(frame, item_rows) for frame in given_rows),
        "second_links": sum(_second_links(frame) for frame in given_rows),
        "equal_ids_ignored": 0,
    }
    equal = [r for r in item_rows if r.item_id in known and r.item_id not in given]
    if _ids_mean_the_same(equal, candidates, settings):
        given |= {r.item_id: (r.item_id, 1.0, "id") for r in equal}
    else:
        counts["equal_ids_ignored"] = len(equal)
    open_rows = [r for r in item_rows if r.item_id not in given and r.title]
    index = CandidateIndex(parsed_candidates(candidates, settings) if open_rows else [], settings)
    matches = _match(open_rows, index, settings, progress, facts="facts" in candidates.columns)
    taken = {entity for entity, _, _ in given.values() if entity}
    decided, reasons = _one_each(open_rows, matches, taken, settings)
    near = {
        r.item_id: _nearest(r, matches[r.item_id], index, settings) for r in open_rows if r.item_id in reasons
    }
    return _links(item_rows, given, decided, reasons, near, counts)


def _nearest(item: Item, found: list[Match], index: CandidateIndex, settings: LinkSettings) -> list[str]:
    """The labels that came closest, with their scores; without any, the most similar titles."""
    if found:
        return [f"{m.candidate.label} ({m.score:.2f})" for m in found[: settings.nearest]]
    return [f"{c.label} (spelled {likeness:.0%} alike)" for c, likeness in index.nearest(item)]


def _item_rows(items: pl.DataFrame) -> Iterator[Item]:
    year = next((c for c in ("year", "release_year") if c in items.columns), None)
    years = items[year].cast(pl.Int64, strict=False).to_list() if year else [None] * items.height
    titles = items["title"].cast(pl.String).to_list() if "title" in items.columns else [None] * items.height
    for item_id, title, when in zip(items["item_id"].cast(pl.String).to_list(), titles, years, strict=True):
        if item_id:
            yield Item(item_id, title or "", when)


def _ids(ids: pl.Series) -> set[str]:
    return set(ids.drop_nulls().cast(pl.String).to_list())


def _given(
    links: pl.DataFrame | None, method: str, items: list[Item], known: set[str], *, empty: bool = False
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


def _ids_mean_the_same(rows: list[Item], candidates: pl.DataFrame, settings: LinkSettings) -> bool:
    """Whether equal ids name equal things: at least half of the titles beside them agree."""
    titled = [r for r in rows if r.title][:_IDS_LOOKED_AT]
    if not titled:
        return True
    wanted = {r.item_id for r in titled}
    labels = dict(
        candidates.select("id", "label").cast(pl.String).filter(pl.col("id").is_in(wanted)).iter_rows()
    )
    tags = frozenset((*settings.tags, *settings.other_tags))
    pairs = [
        (r.title, labels[r.item_id]) for r in titled if labels.get(r.item_id) not in (None, "", r.item_id)
    ]
    alike = [likeness(parse_title(a, tags), parse_title(b, tags))[0] > 0 for a, b in pairs]
    return not pairs or sum(alike) >= len(alike) / 2


def _dangling(links: pl.DataFrame, known: set[str]) -> int:
    return sum(1 for e in links["entity_id"].cast(pl.String).to_list() if e and e not in known)


def _of_no_item(links: pl.DataFrame, items: list[Item]) -> int:
    ids = {item.item_id for item in items}
    return sum(1 for item in links["item_id"].cast(pl.String).to_list() if item not in ids)


def _second_links(links: pl.DataFrame) -> int:
    """Rows that link an item to yet another entity: the first one counts."""
    pairs = links.select("item_id", "entity_id").cast(pl.String).unique()
    return pairs.height - pairs["item_id"].n_unique()


def _match(
    rows: list[Item], index: CandidateIndex, settings: LinkSettings, progress: Progress, *, facts: bool
) -> dict[str, list[Match]]:
    """The best matches of each item, in descending score."""
    result = {}
    for done, row in enumerate(rows):
        if done % 1000 == 0:
            progress(done, len(rows), "linking")
        result[row.item_id] = index.matches(row)
    progress(len(rows), len(rows), "linking")
    return by_facts(result, settings) if facts else result


_IDS_LOOKED_AT = 1_000


def _one_each(
    rows: list[Item], matches: dict[str, list[Match]], taken: set[str], settings: LinkSettings
) -> tuple[dict[str, Match], dict[str, str]]:
    """({item: its match}, {item: why it has none})."""
    decided: dict[str, Match] = {}
    reasons: dict[str, str] = {}
    claims: dict[str, list[Item]] = defaultdict(list)
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


def _decide(found: list[Match], taken: set[str], settings: LinkSettings) -> tuple[Match | None, str]:
    if not found:
        return None, "no candidate"
    best = found[0]
    if best.score < settings.least_confidence:
        return None, "years differ" if best.score == 0 else "no candidate is close enough"
    if lead(found) < settings.margin:
        return None, "two candidates fit"
    if best.candidate.name in taken:
        return None, "another item fits this entity better"
    return best, ""


def _losers(claimants: list[Item], decided: dict[str, Match]) -> list[Item]:
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
    items: list[Item],
    given: dict[str, tuple[str, float, str]],
    decided: dict[str, Match],
    reasons: dict[str, str],
    nearest: dict[str, list[str]],
    counts: dict[str, int],
) -> Links:
    linked: list[tuple[str, str, float, str]] = []
    unlinked: list[tuple[str, str, int | None, str, list[str]]] = []
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
            reason = reasons.get(row.item_id, "no title")
            unlinked.append((row.item_id, row.title, row.year, reason, nearest.get(row.item_id, [])))
    return Links(
        pl.DataFrame(linked, schema=_LINK_SCHEMA, orient="row"),
        pl.DataFrame(unlinked, schema=_UNLINKED_SCHEMA, orient="row"),
        counts,
    )
