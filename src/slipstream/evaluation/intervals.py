"""How sure we are: 95 % intervals by bootstrap over users, and paired ones for "better than".

The percentile bootstrap (Efron 1979): draw as many users as there are, with replacement; take the mean; do
so many times; the interval holds the middle 95 % of those means. It covers the choice of users, not the
choice of training seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UsageError
from slipstream.randomness import generator

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK_CELLS = 2_000_000  # weights held at a time: 16 MB


@dataclass(frozen=True)
class Interval:
    """A mean over users and the bounds that hold `LEVEL` of its resamples."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is beyond doubt (at the level of the interval)."""
        return self.low > 0 or self.high < 0


def resampled_means(values: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of `values` [N, M] over N users drawn with replacement, [resamples, M]; NaN is left out.

    All M columns see the same draws. O(resamples · N · M) time; memory bounded.
    """
    count, columns = values.shape
    if count == 0:
        raise UsageError("an interval needs at least one user, got none")
    random = generator(seed, "bootstrap")
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    weigh = None if defined.all() else defined.astype(np.float64)
    means = np.empty((resamples, columns))
    step = max(1, _CHUNK_CELLS // count)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        weights = _draw(random, count, stop - start)
        sums = weights @ filled
        means[start:stop] = sums / count if weigh is None else _divide(sums, weights @ weigh)
    return means


def _draw(random: np.random.Generator, count: int, rows: int) -> NDArray[np.float64]:
    """How often each of `count` users is drawn in each of `rows` resamples, [rows, count]."""
    drawn = random.integers(0, count, size=(rows, count), dtype=np.int64)
    drawn += np.arange(rows, dtype=np.int64)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _divide(sums: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where a resample drew no user for whom the metric is defined."""
    return np.where(weight > 0, sums / np.maximum(weight, 1.0), np.nan)


def bootstrap_intervals(
    values: Mapping[str, NDArray[np.float64]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """An interval for each named column of per-user values [N]; NaN marks a user without a value."""
    if not 0 < level < 1:
        raise UsageError(f"the level of an interval must be between 0 and 1, got {level}")
    if not values:
        return {}
    table = np.column_stack([np.asarray(column, np.float64) for column in values.values()])
    means = resampled_means(table, resamples=resamples, seed=seed)
    return {name: _interval(table[:, m], means[:, m], level) for m, name in enumerate(values)}


def _interval(column: NDArray[np.float64], means: NDArray[np.float64], level: float) -> Interval:
    defined, drawn = column[~np.isnan(column)], means[~np.isnan(means)]
    if len(defined) == 0 or len(drawn) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(defined.mean()), float(low), float(high))


def bootstrap_interval(
    values: NDArray[np.float64], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """The mean of per-user values [N] and its interval."""
    return bootstrap_intervals({"value": values}, resamples=resamples, level=level, seed=seed)["value"]


def paired_interval(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """The mean of a - b over users and its interval; a and b hold the same users in the same order, [N].

    Much narrower than two separate intervals, because what makes a user hard is hard for both models.
    """
    if a.shape != b.shape:
        raise UsageError(f"a paired interval needs the same users, got {len(a)} and {len(b)} values")
    return bootstrap_interval(a - b, resamples=resamples, level=level, seed=seed)
