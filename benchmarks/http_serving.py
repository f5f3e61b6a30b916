"""What does an answer over HTTP cost, and what happens beyond the limit?

    python benchmarks/http_serving.py [--model transformer] [--items 3706] [--users 2000] [--seconds 4]

Starts its own server (one worker) and load generator on the loopback. Prints the server's CPU microseconds per
request for the empty JSON endpoint and for slates with the cache off and on, beside the CPU of the same answer
in process; then latency at 60 % of the saturation rate, and at three times that rate: what the accepted
requests wait, and how soon the others are refused. The generator shares the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from serving_world import (
    Load,
    Server,
    asks_for,
    closed_loop,
    connect,
    cpu_us,
    get,
    home_for,
    machine,
    open_loop,
    serving,
)
from slipstream.config import Home
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.live_release import current_release
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release
from slipstream.server.wire import encode

CONNECTIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="transformer")
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--length", type=int, default=100, help="events of a user")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="http-") as folder:
        home = home_for(options, folder)
        inside = in_process(home, options)
        with serving(home, "--no-slate-cache") as server:
            rate = costs(server, options, inside)
            latency(server, options, rate)
        with serving(home) as server:
            asks = asks_for(options.users)
            warm(server, asks)
            load, cost = cpu_us(server, lambda: closed(server, asks, options.seconds))
            print(f"slate, cache on         {cost:7.0f} us CPU a request  {load.line()}")


def in_process(home: Home, options: argparse.Namespace) -> float:
    """CPU microseconds of the same answers and their JSON without a server; prints what the caches save."""
    users = [f"u{n % options.users}" for n in range(200)]
    items = [f"i{n % options.items}" for n in range(200)]
    release = Release.open(current_release(home))
    release.warm()
    with SqliteEventStore(home.events) as store:
        bare = Pipeline(release, store, home=home, slate_cache=False)
        kept = Pipeline(release, store, home=home)

        def slates(pipeline: Pipeline) -> float:
            return _cpu_us(lambda: [encode(pipeline.recommend(Request(user_id=user))) for user in users])

        first, again = slates(bare), min(slates(bare) for _ in range(5))
        slates(kept)
        cached = min(slates(kept) for _ in range(5))
        print(
            f"in process: first slate of a user {first:.0f} us CPU, next {again:.0f}, from the cache {cached:.0f}"
        )
        print(
            f"in process: a stored event, then a new slate {_after_events(store, kept, users):.0f} us CPU (p50)"
        )
        listed = _cpu_us(lambda: [bare.similar(item, 10) for item in items])
        release.__dict__["similar"] = None  # as in a release without lists
        asked = _cpu_us(lambda: [bare.similar(item, 10) for item in items])
        print(f"in process: similar items from lists {listed:.0f} us CPU, asked of the model {asked:.0f}")
    return again


def _after_events(store: SqliteEventStore, pipeline: Pipeline, users: list[str]) -> float:
    """Median CPU microseconds of the first slate after one event of its user; storing the event is not counted."""
    taken = []
    for number, user in enumerate(users):
        row = {"user_id": [user], "item_id": [f"i{number}"], "time_us": [time.time_ns() // 1000]}
        store.append(EventBatch.of(pl.DataFrame(row)))
        start = time.process_time()
        pipeline.recommend(Request(user_id=user))
        taken.append(time.process_time() - start)
    return float(np.median(taken)) * 1e6


def _cpu_us(work: Callable[[], list[object]]) -> float:
    """Of each piece of the work."""
    start = time.process_time()
    pieces = len(work())
    return (time.process_time() - start) / pieces * 1e6


def closed(server: Server, make: Callable[[], bytes], seconds: float) -> Load:
    return asyncio.run(closed_loop(server.port, make, connections=CONNECTIONS, seconds=seconds))


def warm(server: Server, asks: Callable[[], bytes]) -> None:
    """Each of the users once: the first answer reads and encodes a whole history."""

    async def each() -> None:
        connection = await connect(server.port)
        for _ in range(200):
            await connection.ask(asks())
        connection.transport.close()

    asyncio.run(each())


def costs(server: Server, options: argparse.Namespace, inside: float) -> float:
    """Prints the cost of a request; the saturation rate."""
    load, empty = cpu_us(server, lambda: closed(server, lambda: get("/healthz"), options.seconds))
    print(f"empty JSON endpoint     {empty:7.0f} us CPU a request  {load.line()}")
    asks = asks_for(options.users)
    warm(server, asks)
    load, cost = cpu_us(server, lambda: closed(server, asks, options.seconds))
    print(f"the answer in process   {inside:7.0f} us CPU")
    print(f"slate, cache off        {cost:7.0f} us CPU a request  {load.line()}")
    print(f"  that is {cost / (empty + inside):.2f} times (empty endpoint + in process); goal 2")
    return load.answered / load.wall_s


def latency(server: Server, options: argparse.Namespace, rate: float) -> None:
    asks = asks_for(options.users)
    normal = None
    for share in (0.6, 3.0):
        load = asyncio.run(
            open_loop(server.port, asks, rate=share * rate, connections=256, seconds=options.seconds)
        )
        print(f"{share:3.1f} x saturation        {load.line()}")
        if normal is None:
            normal = load.p(99)
            continue
        refused = [taken for status, found in load.seconds.items() if status in (429, 503) for taken in found]
        print(f"  accepted p99 is {load.p(99) / normal:.2f} times that at 60 %; goal 3")
        if refused:
            p50, p99 = np.percentile(refused, [50, 99]) * 1e3
            print(f"  {len(refused)} refused, in p50 {p50:.2f} ms, p99 {p99:.2f} ms; goal 5")


if __name__ == "__main__":
    main()
