"""Forget a person: events, attributes, and everything that was built from them."""

from __future__ import annotations

import shutil
from contextlib import suppress

from slipstream.config import Home
from slipstream.errors import NotThere
from slipstream.events.forgetting import forget_person
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.live_release import current_release, list_releases


def forget(home: Home, user_id: str) -> int:
    """Remove the person's events and row; drop what was built from them. Returns the events removed.

    Snapshot, graph, models and releases may hold the id, so they go too, but for the live release: it goes on
    and answers the person as a stranger. The next one is made without them, and takes its place on the disk.
    """
    with SqliteEventStore(home.events) as store:
        removed = forget_person(home, store, user_id)
    for folder in (home.snapshot, home.graph, home.models, *home.cycles.glob("*/work")):
        shutil.rmtree(folder, ignore_errors=True)
    drop_releases(home)
    return removed


def drop_releases(home: Home, *, forgotten: int | None = None) -> None:
    """Remove the releases that are not live; if `forgotten` is given, only those made before that many."""
    live = None
    with suppress(NotThere):
        live = current_release(home).name
    for listed in list_releases(home):
        made_after = listed.meta.get("forgotten", 0)
        if listed.name != live and (forgotten is None or made_after < forgotten):
            shutil.rmtree(home.releases / listed.name, ignore_errors=True)
