"""Keeps the connections of a server spread over its worker processes.

Callers keep their connections, and the kernel gives a new one to whichever worker takes it first. So after a
worker was replaced, all connections would stay with those that were there before, and the new one would
stand idle while the others refuse. Each worker therefore tells the others how many it holds, and one that
holds more than its part answers some of them with `Connection: close`: the caller comes back, perhaps to
another worker. No request fails by it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, MutableSequence

LOOK_SECONDS = 0.2
ABSENT = -1
"""In the place of a worker that does not serve."""
SLACK, TOLERANCE = 2, 0.25
"""How many connections more than the mean a worker may hold: so many, or this part of the mean."""


class Spread:
    """One worker's view. Belongs to one event loop.

    counts: connections of each worker, ABSENT for one that does not serve; shared between the processes, each
    writes its own place. A look may read a neighbour's count while it changes: the next one sees it.
    """

    def __init__(self, counts: MutableSequence[int] | None = None, place: int = 0) -> None:
        self._counts: MutableSequence[int] = [ABSENT] if counts is None else counts
        self._place = place
        self._connections: Collection[object] = ()
        self._too_many = 0
        self._task: asyncio.Task[None] | None = None

    def follow(self, connections: Collection[object]) -> None:
        """The open connections of this worker, as the web server keeps them."""
        self._connections = connections

    def start(self) -> None:
        """From now on this worker serves."""
        self.look()
        if len(self._counts) > 1:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._counts[self._place] = ABSENT
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def closes(self) -> bool:
        """Whether the connection of the answer in hand is to be given up; True counts as one given up."""
        if self._too_many <= 0:
            return False
        self._too_many -= 1
        return True

    def look(self) -> None:
        """Tell the others, and see how many connections are too many here."""
        own = self._counts[self._place] = len(self._connections)
        serving = [count for count in self._counts if count != ABSENT]
        mean = sum(serving) / len(serving)
        self._too_many = int(own - mean) if own > mean + max(SLACK, TOLERANCE * mean) else 0

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()
