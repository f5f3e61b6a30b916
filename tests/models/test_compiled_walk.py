"""The kernel that walks says what NumPy says, on graphs of every shape; wrong buffers are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.kernels import built, kernel
from slipstream.models.path_reasoning.attention import Starts
from slipstream.models.path_reasoning.compiled import WALK, CompiledLegs, compiled_legs
from slipstream.models.path_reasoning.frontier import Frontier
from slipstream.models.path_reasoning.groups import best_groups
from slipstream.models.path_reasoning.legs import EdgeLeg, FacetLeg
from slipstream.models.path_reasoning.search import best_paths

COMPILED = built(WALK)
LEVELS: tuple[str, ...] = () if COMPILED is None else COMPILED.levels()
pytestmark = pytest.mark.skipif(not LEVELS, reason="the kernels are not built here")
Legs = list[EdgeLeg | FacetLeg]


def hops(random: np.random.Generator, shape: tuple[int, int], density: float, coarse: bool) -> sp.csr_matrix:
    """coarse: few different gammas, so that many paths tie."""
    gamma = random.integers(1, 4, shape) / 4 if coarse else random.random(shape)
    return sp.csr_matrix(gamma * (random.random(shape) < density))


def legs_of(random: np.random.Generator, items: int, facets: int, density: float, coarse: bool) -> Legs:
    """Two relations straight to items, one over entities, one from the attributes of people."""
    legs: Legs = []
    for name in ("next", "similar_to"):
        matrix = hops(random, (items, items), density, coarse).tolil()
        matrix.setdiag(0)
        legs.append(EdgeLeg(name, sp.csr_matrix(matrix), 0.0))
    relation = np.sort(random.integers(0, 3, facets)).astype(np.int32)
    legs.append(
        FacetLeg(
            hops(random, (items, facets), density, coarse),
            hops(random, (facets, items), density, coarse),
            ("a", "b", "c"),
            relation,
            random.random(facets) < 0.5,
            np.arange(facets, dtype=np.int32),
            0.0,
        )
    )
    legs.append(EdgeLeg("prefers", hops(random, (7, items), density, coarse), 0.0))
    return [legs[n] for n in np.sort(random.permutation(4)[: random.integers(1, 5)])]


def rows_of(leg: EdgeLeg | FacetLeg) -> int:
    return int(leg.matrix.shape[0] if isinstance(leg, EdgeLeg) else leg.out.shape[0])


def starts_for(random: np.random.Generator, leg: EdgeLeg | FacetLeg, coarse: bool) -> Starts:
    rows = rows_of(leg)
    node = np.flatnonzero(random.random(rows) < random.choice([0.0, 0.1, 0.5, 1.0]))
    weight = np.full(len(node), 0.5) if coarse else random.random(len(node))
    return Starts(node, weight)


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 25), st.booleans())
def test_sums_paths_and_groups_are_those_of_numpy(seed: int, items: int, facets: int, coarse: bool) -> None:
    random = np.random.default_rng(seed)
    legs = legs_of(random, items, facets, float(random.choice([0.02, 0.2, 0.7])), coarse)
    compiled = compiled_legs(legs, items)
    for limit in (1, 3, 1_000):  # one kernel for all: it leaves nothing behind
        walked = [(leg, starts_for(random, leg, coarse)) for leg in legs]
        here, there = Frontier(walked, items), Frontier(walked, items, compiled)
        np.testing.assert_allclose(there.sums, here.sums, rtol=1e-12)
        some = np.flatnonzero(random.random(items) < random.choice([0.1, 1.0]))
        plain, fast = best_paths(here, some, limit), best_paths(there, some, limit)
        for name, column in vars(plain).items():
            np.testing.assert_allclose(getattr(fast, name), column, rtol=1e-12, err_msg=name)
        assert fast.rows() == plain.rows()
        expected, got = best_groups(here, some, limit), best_groups(there, some, limit)
        assert [[g.rows for g in groups] for groups in got] == [
            [g.rows for g in groups] for groups in expected
        ]
        numbers = [[(g.share, g.whole) for groups in found for g in groups] for found in (got, expected)]
        np.testing.assert_allclose(*numbers, rtol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 25), st.integers(0, 20))
def test_people_side_by_side_score_as_each_alone(
    level: str, seed: int, items: int, facets: int, people: int
) -> None:
    random = np.random.default_rng(seed)
    legs = legs_of(random, items, facets, float(random.choice([0.02, 0.2, 0.7])), False)
    compiled = compiled_legs(legs, items, level)
    assert compiled is not None
    each = [[starts_for(random, leg, False) for leg in legs] for _ in range(people)]
    dense = [np.zeros((people, rows_of(leg))) for leg in legs]
    for person, starts in enumerate(each):
        for matrix, own in zip(dense, starts, strict=True):
            matrix[person, own.node] = own.weight
    scores = compiled.scores([sp.csr_matrix(matrix) for matrix in dense])
    assert scores.shape == (people, items)
    for row, starts in zip(scores, each, strict=True):
        alone = Frontier(list(zip(legs, starts, strict=True)), items).sums
        np.testing.assert_allclose(row, np.where(alone > 0, alone, np.nan), rtol=1e-6)


def test_wrong_buffers_are_refused() -> None:
    found = kernel(WALK)
    assert found is not None
    random = np.random.default_rng(0)
    edge = EdgeLeg("next", hops(random, (4, 4), 1.0, False), 0.0)
    offsets, columns, gammas = (
        edge.matrix.indptr.astype(np.int64),
        edge.matrix.indices.astype(np.int32),
        edge.matrix.data,
    )
    good = (offsets, columns, gammas, edge.tells)
    opened = found.module.open(4, 0, (good,))
    bad_legs: list[Any] = [
        (offsets, columns + 1, gammas, edge.tells),
        (offsets, columns - 1, gammas, edge.tells),
        (offsets[::-1].copy(), columns, gammas, edge.tells),
        (offsets + 1, columns, gammas, edge.tells),
        (offsets.astype(np.int32), columns, gammas, edge.tells),
        (offsets[:0], columns, gammas, edge.tells),
        (offsets, columns, gammas[:-1], edge.tells),
        (offsets, columns, gammas, edge.tells[:-1]),
        (offsets, columns, gammas),
    ]
    for bad in bad_legs:
        with pytest.raises((ValueError, BufferError)):
            found.module.open(4, 0, (bad,))
    starts = (np.array([0, 1]), np.array([3]), np.ones(1))
    items, out = np.array([0, 2]), np.empty(4)
    assert len(found.module.paths(opened, (starts,), items, 3)) == 2
    for wrong in (
        (np.array([0, 1]), np.array([4]), np.ones(1)),
        (np.array([0, 1]), np.array([-1]), np.ones(1)),
        (np.array([0, 2]), np.array([3]), np.ones(1)),
        (np.array([0, 1]), np.array([3]), np.ones(2)),
        (np.array([0, 1], np.int32), np.array([3]), np.ones(1)),
    ):
        with pytest.raises(ValueError, match="must"):
            found.module.sums(opened, (wrong,), out)
        with pytest.raises(ValueError, match="must"):
            found.module.groups(opened, (wrong,), items, 3, 0.25, 4)
    for wrong_items in (np.array([0, 4]), np.array([-1]), np.array([2, 2]), np.array([0, 2], np.int32)):
        with pytest.raises(ValueError, match="items"):
            found.module.paths(opened, (starts,), wrong_items, 3)
    for call in (
        lambda: found.module.sums(opened, (), out),
        lambda: found.module.sums(opened, (starts,), out[:3].copy()),
        lambda: found.module.paths(opened, (starts,), items, 0),
        lambda: found.module.scores(opened, 17, 1, (starts,), np.empty((1, 4), np.float32)),
        lambda: found.module.scores(opened, 0, 2, (starts,), np.empty((2, 4), np.float32)),
        lambda: found.module.scores(opened, 0, -1, (starts,), np.empty((0, 4), np.float32)),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            call()


def test_two_legs_over_entities_are_refused() -> None:
    random = np.random.default_rng(0)
    legs = legs_of(random, 5, 3, 0.7, False)
    while not any(isinstance(leg, FacetLeg) for leg in legs):
        legs = legs_of(random, 5, 3, 0.7, False)
    facet = next(leg for leg in legs if isinstance(leg, FacetLeg))
    found = kernel(WALK)
    assert found is not None
    with pytest.raises(ValueError, match="at most one"):
        CompiledLegs([facet, replace(facet, memory=1.0)], 5, found)


def test_numpy_is_used_where_the_kernel_is_not_wanted() -> None:
    edge = EdgeLeg("next", sp.csr_matrix((3, 3)), 0.0)
    assert compiled_legs([edge], 3, "numpy") is None
    assert compiled_legs([], 3) is None
