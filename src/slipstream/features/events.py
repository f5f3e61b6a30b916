"""What was true as of an event: time of day and week, gap to the event before, popularity so far.

Every column looks only backwards: the value for an event never depends on a later one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.snapshot import Snapshot

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
GAP_BINS = 16
SITTING_BINS = 6
SITTING_MINUTES = 63  # bin 6 ends there: 2^6 - 1


@dataclass(frozen=True)
class EventFeatures:
    """One row per event of the snapshot, [E]; time columns are None where the data has no clock."""

    popularity: NDArray[np.int32]  # events of this item before this one
    position: NDArray[np.int32]  # events of this user before this one
    hour: NDArray[np.int8] | None  # 0-23 UTC
    weekday: NDArray[np.int8] | None  # 0 = Monday
    gap_bin: NDArray[np.int8] | None  # 0 for the first event and ties, then log2 of minutes, at most 15


def event_features(snapshot: Snapshot) -> EventFeatures:
    """Features of every event as of its own moment. Cost O(E log E), once.

    Popularity counts all users' earlier events in (time, arrival) order; without a clock it counts by the
    position in each history, the only order there is.
    """
    position = np.arange(snapshot.event_count) - np.repeat(snapshot.offsets[:-1], np.diff(snapshot.offsets))
    clock = snapshot.time_us if snapshot.time_us is not None else position
    order = np.argsort(clock, kind="stable")
    popularity = np.empty(snapshot.event_count, np.int32)
    popularity[order] = _earlier_equal(snapshot.item[order])
    if snapshot.time_us is None:
        return EventFeatures(popularity, position.astype(np.int32), None, None, None)
    time = np.asarray(snapshot.time_us)
    gap = np.diff(time, prepend=time[:1])
    gap[position == 0] = 0
    return EventFeatures(
        popularity=popularity,
        position=position.astype(np.int32),
        hour=(time % DAY_US // HOUR_US).astype(np.int8),
        weekday=((time // DAY_US + 3) % 7).astype(np.int8),  # 1970-01-01 was a Thursday
        gap_bin=gap_bin(gap),
    )


def event_lines(features: EventFeatures) -> list[str]:
    """What the event features say about the data, for people."""
    half, most = (int(np.quantile(features.popularity, q)) for q in (0.5, 0.99))
    told = [
        f"popularity as of the event: {half:,} earlier events of the item at the median, {most:,} at 99 %"
    ]
    if features.hour is not None and features.weekday is not None and features.gap_bin is not None:
        hours = np.bincount(features.hour, minlength=24)
        inside = float((features.gap_bin[features.position > 0] <= SITTING_BINS).mean())
        busiest = f"the busiest hour is {int(hours.argmax())}:00 UTC"
        told.append(
            f"time: {busiest}; {inside:.0%} of the events follow the last within {SITTING_MINUTES} minutes"
        )
    return told


def gap_bin(gap_us: NDArray[np.int64]) -> NDArray[np.int8]:
    """log2 of the gap in minutes, 1 to 15; 0 for a tie."""
    minutes = np.maximum(gap_us, 0) / (60 * 1_000_000)
    bins = np.where(gap_us > 0, 1 + np.floor(np.log2(1 + minutes)), 0)
    return np.minimum(bins, GAP_BINS - 1).astype(np.int8)


def _earlier_equal(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each position, how many earlier positions hold the same value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    run = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    earlier = np.empty(len(values), np.int64)
    earlier[order] = run
    return earlier
