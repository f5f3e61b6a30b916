"""What is known of a user at this moment: the stored history, in the numbers of a release.

States are kept in a small LRU and are dropped when the store says that something changed, also when another
process changed it; so an acknowledged event is in the next answer.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries
from slipstream.dataset.vocabulary import UNKNOWN, Vocabulary
from slipstream.events.store import NO_TIME_US, EventStore, StoreState

if TYPE_CHECKING:
    from slipstream.recommend.newcomers import Shelf
    from slipstream.recommend.rules import Rules

MOST_CHANGES = 10_000
"""After more new events than this it is cheaper to forget all states than to look who is meant."""
ASKED_KIND = "click"
"""The kind of an event that a request only mentions (the contract's default kind)."""


@dataclass(frozen=True, eq=False)
class UserState:
    """A history, oldest first, with ties in the order of arrival.

    number: the user's dense number, UNKNOWN for a person whom the release has not met or who was forgotten.
    item: UNKNOWN (-1) where the model may not know of the event: the release does not hold the item, or the
      event's value is below the minimum. Its outside id is in item_ids all the same.
    time_us: None where some event has no time.
    """

    user_id: str | None
    number: int
    item_ids: tuple[str, ...]
    item: NDArray[np.int32]  # [H]
    kinds: tuple[str, ...]
    time_us: NDArray[np.int64] | None = None  # [H]

    @cached_property
    def known_ids(self) -> tuple[str, ...]:
        """The ids of the history events that the release holds: those that `query` asks about."""
        return tuple(i for i, number in zip(self.item_ids, self.item, strict=True) if number >= 0)

    def query(self, now_us: int | None = None) -> Queries:
        """What the model is asked: the events on items that the release holds."""
        known = self.item >= 0
        return Queries(
            user=np.array([self.number], np.int32),
            offsets=np.array([0, int(known.sum())], np.int64),
            item=self.item[known],
            time_us=None if self.time_us is None else self.time_us[known],
            now_us=None if now_us is None else np.array([now_us], np.int64),
        )

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return dict(zip(self.item_ids, self.kinds, strict=True))

    def kind_of(self, item_id: str) -> str | None:
        """The kind of the latest event on an item; None if it was never touched."""
        return self._kinds.get(item_id)

    def touched(self, shelf: Shelf, rules: Rules) -> NDArray[np.int64]:
        """Shelf numbers of the items that count as seen."""
        counted = np.ones(len(self.item), bool)
        if rules.touched_by is not None:
            counted = np.array([rules.touches(kind) for kind in self.kinds], bool)
        known = self.item >= 0
        if known.all():
            return self.item[counted].astype(np.int64)
        later = [self.item_ids[place] for place in np.flatnonzero(counted & ~known)]
        return np.concatenate([self.item[known & counted].astype(np.int64), shelf.numbers(later)])

    def until(self, time_us: int) -> UserState:
        """The state as of a moment: events after it are left out."""
        if self.time_us is None or not (later := self.time_us > time_us).any():
            return self
        kept = np.flatnonzero(~later)
        return replace(
            self,
            number=self.number if len(kept) else UNKNOWN,
            item_ids=tuple(self.item_ids[i] for i in kept),
            item=self.item[kept],
            kinds=tuple(self.kinds[i] for i in kept),
            time_us=self.time_us[kept],
        )


NOBODY = UserState(None, UNKNOWN, (), np.zeros(0, np.int32), ())


class LiveUsers:
    """The states of all users of a store, for one release. Thread-safe if the store is."""

    def __init__(
        self,
        store: EventStore | None,
        items: Vocabulary,
        users: Vocabulary,
        user_events: NDArray[np.int32],
        *,
        limit: int = 5_000,
        minimum_value: float | None = None,
        capacity: int = 1_000_000,
    ) -> None:
        """user_events: [U] events of each user when the release was made. limit: events read of a user.

        capacity: events held in all states together, about 100 bytes each.
        """
        self._store, self._items, self._users = store, items, users
        self._user_events, self._limit, self._capacity = user_events, limit, capacity
        self._minimum_value = minimum_value
        self._kept: OrderedDict[str, UserState] = OrderedDict()
        self._held = 0
        self._seen = StoreState(-1, -1)
        self._lock = threading.Lock()

    def state(self, user_id: str) -> UserState:
        """The state of a user, with everything acknowledged before the call."""
        if self._store is None:
            return replace(NOBODY, user_id=user_id)
        with self._lock:
            self._catch_up(self._store)
            seen = self._seen
            if (found := self._kept.get(user_id)) is not None:
                self._kept.move_to_end(user_id)
                return found
        fresh = self._read(user_id)
        with self._lock:
            if seen == self._seen:  # else it may be older than what others have dropped meanwhile
                self._keep(user_id, fresh)
        return fresh

    def _keep(self, user_id: str, state: UserState) -> None:
        """Put a state in front and let the longest unused ones go; an empty state counts as one event."""
        self._drop(user_id)
        self._kept[user_id] = state
        self._held += len(state.item_ids) + 1
        while self._held > self._capacity and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, user_id: str) -> None:
        if (old := self._kept.pop(user_id, None)) is not None:
            self._held -= len(old.item_ids) + 1

    def _clear(self) -> None:
        self._kept.clear()
        self._held = 0

    def _catch_up(self, store: EventStore) -> None:
        """Drop the states of users who have new events, from any process, and all after a forgetting."""
        now = store.state()
        if now == self._seen:
            return
        if now.forgotten != self._seen.forgotten or not self._kept:
            self._clear()
        else:
            changes = store.changes_since(self._seen.last_arrival, limit=MOST_CHANGES)
            if changes.height == MOST_CHANGES:
                self._clear()
            for user_id in set(changes["user_id"].to_list()):
                self._drop(user_id)
        self._seen = now

    def given(self, user_id: str | None, history: Sequence[str]) -> UserState:
        """The state of a request that brings its own history."""
        kinds = (ASKED_KIND,) * len(history)
        return UserState(user_id, UNKNOWN, tuple(history), self._items.numbers(history), kinds)

    def _read(self, user_id: str) -> UserState:
        assert self._store is not None  # noqa: S101 - asked only then
        newest = self._store.recent(user_id, limit=self._limit)
        item_ids = tuple(reversed(newest.items))
        times = newest.times_us[::-1]
        numbers = self._items.numbers(item_ids)
        if self._minimum_value is not None:
            numbers[newest.values[::-1] < self._minimum_value] = UNKNOWN  # NaN, no value, is not below
        return UserState(
            user_id=user_id,
            number=self._number(user_id, len(newest)),
            item_ids=item_ids,
            item=numbers,
            kinds=tuple(reversed(newest.kinds)),
            time_us=None if not len(newest) or (times == NO_TIME_US).any() else np.ascontiguousarray(times),
        )

    def _number(self, user_id: str, events: int) -> int:
        """The user's number; UNKNOWN for one who has fewer events than the release was trained on.

        Events only grow, so such a person asked to be forgotten, and what the model learnt of them must not
        be used any more, though the release still holds it.
        """
        number = self._users.number(user_id)
        if number < 0 or events < min(self._limit, int(self._user_events[number])) or not events:
            return UNKNOWN
        return number
