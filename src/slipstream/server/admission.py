"""Who is let in: bounded queues in front of the work, so that an overloaded server stays quick for those it
accepts and tells the others at once when to come back.

`Line` is for answers of well under a millisecond. They are made on the event loop, one between two looks at
the sockets: a thread would cost more than the answer, and would wait for the interpreter lock. `Gate` is for
work that may take longer, in threads of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from slipstream.server.wire import Problem

T = TypeVar("T")

MOST_WAITING = 64
LONGEST_WAIT_S = 2.0
PATIENCE_S = 0.010
"""How long the last in a standing line may expect to wait."""
FEWEST, BURST = 16, 64
"""Places that are always there, and places for a crowd that comes at once after a calm."""
STANDING_S = 0.1
"""A line that has not been empty for so long is a standing one, and no burst."""
CROWDED_S = 0.03
"""After so long, work that can wait does; well before anybody is refused."""


def overloaded() -> Problem:
    detail = "the server has all the work it can do"
    return Problem(503, "overloaded", detail, "retry after a moment", headers={"retry-after": "1"})


class Line:
    """Short work on the event loop, first come, first served. Belongs to one event loop.

    A queue that only absorbs bursts is useful, one that stands only adds to everybody's wait (the idea of
    CoDel, Nichols & Jacobson 2012). So the length is bounded by time: once the line has stood for STANDING_S,
    nobody is let in who would wait longer than PATIENCE_S by the mean time of a turn. Differs: CoDel drops at
    the head, here the newcomer is refused, because it can still be told so at once.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._turn_s = 0.001  # moving mean of the time between two turns
        self._standing_since = 0.0
        self._last = 0.0

    @property
    def inside(self) -> int:
        return len(self._waiting)

    def full(self) -> bool:
        """Whether nobody would be let in now."""
        return len(self._waiting) >= FEWEST and len(self._waiting) >= self._places(time.perf_counter())

    def standing(self) -> bool:
        """Whether there was always somebody waiting lately."""
        return bool(self._waiting) and time.perf_counter() - self._standing_since > CROWDED_S

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; Problem 503 for who is not let in, or has waited too long."""
        now = time.perf_counter()
        if not self._waiting:
            self._standing_since = self._last = now
        elif len(self._waiting) >= self._places(now):
            raise overloaded()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((now, work, done))
        if len(self._waiting) == 1:
            loop.call_soon(self._turn, loop)
        return await done

    def _places(self, now: float) -> int:
        if now - self._standing_since < STANDING_S:
            return BURST
        return max(FEWEST, min(BURST, int(PATIENCE_S / self._turn_s)))

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """One piece of work; the next one after the loop has looked at its sockets."""
        queued, work, done = self._waiting[0]
        try:
            if done.cancelled():
                return
            if time.perf_counter() - queued > LONGEST_WAIT_S:
                raise overloaded()
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        finally:
            now = time.perf_counter()
            self._turn_s += 0.05 * (now - self._last - self._turn_s)
            self._last = now
            self._waiting.popleft()
            if self._waiting:
                loop.call_soon(self._turn, loop)


class Gate:
    """Threads behind a bounded queue. A full queue or a too long wait is a 503 with Retry-After."""

    def __init__(self, name: str, threads: int, waiting: int = MOST_WAITING) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most = threads + waiting
        self.inside = 0

    async def run(self, work: Callable[[], T]) -> T:
        if self.inside >= self._most:
            raise overloaded()
        queued = time.monotonic()

        def timely() -> T:
            if time.monotonic() - queued > LONGEST_WAIT_S:
                raise overloaded()
            return work()

        self.inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, timely)
        finally:
            self.inside -= 1

    def close(self) -> None:
        """Wait for the work in hand."""
        self._pool.shutdown(wait=True)
