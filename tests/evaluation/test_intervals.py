"""Intervals: they cover what they must, pair what belongs together, and say the same twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import UsageError
from slipstream.evaluation.intervals import (
    bootstrap_interval,
    bootstrap_intervals,
    paired_interval,
    resampled_means,
)


def test_it_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    got = bootstrap_interval(values, resamples=4000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_it_covers_the_truth_about_95_times_in_100() -> None:
    worlds = np.random.default_rng(2).random((400, 60)) < 0.3
    covered = 0
    for seed, world in enumerate(worlds):
        got = bootstrap_interval(world.astype(float), resamples=1000, seed=seed)
        covered += got.low <= 0.3 <= got.high
    assert 360 <= covered <= 396  # 0.95 within 3.4 standard errors, a little below for 60 users


def test_the_weights_are_whole_draws_of_all_users() -> None:
    means = resampled_means(np.eye(5), resamples=200, seed=0) * 5
    np.testing.assert_allclose(means.sum(axis=1), 5)
    np.testing.assert_allclose(means, np.round(means))
    assert means.std() > 0


def test_every_user_is_drawn_as_often_as_any_other() -> None:
    draws = resampled_means(np.eye(4), resamples=4000, seed=1).mean(axis=0)
    np.testing.assert_allclose(draws, 0.25, atol=0.02)


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((50, 2))
    whole = resampled_means(values, resamples=64, seed=5)
    monkeypatch.setattr("slipstream.evaluation.intervals._CHUNK_CELLS", 150)
    np.testing.assert_allclose(resampled_means(values, resamples=64, seed=5), whole)


def test_same_seed_same_interval_and_columns_share_their_draws() -> None:
    values = np.random.default_rng(4).random(80)
    first = bootstrap_intervals({"a": values, "b": values * 2}, seed=7)
    assert first == bootstrap_intervals({"a": values, "b": values * 2}, seed=7)
    assert first["b"].low == pytest.approx(2 * first["a"].low)
    assert first["a"] != bootstrap_intervals({"a": values}, seed=8)["a"]


def test_pairing_sees_a_small_difference_that_separate_intervals_hide() -> None:
    random = np.random.default_rng(6)
    hard = random.random(500)
    a, b = hard + 0.01 + random.normal(0, 0.02, 500), hard
    paired = paired_interval(a, b)
    assert paired.excludes_zero
    assert paired.low > 0
    assert bootstrap_interval(a).low < bootstrap_interval(b).high
    swapped = paired_interval(b, a)
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bounds_stay_within_the_values(values: list[float]) -> None:
    got = bootstrap_interval(np.array(values), resamples=50)
    assert min(values) - 1e-12 <= got.low <= got.high <= max(values) + 1e-12


def test_no_difference_does_not_exclude_zero() -> None:
    same = np.random.default_rng(9).random(30)
    got = paired_interval(same, same)
    assert (got.mean, got.low, got.high) == (0, 0, 0)
    assert not got.excludes_zero


def test_users_without_a_value_are_left_out() -> None:
    values = np.array([1.0, 2.0, 3.0, math.nan])
    got = bootstrap_interval(values)
    assert got.mean == 2
    assert 1 <= got.low < 2 < got.high <= 3
    assert math.isnan(bootstrap_interval(np.array([math.nan])).mean)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one user"):
        bootstrap_interval(np.array([]))
    with pytest.raises(UsageError, match="same users, got 2 and 3"):
        paired_interval(np.zeros(2), np.zeros(3))
    with pytest.raises(UsageError, match="between 0 and 1, got 95"):
        bootstrap_interval(np.zeros(2), level=95)
    assert bootstrap_intervals({}) == {}
