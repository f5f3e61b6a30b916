"""How often each API key may call: a token bucket of its own, off unless a rate is set.

A bucket holds `burst` tokens and gains `rate` of them a second; a request takes one. Of each bucket a single
number is kept, the time at which it is full again (the generic cell rate algorithm, ITU-T I.371, as virtual
scheduling), in memory that all workers of a server share. There is no lock: a worker that is killed while it
holds one would stop the others. So two workers that look within a microsecond may let one too many through.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence
from dataclasses import dataclass
from multiprocessing import get_context

from slipstream.errors import UsageError
from slipstream.server.wire import Problem


@dataclass(frozen=True)
class Allowance:
    """rate: tokens a second. full_at: of each key's bucket, in seconds of the machine's monotonic clock."""

    rate: float
    burst: int
    full_at: MutableSequence[float]

    @classmethod
    def of(cls, rate: float | None, burst: int | None, keys: int) -> Allowance | None:
        """None without a rate. burst: by default what a second allows. keys: 0 if there are none.

        Raises UsageError for what is no rate or no burst. May be handed to spawned processes.
        """
        if rate is None:
            if burst is not None:
                raise UsageError("a burst needs a rate", hint="--rate 50 --burst 100")
            return None
        if not 0 < rate < math.inf:
            raise UsageError(f"the rate must be above 0, got {rate:g}", hint="requests a second of a key")
        if burst is not None and burst < 1:
            raise UsageError(f"the burst must be 1 or more, got {burst}")
        shared = get_context("spawn").RawArray("d", max(1, keys))
        return cls(rate, max(1, math.ceil(rate)) if burst is None else burst, shared)

    def take(self, key: int, now: float) -> None:
        """One request of a key. Raises Problem 429 with the whole seconds until one is possible again."""
        full_at = max(self.full_at[key], now)
        wait = full_at - now - (self.burst - 1) / self.rate
        if wait <= 0:
            self.full_at[key] = full_at + 1 / self.rate
            return
        raise Problem(
            429,
            "too-many-requests",
            f"this key may make {self.rate:g} requests a second and {self.burst} at once",
            "wait as long as Retry-After says",
            headers={"retry-after": str(math.ceil(wait))},
        )
