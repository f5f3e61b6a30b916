"""What an event store promises. Each promise is a test in `tests/events/test_store_contract.py`, run over
every implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.events.event import EventBatch


@dataclass(frozen=True)
class AppendResult:
    """What an append did with each row: `is_new[b]` is True where row b of the batch was stored."""

    stored: int
    repeated: int
    is_new: NDArray[np.bool_]


@dataclass(frozen=True)
class StoreState:
    """A cheap mark of where a store stands. Another worker keeps the last one it saw and compares.

    last_arrival: the number of the newest event; grows with every stored event and never goes back.
    forgotten: how many times a person was forgotten; when it grew, drop what you hold of unknown people.
    """

    last_arrival: int
    forgotten: int


NO_TIME_US = -(2**63)
"""Stands for a null time in arrays; sorts before every other."""


@dataclass(frozen=True)
class Recent:
    """The newest events of a person, newest first, as columns [rows] without ids: what serving reads.

    values: NaN for none. times_us: NO_TIME_US for none. as_of: the store's `last_arrival` at that moment.
    """

    items: list[str]
    kinds: list[str]
    values: NDArray[np.float64]
    times_us: NDArray[np.int64]
    as_of: int

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Arrivals:
    """Events in order of arrival, as columns [rows] without ids: what a follower of the store reads. Mostly
    they are one or two, for which Python's own numbers cost less than arrays.

    values: NaN for none. times_us: NO_TIME_US for none.
    """

    arrivals: Sequence[int]
    user_ids: list[str]
    items: Sequence[str]
    kinds: list[str]
    values: Sequence[float]
    times_us: Sequence[int]

    def __len__(self) -> int:
        return len(self.items)


class EventStore(Protocol):
    """The log of events. Frames have EVENT_SCHEMA; those of `changes_since` also have `arrival` (Int64).

    Arrival numbers grow in the order of appending, inside a batch in the order of its rows; they may have
    gaps. A null time sorts before every other. All methods may be called from several threads, and several
    processes may open one store. All raise Busy when another process holds the store for too long,
    CorruptArtifact with the file's name when it cannot be read, StorageFull when the disk is full.
    """

    def append(self, batch: EventBatch) -> AppendResult:
        """Store the events of a batch, all or none.

        When this returns, the new events survive kill -9 and power loss. An event id that is already there,
        or that came earlier in the same batch, changes nothing and counts as repeated.
        """

    def scan(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        """All events as of the first chunk, ordered by (time, arrival), in chunks; memory is bounded."""

    def scan_by_user(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        """All events as of the first chunk, person after person, each ordered by (time, arrival)."""

    def history(self, user_id: str, limit: int = 200) -> pl.DataFrame:
        """The newest events of a person, newest first (later arrivals first among equal times).

        Sees every append that has returned, in this process or another.
        """

    def recent(self, user_id: str, limit: int = 200) -> Recent:
        """The same events as `history`, leaner: no ids and no frame, which is half of the time."""

    def event_count(self, user_id: str | None = None) -> int:
        """How many events there are, of one person or of all."""

    def state(self) -> StoreState:
        """Where the store stands; microseconds, so that a worker can ask before every answer."""

    def changes_since(self, arrival: int, *, user_id: str | None = None, limit: int = 10_000) -> pl.DataFrame:
        """The events that arrived after `arrival` (of one person, or of all), oldest arrival first."""

    def arrivals_since(self, arrival: int, limit: int = 10_000) -> Arrivals:
        """The same events as `changes_since`, leaner: a tenth of the time for a single one."""

    def forget(self, user_id: str) -> int:
        """Remove a person: their events and every byte of their id. Returns how many events went.

        Forgetting somebody unknown returns 0. Raises Busy when a reader holds old pages for too long: the
        events are gone by then, and calling again finishes the wiping.
        """

    def close(self) -> None:
        """Release the files; afterwards nothing but `close` may be called."""
