"""Events into the order of a snapshot, repeats out, and the k-core: plain arrays, no Python per event.

The log is sorted by user with one counting sort (stable: arrival stays). What then needs an order inside a
user's events works in blocks of whole users that fit the cache, by sorting one packed integer per event.
Nothing here knows ids, files or rules' names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Keep = Literal["all", "first", "last"]

BLOCK_EVENTS = 1 << 17
"""One block's keys, 1 MiB, stay in a core's cache; larger and smaller blocks were slower."""

SECOND_US = 1_000_000
WORD_BITS, HALF_WORD_BITS = 63, 31


SWEEPS = 8
"""The index costs about as much as this many sweeps over the events; most logs need fewer rounds."""


def order_by_user(user: Ints, users: int) -> tuple[NDArray[np.int64], Ints]:
    """Offsets [U + 1] and the stable order of the events by user, [E]. O(E + U)."""
    events = len(user)
    places = np.arange(events, dtype=np.int32 if events < 1 << 31 else np.int64)
    # SciPy's conversion from coordinates to rows is a stable counting sort in C. Saying that there are no
    # repeated coordinates keeps it from summing them, as it would for a matrix.
    matrix = sp.coo_array((places, (user, np.zeros(events, user.dtype))), shape=(users, 1))
    matrix.has_canonical_format = True
    rows = matrix.tocsr()
    return rows.indptr.astype(np.int64), rows.data


def gather(values: NDArray[Any], places: Ints, step: int = 1 << 20) -> NDArray[Any]:
    """values[places], [len(places)], in pieces: NumPy makes 8-byte copies of the places."""
    found = np.empty(len(places), values.dtype)
    for start in range(0, len(places), step):
        piece = slice(start, start + step)
        np.take(values, places[piece], out=found[piece], mode="clip")  # other modes copy once more
    return found


def user_blocks(offsets: NDArray[np.int64], events: int = BLOCK_EVENTS) -> Iterator[tuple[int, int]]:
    """Ranges of whole users with about `events` events; a user with more has a block alone."""
    first, users = 0, len(offsets) - 1
    while first < users:
        fitting = int(np.searchsorted(offsets, offsets[first] + events, side="right")) - 1
        last = max(fitting, first + 1)
        yield first, last
        first = last


def grouped_order(*fields: Ints) -> tuple[NDArray[np.int64], Mask]:
    """The stable order by `fields` (not negative; the first counts most), and where a new combination starts.

    Fields that fit one word together with the place are packed and sorted as plain integers: NumPy sorts
    those with vector instructions, several times faster than an indirect sort. Where they do not fit, the
    last ones are replaced by their rank first, which is never wider than the place.
    """
    count = len(fields[0])
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, bool)
    place_bits = (count - 1).bit_length()
    widths = [int(field.max()).bit_length() for field in fields]
    if sum(widths) + place_bits > WORD_BITS:
        if len(fields) == 1:
            return grouped_order(fields[0] >> HALF_WORD_BITS, fields[0] & ((1 << HALF_WORD_BITS) - 1))
        return grouped_order(fields[0], _rank(*fields[1:]))
    key = fields[0].astype(np.int64)
    for field, width in zip(fields[1:], widths[1:], strict=True):
        key <<= width
        key |= field
    key <<= place_bits
    key |= np.arange(count)
    key.sort()
    group = key >> place_bits
    key &= (1 << place_bits) - 1
    return key, np.append(True, group[1:] != group[:-1])


def _rank(*fields: Ints) -> NDArray[np.int64]:
    """Equal combinations have equal ranks, and ranks are in the order of the combinations; from 0."""
    order, starts = grouped_order(*fields)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.cumsum(starts) - 1
    return rank


def time_order(user: Ints, time_us: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The stable order by (user, time), or None if the events are in it. `user` must be sorted already."""
    if not ((time_us[1:] < time_us[:-1]) & (user[1:] == user[:-1])).any():
        return None
    since = time_us - time_us.min()
    if not (since % SECOND_US).any():
        since //= SECOND_US  # whole seconds need 20 bits less
    return grouped_order(user, since)[0]


