"""Does a loaded server stay right and flat while releases are swapped and workers are killed?

    python benchmarks/soak.py [--minutes 1] [--rate 0] [--workers 2] [--model item_neighbours]

Starts its own server and load generator. First a closed loop finds the saturation rate; then requests come at
60 % of it, a fifth of them event writes, a release is promoted each minute and a worker is killed (SIGKILL)
each two (each half of a shorter run). At the end: acknowledged events that are not in the store (must be 0),
statuses other than 200, and the last slate of every user compared with one computed offline from the store and
the live release. Memory is read every few seconds. 10 minutes: `--minutes 10`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import tempfile
import time

import numpy as np
import polars as pl

from serving_world import (
    Load,
    Server,
    closed_loop,
    connect,
    get,
    home_for,
    log,
    machine,
    open_loop,
    post,
    release,
    serving,
)
from slipstream.config import Home
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.live_release import current_release
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release

WRITES = 0.2
SHARE = 0.6
CONNECTIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: 60 %% of saturation")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="item_neighbours")
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home = home_for(options, folder)
        with serving(home, "--workers", str(options.workers)) as server:
            asyncio.run(Soak(home, server, options).run())


class Traffic:
    """Requests at random, and what was acknowledged. Event ids tell which writes must be in the store."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._draw = np.random.default_rng(options.seed + 1)
        self._count = 0
        self.acknowledged: list[str] = []
        self.written = 0

    def __call__(self) -> bytes:
        self._count += 1
        user = f"u{self._draw.integers(self._options.users)}"
        if self._draw.random() >= WRITES:
            return get(f"/v1/recommendations/{user}")
        self.written += 1
        event = {
            "event_id": f"soak-{self._count}",
            "user_id": user,
            "item_id": f"i{self._draw.integers(self._options.items)}",
            "kind": "view",
        }
        return post("/v1/events", json.dumps(event).encode())

    def seen(self, request: bytes, status: int, body: bytes) -> None:
        if status == 200 and request.startswith(b"POST"):
            start = request.index(b'"event_id": "') + 13
            self.acknowledged.append(request[start : request.index(b'"', start)].decode())


class Soak:
    def __init__(self, home: Home, server: Server, options: argparse.Namespace) -> None:
        self.home, self.server, self.options = home, server, options
        self.memory: list[float] = []
        self.swaps = self.kills = 0

    async def run(self) -> None:
        traffic = Traffic(self.options)
        rate = self.options.rate or await self._rate(traffic)
        seconds = self.options.minutes * 60
        print(f"{rate:.0f} requests/s for {seconds:.0f} s, {WRITES:.0%} of them writes")
        faults = asyncio.create_task(self._faults(seconds))
        load = await open_loop(
            self.server.port,
            traffic,
            rate=rate,
            connections=CONNECTIONS,
            seconds=seconds,
            seen=traffic.seen,
            seed=self.options.seed,
        )
        await faults
        await asyncio.sleep(3)  # the last swap
        self._tell(load, traffic)
        await self._compare()

    async def _rate(self, traffic: Traffic) -> float:
        await closed_loop(self.server.port, traffic, connections=16, seconds=3, seen=traffic.seen)
        load = await closed_loop(self.server.port, traffic, connections=16, seconds=4, seen=traffic.seen)
        print(f"saturation               {load.line()}")
        return SHARE * load.answered / load.wall_s

    async def _faults(self, seconds: float) -> None:
        """Promote a release each minute and kill a worker each two; in a short run each of them at least once."""
        every = min(60.0, seconds / 2)
        start, step = time.monotonic(), 0
        while (now := time.monotonic() - start) < seconds - 1:
            self.memory.append(self.server.memory_mb())
            if now >= (step + 0.5) * every:
                step += 1
                await asyncio.to_thread(self._promote, f"release-{step}")
                if step % 2 == 0 or seconds < 120:
                    self._kill()
            await asyncio.sleep(1)

    def _promote(self, name: str) -> None:
        """In a process of its own, as an operator would: it must not hold up the generator."""
        options = self.options
        rows = log(options.users, options.items, options.length, options.seed)
        process = multiprocessing.get_context("spawn").Process(
            target=release, args=(self.home, name, rows, options.items, options.model)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
        self.swaps += 1

    def _kill(self) -> None:
        if workers := self.server.workers():
            os.kill(workers[self.kills % len(workers)], signal.SIGKILL)
            self.kills += 1

    def _tell(self, load: Load, traffic: Traffic) -> None:
        print(f"soak                     {load.line()}")
        print(f"releases promoted {self.swaps}, workers killed {self.kills}, connections cut {load.cut}")
        with SqliteEventStore(self.home.events) as store:
            kept: set[str] = set()
            for chunk in store.scan():
                kept.update(chunk.filter(pl.col("event_id").str.starts_with("soak-"))["event_id"].to_list())
        lost = set(traffic.acknowledged) - kept
        print(f"events acknowledged {len(traffic.acknowledged)}, lost {len(lost)}, of {traffic.written} sent")
        quarter = max(1, len(self.memory) // 4)
        early, late = np.median(self.memory[quarter : 2 * quarter]), np.median(self.memory[-quarter:])
        print(f"resident memory of all processes: second quarter {early:.0f} MB, last quarter {late:.0f} MB")

    async def _compare(self) -> None:
        """The slate of every user from the server, and from the store and the live release without caches."""
        answers: dict[str, list[str]] = {}
        connection = await connect(self.server.port)
        for number in range(self.options.users):
            status, body = await connection.ask(get(f"/v1/recommendations/u{number}?k=20"))
            assert status == 200, body
            answers[f"u{number}"] = [item["item_id"] for item in json.loads(body)["items"]]
        connection.transport.close()
        with SqliteEventStore(self.home.events) as store:
            offline = Pipeline(
                Release.open(current_release(self.home)), store, home=self.home, slate_cache=False
            )
            wrong = 0
            for user, items in answers.items():
                fresh = offline.recommend(Request(user_id=user, k=20))
                wrong += [item.item_id for item in fresh.items] != items
        print(f"slates compared with an offline recomputation {len(answers)}, different {wrong}")


if __name__ == "__main__":
    main()
