"""What a model is asked: users, or only their histories, in one columnar batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import UNKNOWN


@dataclass(frozen=True)
class Queries:
    """Q requests. `item[offsets[q]:offsets[q+1]]` is what the model may know of q's past, oldest first.

    user: dense user numbers, UNKNOWN (-1) for a person the model has never met.
    item: dense item numbers; UNKNOWN (-1) marks an item that the vocabulary does not hold.
    time_us: event times beside `item`, or None. now_us: the time of the request, or None.
    """

    user: NDArray[np.int32]  # [Q]
    offsets: NDArray[np.int64]  # [Q + 1]
    item: NDArray[np.int32]  # [H]
    time_us: NDArray[np.int64] | None = None  # [H]
    now_us: NDArray[np.int64] | None = None  # [Q]

    def __len__(self) -> int:
        return len(self.user)

    def history(self, query: int) -> NDArray[np.int32]:
        return self.item[self.offsets[query] : self.offsets[query + 1]]

    def rows(self) -> NDArray[np.int64]:
        """The query of each history event, [H]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def part(self, start: int, stop: int) -> Queries:
        """Queries start to stop (views, no copy of the histories)."""
        a, b = int(self.offsets[start]), int(self.offsets[stop])
        return Queries(
            user=self.user[start:stop],
            offsets=self.offsets[start : stop + 1] - a,
            item=self.item[a:b],
            time_us=None if self.time_us is None else self.time_us[a:b],
            now_us=None if self.now_us is None else self.now_us[start:stop],
        )

    def select(self, chosen: NDArray[np.int64]) -> Queries:
        """Some queries, in the given order (copies)."""
        offsets, event = _runs(self.offsets, chosen)
        return Queries(
            user=self.user[chosen],
            offsets=offsets,
            item=self.item[event],
            time_us=None if self.time_us is None else self.time_us[event],
            now_us=None if self.now_us is None else self.now_us[chosen],
        )

    def batches(self, size: int) -> Iterator[tuple[int, Queries]]:
        """(first query number, part) for parts of at most `size` queries."""
        for start in range(0, len(self), size):
            yield start, self.part(start, min(start + size, len(self)))


def queries_of(
    snapshot: Snapshot, users: NDArray[np.integer], *, now_us: NDArray[np.int64] | None = None
) -> Queries:
    """One query per given user, with the whole history that the snapshot holds; UNKNOWN has an empty one."""
    known = users >= 0
    starts = np.where(known, snapshot.offsets[:-1][np.where(known, users, 0)], 0)
    lengths = np.where(known, np.diff(snapshot.offsets)[np.where(known, users, 0)], 0)
    offsets = np.zeros(len(users) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, lengths)
    return Queries(
        user=users.astype(np.int32),
        offsets=offsets,
        item=np.asarray(snapshot.item[index]),
        time_us=None if snapshot.time_us is None else np.asarray(snapshot.time_us[index]),
        now_us=now_us,
    )


def excluded_mask(queries: Queries, item_count: int, *, repeat: bool) -> NDArray[np.bool_]:
    """[Q, I], True where the query's history holds the item (nowhere if `repeat`)."""
    excluded = np.zeros((len(queries), item_count), bool)
    if not repeat:
        known = (queries.item >= 0) & (queries.item < item_count)
        excluded[queries.rows()[known], queries.item[known]] = True
    return excluded


def query_of(
    history: Sequence[int],
    *,
    user: int = UNKNOWN,
    times_us: Sequence[int] | None = None,
    now_us: int | None = None,
) -> Queries:
    """A single request."""
    return Queries(
        user=np.array([user], np.int32),
        offsets=np.array([0, len(history)], np.int64),
        item=np.asarray(history, np.int32),
        time_us=None if times_us is None else np.asarray(times_us, np.int64),
        now_us=None if now_us is None else np.array([now_us], np.int64),
    )


@dataclass(frozen=True)
class Holdout:
    """Queries and what happened next: `target[offsets[q]:offsets[q+1]]` are q's distinct target items.

    repeat: whether items of the history may be recommended again; else a target among them cannot be found.
    """

    queries: Queries
    offsets: NDArray[np.int64]  # [Q + 1]
    target: NDArray[np.int32]  # [T]
    repeat: bool = False

    def __len__(self) -> int:
        return len(self.queries)

    def targets(self, query: int) -> NDArray[np.int32]:
        return self.target[self.offsets[query] : self.offsets[query + 1]]

    def select(self, chosen: NDArray[np.int64]) -> Holdout:
        """Some queries with their targets, in the given order (copies)."""
        offsets, place = _runs(self.offsets, chosen)
        return Holdout(self.queries.select(chosen), offsets, self.target[place], self.repeat)


def _runs(
    offsets: NDArray[np.int64], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The runs `chosen` of a ragged array: their offsets, and the places of their values."""
    lengths = np.diff(offsets)[chosen]
    ends = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends, np.arange(ends[-1]) + np.repeat(offsets[:-1][chosen] - ends[:-1], lengths)
