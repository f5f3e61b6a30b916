"""A home in which a cycle has something to do: four clubs with films of their own, and a live release."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl

import slipstream
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
