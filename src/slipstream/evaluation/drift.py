"""Have the new events become another kind of events? Shares before and since, compared by one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from slipstream.dataset.snapshot import Snapshot

BUCKETS = 10


@dataclass(frozen=True)
class InputDrift:
    """kinds, items: population stability indices. one_user: the largest part of the new events by one person.

    new_users, new_items: parts of the new events by people, and on items, that nobody had met.
    """

    kinds: float
    items: float
    one_user: float
    new_users: float
    new_items: float


def population_stability(before: ArrayLike, since: ArrayLike) -> float:
    """Σ (q − p) ln(q / p) over buckets, p and q their shares before and since; 0 for equal shares.

    The symmetric Kullback-Leibler divergence of credit scoring (there 0.1 is a change, 0.25 an alarm).
    Differs: half a row is added to every bucket, so an empty one does not make it infinite. NaN where one
    side has no rows.
    """
    p, q = np.asarray(before, np.float64), np.asarray(since, np.float64)
    if not p.sum() or not q.sum():
        return float("nan")
    p, q = (p + 0.5) / (p + 0.5).sum(), (q + 0.5) / (q + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def input_drift(known: Snapshot, later: pl.DataFrame, through_us: int) -> InputDrift:
    """Events until `through_us` against those after it: in `known`, and in `later` (user_id, item_id, kind).

    Items are put into ten buckets of equal parts of the events before, by popularity, and one for items that
    had none. O(E).
    """
    assert known.time_us is not None  # noqa: S101 - asked of homes with a clock only
    old = known.time_us <= through_us
    before = np.bincount(known.item[old], minlength=known.item_count)
    bucket = _popularity_buckets(before)
    number = known.items.numbers(later["item_id"])
    since = np.concatenate([bucket[known.item[~old]], np.where(number < 0, BUCKETS, bucket[number])])
    people = np.bincount(known.user[old], minlength=known.user_count) > 0
    users = known.users.numbers(later["user_id"])
    stranger = np.concatenate([~people[known.user[~old]], np.where(users < 0, True, ~people[users])])
    new = pl.concat([known.users.series("user_id").gather(known.user[~old]), later["user_id"]])
    kinds = _kind_counts(known, old, later)
    return InputDrift(
        kinds=population_stability(*kinds),
        items=population_stability(
            np.bincount(bucket[known.item[old]], minlength=BUCKETS + 1),
            np.bincount(since, minlength=BUCKETS + 1),
        ),
        one_user=_largest_share(new),
        new_users=float(stranger.mean()) if len(stranger) else 0.0,
        new_items=float((since == BUCKETS).mean()) if len(since) else 0.0,
    )


def _largest_share(users: pl.Series) -> float:
    return float(users.value_counts()["count"].max()) / len(users) if len(users) else 0.0  # type: ignore[arg-type]


def _popularity_buckets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each item, [I]: 0 the most popular; BUCKETS for one without events."""
    order = np.argsort(-counts, kind="stable")
    middle = np.cumsum(counts[order]) - counts[order] / 2
    bucket = np.empty(len(counts), np.int64)
    bucket[order] = np.minimum(middle * BUCKETS // max(int(counts.sum()), 1), BUCKETS - 1)
    return np.where(counts > 0, bucket, BUCKETS)


def _kind_counts(known: Snapshot, old: NDArray[np.bool_], later: pl.DataFrame) -> tuple[list[int], list[int]]:
    before = _named(known, known.kind[old])
    since = _named(known, known.kind[~old])
    for kind, count in later["kind"].value_counts().iter_rows():
        since[kind] = since.get(kind, 0) + count
    names = sorted(before.keys() | since.keys())
    return [before.get(n, 0) for n in names], [since.get(n, 0) for n in names]


def _named(known: Snapshot, kinds: NDArray[np.uint8]) -> dict[str, int]:
    counts: Mapping[str, int] = dict(
        zip(known.kinds, np.bincount(kinds, minlength=len(known.kinds)).tolist(), strict=True)
    )
    return dict(counts)
