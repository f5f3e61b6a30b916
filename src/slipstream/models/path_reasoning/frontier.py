"""What one asker can walk, laid out once as flat arrays: scores and paths are read from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.graph.weighted_graph import ranges
from slipstream.models.path_reasoning.attention import Starts
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
        return added(self.head, self.score, items)


class FacetWalks(_Walks):
    """An asker's walks up to the entities."""

    def __init__(self, leg: FacetLeg, starts: Starts) -> None:
        super().__init__(leg.out, starts)
        self.leg = leg

    @cached_property
    def arrived(self) -> Floats:
        """[F]: the sum over walks that arrive at a facet."""
        return added(self.head, self.score, self.leg.facet_count)

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

    def parts(self, items: Ints) -> Iterator[tuple[Ints, Frontier]]:
        """(places in `items`, the frontier to search for these items).

        An item of the history is searched for without itself as a start: a walk over an entity back to where
        it came from is no path.
        """
        touched = np.zeros(len(items), bool)
        for walks in self.walks:
            if isinstance(walks, FacetWalks) and len(node := walks.starts.node):
                touched |= node[np.minimum(np.searchsorted(node, items), len(node) - 1)] == items
        yield np.flatnonzero(~touched), self
        for place in np.flatnonzero(touched):
            yield np.array([place]), self._without(int(items[place]))

    @property
    def facets(self) -> tuple[int, FacetWalks] | None:
        """The number of the leg over entities and its walks."""
        return next(((n, w) for n, w in enumerate(self.walks) if isinstance(w, FacetWalks)), None)

    def _without(self, item: int) -> Frontier:
        legs = [(leg, s.without(item) if isinstance(leg, FacetLeg) else s) for leg, s in self.legs]
        return Frontier(legs, self.items)


def added(group: Ints, value: Floats, groups: int) -> Floats:
    """[groups]: the sum of the values of each."""
    return np.bincount(group, value, minlength=groups).astype(np.float64, copy=False)
