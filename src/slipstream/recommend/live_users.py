"""What is known of a user at this moment: the stored history, in the numbers of a release.

States are kept in an LRU with a budget in bytes. Before every answer the store is asked where it stands;
events that any process wrote since then are appended to the states they belong to, and where appending would
not be right (a late event, a forgetting) the state is dropped and read again. So an acknowledged event is in
the next answer of every worker, and what a restart loses is only the time to read a history again.
"""

from __future__ import annotations

import itertools
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
from slipstream.events.store import NO_TIME_US, Arrivals, EventStore, StoreState
from slipstream.recommend.memo import Memo

if TYPE_CHECKING:
    from slipstream.recommend.newcomers import Shelf
    from slipstream.recommend.rules import Rules

BUDGET_BYTES = 256 << 20
MOST_CHANGES = 10_000
"""After more new events than this it is cheaper to forget all states than to look who is meant."""
LATEST = 16
"""Events that are looked through one by one before a table of all of them is made."""
ASKED_KIND = "click"
"""The kind of an event that a request only mentions (the contract's default kind)."""


@dataclass(frozen=True, eq=False)
class UserState:
    """A history, oldest first, with ties in the order of arrival.

    number: the user's dense number, UNKNOWN for a person whom the release has not met or who was forgotten.
    item: UNKNOWN (-1) where the model may not know of the event: the release does not hold the item, or the
      event's value is below the minimum. Its outside id is in item_ids all the same.
    time_us: None where some event has no time. as_of: the last arrival of the store when this was true.
    memo: what was worked out for this very state; None where nothing may be kept (a given history).
    """

    user_id: str | None
    number: int
    item_ids: tuple[str, ...]
    item: NDArray[np.int32]  # [H]
    kinds: tuple[str, ...]
    time_us: NDArray[np.int64] | None = None  # [H]
    as_of: int = 0
    memo: Memo | None = None

    @property
    def nbytes(self) -> int:
        """About what it holds: 100 bytes an event (its id is most of it), and the memo."""
        return 500 + 100 * len(self.item_ids) + (0 if self.memo is None else self.memo.nbytes)

    @cached_property
    def _places(self) -> NDArray[np.int64] | None:
        """The events on items that the release holds, [H']; None: all of them."""
        known = self.item >= 0
        return None if known.all() else np.flatnonzero(known)

    def known_ids(self, events: Sequence[int]) -> list[str]:
        """The item ids of some events of `query`."""
        places = self._places
        return [self.item_ids[n if places is None else places[n]] for n in events]

    @cached_property
    def _query(self) -> Queries:
        places, item, time_us = self._places, self.item, self.time_us
        if places is not None:
            item, time_us = item[places], None if time_us is None else time_us[places]
        return Queries(np.array([self.number], np.int32), np.array([0, len(item)], np.int64), item, time_us)

    def query(self, now_us: int | None = None) -> Queries:
        """What the model is asked: the events on items that the release holds."""
        return self._query if now_us is None else replace(self._query, now_us=np.array([now_us], np.int64))

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return dict(zip(self.item_ids, self.kinds, strict=True))

    def kind_of(self, item_id: str) -> str | None:
        """The kind of the latest event on an item; None if it was never touched."""
        for place in range(1, min(LATEST, len(self.item_ids)) + 1):  # where reasons mostly come from
            if self.item_ids[-place] == item_id:
                return self.kinds[-place]
        return self._kinds.get(item_id)

    def touched(self, shelf: Shelf, rules: Rules) -> NDArray[np.integer]:
        """Shelf numbers of the items that count as seen."""
        if rules.touched_by is None:
            if self._places is None:
                return self.item
            counted = np.ones(len(self.item), bool)
        else:
            counted = np.array([rules.touches(kind) for kind in self.kinds], bool)
        known = self.item >= 0
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
            memo=None,
        )

    def followed_by(
        self,
        item_ids: tuple[str, ...],
        item: NDArray[np.int32],
        kinds: tuple[str, ...],
        times_us: list[int],
        *,
        number: int,
        as_of: int,
    ) -> UserState | None:
        """This state with later events at its end; None where they do not all belong there."""
        timeless = self.time_us is None and len(self.item_ids) > 0
        if timeless or NO_TIME_US in times_us or sorted(times_us) != times_us:
            return None
        time_us = np.array(times_us, np.int64)
        if self.time_us is not None and len(self.time_us):
            if times_us[0] < self.time_us[-1]:
                return None
            time_us = np.concatenate([self.time_us, time_us])
        handed_on = self.memo.model if self.memo is not None and len(self.item_ids) else None
        return UserState(
            user_id=self.user_id,
            number=number,
            item_ids=self.item_ids + item_ids,
            item=np.concatenate([self.item, item]),
            kinds=self.kinds + kinds,
            time_us=time_us,
            as_of=as_of,
            memo=Memo(handed_on),
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
        budget_bytes: int = BUDGET_BYTES,
        idle_int8: bool = False,
    ) -> None:
        """user_events: [U] events of each user when the release was made. limit: events read of a user.

        budget_bytes: of all kept states with their memos; the longest unused go first.
        idle_int8: beyond half of it, the model states of the longest unused are kept in a quarter of their
        bytes; they come back rounded (`ModelMemory.rest`): an answer depends a little on who else was there.
        """
        self._store, self._items, self._users = store, items, users
        self._user_events, self._limit, self._budget = user_events, limit, budget_bytes
        self._minimum_value = minimum_value
        self._kept: OrderedDict[str, UserState] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._awake: OrderedDict[str, None] | None = OrderedDict() if idle_int8 else None
        self._awake_bytes = 0
        self.held_bytes = 0
        self._seen = StoreState(-1, -1)
        self._strangers = Memo()  # people without events are all alike
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def latest(self, most: int) -> list[str]:
        """The users whose states were used last, the latest first."""
        with self._lock:
            return list(itertools.islice(reversed(self._kept), most))

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
        with self._lock:  # what others have caught up with meanwhile must be in it already
            if seen.forgotten == self._seen.forgotten and fresh.as_of >= self._seen.last_arrival:
                self._keep(user_id, fresh)
        return fresh

    def settle(self, user: UserState) -> None:
        """Count what was worked out for a state while an answer was made."""
        with self._lock:
            if user.user_id is not None and self._kept.get(user.user_id) is user:
                self._keep(user.user_id, user)

    def _keep(self, user_id: str, state: UserState) -> None:
        """Put a state in front and let the longest unused ones go."""
        self._drop(user_id)
        size = state.nbytes if state.memo is not self._strangers else 500
        self._kept[user_id], self._sizes[user_id] = state, size
        self.held_bytes += size
        if self._awake is not None:
            self._awake[user_id] = None
            self._awake_bytes += size
            self._put_to_rest(self._awake)
        while self.held_bytes > self._budget and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _put_to_rest(self, awake: OrderedDict[str, None]) -> None:
        """The longest unused ones, until those awake take no more than half of the budget."""
        while self._awake_bytes > self._budget // 2 and len(awake) > 1:
            user_id, _ = awake.popitem(last=False)
            self._awake_bytes -= self._sizes[user_id]
            memo = self._kept[user_id].memo
            if memo is None or memo is self._strangers:
                continue
            memo.model.rest()
            size = self._kept[user_id].nbytes
            self.held_bytes += size - self._sizes[user_id]
            self._sizes[user_id] = size

    def _drop(self, user_id: str) -> UserState | None:
        size = self._sizes.pop(user_id, 0)
        self.held_bytes -= size
        if self._awake is not None and user_id in self._awake:
            del self._awake[user_id]
            self._awake_bytes -= size
        return self._kept.pop(user_id, None)

    def _clear(self) -> None:
        self._kept.clear()
        self._sizes.clear()
        self.held_bytes = self._awake_bytes = 0
        if self._awake is not None:
            self._awake.clear()

    def _catch_up(self, store: EventStore) -> None:
        """Append what arrived since the last look, from any process; drop all after a forgetting."""
        now = store.state()
        if now == self._seen:
            return
        if now.forgotten != self._seen.forgotten or not self._kept:
            self._clear()
        else:
            changes = store.arrivals_since(self._seen.last_arrival, MOST_CHANGES)
            if len(changes) == MOST_CHANGES:
                self._clear()
            elif len(changes):
                self._follow(changes)
                now = replace(now, last_arrival=max(now.last_arrival, changes.arrivals[-1]))
        self._seen = now

    def _follow(self, changes: Arrivals) -> None:
        """Append events to the kept states of their users."""
        places: dict[str, list[int]] = {}
        for place, user_id in enumerate(changes.user_ids):
            if (kept := self._kept.get(user_id)) is not None and changes.arrivals[place] > kept.as_of:
                places.setdefault(user_id, []).append(place)
        for user_id, rows in places.items():
            after = self._followed(self._kept[user_id], changes, rows)
            self._drop(user_id)
            if after is not None:
                self._keep(user_id, after)

    def _followed(self, before: UserState, changes: Arrivals, rows: list[int]) -> UserState | None:
        """The state with the events of `rows` at its end; None where it has to be read again."""
        events = len(before.item_ids) + len(rows)
        if events > self._limit:
            return None
        item_ids = tuple(changes.items[row] for row in rows)
        return before.followed_by(
            item_ids,
            self._numbers(item_ids, [changes.values[row] for row in rows]),
            tuple(changes.kinds[row] for row in rows),
            [changes.times_us[row] for row in rows],
            number=self._number(before.user_id or "", events),
            as_of=changes.arrivals[rows[-1]],
        )

    def given(self, user_id: str | None, history: Sequence[str]) -> UserState:
        """The state of a request that brings its own history."""
        kinds = (ASKED_KIND,) * len(history)
        return UserState(user_id, UNKNOWN, tuple(history), self._items.numbers(history), kinds)

    def _read(self, user_id: str) -> UserState:
        assert self._store is not None  # noqa: S101 - asked only then
        newest = self._store.recent(user_id, limit=self._limit)
        item_ids = tuple(reversed(newest.items))
        times = newest.times_us[::-1]
        return UserState(
            user_id=user_id,
            number=self._number(user_id, len(newest)),
            item_ids=item_ids,
            item=self._numbers(item_ids, newest.values[::-1]),
            kinds=tuple(reversed(newest.kinds)),
            time_us=None if not len(newest) or (times == NO_TIME_US).any() else np.ascontiguousarray(times),
            as_of=newest.as_of,
            memo=Memo() if len(newest) else self._strangers,
        )

    def _numbers(
        self, item_ids: Sequence[str], values: Sequence[float] | NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """Dense numbers, UNKNOWN also where the value is too small; NaN, no value, is not."""
        numbers = self._items.numbers(item_ids)
        if self._minimum_value is not None:
            numbers[np.asarray(values) < self._minimum_value] = UNKNOWN
        return numbers

    def _number(self, user_id: str, events: int) -> int:
        """The user's number; UNKNOWN for one who has fewer events than the release was trained on.

        Events only grow, so such a person asked to be forgotten, and what the model learnt of them must not
        be used any more, though the release still holds it.
        """
        number = self._users.number(user_id)
        if number < 0 or events < min(self._limit, int(self._user_events[number])) or not events:
            return UNKNOWN
        return number
