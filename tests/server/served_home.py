"""A home with events and a live release, and a real server over it in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from slipstream.config import Home
from slipstream.dataset.snapshot import snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import model_type
from slipstream.recommend.live_release import promote
from slipstream.recommend.release import Named, PipelineSettings, write_release

FILMS = pl.DataFrame(
    {
        "item_id": [f"f{n}" for n in range(30)],
        "title": [f"Film {n}" for n in range(30)],
        "genre": [["drama"] if n % 2 else ["crime", "noir"] for n in range(30)],
    }
)
PAST = [
    {
        "event_id": f"past-{u}-{n}",
        "user_id": f"u{u}",
        "item_id": f"f{(u + n) % 30}",
        "kind": "watch",
        "time_us": n,
    }
    for u in range(20)
    for n in range(1, 8)
]


def fill(home: Home, model: str = "popularity") -> None:
    """Events in the store and a first release, live."""
    store = SqliteEventStore(home.events)
    store.append(EventBatch.of(pl.DataFrame(PAST)))
    store.close()
    release(home, "first", model)


def release(home: Home, name: str, model: str = "popularity", *, live: bool = True, **about: Any) -> None:
    """Make a release of the past events, and promote it if it shall be live."""
    data = snapshot_of(pl.DataFrame(PAST), items=Vocabulary.of(FILMS["item_id"].to_list()))
    training = TrainingData(data)

    def fitted(name: str) -> Named:
        cls = model_type(name)
        return Named(name, cls.fit(training, cls.preset(training), FitContext()))

    write_release(
        home.releases,
        name,
        snapshot=data,
        primary=fitted(model),
        popularity=fitted("popularity"),
        items=FILMS,
        settings=PipelineSettings(),
        **about,
    )
    if live:
        promote(home.releases, name)


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """As the power would: no chance to finish anything."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def server_script(home: Home, *, workers: int, prelude: str, options: str = "") -> Path:
    """A script that serves the home. options: as the words of a call."""
    code = (
        f"{prelude}\n"
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from slipstream.config import Home\n"
        "from slipstream.server.options import Options\n"
        "from slipstream.server.service import serve\n"
        "if __name__ == '__main__':\n"
        "    logging.basicConfig(level='INFO')\n"
        "    say = lambda line: print(line, flush=True)\n"
        f"    opt = Options({options})\n"
        f"    serve(Home(Path({str(home.root)!r})), port=0, workers={workers}, announce=say, options=opt)\n"
    )
    script = home.root / "serve_for_test.py"
    script.write_text(code)
    return script


@contextmanager
def serving(
    home: Home, *, keys: str = "", workers: int = 1, prelude: str = "", options: str = ""
) -> Iterator[Server]:
    """A server on a free port of the loopback, ready to answer. options: as the words of a call."""
    script = server_script(home, workers=workers, prelude=prelude, options=options)
    with (home.root / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "SLIPSTREAM_API_KEYS": keys},
            start_new_session=True,
        )
    try:
        line = process.stdout.readline()  # type: ignore[union-attr]
        found = re.search(r"http://\S+", line)
        assert found, f"no address: {line!r}\n{(home.root / 'server.log').read_text()}"
        url = found[0]
        transport = httpx.HTTPTransport(retries=3)
        with httpx.Client(transport=transport, timeout=30) as client:
            assert client.get(f"{url}/healthz").status_code == 200  # waits in the backlog until it is up
        yield Server(url, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
