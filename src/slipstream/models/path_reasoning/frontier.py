"""What one asker can walk, laid out once as flat arrays: scores and paths are read from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.graph.weighted_graph import ranges
from slipstream.models.path_reasoning.attention import Starts
from slipstream.models.path_reasoning.compiled import CompiledLegs
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ITEM_SIDE = 1.5  # the cost of a walk looked up from an entity, beside one laid out from the asker


@dataclass(frozen=True)
class Walks:
    """N weighted first hops, each with one more hop behind it."""

    starts: Starts
    row: Ints  # [N] the start, as a row of `starts`
    head: Ints  # [N] where the walk has come to
    gamma: Floats  # [N] of the second hop
    score: Floats  # [N]

    @classmethod
    def of(cls, starts: Starts, row: Ints, head: NDArray[np.integer], gamma: Floats) -> Walks:
        return cls(starts, row, head.astype(np.int64), gamma, starts.weight[row] * gamma)

    @classmethod
    def along(cls, matrix: sp.csr_matrix, starts: Starts) -> Walks:
        """The rows of a matrix that an asker starts at, one after the other."""
        begin, end = matrix.indptr[starts.node], matrix.indptr[starts.node + 1]
        cells = ranges(begin, end)
        row = np.repeat(np.arange(len(begin)), end - begin)
        return cls.of(starts, row, matrix.indices[cells], matrix.data[cells])


class EdgeWalks:
    """An asker's walks over one relation to items."""

    def __init__(self, leg: EdgeLeg, starts: Starts) -> None:
        self.leg, self.starts = leg, starts

    @cached_property
    def all(self) -> Walks:
        return Walks.along(self.leg.matrix, self.starts)

    def sums(self, items: int) -> Floats:
        """[I]"""
        return added(self.all.head, self.all.score, items)


class FacetWalks:
    """An asker's walks up to the entities, laid out when they are needed."""

    def __init__(self, leg: FacetLeg, starts: Starts) -> None:
        self.leg, self.starts = leg, starts

    @cached_property
    def all(self) -> Walks:
        return Walks.along(self.leg.out, self.starts)

    def near(self, facets: Ints) -> Walks:
        """Walks among which are all to the given facets, by what is cheaper: from the asker or from there."""
        out, back = self.leg.out.indptr, self.leg.from_facets
        begin, end = back.indptr[facets], back.indptr[facets + 1]
        walks = int((out[self.starts.node + 1] - out[self.starts.node]).sum())
        if "all" in self.__dict__ or walks <= _ITEM_SIDE * int((end - begin).sum()):
            return self.all
        cells = ranges(begin, end)
        place = np.full(back.shape[1], -1)
        place[self.starts.node] = np.arange(len(self.starts.node))
        row = place[back.indices[cells]]
        mine = np.flatnonzero(row >= 0)
        head = np.repeat(facets, end - begin)[mine]
        return Walks.of(self.starts, row[mine], head, back.data[cells[mine]])

    def sums(self, items: int) -> Floats:
        """[I]"""
        arrived = added(self.all.head, self.all.score, self.leg.facet_count)
        sums = np.asarray(self.leg.to_items @ arrived)
        self.leg.take_back(sums, self.starts.node, self.starts.node, self.starts.weight)
        return sums


class Frontier:
    """All that one asker can walk. The order of the legs breaks ties.

    compiled: the same legs for the kernel, which then does the walking; without it NumPy does.
    """

    def __init__(
        self,
        legs: Sequence[tuple[EdgeLeg | FacetLeg, Starts]],
        items: int,
        compiled: CompiledLegs | None = None,
    ) -> None:
        self.legs, self.items, self.compiled = legs, items, compiled
        self.starts = [starts for _, starts in legs]
        self.walks: list[EdgeWalks | FacetWalks] = [
            EdgeWalks(leg, starts) if isinstance(leg, EdgeLeg) else FacetWalks(leg, starts)
            for leg, starts in legs
        ]

    @cached_property
    def sums(self) -> Floats:
        """[I]: the sum over paths to each item."""
        if self.compiled is not None:
            return self.compiled.sums(self.starts)
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
        return Frontier(legs, self.items, self.compiled)


def added(group: Ints, value: Floats, groups: int) -> Floats:
    """[groups]: the sum of the values of each."""
    return np.bincount(group, value, minlength=groups).astype(np.float64, copy=False)
