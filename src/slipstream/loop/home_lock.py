"""One writer at a time: the lock of a home folder. The operating system frees it when a process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from slipstream.config import Home
from slipstream.errors import Busy


@contextmanager
def writing_home(home: Home, purpose: str) -> Iterator[None]:
    """Hold the home for `purpose`. Raises Busy, naming what the holder does, if somebody else holds it."""
    home.root.mkdir(parents=True, exist_ok=True)
    handle = os.open(home.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "it has just begun"
            raise Busy(
                f"{home.root} is in use by another process ({holder})", hint="wait until it is done"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{purpose}, process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)
