"""Experiments: a split that stays, a check that sees a broken one, plans that keep their word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import UsageError
from slipstream.evaluation.estimates import ratio_estimate
from slipstream.evaluation.experiments import (
    credit,
    detectable_effect,
    plan,
    preference,
    sample_ratio,
)
from slipstream.recommend.experiment import Experiment
from slipstream.recommend.interleaving import team_draft

USERS = [f"user {n}" for n in range(12_000)]


WRITTEN_DOWN = ["old", "old", "new", "new", "old", "new", "new", "new"]


def test_a_user_keeps_the_arm() -> None:
    experiment = Experiment("new encoder", {"old": 1, "new": 1}, salt="s")
    # written down: another version that answers otherwise would move people in the middle of an experiment
    assert [experiment.arm_of(user) for user in USERS[:8]] == WRITTEN_DOWN
    assert experiment.arm_of("user 0") == Experiment("new encoder", {"new": 2, "old": 2}, "s").arm_of(
        "user 0"
    )


def test_arms_get_their_shares_and_experiments_split_independently() -> None:
    experiment = Experiment("one", {"a": 3, "b": 1})
    first = [experiment.arm_of(user) for user in USERS]
    assert first.count("a") / len(USERS) == pytest.approx(0.75, abs=0.015)
    assert not sample_ratio(experiment, {arm: first.count(arm) for arm in "ab"}).mismatch
    for other in (Experiment("two", {"a": 3, "b": 1}), Experiment("one", {"a": 3, "b": 1}, "salted")):
        both = sum(arm == "a" == other.arm_of(user) for arm, user in zip(first, USERS, strict=True))
        assert both / len(USERS) == pytest.approx(0.75**2, abs=0.02)


def test_an_arm_that_is_removed_moves_only_its_own_people() -> None:
    before, after = Experiment("one", {"a": 1, "b": 2, "c": 1}), Experiment("one", {"a": 1, "b": 2})
    moved = [user for user in USERS if before.arm_of(user) != after.arm_of(user)]
    assert moved
    assert {before.arm_of(user) for user in moved} == {"c"}
    assert {after.arm_of(user) for user in moved} == {"a", "b"}


def test_the_sample_ratio_check_knows_its_chi_square() -> None:
    half = Experiment("one", {"a": 1, "b": 1})
    got = sample_ratio(half, {"a": 90, "b": 110})
    assert got.p_value == pytest.approx(0.1573, abs=1e-4)  # chi-square 2 with one degree of freedom
    assert got.expected == {"a": 100, "b": 100}
    assert not got.mismatch
    assert sample_ratio(half, {"a": 4800, "b": 5200}).mismatch
    assert sample_ratio(half, {"a": 200}).mismatch  # an arm that nobody saw
    assert sample_ratio(half, {}).p_value == 1
    with pytest.raises(UsageError, match="no arm 'c'"):
        sample_ratio(half, {"a": 1, "c": 1})


def test_the_sample_ratio_check_is_rarely_wrong() -> None:
    half = Experiment("one", {"a": 1, "b": 1})
    counts = np.random.default_rng(1).binomial(1000, 0.5, 2000)
    alarms = [sample_ratio(half, {"a": int(n), "b": 1000 - int(n)}).p_value < 0.05 for n in counts]
    assert 0.03 < np.mean(alarms) < 0.07


def test_a_plan_finds_its_effect_as_often_as_it_says() -> None:
    made = plan(0.03, 0.3, new_users_per_day=400)
    assert made.users_per_arm == 1570  # 2 (1.95996 + 0.84162)² 0.3² / 0.03²
    assert made.days == 8
    assert detectable_effect(0.3, (1570, 1570)) == pytest.approx(0.03, abs=1e-4)
    random = np.random.default_rng(2)
    found = 0
    for _ in range(1000):
        arms = [random.binomial(1, rate, made.users_per_arm) for rate in (0.13, 0.10)]
        a, b = (ratio_estimate(arm, np.ones(len(arm))) for arm in arms)
        found += (a - b).interval().excludes_zero
    assert 0.70 < found / 1000 < 0.84  # the arms' deviations are 0.336 and 0.300: a little less than 0.8


def test_a_plan_without_people_has_no_end() -> None:
    assert plan(0.1, 1, new_users_per_day=0).days is None
    with pytest.raises(UsageError, match="an effect other than 0"):
        plan(0, 1, new_users_per_day=10)
    with pytest.raises(UsageError, match="needs users, got 0 and 5"):
        detectable_effect(1, (0, 5))
    with pytest.raises(UsageError, match="power must be between 0 and 1"):
        detectable_effect(1, (5, 5), power=1)
    with pytest.raises(UsageError, match="weights above 0"):
        Experiment("one", {"a": 0})


ranking = st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True)


@settings(max_examples=80, deadline=None)
@given(ranking, ranking, st.integers(1, 10), st.integers(0, 99))
def test_team_draft_is_fair_and_complete(first: list[str], second: list[str], k: int, seed: int) -> None:
    got = team_draft(first, second, k, np.random.default_rng(seed))
    assert len(got.items) == len(set(got.items)) == min(k, len({*first, *second}))
    assert len(got.from_first) == len(got.items)
    for start, (item, own) in enumerate(zip(got.items, got.from_first, strict=True)):
        source = first if own else second
        assert next(i for i in source if i not in got.items[:start]) == item
        mine = sum(got.from_first[: start + 1])
        if {*first} - {*got.items[:start]} and {*second} - {*got.items[:start]}:
            assert abs(2 * mine - (start + 1)) <= 1


def test_interleaving_prefers_the_better_ranking_and_none_of_two_alike() -> None:
    random = np.random.default_rng(3)
    liked = {f"i{n}" for n in range(5)}
    good, bad = [f"i{n}" for n in range(10)], [f"i{n}" for n in range(9, -1, -1)]

    def world(first: list[str], second: list[str]) -> tuple[list[str], list[int]]:
        users, credits = [], []
        for row in range(1200):
            shown = team_draft(first, second, 5, random)
            clicks = [item in liked and random.random() < 0.3 for item in shown.items]
            users.append(f"user {row // 4}")
            credits.append(credit(shown.from_first, clicks))
        return users, credits

    better, alike = preference(*world(good, bad)), preference(*world(good, good))
    assert better.interval().low > 0.2
    assert preference(*world(bad, good)).interval().high < -0.2
    assert abs(alike.value) < 0.1
    assert better.users == 300


def test_credit_counts_clicks_of_each_team() -> None:
    assert credit([True, False, True], [True, True, True]) == 1
    assert credit([True, False], [True, True]) == 0
    assert credit([True, False], [False, True]) == -1
    assert credit([], []) == 0
    with pytest.raises(UsageError, match="2 places, 1 clicks"):
        credit([True, False], [True])
