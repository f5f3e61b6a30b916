"""How many threads the linear algebra library may use.

BLAS threads wait by spinning. On cores that are shared with anything else they burn more time than they save:
choosing the settings of EASE on 100,000 events took 17 CPU seconds with two threads and 3 with one, on two
busy cores. So one is the default, and what runs in parallel is whole tasks or shards of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

BLAS_THREADS = 1


@contextmanager
def blas_threads(count: int = BLAS_THREADS) -> Iterator[None]:
    """At most `count` BLAS threads in this process, for the length of the block."""
    with threadpool_limits(count, user_api="blas"):
        yield
