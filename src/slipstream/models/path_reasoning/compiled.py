"""The legs of a reasoner in the hands of graph/_walk.c, which walks them some three to ten times faster.

frontier.py, search.py and groups.py do the same in NumPy and say what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.kernels import Kernel, kernel
from slipstream.models.path_reasoning.attention import Starts
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg

WALK = "slipstream.graph._walk"
PATH = np.dtype(
    [
        *((name, np.int64) for name in ("place", "leg", "start", "facet", "kind")),
        *((name, np.float64) for name in ("first", "second", "third", "score")),
    ]
)
"""A path of `_walk.c`. place: of its item among those asked for; in a group: the number of the group."""
SHOWN = np.dtype([("place", np.int64), ("paths", np.int64), ("share", np.float64), ("whole", np.float64)])
"""A group of `_walk.c`."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CompiledLegs:
    """Made by `compiled_legs`. Ascending, distinct items everywhere. One call at a time, but for `scores`."""

    def __init__(self, legs: Sequence[EdgeLeg | FacetLeg], items: int, compiled: Kernel) -> None:
        self._module, self._level, self._items = compiled.module, compiled.level, items
        facets = max((leg.facet_count for leg in legs if isinstance(leg, FacetLeg)), default=0)
        self._opened = self._module.open(items, facets, tuple(_parts(leg) for leg in legs))

    def sums(self, starts: Sequence[Starts]) -> Floats:
        """[I]: the sum over paths to each item, of one asker."""
        total = np.empty(self._items)
        self._module.sums(self._opened, _of_one(starts), total)
        return total

    def scores(self, starts: Sequence[sp.csr_matrix]) -> NDArray[np.float32]:
        """[Q, I]: the sums of many askers, NaN where there is no path. starts: by leg, [Q, its rows]."""
        people = starts[0].shape[0]
        given = tuple(
            (np.asarray(s.indptr, np.int64), np.asarray(s.indices, np.int64), np.asarray(s.data, np.float64))
            for s in starts
        )
        scores = np.empty((people, self._items), np.float32)
        self._module.scores(self._opened, self._level, people, given, scores)
        return scores

    def paths(self, starts: Sequence[Starts], items: Ints, limit: int) -> tuple[NDArray[Any], Floats]:
        """(paths in the order of `Found`, sum over all paths to each item)."""
        paths, total = self._module.paths(self._opened, _of_one(starts), items, limit)
        return np.frombuffer(paths, PATH), np.frombuffer(total, np.float64)

    def groups(
        self, starts: Sequence[Starts], items: Ints, limit: int, named_from: float, most: int
    ) -> tuple[list[Any], list[Any]]:
        """(paths by group as tuples, groups as tuples in the order in which they are shown)."""
        paths, shown = self._module.groups(self._opened, _of_one(starts), items, limit, named_from, most)
        return np.frombuffer(paths, PATH).tolist(), np.frombuffer(shown, SHOWN).tolist()


def compiled_legs(
    legs: Sequence[EdgeLeg | FacetLeg], items: int, choice: str | None = None
) -> CompiledLegs | None:
    """None where the kernel is not built or not wanted, and for a graph without legs."""
    found = kernel(WALK, choice)
    return None if found is None or not legs else CompiledLegs(legs, items, found)


def _of_one(starts: Sequence[Starts]) -> tuple[tuple[Ints, Ints, Floats], ...]:
    return tuple((np.array([0, len(s.node)], np.int64), s.node, s.weight) for s in starts)


def _parts(leg: EdgeLeg | FacetLeg) -> tuple[NDArray[Any], ...]:
    """The buffers of a leg in the order of `_walk.c`."""
    if isinstance(leg, EdgeLeg):
        return (*_matrix(leg.matrix), leg.tells)
    return (*_matrix(leg.out), *_matrix(leg.to_items), leg.facet_kind, leg.tells, leg.around)


def _matrix(matrix: sp.csr_matrix) -> tuple[Ints, NDArray[np.int32], Floats]:
    return (
        np.ascontiguousarray(matrix.indptr, np.int64),
        np.ascontiguousarray(matrix.indices, np.int32),
        np.ascontiguousarray(matrix.data, np.float64),
    )
