"""Several worker processes on one socket, and a reserve for the one that dies.

Nearly all of a worker's start is importing (0.65 of 0.7 CPU seconds). So one process more waits with all of
that behind it and takes the place of a dead worker within some hundredths of a second; the next reserve is
made when the server has had time to recover. Workers meet in the event store and in the files of the home,
so an event that one acknowledged is in the next answer of any.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from slipstream.errors import Unavailable
from slipstream.server.spread import ABSENT, Spread

log = logging.getLogger("slipstream.server")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.02
RESTART_SECONDS = 1.0
MOST_FAILED_STARTS = 5
"""After so many workers in a row that ended before they could serve, the server gives up."""
RECOVERY_SECONDS = 3.0
"""After a worker was replaced; only then the next reserve is made, which takes a core for a moment."""


@dataclass
class _Worker:
    process: SpawnProcess
    orders: Connection


class Workers:
    """`count` processes that run `work(spread)`, which must be importable. Belongs to the main thread."""

    def __init__(self, work: Callable[[Spread], None], count: int, *, patience_s: float) -> None:
        """patience_s: how long a worker may take to finish the requests in hand."""
        self._work, self._count, self._patience_s = work, count, patience_s
        self._context = multiprocessing.get_context("spawn")
        self._counts: Any = self._context.RawArray("i", [ABSENT] * count)
        self._running: list[_Worker] = []
        self._reserve: _Worker | None = None
        self._reserve_due = 0.0
        self._failed = 0
        self._stopping = False

    def run(self) -> None:
        """Keep the workers running until a signal, then end all. Raises Unavailable if they cannot start."""
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        try:
            for place in range(self._count):
                self._running.append(self._begin(self._wait(), place))
            self._reserve_due = time.monotonic() + RECOVERY_SECONDS
            while not self._stopping:
                time.sleep(LOOK_SECONDS)
                self._look()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _look(self) -> None:
        """Replace who died, and make a reserve when it is time."""
        for place, worker in enumerate(self._running):
            if not worker.process.is_alive() and not self._stopping:
                self._running[place] = self._replaced(worker, place)
        if self._reserve is None and time.monotonic() >= self._reserve_due:
            self._reserve = self._wait()

    def _replaced(self, dead: _Worker, place: int) -> _Worker:
        served = self._counts[place] != ABSENT or dead.process.exitcode == 0
        self._counts[place] = ABSENT
        dead.orders.close()
        self._failed = 0 if served else self._failed + 1
        if self._failed >= MOST_FAILED_STARTS:
            raise Unavailable("the workers end as soon as they start", hint="the reason is in the log")
        time.sleep(RESTART_SECONDS if self._failed else 0)
        next_one, self._reserve = self._reserve, None
        if next_one is None or not next_one.process.is_alive():
            next_one = self._wait()
        self._reserve_due = time.monotonic() + RECOVERY_SECONDS
        names = dead.process.pid, dead.process.exitcode, next_one.process.pid
        log.error("worker %s ended with %s, worker %s takes its place", *names)
        return self._begin(next_one, place)

    def _wait(self) -> _Worker:
        """A new process, which waits for a place."""
        theirs, ours = self._context.Pipe(duplex=False)
        arguments = (self._work, self._counts, theirs)
        process = self._context.Process(target=_live, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    @staticmethod
    def _begin(worker: _Worker, place: int) -> _Worker:
        with contextlib.suppress(OSError):  # it died in reserve: the next look will tell
            worker.orders.send(place)
        return worker

    def _end(self) -> None:
        workers = self._running if self._reserve is None else [*self._running, self._reserve]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(self._patience_s)
            worker.orders.close()


def _live(work: Callable[[Spread], None], counts: Any, orders: Connection) -> None:
    """A worker's life: wait for a place, then work. Ends with a supervisor that never gave one."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the supervisor ends this one
    try:
        place = orders.recv()
    except EOFError:
        return
    finally:
        orders.close()
    signal.signal(signal.SIGINT, before)
    work(Spread(counts, place))
