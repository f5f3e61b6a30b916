"""How many durable events a second does the event store take, and how fast is one person's history?

    python benchmarks/event_store.py [--events 1000000] [--batches 1000 10000] [--users 200000]

Prints appends for each batch size (wall and CPU seconds, p50 and p99 of a batch) beside the bare cost of an
fsync on the same disk, then the last 200 events of people who have that many, then the two scans.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore

START_US = 1_600_000_000_000_000


def main() -> None:
    options = _options()
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" python {platform.python_version()}, polars {pl.__version__}, sqlite {sqlite3.sqlite_version},"
        f" polars threads {pl.thread_pool_size()}"
    )
    folder = Path(tempfile.mkdtemp(prefix="event-store-", dir=options.folder))
    try:
        _fsync(folder)
        for rows in options.batches:
            _appends(folder / f"{rows}.sqlite", options, rows)
        _reads(folder / f"{options.batches[-1]}.sqlite")
    finally:
        shutil.rmtree(folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--order", choices=("time", "user", "random"), default="time")
    parser.add_argument("--ids", choices=("content", "random"), default="content")
    parser.add_argument("--folder", help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _fsync(folder: Path) -> None:
    spent = []
    with (folder / "fsync").open("wb") as stream:
        for _ in range(100):
            stream.write(b"x" * 4096)
            stream.flush()
            start = time.perf_counter()
            os.fsync(stream.fileno())
            spent.append(time.perf_counter() - start)
    p10, p50, p99 = np.percentile(spent, [10, 50, 99]) * 1e3
    print(f"bare fsync of 4 KB: p10 {p10:.2f} ms, p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def _batches(options: argparse.Namespace, rows: int) -> Iterator[EventBatch]:
    """Events of people and items with a heavy head (the cube of a uniform number), ids included."""
    rng = np.random.default_rng(options.seed)
    count = options.events
    user = (options.users * rng.random(count) ** 3).astype(np.int64)
    item = (options.items * rng.random(count) ** 3).astype(np.int64)
    time_us = START_US + np.cumsum(rng.integers(0, 2_000_000, count))
    order = {"time": np.arange(count), "user": np.lexsort((time_us, user)), "random": rng.permutation(count)}
    for start in range(0, count, rows):
        place = order[options.order][start : start + rows]
        frame = pl.DataFrame(
            {"user_id": user[place], "item_id": item[place], "time_us": time_us[place], "value": 4.0}
        ).with_columns(pl.format("user-{}", "user_id"), pl.format("item-{}", "item_id"))
        if options.ids == "random":
            frame = frame.with_columns(event_id=pl.Series([rng.bytes(16).hex() for _ in place]))
        yield EventBatch.of(frame)


def _appends(path: Path, options: argparse.Namespace, rows: int) -> None:
    spent, cpu, total = [], 0.0, 0
    with SqliteEventStore(path) as store:
        for batch in _batches(options, rows):
            start, busy = time.perf_counter(), time.process_time()
            total += store.append(batch).stored
            spent.append(time.perf_counter() - start)
            cpu += time.process_time() - busy
        start = time.perf_counter()
        store.fold()
        rest = time.perf_counter() - start
    wall = sum(spent) + rest
    late = np.array(spent[-len(spent) // 5 :])
    p50, p99 = np.percentile(spent, [50, 99]) * 1e3
    print(
        f"append, batches of {rows:,}: {total / wall:,.0f} durable events/s over {total:,}"
        f" ({rows * len(late) / late.sum():,.0f}/s in the last fifth), {cpu / total * 1e6:.1f} CPU us/event,"
        f" batch p50 {p50:.1f} ms p99 {p99:.1f} ms, file {path.stat().st_size / total:.0f} bytes/event"
    )


def _singles(store: SqliteEventStore) -> None:
    """One event at a time, as clicks come in, and the history right after it."""
    spent, busy = [], time.process_time()
    for number in range(200):
        row = {"user_id": [f"user-{number}"], "item_id": ["item-1"], "time_us": [START_US * 2 + number]}
        batch = EventBatch.of(pl.DataFrame(row))
        start = time.perf_counter()
        store.append(batch)
        store.history(f"user-{number}", 200)
        spent.append(time.perf_counter() - start)
    cpu = (time.process_time() - busy) / 200
    p10, p50, p99 = np.percentile(spent, [10, 50, 99]) * 1e3
    print(
        f"one event, durable, and the history with it: p10 {p10:.2f} ms, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        f" ({cpu * 1e3:.2f} ms CPU with its checks)"
    )


def _reads(path: Path) -> None:
    with SqliteEventStore(path) as store:
        people = [f"user-{number}" for number in range(0, 300)]
        people = [name for name in people if store.event_count(name) >= 200]
        for what in (store.recent, store.history):
            spent = []
            for name in people * 5:
                start = time.perf_counter()
                found = what(name, 200)
                spent.append(time.perf_counter() - start)
                assert len(found) == 200
            p10, p50, p99 = np.percentile(spent or [0.0], [10, 50, 99]) * 1e3
            print(
                f"{what.__name__}: last 200 events of one of {len(people)} people:"
                f" p10 {p10:.3f} ms, p50 {p50:.3f} ms, p99 {p99:.3f} ms"
            )
        _singles(store)
        for name, scan in (("by time", store.scan), ("by user", store.scan_by_user)):
            start = time.perf_counter()
            rows = sum(chunk.height for chunk in scan())
            print(f"scan {name}: {rows / (time.perf_counter() - start):,.0f} events/s")


if __name__ == "__main__":
    main()
