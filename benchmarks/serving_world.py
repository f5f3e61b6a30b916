"""What the serving benchmarks share: a home of a given size, a server process, and a load generator.

The network is not trained: its answers mean nothing and cost the same. The generator is one asyncio process on
the loopback; it shares the machine with the server, so CPU per request is the figure to trust and latencies
are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import polars as pl

from slipstream.config import Home, with_overrides
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import model_type
from slipstream.recommend.live_release import promote
from slipstream.recommend.release import Named, write_release

TICKS = os.sysconf("SC_CLK_TCK")
SHAPES = {
    "ml-1m": {"dim": 128, "layers": 4, "heads": 4, "attention_window": 64},  # of the ML-1M preset
    "small": {"dim": 64, "layers": 2, "heads": 2, "attention_window": 64},
}
START_US = 1_700_000_000_000_000


def machine() -> str:
    return (
        f"machine: {platform.machine()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, python {platform.python_version()}, numpy {np.__version__}\n"
        f"command: python {' '.join(sys.argv)}"
    )


def make_home(
    folder: Path,
    *,
    users: int,
    items: int,
    length: int,
    model: str,
    seed: int = 0,
    shape: str = "ml-1m",
    known: bool = False,
) -> Home:
    """Events of `users` people with `length` each, and a live release of `model` over `items` films.

    known: the model has met every film; else only those of the events, so few of a large catalogue.
    """
    home = Home(folder)
    home.root.mkdir(parents=True, exist_ok=True)
    rows = log(users, items, length, seed)
    with SqliteEventStore(home.events) as store:
        for start in range(0, rows.height, 50_000):
            store.append(EventBatch.of(rows[start : start + 50_000]))
    release(home, "first", pl.concat([rows, each_once(items)]) if known else rows, items, model, shape)
    return home


def each_once(items: int) -> pl.DataFrame:
    """An event on every film, by people of whom the store knows nothing."""
    number = np.arange(items)
    return pl.DataFrame(
        {
            "event_id": [f"each-{n}" for n in range(items)],
            "user_id": [f"each{n // 100}" for n in range(items)],
            "item_id": [f"i{n}" for n in range(items)],
            "kind": "view",
            "time_us": START_US + number * 1_000_000,
        }
    )


def home_for(options: argparse.Namespace, folder: str) -> Home:
    """`make_home` in `folder` by the options that the serving benchmarks share."""
    return make_home(
        Path(folder) / "home",
        users=options.users,
        items=options.items,
        length=options.length,
        model=options.model,
        seed=options.seed,
    )


def asks_for(users: int) -> Callable[[], bytes]:
    """Requests for slates of warm users: 200 of them, in turn."""
    return cycle([get(f"/v1/recommendations/u{n % users}") for n in range(200)]).__next__


def log(users: int, items: int, length: int, seed: int) -> pl.DataFrame:
    """In time; a few items are touched far more often than the others."""
    draw = np.random.default_rng(seed)
    count = users * length
    item = np.minimum(draw.zipf(1.2, count) - 1, draw.integers(0, items, count))
    user = np.tile(np.arange(users), length)
    return pl.DataFrame(
        {
            "event_id": [f"{seed}-{n}" for n in range(count)],
            "user_id": [f"u{u}" for u in user.tolist()],
            "item_id": [f"i{i}" for i in item.tolist()],
            "kind": "view",
            "time_us": START_US + np.arange(count) * 1_000_000,
        }
    )


def release(home: Home, name: str, rows: pl.DataFrame, items: int, model: str, shape: str = "ml-1m") -> None:
    named = [f"i{i}" for i in range(items)]
    data = snapshot_of(rows.drop("event_id", "kind"), items=Vocabulary.of(named))
    catalogue = pl.DataFrame(
        {
            "item_id": named,
            "title": [f"Film {i}" for i in range(items)],
            "genre": [f"g{i % 18}" for i in range(items)],
        }
    )
    write_release(
        home.releases,
        name,
        snapshot=data,
        primary=_fitted(model, data, shape),
        popularity=_fitted("popularity", data),
        items=catalogue,
    )
    promote(home.releases, name)


def _fitted(name: str, data: Snapshot, shape: str = "ml-1m") -> Named:
    training = TrainingData(data)
    cls = model_type(name)
    settings = cls.preset(training)
    if name == "transformer":
        settings = with_overrides(settings, {**SHAPES[shape], "epochs": 0})
    return Named(name, cls.fit(training, settings, FitContext()))


@dataclass
class Server:
    port: int
    process: subprocess.Popen[str]

    def pids(self) -> list[int]:
        """The server and its workers."""
        own = self.process.pid
        try:
            children = Path(f"/proc/{own}/task/{own}/children").read_text()
        except OSError:
            children = ""
        return [own, *map(int, children.split())]

    def workers(self) -> list[int]:
        """The processes that answer: spawned, and with more sockets than the one that the reserve waits with."""
        found = []
        for pid in self.pids()[1:]:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"spawn_main" in command and _sockets(pid) > 1:
                found.append(pid)
        return found

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_mb(self) -> float:
        """Resident, of all processes together."""
        total = 0
        for pid in self.pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
        return total * resource.getpagesize() / 1e6


def _sockets(pid: int) -> int:
    found = 0
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            found += os.readlink(entry).startswith("socket:")
    return found


@contextmanager
def serving(home: Home, *arguments: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "slipstream", "serve", "--port", "0", "--home", str(home.root)]
    with (home.root / "server.log").open("a") as log_file:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
            start_new_session=True,
        )
    try:
        found = re.search(r"http://[^:]+:(\d+)", process.stdout.readline())
        assert found, (home.root / "server.log").read_text()
        server = Server(int(found[1]), process)
        asyncio.run(_until_ready(server.port))
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


async def _until_ready(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        load = await closed_loop(port, lambda: get("/readyz"), connections=1, seconds=0.01)
        if load.statuses.get(200):
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("the server is not ready")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@dataclass
class Load:
    """What came back: seconds by status, and connections that were cut."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    wall_s: float = 0.0
    cut: int = 0

    @property
    def statuses(self) -> dict[int, int]:
        return {status: len(taken) for status, taken in sorted(self.seconds.items())}

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())

    def p(self, percent: float, status: int = 200) -> float:
        """Milliseconds."""
        taken = self.seconds.get(status, [])
        return float(np.percentile(taken, percent)) * 1e3 if taken else float("nan")

    def line(self) -> str:
        return (
            f"{self.answered / max(self.wall_s, 1e-9):8.0f}/s  p50 {self.p(50):6.2f} ms  "
            f"p99 {self.p(99):6.2f} ms  {self.statuses}"
        )


