"""Forget a person: events, attributes, and every later release."""

from __future__ import annotations

import shutil

import polars as pl

from slipstream.config import Home
from slipstream.events.rejects import forget_in_rejects
from slipstream.events.sqlite import SqliteEventStore
from slipstream.loop.tables import read_table_of, table_path, write_parquet


def forget(home: Home, user_id: str) -> int:
    """Remove the person's events and row; drop what was built from them. Returns the events removed.

    Snapshot, graph and models may hold the id, so they go too: the next `prepare` and `train` make them anew
    without the person. Releases stay until a new one replaces them, but answer the person as a stranger.
    """
    removed = 0
    if home.events.exists():
        with SqliteEventStore(home.events) as store:
            removed = store.forget(user_id)
    forget_in_rejects(home.rejects, user_id)
    people = read_table_of(home, "users")
    if people is not None and user_id in people["user_id"]:
        write_parquet(people.filter(pl.col("user_id") != user_id), table_path(home, "users"))
    for folder in (home.snapshot, home.graph, home.models):
        shutil.rmtree(folder, ignore_errors=True)
    return removed
