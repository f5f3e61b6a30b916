"""What each saving costs on a home's own model, and the form of it that a budget picks."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from slipstream.cluster.threads import blas_threads
from slipstream.compression.quantization import left_out
from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.validation import hold_out_last
from slipstream.errors import BadInput, NotThere
from slipstream.evaluation.budget import Budget, budget_table, choose
from slipstream.evaluation.ladder import Asked, ladder, measured, micros
from slipstream.evaluation.levers import Lever
from slipstream.evaluation.price import Of, Price, check_packable, price_of
from slipstream.evaluation.tables import plain_rows
from slipstream.events.sqlite import SqliteEventStore
from slipstream.loop.learning import trained_model, trained_models
from slipstream.loop.narrator import Narrator
from slipstream.models.recommender import Compressible
from slipstream.recommend.live_release import current_release
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release

BOARD = "each user's last event"


@dataclass(frozen=True)
class Compressed:
    """The form of a model that goes into a release, and what the release tells of the choice."""

    model: Compressible
    record: dict[str, Any]


def price_home(home: Home, name: str) -> Price:
    """The price of a trained model, measured on the events that it was chosen on."""
    model, asked, meta = _asked(home, name)
    with blas_threads():
        found = price_of(model, asked, Of(name, home.root.name, BOARD, meta["seed"]), meta["cpu_s"])
        return replace(found, levers=(*found.levers, *_slate_cache(home, asked)))


SLATES = 50


def _slate_cache(home: Home, asked: Asked) -> tuple[Lever, ...]:
    """A slate of the live release asked once more, from the cache and without one; () where none is live."""
    try:
        release = Release.open(current_release(home))
    except NotThere:
        return ()
    users = [asked.users[int(user)] for user in asked.holdout.queries.user[:SLATES]]
    medians, size = [], 0
    with closing(SqliteEventStore(home.events)) as store:
        for cached in (True, False):
            pipeline = Pipeline(release, store, home=home, slate_cache=cached)
            spent = []
            for user in users:
                request = Request(user_id=user)
                pipeline.recommend(request)
                began = time.process_time_ns()
                pipeline.recommend(request)
                spent.append(time.process_time_ns() - began)
            medians.append(micros(spent))
            size = size or pipeline.kept()[1] // len(users)
    return (Lever("slate cache", medians[0], medians[1], size, "user, with the state"),)


def within_budget(home: Home, name: str, budget: Budget, narrator: Narrator) -> Compressed:
    """The smallest form of a trained model that keeps the budget; the table is told, also where none does.

    Raises OverBudget, and BadInput for a model that cannot be measured or packed.
    """
    model, asked, meta = _asked(home, name)
    with blas_threads():
        rungs = ladder(name, model, asked)
        priced = measured(rungs, asked, meta["cpu_s"])
    table = budget_table(priced, budget)
    for left, why in left_out(model).items():
        narrator.line(f"{left} is left out: {why}")
    narrator.table(table.title, table.columns, plain_rows(table, joint=" "))
    choice = choose(priced, budget)
    chosen = next(rung.model for rung in rungs if rung.name == choice.rung.name)
    record = {
        "rung": choice.rung.name,
        "budget": budget.text,
        "why": choice.why,
        "users": len(asked.holdout),
        "rungs": [rung.to_json() for rung in priced],
    }
    return Compressed(chosen, record)


def _asked(home: Home, name: str) -> tuple[Compressible, Asked, dict[str, Any]]:
    model = trained_model(home, name)
    check_packable(name, type(model))
    assert isinstance(model, Compressible)  # noqa: S101 - `check_packable` has said so
    meta = dict(trained_models(home)[name])
    snapshot = Snapshot.open(home.snapshot)
    train, holdout = hold_out_last(snapshot, seed=meta["seed"], goal=meta.get("goal"))
    if holdout is None:
        raise BadInput(
            "no user has three events, so what a smaller model loses cannot be measured",
            hint="collect more, or release without --budget",
        )
    return model, Asked(holdout, snapshot.items, snapshot.users, train.item_counts), meta
