"""Answers on their way to the impression store: noted at once, written together, never waited for.

Noting an answer is one append to a queue in memory; five times a second a thread writes what is there. A
crash loses the answers of the last moment; feedback is written before its request is answered. A log must
not stop the service: while callers stand in line no answer is written, a long queue goes to the disk in
small parts, and when memory is full answers are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from slipstream.errors import SlipstreamError
from slipstream.events.impressions import DAY_US, FeedbackSettings, is_sampled, person_of
from slipstream.events.sqlite_impressions import Feedback, Served, SqliteImpressionStore
from slipstream.recommend.exploration import CERTAIN, Drawn
from slipstream.recommend.slate import Slate
from slipstream.server.trusted_clock import TrustedClock
from slipstream.server.wire import Problem

log = logging.getLogger("slipstream.server")

EVERY_S = 0.2
MOST_ANSWERS = 20_000
"""Kept in memory; at 500 bytes each about 10 MB."""
MOST_TOGETHER = 500
"""Answers of one transaction: preparing them takes turns with the event loop, 500 for about 5 ms."""
MOST_FEEDBACK = 256


_Noted = tuple[int, Slate, str, Drawn]


class ImpressionLog:
    """Belongs to one event loop; `note` may be called from any thread. Owns the store."""

    def __init__(
        self,
        store: SqliteImpressionStore,
        settings: FeedbackSettings,
        *,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        """crowded: whether answers must wait for each other now, so that writing has to wait for them."""
        self._store, self._settings, self._crowded = store, settings, crowded
        self._answers: deque[_Noted] = deque()
        self._feedback: deque[tuple[Sequence[Feedback], asyncio.Future[None]]] = deque()
        self._wake, self._ending = asyncio.Event(), False
        self._task: asyncio.Task[None] | None = None
        self._cleaned_day = -1
        newest = store.newest_day()
        fits = newest is None or _now_us() // DAY_US - newest < settings.keep_days
        self._clock = TrustedClock(believed=fits)
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Answers in memory."""
        return len(self._answers)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def note(self, slate: Slate, arm: str = "", drawn: Drawn = CERTAIN) -> None:
        """Keep an answer if it is in the sample and there is room; about a microsecond."""
        if not is_sampled(slate.request_id, self._settings.sample):
            return
        if len(self._answers) >= MOST_ANSWERS:
            self.dropped += 1
            return
        self._answers.append((_now_us(), slate, arm, drawn))

    async def attach(self, feedback: Sequence[Feedback]) -> None:
        """Returns once the feedback is durable; what waits goes to the disk together.

        Raises what the store raised, or Problem 503 if many wait.
        """
        if len(self._feedback) >= MOST_FEEDBACK:
            detail = "too much feedback is waiting for the disk"
            raise Problem(503, "overloaded", detail, "retry after a moment", headers={"retry-after": "1"})
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._feedback.append((feedback, done))
        self._wake.set()
        await done

    async def finish(self) -> None:
        """Write what is there, then close."""
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._store.close()

    async def _run(self) -> None:
        """A task of its own: a caller who goes away must not take others' rows along."""
        while not self._ending or self._feedback or self._answers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), EVERY_S)
            self._wake.clear()
            await self._write()
            await self._clean()

    async def _write(self) -> None:
        """All feedback that waits, and answers if nobody stands in line; in parts, each one transaction."""
        while await self._write_part() and not self._crowded():
            pass

    async def _write_part(self) -> bool:
        """Whether more answers wait than were written."""
        most = 0 if self._crowded() and not self._ending else MOST_TOGETHER
        answers = [self._answers.popleft() for _ in range(min(most, len(self._answers)))]
        waiting = [self._feedback.popleft() for _ in range(len(self._feedback))]
        if not answers and not waiting:
            return False
        feedback = [row for rows, _ in waiting for row in rows]
        try:
            await asyncio.to_thread(self._append, answers, feedback)
        except Exception as error:  # whoever waits is told, and the service goes on
            self.dropped += len(answers)
            log.error("%d answers were not logged: %s", len(answers), error)
            for _, done in waiting:
                if not done.done():
                    done.set_exception(error)
        else:
            for _, done in waiting:
                if not done.done():
                    done.set_result(None)
        return bool(answers and self._answers)

    def _append(self, answers: list[_Noted], feedback: list[Feedback]) -> None:
        self._store.append((_served(*answer) for answer in answers), feedback, now_us=_now_us())

    async def _clean(self) -> None:
        """Once a day, and at the start: remove the days that are past keeping, if the clock can be believed.

        One by which everything at once is too old is asked again after an hour.
        """
        today = _now_us() // DAY_US
        if not self._clock.believed() or today == self._cleaned_day:
            return
        self._cleaned_day = today
        with contextlib.suppress(SlipstreamError):  # another process may hold the file: tomorrow, then
            oldest = (today - self._settings.keep_days) * DAY_US
            await asyncio.to_thread(self._store.drop_before, oldest)


def _served(time_us: int, slate: Slate, arm: str, drawn: Drawn) -> Served:
    return Served(
        slate.request_id,
        person_of(slate.user_id),
        time_us,
        slate.release,
        arm,
        slate.tier,
        [item.item_id for item in slate.items],
        [item.score for item in slate.items],
        drawn.propensities,
        drawn.pool,
        drawn.teams,
    )


def _now_us() -> int:
    return time.time_ns() // 1000
