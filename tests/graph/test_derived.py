"""Derived relations find what was planted, are never negative, and the two ways to solve agree."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import slipstream.graph.derived as derived
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.graph.derived import NextSettings, SimilarSettings, gap_weights, next_edges, similar_edges


def snapshot(histories: list[list[str]]) -> Snapshot:
    rows = [(f"u{u:03d}", item, t) for u, history in enumerate(histories) for t, item in enumerate(history)]
    schema = {"user_id": pl.String, "item_id": pl.String, "time_us": pl.Int64}
    return snapshot_of(pl.DataFrame(rows, schema=schema, orient="row"))


def chains(users: int = 60, length: int = 6, items: int = 12) -> Snapshot:
    """Everybody walks i0, i1, i2, ... from a place of their own: what comes next is known."""
    return snapshot([[f"i{(u + step) % items:02d}" for step in range(length)] for u in range(users)])


def random_world(seed: int = 0) -> Snapshot:
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, 4, 80)
    return snapshot(
        [[f"i{5 * t + i:02d}" for i in rng.permutation(5)[:4]] + [f"i{rng.integers(20):02d}"] for t in taste]
    )


def test_next_points_forward_and_the_nearest_is_the_strongest() -> None:
    edges = next_edges(chains(), NextSettings(past=1.0, future=0.5, ridge=1.0)).matrix.toarray()
    for item in range(12):
        assert edges[item].argmax() == (item + 1) % 12
        assert edges[item, (item - 1) % 12] < 0.01 * edges[item, (item + 1) % 12]


def test_similar_to_stays_inside_a_taste() -> None:
    edges = similar_edges(random_world(), SimilarSettings(ridge=5.0)).matrix.toarray()
    for item in range(20):
        assert edges[item].argmax() // 5 == item // 5


@pytest.mark.parametrize("seed", range(3))
def test_edges_are_positive_bounded_and_without_a_diagonal(seed: int) -> None:
    world = random_world(seed)
    for edges in (
        similar_edges(world, SimilarSettings(ridge=2.0, keep=3)),
        next_edges(world, NextSettings(ridge=2.0, keep=3)),
    ):
        assert (edges.matrix.data > 0).all()
        assert not edges.matrix.diagonal().any()
        assert np.diff(edges.matrix.indptr).max() <= 3


@pytest.mark.parametrize("dense_items", [0, 6_000])
def test_a_cap_on_edges_tells_what_it_costs(monkeypatch: pytest.MonkeyPatch, dense_items: int) -> None:
    monkeypatch.setattr(derived, "DENSE_ITEMS", dense_items)
    world = random_world(2)
    for draw, settings in ((similar_edges, SimilarSettings), (next_edges, NextSettings)):
        whole, capped = (draw(world, settings(ridge=2.0, keep=keep)) for keep in (20, 3))
        assert whole.lost == pytest.approx(0.0, abs=1e-6)
        assert capped.lost == pytest.approx(1 - capped.matrix.sum() / whole.matrix.sum(), abs=1e-6)
        assert 0.05 < capped.lost < 1


def test_solving_item_by_item_equals_solving_whole_when_nothing_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    world = snapshot([[f"i{i:02d}" for i in rng.permutation(20)[:12]] for _ in range(80)])  # all pairs occur
    similar, follow = SimilarSettings(ridge=3.0), NextSettings(ridge=3.0)
    whole = similar_edges(world, similar).matrix.toarray()
    monkeypatch.setattr(derived, "DENSE_ITEMS", 0)
    np.testing.assert_allclose(similar_edges(world, similar).matrix.toarray(), whole, rtol=1e-3, atol=1e-5)
    by_item = next_edges(world, follow).matrix.toarray()
    assert np.isfinite(by_item).all()
    assert (by_item >= 0).all()


def test_gap_weights_are_the_sums_over_moments_they_stand_for() -> None:
    settings = NextSettings(past=2.0, future=3.0)
    a, b = np.exp(-1 / 2.0), np.exp(-1 / 3.0)
    past, future = gap_weights(settings, 5)
    for gap in range(6):
        assert past[gap] == pytest.approx(sum(a**m * a ** (m + gap) for m in range(400)))
        assert future[gap] == pytest.approx(sum(a**m * b ** (gap - 1 - m) for m in range(gap)))
    same = gap_weights(NextSettings(past=2.0, future=2.0), 3)[1]
    assert same[3] == pytest.approx(3 * a**2)


def test_moments_equal_the_slow_obvious_ones() -> None:
    world = random_world(2)
    settings = NextSettings(past=1.5, future=1.0)
    moments = derived._moments(world, settings, lambda *_: None)
    past, future = gap_weights(settings, derived.reach_of(settings, world.event_count))
    slow_past, slow_future = np.zeros((2, world.item_count, world.item_count))
    for user in range(world.user_count):
        history = world.history(user)
        for first in range(len(history)):
            for second in range(first + 1, len(history)):
                a, b, gap = history[first], history[second], second - first
                if a != b:
                    slow_past[a, b] += past[gap]
                    slow_past[b, a] += past[gap]
                slow_future[a, b] += future[gap]
    np.testing.assert_allclose(np.asarray(moments.past), slow_past, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(moments.future), slow_future, rtol=1e-5)


def test_the_reach_shrinks_so_that_pairs_stay_bounded() -> None:
    settings = NextSettings(past=10.0, future=10.0, most_pairs=1_000)
    assert derived.reach_of(settings, 10) == 40
    assert derived.reach_of(settings, 100) == 10
    assert derived.reach_of(settings, 10_000) == 3


def test_small_worlds_do_not_break() -> None:
    one = snapshot([["a"]])
    assert similar_edges(one, SimilarSettings()).matrix.nnz == 0
    assert next_edges(one, NextSettings()).matrix.nnz == 0
    repeated = snapshot([["a", "a", "b", "a"]])
    assert not next_edges(repeated, NextSettings()).matrix.diagonal().any()
