"""Estimates over users: known variances, coverage, and looking every day without fooling oneself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slipstream.errors import UsageError
from slipstream.evaluation.estimates import (
    Estimate,
    always_valid_half,
    normal_quantile,
    ratio_estimate,
    sums_by_user,
)

RUNS, DAYS, PER_DAY, RATE = 2000, 28, 150, 0.1


def daily_looks(effect: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two click rates and their variances, [RUNS, DAYS]; new people come every day."""
    random = np.random.default_rng(seed)
    rates = [
        random.binomial(PER_DAY, rate, (RUNS, DAYS)).cumsum(axis=1) / (PER_DAY * np.arange(1, DAYS + 1))
        for rate in (RATE + effect, RATE)
    ]
    people = PER_DAY * np.arange(1, DAYS + 1)
    return rates[0] - rates[1], sum(rate * (1 - rate) / people for rate in rates)


def test_peeking_daily_raises_no_more_false_alarms_than_stated() -> None:
    difference, variance = daily_looks(0.0, seed=1)
    planned = 2 * RATE * (1 - RATE) / (PER_DAY * DAYS)
    alarms = (np.abs(difference) > always_valid_half(variance, planned)).any(axis=1).mean()
    at_the_end = (np.abs(difference) > 1.96 * np.sqrt(variance))[:, -1].mean()
    assert 0.035 < at_the_end < 0.065  # one look, and the interval for one look
    fooled = (np.abs(difference) > 1.96 * np.sqrt(variance)).any(axis=1).mean()
    assert 0.005 < alarms <= 0.05
    assert fooled > 0.2  # what an interval for one look does when it is looked at every day


def test_an_effect_that_is_there_is_found_early() -> None:
    difference, variance = daily_looks(0.04, seed=2)
    planned = 2 * RATE * (1 - RATE) / (PER_DAY * DAYS)
    found = difference > always_valid_half(variance, planned)
    assert found.any(axis=1).mean() > 0.95
    assert found[:, 13].mean() > 0.7
    held = np.abs(difference - 0.04) <= always_valid_half(variance, planned)
    assert held.all(axis=1).mean() >= 0.95


def test_people_who_come_again_raise_no_more_false_alarms() -> None:
    random = np.random.default_rng(3)
    people, alarms = 300, 0
    for _ in range(400):
        sums = [np.zeros(people), np.zeros(people)]
        likes = [random.beta(1, 9, people) for _ in sums]
        alarm = False
        for day in range(1, 15):
            for arm, like in enumerate(likes):
                sums[arm] += random.random(people) < like
            a, b = (ratio_estimate(s, np.full(people, float(day))) for s in sums)
            alarm |= (a - b).always_valid(2 * 0.012 / people).excludes_zero
        alarms += alarm
    assert alarms <= 0.05 * 400


def test_the_sequence_stops_where_the_mixture_likelihood_ratio_does() -> None:
    variance, planned, alpha = 0.02, 0.005, 0.05
    half = float(always_valid_half(variance, planned, 1 - alpha))
    log_odds = -2 * math.log(alpha)
    prior = planned * (log_odds + math.log(log_odds + 1))
    theta = np.linspace(-3, 3, 200_001)
    density = np.exp(-(theta**2) / (2 * prior)) / math.sqrt(2 * math.pi * prior)
    ratio = np.exp((theta * half - theta**2 / 2) / variance)
    assert float((density * ratio).sum() * (theta[1] - theta[0])) == pytest.approx(1 / alpha, rel=1e-6)


def test_the_sequence_is_wider_than_one_look_and_about_tightest_where_planned() -> None:
    variance = 0.01
    at_plan = float(always_valid_half(variance, variance))
    assert 1.3 < at_plan / (1.96 * math.sqrt(variance)) < 1.7
    around = always_valid_half(variance, variance * 8), always_valid_half(variance, variance / 8)
    assert at_plan < min(float(half) for half in around)


def test_no_spread_and_no_knowledge() -> None:
    half = always_valid_half([0.0, math.nan], 0.1)
    assert half[0] == 0
    assert math.isnan(half[1])
    assert not Estimate(0.3, math.nan, 1).always_valid(0.1).excludes_zero


def test_a_ratio_with_hand_worked_variance() -> None:
    got = ratio_estimate([1, 0, 2], [2, 2, 4])
    # R = 3/8; x - R y = 1/4, -3/4, 1/2, whose variance is 7/16; times 3, by 8²
    assert got.value == 3 / 8
    assert got.variance == pytest.approx(7 / 16 * 3 / 64)
    assert got.users == 3
    mean = ratio_estimate([1.0, 2.0, 6.0], [1, 1, 1])
    assert mean.variance == pytest.approx(np.var([1, 2, 6], ddof=1) / 3)


def test_ratio_intervals_cover_95_times_in_100_where_rows_of_a_user_belong_together() -> None:
    random = np.random.default_rng(4)
    runs, people = 2000, 200
    taste = random.beta(1, 4, (runs, people))
    shown = random.geometric(0.2 + 0.6 * taste)  # who clicks more sees less: rows are not alike
    clicks = random.binomial(shown, taste)
    draws = random.beta(1, 4, 2_000_000)
    truth = float((draws / (0.2 + 0.6 * draws)).mean() / (1 / (0.2 + 0.6 * draws)).mean())
    covered = naive = 0
    for x, y in zip(clicks, shown, strict=True):
        got = ratio_estimate(x, y)
        interval = got.interval()
        covered += interval.low <= truth <= interval.high
        naive += abs(got.value - truth) <= 1.96 * math.sqrt(got.value * (1 - got.value) / y.sum())
    assert 0.93 <= covered / runs <= 0.97
    assert naive / runs < 0.91  # rows as if they were people


def test_differences_add_their_variances() -> None:
    got = Estimate(0.5, 0.03, 10) - Estimate(0.2, 0.01, 7)
    assert (got.value, got.variance, got.users) == (pytest.approx(0.3), pytest.approx(0.04), 7)
    half = 1.959964 * 0.2
    assert got.interval().low == pytest.approx(0.3 - half, abs=1e-6)
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)


def test_rows_are_added_up_by_user() -> None:
    clicks, rows = sums_by_user(["b", "a", "b"], [1, 0, 1], [1, 1, 1])
    assert clicks.tolist() == [0, 2]
    assert rows.tolist() == [1, 2]


def test_nothing_seen_is_not_a_number() -> None:
    assert math.isnan(ratio_estimate([0, 0], [0, 0]).value)
    assert math.isnan(ratio_estimate([], []).value)
    one = ratio_estimate([1], [4])
    assert one.value == 0.25
    assert math.isnan(one.variance)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match="two sums for each user"):
        ratio_estimate([1, 2], [1])
    with pytest.raises(UsageError, match="between 0 and 1, got 95"):
        Estimate(0, 1, 2).interval(95)
    with pytest.raises(UsageError, match="between 0 and 1, got 1"):
        always_valid_half(0.1, 0.1, 1)
    with pytest.raises(UsageError, match="above 0, got 0"):
        always_valid_half(0.1, 0)
    with pytest.raises(UsageError, match="3 rows name a user"):
        sums_by_user(["a", "b", "c"], [1, 2])
