"""The obvious event store, in a list, and small batches: what the real ones are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from slipstream.events.event import EVENT_SCHEMA, EventBatch
from slipstream.events.store import NO_TIME_US, AppendResult, Arrivals, Recent, StoreState

START_US = 1_700_000_000_000_000


def batch(*rows: tuple[Any, ...]) -> EventBatch:
    """Rows of (user, item, seconds after START_US or None, and optionally kind, value, event id)."""
    full = [row + (None,) * (6 - len(row)) for row in rows]
    frame = pl.DataFrame(
        {
            "user_id": [row[0] for row in full],
            "item_id": [row[1] for row in full],
            "time_us": [None if row[2] is None else START_US + int(row[2] * 1_000_000) for row in full],
            "kind": [row[3] for row in full],
            "value": [row[4] for row in full],
            "event_id": [row[5] for row in full],
        },
        schema={
            name: EVENT_SCHEMA[name]
            for name in ("user_id", "item_id", "time_us", "kind", "value", "event_id")
        },
    )
    return EventBatch.of(frame)


class ListStore:
    """An EventStore that cannot be wrong and cannot be fast; it forgets everything when it is closed."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self._last = 0
        self._forgotten = 0

    def append(self, batch: EventBatch) -> AppendResult:
        is_new = []
        for row in batch.frame.iter_rows(named=True):
            self._last += 1
            is_new.append(all(row["event_id"] != other["event_id"] for _, other in self._rows))
            if is_new[-1]:
                self._rows.append((self._last, row))
        return AppendResult(sum(is_new), len(is_new) - sum(is_new), np.array(is_new, bool))

    def _ordered(self, rows: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
        def key(pair: tuple[int, dict[str, Any]]) -> tuple[bool, int, int]:
            time_us = pair[1]["time_us"]
            return (time_us is not None, time_us or 0, pair[0])

        return sorted(rows, key=key)

    def _of(self, user_id: str) -> list[tuple[int, dict[str, Any]]]:
        return [pair for pair in self._rows if pair[1]["user_id"] == user_id]

    def _frame(self, rows: list[tuple[int, dict[str, Any]]]) -> pl.DataFrame:
        return pl.DataFrame([row for _, row in rows], schema=EVENT_SCHEMA)

    def _chunks(self, frame: pl.DataFrame, chunk_rows: int) -> Iterator[pl.DataFrame]:
        return (frame[start : start + chunk_rows] for start in range(0, frame.height, chunk_rows))

    def scan(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        return self._chunks(self._frame(self._ordered(self._rows)), chunk_rows)

    def scan_by_user(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        people = dict.fromkeys(row["user_id"] for _, row in self._rows)
        rows = [pair for name in people for pair in self._ordered(self._of(name))]
        return self._chunks(self._frame(rows), chunk_rows)

    def history(self, user_id: str, limit: int = 200) -> pl.DataFrame:
        return self._frame(self._ordered(self._of(user_id))[::-1][:limit])

    def recent(self, user_id: str, limit: int = 200) -> Recent:
        rows = self.history(user_id, limit)
        values = rows["value"].fill_null(float("nan")).to_numpy()
        times = rows["time_us"].fill_null(NO_TIME_US).to_numpy()
        return Recent(rows["item_id"].to_list(), rows["kind"].to_list(), values, times, self._last)

    def event_count(self, user_id: str | None = None) -> int:
        return len(self._rows if user_id is None else self._of(user_id))

    def state(self) -> StoreState:
        return StoreState(self._last, self._forgotten)

    def changes_since(self, arrival: int, *, user_id: str | None = None, limit: int = 10_000) -> pl.DataFrame:
        rows = [pair for pair in (self._rows if user_id is None else self._of(user_id)) if pair[0] > arrival]
        arrivals = pl.Series("arrival", [number for number, _ in rows[:limit]], pl.Int64)
        return self._frame(rows[:limit]).with_columns(arrivals)

    def arrivals_since(self, arrival: int, limit: int = 10_000) -> Arrivals:
        rows = self.changes_since(arrival, limit=limit)
        values = rows["value"].fill_null(float("nan")).to_list()
        times = rows["time_us"].fill_null(NO_TIME_US).to_list()
        names = (rows[name].to_list() for name in ("arrival", "user_id", "item_id", "kind"))
        return Arrivals(*names, values, times)

    def forget(self, user_id: str) -> int:
        gone = len(self._of(user_id))
        self._rows = [pair for pair in self._rows if pair[1]["user_id"] != user_id]
        self._forgotten += bool(gone)
        return gone

    def close(self) -> None:
        return None