@dataclass(frozen=True)
class Repeats:
    """Which events of a block stay, and how many went for which reason."""

    stays: Mask
    exact: int
    superseded: int


def find_repeats(
    user: Ints, item: Ints, kind: Ints | None, time_us: NDArray[np.int64] | None, *, exact: bool, keep: Keep
) -> Repeats:
    """Repeats among events sorted by (user, time, arrival).

    exact: of events with the same user, item, kind and time only the first to arrive stays. Without a clock
    nothing is an exact repeat. keep: then only the first or last event of each (user, item) stays.
    """
    stays = np.ones(len(user), bool)
    drop_exact = exact and time_us is not None
    if not drop_exact and keep == "all":
        return Repeats(stays, 0, 0)
    order, starts = grouped_order(user, item) if kind is None else grouped_order(user, item, kind)
    repeated = np.zeros(len(user), bool)
    if drop_exact and time_us is not None:
        times = time_us[order]
        repeated[1:] = ~starts[1:] & (times[1:] == times[:-1])
        stays[order[repeated]] = False
    if keep == "all":
        return Repeats(stays, int(repeated.sum()), 0)
    order, starts = order[~repeated], starts[~repeated]  # the first of a group is never a repeat
    if kind is not None:
        left = np.sort(order)
        inner, starts = grouped_order(user[left], item[left])
        order = left[inner]
    kept = starts if keep == "first" else np.append(starts[1:], True)[: len(starts)]
    stays[order[~kept]] = False
    return Repeats(stays, int(repeated.sum()), int((~kept).sum()))


@dataclass(frozen=True)
class Core:
    """The largest part of the log in which every user and every item has its minimum of events.

    stays: [E]. user_events [U] and item_events [I] count what stays. rounds: until nothing changed.
    """

    stays: Mask
    user_events: NDArray[np.int64]
    item_events: NDArray[np.int64]
    rounds: int


def k_core(
    offsets: NDArray[np.int64], item: Ints, items: int, *, min_user_events: int, min_item_events: int
) -> Core:
    """Take out too-rare users and items until none is left. The first rounds sweep over all events, O(E);
    later ones, which take little, go through an index of each item's events, O(U + I + what goes).

    The result does not depend on who goes first: it is the union of all parts that fulfil the minimum.
    """
    index: tuple[NDArray[np.int64], Ints] | None = None
    stays = np.ones(len(item), bool)
    user_events = np.diff(offsets)
    item_events = _count(item, items)
    rounds = 0
    while True:
        poor_users = (user_events > 0) & (user_events < min_user_events)
        poor_items = (item_events > 0) & (item_events < min_item_events)
        if not poor_users.any() and not poor_items.any():
            return Core(stays, user_events, item_events, rounds)
        rounds += 1
        gone = _events_of(offsets, np.flatnonzero(poor_users))
        gone = gone[stays[gone]]
        stays[gone] = False
        user_events[poor_users] = 0
        item_events -= _count(item[gone], items)
        if poor_items.any():
            if rounds > SWEEPS:
                index = index or order_by_user(item, items)  # the same counting sort, by item
                gone = index[1][_events_of(index[0], np.flatnonzero(poor_items))].astype(np.int64)
            else:
                gone = np.flatnonzero(poor_items[item])
            gone = gone[stays[gone]]
            stays[gone] = False
            item_events[poor_items] = 0
            owners = np.searchsorted(offsets, gone, side="right") - 1
            user_events -= _count(owners, len(user_events))


def _events_of(offsets: NDArray[np.int64], users: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of all events of `users`."""
    starts, lengths = offsets[users], offsets[users + 1] - offsets[users]
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return shift + np.arange(len(shift))


def _count(values: Ints, bins: int, step: int = 1 << 20) -> NDArray[np.int64]:
    """bincount in pieces: NumPy makes 8-byte copies of what it counts."""
    counts = np.zeros(bins, np.int64)
    for start in range(0, len(values), step):
        part = np.bincount(values[start : start + step], minlength=bins)
        counts += part
    return counts
