"""Kills, changed bytes, swaps, full disks, too much work: an acknowledged event is never lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import served_home

from slipstream.config import Home
from slipstream.errors import CorruptArtifact, NotThere, Unavailable
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.live_release import promote, rollback
from slipstream.recommend.rules import Rules
from slipstream.server.admission import FEWEST
from slipstream.server.service import serve


def eventually(check: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_kill_9_during_batches_loses_no_acknowledged_event(fresh_home: Home) -> None:
    acknowledged: list[str] = []
    sent: list[str] = []

    def write(writer: int, url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as api, contextlib.suppress(httpx.HTTPError):
            for batch in range(10_000):
                names = [f"{writer}-{batch}-{n}" for n in range(20)]
                sent.extend(names)
                events = [{"event_id": name, "user_id": f"w{writer}", "item_id": "f1"} for name in names]
                reply = api.post("/v1/events", json={"events": events})
                if reply.status_code == 200:
                    acknowledged.extend(names)

    with served_home.serving(fresh_home, workers=2) as server:
        threads = [threading.Thread(target=write, args=(n, server.url)) for n in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(acknowledged) > 300)
        server.kill()
        for thread in threads:
            thread.join()
    store = SqliteEventStore(fresh_home.events)
    found: list[str] = []
    for frame in store.scan():
        found.extend(name for name in frame["event_id"].to_list() if not name.startswith("past-"))
    store.close()
    assert set(acknowledged) <= set(found)  # nothing lost
    assert len(found) == len(set(found))  # nothing doubled
    assert set(found) <= set(sent)
    with served_home.serving(fresh_home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        events = [{"event_id": n, "user_id": "w0", "item_id": "f1"} for n in sent if n.startswith("0-")]
        again = api.post("/v1/events", json={"events": events[-5_000:]}).json()  # the retry after a crash
        assert again["repeated"] >= sum(n.startswith("0-") for n in acknowledged[-5_000:])
        items = api.get("/v1/recommendations/w0?k=30").json()["items"]
        assert "f1" not in [item["item_id"] for item in items]


def test_an_event_acknowledged_by_one_worker_is_in_the_answer_of_any(fresh_home: Home) -> None:
    with served_home.serving(fresh_home, workers=2) as server:
        clients = [httpx.Client(base_url=server.url, timeout=30) for _ in range(6)]  # over both workers
        try:
            for n in range(12):
                writer, item = clients[n % 6], f"f{n}"
                reply = writer.post("/v1/events", json={"user_id": "roamer", "item_id": item})
                assert reply.json()["stored"] == 1
                for reader in clients:
                    items = reader.get("/v1/recommendations/roamer?k=30").json()["items"]
                    assert item not in [i["item_id"] for i in items]
            clients[0].post("/v1/items", json={"item_id": "later"})
            for reader in clients:
                slate = reader.post("/v1/recommendations", json={"allow": ["later"]}).json()
                assert [i["item_id"] for i in slate["items"]] == ["later"]
        finally:
            for client in clients:
                client.close()
        assert server.stop() == 0  # a signal ends all workers with grace


def test_a_killed_worker_is_replaced_and_gets_its_part_of_the_kept_connections(fresh_home: Home) -> None:
    log = fresh_home.root / "server.log"
    statuses: list[int] = []

    def ask(client: httpx.Client) -> None:
        with contextlib.suppress(httpx.TransportError):  # its connection was cut by the kill
            statuses.append(client.get("/v1/recommendations/u1").status_code)

    def answered_by(clients: list[httpx.Client]) -> Counter[int]:
        """Who answered one request of each client."""
        before = log.stat().st_size
        for client in clients:
            ask(client)
        lines = log.read_bytes()[before:].decode().splitlines()
        return Counter(json.loads(line)["worker"] for line in lines if '"worker"' in line)

    def spread_without(gone: int) -> bool:
        found = answered_by(clients)
        return gone not in found and len(found) == 2 and min(found.values()) >= 6

    with served_home.serving(fresh_home, workers=2, options="access_log=True") as server:
        clients = [httpx.Client(base_url=server.url, timeout=30) for _ in range(24)]
        try:
            eventually(lambda: len(answered_by(clients)) == 2)
            first = set(answered_by(clients))
            for (
                killed
            ) in first:  # the second one also dies young, and perhaps before there is a reserve again
                os.kill(killed, signal.SIGKILL)
                eventually(lambda gone=killed: spread_without(gone))  # type: ignore[misc]
            assert not first & set(answered_by(clients))
        finally:
            for client in clients:
                client.close()
        assert server.stop() == 0
    assert set(statuses) == {200}
    assert log.read_text().count("takes its place") == 2


def test_workers_that_cannot_start_are_given_up(fresh_home: Home) -> None:
    prelude = (
        "from slipstream.server import backend, workers\n"
        "from slipstream.errors import Unavailable\n"
        "workers.RESTART_SECONDS, workers.MOST_FAILED_STARTS = 0.01, 2\n"
        "def broken(self): raise Unavailable('no way')\n"
        "backend.Backend._open = broken"
    )
    script = served_home.server_script(fresh_home, workers=2, prelude=prelude)
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "the workers end as soon as they start" in ended.stderr


def test_a_writer_beside_the_server_is_seen(fresh_home: Home) -> None:
    import polars as pl

    from slipstream.events.event import EventBatch

    with served_home.serving(fresh_home) as server, httpx.Client(base_url=server.url) as api:
        first = api.get("/v1/recommendations/outside").json()["items"][0]["item_id"]
        store = SqliteEventStore(fresh_home.events)
        store.append(EventBatch.of(pl.DataFrame({"user_id": ["outside"], "item_id": [first]})))
        store.close()
        assert api.get("/v1/recommendations/outside").json()["items"][0]["item_id"] != first
        api.close()
        assert server.stop() == 0  # a signal ends it with grace


def test_releases_swap_without_a_failed_request_and_a_changed_one_is_refused(fresh_home: Home) -> None:
    statuses: list[int] = []
    served: set[str] = set()
    done = threading.Event()

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=10) as api:
            while not done.is_set():
                reply = api.get("/v1/recommendations/u1")
                statuses.append(reply.status_code)
                served.add(reply.json()["release"])

    with served_home.serving(fresh_home) as server, httpx.Client(base_url=server.url) as api:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(2):
                pool.submit(ask, server.url)
            try:
                served_home.release(fresh_home, "second")
                eventually(lambda: "second" in served)
                served_home.release(fresh_home, "third")
                broken = fresh_home.releases / "third" / "people.npy"
                good = broken.read_bytes()
                broken.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
                refused = "slipstream_release_refused_total 1"
                eventually(lambda: refused in api.get("/metrics").text or "third" in served)
            finally:
                done.set()
        if "third" not in served:  # the byte was changed before the server looked
            assert api.get("/readyz").json()["release"] == "second"
            assert "people.npy" in (fresh_home.root / "server.log").read_text()
        assert set(statuses) == {200}
        assert {"first", "second"} <= served


def test_promote_and_rollback_reach_every_worker_and_no_answer_mixes_two_releases(fresh_home: Home) -> None:
    even, odd = (tuple(f"f{n}" for n in range(30) if n % 2 == side) for side in (1, 0))
    served_home.release(fresh_home, "even", rules=Rules(blocked=even), live=False)
    served_home.release(fresh_home, "odd", rules=Rules(blocked=odd), live=False)
    promote(fresh_home.releases, "even")
    allowed = {"even": set(odd), "odd": set(even)}
    answers: list[tuple[int, str, frozenset[str]]] = []
    done = threading.Event()

    def ask(url: str) -> None:
        while not done.is_set():
            with httpx.Client(base_url=url, timeout=10) as api:  # a new connection: any worker
                for user in range(5):
                    reply = api.get(f"/v1/recommendations/u{user}?k=15")
                    slate = reply.json()
                    shown = frozenset(item["item_id"] for item in slate.get("items", []))
                    answers.append((reply.status_code, slate.get("release", ""), shown))

    def all_say(name: str) -> bool:
        """The next answers of every connection: both workers take turns over so many."""
        start = len(answers)
        eventually(lambda: len(answers) > start + 40)
        return {release for _, release, _ in answers[start + 20 : start + 40]} == {name}

    with served_home.serving(fresh_home, workers=2) as server, ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(ask, server.url)
        try:
            for name in ("odd", "even"):
                promote(fresh_home.releases, name)
                eventually(lambda name=name: all_say(name))  # type: ignore[misc]
            assert rollback(fresh_home.releases) == "odd"
            eventually(lambda: all_say("odd"))
        finally:
            done.set()
    assert {status for status, _, _ in answers} == {200}
    for _, release, shown in answers:
        assert shown <= allowed[release], f"{release} answered with {shown}"


def test_a_changed_release_does_not_start(fresh_home: Home) -> None:
    file = fresh_home.releases / "first" / "people.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptArtifact, match=r"people\.npy"):
        serve(fresh_home, port=0, announce=lambda line: None)


def test_a_home_without_a_release_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotThere) as caught:
        serve(Home(tmp_path), port=0)
    assert "slipstream release" in caught.value.hint


def test_a_taken_port_is_told(fresh_home: Home) -> None:
    with served_home.serving(fresh_home) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(Unavailable, match=str(port)):
            serve(fresh_home, port=port)


def test_a_full_disk_refuses_and_acknowledges_nothing(fresh_home: Home) -> None:
    """The store's file may not grow past a bound, which SQLite reports exactly as it reports a full disk."""
    limit = fresh_home.events.stat().st_size + 200_000
    prelude = (
        "import functools\n"
        "from slipstream.server import backend\n"
        f"backend.SqliteEventStore = functools.partial(backend.SqliteEventStore, max_bytes={limit})"
    )
    with (
        served_home.serving(fresh_home, prelude=prelude) as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        acknowledged = 0
        refused = None
        for batch in range(500):
            names = [f"fill-{batch}-{n}" for n in range(100)]
            events = [{"event_id": n, "user_id": "filler", "item_id": "f1" * 100} for n in names]
            reply = api.post("/v1/events", json={"events": events})
            if reply.status_code != 200:
                refused = reply
                break
            acknowledged += len(names)
        assert refused is not None
        assert refused.status_code == 507
        assert refused.json()["code"] == "disk-full"
        assert "free some space" in refused.json()["hint"]
        assert api.get("/v1/recommendations/u1").status_code == 200  # it goes on answering
    with SqliteEventStore(fresh_home.events) as store:
        assert store.event_count("filler") == acknowledged


def test_too_much_work_is_refused_at_once_with_a_time_to_come_back(fresh_home: Home) -> None:
    prelude = (
        "import time\n"
        "from slipstream.recommend import pipeline\n"
        "answer = pipeline.Pipeline.recommend\n"
        "pipeline.Pipeline.recommend = lambda self, r: (time.sleep(0.05), answer(self, r))[1]"
    )
    with served_home.serving(fresh_home, prelude=prelude) as server, contextlib.ExitStack() as stack:
        port = int(server.url.rpartition(":")[2])
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(150)
        ]
        for caller in crowd:  # the server has taken every connection before the rush begins
            caller.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        for caller in crowd:
            reply = b""
            while b"}" not in reply:
                reply += caller.recv(65_536)
        for number, caller in enumerate(crowd):  # all at once, each on a connection of its own
            path = f"/v1/recommendations/u{number}"
            caller.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        replies = [b"".join(iter(lambda c=caller: c.recv(65_536), b"")) for caller in crowd]  # type: ignore[misc]
        assert httpx.get(f"{server.url}/healthz").status_code == 200
    statuses = [int(reply[9:12]) for reply in replies]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= FEWEST
    for reply in replies:
        if reply[9:12] == b"503":
            head, _, body = reply.partition(b"\r\n\r\n")
            assert json.loads(body)["code"] == "overloaded"
            assert b"retry-after: 1" in head


