"""Sums over simple paths are exact: equal to depth-first search, to NetworkX, and to a case by hand."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import BadInput, UsageError
from slipstream.graph.path_sums import PathSums
from slipstream.graph.paths import best_paths, path_sums_reference, simple_paths_reference
from slipstream.graph.weighted_graph import WeightedGraph

NODES = 7
edges = st.lists(
    st.tuples(
        st.integers(0, NODES - 1),
        st.integers(0, 2),
        st.integers(0, NODES - 1),
        st.floats(0.01, 3, allow_nan=False),
    ).filter(lambda e: e[0] != e[2]),
    max_size=30,
)


def graph_of(rows: list[tuple[int, int, int, float]], nodes: int = NODES) -> WeightedGraph:
    distinct = {(h, r, t): g for h, r, t, g in rows}
    head, relation, tail = (np.array([k[c] for k in distinct], np.int64) for c in range(3))
    return WeightedGraph.of(head, relation, tail, np.array(list(distinct.values()), float), nodes)


@settings(max_examples=80, deadline=None)
@given(edges, st.integers(1, 5))
def test_sums_equal_depth_first_search_on_random_typed_multigraphs(
    rows: list[tuple[int, int, int, float]], longest: int
) -> None:
    graph = graph_of(rows)
    sums = PathSums(graph).of(np.arange(NODES), longest)
    for source in range(NODES):
        np.testing.assert_allclose(
            sums[source], path_sums_reference(graph, source, longest), rtol=1e-9, atol=1e-300
        )


@settings(max_examples=40, deadline=None)
@given(edges, st.integers(3, 5))
def test_with_gamma_one_sums_are_networkx_path_counts(
    rows: list[tuple[int, int, int, float]], longest: int
) -> None:
    graph = graph_of([(h, r, t, 1.0) for h, r, t, _ in rows])
    outside = networkx.MultiDiGraph()
    outside.add_nodes_from(range(NODES))
    for head, relation, tail in zip(graph.head, graph.relation, graph.tail, strict=True):
        outside.add_edge(int(head), int(tail), key=int(relation))
    counts = PathSums(graph).of(np.arange(NODES), longest)
    for source in range(NODES):
        for target in range(NODES):
            if source != target:
                found = networkx.all_simple_paths(outside, source, target, cutoff=longest)
                assert counts[source, target] == sum(1 for _ in found)


@settings(max_examples=50, deadline=None)
@given(edges, st.integers(1, 5), st.integers(1, 8))
def test_best_paths_are_the_best_of_all(
    rows: list[tuple[int, int, int, float]], longest: int, limit: int
) -> None:
    graph = graph_of(rows)
    for target in range(1, NODES):
        every = [
            (-float(np.prod(graph.gamma[list(e)])), len(e), e)
            for e in simple_paths_reference(graph, 0, target, longest)
        ]
        assert [p.edges for p in best_paths(graph, 0, target, limit, longest)] == [
            e for _, _, e in sorted(every)[:limit]
        ]


def test_a_case_by_hand() -> None:
    # u likes e1 (0.8), which is similar to i (0.5); u likes e2 (0.4), from where two relations lead to i
    graph = graph_of([(0, 0, 1, 0.8), (1, 1, 3, 0.5), (0, 0, 2, 0.4), (2, 1, 3, 0.5), (2, 2, 3, 0.25)], 4)
    assert [p.score for p in best_paths(graph, 0, 3, 2)] == pytest.approx([0.4, 0.2])
    assert PathSums(graph).of(np.array([0]))[0].tolist() == pytest.approx([0.0, 0.8, 0.4, 0.7])


def random_graph(seed: int, nodes: int, edges: int) -> WeightedGraph:
    rng = np.random.default_rng(seed)
    ends, kinds, gammas = rng.integers(0, nodes, (edges, 2)), rng.integers(0, 4, edges), rng.random(edges)
    rows = zip(ends.tolist(), kinds.tolist(), gammas.tolist(), strict=True)
    return graph_of([(a, r, b, g) for (a, b), r, g in rows if a != b], nodes)


def test_a_batch_equals_one_by_one_and_a_graph_passed_through_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = random_graph(3, 90, 700)
    sums = PathSums(graph)
    bulk = sums.of(np.arange(90), 3, slice(10, 60))
    assert sums._made is not None
    together = sums.of(np.arange(90), 5)
    monkeypatch.setattr("slipstream.graph.path_sums._WALKS_HELD", 100)
    alone = PathSums(graph)
    for source in range(0, 90, 4):
        np.testing.assert_allclose(together[source], alone.of(np.array([source]), 5)[0], rtol=1e-9)
        np.testing.assert_allclose(bulk[source], alone.of(np.array([source]), 3)[0, 10:60], rtol=1e-9)


def test_ties_are_broken_the_same_way_every_time() -> None:
    graph = graph_of([(0, 0, m, 1.0) for m in range(1, 6)] + [(m, 0, 6, 1.0) for m in range(1, 6)])
    first = best_paths(graph, 0, 6, 3)
    assert [graph.tail[p.edges[0]] for p in first] == [1, 2, 3]


def test_paths_of_no_weight_are_no_reasons() -> None:
    graph = graph_of([(0, 0, 1, 0.0), (1, 0, 2, 1.0)], 3)
    assert best_paths(graph, 0, 2, 5) == []


def test_a_hub_of_a_hundred_thousand_edges_is_not_cut() -> None:
    leaves = 100_000
    head = np.concatenate([np.zeros(1, np.int64), np.ones(leaves, np.int64)])
    tail = np.concatenate([np.ones(1, np.int64), np.arange(2, leaves + 2)])
    graph = WeightedGraph.of(head, np.zeros(leaves + 1, int), tail, np.full(leaves + 1, 0.5), leaves + 2)
    assert PathSums(graph).of(np.array([0])).sum() == pytest.approx(0.5 + leaves * 0.25)


def test_wrong_graphs_and_lengths_are_refused() -> None:
    one = np.array([0])
    with pytest.raises(BadInput, match="self-loops"):
        WeightedGraph.of(one, one, one, np.array([1.0]), 1)
    with pytest.raises(BadInput, match=">= 0"):
        WeightedGraph.of(one, one, np.array([1]), np.array([-1.0]), 2)
    with pytest.raises(UsageError, match="1 to 5 hops"):
        PathSums(graph_of([(0, 0, 1, 1.0)])).of(one, longest=6)
