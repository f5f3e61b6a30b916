"""An experiment as it stands: verdicts for any day, guardrails, and how long it still takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slipstream.evaluation.estimates import Estimate
from slipstream.evaluation.online import Earned
from slipstream.evaluation.readout import plan_from, read_out, readout_table
from slipstream.evaluation.tables import plain_rows

FLAT = Estimate(0.5, 0.0004, 400)


def arm(name: str, ctr: float, revenue: Estimate = FLAT, people: int = 400, deviation: float = 0.3) -> Earned:
    rate = Estimate(ctr, deviation**2 / people, people)
    return Earned(name, 10 * people, people, {"CTR": rate, "Conversion": FLAT, "Revenue/1000": revenue}, {})


def test_the_verdict_goes_by_the_interval_for_any_day() -> None:
    better, worse, level = read_out([arm("a", 0.3), arm("b", 0.42), arm("c", 0.2), arm("d", 0.35)])
    assert [line.verdict for line in (better, worse, level)] == ["better", "worse", "open"]
    assert level.difference.interval().low > 0  # one look would have said better
    assert level.daily.low < 0
    assert (better.first, better.people) == ("a", 400)
    assert better.detectable == pytest.approx(2.80 * math.sqrt(2 * 0.09 / 400), rel=1e-3)
    assert better.days_left is None
    assert read_out([arm("a", 0.3)]) == read_out([]) == []


def test_daily_looks_at_experiments_without_an_effect_rarely_err() -> None:
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(300):
        likes = random.beta(1, 4, (2, 1_500))
        for people in range(300, 1_501, 100):
            seen = [likes[side, :people] for side in (0, 1)]
            arms = [
                Earned(name, people, people, {"CTR": Estimate(x.mean(), x.var(ddof=1) / people, people)}, {})
                for name, x in zip("ab", seen, strict=True)
            ]
            if read_out(arms)[0].verdict != "open":
                alarms += 1
                break
    assert alarms <= 0.05 * 300


def test_guardrails_hold_break_or_stay_open() -> None:
    first = arm("a", 0.3, Estimate(100.0, 4.0, 400))
    rails = {"Revenue/1000": 0.1}
    seen = {
        value: read_out([first, arm("b", 0.3, Estimate(value, 4.0, 400))], guardrails=rails)[0].guardrails[0]
        for value in (105.0, 92.0, 70.0)
    }
    assert [seen[value].state for value in (105.0, 92.0, 70.0)] == ["held", "open", "broken"]
    assert seen[70.0].difference.mean == pytest.approx(-30)
    rows = plain_rows(readout_table(read_out([first, arm("b", 0.3)], guardrails=rails)))
    assert rows[0][-1] == "Revenue/1000 broken"


def test_the_days_left_are_those_of_the_plan() -> None:
    """400 people an arm came in 10 days; the plan says how many are needed."""
    (line,) = read_out([arm("a", 0.3), arm("b", 0.33)], effect=0.03, new_people_per_day=40)
    made = plan_from(Estimate(0.3, 0.09 / 400, 400), 0.03, new_people_per_day=80)
    assert made.users_per_arm == 1_570
    assert line.days_left == math.ceil((made.users_per_arm - 400) / 40)
    (done,) = read_out([arm("a", 0.3), arm("b", 0.33)], effect=0.5, new_people_per_day=40)
    assert done.days_left == 0
    (nobody,) = read_out([arm("a", 0.3), arm("b", 0.33)], effect=0.03)
    assert nobody.days_left is None
    unknown = Earned("c", 1, 1, {"CTR": Estimate(1.0, math.nan, 1)}, {})
    (nothing,) = read_out([arm("a", 0.3), unknown], effect=0.03, new_people_per_day=1)
    assert (nothing.verdict, nothing.days_left) == ("open", None)
