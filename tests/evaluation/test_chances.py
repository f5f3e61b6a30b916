"""What an explored place and interleaved lists tell: policies of known worth, and who is preferred."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from slipstream.evaluation.chances import duels, duels_table, policies_in_log, policies_table
from slipstream.evaluation.tables import plain_rows
from slipstream.events.impressions import FEEDBACK_SCHEMA, HOUR_US, SERVED_SCHEMA, attribute, person_of

TASTE = {"a": 0.1, "b": 0.2, "c": 0.5}
POOL = list(TASTE)


def choices(rows: int, share: float = 0.5, seed: int = 1) -> pl.DataFrame:
    """The place holds `a`, or with `share` any of the pool; people take items by TASTE."""
    random = np.random.default_rng(seed)
    lines = []
    for n in range(rows):
        item = POOL[random.integers(3)] if random.random() < share else "a"
        chance = share / 3 + (1 - share if item == "a" else 0)
        reward = float(random.random() < TASTE[item])
        lines.append((f"q{n}", person_of(f"p{n % (rows // 2)}"), "e/x", item, 9, chance, reward, POOL))
    names = ["request_id", "person", "arm", "item_id", "place", "propensity", "reward", "pool"]
    return pl.DataFrame(lines, schema=names, orient="row")


def test_each_policy_gets_its_true_worth() -> None:
    found = {line.policy: line for line in policies_in_log(choices(8_000), {"b": 9, "a": 1})}
    truth = {"own": TASTE["a"], "popular": TASTE["b"], "even": sum(TASTE.values()) / 3}
    for policy, worth in truth.items():
        value = found[policy].value
        for estimate in (value.ips, value.snips, value.doubly_robust):
            assert estimate is not None
            seen = estimate.interval(0.999)
            assert seen.low <= worth <= seen.high
            assert seen.high - seen.low < 0.12
        assert value.warnings == ()
        assert value.weight.value == pytest.approx(1, abs=0.1)
    assert found["own"].logged.value == pytest.approx(0.5 * 0.1 + 0.5 * truth["even"], abs=0.02)
    assert found["own"].value.effective_rows > found["popular"].value.effective_rows
    # the reward model takes noise away, and knows each item well
    robust, plain = found["popular"].value.doubly_robust, found["popular"].value.ips
    assert robust is not None
    assert robust.variance < plain.variance


def test_a_thin_log_warns_and_rows_without_a_pool_are_left_out() -> None:
    thin = {line.policy: line.value for line in policies_in_log(choices(60, share=0.1), {"c": 1})}
    assert any("weigh as much as" in doubt for doubt in thin["popular"].warnings)
    rows = plain_rows(policies_table(policies_in_log(choices(60, share=0.1), {"c": 1})))
    assert "weigh as much" in rows[1][-1]
    old = choices(10).with_columns(pool=pl.lit([], dtype=pl.List(pl.String)))
    assert policies_in_log(old, {}) == []
    assert policies_in_log(choices(10).clear(), {}) == []


def test_the_team_whose_picks_are_taken_is_preferred() -> None:
    served, feedback = [], []
    for n in range(300):
        person, teams = person_of(f"p{n % 100}"), "abba" if n % 2 else "baab"
        items = [f"{team}{place}" for place, team in enumerate(teams)]
        served.append((f"q{n}", person, n, "r1+r2", "e/both", "model", items, [1.0] * 4, [], [], teams))
        if n % 3 == 0:  # a pick of the first; every ninth list one of each
            wanted = [item for item in items if item[0] in ("ab" if n % 9 == 0 else "a")][:2]
            feedback += [(f"e{n}{i}", person, f"q{n}", i, "click", None, n + 1, "") for i in wanted]
    frame = pl.DataFrame(served, schema=SERVED_SCHEMA, orient="row")
    told = pl.DataFrame(feedback, schema=FEEDBACK_SCHEMA, orient="row")
    (duel,) = duels(frame, attribute(frame, told, HOUR_US))
    assert (duel.arm, duel.first, duel.second, duel.lists) == ("e/both", "r1", "r2", 300)
    assert (duel.wins, duel.losses) == (66, 0)  # two picks of the first where both were taken: one tie less
    assert duel.preferred.value == pytest.approx(66 / 300)
    assert duel.preferred.users == 100
    assert duel.preferred.interval().low > 0
    assert plain_rows(duels_table([duel]))[0][:6] == ["e/both", "r1", "r2", "300", "66", "0"]
    assert duels(frame.clear(), attribute(frame, told, HOUR_US)) == []