def test_each_request_is_a_line_of_json_that_names_nobody(fresh_home: Home) -> None:
    with served_home.serving(fresh_home, options="access_log=True") as server:
        httpx.get(f"{server.url}/v1/recommendations/someone-private?k=3")
        httpx.get(f"{server.url}/nowhere/someone-private")
        assert server.stop() == 0
    text = (fresh_home.root / "server.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["route"] not in ("/healthz", "none")]
    (line,) = asked
    assert line["route"] == "/v1/recommendations/{user_id}"
    assert (line["method"], line["status"]) == ("GET", 200)
    assert line["bytes"] > 100
    assert 0 < line["ms"] < 10_000
    assert [line["status"] for line in lines if line["route"] == "none"] == [404]
    assert "someone-private" not in text


def test_a_signal_lets_the_requests_in_hand_finish(fresh_home: Home) -> None:
    prelude = (
        "import time\n"
        "from slipstream.recommend import pipeline\n"
        "answer = pipeline.Pipeline.recommend\n"
        "pipeline.Pipeline.recommend = lambda self, r: (time.sleep(2.0), answer(self, r))[1]"
    )
    with served_home.serving(fresh_home, prelude=prelude) as server, ThreadPoolExecutor(2) as pool:
        urls = [f"{server.url}/v1/recommendations/u{n}?explain=true" for n in range(2)]
        asked = [pool.submit(httpx.get, url, timeout=30) for url in urls]
        inside = "slipstream_answers_inside 2"
        eventually(lambda: inside in httpx.get(f"{server.url}/metrics").text)
        assert server.stop() == 0
        assert [reply.result().status_code for reply in asked] == [200, 200]
