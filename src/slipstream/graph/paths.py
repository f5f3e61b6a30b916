"""The best simple paths between two nodes of a weighted graph, by best-first search.

A backward pass from the target finds, for every node and every number of hops left, the best product of
gammas over walks to the target. As a bound it never says too little, so paths come out in descending order
when the most promising beginning is always continued first (A*, Hart, Nilsson and Raphael 1968, on products).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.graph.path_sums import check_length
from slipstream.graph.weighted_graph import WeightedGraph, ranges

_SLACK = 1 + 1e-12  # products in another order differ in the last digits


@dataclass(frozen=True)
class Path:
    """Edge numbers of the graph, in walking order, and the product of their gammas."""

    edges: tuple[int, ...]
    score: float


def best_paths(graph: WeightedGraph, source: int, target: int, limit: int, longest: int = 3) -> list[Path]:
    """The `limit` best simple paths of at most `longest` (1 to 5) hops.

    In descending score, ties by fewer hops, then by edge numbers. Paths of score 0 are no reason and do not
    appear. Cost: O(edges that lead to the target within `longest` - 1 hops), then some `limit` x `longest`
    times the degree of a node, more where many good walks are no paths.
    """
    check_length(longest)
    if source == target or limit < 1:
        return []
    hopes = _hopes(graph, source, target, longest)
    found: list[Path] = []
    floor = _Floor(limit)
    waiting: list[tuple[float, tuple[int, ...], tuple[int, ...], float]] = [
        (-float(hopes[-1][source]), (), (source,), 1.0)
    ]
    while waiting:
        bound, edges, nodes, score = heapq.heappop(waiting)
        if -bound * _SLACK < floor.value or not bound:
            break
        left = longest - len(edges) - 1
        for edge, node, product in _onward(graph, hopes[left], nodes, score, floor.value):
            if node == target:
                found.append(Path((*edges, edge), product))
                floor.add(product)
            else:
                promise = product * float(hopes[left][node])
                heapq.heappush(waiting, (-promise, (*edges, edge), (*nodes, node), product))
    found.sort(key=lambda p: (-p.score, len(p.edges), p.edges))
    return found[:limit]


class _Floor:
    """The score that a path must reach to be among the best `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: list[float] = []

    def add(self, score: float) -> None:
        if len(self.kept) < self.limit:
            heapq.heappush(self.kept, score)
        else:
            heapq.heappushpop(self.kept, score)

    @property
    def value(self) -> float:
        return self.kept[0] if len(self.kept) == self.limit else 0.0


def _hopes(graph: WeightedGraph, source: int, target: int, longest: int) -> list[NDArray[np.float64]]:
    """[longest + 1][V]: the best product of gammas to the target in at most so many hops.

    Nothing leads on from `source`.
    """
    hope = np.zeros(graph.node_count)
    hope[target] = 1.0
    hopes = [hope]
    fresh = np.array([target])
    for _ in range(longest):
        edges = graph.by_tail[ranges(graph.tail_offsets[fresh], graph.tail_offsets[fresh + 1])]
        before, hope = hope, hope.copy()
        np.maximum.at(hope, graph.head[edges], graph.gamma[edges] * before[graph.tail[edges]])
        hope[target] = 1.0
        fresh = np.flatnonzero(hope > before)
        fresh = fresh[fresh != source]
        hopes.append(hope)
    return hopes


def _onward(
    graph: WeightedGraph, hope: NDArray[np.float64], nodes: tuple[int, ...], score: float, floor: float
) -> Iterator[tuple[int, int, float]]:
    """(edge, node, product so far) of the ways on from the last node that can still reach the floor."""
    edges = slice(int(graph.offsets[nodes[-1]]), int(graph.offsets[nodes[-1] + 1]))
    product = score * graph.gamma[edges]
    promise = product * hope[graph.tail[edges]]
    for place in np.flatnonzero((promise > 0) & (promise * _SLACK >= floor)).tolist():
        node = int(graph.tail[edges.start + place])
        if node not in nodes:
            yield edges.start + place, node, float(product[place])


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
