"""One search for many items finds what looking at every path finds, on random little graphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.queries import query_of
from slipstream.kernels import built
from slipstream.models.path_reasoning.attention import Starts, attention, starts_of
from slipstream.models.path_reasoning.compiled import WALK, compiled_legs
from slipstream.models.path_reasoning.frontier import Frontier
from slipstream.models.path_reasoning.groups import MOST_NAMED, NAMED_FROM, best_groups
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg
from slipstream.models.path_reasoning.search import Found, best_paths

KERNELS = ["numpy"] if built(WALK) is None else ["numpy", "auto"]
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
    choice: str, edges: list[float], out: list[float], back: list[float], history: list[int], memory: float
) -> tuple[Frontier, list[list[Row]]]:
    """The frontier, and every path to each item, best first."""
    edge, facet = legs_of(edges, out, back, memory)
    starts = [starts_of(np.array(history, np.int32), ITEMS, m) for m in (0.0, memory)]
    compiled = compiled_legs([edge, facet], ITEMS, choice)
    frontier = Frontier([(edge, starts[0]), (facet, starts[1])], ITEMS, compiled)
    return frontier, [sorted(every_path(edge, facet, starts, item)) for item in range(ITEMS)]


@pytest.mark.parametrize("choice", KERNELS)
@settings(max_examples=120, deadline=None)
@given(worlds, st.integers(1, 4))
def test_the_best_paths_are_the_best_of_all(
    choice: str, world: tuple[list[float], list[float], list[float], list[int], float], limit: int
) -> None:
    frontier, every = world_of(choice, *world)
    found = best_paths(frontier, np.arange(ITEMS), limit)
    one_by_one = [best_paths(world_of(choice, *world)[0], np.array([item]), limit) for item in range(ITEMS)]
    assert [row for alone in one_by_one for row in shown(alone)[0]] == [
        r for rows in shown(found) for r in rows
    ]
    for item, rows in enumerate(shown(found)):
        assert rows[:limit] == every[item][:limit]
        assert found.total[item] == pytest.approx(-sum(row[0] for row in every[item]), rel=1e-12)
        assert frontier.sums[item] == pytest.approx(found.total[item], abs=1e-12)


@pytest.mark.parametrize("choice", KERNELS)
@settings(max_examples=120, deadline=None)
@given(worlds, st.integers(1, 4))
def test_groups_add_up_and_the_one_of_each_kind_that_says_most_comes_first(
    choice: str, world: tuple[list[float], list[float], list[float], list[int], float], limit: int
) -> None:
    frontier, every = world_of(choice, *world)
    groups = best_groups(frontier, np.arange(ITEMS), limit)
    edge, facet = legs_of(*world[:3], world[4])
    reach = [np.diff(edge.matrix.indptr), np.diff(facet.back.indptr)]
    for item, rows in enumerate(every):
        by_group: dict[tuple[int, int], list[Row]] = {}
        for row in rows:
            by_group.setdefault((row[1], row[3]), []).append(row)
        whole = -sum(row[0] for row in rows)
        parts = {key: -sum(row[0] for row in own) for key, own in by_group.items()}
        kind = {key: own[0][4] for key, own in by_group.items()}
        says = {
            key: sum(-row[0] * np.log(ITEMS / reach[key[0]][row[3] if key[0] else row[2]]) for row in own)
            for key, own in by_group.items()
        }
        leads = {k: max(said for key, said in says.items() if kind[key] == k) for k in kind.values()}
        got = groups[item]
        keys = [(g.rows[0][0], g.rows[0][2]) for g in got]
        assert len(set(keys)) == len(keys) == min(limit, len(by_group))
        assert [g.share for g in got] == pytest.approx([parts[key] / whole for key in keys], rel=1e-9)
        assert [g.share for g in got] == sorted((g.share for g in got), reverse=True)
        assert len({kind[key] for key in keys}) == min(limit, len(set(kind.values())))
        for key, group in zip(keys, got, strict=True):
            assert group.whole == pytest.approx(whole)
            named = [row for row in by_group[key] if row[0] <= NAMED_FROM * by_group[key][0][0]][:MOST_NAMED]
            assert [(-row[7], row[0], row[1], row[2], row[3]) for row in group.rows] == named
        shown_first = {
            k: max(says[key] for key in keys if kind[key] == k) for k in {kind[key] for key in keys}
        }
        assert shown_first == pytest.approx({k: leads[k] for k in shown_first})
        if len(shown_first) < len(leads):
            assert (
                min(shown_first.values()) >= max(v for k, v in leads.items() if k not in shown_first) - 1e-12
            )


@pytest.mark.parametrize("choice", KERNELS)
def test_a_telling_fact_is_shown_before_a_wide_one_and_shares_stay_true(choice: str) -> None:
    """Item 5 shares its maker with item 0 alone and its decade with all but one; the decade carries more."""
    out, back = np.zeros((ITEMS, FACETS)), np.zeros((FACETS, ITEMS))
    maker, decade, everything = 0, 3, 4
    out[0, maker], back[maker, [0, 5]] = 0.5, 0.5
    out[:5, decade], back[decade, [0, 1, 2, 3, 5]] = 0.5, 0.5
    out[:, everything], back[everything] = 1.0, 1.0
    _, facet = legs_of([0.0] * ITEMS**2, out.ravel().tolist(), back.ravel().tolist(), 0.0)
    starts = starts_of(np.array([0, 1, 2, 3]), ITEMS, 0.0)
    frontier = Frontier([(facet, starts)], ITEMS, compiled_legs([facet], ITEMS, choice))
    parts = {maker: 0.25 * 0.25, decade: 0.25, everything: 1.0}
    whole = sum(parts.values())

    def told(limit: int) -> list[tuple[int, float]]:
        (groups,) = best_groups(frontier, np.array([5]), limit)
        return [(g.rows[0][2], g.share) for g in groups]

    assert told(1) == [(maker, pytest.approx(parts[maker] / whole))]
    # of the other kind, the decade says more than what is true of everything: that says nothing
    assert told(2) == [(decade, pytest.approx(0.25 / whole)), (maker, pytest.approx(0.0625 / whole))]
    assert [facet for facet, _ in told(3)] == [everything, decade, maker]


@settings(max_examples=100, deadline=None)
@given(histories, st.sampled_from([0.0, 0.5, 3.0]))
def test_the_starts_of_one_history_are_its_row_of_the_attention(history: list[int], memory: float) -> None:
    starts = starts_of(np.array([*history, -1, 99], np.int32), ITEMS, memory)
    dense = np.zeros(ITEMS)
    dense[starts.node] = starts.weight
    np.testing.assert_allclose(dense, attention(query_of(history), ITEMS, memory).toarray()[0], rtol=1e-12)
    assert np.all(np.diff(starts.node) > 0)
