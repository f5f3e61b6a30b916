"""The exact sum over simple paths of at most five hops, for many targets at once, without listing a path.

A path p = (u, r1, e1, ..., rk, t) scores s(p) = product of gamma(rj, ej) over its hops; a pair (u, t) scores
the sum over all simple paths from u to t. Walks are counted by sparse products, and the walks that visit a
node twice are taken away again.

The source is taken out of the graph after the first hop, so with B = A without row and column u (A: gammas
of parallel edges added up) and x = A[u], a path of l hops is a walk v1 .. vl in B that starts with x and
visits l different nodes. S_l(t) = the sum over those that end at t. Going on by one hop from different nodes,
only the newest one can repeat an earlier one (not its neighbour: no self-loops):

    S1 = x        S2 = x B        S3 = S2 B - x c
    S4 = S3 B - [v4 = v1] - [v4 = v2]        S5 = S4 B - [v5 = v1] - [v5 = v2] - [v5 = v3]

A bracket is a sum over walks in which the other nodes differ; by inclusion and exclusion over set partitions
of the positions (Moebius function prod (-1)^(|b|-1) (|b|-1)!) it is, with elementwise products but for `B`:

    [v4 = v1] + [v4 = v2] = x d3 + S2 c - x K                      c, d3, d4 = diag of B^2, B^3, B^4
    [v5 = ...] = x d4 + S2 d3 + S3' c - 2 x (R B^2) - x (B B (B^2)')          R = B B', K = B B B'
                 - x (R c) - S2 K - 2 x c c + 2 x rowsum(R R),                  S3' = S2 B

Everything that depends on B is known from A by small corrections with the row and column of u, so the
products are shared by all sources. Where t is not adjacent to u, walks of up to three hops *are* the paths.

Three plans, chosen by what they cost: one source is pushed along the edges that leave what it has reached;
BLOCK sources go side by side through products with all edges; and of many sources, up to three hops, only the
first hop is walked: the other two are one dense matrix from first nodes to targets, made once.

Error: each S_l has a relative error near 1e-15 times the share of its walks that are paths, inverted; where
less than 1e-12 of them would be left, nothing is: that is rounding. Cost: L - 1 products with A per source,
O(edges); L >= 4 needs all walks of two hops once per graph (a hub of degree d has d^2; they are passed
through block by block, never held).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.errors import UsageError
from slipstream.graph.weighted_graph import WeightedGraph, ranges

LONGEST = 5
BLOCK = 64
"""Sources walked side by side: each needs some ten numbers per node."""

_ROUNDING = 1e-12
_WALKS_HELD = 20_000_000  # of two hops at a time, while they are passed through
_DENSE_CELLS = 25_000_000  # of the matrix of the bulk plan: 200 MB
_WALK_COST = 4  # of one walk in a sparse product, beside one cell of a dense row
_FEW = 0.25  # of all edges: below, only the edges that leave reached nodes are looked at

Floats = NDArray[np.float64]


class PathSums:
    """Sums over the simple paths of one graph, with what they share kept between calls."""

    def __init__(self, graph: WeightedGraph) -> None:
        self.graph = graph

        self._made: _TwoHops | None = None

    def of(self, sources: NDArray[np.integer], longest: int = 3, targets: slice = slice(None)) -> Floats:
        """[Q, T]: for each source and target the sum over simple paths of 1 to `longest` hops.

        targets: a range of nodes, all by default. 0 at the source itself. UsageError unless
        1 <= longest <= 5.
        """
        check_length(longest)
        places = range(*targets.indices(self.graph.node_count))
        if longest == 3 and (bulk := self._bulk(sources, places)) is not None:
            return bulk.of_sources(self, sources)
        result = np.empty((len(sources), len(places)))
        for first in range(0, len(sources), BLOCK):
            some = sources[first : first + BLOCK]
            result[first : first + len(some)] = self._block(some, longest)[targets].T
        return result

    def _block(self, sources: NDArray[np.integer], longest: int) -> Floats:
        """[V, Q]"""
        walk = _Walk.of(self, sources)
        total = walk.first.copy()
        for sums in walk.by_length(longest):
            total += sums
        return total

    def _bulk(self, sources: NDArray[np.integer], targets: range) -> _TwoHops | None:
        """The bulk plan, if it is there for these sources already or pays for itself."""
        if len(sources) <= BLOCK and self._made is None:
            return None
        matrix = self.graph.matrix
        begin, end = matrix.indptr[sources], matrix.indptr[sources + 1]
        reached = np.zeros(len(self.returns), bool)
        reached[matrix.indices[ranges(begin, end)]] = True
        if self._made is not None and self._made.serves(reached, targets):
            return self._made
        firsts = np.flatnonzero(reached)
        cells = len(firsts) * len(targets)
        walks = _WALK_COST * int(_added_by_row(matrix, np.diff(matrix.indptr))[firsts].sum())
        bulk = walks + cells + int((end - begin).sum()) * len(targets)
        if cells > _DENSE_CELLS or bulk > 2 * len(sources) * matrix.nnz:
            return None
        self._made = _TwoHops.of(matrix, firsts, targets)
        return self._made

    def step(self, weights: Floats) -> Floats:
        """[V, Q]: one hop further from weighted nodes. Chooses between the reached edges and all of them."""
        matrix = self.graph.matrix
        reached = np.flatnonzero(weights.any(axis=1))
        begin, end = matrix.indptr[reached], matrix.indptr[reached + 1]
        if (end - begin).sum() >= _FEW * matrix.nnz:
            return np.asarray(self.back @ weights)
        if weights.shape[1] > 1:
            return np.asarray(matrix[reached].T @ weights[reached])
        cells = ranges(begin, end)
        flow = np.repeat(weights[reached, 0], end - begin) * matrix.data[cells]
        return np.bincount(matrix.indices[cells], flow, minlength=len(weights))[:, None].astype(np.float64)

    @cached_property
    def back(self) -> sp.csr_matrix:
        """A'."""
        return sp.csr_matrix(self.graph.matrix.T)

    @cached_property
    def both_ways(self) -> sp.csr_matrix:
        """R = A A': there and back over one edge."""
        return sp.csr_matrix(self.graph.matrix.multiply(self.back))

    @cached_property
    def squares(self) -> sp.csr_matrix:
        return sp.csr_matrix(self.graph.matrix.power(2))

    @cached_property
    def thrice(self) -> sp.csr_matrix:
        """K = A A A': there, back and there again over one edge."""
        return sp.csr_matrix(self.graph.matrix.multiply(self.both_ways))

    @cached_property
    def returns(self) -> Floats:
        """[V]: diag(A^2)."""
        return _row_sums(self.both_ways)

    @cached_property
    def bounces(self) -> Floats:
        """[V]: the walks over a neighbour and a neighbour of it, back the same way: R c."""
        return np.asarray(self.both_ways @ self.returns)

    @cached_property
    def double_returns(self) -> Floats:
        """[V]: the row sums of R R: twice there and back over the same edge."""
        return _row_sums(self.both_ways.power(2))

    @cached_property
    def _two_hops(self) -> tuple[sp.csr_matrix, Floats]:
        """(A^2 where an edge leads back, [V, V]; diag(A^4) [V])."""
        matrix = self.graph.matrix
        back = self.back
        back_pattern = sp.csr_matrix((np.ones(back.nnz), back.indices, back.indptr), shape=back.shape)
        degree = np.diff(matrix.indptr)
        walks = np.maximum(_added_by_row(matrix, degree), _added_by_row(back, np.diff(back.indptr)))
        closed, around = [], np.zeros(matrix.shape[0])
        for rows in _blocks(walks):
            there = sp.csr_matrix(matrix[rows] @ matrix)
            closed.append(there.multiply(back_pattern[rows]))
            around[rows] = _row_sums(there.multiply(back[rows] @ back))
        return sp.csr_matrix(sp.vstack(closed)) if closed else back_pattern, around

    @cached_property
    def triangles(self) -> Floats:
        """[V]: diag(A^3)."""
        closed, _ = self._two_hops
        return _row_sums(self.graph.matrix.multiply(closed.T))

    @property
    def around(self) -> Floats:
        """[V]: diag(A^4)."""
        return self._two_hops[1]

    @cached_property
    def both_ways_closed(self) -> sp.csr_matrix:
        """R A^2: an edge there and back, and two hops to its end."""
        return sp.csr_matrix(self.both_ways.multiply(self._two_hops[0]))

    @cached_property
    def squares_closed(self) -> sp.csr_matrix:
        """A A (A^2)': an edge twice, and two hops back to its start."""
        return sp.csr_matrix(self.squares.multiply(self._two_hops[0].T))


