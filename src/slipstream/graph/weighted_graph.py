"""A graph of typed, weighted edges as arrays: what sums over paths and searches for paths walk over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.errors import BadInput


@dataclass(frozen=True)
class WeightedGraph:
    """V nodes, N edges with gamma >= 0, sorted by (head, relation, tail); parallel edges are distinct."""

    offsets: NDArray[np.int64]  # [V + 1]
    relation: NDArray[np.int32]  # [N]
    tail: NDArray[np.int32]  # [N]
    gamma: NDArray[np.float64]  # [N]

    @classmethod
    def of(
        cls,
        head: NDArray[np.integer],
        relation: NDArray[np.integer],
        tail: NDArray[np.integer],
        gamma: NDArray[np.floating],
        nodes: int,
    ) -> WeightedGraph:
        """The graph of edges in any order. BadInput for self-loops and for weights that are not >= 0."""
        if np.any(head == tail):
            raise BadInput("a path graph has no self-loops", hint="construction.py drops and reports them")
        if not np.all(gamma >= 0):
            raise BadInput("a hop's weight must be a number >= 0")
        order = np.lexsort((gamma, tail, relation, head))
        offsets = np.zeros(nodes + 1, np.int64)
        np.cumsum(np.bincount(head, minlength=nodes), out=offsets[1:])
        return cls(
            offsets,
            relation[order].astype(np.int32),
            tail[order].astype(np.int32),
            gamma[order].astype(np.float64),
        )

    @property
    def node_count(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def head(self) -> NDArray[np.int32]:
        return np.repeat(np.arange(self.node_count, dtype=np.int32), np.diff(self.offsets))

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """[V, V]: parallel edges added up."""
        matrix = sp.csr_matrix((self.gamma, (self.head, self.tail)), shape=(self.node_count, self.node_count))
        matrix.sum_duplicates()
        return matrix

    @cached_property
    def by_tail(self) -> NDArray[np.int64]:
        """Edge numbers sorted by tail; ties in edge order."""
        return np.argsort(self.tail, kind="stable")

    @cached_property
    def tail_offsets(self) -> NDArray[np.int64]:
        offsets = np.zeros(self.node_count + 1, np.int64)
        np.cumsum(np.bincount(self.tail, minlength=self.node_count), out=offsets[1:])
        return offsets

    def edges_from(self, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Numbers of all edges that leave the nodes, in the order of the nodes."""
        return ranges(self.offsets[nodes], self.offsets[nodes + 1])

    def edges_to(self, node: int) -> NDArray[np.int64]:
        return self.by_tail[self.tail_offsets[node] : self.tail_offsets[node + 1]]


def ranges(starts: NDArray[np.integer], stops: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers of many half-open ranges, one after the other."""
    lengths = (stops - starts).astype(np.int64)
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return shift + np.arange(len(shift))
