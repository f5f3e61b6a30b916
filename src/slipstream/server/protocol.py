"""What arrives before there is a request: bytes that are not HTTP, and heads without an end.

uvicorn answers the former in plain text and reads the latter for ever. Here both get problem+json, as every
other refusal, and the connection ends.
"""

from __future__ import annotations

import asyncio
import re
import sys

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from slipstream.server.exposition import Metrics
from slipstream.server.wire import TITLES, Problem

MOST_HEAD_BYTES = 64 * 1024
"""Of a request line with its headers, once more than one read is needed for them."""
METHODS = "DELETE, GET, HEAD, POST"
_METHOD = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,40} ")
_TLS = b"\x16\x03"  # how a handshake begins


def protocol_of(metrics: Metrics) -> type[HttpToolsProtocol]:
    """The protocol of a server that counts in `metrics` what it refuses."""

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head_bytes, self._in_head, self._begun = 0, False, False
            self._data = b""

        def data_received(self, data: bytes) -> None:
            self._data, self._begun = data, False
            super().data_received(data)
            self._data = b""
            if self._in_head and not self._begun and not self.transport.is_closing():
                self._head_bytes += len(data)
                if self._head_bytes > MOST_HEAD_BYTES:
                    detail = f"a request line and its headers hold at most {MOST_HEAD_BYTES} bytes"
                    self._refuse(Problem(413, "too-large", detail, "send lists of ids in a body"))

        def on_message_begin(self) -> None:
            self._head_bytes, self._in_head, self._begun = 0, True, True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse(_problem(sys.exception(), self._data))

        def _refuse(self, problem: Problem) -> None:
            self.transport.write(_answer(problem))
            self.transport.close()
            metrics.request("none", problem.status, 0.0)

    return Protocol


def _problem(error: BaseException | None, data: bytes) -> Problem:
    """What was wrong with `data`, as far as the parser told."""
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        if data.startswith(_TLS):
            return Problem(
                400, "not-http", "this port speaks plain HTTP", "ask with http://, or a proxy by TLS"
            )
        if _METHOD.match(data):
            detail = "the method is none of HTTP's"
            return Problem(405, "method", detail, f"possible: {METHODS}", headers={"allow": METHODS})
    detail = f"this is not an HTTP/1.1 request: {str(error)[:120]}"
    return Problem(400, "not-http", detail, "percent-encode ids in paths; see RFC 9112 for the form")


def _answer(problem: Problem) -> bytes:
    body = problem.body()
    headers = {
        **problem.headers,
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {problem.status} {TITLES[problem.status]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