@dataclass(frozen=True)
class _Walk:
    """Q sources on their way; all arrays are [V, Q]. first: x = A[u], into: A[:, u] of each source u."""

    sums: PathSums
    source: tuple[NDArray[np.integer], NDArray[np.int64]]  # where each source stands in a [V, Q]
    first: Floats
    into: Floats

    @classmethod
    def of(cls, sums: PathSums, sources: NDArray[np.integer]) -> _Walk:
        matrix = sums.graph.matrix
        first = np.ascontiguousarray(matrix[sources].toarray().T)
        into = np.ascontiguousarray(sums.back[sources].toarray().T)
        return cls(sums, (sources, np.arange(len(sources))), first, into)

    def by_length(self, longest: int) -> Iterator[Floats]:
        """S2, S3, ... up to `longest`."""
        sums, x, returns = self.sums, self.first, self.sums.returns[:, None]
        if longest < 2:
            return
        anywhere = sums.step(x)  # walks of two hops from the source, back to it too
        two = self._outside(anywhere)
        yield two
        if longest < 3:
            return
        over_source = self.into * x  # a - u - a
        back = returns - over_source  # c
        walks = self._outside(sums.step(two))
        three = self._left(walks, x * back)
        yield three
        if longest < 4:
            return
        out_of = np.asarray(sums.graph.matrix @ self.into)  # walks of two hops to the source
        triangles = sums.triangles[:, None] - self.into * anywhere - out_of * x  # d3
        again = np.asarray(sums.thrice.T @ x)  # x K
        four = self._left(sums.step(three) + again, x * triangles + two * back)
        yield four
        if longest < 5:
            return
        yield self._left(*self._fifth(anywhere, out_of, two, walks, four, back, triangles))

    def _fifth(
        self,
        anywhere: Floats,
        out_of: Floats,
        two: Floats,
        walks: Floats,
        four: Floats,
        back: Floats,
        triangles: Floats,
    ) -> tuple[Floats, Floats]:
        """(what is added, what is taken away) for S5."""
        sums, x, into = self.sums, self.first, self.into
        over_source = into * x
        home = sums.returns[self.source[0]]  # [Q]
        three_out, three_in = sums.step(anywhere), np.asarray(sums.graph.matrix @ out_of)
        around = sums.around[:, None] - into * three_out - out_of * anywhere - three_in * x
        around += over_source * home  # d4
        both = sums.both_ways
        closed = 2 * (sums.both_ways_closed.T @ x) + sums.squares_closed.T @ x
        closed_by_source = 2 * (both @ (x * into)) * x + (sums.squares.T @ (x * x)) * into
        bounces = sums.bounces[:, None] - both @ over_source - over_source * home
        doubles = sums.double_returns[:, None] - over_source**2
        added = sums.step(four) + closed + sums.thrice.T @ two + x * bounces + 2 * x * back * back
        taken = x * around + two * triangles + walks * back + closed_by_source + 2 * x * doubles
        return np.asarray(added), np.asarray(taken)

    def _outside(self, values: Floats) -> Floats:
        """The same with nothing at the sources."""
        values = values.copy()
        values[self.source] = 0.0
        return values

    def _left(self, added: Floats, taken: Floats) -> Floats:
        left = self._outside(added - taken)
        left[left <= _ROUNDING * added] = 0.0
        return left


