"""A home in which a cycle has something to do: four clubs with films of their own, and a live release."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import polars as pl

import slipstream
from slipstream.events.impressions import person_of
from slipstream.events.sqlite_impressions import Feedback, Served, SqliteImpressionStore
from slipstream.loop.cycle import run_cycle
from slipstream.loop.journal import Record
from slipstream.loop.narrator import Silent
from slipstream.loop.policy import Policy
from slipstream.loop.workspace import Workspace

PEOPLE, FILMS, CLUBS = 120, 60, 4
STEP_S, START_S = 100_000, 1_700_000_000
STEPS = ["snapshot", "train", "release", "trial", "gate", "promote", "watch"]
SMALL = {"data": {"events": 100, "users": 30}, "watch": {"minutes": 0}}
"""A policy for so small a home; the rest as it is."""


def events(first: int, last: int, seed: int = 1) -> pl.DataFrame:
    """Each person's films number `first` to `last`, one a day, all of their own club."""
    draw, rows = random.Random(seed), []
    for person in range(PEOPLE):
        own = draw.sample(range(person % CLUBS, FILMS, CLUBS), 10)
        rows += [
            (f"p{person}", f"m{own[step]}", "watch", START_S + step * STEP_S + person)
            for step in range(first, last)
        ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "kind", "time"], orient="row")


def home(folder: Path, model: str = "popularity", overrides: dict[str, Any] | None = None) -> Workspace:
    """Five days are in the live release, named `first`; five more came since."""
    space = slipstream.open(folder)
    space.ingest(events(0, 5))
    space.catalogue(pl.DataFrame({"item_id": [f"m{n}" for n in range(FILMS)], "title": "T"}))
    space.prepare()
    space.train(model, overrides=overrides)
    space.release(model, name="first")
    space.ingest(events(5, 10))
    return space


def policy(model: str = "item_neighbours", **over: Any) -> Policy:
    return Policy.model_validate({"model": model, **SMALL, **over})


def run(space: Workspace, chosen: Policy) -> Record:
    return run_cycle(space.home, chosen, Silent())


def answers(
    space: Workspace, release: str, start_us: int, clicks: float, count: int = 400, arm: str = ""
) -> None:
    """`count` answers of ten items to as many people, and clicks on the first item of some of them."""
    served, told = [], []
    for n in range(count):
        person, moment = person_of(f"q{n % 200}"), start_us + n
        items, request = [f"m{i}" for i in range(10)], f"{release}-{start_us}-{n}"
        served.append(Served(request, person, moment, release, arm, "model", items, [1.0] * 10))
        if (n * 7919) % 1000 < 1000 * clicks:
            click = Feedback(f"c-{request}", person, moment, request, "m0", "click", None, "")
            told.append(click)
    with SqliteImpressionStore(space.home.impressions) as store:
        store.append(served, told, now_us=time.time_ns() // 1000)
