"""One search for many items finds what looking at every path finds, on random little graphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.queries import query_of
from slipstream.models.path_reasoning.attention import Starts, attention, starts_of
from slipstream.models.path_reasoning.frontier import Frontier
from slipstream.models.path_reasoning.groups import MOST_NAMED, NAMED_FROM, best_groups
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg
from slipstream.models.path_reasoning.search import Found, best_paths

ITEMS, FACETS = 6, 5
WEIGHTS = [0.0, 0.25, 0.5, 1.0]  # few values: ties are everywhere
Row = tuple[float, int, int, int, int]
"""(-score, leg, start, facet, kind)"""


def matrix(cells: list[float], shape: tuple[int, int]) -> sp.csr_matrix:
    return sp.csr_matrix(np.array(cells).reshape(shape))


weights = st.sampled_from(WEIGHTS)
straight = st.lists(weights, min_size=ITEMS**2, max_size=ITEMS**2)
facets = st.lists(weights, min_size=ITEMS * FACETS, max_size=ITEMS * FACETS)
histories = st.lists(st.integers(0, ITEMS - 1), max_size=6)


def legs_of(
    edges: list[float], out: list[float], back: list[float], memory: float
) -> tuple[EdgeLeg, FacetLeg]:
    between = np.array(edges).reshape(ITEMS, ITEMS)
    np.fill_diagonal(between, 0)
    facet = FacetLeg(
        matrix(out, (ITEMS, FACETS)),
        matrix(back, (FACETS, ITEMS)),
        ("made_by", "about"),
        np.array([0, 0, 0, 1, 1], np.int32),
        np.array([False, False, True, False, False]),
        np.arange(FACETS, dtype=np.int32),
        memory,
    )
    return EdgeLeg("next", sp.csr_matrix(between), 0.0), facet


def every_path(edge: EdgeLeg, facet: FacetLeg, starts: list[Starts], item: int) -> Iterator[Row]:
    near, out, back = edge.matrix.toarray(), facet.out.toarray(), facet.back.toarray()
    for node, weight in zip(starts[0].node.tolist(), starts[0].weight, strict=True):
        if score := weight * near[node, item]:
            yield -score, 0, node, -1, 0
    for node, weight in zip(starts[1].node.tolist(), starts[1].weight, strict=True):
        for via in range(FACETS):
            if node != item and (score := weight * out[node, via] * back[via, item]):
                kind = 1 + 2 * int(facet.facet_relation[via]) + bool(facet.facet_inverse[via])
                yield -score, 1, node, via, kind


def shown(found: Found) -> list[list[Row]]:
    rows: list[list[Row]] = [[] for _ in range(ITEMS)]
    columns = (found.place, found.score, found.leg, found.start, found.facet, found.kind)
    for place, score, leg, start, via, kind in zip(*(c.tolist() for c in columns), strict=True):
        rows[place].append((-score, leg, start, via, kind))
    gammas = found.first * found.second * found.third
    np.testing.assert_array_equal(gammas, found.score)
    return rows


worlds = st.tuples(straight, facets, facets, histories, st.sampled_from([0.0, 2.0]))


def world_of(
    edges: list[float], out: list[float], back: list[float], history: list[int], memory: float
) -> tuple[Frontier, list[list[Row]]]:
    """The frontier, and every path to each item, best first."""
    edge, facet = legs_of(edges, out, back, memory)
    starts = [starts_of(np.array(history, np.int32), ITEMS, m) for m in (0.0, memory)]
    frontier = Frontier([(edge, starts[0]), (facet, starts[1])], ITEMS)
    return frontier, [sorted(every_path(edge, facet, starts, item)) for item in range(ITEMS)]


@settings(max_examples=120, deadline=None)
@given(worlds, st.integers(1, 4))
def test_the_best_paths_are_the_best_of_all(
    world: tuple[list[float], list[float], list[float], list[int], float], limit: int
) -> None:
    frontier, every = world_of(*world)
    found = best_paths(frontier, np.arange(ITEMS), limit)
    one_by_one = [best_paths(world_of(*world)[0], np.array([item]), limit) for item in range(ITEMS)]
    assert [row for alone in one_by_one for row in shown(alone)[0]] == [
        r for rows in shown(found) for r in rows
    ]
    for item, rows in enumerate(shown(found)):
        assert rows[:limit] == every[item][:limit]
        assert found.total[item] == pytest.approx(-sum(row[0] for row in every[item]), rel=1e-12)
        assert frontier.sums[item] == pytest.approx(found.total[item], abs=1e-12)


@settings(max_examples=120, deadline=None)
@given(worlds, st.integers(1, 4))
def test_groups_add_up_and_the_best_of_each_kind_comes_first(
    world: tuple[list[float], list[float], list[float], list[int], float], limit: int
) -> None:
    frontier, every = world_of(*world)
    groups = best_groups(frontier, np.arange(ITEMS), limit)
    for item, rows in enumerate(every):
        by_group: dict[tuple[int, int], list[Row]] = {}
        for row in rows:
            by_group.setdefault((row[1], row[3]), []).append(row)
        whole = -sum(row[0] for row in rows)
        parts = {key: -sum(row[0] for row in own) for key, own in by_group.items()}
        kind = {key: own[0][4] for key, own in by_group.items()}
        got = groups[item]
        keys = [(int(g.found.leg[g.rows[0]]), int(g.found.facet[g.rows[0]])) for g in got]
        assert len(set(keys)) == len(keys) == min(limit, len(by_group))
        assert [g.share for g in got] == pytest.approx([parts[key] / whole for key in keys], rel=1e-9)
        assert [g.share for g in got] == sorted((g.share for g in got), reverse=True)
        assert len({kind[key] for key in keys}) == min(limit, len(set(kind.values())))
        for key, group in zip(keys, got, strict=True):
            scores = [-float(group.found.score[row]) for row in group.rows]
            named = [row for row in by_group[key] if row[0] <= NAMED_FROM * by_group[key][0][0]][:MOST_NAMED]
            assert scores == [row[0] for row in named]
            assert [int(group.found.start[row]) for row in group.rows] == [row[2] for row in named]
            leads = max(part for other, part in parts.items() if kind[other] == kind[key])
            first = [k for k in keys if kind[k] == kind[key]]
            assert max(parts[k] for k in first) == pytest.approx(leads)


@settings(max_examples=100, deadline=None)
@given(histories, st.sampled_from([0.0, 0.5, 3.0]))
def test_the_starts_of_one_history_are_its_row_of_the_attention(history: list[int], memory: float) -> None:
    starts = starts_of(np.array([*history, -1, 99], np.int32), ITEMS, memory)
    dense = np.zeros(ITEMS)
    dense[starts.node] = starts.weight
    np.testing.assert_allclose(dense, attention(query_of(history), ITEMS, memory).toarray()[0], rtol=1e-12)
    assert np.all(np.diff(starts.node) > 0)