@dataclass(frozen=True)
class _TwoHops:
    """The bulk plan: all walks of two hops from F first nodes to T targets as a dense matrix.

    S1 + S2 + S3 = x + x A + x A^2 - c(u) x - x c + x x A(t, u), read off at the targets.
    """

    row: NDArray[np.int64]  # [V] of a first node, -1: none
    targets: range
    near: sp.csr_matrix  # [V, T] A
    far: Floats  # [F, T] A + A^2

    @classmethod
    def of(cls, matrix: sp.csr_matrix, firsts: NDArray[np.int64], targets: range) -> _TwoHops:
        row = np.full(matrix.shape[0], -1)
        row[firsts] = np.arange(len(firsts))
        near = sp.csr_matrix(matrix[:, targets.start : targets.stop])
        far = np.empty((len(firsts), len(targets)))
        for start in range(0, len(firsts), BLOCK):
            some = matrix[firsts[start : start + BLOCK]]
            far[start : start + BLOCK] = (some @ near + near[firsts[start : start + BLOCK]]).toarray()
        return cls(row, targets, near, far)

    def serves(self, reached: NDArray[np.bool_], targets: range) -> bool:
        return targets == self.targets and bool((self.row[reached] >= 0).all())

    def of_sources(self, sums: PathSums, sources: NDArray[np.integer]) -> Floats:
        """[Q, T]"""
        first, place = sums.graph.matrix[sources], slice(self.targets.start, self.targets.stop)
        by_row = sp.csr_matrix(
            (first.data, self.row[first.indices], first.indptr), shape=(len(sources), len(self.far))
        )
        total = by_row @ self.far
        x = self.near[sources]
        query = np.repeat(np.arange(len(sources)), np.diff(x.indptr))
        home, returns = sums.returns[sources][query], sums.returns[place][x.indices]
        back = sp.csr_matrix(sums.back[sources][:, place])
        over_source = x.multiply(back.multiply(x))  # x x A(t, u)
        walks = total.copy()
        total[query, x.indices] += x.data * (1 - home - returns)
        total += over_source
        total = np.asarray(total)
        total[np.abs(total) <= _ROUNDING * walks] = 0.0
        inside = np.flatnonzero((sources >= place.start) & (sources < place.stop))
        total[inside, sources[inside] - place.start] = 0.0
        return total


def check_length(longest: int) -> None:
    if not 1 <= longest <= LONGEST:
        raise UsageError(f"paths have 1 to {LONGEST} hops, got {longest}")


def _row_sums(matrix: sp.csr_matrix) -> Floats:
    return np.asarray(matrix.sum(axis=1), np.float64).ravel()


def _added_by_row(matrix: sp.csr_matrix, value: NDArray[np.integer]) -> NDArray[np.int64]:
    """[rows]: the sum of `value` over the columns of each row's cells."""
    ends = np.concatenate([[0], np.cumsum(value[matrix.indices])])
    return np.asarray(np.diff(ends[matrix.indptr]))


def _blocks(walks: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of rows of at most _WALKS_HELD walks together, at least one row each."""
    ends = np.cumsum(walks)
    start = 0
    while start < len(walks):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _WALKS_HELD, side="right")))
        yield slice(start, stop)
        start = stop
