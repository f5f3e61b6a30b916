"""The sum over simple paths of a weighted graph, exactly, and the best of those paths.

A path p = (u, r1, e1, ..., rk, t) scores s(p) = product of gamma(rj, ej) over its hops; a pair (u, t) scores
the sum over all simple paths from u to t of at most L hops. Walks are counted by sparse products; the few
walks that are not simple paths are taken away again. With A = the gammas of parallel edges added up and
W_l = row u of A^l:

    S1(t) = W1(t)        S2(t) = W2(t)        (t != u, no self-loops)
    S3(t) = W3(t) - c(u) W1(t) - W1(t) c(t) + W1(t)^2 A(t, u)        c = diag(A A)

W3 counts u-v-w-t; it is no path when w = u (c(u) ways back, then u-t) or v = t (u-t, then c(t) ways back),
and both at once is u-t-u-t. For a target that is not adjacent to u all corrections are zero: there, walks of
at most three hops *are* the simple paths. Longer paths need more corrections and are not built yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.errors import BadInput, UsageError

LONGEST = 3


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
    def returns(self) -> NDArray[np.float64]:
        """[V]: the walks of two hops from a node back to itself, diag(A A)."""
        return np.asarray(self.matrix.multiply(self.matrix.T).sum(axis=1)).ravel()

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


def path_sums(
    graph: WeightedGraph, sources: NDArray[np.integer], longest: int = LONGEST
) -> NDArray[np.float64]:
    """[Q, V]: for each source and every node the sum over simple paths of 1 .. `longest` hops.

    0 at the source itself. One user or many, the same products: O(walks' edges x Q) time, Q x V memory.
    """
    _check(longest)
    matrix = graph.matrix
    hop = matrix[sources]
    one = hop.toarray()
    total = one.copy()
    if longest >= 2:
        two = sp.csr_matrix(hop @ matrix)
        total += two.toarray()
    if longest >= 3:
        total += np.asarray((two @ matrix).toarray())
        back = matrix[:, sources].T.toarray()  # A(t, u)
        returns = graph.returns
        total -= one * (returns[sources][:, None] + returns[None, :]) - one * one * back
    total[np.arange(len(sources)), sources] = 0.0
    return np.asarray(total)


def _check(longest: int) -> None:
    if not 1 <= longest <= LONGEST:
        raise UsageError(f"paths have 1 to {LONGEST} hops, got {longest}")


@dataclass(frozen=True)
class Path:
    """Edge numbers of the graph, in walking order, and the product of their gammas."""

    edges: tuple[int, ...]
    score: float


def best_paths(
    graph: WeightedGraph, source: int, target: int, limit: int, longest: int = LONGEST
) -> tuple[list[Path], float]:
    """(the `limit` best simple paths, the sum over all of them).

    In descending score, ties by fewer hops, then by edge numbers. Every path is looked at, so the sum is
    exact: O(edges within two hops of the source). Paths of score 0 are no reason and do not appear.
    """
    _check(longest)
    if source == target:
        return [], 0.0
    found = [f for f in _all_paths(graph, source, target, longest) if len(f)]
    scores = [np.prod(graph.gamma[f], axis=1) for f in found]
    total = float(sum(s.sum() for s in scores))
    paths = []
    for edges, score in zip(found, scores, strict=True):
        columns = tuple(edges[:, c] for c in reversed(range(edges.shape[1])))
        order = np.lexsort((*columns, -score))[:limit]
        paths += [Path(tuple(map(int, edges[o])), float(score[o])) for o in order if score[o] > 0]
    paths.sort(key=lambda p: (-p.score, len(p.edges), p.edges))
    return paths[:limit], total


def _all_paths(graph: WeightedGraph, source: int, target: int, longest: int) -> Iterator[NDArray[np.int64]]:
    """[P, l] edge numbers of all simple paths of each length l."""
    first = graph.edges_from(np.array([source]))
    middle = graph.tail[first]
    yield first[middle == target][:, None]
    if longest == 1:
        return
    first, middle = first[middle != target], middle[middle != target]
    second = graph.edges_from(middle)
    begin = np.repeat(np.arange(len(first)), graph.offsets[middle + 1] - graph.offsets[middle])
    after = graph.tail[second]
    ends = after == target
    yield np.stack([first[begin[ends]], second[ends]], axis=1)
    if longest == 2:
        return
    last = graph.edges_to(target)
    counts = np.bincount(graph.head[last], minlength=graph.node_count)
    starts = np.cumsum(counts) - counts
    last = last[np.argsort(graph.head[last], kind="stable")]
    go_on = (after != source) & ~ends & (counts[after] > 0)
    begin, second, after = begin[go_on], second[go_on], after[go_on]
    third = last[ranges(starts[after], starts[after] + counts[after])]
    row = np.repeat(np.arange(len(second)), counts[after])
    yield np.stack([first[begin[row]], second[row], third], axis=1)


def simple_paths_reference(
    graph: WeightedGraph, source: int, target: int, longest: int
) -> Iterator[tuple[int, ...]]:
    """Every simple path as edge numbers, by depth-first search: the slow, obvious oracle of the tests."""

    def walk(node: int, visited: frozenset[int], edges: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for edge in range(int(graph.offsets[node]), int(graph.offsets[node + 1])):
            end = int(graph.tail[edge])
            if end == target:
                yield (*edges, edge)
            elif end not in visited and len(edges) + 1 < longest:
                yield from walk(end, visited | {end}, (*edges, edge))

    if source != target:
        yield from walk(source, frozenset([source]), ())


def path_sums_reference(graph: WeightedGraph, source: int, longest: int) -> NDArray[np.float64]:
    """[V]: the sum over `simple_paths_reference`. Exponential cost."""
    result = np.zeros(graph.node_count)
    for target in range(graph.node_count):
        for edges in simple_paths_reference(graph, source, target, longest):
            result[target] += np.prod(graph.gamma[list(edges)])
    return result
