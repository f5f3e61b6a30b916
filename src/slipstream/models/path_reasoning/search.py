"""The best paths of one asker to many items, in one search.

What the asker can walk is laid out once (`Frontier`), as flat arrays: scores and paths are read from there. A
search goes to all wanted items at once and meets in the middle: the asker's side holds the walks to entities,
the item's side the entities (facets) that lead to it. The best walk to a facet times the last hop is the best
path of that pair; the K-th largest of these products (and of the straight paths) is a floor under the K-th
best path, and only pairs that reach it are spelled out. Exact; O(walks of the asker + facets of the items),
and no Python object per hop: names are for the few that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.graph.weighted_graph import ranges
from slipstream.models.path_reasoning.attention import Starts
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_Columns = tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any]
"""The arrays of `Found`, but for `total`."""

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


class _Walks:
    """The rows of a matrix that an asker starts at, one after the other."""

    def __init__(self, matrix: sp.csr_matrix, starts: Starts) -> None:
        self.starts = starts
        begin, end = matrix.indptr[starts.node], matrix.indptr[starts.node + 1]
        cells = ranges(begin, end)
        self.row_end = np.cumsum(end - begin)
        self.head = matrix.indices[cells].astype(np.int64)  # where the walk has come to; int64 gathers faster
        self.gamma = matrix.data[cells]
        self.score = np.repeat(starts.weight, end - begin) * self.gamma

    def row(self, walk: Ints) -> Ints:
        """The start of each walk, as a row of `starts`."""
        return np.searchsorted(self.row_end, walk, side="right")


class EdgeWalks(_Walks):
    """An asker's walks over one relation to items."""

    def __init__(self, leg: EdgeLeg, starts: Starts) -> None:
        super().__init__(leg.matrix, starts)

    def sums(self, items: int) -> Floats:
        """[I]"""
        return _added(self.head, self.score, items)


class FacetWalks(_Walks):
    """An asker's walks up to the entities."""

    def __init__(self, leg: FacetLeg, starts: Starts) -> None:
        super().__init__(leg.out, starts)
        self.leg = leg

    @cached_property
    def arrived(self) -> Floats:
        """[F]: the sum over walks that arrive at a facet."""
        return _added(self.head, self.score, self.leg.facet_count)

    def sums(self, items: int) -> Floats:
        """[I]"""
        sums = np.asarray(self.leg.to_items @ self.arrived)
        self.leg.take_back(sums, self.starts.node, self.starts.node, self.starts.weight)
        return sums


class Frontier:
    """All that one asker can walk. The order of the legs breaks ties."""

    def __init__(self, legs: Sequence[tuple[EdgeLeg | FacetLeg, Starts]], items: int) -> None:
        self.legs, self.items = legs, items
        self.walks: list[EdgeWalks | FacetWalks] = [
            EdgeWalks(leg, starts) if isinstance(leg, EdgeLeg) else FacetWalks(leg, starts)
            for leg, starts in legs
        ]

    @cached_property
    def sums(self) -> Floats:
        """[I]: the sum over paths to each item."""
        total = np.zeros(self.items)
        for walks in self.walks:
            total += walks.sums(self.items)
        return total

    def best(self, items: Ints, limit: int, *, varied: bool = False) -> Found:
        """The `limit` best paths to each of the items (ascending, distinct) and their ties.

        varied: the best of each kind too, to choose from. An item of the history is searched for without
        itself as a start: a walk over an entity back to where it came from is no path.
        """
        touched = np.zeros(len(items), bool)
        for walks in self.walks:
            if isinstance(walks, FacetWalks) and len(node := walks.starts.node):
                touched |= node[np.minimum(np.searchsorted(node, items), len(node) - 1)] == items
        if not touched.any():
            return _search(self, items, limit, varied=varied)
        places = [np.flatnonzero(~touched), *np.flatnonzero(touched)[:, None]]
        parts = [_search(self, items[places[0]], limit, varied=varied)]
        parts += [
            _search(self._without(int(items[p[0]])), items[p], limit, varied=varied) for p in places[1:]
        ]
        return _together(places, parts, len(items))

    def _without(self, item: int) -> Frontier:
        legs = [(leg, s.without(item) if isinstance(leg, FacetLeg) else s) for leg, s in self.legs]
        return Frontier(legs, self.items)


