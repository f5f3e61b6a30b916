"""One writer at a time: the lock of a home folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slipstream.artifacts import holding
from slipstream.config import Home


@contextmanager
def writing_home(home: Home, purpose: str) -> Iterator[None]:
    """Hold the home for `purpose`. Raises Busy, naming what the holder does, if somebody else holds it."""
    with holding(home.root / ".lock", purpose):
        yield
