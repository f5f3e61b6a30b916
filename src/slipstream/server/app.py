"""The ASGI application: finds the route, checks the key, bounds the body, and turns every error into JSON.

Written on ASGI itself: ids may hold any character, so paths are split before they are decoded, and every
answer that is not a success must be problem+json, also 404 and 405. Knows no recommendation.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from slipstream.errors import (
    DataError,
    SlipstreamError,
    StorageFull,
    Unavailable,
    UsageError,
    of_system,
)
from slipstream.server.admission import overloaded
from slipstream.server.allowance import Allowance
from slipstream.server.exposition import Metrics
from slipstream.server.keys import Keys, Scope
from slipstream.server.wire import MOST_BODY_BYTES, Problem, encode

ASGIScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SHORT_ROUTE = "/v1/recommendations/{user_id}"
JSON = b"application/json"
PROBLEM = b"application/problem+json"
BODY_SECONDS = 30.0
"""A caller who sends its body slower than this holds a connection for nothing."""

log = logging.getLogger("slipstream.server")
access = logging.getLogger("slipstream.access")
access.setLevel(logging.WARNING)  # silent unless it is asked for


@dataclass(frozen=True, slots=True)
class Call:
    """One request, decoded as far as every route needs it."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """`pattern` is a path with `{names}`. scope: what a key must allow; None: open to everybody.

    about: what OpenAPI says of it (summary, parameters, body and answer schema names).
    """

    method: str
    pattern: str
    handler: Handler
    scope: Scope | None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.pattern.strip("/").split("/"))


class App:
    """The application; `start` and `stop` run inside the server's lifespan."""

    def __init__(
        self,
        routes: Sequence[Route],
        keys: Keys,
        metrics: Metrics,
        *,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        full: Callable[[], bool] = lambda: False,
        closes: Callable[[], bool] = lambda: False,
        allowance: Allowance | None = None,
    ) -> None:
        """full: whether a short answer would be refused now. allowance: of the keys; None: no bound.

        closes: asked once for each answer, whether its connection is to be given up after it.
        """
        self._full, self._closes, self._allowance = full, closes, allowance
        refusal = _problem_reply(overloaded())
        self._refusal = refusal, [_messages(refusal, closing=closing) for closing in (False, True)]
        self._keys, self.metrics, self._start, self._stop = keys, metrics, start, stop
        self.failure: Exception | None = None
        """Why the server could not start, for whoever started it."""
        self._routes: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        for route in routes:
            same_length = self._routes.setdefault(len(route.segments), [])
            methods = next((m for segments, m in same_length if segments == route.segments), None)
            if methods is None:
                same_length.append((route.segments, {route.method: route}))
            else:
                methods[route.method] = route

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if _is_short(scope) and self._full():
                return await self._refuse(send)
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        label = "none"
        try:
            route, path = self._find(scope)
            label = route.pattern
            reply = await self._answer(route, path, scope, receive)
        except Problem as problem:
            reply = _problem_reply(problem)
        except Exception as error:  # one of the two outer doors: nothing may leave without an answer
            reply = _problem_reply(problem_of(error))
        await _send(reply, send, head=scope["method"] == "HEAD", closing=self._closes())
        seconds = time.perf_counter() - started
        self.metrics.request(label, reply.status, seconds)
        if access.isEnabledFor(logging.INFO):
            access.info(_line(scope["method"], label, reply, seconds))

    async def _refuse(self, send: Send) -> None:
        """At the door: in an overload most requests end here, so that it must cost next to nothing."""
        reply, messages = self._refusal
        for message in messages[self._closes()]:
            await send(message)
        self.metrics.request(SHORT_ROUTE, reply.status, 0.0)

    def _find(self, scope: ASGIScope) -> tuple[Route, dict[str, str]]:
        segments = _segments(scope)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        for pattern, methods in self._routes.get(len(segments), ()):
            path = _match(pattern, segments)
            if path is None:
                continue
            if method in methods:
                return methods[method], path
            allowed = ", ".join(sorted(methods))
            detail = f"{scope['method']} is not possible here"
            raise Problem(405, "method", detail, f"possible: {allowed}", headers={"allow": allowed})
        raise Problem(404, "no-route", "there is nothing at this path", "the routes are listed at /docs")

    async def _answer(self, route: Route, path: dict[str, str], scope: ASGIScope, receive: Receive) -> Reply:
        headers = dict(scope["headers"])
        if route.scope is not None:
            key = self._keys.check(headers, route.scope)
            if self._allowance is not None:
                self._allowance.take(key, time.monotonic())
        body = await _body(headers, receive) if route.method == "POST" else b""
        return await route.handler(Call(path, _query(scope["query_string"]), body))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._start()
                except Exception as error:
                    self.failure = error
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _line(method: str, route: str, reply: Reply, seconds: float) -> str:
    """A request as a line of JSON. The route and not the path: paths hold the ids of people."""
    about = {
        "time": round(time.time(), 3),
        "worker": os.getpid(),
        "method": method,
        "route": route,
        "status": reply.status,
        "bytes": len(reply.body),
        "ms": round(seconds * 1e3, 3),
    }
    return encode(about).decode()


