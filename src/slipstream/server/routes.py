"""Every route of the contract: reads the call, asks the backend, writes the answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from slipstream.errors import UnknownName
from slipstream.events.event import MAX_AHEAD_US, MAX_ID_BYTES, Reject
from slipstream.events.times import parse_time, time_text
from slipstream.recommend.catalogue import value_texts
from slipstream.recommend.pipeline import Request
from slipstream.server import documentation
from slipstream.server.app import Call, Reply, Route
from slipstream.server.backend import Backend
from slipstream.server.exposition import CONTENT_TYPE
from slipstream.server.page import page
from slipstream.server.wire import (
    MOST_CONTEXT_BYTES,
    MOST_EVENTS,
    MOST_NEW_ITEMS,
    MOST_RESULTS,
    EventsIn,
    EventsRead,
    ItemsIn,
    Problem,
    RecommendIn,
    Rejected,
    Time,
    decode,
    encode,
    entries,
    read_events,
    read_items,
)

MOST_LISTED = 1_000
SMALL_BODY_BYTES = 16_384
"""Larger batches are read in a thread; 10,000 events take tens of milliseconds."""
HTML = b"text/html; charset=utf-8"
_PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class Routes:
    """The handlers over one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._table = self._routes()
        self._openapi = encode(documentation.openapi(self._table))
        self._page = page(self._table).encode()

    def table(self) -> list[Route]:
        return self._table

    def _routes(self) -> list[Route]:
        about = documentation.ABOUT
        return [
            Route(
                "GET", "/v1/recommendations/{user_id}", self.recommend_user, "read", about["recommend_user"]
            ),
            Route("POST", "/v1/recommendations", self.recommend, "read", about["recommend"]),
            Route("POST", "/v1/events", self.post_events, "events", about["post_events"]),
            Route("GET", "/v1/users/{user_id}/events", self.user_events, "read", about["user_events"]),
            Route("DELETE", "/v1/users/{user_id}", self.forget, "admin", about["forget"]),
            Route("POST", "/v1/items", self.post_items, "admin", about["post_items"]),
            Route("GET", "/v1/items/{item_id}/similar", self.similar, "read", about["similar"]),
            Route("GET", "/v1/explanations/{user_id}/{item_id}", self.explain, "read", about["explain"]),
            Route("GET", "/healthz", self.health, None, about["health"]),
            Route("GET", "/readyz", self.readiness, None, about["readiness"]),
            Route("GET", "/metrics", self.metrics, "read", about["metrics"]),
            Route("GET", "/openapi.json", self.openapi, None, about["openapi"]),
            Route("GET", "/docs", self.docs, None, about["docs"]),
        ]

    async def recommend_user(self, call: Call) -> Reply:
        k = _whole(call, "k", 10, 1, MOST_RESULTS)
        request = Request(user_id=_id(call, "user_id"), k=k, explain=_flag(call, "explain"))
        return await self._slate(request)

    async def recommend(self, call: Call) -> Reply:
        asked = decode(call.body, RecommendIn)
        user_id = None if asked.user_id is None else _checked("user_id", asked.user_id)
        if asked.context is not None and len(encode(asked.context)) > MOST_CONTEXT_BYTES:
            raise Problem(413, "too-large", f"context holds at most {MOST_CONTEXT_BYTES} bytes")
        filters = {
            column: tuple(text for value in values for text in value_texts(value))
            for column, values in (asked.filters or {}).items()
        }
        return await self._slate(
            Request(
                user_id=user_id,
                history=asked.history,
                k=asked.k,
                explain=asked.explain,
                exclude=asked.exclude or (),
                allow=asked.allow,
                filters=filters,
                time_us=None if asked.time is None else _moment(asked.time),
                context=asked.context or {},
            )
        )

    async def _slate(self, request: Request) -> Reply:
        # reasons may take long: they must not hold up those who want none
        queue = self._backend.answers if request.explain else self._backend.line
        slate = await queue.run(lambda: self._backend.recommend(request))
        return Reply(encode(slate))

    async def post_events(self, call: Call) -> Reply:
        read = await self._read(call.body)
        rejected = read.rejected
        if not len(read.batch):
            raise _nothing_taken(rejected, {"stored": 0, "repeated": 0})
        done = await self._backend.append(read.batch, read.feedback)
        self._backend.metrics.stored(done.stored, done.repeated, len(rejected))
        answer = {"stored": done.stored, "repeated": done.repeated, "rejected": [r.json() for r in rejected]}
        return Reply(encode(answer))

    async def _read(self, body: bytes) -> EventsRead:
        def read() -> EventsRead:
            return read_events(entries(body, EventsIn, "events", MOST_EVENTS), _now_us())

        return read() if len(body) <= SMALL_BODY_BYTES else await self._backend.parsing.run(read)

    async def user_events(self, call: Call) -> Reply:
        user_id, limit = _id(call, "user_id"), _whole(call, "limit", 100, 1, MOST_LISTED)
        rows = await self._backend.answers.run(lambda: self._backend.events_of(user_id, limit))
        return Reply(encode({"user_id": user_id, "events": [_event_json(row) for row in rows]}))

    async def forget(self, call: Call) -> Reply:
        user_id = _id(call, "user_id")
        removed = await self._backend.writes.run(lambda: self._backend.forget(user_id))
        return Reply(encode({"user_id": user_id, "events_removed": removed}))

    async def post_items(self, call: Call) -> Reply:
        raw = entries(call.body, ItemsIn, "items", MOST_NEW_ITEMS)
        rows, rejected = read_items(raw)
        if not rows:
            raise _nothing_taken(rejected, {"stored": 0})
        await self._backend.writes.run(lambda: self._backend.add_items(rows))
        return Reply(encode({"stored": len(rows), "rejected": [r.json() for r in rejected]}))

    async def similar(self, call: Call) -> Reply:
        item_id, k = _id(call, "item_id"), _whole(call, "k", 10, 1, MOST_RESULTS)
        with _known_item():
            slate = await self._backend.answers.run(lambda: self._backend.similar(item_id, k))
        return Reply(encode(slate))

    async def explain(self, call: Call) -> Reply:
        user_id, item_id = _id(call, "user_id"), _id(call, "item_id")
        with _known_item():
            reasons = await self._backend.answers.run(lambda: self._backend.explain(user_id, item_id))
        return Reply(encode({"user_id": user_id, "item_id": item_id, "reasons": reasons}))

    async def health(self, call: Call) -> Reply:
        return Reply(b'{"status":"alive"}')

    async def readiness(self, call: Call) -> Reply:
        return Reply(encode({"status": "ready", "release": self._backend.pipeline.release.name}))

    async def metrics(self, call: Call) -> Reply:
        return Reply(self._backend.metrics.text().encode(), content_type=CONTENT_TYPE.encode())

    async def openapi(self, call: Call) -> Reply:
        return Reply(self._openapi)

    async def docs(self, call: Call) -> Reply:
        return Reply(self._page, content_type=HTML, headers=((b"content-security-policy", _PAGE_POLICY),))


