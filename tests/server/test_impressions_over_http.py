"""Every answer of a running server is logged, and what people do with it joins it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
import served_home
from test_faults import eventually

from slipstream.cli import main
from slipstream.config import Home
from slipstream.errors import UsageError
from slipstream.events.impressions import DAY_US, HOUR_US, FeedbackSettings, attribute, person_of
from slipstream.events.sqlite_impressions import Feedback, Served, SqliteImpressionStore
from slipstream.recommend.slate import Slate
from slipstream.server.impression_log import MOST_TOGETHER, ImpressionLog
from slipstream.server.trusted_clock import TrustedClock


def test_answers_are_logged_and_feedback_joins_them(
    fresh_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with served_home.serving(fresh_home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        slate = api.get("/v1/recommendations/ann", params={"k": 5}).json()
        api.post("/v1/recommendations", json={"history": ["f1"], "k": 3, "explain": True})
        click = {"user_id": "ann", "item_id": slate["items"][2]["item_id"], "request_id": slate["request_id"]}
        bought = {**click, "kind": "purchase", "value": 9.5, "event_id": "b1", "context": {"page": "home"}}
        for events in ([click, bought], [bought], [{"user_id": "ann", "item_id": "f9"}]):
            assert api.post("/v1/events", json={"events": events}).status_code == 200
        assert "slipstream_impressions_dropped 0" in api.get("/metrics").text
        assert server.stop() == 0
    with SqliteImpressionStore(fresh_home.impressions) as store:
        served, feedback = store.served(), store.feedback()
    assert served.height == 2
    row = served.filter(served["request_id"] == slate["request_id"]).row(0, named=True)
    assert row["items"] == [item["item_id"] for item in slate["items"]]
    assert (row["person"], row["tier"], row["release"]) == (person_of("ann"), slate["tier"], "first")
    joined = attribute(served, feedback, HOUR_US)
    assert joined.events.select("kind", "value", "place").rows() == [("click", None, 2), ("purchase", 9.5, 2)]
    assert json.loads(joined.events["context"][1]) == {"page": "home"}
    assert joined.unattributed == {"repeated": 1}
    assert main(["report", "--json", "--home", str(fresh_home.root)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["groups"][0]["metrics"]["Revenue/1000"] == 9.5 * 1000 / 2
    assert main(["report", "--home", str(fresh_home.root)]) == 0
    assert "1 repeated" in capsys.readouterr().out


def test_wrong_feedback_is_refused_entry_by_entry(api: httpx.Client) -> None:
    event = {"user_id": "ann", "item_id": "f1"}
    entries = [
        {**event, "request_id": 7},
        {**event, "context": [1]},
        {**event, "context": {"x": "y" * 20_000}},
    ]
    answer = api.post("/v1/events", json={"events": [*entries, {**event, "request_id": "nobody asked"}]})
    assert answer.json()["stored"] == 1
    codes = [fault["code"] for fault in answer.json()["rejected"]]
    assert codes == ["bad-request-id", "bad-context", "bad-context"]


def test_the_log_never_holds_up_and_counts_what_it_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slates = [Slate(f"q{n}", "ann", (), "model", "r", 0.0) for n in range(5)]
    told = [Feedback("e", person_of("ann"), 1, "q0", "f1", "click", None, "")]
    monkeypatch.setattr("slipstream.server.impression_log.MOST_ANSWERS", 3)

    async def run(sample: float, *, broken: bool) -> int:
        store = SqliteImpressionStore(tmp_path / f"{sample}-{broken}.sqlite")
        log = ImpressionLog(store, FeedbackSettings(sample=sample))
        for slate in slates:
            log.note(slate)
        if broken:
            store.close()
        log.start()
        with pytest.raises(UsageError, match="was closed") if broken else contextlib.nullcontext():
            await log.attach(told)
        await log.finish()
        return log.dropped

    assert asyncio.run(run(1.0, broken=False)) == 2  # no room for the last two
    assert asyncio.run(run(1.0, broken=True)) == 5
    assert asyncio.run(run(0.0, broken=False)) == 0
    for sample, kept in ((1.0, 3), (0.0, 0)):
        with SqliteImpressionStore(tmp_path / f"{sample}-False.sqlite") as store:
            assert store.served().height == kept
            assert store.feedback().height == 1  # feedback is never sampled


def test_while_callers_stand_in_line_only_feedback_is_written(tmp_path: Path) -> None:
    crowd = [True]
    told = [Feedback("e", person_of("ann"), 1, "q0", "f1", "click", None, "")]

    async def story(store: SqliteImpressionStore) -> None:
        log = ImpressionLog(store, FeedbackSettings(), crowded=lambda: crowd[0])
        log.start()
        for n in range(2 * MOST_TOGETHER + 1):
            log.note(Slate(f"q{n}", "ann", (), "model", "r", 0.0))
        await log.attach(told)
        assert (store.feedback().height, store.served().height, log.dropped) == (1, 0, 0)
        crowd[0] = False
        await log.attach(told)
        assert store.served().height == MOST_TOGETHER  # in parts, and feedback with the first
        while log.waiting:
            await asyncio.sleep(0.01)
        log.note(Slate("last", "ann", (), "model", "r", 0.0))
        crowd[0] = True
        await log.finish()  # the end does not wait for the crowd

    path = tmp_path / "i.sqlite"
    asyncio.run(story(SqliteImpressionStore(path)))
    with SqliteImpressionStore(path) as store:
        assert store.served().height == 2 * MOST_TOGETHER + 2


def test_a_log_that_cannot_be_written_refuses_nobody(fresh_home: Home) -> None:
    """Another process holds the file: answers go on, those without room are counted, the rest is kept."""
    prelude = "from slipstream.server import impression_log\nimpression_log.MOST_ANSWERS = 30"
    with (
        served_home.serving(fresh_home, prelude=prelude) as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
        contextlib.closing(sqlite3.connect(fresh_home.impressions, isolation_level=None)) as holder,
    ):
        holder.execute("BEGIN IMMEDIATE")
        assert {api.get(f"/v1/recommendations/u{n}").status_code for n in range(100)} == {200}
        lines = api.get("/metrics").text.splitlines()
        (dropped,) = (
            int(line.split()[1]) for line in lines if line.startswith("slipstream_impressions_dropped ")
        )
        assert dropped > 0
        holder.execute("COMMIT")
        assert server.stop() == 0
    with SqliteImpressionStore(fresh_home.impressions) as store:
        assert store.served().height == 100 - dropped


def test_forgetting_over_http_reaches_answers_that_are_still_in_memory(fresh_home: Home) -> None:
    with served_home.serving(fresh_home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        for user in ("ann", "bob"):
            api.get(f"/v1/recommendations/{user}")
        assert api.delete("/v1/users/ann").status_code == 200
        assert server.stop() == 0
    with SqliteImpressionStore(fresh_home.impressions) as store:
        assert store.served()["person"].to_list() == [person_of("bob")]


def test_acknowledged_feedback_survives_kill_9(fresh_home: Home) -> None:
    acknowledged: list[str] = []

    def write(writer: int, url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as api, contextlib.suppress(httpx.HTTPError):
            for n in range(10_000):
                name = f"{writer}-{n}"
                event = {"event_id": name, "user_id": "ann", "item_id": "f1", "request_id": "q"}
                if api.post("/v1/events", json=event).status_code == 200:
                    acknowledged.append(name)

    with served_home.serving(fresh_home) as server:
        threads = [threading.Thread(target=write, args=(n, server.url)) for n in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(acknowledged) > 60)
        server.kill()
        for thread in threads:
            thread.join()
    with SqliteImpressionStore(fresh_home.impressions) as store:
        assert set(acknowledged) <= set(store.feedback()["event_id"])


def test_a_clock_that_jumps_removes_nothing_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    now = {"wall": 1e9, "steady": 50.0}
    clock = TrustedClock(wall_s=lambda: now["wall"], steady_s=lambda: now["steady"])

    def after(seconds: float, jump: float = 0.0) -> bool:
        now["steady"] += seconds
        now["wall"] += seconds + jump
        return clock.believed()

    assert after(0)
    assert after(30 * 86_400, jump=20)  # drifts and small corrections are nothing
    assert not after(1, jump=90 * 86_400)
    assert not after(3_599)
    assert after(2)
    assert not after(1, jump=-90 * 86_400)  # back again is a jump as well
    assert after(3_601)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "the clock jumped by +7776020 s",
        "the clock jumped by -7776000 s",
    ]


@pytest.mark.parametrize(("newest_age", "left"), [(1, [1]), (200, [400, 200])])
def test_the_start_cleans_unless_the_clock_calls_everything_too_old(
    tmp_path: Path, newest_age: int, left: list[int]
) -> None:
    today = time.time_ns() // 1000 // DAY_US

    async def run() -> None:
        log = ImpressionLog(SqliteImpressionStore(tmp_path / "i.sqlite"), FeedbackSettings(keep_days=90))
        log.start()
        await log.attach([Feedback("e", 1, 1, "q0", "f1", "click", None, "")])
        await log.finish()

    with SqliteImpressionStore(tmp_path / "i.sqlite") as store:
        assert store.newest_day() is None
        for age in (400, newest_age):
            at = (today - age) * DAY_US
            row = Served(f"{age}", 1, at, "r", "", "model", ["f1"], [1.0])
            store.append([row], [], now_us=at)
        asyncio.run(run())
        assert store.served()["request_id"].to_list() == [str(age) for age in left]


def test_events_from_the_future_are_refused_and_those_of_tomorrow_are_late(fresh_home: Home) -> None:
    with served_home.serving(fresh_home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        slate = api.get("/v1/recommendations/ann", params={"k": 3}).json()
        click = {"user_id": "ann", "item_id": slate["items"][0]["item_id"], "request_id": slate["request_id"]}
        ahead = [{**click, "time": time.time() + hours * 3600} for hours in (23, 30)]
        told = api.post("/v1/events", json={"events": ahead}).json()
        assert (told["stored"], [fault["code"] for fault in told["rejected"]]) == (1, ["future-time"])
        assert server.stop() == 0
    with SqliteImpressionStore(fresh_home.impressions) as store:
        served, feedback = store.served(), store.feedback()
    assert attribute(served, feedback, 12 * HOUR_US).unattributed == {"late": 1}