def problem_of(error: BaseException) -> Problem:
    """Any exception as a problem: ours by their class, a full disk by its number, the rest is our bug."""
    if isinstance(error, OSError):
        log.error("a request failed on the operating system: %s", error)
        error = of_system(error)
    if isinstance(error, StorageFull):
        return Problem(507, "disk-full", f"{error.message}; nothing was stored", error.hint)
    if isinstance(error, UsageError):
        return Problem(422, error.code, error.message, error.hint)
    if isinstance(error, Unavailable | DataError):
        hint = error.hint or "try again in a moment"
        return Problem(503, error.code, error.message, hint, headers={"retry-after": "2"})
    if isinstance(error, SlipstreamError):
        return Problem(422, error.code, error.message, error.hint)
    log.error("a request failed on an unexpected error", exc_info=error)
    return Problem(500, "bug", "the server failed on its own account", "please report it with the log")


def _problem_reply(problem: Problem) -> Reply:
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
    return Reply(problem.body(), problem.status, PROBLEM, headers)


def _segments(scope: ASGIScope) -> list[str]:
    """The decoded parts of the path. Split first, decode then: an id may hold a slash (%2F)."""
    raw = scope.get("raw_path") or scope["path"].encode()
    try:
        return [unquote_to_bytes(part).decode() for part in raw.split(b"?")[0].strip(b"/").split(b"/")]
    except UnicodeDecodeError as error:
        raise Problem(400, "path", "the path is not UTF-8", "percent-encode ids as UTF-8") from error


def _match(pattern: tuple[str, ...], segments: Sequence[str]) -> dict[str, str] | None:
    path = {}
    for expected, given in zip(pattern, segments, strict=True):
        if expected.startswith("{"):
            if not given:
                return None
            path[expected[1:-1]] = given
        elif expected != given:
            return None
    return path


def _query(raw: bytes) -> dict[str, str]:
    if not raw:
        return {}
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=32, errors="strict"))
    except ValueError as error:  # also UnicodeDecodeError
        raise Problem(400, "query", "the query cannot be read", "percent-encode values as UTF-8") from error


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MOST_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "gone", "the caller closed the connection")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MOST_BODY_BYTES:
                    raise _too_large()
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError as error:
        detail = f"the body did not arrive within {BODY_SECONDS:g} s"
        raise Problem(400, "slow-body", detail, "send smaller bodies") from error


def _too_large() -> Problem:
    return Problem(413, "too-large", f"a body holds at most {MOST_BODY_BYTES} bytes", "send it in parts")


def _is_short(scope: ASGIScope) -> bool:
    """A slate without reasons: what the server is asked most."""
    path: str = scope["path"]
    return (
        path.startswith("/v1/recommendations/")
        and scope["method"] == "GET"
        and b"explain" not in scope["query_string"]
    )


def _messages(reply: Reply, *, closing: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    if closing:
        headers.append((b"connection", b"close"))
    return (
        {"type": "http.response.start", "status": reply.status, "headers": headers},
        {"type": "http.response.body", "body": reply.body},
    )


async def _send(reply: Reply, send: Send, *, head: bool, closing: bool) -> None:
    start, body = _messages(reply, closing=closing)
    await send(start)
    await send({**body, "body": b""} if head else body)