class _Connection(asyncio.Protocol):
    """One request at a time; calls back with (status, body). last: the server closes after this answer."""

    def __init__(self) -> None:
        self.data, self.lost, self.last = b"", False, False
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        head = self.data.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.data.find(b"content-length: ", 0, head)
        length = int(self.data[at + 16 : self.data.find(b"\r\n", at)]) if at >= 0 else 0
        if len(self.data) < head + 4 + length:
            return
        body, status = self.data[head + 4 : head + 4 + length], int(self.data[9:12])
        self.last = b"connection: close" in self.data[:head]
        self.data = b""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionResetError("the server cut the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self.lost:
            raise ConnectionResetError("the server had cut the connection")
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self.waiting


async def connect(port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
    return connection


Seen = Callable[[bytes, int, bytes], None]


async def closed_loop(
    port: int, make: Callable[[], bytes], *, connections: int, seconds: float, seen: Seen | None = None
) -> Load:
    """Each connection asks again as soon as it was answered."""
    load = Load()
    end = time.perf_counter() + seconds
    began = time.perf_counter()

    async def one() -> None:
        connection = await connect(port)
        while True:
            request = make()
            start = time.perf_counter()
            status, body = await connection.ask(request)
            now = time.perf_counter()
            load.seconds.setdefault(status, []).append(now - start)
            if seen is not None:
                seen(request, status, body)
            if connection.last:
                connection = await connect(port)
            if now > end:
                connection.transport.close()
                return

    await asyncio.gather(*(one() for _ in range(connections)))
    load.wall_s = time.perf_counter() - began
    return load


async def open_loop(
    port: int,
    make: Callable[[], bytes],
    *,
    rate: float,
    connections: int,
    seconds: float,
    seen: Seen | None = None,
    seed: int = 0,
) -> Load:
    """Requests at random moments, `rate` a second on average, whatever the server does.

    A request waits for a free connection of `connections`; its time counts from the moment it was due, so a
    stalled server is not spared. A connection that is cut is opened again and the request counts as cut.
    """
    load = Load()
    draw = np.random.default_rng(seed)
    began = time.perf_counter()
    due: asyncio.Queue[float | None] = asyncio.Queue()

    async def clock() -> None:
        moment = began
        while moment < began + seconds:
            moment += draw.exponential(1 / rate)
            delay = moment - time.perf_counter()
            if delay > 0.001:
                await asyncio.sleep(delay)
            due.put_nowait(moment)
            if delay <= 0.001:
                await asyncio.sleep(0)
        for _ in range(connections):
            due.put_nowait(None)

    async def one() -> None:
        connection = await connect(port)
        while (moment := await due.get()) is not None:
            request = make()
            try:
                status, body = await connection.ask(request)
            except ConnectionError:
                load.cut += 1
                connection = await _again(port)
                continue
            load.seconds.setdefault(status, []).append(time.perf_counter() - moment)
            if seen is not None:
                seen(request, status, body)
            if connection.last:
                connection = await _again(port)
        connection.transport.close()

    await asyncio.gather(clock(), *(one() for _ in range(connections)))
    load.wall_s = time.perf_counter() - began
    return load


async def _again(port: int) -> _Connection:
    while True:
        try:
            return await connect(port)
        except ConnectionError:
            await asyncio.sleep(0.05)


def cpu_us(server: Server, work: Callable[[], Load]) -> tuple[Load, float]:
    """A load, and the server's CPU microseconds per answer."""
    before = server.cpu_s()
    load = work()
    return load, (server.cpu_s() - before) / max(load.answered, 1) * 1e6
