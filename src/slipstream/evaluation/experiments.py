"""Experiments: whether the split is sound, how long it must run, and interleaving.

Knows nothing of where the numbers come from. Sources are named at each function; the intervals that may be
looked at every day are in `estimates`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri

from slipstream.errors import UsageError
from slipstream.evaluation.estimates import Estimate, normal_quantile, ratio_estimate, sums_by_user
from slipstream.evaluation.intervals import LEVEL
from slipstream.recommend.experiment import Experiment

POWER = 0.8
MISMATCH = 0.001
"""A sample ratio this unlikely is a fault in the split or the log, not chance (Fabijan et al. 2019)."""


@dataclass(frozen=True)
class SampleRatio:
    """Users seen and expected in each arm, and how likely a split so far off is by chance."""

    seen: Mapping[str, int]
    expected: Mapping[str, float]
    p_value: float

    @property
    def mismatch(self) -> bool:
        """Trust no result of the experiment before this is explained."""
        return self.p_value < MISMATCH


def sample_ratio(experiment: Experiment, seen: Mapping[str, int]) -> SampleRatio:
    """Pearson's χ² of the users in each arm against the weights. Raises UsageError for an arm unknown."""
    if foreign := sorted(seen.keys() - experiment.arms.keys()):
        raise UsageError(f"experiment {experiment.name!r} has no arm {foreign[0]!r}")
    total = sum(seen.values())
    expected = {arm: share * total for arm, share in experiment.shares().items()}
    counts = {arm: seen.get(arm, 0) for arm in expected}
    if total == 0 or len(expected) == 1:
        return SampleRatio(counts, expected, 1.0)
    distance = sum((counts[arm] - e) ** 2 / e for arm, e in expected.items())
    return SampleRatio(counts, expected, float(chdtrc(len(expected) - 1, distance)))


def detectable_effect(
    deviation: float, users: Sequence[int], *, level: float = LEVEL, power: float = POWER
) -> float:
    """The least true difference between two arms of `users` people that is found with `power`.

    deviation: the standard deviation of the metric between users. (z_level + z_power) · σ · √(1/n₁ + 1/n₂),
    for one look at the end with `Estimate.interval`; daily looks with `always_valid` need more (`plan`).
    """
    first, second = users
    if first < 1 or second < 1:
        raise UsageError(f"an arm needs users, got {first} and {second}")
    return reach(level, power) * deviation * math.sqrt(1 / first + 1 / second)


@dataclass(frozen=True)
class Plan:
    """How large an experiment must be. days: None where nobody comes."""

    users_per_arm: int
    days: int | None
    planned_variance: float  # of the difference at the end: what `Estimate.always_valid` asks for


def plan(
    effect: float,
    deviation: float,
    *,
    new_users_per_day: float,
    arms: int = 2,
    level: float = LEVEL,
    power: float = POWER,
) -> Plan:
    """Users in each of `arms` equal arms, and days, to find a true difference of `effect`.

    n = 2 (z_level + z_power)² σ² ÷ effect²; the days count people who had not been seen before, because a
    user who returns is still one user.
    """
    if effect == 0 or deviation <= 0 or arms < 2:
        raise UsageError("a plan needs an effect other than 0, a deviation above 0 and two arms or more")
    users = math.ceil(2 * (reach(level, power) * deviation / effect) ** 2)
    days = math.ceil(users * arms / new_users_per_day) if new_users_per_day > 0 else None
    return Plan(users, days, 2 * deviation**2 / users)


def reach(level: float = LEVEL, power: float = POWER) -> float:
    """How many standard errors a true difference must be to be found with `power`: 2.80 by default."""
    if not 0 < power < 1:
        raise UsageError(f"the power must be between 0 and 1, got {power}")
    return normal_quantile(level) + float(ndtri(power))


def credit(from_first: Sequence[bool], clicked: Sequence[bool]) -> int:
    """Who won one list: 1 the first ranking, −1 the second, 0 a tie; by clicks on the items of each team."""
    if len(from_first) != len(clicked):
        raise UsageError(f"{len(from_first)} places, {len(clicked)} clicks told")
    lead = sum(1 if own else -1 for own, click in zip(from_first, clicked, strict=True) if click)
    return (lead > 0) - (lead < 0)


def preference(users: Sequence[str] | NDArray[np.generic], credits: Sequence[int]) -> Estimate:
    """Mean credit of the lists, in [−1, 1]: above 0 the first ranking is preferred; users are the unit.

    Chapelle et al. 2012 write it as Δ = (wins + ties / 2) ÷ lists − 1/2, which is half of this.
    """
    return ratio_estimate(*sums_by_user(users, credits, np.ones(len(credits))))
