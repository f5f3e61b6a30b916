"""Estimates with the user as the unit: ratios of sums by the delta method, and what may be looked at early.

An online number (clicks ÷ impressions, reward ÷ answers) is a ratio of two sums, and the rows of one user
belong together: the user was drawn, not the row. So everything is added up by user first.

Normal intervals: they want some dozens of users, and sums without a single user that outweighs the rest.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from slipstream.errors import UsageError
from slipstream.evaluation.intervals import LEVEL, Interval

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number learned from `users` people. variance: the square of its standard error; NaN if unknown."""

    value: float
    variance: float
    users: int

    def interval(self, level: float = LEVEL) -> Interval:
        """Holds the truth with probability `level`, if looked at once, at a moment fixed beforehand."""
        half = normal_quantile(level) * math.sqrt(self.variance)
        return Interval(self.value, self.value - half, self.value + half)

    def always_valid(self, planned_variance: float, level: float = LEVEL) -> Interval:
        """Holds the truth at every look together with probability `level`; see `always_valid_half`."""
        half = float(always_valid_half(self.variance, planned_variance, level))
        return Interval(self.value, self.value - half, self.value + half)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two estimates from different people."""
        return Estimate(
            self.value - other.value, self.variance + other.variance, min(self.users, other.users)
        )


def normal_quantile(level: float) -> float:
    """How many standard errors an interval reaches to each side: 1.96 for 0.95."""
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval must be between 0 and 1, got {level}")
    return float(ndtri((1 + level) / 2))


def always_valid_half(variance: ArrayLike, planned_variance: float, level: float = LEVEL) -> Numbers:
    """Half the width of a confidence sequence, for each of the squared standard errors `variance`.

    √( V (V + τ²) / τ² · ln((V + τ²) / (V α²)) ), α = 1 − level: the normal mixture of Robbins 1970 as an
    asymptotic confidence sequence (Waudby-Smith et al. 2021, theorem 2.2, with τ² = ρ² σ²), which is also
    where the mixture sequential probability ratio test with a normal prior of variance τ² (Johari et al.
    2017) stops. τ² is chosen so that the sequence is about tightest when V has come down to
    `planned_variance` (Waudby-Smith et al., their remark on ρ): no assumption rests on that.

    The sequence holds in the limit: begin looking when each arm has some hundreds of users. It assumes that a
    new look adds people; where the same people return, looks depend on each other more and it errs less.
    """
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval must be between 0 and 1, got {level}")
    if not planned_variance > 0:
        raise UsageError(f"the planned variance must be above 0, got {planned_variance}")
    log_odds = -2 * math.log(1 - level)
    prior = planned_variance * (log_odds + math.log1p(log_odds))
    seen = np.asarray(variance, np.float64)
    some = np.maximum(seen, np.finfo(np.float64).tiny)
    half = np.sqrt(some * (some + prior) / prior * (np.log1p(prior / some) + log_odds))
    return np.where(seen == 0, 0.0, np.where(np.isnan(seen), np.nan, half))


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Σ x ÷ Σ y over users [U], x and y the sums of one user each. NaN where Σ y is 0.

    Variance by the delta method: s²(x − R y) ÷ (U ȳ²), R the ratio (Deng et al. 2018). With
    y = 1 it is the mean of x.
    """
    x, y = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise UsageError(f"a ratio needs two sums for each user, got shapes {x.shape} and {y.shape}")
    users, whole = len(x), float(y.sum())
    if whole == 0:
        return Estimate(math.nan, math.nan, users)
    ratio = float(x.sum()) / whole
    if users < 2:
        return Estimate(ratio, math.nan, users)
    spread = float((x - ratio * y).var(ddof=1))
    return Estimate(ratio, spread * users / whole**2, users)


def sums_by_user(users: Sequence[Hashable] | NDArray[np.generic], *columns: ArrayLike) -> list[Numbers]:
    """Each column [N] added up by the user of its row, [U] each, users in the order of their ids."""
    _, person = np.unique(np.asarray(users), return_inverse=True)
    sums = []
    for column in columns:
        values = np.asarray(column, np.float64)
        if values.shape != person.shape:
            raise UsageError(f"{len(person)} rows name a user, a column holds {values.shape}")
        sums.append(np.bincount(person, values).astype(np.float64))
    return sums
