"""Connections find their way to a worker that has too few, and then stay where they are."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from slipstream.server.spread import ABSENT, SLACK, TOLERANCE, Spread


@given(
    held=st.lists(st.integers(0, 80), min_size=1, max_size=5),
    absent=st.integers(0, 2),
    draw=st.randoms(use_true_random=False),
)
def test_connections_spread_and_come_to_rest(held: list[int], absent: int, draw: random.Random) -> None:
    counts = [ABSENT] * (len(held) + absent)
    connections: list[list[int]] = [[0] * n for n in held]
    workers = [Spread(counts, place) for place in range(len(held))]
    for worker, own in zip(workers, connections, strict=True):
        worker.follow(own)
        worker.look()
    moved = 0
    for _ in range(60):
        moved = 0
        for worker, own in zip(workers, connections, strict=True):
            worker.look()
            for _ in list(own):  # each caller asks once
                if worker.closes():
                    own.pop()
                    draw.choice(connections).append(0)  # and comes back to anybody
                    moved += 1
    mean = sum(held) / len(held)
    assert moved == 0
    assert all(len(own) <= mean + max(SLACK, TOLERANCE * mean) for own in connections)
    assert sum(map(len, connections)) == sum(held)
    assert counts[len(held) :] == [ABSENT] * absent


def test_a_single_worker_never_closes() -> None:
    alone = Spread()
    alone.follow([0] * 1_000)
    alone.look()
    assert not alone.closes()
