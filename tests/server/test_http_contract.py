"""The contract over a real server: what goes in, what comes out, and what is refused, with code and hint."""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest


def problem(reply: httpx.Response, status: int) -> dict[str, Any]:
    """The body of a refused call, after checking that it is problem+json with a code and a hint."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = reply.json()
    assert body["status"] == status
    assert body["code"]
    assert body["detail"]
    assert "hint" in body
    return body


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [item["item_id"] for item in reply.json()["items"]]


def test_the_story_of_a_person(api: httpx.Client) -> None:
    before = api.get("/v1/recommendations/story", params={"k": 5, "explain": True})
    slate = before.json()
    assert set(slate) == {"request_id", "user_id", "items", "tier", "release", "release_age_s"}
    assert slate["user_id"] == "story"
    assert slate["tier"] == "popularity"
    assert slate["release"] == "first"
    assert len(slate["items"]) == 5
    assert slate["items"][0]["reasons"][0]["kind"] == "popularity"
    first, second = ids(before)[:2]
    event = {"event_id": "story-1", "user_id": "story", "item_id": first, "kind": "watch"}
    assert api.post("/v1/events", json=event).json() == {"stored": 1, "repeated": 0, "rejected": []}
    after = ids(api.get("/v1/recommendations/story", params={"k": 5}))
    assert first not in after  # an acknowledged event is in the next answer
    assert after[0] == second
    assert api.post("/v1/events", json=event).json() == {"stored": 0, "repeated": 1, "rejected": []}
    batch = {
        "events": [event, {"user_id": "story", "item_id": second, "value": 4.5, "time": 1_700_000_000.5}]
    }
    assert api.post("/v1/events", json=batch).json() == {"stored": 1, "repeated": 1, "rejected": []}
    listed = api.get("/v1/users/story/events").json()
    assert [e["item_id"] for e in listed["events"]] == [first, second]  # newest first, by time
    assert listed["events"][1]["time"] == "2023-11-14T22:13:20.500000+00:00"
    assert listed["events"][1]["value"] == 4.5
    assert listed["events"][1]["kind"] == "click"
    assert [e["event_id"] for e in api.get("/v1/users/story/events?limit=1").json()["events"]] == ["story-1"]
    assert api.delete("/v1/users/story").json() == {"user_id": "story", "events_removed": 2}
    assert api.get("/v1/users/story/events").json()["events"] == []
    forgotten = api.get("/v1/recommendations/story", params={"k": 5})
    assert ids(forgotten) == ids(before)
    assert forgotten.json()["tier"] == "popularity"
    assert api.delete("/v1/users/story").json()["events_removed"] == 0


def test_a_known_user_is_answered_by_the_model_until_forgotten(api: httpx.Client) -> None:
    known = api.get("/v1/recommendations/u3").json()
    assert known["tier"] == "model"
    assert {f"f{n}" for n in range(4, 11)}.isdisjoint(item["item_id"] for item in known["items"])
    assert api.delete("/v1/users/u3").json()["events_removed"] == 7
    assert api.get("/v1/recommendations/u3").json()["tier"] == "popularity"
    api.post("/v1/events", json={"user_id": "u3", "item_id": "f0"})
    assert "f0" not in ids(api.get("/v1/recommendations/u3"))


def test_a_request_may_bring_all_it_needs(api: httpx.Client) -> None:
    body = {
        "history": ["f1", "f2", "nobody knows this"],
        "k": 30,
        "exclude": ["f3", "?"],
        "filters": {"genre": ["drama"]},
        "context": {"page": "home"},
    }
    found = ids(api.post("/v1/recommendations", json=body))
    assert set(found) <= {f"f{n}" for n in range(5, 30, 2)}
    assert ids(api.post("/v1/recommendations", json={"allow": ["f9", "f4", "?"]})) == ["f9", "f4"]
    assert ids(api.post("/v1/recommendations", json={"allow": []})) == []
    anybody = api.post("/v1/recommendations", json={}).json()
    assert anybody["user_id"] is None
    assert len(anybody["items"]) == 10
    as_of = api.post("/v1/recommendations", json={"user_id": "u5", "time": "1970-01-01T00:00:00Z"}).json()
    assert as_of["tier"] == "popularity"  # before the first event nothing was known


@pytest.mark.parametrize("name", ["Zoë", "用户", "a/b", "a b%20c", "..", "🙂", "' or 1=1 --", "x" * 512])
def test_ids_are_kept_as_they_are(api: httpx.Client, name: str) -> None:
    path = quote(name, safe="") if name != ".." else "%2E%2E"
    assert api.post("/v1/events", json={"user_id": name, "item_id": f"of {name}"[:512]}).status_code == 200
    url = httpx.URL(str(api.base_url)).copy_with(raw_path=f"/v1/users/{path}/events".encode())
    listed = api.get(url).json()
    assert listed["user_id"] == name
    assert listed["events"][0]["item_id"] == f"of {name}"[:512]
    slate = api.get(url.copy_with(raw_path=f"/v1/recommendations/{path}".encode())).json()
    assert slate["user_id"] == name


def test_an_added_item_is_recommendable_at_once(api: httpx.Client) -> None:
    row = {"item_id": "new film", "title": "新片", "genre": ["noir"], "year": 2026, "in_stock": True}
    assert api.post("/v1/items", json=row).json() == {"stored": 1, "rejected": []}
    slate = api.post("/v1/recommendations", json={"history": ["f1"], "allow": ["new film"]}).json()
    assert [item["title"] for item in slate["items"]] == ["新片"]
    assert "new film" in ids(api.get("/v1/recommendations/u7"))
    assert ids(api.get("/v1/items/new film/similar", params={"k": 3}))
    assert ids(api.post("/v1/recommendations", json={"filters": {"in_stock": [True]}})) == ["new film"]
    mixed = {"items": [{"item_id": "x1"}, {"title": "no id"}, {"item_id": "x2", "deep": {"a": 1}}]}
    reply = api.post("/v1/items", json=mixed).json()
    assert reply["stored"] == 1
    assert [r["index"] for r in reply["rejected"]] == [1, 2]


def test_similar_and_explanations(api: httpx.Client) -> None:
    similar = api.get("/v1/items/f1/similar", params={"k": 4}).json()
    assert len(similar["items"]) == 4
    assert similar["user_id"] is None
    reasons = api.get("/v1/explanations/stranger/f1").json()
    assert reasons["reasons"][0]["kind"] == "popularity"
    assert problem(api.get("/v1/items/nothing/similar"), 404)["code"] == "unknown-item"
    assert problem(api.get("/v1/explanations/u1/nothing"), 404)["code"] == "unknown-item"


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        ({"item_id": "f1"}, "user id is empty"),
        ({"user_id": "u", "item_id": ""}, "empty"),
        ({"user_id": "u", "item_id": [5]}, "item_id must be a string"),
        ({"user_id": "u", "item_id": "f1", "knd": "typo"}, "knd"),
        ({"user_id": "u", "item_id": "x" * 513}, "513 bytes"),
        ({"user_id": "é" * 300, "item_id": "f1"}, "600 bytes"),
        ({"user_id": "u\0", "item_id": "f1"}, "zero byte"),
        ({"user_id": "u", "item_id": "f1", "kind": "k" * 65}, "65 bytes"),
        ({"user_id": "u", "item_id": "f1", "value": "5"}, "value must be a number"),
        ({"user_id": "u", "item_id": "f1", "time": "yesterday"}, "RFC 3339"),
        ({"user_id": "u", "item_id": "f1", "time": [1]}, "RFC 3339"),
        ({"user_id": "u", "item_id": "f1", "time": 1e300}, "unix time"),
        ({"user_id": "u", "item_id": "f1", "time": time.time() + 1e7}, "ahead of the clock"),
        ({"user_id": "u", "item_id": "f1", "time": "2026-02-30T00:00:00Z"}, "RFC 3339"),
    ],
)
def test_a_bad_event_is_rejected_with_its_fault_and_the_good_ones_are_kept(
    api: httpx.Client, event: dict[str, Any], fault: str
) -> None:
    assert fault in problem(api.post("/v1/events", json=event), 422)["detail"]
    good = {"user_id": "among bad ones", "item_id": "f1"}
    reply = api.post("/v1/events", json={"events": [event, good, event]})
    assert reply.status_code == 200
    assert reply.json()["stored"] == 1
    assert [r["index"] for r in reply.json()["rejected"]] == [0, 2]
    assert fault in reply.json()["rejected"][1]["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"null",
        b'"text"',
        b'{"events": 5}',
        b'{"events": []}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"user_id": "u", "item_id": "f1", "value": NaN}',
        b'{"user_id": "u", "item_id": "f1", "value": 1e999}',
        b'{"user_id": "u", "item_id": "\\ud800"}',
        b'{"k": ' + b"9" * 10_000 + b"}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations", "/v1/items"])
def test_what_is_no_event_is_the_callers_fault(api: httpx.Client, path: str, body: bytes) -> None:
    reply = api.post(path, content=body)
    assert reply.status_code in (400, 422), reply.text
    problem(reply, reply.status_code)


@pytest.mark.parametrize("k", ["0", "501", "-1", "1.5", "many", "", "9" * 5000, "１"])
def test_k_is_bounded(api: httpx.Client, k: str) -> None:
    assert "1 to 500" in problem(api.get("/v1/recommendations/u1", params={"k": k}), 422)["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"k": 0},
        {"k": 501},
        {"k": 10**30},
        {"k": "5"},
        {"history": [1]},
        {"history": "f1"},
        {"history": ["f1"] * 5_001},
        {"exclude": [f"x{n}" for n in range(100_000)]},
        {"filters": {"no such attribute": ["x"]}},
        {"filters": {"genre": "drama"}},
        {"time": "soon"},
        {"time": "9999-12-31T23:59:59Z"},
        {"user_id": ""},
        {"unknown": 1},
    ],
)
def test_a_request_out_of_bounds_is_refused(api: httpx.Client, body: dict[str, Any]) -> None:
    assert problem(api.post("/v1/recommendations", json=body), 422)["hint"]


def test_sizes_are_bounded(api: httpx.Client) -> None:
    event = {"user_id": "u", "item_id": "f1"}
    assert problem(api.post("/v1/events", json={"events": [event] * 10_001}), 413)["code"] == "too-many"
    assert problem(api.post("/v1/events", content=b" " * (5 * 1024 * 1024)), 413)["code"] == "too-large"

    def chunks() -> Any:
        for _ in range(80):
            yield b" " * 65_536

    assert problem(api.post("/v1/events", content=chunks()), 413)["code"] == "too-large"
    context = {"context": {"x": "y" * 20_000}}
    assert problem(api.post("/v1/recommendations", json=context), 413)["code"] == "too-large"
    long_id = "x" * 513
    assert "512" in problem(api.get(f"/v1/recommendations/{long_id}"), 422)["detail"]


def test_paths_and_methods_that_are_not_there(api: httpx.Client) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v1/recommendations/", "/v1/users//events", "/v1/items/a/b/c"):
        assert problem(api.get(path), 404 if path != "/v1/recommendations/" else 405)["code"]
    refused = api.put("/v1/events", json={})
    assert problem(refused, 405)["code"] == "method"
    assert refused.headers["allow"] == "POST"
    bad = httpx.URL(str(api.base_url)).copy_with(raw_path=b"/v1/recommendations/%ff")
    assert problem(api.get(bad), 400)["code"] == "path"
    assert api.head("/healthz").status_code == 200


def sent_raw(api: httpx.Client, *parts: bytes) -> httpx.Response:
    """What the server says to bytes that no HTTP client would send."""
    with socket.create_connection((api.base_url.host, api.base_url.port or 0), timeout=30) as caller:
        for part in parts:
            caller.sendall(part)
        raw = b"".join(iter(lambda: caller.recv(65_536), b""))  # until the server closes
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return httpx.Response(int(lines[0][9:12]), headers=[line.split(": ") for line in lines[1:]], content=body)


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ((b"FOO /healthz HTTP/1.1\r\n\r\n",), 405, "method"),
        ((b"\x16\x03\x01\x02\x00\x01",), 400, "not-http"),
        ((b"\x00\x00\x00",), 400, "not-http"),
        ((b"GET /a b HTTP/1.1\r\n\r\n",), 400, "not-http"),
        ((b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",), 400, "not-http"),
        ((b"POST /v1/events HTTP/1.1\r\ncontent-length: x\r\n\r\n",), 400, "not-http"),
        ((b"CONNECT there:1 HTTP/1.1\r\nhost: x\r\n\r\n",), 400, "not-http"),
        ((b"GET /", *[b"a" * 60_000] * 9), 413, "too-large"),
    ],
)
def test_what_is_not_http_is_a_problem_too(
    api: httpx.Client, parts: tuple[bytes, ...], status: int, code: str
) -> None:
    try:
        told = problem(sent_raw(api, *parts), status)
    except ConnectionError:  # the server had hung up while the rest was still being sent
        assert status == 413
    else:
        assert told["code"] == code
    assert api.get("/healthz").status_code == 200


def test_a_long_body_is_no_long_head(api: httpx.Client) -> None:
    events = [{"user_id": "long-body", "item_id": "f1", "context": {"note": "x" * 500}} for _ in range(500)]
    assert api.post("/v1/events", json={"events": events}).json()["stored"] == 500


def test_the_server_describes_itself(api: httpx.Client) -> None:
    assert api.get("/healthz").json() == {"status": "alive"}
    assert api.get("/readyz").json() == {"status": "ready", "release": "first"}
    document = api.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {
        "/v1/recommendations/{user_id}",
        "/v1/recommendations",
        "/v1/events",
        "/v1/users/{user_id}/events",
        "/v1/users/{user_id}",
        "/v1/items",
        "/v1/items/{item_id}/similar",
        "/v1/explanations/{user_id}/{item_id}",
    } <= set(document["paths"])
    page = api.get("/docs")
    assert "text/html" in page.headers["content-type"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    text = api.get("/metrics").text
    assert 'slipstream_requests_total{route="/healthz",status="200"}' in text
    assert 'slipstream_answer_seconds_bucket{tier="popularity",le="+Inf"}' in text
    assert 'slipstream_events_total{outcome="stored"}' in text


def test_every_operation_of_the_document_answers_its_own_example(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            filled = path.replace("{user_id}", "u1").replace("{item_id}", "f1")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            reply = api.request(method.upper(), filled, json=body.get("example"))
            assert str(reply.status_code) in operation["responses"], (method, path, reply.text)
            assert reply.status_code == 200
