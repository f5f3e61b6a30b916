"""The whole loop on public films and ratings, told step by step. Every step is a method of the workspace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from slipstream.config import thread_count
from slipstream.dataset.cleaning import CleaningRules
from slipstream.dataset.queries import queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import UnknownName
from slipstream.evaluation.report import write_report
from slipstream.evaluation.tables import all_metrics
from slipstream.events.event import EventBatch
from slipstream.events.public_data import PublicData, fetch
from slipstream.features.events import event_features, event_lines
from slipstream.features.items import item_features
from slipstream.features.users import strongest, taste_profile
from slipstream.loop.narrator import Rows
from slipstream.loop.releasing import Released
from slipstream.loop.tables import read_table_of
from slipstream.loop.telling import tell_columns, tell_slate, tell_suite
from slipstream.loop.workspace import Workspace
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import PipelineSettings
from slipstream.recommend.slate import Slate

MODELS = ("popularity", "item_neighbours", "ease", "bilinear", "transformer", "path_reasoner")
BOARDS = ("loo", "temporal")
SERVED = "transformer"
RATING, CLICK = "rating", "click"
MINUTE_US = 60_000_000
DATA = ("ml-100k", "ml-1m")


@dataclass(frozen=True)
class Budget:
    """How much the demo may compute. The full one uses the settings that we ship."""

    overrides: Mapping[str, Any] = field(default_factory=dict)
    boards: tuple[str, ...] = BOARDS
    features_shown: bool = True


BUDGETS = {
    "full": Budget(),
    "small": Budget(
        overrides={
            "transformer.dim": 64,
            "transformer.layers": 2,
            "transformer.heads": 2,
            "transformer.epochs": 3,
            "bilinear.epochs": 3,
        }
    ),
}


@dataclass(frozen=True)
class Shown:
    """What the demo found, for tests: the lists before and after the click, and the release."""

    user_id: str
    before: Slate
    after: Slate
    clicked: str
    update_ms: float
    released: Released


def run_demo(space: Workspace, data: str = "ml-100k", budget: str = "full") -> Shown:
    """Walk the loop once: collect, preprocess, features and graph, train, evaluate, recommend, release."""
    if data not in DATA:
        raise UnknownName("data set of the demo", data, DATA)
    if budget not in BUDGETS:
        raise UnknownName("budget", budget, BUDGETS)
    chosen, say, started = BUDGETS[budget], space.narrator, time.perf_counter()
    public = _collect(space, data)
    _prepare(space)
    _train(space, chosen)
    _evaluate(space, data, chosen)
    released = space.release(SERVED, pipeline=PipelineSettings(verbs={RATING: "watched", CLICK: "looked at"}))
    shown = _recommend(space, public, released)
    say.heading("7 · release")
    for line in released.lines():
        say.line(line)
    say.line(f"in {released.path}")
    say.heading(f"done in {time.perf_counter() - started:.0f} s")
    say.line(f"serve it:  slipstream serve --home {space.home.root}")
    return shown


def _collect(space: Workspace, data: str) -> PublicData:
    say = space.narrator
    say.heading("1 · collect")
    with say.progress("download") as progress:
        public = fetch(data, progress)
    for line in public.terms.splitlines():
        say.line(line)
    report = space.ingest(public.events_file, default_kind=RATING)
    for line in report.lines():
        say.line(line)
    title = pl.format("{} ({})", "title", "release_year")
    space.catalogue(public.items.with_columns(pl.coalesce(title, "title").alias("title")))
    space.catalogue(public.users, of="users")
    space.add_entities(public.film_catalogue, id_column="film_id", kind="film")
    say.line(
        f"catalogue: {public.items.height:,} titles, {public.users.height:,} people, "
        f"{public.film_catalogue.height:,} films of the film catalogue"
    )
    return public


def _prepare(space: Workspace) -> None:
    say = space.narrator
    say.heading("2 · preprocess")
    prepared = space.prepare(CleaningRules(drop_kinds=(CLICK,)))  # what the demo itself clicked stays out
    for line in prepared.cleaning.lines():
        say.line(line)
    say.line(f"snapshot: {prepared.users:,} users, {prepared.items:,} items, {prepared.events:,} events")
    say.heading("3 · features and graph")
    tell_columns("item features", prepared.item_columns, say)
    tell_columns("user features", prepared.user_columns, say)
    for line in event_lines(event_features(Snapshot.open(space.home.snapshot))):
        say.line(line)
    if prepared.graph is not None:
        for line in prepared.graph.lines():
            say.line(line)


def _train(space: Workspace, budget: Budget) -> None:
    say = space.narrator
    say.heading("4 · train")
    for model in MODELS:
        trained = space.train(model, overrides=_own(budget.overrides, model))
        for line in trained.lines():
            say.line(line)


def _own(overrides: Mapping[str, Any], model: str) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if key.startswith(f"{model}.")}


def _evaluate(space: Workspace, data: str, budget: Budget) -> None:
    say = space.narrator
    say.heading("5 · evaluate")
    found = space.evaluate(
        MODELS,
        boards=budget.boards,
        overrides=budget.overrides,
        processes=min(thread_count(), len(budget.boards)),
        features_off=("bilinear",) if budget.features_shown else (),
    )
    tell_suite(found, say, all_metrics())
    if data == "ml-1m":
        say.line("this source names people and films in its own way: so are the hashes of its targets")
    page = space.home.reports / "evaluation.html"
    write_report(page, found.trials, failures=found.failures, title="The demo's models side by side")
    say.line(f"tables, intervals and learning curves as a page: {page}")


def _recommend(space: Workspace, public: PublicData, released: Released) -> Shown:
    say = space.narrator
    say.heading("6 · recommend")
    person = _somebody(public)
    user_id = person["user_id"]
    pipeline = space.pipeline()
    pipeline.release.warm()
    before = _ask(pipeline, user_id)
    about = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in person.items() if key != "user_id" and value
    )
    say.line(f"user {user_id}: {about}; taste profile: {', '.join(_taste(space, user_id))}")
    tell_slate(before, say, f"ten films for user {user_id}")
    clicked = before.items[0]
    started = time.perf_counter()
    _click(space, user_id, clicked.item_id)
    after = _ask(pipeline, user_id, explain=False)
    update_ms = (time.perf_counter() - started) * 1e3
    say.line(f"one click on {clicked.title}: stored durably and answered anew in {update_ms:.1f} ms")
    old = {item.item_id: place for place, item in enumerate(before.items, 1)}
    rows: Rows = [
        [place, was.title, now.title, _moved(old.get(now.item_id), place)]
        for place, (was, now) in enumerate(zip(before.items, after.items, strict=False), 1)
    ]
    say.table("the list before and after the click", ["", "before", "after", ""], rows)
    return Shown(user_id, before, after, clicked.item_id, update_ms, released)


def _taste(space: Workspace, user_id: str) -> list[str]:
    """The strongest attributes of what the person watched, the newest weighing most."""
    snapshot = Snapshot.open(space.home.snapshot)
    items = item_features(read_table_of(space.home, "items"), snapshot.items)
    if items is None:
        return []
    query = queries_of(snapshot, np.array([snapshot.users.number(user_id)]))
    return [_readable(name) for name, _ in strongest(taste_profile(query, items)[0], items.names)]


def _readable(name: str) -> str:
    """`release_year=1990s` and `title~star` in words."""
    if "~" in name and "=" not in name:
        return "{} with the word {}".format(*name.replace("_", " ").split("~", 1))
    column, _, value = name.partition("=")
    return f"{column.replace('_', ' ')} {value}"


def _moved(old: int | None, new: int) -> str:
    if old is None:
        return "new"
    return "" if old == new else f"was {old}"


def _ask(pipeline: Pipeline, user_id: str, *, explain: bool = True) -> Slate:
    return pipeline.recommend(Request(user_id=user_id, k=10, explain=explain))


def _click(space: Workspace, user_id: str, item_id: str) -> None:
    """One event, a minute after the person's last: decades later would be another story."""
    with space.store() as store:
        last_us = store.history(user_id, limit=1)["time_us"][0]
        row = {"user_id": [user_id], "item_id": [item_id], "kind": [CLICK], "time_us": [last_us + MINUTE_US]}
        store.append(EventBatch.of(pl.DataFrame(row)))


def _somebody(public: PublicData) -> dict[str, Any]:
    """A person from the middle of the users table, with age and occupation."""
    return public.users.row(public.users.height // 2, named=True)
