"""Sums over simple paths are exact: equal to depth-first search, to NetworkX, and to a case by hand."""

from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import BadInput, UsageError
from slipstream.graph.paths import (
    WeightedGraph,
    best_paths,
    path_sums,
    path_sums_reference,
    simple_paths_reference,
)

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


@settings(max_examples=150, deadline=None)
@given(edges, st.integers(1, 3))
def test_sums_equal_depth_first_search_on_random_typed_multigraphs(
    rows: list[tuple[int, int, int, float]], longest: int
) -> None:
    graph = graph_of(rows)
    sums = path_sums(graph, np.arange(NODES), longest)
    for source in range(NODES):
        np.testing.assert_allclose(
            sums[source], path_sums_reference(graph, source, longest), rtol=1e-9, atol=1e-12
        )


@settings(max_examples=60, deadline=None)
@given(edges)
def test_with_gamma_one_sums_are_networkx_path_counts(rows: list[tuple[int, int, int, float]]) -> None:
    graph = graph_of([(h, r, t, 1.0) for h, r, t, _ in rows])
    outside = networkx.MultiDiGraph()
    outside.add_nodes_from(range(NODES))
    for head, relation, tail in zip(graph.head, graph.relation, graph.tail, strict=True):
        outside.add_edge(int(head), int(tail), key=int(relation))
    counts = path_sums(graph, np.arange(NODES))
    for source in range(NODES):
        for target in range(NODES):
            if source != target:
                found = networkx.all_simple_paths(outside, source, target, cutoff=3)
                assert round(counts[source, target]) == sum(1 for _ in found)


@settings(max_examples=100, deadline=None)
@given(edges, st.integers(1, 3), st.integers(1, 8))
def test_best_paths_are_the_best_of_all_and_their_sum_is_exact(
    rows: list[tuple[int, int, int, float]], longest: int, limit: int
) -> None:
    graph = graph_of(rows)
    for target in range(1, NODES):
        paths, total = best_paths(graph, 0, target, limit, longest)
        every = [
            (-float(np.prod(graph.gamma[list(e)])), len(e), e)
            for e in simple_paths_reference(graph, 0, target, longest)
        ]
        assert [p.edges for p in paths] == [e for _, _, e in sorted(every)[:limit]]
        assert total == pytest.approx(-sum(s for s, _, _ in every), rel=1e-9)
        assert total == pytest.approx(path_sums(graph, np.array([0]), longest)[0, target], rel=1e-9)


def test_a_case_by_hand() -> None:
    # u likes e1 (0.8), which is similar to i (0.5); u likes e2 (0.4), from where two relations lead to i
    graph = graph_of([(0, 0, 1, 0.8), (1, 1, 3, 0.5), (0, 0, 2, 0.4), (2, 1, 3, 0.5), (2, 2, 3, 0.25)], 4)
    paths, total = best_paths(graph, 0, 3, 2)
    assert total == pytest.approx(0.8 * 0.5 + 0.4 * 0.5 + 0.4 * 0.25)
    assert [p.score for p in paths] == pytest.approx([0.4, 0.2])
    assert path_sums(graph, np.array([0]))[0].tolist() == pytest.approx([0.0, 0.8, 0.4, 0.7])


def test_a_batch_equals_one_by_one() -> None:
    rng = np.random.default_rng(3)
    ends, kinds, gammas = rng.integers(0, 50, (400, 2)), rng.integers(0, 4, 400), rng.random(400)
    rows = [
        (int(a), int(r), int(b), float(g)) for (a, b), r, g in zip(ends, kinds, gammas, strict=True) if a != b
    ]
    graph = graph_of(rows, 50)
    together = path_sums(graph, np.arange(50))
    for source in range(50):
        np.testing.assert_array_equal(together[source], path_sums(graph, np.array([source]))[0])


def test_ties_are_broken_the_same_way_every_time() -> None:
    graph = graph_of([(0, 0, m, 1.0) for m in range(1, 6)] + [(m, 0, 6, 1.0) for m in range(1, 6)])
    first, _ = best_paths(graph, 0, 6, 3)
    assert [graph.tail[p.edges[0]] for p in first] == [1, 2, 3]


def test_paths_of_no_weight_are_no_reasons() -> None:
    graph = graph_of([(0, 0, 1, 0.0), (1, 0, 2, 1.0)], 3)
    assert best_paths(graph, 0, 2, 5) == ([], 0.0)


def test_a_hub_of_a_hundred_thousand_edges_is_not_cut() -> None:
    leaves = 100_000
    head = np.concatenate([np.zeros(1, np.int64), np.ones(leaves, np.int64)])
    tail = np.concatenate([np.ones(1, np.int64), np.arange(2, leaves + 2)])
    graph = WeightedGraph.of(head, np.zeros(leaves + 1, int), tail, np.full(leaves + 1, 0.5), leaves + 2)
    assert path_sums(graph, np.array([0])).sum() == pytest.approx(0.5 + leaves * 0.25)


def test_wrong_graphs_and_lengths_are_refused() -> None:
    one = np.array([0])
    with pytest.raises(BadInput, match="self-loops"):
        WeightedGraph.of(one, one, one, np.array([1.0]), 1)
    with pytest.raises(BadInput, match=">= 0"):
        WeightedGraph.of(one, one, np.array([1]), np.array([-1.0]), 2)
    with pytest.raises(UsageError, match="1 to 3 hops"):
        path_sums(graph_of([(0, 0, 1, 1.0)]), one, longest=4)
