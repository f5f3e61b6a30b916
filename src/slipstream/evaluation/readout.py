"""An experiment as it stands: each arm against the first, safe to look at every day, with its guardrails.

The interval that may be looked at daily is `Estimate.always_valid`. It is tightest about where the experiment
was planned to end: where the wanted effect would be found with 80 % power, or at PLANNED_PEOPLE in each arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slipstream.evaluation.estimates import Estimate
from slipstream.evaluation.experiments import Plan, plan, reach
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.online import Earned
from slipstream.evaluation.tables import Cell, Figure, Table

PLANNED_PEOPLE = 1_000

Verdict = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Guardrail:
    """What must not fall by more than `allowed` (a part of the first arm's figure). broken: beyond doubt."""

    metric: str
    allowed: float
    difference: Interval
    state: Literal["held", "open", "broken"]


@dataclass(frozen=True)
class ArmReadout:
    """difference: arm − first, for one look; daily: the same for looking every day, and `verdict` by it.

    detectable: the true difference that one look finds in four of five times with as many people as now.
    days_left: until the wanted effect can be found; None where none is named or nobody comes.
    """

    arm: str
    first: str
    metric: str
    people: int
    difference: Estimate
    daily: Interval
    verdict: Verdict
    detectable: float
    days_left: int | None
    guardrails: tuple[Guardrail, ...]


def read_out(
    arms: Sequence[Earned],
    *,
    metric: str = "CTR",
    effect: float | None = None,
    guardrails: Mapping[str, float] | None = None,
    new_people_per_day: float = 0.0,
) -> list[ArmReadout]:
    """Each arm but the first against the first. effect: the least difference worth finding, in the metric.

    guardrails: metric → the part of the first arm's figure by which it may fall.
    """
    if len(arms) < 2:
        return []
    return [_arm(arm, arms[0], metric, effect, guardrails or {}, new_people_per_day) for arm in arms[1:]]


def _arm(
    arm: Earned, first: Earned, metric: str, effect: float | None, rails: Mapping[str, float], per_day: float
) -> ArmReadout:
    difference = arm.estimates[metric] - first.estimates[metric]
    people = min(arm.people, first.people)
    planned = _planned_variance(difference, people, effect)
    daily = _daily(difference, planned)
    verdict: Verdict = "better" if daily.low > 0 else "worse" if daily.high < 0 else "open"
    return ArmReadout(
        arm.group,
        first.group,
        metric,
        people,
        difference,
        daily,
        verdict,
        reach() * math.sqrt(difference.variance),
        _days_left(difference.variance, planned, people, per_day) if effect else None,
        tuple(_rail(name, allowed, arm, first, people) for name, allowed in rails.items()),
    )


def _planned_variance(difference: Estimate, people: int, effect: float | None) -> float:
    if effect:
        return float((effect / reach()) ** 2)
    return difference.variance * people / PLANNED_PEOPLE


def _daily(difference: Estimate, planned: float) -> Interval:
    if not planned > 0:  # also where it is not known
        return Interval(difference.value, -math.inf, math.inf)
    return difference.always_valid(planned)


def _days_left(variance: float, planned: float, people: int, per_day: float) -> int | None:
    """The variance falls with the people of an arm."""
    if math.isnan(variance) or per_day <= 0:
        return None
    return max(0, math.ceil(people * (variance / planned - 1) / per_day))


def _rail(name: str, allowed: float, arm: Earned, first: Earned, people: int) -> Guardrail:
    difference = arm.estimates[name] - first.estimates[name]
    seen = _daily(difference, _planned_variance(difference, people, None))
    floor = -allowed * abs(first.estimates[name].value)
    state: Literal["held", "open", "broken"] = (
        "broken" if seen.high < floor else "held" if seen.low >= floor else "open"
    )
    return Guardrail(name, allowed, seen, state)


def plan_from(whole: Estimate, effect: float, *, new_people_per_day: float, arms: int = 2) -> Plan:
    """How long an experiment of even arms must run to find `effect`, by what the log says of people.

    whole: the metric over all people of the log.
    """
    deviation = math.sqrt(whole.variance * whole.users)
    return plan(effect, deviation, new_users_per_day=new_people_per_day, arms=arms)


def readout_table(found: Sequence[ArmReadout]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            line.arm,
            f"{line.people:,}",
            Figure(line.difference.value, line.difference.interval()),
            Figure(line.daily.mean, line.daily),
            line.verdict,
            Figure(line.detectable),
            "–" if line.days_left is None else f"{line.days_left:,}",
            "; ".join(f"{rail.metric} {rail.state}" for rail in line.guardrails) or "–",
        )
        for line in found
    )
    metric, first = (found[0].metric, found[0].first) if found else ("", "")
    columns = ("arm", "people", "one look", "any day", "verdict", "detectable", "days left", "guardrails")
    note = "one look: for a moment fixed beforehand. any day: look as often as you like; the verdict "
    note += "and the guardrails go by it. detectable: the true difference that one look finds 4 times in 5."
    return Table(f"{metric} of each arm minus that of {first}", columns, rows, note)
