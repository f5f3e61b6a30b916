"""Start the server: bind, announce, run until told to stop. The only place that knows uvicorn."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from slipstream.config import Home, secret
from slipstream.errors import MissingExtra, NotThere, SlipstreamError, Unavailable, UsageError
from slipstream.recommend.live_release import current_release
from slipstream.recommend.release import CURRENT, MADE_BY, Release
from slipstream.server.app import App
from slipstream.server.backend import Backend
from slipstream.server.exposition import Metrics
from slipstream.server.keys import VARIABLE, Keys, check_bind
from slipstream.server.options import Options
from slipstream.server.routes import Routes

log = logging.getLogger("slipstream.server")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 10
BACKLOG = 1024
RESTART_SECONDS = 1.0
MOST_FAILED_STARTS = 5
SWITCH_S = 0.0005
"""How long a thread with long work may keep the interpreter from the event loop; 5 ms by default."""
YOUNG_SECONDS = 10.0
"""A worker that ends younger than this never worked; after so many in a row the server gives up."""


def application(home: Home, keys: Keys, options: Options | None = None) -> App:
    """The ASGI application over one home, to be run by any ASGI server."""
    metrics, options = Metrics(), options or Options()
    backend = Backend(home, metrics, options)
    return App(
        Routes(backend).table(),
        keys,
        metrics,
        start=backend.start,
        stop=backend.stop,
        full=backend.line.full,
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
    bind without keys, NotThere without a release, CorruptArtifact for a changed one, Unavailable if the port
    is taken.
    """
    keys = Keys.parse(secret(VARIABLE))
    check_bind(host, keys, insecure=insecure)
    if workers < 1:
        raise UsageError(f"workers must be 1 or more, got {workers}")
    folder = current_release(home)
    if not folder.is_dir():
        raise NotThere(f"{home.releases / CURRENT} names {folder.name}, which is not there", hint=MADE_BY)
    if workers > 1:
        Release.open(folder)  # what is wrong with it is told once, here, not by each worker
    listener = _bind(host, port)
    with contextlib.closing(listener):
        announce(_address(listener, host))
        if workers == 1:
            run(home.root, listener, keys, options)
        else:
            _supervise(home.root, listener, keys, options, workers)


def run(root: Path, listener: socket.socket, keys: Keys, options: Options | None = None) -> None:
    """One server process on a bound socket."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "the server") from error
    app = application(Home(root), keys, options)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
    )
    sys.setswitchinterval(SWITCH_S)
    if options is not None and options.access_log:
        _log_requests()
    with _quiet_ending(), contextlib.suppress(SystemExit):  # how uvicorn tells of a failed start
        uvicorn.Server(config).run(sockets=[listener])
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
    before = {number: signal.signal(number, lambda n, f: None) for number in _SIGNALS} if main else {}
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


def _supervise(
    root: Path, listener: socket.socket, keys: Keys, options: Options | None, workers: int
) -> None:
    """Keep `workers` processes on one socket; a dead one is started again, a signal ends all of them.

    They meet in the event store and in the files of the home, so an event that one acknowledged is in the
    next answer of any.
    """
    context = multiprocessing.get_context("spawn")
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    running: list[SpawnProcess] = []
    born: list[float] = []
    failed = 0
    try:
        for _ in range(workers):
            running.append(_start(context, (root, listener, keys, options)))
            born.append(time.monotonic())
        while not stopping:
            time.sleep(0.1)
            for place, process in enumerate(running):
                if process.is_alive() or stopping:
                    continue
                failed = failed + 1 if time.monotonic() - born[place] < YOUNG_SECONDS else 0
                if failed >= MOST_FAILED_STARTS:
                    raise Unavailable(
                        "the workers end as soon as they start", hint="the reason is in the log"
                    )
                log.error("worker %s ended with %s, starting another", process.pid, process.exitcode)
                time.sleep(RESTART_SECONDS if failed else 0)
                running[place], born[place] = (
                    _start(context, (root, listener, keys, options)),
                    time.monotonic(),
                )
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(GRACE_SECONDS + 5)
        for number, handler in before.items():
            signal.signal(number, handler)


Work = tuple[Path, socket.socket, Keys, Options | None]


def _start(context: multiprocessing.context.SpawnContext, work: Work) -> SpawnProcess:
    process = context.Process(target=_work, args=work, daemon=True)
    process.start()
    return process


def _work(root: Path, listener: socket.socket, keys: Keys, options: Options | None) -> None:
    """A worker's life; why it could not start goes to the log, for the one who supervises."""
    try:
        run(root, listener, keys, options)
    except SlipstreamError as error:
        log.error("the worker cannot serve: %s", error)
        sys.exit(error.exit_code)
