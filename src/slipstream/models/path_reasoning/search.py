"""The best paths of one asker to many items, in one search.

It goes to all wanted items at once and meets in the middle: the asker's side holds the walks to entities, the
item's side the entities (facets) that lead to it. The best walk to a facet times the last hop is the best
path of that pair; the K-th largest of these products (and of the straight paths) is a floor under the K-th
best path, and only pairs that reach it are spelled out. Exact; O(walks of the asker + facets of the items),
and without a Python object per hop: names are for the few that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slipstream.graph.weighted_graph import ranges
from slipstream.models.path_reasoning.compiled import PATH
from slipstream.models.path_reasoning.frontier import (
    EdgeWalks,
    FacetWalks,
    Floats,
    Frontier,
    Ints,
    Walks,
    added,
)

Columns = tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any]
"""The arrays of `Found`, but for `total`."""

Row = tuple[int, int, int, int, float, float, float, float]
"""One path as `Found` has it: leg, start, facet, kind, the three gammas, score."""

STRAIGHT = 0
"""The kind of paths without an entity: what people do together. Facets have kinds of their own above it."""


@dataclass(frozen=True)
class Found:
    """P paths to T items: sorted by item, then best first; ties by leg, start, facet.

    total: [T], the exact sum over all paths to each item, shown or not.
    """

    place: Ints  # [P] position in the items asked for
    leg: Ints  # [P]
    start: Ints  # [P] item or attribute number
    facet: Ints  # [P] -1: straight
    kind: Ints  # [P]
    first: Floats  # [P] the gammas of the hops
    second: Floats  # [P]
    third: Floats  # [P] 1 for straight paths
    score: Floats  # [P]
    total: Floats  # [T]

    def rows(self) -> list[Row]:
        columns = (
            self.leg,
            self.start,
            self.facet,
            self.kind,
            self.first,
            self.second,
            self.third,
            self.score,
        )
        return list(zip(*(column.tolist() for column in columns), strict=True))


@dataclass(frozen=True)
class Straight:
    """The straight paths to the wanted items."""

    place: Ints
    leg: Ints
    walk: Ints
    tells: Floats
    score: Floats


@dataclass(frozen=True)
class Pairs:
    """The pairs of a wanted item and a facet that the asker reaches, and the walks to those facets."""

    place: Ints
    facet: Ints
    back: Floats
    best: Floats  # the score of the pair's best path
    total: Floats  # the sum over the pair's paths
    kind: Ints
    tells: Floats
    walks: Walks
    arriving: Ints  # numbers of those walks that come to any of the facets


def best_paths(frontier: Frontier, items: Ints, limit: int) -> Found:
    """The `limit` best paths to each of the items (ascending, distinct), and what ties with the last."""
    total = np.zeros(len(items))
    columns: list[Columns] = []
    for places, part in frontier.parts(items):
        found = _search(part, items[places], limit)
        if len(places) == len(items):
            return found
        total[places] = found.total
        rest = (found.leg, found.start, found.facet, found.kind, found.first, found.second, found.third)
        columns.append((places[found.place], *rest, found.score))
    return columns_sorted(columns, total)


def _search(frontier: Frontier, items: Ints, limit: int) -> Found:
    if frontier.compiled is not None:
        paths, total = frontier.compiled.paths(frontier.starts, items, limit)
        place, leg, start, facet, kind, first, second, third, score = (
            paths[name] for name in PATH.names or ()
        )
        return Found(place, leg, start, facet, kind, first, second, third, score, total)
    straight, facets = straight_to(frontier, items), frontier.facets
    total = added(straight.place, straight.score, len(items))
    if facets is None:
        floor = _floors(straight.place, straight.score, len(items), limit)
        return columns_sorted([straight_paths(frontier, straight, floor[straight.place])], total)
    pairs = pairs_to(facets[1], items)
    total += added(pairs.place, pairs.total, len(items))
    place = np.concatenate([straight.place, pairs.place])
    floor = _floors(place, np.concatenate([straight.score, pairs.best]), len(items), limit)
    found = straight_paths(frontier, straight, floor[straight.place])
    return columns_sorted([found, facet_paths(*facets, pairs, floor[pairs.place])], total)


def straight_to(frontier: Frontier, items: Ints) -> Straight:
    mark = np.zeros(frontier.items, bool)
    mark[items] = True
    parts = [(_NONE, _NONE, _NONE, np.zeros(0), np.zeros(0))]
    for number, walks in enumerate(frontier.walks):
        if isinstance(walks, EdgeWalks):
            hit = np.flatnonzero(mark[walks.all.head])
            place = np.searchsorted(items, walks.all.head[hit])
            tells = walks.leg.tells[walks.starts.node[walks.all.row[hit]]]
            parts.append((place, np.full(len(hit), number), hit, tells, walks.all.score[hit]))
    return Straight(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def pairs_to(walks: FacetWalks, items: Ints) -> Pairs:
    leg = walks.leg
    begin, end = leg.to_items.indptr[items], leg.to_items.indptr[items + 1]
    cells = ranges(begin, end)
    facet, back = leg.to_items.indices[cells].astype(np.int64), leg.to_items.data[cells]
    place = np.repeat(np.arange(len(items)), end - begin)
    mark = np.zeros(leg.facet_count, bool)
    mark[facet] = True
    near = walks.near(np.flatnonzero(mark))
    arriving = np.flatnonzero(mark[near.head])
    peak = np.zeros(leg.facet_count)
    np.maximum.at(peak, near.head[arriving], near.score[arriving])
    arrived = added(near.head[arriving], near.score[arriving], leg.facet_count)
    best = peak[facet] * back
    met = np.flatnonzero(best)
    place, facet, back = place[met], facet[met], back[met]
    kind, total = leg.facet_kind[facet] + (STRAIGHT + 1), arrived[facet] * back
    return Pairs(place, facet, back, best[met], total, kind, leg.tells[facet], near, arriving)


def _floors(place: Ints, score: Floats, items: int, limit: int) -> Floats:
    """[T]: the `limit`-th largest score of each item, 0 where there are fewer."""
    order = np.lexsort((-score, place))
    last = np.searchsorted(place[order], np.arange(items)) + limit - 1
    enough = np.bincount(place, minlength=items) >= limit
    floor = np.zeros(items)
    floor[enough] = score[order[last[enough]]]
    return floor


def straight_paths(frontier: Frontier, straight: Straight, lowest: Floats) -> Columns:
    """lowest: the score from which each straight path is kept."""
    kept = np.flatnonzero((straight.score >= lowest) & (straight.score > 0))
    leg, walk = straight.leg[kept], straight.walk[kept]
    start, first, gamma = np.zeros(len(kept), np.int64), np.zeros(len(kept)), np.zeros(len(kept))
    for number in set(leg.tolist()):
        walks, mine = frontier.walks[number].all, np.flatnonzero(leg == number)
        row = walks.row[walk[mine]]
        start[mine], first[mine] = walks.starts.node[row], walks.starts.weight[row]
        gamma[mine] = walks.gamma[walk[mine]]
    none, kind, one = np.full(len(kept), -1), np.full(len(kept), STRAIGHT), np.ones(len(kept))
    return straight.place[kept], leg, start, none, kind, first, gamma, one, straight.score[kept]


def facet_paths(
    number: int, facets: FacetWalks, pairs: Pairs, lowest: Floats, most: int | None = None
) -> Columns:
    """lowest: [pairs], the floor of each pair's paths. most: paths of each pair, the best ones."""
    kept, walks = np.flatnonzero(pairs.best >= lowest), pairs.walks
    mark = np.zeros(facets.leg.facet_count, bool)
    mark[pairs.facet[kept]] = True
    walk = pairs.arriving[mark[walks.head[pairs.arriving]]]
    walk = walk[np.argsort(walks.head[walk], kind="stable")]
    there = walks.head[walk]
    low, high = (np.searchsorted(there, pairs.facet[kept], side=side) for side in ("left", "right"))
    walk, pair = walk[ranges(low, high)], np.repeat(kept, high - low)
    score = walks.score[walk] * pairs.back[pair]
    good = np.flatnonzero((score >= lowest[pair]) & (score > 0))
    if most is not None and len(good) > most:
        good = good[np.lexsort((-score[good], pair[good]))]
        own = pair[good]
        good = good[np.arange(len(own)) - np.searchsorted(own, own) < most]
    walk, pair, score = walk[good], pair[good], score[good]
    row = walks.row[walk]
    return (
        pairs.place[pair],
        np.full(len(pair), number),
        walks.starts.node[row],
        pairs.facet[pair],
        pairs.kind[pair],
        walks.starts.weight[row],
        walks.gamma[walk],
        pairs.back[pair],
        score,
    )


def columns_sorted(paths: Sequence[Columns], total: Floats) -> Found:
    columns = [np.concatenate(parts) for parts in zip(*paths, strict=True)]
    place, leg, start, facet, kind, first, second, third, score = columns
    o = np.lexsort((facet, start, leg, -score, place))
    return Found(
        place[o], leg[o], start[o], facet[o], kind[o], first[o], second[o], third[o], score[o], total
    )


_NONE = np.zeros(0, np.int64)
