"""What is installed, what the home holds, and what would go wrong."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from slipstream import __version__
from slipstream.config import Home, thread_count
from slipstream.errors import SlipstreamError
from slipstream.kernels import in_use

PACKAGES = {
    "base": ("numpy", "scipy", "polars", "pydantic", "safetensors", "rapidfuzz"),
    "train": ("torch",),
    "serve": ("uvicorn", "msgspec", "uvloop", "httptools"),
    "graph": ("networkx",),
    "rdf": ("rdflib",),
    "frames": ("pandas", "pyarrow"),
}


@dataclass(frozen=True)
class Finding:
    """One line. state: "ok", "missing" (an extra that is not installed) or "broken"."""

    what: str
    state: str
    detail: str


def examine(home: Home) -> list[Finding]:
    """Machine, packages and home; nothing is changed and no extra is imported."""
    return [*_machine(), *_packages(), *_home(home)]


def _machine() -> list[Finding]:
    disk = shutil.disk_usage(os.getcwd())
    return [
        Finding("slipstream", "ok", __version__),
        Finding("python", "ok" if sys.version_info >= (3, 11) else "broken", platform.python_version()),
        Finding(
            "machine",
            "ok",
            f"{platform.system()} {platform.machine()}, {thread_count()} threads for numeric work",
        ),
        Finding("disk", "ok" if disk.free > 2**30 else "broken", f"{disk.free / 1e9:.1f} GB free here"),
        Finding("kernels", "ok", in_use()),
    ]


def _packages() -> list[Finding]:
    found = []
    for extra, names in PACKAGES.items():
        for name in names:
            try:
                found.append(Finding(name, "ok", importlib.metadata.version(name)))
            except importlib.metadata.PackageNotFoundError:
                state = "broken" if extra == "base" else "missing"
                found.append(
                    Finding(name, state, f"pip install 'slipstream[{extra}]'" if extra != "base" else "")
                )
    return found


def _home(home: Home) -> list[Finding]:
    if not home.root.exists():
        return [Finding("home", "missing", f"{home.root} does not exist yet; `slipstream ingest` makes it")]
    return [
        Finding("home", "ok", str(home.root.resolve())),
        _look("events", home, _events),
        _look("snapshot", home, _snapshot),
        _look("models", home, _models),
        _look("release", home, _release),
    ]


def _look(what: str, home: Home, reader: object) -> Finding:
    try:
        return Finding(what, "ok", reader(home))  # type: ignore[operator]
    except SlipstreamError as error:
        state = "missing" if error.code == "not-there" else "broken"
        return Finding(what, state, f"{error.message}; {error.hint}".rstrip("; "))


def _events(home: Home) -> str:
    from slipstream.events.sqlite import SqliteEventStore

    if not home.events.exists():
        return "none yet"
    with SqliteEventStore(home.events) as store:
        store.verify()
        return f"{store.event_count():,} stored, log and histories agree"


def _snapshot(home: Home) -> str:
    from slipstream.dataset.snapshot import Snapshot

    snapshot = Snapshot.open(home.snapshot)
    return f"{snapshot.user_count:,} users, {snapshot.item_count:,} items, {snapshot.event_count:,} events"


def _models(home: Home) -> str:
    from slipstream.loop.learning import trained_models

    return ", ".join(trained_models(home)) or "none yet"


def _release(home: Home) -> str:
    from slipstream.recommend.live_release import current_release
    from slipstream.recommend.release import Release

    release = Release.open(current_release(home))
    return f"{release.name}, {release.size() / 1e6:.1f} MB, every byte as written"
