"""What a served model is chosen on: each user's last event, held out of a snapshot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.randomness import generator

FEWEST_EVENTS = 3
MOST_USERS = 20_000  # more narrow the estimate no further than a model's own noise, and cost time every epoch


def hold_out_last(
    snapshot: Snapshot,
    *,
    seed: int = 0,
    goal: str | None = None,
    repeat: bool = False,
    most_users: int = MOST_USERS,
) -> tuple[Snapshot, Holdout | None]:
    """(what to learn from, what to choose on): the last event of users with at least three, held out.

    Where the order means nothing a random event of the user is held out instead. goal: only events of this
    kind can be targets (purchases, say); the events before it stay the history. repeat: whether
    an item of the history may be recommended again; if not, who came back to one is not asked. With more
    than `most_users` users a seeded sample of them is asked, the others keep all their events. O(E).
    """
    lengths = np.diff(snapshot.offsets)
    place = _place(snapshot, lengths, seed, goal)
    askable = (lengths >= FEWEST_EVENTS) & (place > 0)
    if not repeat:
        askable &= _new_to_them(snapshot, place)
    asked = np.flatnonzero(askable)
    if len(asked) > most_users:
        asked = np.sort(generator(seed, "validation users").choice(asked, most_users, replace=False))
    if not len(asked):
        return snapshot, None
    target = snapshot.offsets[asked] + place[asked]
    keep = np.ones(snapshot.event_count, bool)
    if snapshot.ordered:
        keep[_from_target_on(snapshot, asked, place)] = False
    else:
        keep[target] = False
    train = snapshot.keep(keep)
    queries = queries_of(train, asked)
    return train, Holdout(queries, np.arange(len(asked) + 1), np.asarray(snapshot.item[target]), repeat)


def _new_to_them(snapshot: Snapshot, place: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[U], whether the user's event at `place` is the first of its item; in unordered data the only one."""
    target = snapshot.offsets[:-1] + np.maximum(place, 0)
    wanted = np.full(snapshot.user_count, -1, np.int64)
    some = np.diff(snapshot.offsets) > 0
    wanted[some] = snapshot.item[target[some]]
    same = np.asarray(snapshot.item) == wanted[snapshot.user]
    event = np.arange(snapshot.event_count)
    other = same & ((event < target[snapshot.user]) if snapshot.ordered else (event != target[snapshot.user]))
    fresh = np.ones(snapshot.user_count, bool)
    fresh[np.asarray(snapshot.user)[other]] = False
    return fresh


def _place(snapshot: Snapshot, lengths: NDArray[np.int64], seed: int, goal: str | None) -> NDArray[np.int64]:
    """The position of each user's target inside the history; -1 where there is none."""
    if goal is not None:
        wanted = snapshot.kind == snapshot.kinds.index(goal) if goal in snapshot.kinds else np.zeros(0, bool)
        position = np.arange(snapshot.event_count) - np.repeat(snapshot.offsets[:-1], lengths)
        last = np.full(snapshot.user_count, -1, np.int64)
        found = np.flatnonzero(wanted)
        np.maximum.at(last, snapshot.user[found], position[found])
        return last
    if snapshot.ordered:
        return np.asarray(lengths - 1)
    draw = generator(seed, "validation events").random(snapshot.user_count)
    return np.minimum((draw * lengths).astype(np.int64), lengths - 1)


def _from_target_on(
    snapshot: Snapshot, asked: NDArray[np.int64], place: NDArray[np.int64]
) -> NDArray[np.int64]:
    """All events of the asked users from their target on: what follows a purchase must not explain it."""
    starts, stops = snapshot.offsets[asked] + place[asked], snapshot.offsets[asked + 1]
    counts = stops - starts
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
