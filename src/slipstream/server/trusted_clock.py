"""Whether the wall clock may be believed where something is to be removed for its age.

A clock that jumps ahead would make the whole log look old. So a jump is told by the steady clock of the
machine, and whatever the wall clock says is believed again when it has gone evenly for an hour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("slipstream.server")

JUMP_S = 60.0
"""Clocks are set straight by less than this all the time."""
PATIENCE_S = 3600.0


class TrustedClock:
    """believed: false where what is found at the start does not fit the clock; then the hour begins there."""

    def __init__(
        self,
        *,
        believed: bool = True,
        wall_s: Callable[[], float] = time.time,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall_s, self._steady_s = wall_s, steady_s
        self._ahead_s = wall_s() - steady_s()
        self._believed_from_s = steady_s() + (0.0 if believed else PATIENCE_S)

    def believed(self) -> bool:
        steady_s = self._steady_s()
        ahead_s = self._wall_s() - steady_s
        jump_s = ahead_s - self._ahead_s
        if abs(jump_s) > JUMP_S:
            log.warning("the clock jumped by %+.0f s: for an hour nothing is removed for its age", jump_s)
            self._ahead_s, self._believed_from_s = ahead_s, steady_s + PATIENCE_S
        return steady_s >= self._believed_from_s
