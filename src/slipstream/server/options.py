"""How a server runs, apart from what it serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """slate_cache: keep finished slates. memory_mb: for what each worker keeps of users.

    access_log: one JSON line per request on standard error. rate, burst: of each API key, see `allowance`.
    idle_int8: the states of users who are idle are kept in int8.
    """

    slate_cache: bool = True
    memory_mb: int = 256
    access_log: bool = False
    rate: float | None = None
    burst: int | None = None
    idle_int8: bool = False
