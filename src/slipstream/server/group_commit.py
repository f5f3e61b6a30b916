"""Many small writes as one: whatever waits while the disk is busy goes to it together.

A write that is durable costs one fsync, however many events it holds, so requests that arrive during one
share the next. Each request still gets its own counts, and is answered only when its events are on the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import polars as pl

from slipstream.events.event import EventBatch
from slipstream.events.store import AppendResult, EventStore
from slipstream.server.wire import Problem

MOST_EVENTS_TOGETHER = 20_000
MOST_WAITING = 256


@dataclass(frozen=True)
class Stored:
    stored: int
    repeated: int


class GroupCommit:
    """Appends batches to one store, in the order they came. Belongs to one event loop."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._waiting: deque[tuple[EventBatch, asyncio.Future[Stored]]] = deque()
        self._writer: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def append(self, batch: EventBatch) -> Stored:
        """Returns once the batch is durable. Raises what the store raised, or Problem 503 if many wait."""
        if len(self._waiting) >= MOST_WAITING:
            detail = "too many writes are waiting for the disk"
            raise Problem(503, "overloaded", detail, "retry after a moment", headers={"retry-after": "1"})
        done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await done

    async def finish(self) -> None:
        """Wait until everything that was accepted is written."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._waiting:
            group = self._group()
            frame = pl.concat([batch.frame for batch, _ in group])
            try:
                result = await asyncio.to_thread(self._store.append, EventBatch(frame))
            except Exception as error:  # whoever waits is told, and the queue goes on
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
            else:
                self._tell(group, result)

    def _group(self) -> list[tuple[EventBatch, asyncio.Future[Stored]]]:
        """What goes to the disk next: one batch at least, and more while they stay small together."""
        group = [self._waiting.popleft()]
        events = len(group[0][0])
        while self._waiting and events + len(self._waiting[0][0]) <= MOST_EVENTS_TOGETHER:
            group.append(self._waiting.popleft())
            events += len(group[-1][0])
        return group

    @staticmethod
    def _tell(group: list[tuple[EventBatch, asyncio.Future[Stored]]], result: AppendResult) -> None:
        start = 0
        for batch, done in group:
            stored = int(result.is_new[start : start + len(batch)].sum())
            start += len(batch)
            if not done.done():
                done.set_result(Stored(stored, len(batch) - stored))