@dataclass(frozen=True)
class _Straight:
    """The straight paths to the wanted items."""

    place: Ints
    leg: Ints
    walk: Ints
    score: Floats


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a wanted item and a facet that the asker reaches, and the walks to those facets."""

    place: Ints
    facet: Ints
    back: Floats
    best: Floats  # the score of the pair's best path
    total: Floats  # the sum over the pair's paths
    kind: Ints
    arriving: Ints  # numbers of walks that come to any of the facets


def _search(frontier: Frontier, items: Ints, limit: int, *, varied: bool) -> Found:
    straight = _straight(frontier, items)
    total = _added(straight.place, straight.score, len(items))
    facets = next(((n, w) for n, w in enumerate(frontier.walks) if isinstance(w, FacetWalks)), None)
    if facets is None:
        floor = _floors(straight.place, straight.score, len(items), limit)
        return _sorted([_straight_paths(frontier, straight, floor)], total)
    pairs = _pairs(facets[1], items)
    total += _added(pairs.place, pairs.total, len(items))
    place = np.concatenate([straight.place, pairs.place])
    floor = _floors(place, np.concatenate([straight.score, pairs.best]), len(items), limit)
    lowest = floor[pairs.place]
    if varied:
        lowest = np.minimum(lowest, _best_of_group(pairs.place, pairs.kind, pairs.best))
        floor = np.minimum(floor, _best_of(straight.place, straight.score, len(items)))
    paths = [_straight_paths(frontier, straight, floor), _facet_paths(*facets, pairs, lowest)]
    return _sorted(paths, total)


def _straight(frontier: Frontier, items: Ints) -> _Straight:
    mark = np.zeros(frontier.items, bool)
    mark[items] = True
    parts = [(_NONE, _NONE, _NONE, np.zeros(0))]
    for number, walks in enumerate(frontier.walks):
        if isinstance(walks, EdgeWalks):
            hit = np.flatnonzero(mark[walks.head])
            place = np.searchsorted(items, walks.head[hit])
            parts.append((place, np.full(len(hit), number), hit, walks.score[hit]))
    return _Straight(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _pairs(walks: FacetWalks, items: Ints) -> _Pairs:
    leg = walks.leg
    begin, end = leg.to_items.indptr[items], leg.to_items.indptr[items + 1]
    cells = ranges(begin, end)
    facet, back = leg.to_items.indices[cells].astype(np.int64), leg.to_items.data[cells]
    place = np.repeat(np.arange(len(items)), end - begin)
    mark = np.zeros(leg.facet_count, bool)
    mark[facet] = True
    arriving = np.flatnonzero(mark[walks.head])
    peak = np.zeros(leg.facet_count)
    np.maximum.at(peak, walks.head[arriving], walks.score[arriving])
    best = peak[facet] * back
    met = np.flatnonzero(best)
    place, facet, back = place[met], facet[met], back[met]
    kind = leg.facet_kind[facet] + (STRAIGHT + 1)
    return _Pairs(place, facet, back, best[met], walks.arrived[facet] * back, kind, arriving)


def _added(group: Ints, value: Floats, groups: int) -> Floats:
    """[groups]: the sum of the values of each."""
    return np.bincount(group, value, minlength=groups).astype(np.float64, copy=False)


def _floors(place: Ints, score: Floats, items: int, limit: int) -> Floats:
    """[T]: the `limit`-th largest score of each item, 0 where there are fewer."""
    order = np.lexsort((-score, place))
    last = np.searchsorted(place[order], np.arange(items)) + limit - 1
    enough = np.bincount(place, minlength=items) >= limit
    floor = np.zeros(items)
    floor[enough] = score[order[last[enough]]]
    return floor


def _best_of(group: Ints, score: Floats, groups: int) -> Floats:
    """[groups]: the largest score of each, infinite where there is none."""
    best = np.zeros(groups)
    np.maximum.at(best, group, score)
    return np.where(best > 0, best, np.inf)


def _best_of_group(place: Ints, kind: Ints, score: Floats) -> Floats:
    """[pairs]: the best score of each one's item and kind."""
    kinds = int(kind.max(initial=0)) + 1
    group = place * kinds + kind
    groups = (int(place.max(initial=0)) + 1) * kinds
    return np.asarray(_best_of(group, score, groups)[group])


def _straight_paths(frontier: Frontier, straight: _Straight, floor: Floats) -> _Columns:
    """The straight paths at or above the floor of their item."""
    kept = np.flatnonzero((straight.score >= floor[straight.place]) & (straight.score > 0))
    leg, walk = straight.leg[kept], straight.walk[kept]
    start, first, gamma = np.zeros(len(kept), np.int64), np.zeros(len(kept)), np.zeros(len(kept))
    for number in set(leg.tolist()):
        walks, mine = frontier.walks[number], np.flatnonzero(leg == number)
        row = walks.row(walk[mine])
        start[mine], first[mine] = walks.starts.node[row], walks.starts.weight[row]
        gamma[mine] = walks.gamma[walk[mine]]
    none, kind, one = np.full(len(kept), -1), np.full(len(kept), STRAIGHT), np.ones(len(kept))
    return straight.place[kept], leg, start, none, kind, first, gamma, one, straight.score[kept]


def _facet_paths(number: int, walks: FacetWalks, pairs: _Pairs, lowest: Floats) -> _Columns:
    """lowest: [pairs], the floor of each pair's paths."""
    kept = np.flatnonzero(pairs.best >= lowest)
    mark = np.zeros(walks.leg.facet_count, bool)
    mark[pairs.facet[kept]] = True
    walk = pairs.arriving[mark[walks.head[pairs.arriving]]]
    walk = walk[np.argsort(walks.head[walk], kind="stable")]
    there = walks.head[walk]
    low, high = (np.searchsorted(there, pairs.facet[kept], side=side) for side in ("left", "right"))
    walk, pair = walk[ranges(low, high)], np.repeat(kept, high - low)
    score = walks.score[walk] * pairs.back[pair]
    good = np.flatnonzero(score >= lowest[pair])
    walk, pair, score = walk[good], pair[good], score[good]
    row = walks.row(walk)
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


def _sorted(paths: Sequence[_Columns], total: Floats) -> Found:
    columns = [np.concatenate(parts) for parts in zip(*paths, strict=True)]
    place, leg, start, facet, kind, first, second, third, score = columns
    o = np.lexsort((facet, start, leg, -score, place))
    return Found(
        place[o], leg[o], start[o], facet[o], kind[o], first[o], second[o], third[o], score[o], total
    )


def _together(places: Sequence[Ints], parts: Sequence[Found], items: int) -> Found:
    """Searches for different items as one. places: of the items of each part among all."""
    total = np.zeros(items)
    columns: list[_Columns] = []
    for place, found in zip(places, parts, strict=True):
        total[place] = found.total
        rest = (found.leg, found.start, found.facet, found.kind, found.first, found.second, found.third)
        columns.append((place[found.place], *rest, found.score))
    return _sorted(columns, total)


_NONE = np.zeros(0, np.int64)
