"""The parts under the routes: shared commits, bounded queues, counters, paths; and a fuzz of every route."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.errors import StorageFull
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.store import AppendResult
from slipstream.models.recommender import Hop
from slipstream.recommend.slate import Reason, Slate, SlateItem, slate_json
from slipstream.server.admission import BURST, FEWEST, Gate, Line
from slipstream.server.app import problem_of
from slipstream.server.exposition import BUCKETS_S, Counter, Histogram
from slipstream.server.group_commit import MOST_WAITING, GroupCommit
from slipstream.server.wire import Problem, encode


def batch(*names: str) -> EventBatch:
    frame = pl.DataFrame({"event_id": names, "user_id": ["u"] * len(names), "item_id": ["i"] * len(names)})
    return EventBatch.of(frame)


def test_waiting_writes_share_a_commit_and_each_gets_its_own_counts(tmp_path: Path) -> None:
    calls: list[int] = []

    class Slow(SqliteEventStore):
        def append(self, batch: EventBatch) -> AppendResult:
            calls.append(len(batch))
            time.sleep(0.05)
            return super().append(batch)

    async def story(store: Slow) -> list[tuple[int, int]]:
        commits = GroupCommit(store)
        batches = [batch("a"), batch("b", "c"), batch("b"), batch("a", "d")]
        found = await asyncio.gather(*(commits.append(b) for b in batches))
        again = await commits.append(batch("d", "e"))
        await commits.finish()
        return [(f.stored, f.repeated) for f in [*found, again]]

    with Slow(tmp_path / "e.sqlite") as store:
        assert asyncio.run(story(store)) == [(1, 0), (2, 0), (0, 1), (1, 1), (1, 1)]
        assert store.event_count() == 5
    assert sum(calls) == 8
    assert len(calls) <= 3  # five requests, at most three fsyncs


def test_a_failed_commit_tells_all_who_shared_it_and_the_next_one_goes_on(tmp_path: Path) -> None:
    class Moody(SqliteEventStore):
        full = True

        def append(self, batch: EventBatch) -> AppendResult:
            if self.full:
                raise StorageFull("no room", hint="free some")
            return super().append(batch)

    async def story(store: Moody) -> list[Any]:
        commits = GroupCommit(store)
        failed = await asyncio.gather(*(commits.append(batch(n)) for n in "abc"), return_exceptions=True)
        store.full = False
        return [*failed, await commits.append(batch("d"))]

    with Moody(tmp_path / "e.sqlite") as store:
        *failed, done = asyncio.run(story(store))
    assert [type(f) for f in failed] == [StorageFull] * 3
    assert done.stored == 1


def test_too_many_waiting_writes_are_refused(tmp_path: Path) -> None:
    release = threading.Event()

    class Stuck(SqliteEventStore):
        def append(self, batch: EventBatch) -> AppendResult:
            release.wait(20)
            return super().append(batch)

    async def story(store: Stuck) -> tuple[int, int]:
        commits = GroupCommit(store)
        tasks = [asyncio.create_task(commits.append(batch(f"e{n}"))) for n in range(MOST_WAITING + 20)]
        await asyncio.sleep(0.05)
        release.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [f for f in found if isinstance(f, Problem) and f.status == 503]
        return len(refused), len(found) - len(refused)

    with Stuck(tmp_path / "e.sqlite") as store:
        refused, stored = asyncio.run(story(store))
        assert refused >= 19
        assert store.event_count() == stored


def test_work_that_waited_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipstream.server.admission.LONGEST_WAIT_S", 0.05)
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.15)
        return number

    async def story() -> list[Any]:
        gate = Gate("t", threads=1, waiting=5)
        tasks = [asyncio.create_task(gate.run(lambda n=n: work(n))) for n in range(8)]  # type: ignore[misc]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        gate.close()
        assert gate.inside == 0
        return found

    found = asyncio.run(story())
    assert found[0] == 0
    assert begun == [0]
    assert all(isinstance(f, Problem) and f.headers["retry-after"] == "1" for f in found[1:])


def test_a_line_is_first_come_first_served_and_looks_at_the_sockets_between_turns() -> None:
    done: list[str] = []

    def work(name: str) -> str:
        done.append(name)
        if name == "bad":
            raise ValueError(name)
        return name

    async def story() -> list[Any]:
        line = Line()
        tasks = [asyncio.create_task(line.run(lambda n=n: work(n))) for n in ("a", "bad", "gone", "c")]  # type: ignore[misc]
        await asyncio.sleep(0)  # all are in the line, none has had a turn
        assert line.inside == 4
        tasks[2].cancel()
        asyncio.get_running_loop().call_soon(done.append, "socket")
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert line.inside == 0
        return [*found, await line.run(lambda: work("later"))]

    found = asyncio.run(story())
    assert done == ["a", "socket", "bad", "c", "later"]
    assert [str(f) for f in (found[0], found[1], found[3], found[4])] == ["a", "bad", "c", "later"]


def test_a_burst_is_let_in_but_a_standing_line_is_kept_short() -> None:
    """A slow turn of 2 ms and twice as many callers as can be served: only the first crowd may be long."""

    async def story() -> tuple[list[float], int, float]:
        line, refused, longest_refusal = Line(), 0, 0.0
        waits: list[float] = []
        end = time.perf_counter() + 0.8

        async def caller() -> None:
            nonlocal refused, longest_refusal
            while (start := time.perf_counter()) < end:
                try:
                    await line.run(lambda: time.sleep(0.002))
                    waits.append(time.perf_counter() - start)
                except Problem:
                    longest_refusal = max(longest_refusal, time.perf_counter() - start)
                    refused += 1
                    await asyncio.sleep(0.01)

        await asyncio.gather(*(caller() for _ in range(BURST)))
        return waits, refused, longest_refusal

    waits, refused, longest_refusal = asyncio.run(story())
    assert len(waits) > FEWEST
    assert refused > 0
    late = sorted(waits[BURST * 2 :])  # after the first crowd
    assert late[len(late) // 2] < 0.6 * max(waits[:BURST])
    assert longest_refusal < 0.5 * max(waits[:BURST])


def test_a_slate_goes_over_the_wire_as_the_command_line_prints_it() -> None:
    hop = Hop("u", "watch", "ü|1", 0.5)
    reasons = (Reason("path", "because *ü*", 0.25, (hop, hop)), Reason("popularity", "many", 1.0))
    slate = Slate(
        "r", None, (SlateItem("ü|1", "Ü", 1.5, reasons), SlateItem("b", "B", -2.0)), "cache", "one", 0.1
    )
    assert json.loads(encode(slate)) == slate_json(slate)


def test_every_error_becomes_a_problem_of_the_contract() -> None:
    from slipstream import errors

    allowed = {400, 404, 413, 422, 503, 507}
    made = [
        errors.UsageError("x"),
        errors.ConfigError("x"),
        errors.UnknownName("thing", "x", ["y"]),
        errors.BadInput("x"),
        errors.CorruptArtifact("x"),
        errors.NotThere("x"),
        errors.MissingExtra("a", "b", "c"),
        errors.Busy("x"),
        errors.StorageFull("x"),
        OSError(28, "no space left"),
    ]
    for error in made:
        problem = problem_of(error)
        assert problem.status in allowed
        assert problem.code
        assert (problem.status == 503) == ("retry-after" in problem.headers)
    assert problem_of(errors.StorageFull("x")).status == problem_of(OSError(28, "x")).status == 507
    assert problem_of(ZeroDivisionError()).code == "bug"


def test_a_histogram_counts_like_numpy() -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(0.05, 500)
    histogram = Histogram("h", "help", ("route",))
    for value in values:
        histogram.observe(float(value), 'a"b\\c\n')
    lines = histogram.lines()
    for bound in BUCKETS_S:
        expected = int((values <= bound).sum())
        assert f'h_bucket{{route="a\\"b\\\\c\\n",le="{bound:g}"}} {expected}' in lines
    assert lines[-1].endswith(" 500")
    assert Counter("c", "help").lines()[-1] == "c 0"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = [
    "user_id",
    "item_id",
    "event_id",
    "kind",
    "value",
    "time",
    "history",
    "k",
    "exclude",
    "allow",
    "filters",
]
bodies = st.dictionaries(
    st.sampled_from([*names, "events", "items", "context", "explain"]), json_values, max_size=6
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=bodies | json_values, path=st.sampled_from(["/v1/events", "/v1/recommendations", "/v1/items"]))
def test_no_json_makes_the_server_fail(api: httpx.Client, body: Any, path: str) -> None:
    reply = api.post(path, json=body)
    assert reply.status_code in (200, 400, 413, 422), reply.text
    if reply.status_code != 200:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json()["code"]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tail=st.binary(max_size=12),
    query=st.text(max_size=12),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    head=st.sampled_from(
        ["/", "/v1/", "/v1/users/", "/v1/recommendations/", "/v1/items/", "/v1/explanations/u1/"]
    ),
)
def test_no_path_makes_the_server_fail(
    api: httpx.Client, tail: bytes, query: str, method: str, head: str
) -> None:
    from urllib.parse import quote_from_bytes

    raw = (
        head.encode()
        + quote_from_bytes(tail, safe="/").encode()
        + b"?"
        + quote_from_bytes(query.encode()).encode()
    )
    reply = api.request(method, httpx.URL(str(api.base_url)).copy_with(raw_path=raw))
    assert reply.status_code in (200, 400, 404, 405, 422), reply.text