@contextlib.contextmanager
def _known_item() -> Iterator[None]:
    try:
        yield
    except UnknownName as error:
        hint = "ids are those of the catalogue; add one with POST /v1/items"
        raise Problem(404, "unknown-item", error.message, hint) from error


def _now_us() -> int:
    return time.time_ns() // 1000


def _event_json(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "event_id": row["event_id"],
        "user_id": row["user_id"],
        "item_id": row["item_id"],
        "kind": row["kind"],
        "value": row["value"],
        "time": None if row["time_us"] is None else time_text(row["time_us"]),
    }


def _nothing_taken(rejected: list[Rejected], counts: dict[str, int]) -> Problem:
    """The answer to a batch without one good entry: the first fault, and all of them beside it."""
    first = rejected[0]
    more = {**counts, "rejected": [r.json() for r in rejected[:1_000]]}
    status = 400 if first.code == "malformed" else 422
    return Problem(status, first.code, first.detail, "the shapes are in /openapi.json", more=more)


def _id(call: Call, name: str) -> str:
    return _checked(name, call.path[name])


def _checked(name: str, value: str) -> str:
    if not value or len(value.encode()) > MAX_ID_BYTES:
        raise Problem(
            422,
            Reject.ID_TOO_LONG if value else "empty-id",
            f"{name} holds 1 to {MAX_ID_BYTES} bytes",
            "check the id",
        )
    return value


def _whole(call: Call, name: str, default: int, low: int, high: int) -> int:
    text = call.query.get(name)
    if text is None:
        return default
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if not low <= value <= high:
        hint = f"for example ?{name}={default}"
        raise Problem(422, "invalid", f"{name} must be {low} to {high}, got {text[:40]!r}", hint)
    return value


_FLAGS = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}


def _flag(call: Call, name: str) -> bool:
    text = call.query.get(name, "0").lower()
    if text not in _FLAGS:
        raise Problem(422, "invalid", f"{name} must be true or false, got {text[:40]!r}", f"?{name}=true")
    return _FLAGS[text]


def _moment(time_asked: Time) -> int:
    """The time that a request asks for: not past the clock by more than it may run ahead."""
    hint = "write 2026-05-01T12:00:00Z or 1777636800"
    moment = parse_time(time_asked)
    if moment is None:
        detail = f"{str(time_asked)[:80]!r} is neither RFC 3339 nor unix time"
        raise Problem(422, Reject.BAD_TIME, detail, hint)
    if moment > _now_us() + MAX_AHEAD_US:
        raise Problem(422, Reject.FUTURE_TIME, "time lies more than a day ahead of the clock", hint)
    return moment
