"""What another policy would have earned, from the log of the one that ran: IPS, SNIPS, doubly robust.

A row is one choice that was made with a known probability (the *propensity*) and the reward it got; the new
policy is given as its probability of the same choice. It works only where the old policy may do what the new
one does: `evaluate_policy` says where that is doubtful.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slipstream.errors import UsageError
from slipstream.evaluation.estimates import Estimate, ratio_estimate, sums_by_user

FEW_EFFECTIVE = 100
"""Below so many effective rows a normal interval over weighted rewards means little."""
LARGE_SHARE = 0.1
"""A row that carries more of the whole weight than this decides the estimate by itself."""


@dataclass(frozen=True)
class PolicyValue:
    """Estimates of the mean reward per row under the new policy; users are the unit of their intervals.

    weight: the mean importance weight, 1 where the log supports the new policy. effective_rows: Kish's
    (Σ w)² ÷ Σ w². warnings: reasons to doubt the estimates, empty where there are none.
    """

    ips: Estimate
    snips: Estimate
    doubly_robust: Estimate | None
    weight: Estimate
    effective_rows: float
    rows: int
    warnings: tuple[str, ...]


def evaluate_policy(
    rewards: ArrayLike,
    propensities: ArrayLike,
    target: ArrayLike,
    *,
    users: Sequence[Hashable] | NDArray[np.generic] | None = None,
    predicted: ArrayLike | None = None,
    predicted_target: ArrayLike | None = None,
    unsupported: ArrayLike | None = None,
) -> PolicyValue:
    """The value of a new policy. All arrays hold one number for each row of the log, [N].

    propensities, target: the probability of the logged choice under the old and the new policy. users: whose
    row it is; without them each row stands for itself. predicted, predicted_target: a reward model's guess
    for the logged choice, and its mean over the new policy's choices; made without these rows' rewards. With
    both there is a doubly robust estimate. unsupported: the new policy's probability of choices that the old
    one never makes there.

    IPS: mean of w r, w = target ÷ propensity (Horvitz and Thompson 1952). SNIPS: Σ w r ÷ Σ w (Swaminathan
    and Joachims 2015), steadier, biased by O(1/N). Doubly robust: mean of predicted_target + w (r −
    predicted) (Dudík et al. 2011), right if either the propensities or the reward model are.
    """
    reward, propensity, wanted = (np.asarray(a, np.float64) for a in (rewards, propensities, target))
    _check(reward, propensity, wanted)
    weight, one = wanted / propensity, np.ones(len(reward))
    person = np.arange(len(reward)) if users is None else np.asarray(users)
    weights, earned, rows = sums_by_user(person, weight, weight * reward, one)
    mean_weight = ratio_estimate(weights, rows)
    effective = float(weight.sum() ** 2 / max(float((weight**2).sum()), np.finfo(np.float64).tiny))
    return PolicyValue(
        ips=ratio_estimate(earned, rows),
        snips=ratio_estimate(earned, weights),
        doubly_robust=_doubly_robust(person, reward, weight, predicted, predicted_target),
        weight=mean_weight,
        effective_rows=effective,
        rows=len(reward),
        warnings=tuple(_doubts(weight, mean_weight, effective, unsupported)),
    )


def _check(reward: NDArray[np.float64], propensity: NDArray[np.float64], wanted: NDArray[np.float64]) -> None:
    if reward.ndim != 1 or not reward.shape == propensity.shape == wanted.shape or not len(reward):
        shapes = f"{reward.shape}, {propensity.shape}, {wanted.shape}"
        raise UsageError(f"rewards, propensities and target need one number for each row, got {shapes}")
    if not ((propensity > 0) & (propensity <= 1)).all():
        hint = "a choice that was made had a chance; rows without a logged one cannot be used"
        raise UsageError("propensities must be above 0 and at most 1", hint=hint)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise UsageError("the target's probabilities must be between 0 and 1")
    if not np.isfinite(reward).all():
        raise UsageError("rewards must be finite")


def _doubly_robust(
    users: NDArray[np.generic],
    reward: NDArray[np.float64],
    weight: NDArray[np.float64],
    predicted: ArrayLike | None,
    predicted_target: ArrayLike | None,
) -> Estimate | None:
    if predicted is None or predicted_target is None:
        return None
    corrected = np.asarray(predicted_target, np.float64) + weight * (reward - np.asarray(predicted))
    return ratio_estimate(*sums_by_user(users, corrected, np.ones(len(reward))))


def _doubts(
    weight: NDArray[np.float64], mean: Estimate, effective: float, unsupported: ArrayLike | None
) -> list[str]:
    doubts = []
    missing = 0.0 if unsupported is None else float(np.mean(np.asarray(unsupported, np.float64)))
    if missing > 0:
        doubts.append(f"{missing:.1%} of what the new policy does was never tried: its reward is unknown")
    seen = mean.interval(0.999)
    if seen.high < 1 or seen.low > 1:
        doubts.append(
            f"the mean weight is {mean.value:.3f}, not 1: support is missing, or the propensities are wrong"
        )
    if effective < FEW_EFFECTIVE:
        doubts.append(f"{len(weight):,} rows weigh as much as {effective:.0f}: the intervals are too narrow")
    if weight.max() > LARGE_SHARE * weight.sum():
        doubts.append(f"one row carries {weight.max() / weight.sum():.0%} of the weight")
    return doubts
