"""Forget a person: everything of a home that is kept by id and that nobody has to make anew.

What was built from the events (snapshot, graph, models, releases) cannot be changed, only made again. So a
mark is left in the home: until the next `prepare` has begun after it, no release can be made. The mark names
nobody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from slipstream.artifacts import replace_text
from slipstream.config import Home
from slipstream.errors import Busy, NotThere
from slipstream.events.rejects import forget_in_rejects
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.events.store import EventStore

PATIENCE_S = 5.0
"""How long to wait for readers who hold old pages of the store."""


def forget_person(home: Home, store: EventStore, user_id: str) -> int:
    """Remove the person's events, what they were shown, their row in the table of people, and rejected rows
    that name them.

    Returns the events removed. Raises Busy when a reader of the store did not end in time; then the events
    are gone, and calling again finishes the wiping.
    """
    removed = store.event_count(user_id)
    replace_text(_mark(home), f"{time.time_ns()}\n")
    _patiently(lambda: store.forget(user_id))
    if home.impressions.exists():
        with SqliteImpressionStore(home.impressions) as impressions:
            _patiently(lambda: impressions.forget(user_id))
    forget_in_rejects(home.rejects, user_id)
    people = home.people
    if people.exists():
        table = pl.read_parquet(people)
        if user_id in table["user_id"]:
            beside = people.with_name(f".{people.name}.writing-{os.getpid()}")
            table.filter(pl.col("user_id") != user_id).write_parquet(beside)
            beside.replace(people)
    return removed


def _patiently(forget: Callable[[], int]) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            forget()
            return
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _mark(home: Home) -> Path:
    return home.root / "forgotten.mark"


def forgotten_since(home: Home) -> str:
    """The mark that somebody was forgotten since the last `prepare`; empty: nobody was."""
    try:
        return _mark(home).read_text()
    except FileNotFoundError:
        return ""


def check_nobody_forgotten(home: Home, mark: str = "") -> None:
    """Raises NotThere while what `prepare` made may hold somebody who was forgotten.

    mark: what `forgotten_since` said before it was made; those who were forgotten by then are not in it.
    """
    if forgotten_since(home) not in ("", mark):
        raise NotThere(
            "somebody was forgotten since the last `prepare`, and what it made may still hold them",
            hint="run `slipstream prepare` and `slipstream train` again",
        )


def made_without_them(home: Home, mark: str) -> None:
    """What is made from the events no longer holds those whose `mark` was read before it was begun."""
    if mark and forgotten_since(home) == mark:
        _mark(home).unlink(missing_ok=True)
