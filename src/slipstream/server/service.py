"""Start the server: bind, announce, run until told to stop. The only place that knows uvicorn."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slipstream.config import Home, secret
from slipstream.errors import MissingExtra, NotThere, SlipstreamError, Unavailable, UsageError
from slipstream.recommend.live_release import current_release
from slipstream.recommend.release import CURRENT, MADE_BY, Release
from slipstream.server.allowance import Allowance
from slipstream.server.app import App
from slipstream.server.backend import Backend
from slipstream.server.exposition import Metrics
from slipstream.server.keys import VARIABLE, Keys, check_bind
from slipstream.server.options import Options
from slipstream.server.routes import Routes
from slipstream.server.spread import Spread
from slipstream.server.workers import SIGNALS, Workers

log = logging.getLogger("slipstream.server")

GRACE_SECONDS = 10
BACKLOG = 1024
SWITCH_S = 0.0005
"""How long a thread with long work may keep the interpreter from the event loop; 5 ms by default."""


def application(
    home: Home,
    keys: Keys,
    options: Options | None = None,
    spread: Spread | None = None,
    allowance: Allowance | None = None,
) -> App:
    """The ASGI application over one home, to be run by any ASGI server.

    spread: of one worker of several. allowance: shared by all workers; None: no bound on the keys.
    """
    metrics, options, spread = Metrics(), options or Options(), spread or Spread()
    backend = Backend(home, metrics, options)

    async def start() -> None:
        await backend.start()
        spread.start()

    async def stop() -> None:
        await spread.stop()
        await backend.stop()

    return App(
        Routes(backend).table(),
        keys,
        metrics,
        start=start,
        stop=stop,
        full=backend.line.full,
        closes=spread.closes,
        allowance=allowance,
    )


def serve(
    home: Home,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    insecure: bool = False,
    workers: int = 1,
    options: Options | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Answer over HTTP until SIGINT or SIGTERM; finishes the requests in hand.

    port 0 takes a free one; `announce` is called with the address (`http://…`) once the socket is bound; the
    page about the API is at its `/docs`. Keys come from SLIPSTREAM_API_KEYS. Raises UsageError for an open
    bind without keys and for a rate or burst that is none, NotThere without a release, CorruptArtifact for a
    changed one, Unavailable if the port is taken.
    """
    keys = Keys.parse(secret(VARIABLE))
    check_bind(host, keys, insecure=insecure)
    if workers < 1:
        raise UsageError(f"workers must be 1 or more, got {workers}")
    options = options or Options()
    allowance = Allowance.of(options.rate, options.burst, len(keys.scopes))
    folder = current_release(home)
    if not folder.is_dir():
        raise NotThere(f"{home.releases / CURRENT} names {folder.name}, which is not there", hint=MADE_BY)
    if workers > 1:
        Release.open(folder)  # what is wrong with it is told once, here, not by each worker
    listener = _bind(host, port)
    with contextlib.closing(listener):
        announce(_address(listener, host))
        if workers == 1:
            run(home.root, listener, keys, options, allowance=allowance)
        else:
            work = _Work(home.root, listener, keys, options, allowance)
            Workers(work, workers, patience_s=GRACE_SECONDS + 5).run()


def run(
    root: Path,
    listener: socket.socket,
    keys: Keys,
    options: Options | None = None,
    spread: Spread | None = None,
    allowance: Allowance | None = None,
) -> None:
    """One server process on a bound socket; spread, allowance: see `application`."""
    spread = spread or Spread()
    try:
        import uvicorn

        from slipstream.server.protocol import protocol_of
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "the server") from error
    app = application(Home(root), keys, options, spread, allowance)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        http=protocol_of(app.metrics),
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    sys.setswitchinterval(SWITCH_S)
    if options is not None and options.access_log:
        _log_requests()
    with _quiet_ending(), contextlib.suppress(SystemExit):  # how uvicorn tells of a failed start
        server = uvicorn.Server(config)
        spread.follow(server.server_state.connections)
        server.run(sockets=[listener])
    if app.failure is not None:
        raise app.failure


def _log_requests() -> None:
    access = logging.getLogger("slipstream.access")
    access.setLevel(logging.INFO)
    access.propagate = False
    access.handlers = [logging.StreamHandler()]  # its format is the bare message


@contextlib.contextmanager
def _quiet_ending() -> Iterator[None]:
    """A signal ends the server with grace and exit code 0.

    uvicorn raises a caught signal again after its shutdown, for whoever called it; here nobody waits for it.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, lambda n, f: None) for number in SIGNALS} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        hint = "choose another with --port, or --port 0 for a free one"
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}", hint=hint) from error


def _address(listener: socket.socket, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


@dataclass(frozen=True)
class _Work:
    """What a worker process does; why it could not start goes to the log, for the one who supervises."""

    root: Path
    listener: socket.socket
    keys: Keys
    options: Options
    allowance: Allowance | None

    def __call__(self, spread: Spread) -> None:
        try:
            run(self.root, self.listener, self.keys, self.options, spread, self.allowance)
        except SlipstreamError as error:
            log.error("the worker cannot serve: %s", error)
            sys.exit(error.exit_code)
