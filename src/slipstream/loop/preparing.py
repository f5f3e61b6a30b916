"""From events to a snapshot, and from the catalogue to features and a graph; with a report of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from slipstream.artifacts import replace_text
from slipstream.config import Home
from slipstream.dataset.cleaning import CleaningReport, CleaningRules
from slipstream.dataset.preparation import prepare as prepare_snapshot
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.events.forgetting import forgotten_since, made_without_them
from slipstream.events.sqlite import SqliteEventStore
from slipstream.features.items import item_features
from slipstream.features.table import ColumnReport
from slipstream.features.users import user_features
from slipstream.loop.knowledge import GraphReport, build_graph
from slipstream.loop.narrator import Narrator
from slipstream.loop.tables import read_table_of


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made."""

    users: int
    items: int
    events: int
    cleaning: CleaningReport
    item_columns: tuple[ColumnReport, ...]
    user_columns: tuple[ColumnReport, ...]
    graph: GraphReport | None
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "items": self.items,
            "events": self.events,
            "cleaning": self.cleaning.to_json(),
            "graph": None if self.graph is None else {"edges": self.graph.edges, "links": self.graph.links},
            "wall_s": self.wall_s,
        }


def prepare(home: Home, rules: CleaningRules, narrator: Narrator, until_us: int | None = None) -> Prepared:
    """Clean the stored events into `snapshot/`, build `graph/`, and keep the report in `reports/`.

    until_us: only the events up to this moment, those without a time left out.
    """
    if not home.events.exists():
        raise NotThere(f"there are no events in {home.root}", hint="run `slipstream ingest FILE` first")
    started = time.perf_counter()
    mark = forgotten_since(home)
    with SqliteEventStore(home.events) as store, narrator.progress("prepare") as progress:
        events = store.scan() if until_us is None else _until(store.scan(), until_us)
        cleaning = prepare_snapshot(events, rules, home.snapshot, rejects=home.rejects, progress=progress)
    if home.work is None:  # else the snapshot in the root may still hold those who were forgotten
        made_without_them(home, mark)
    snapshot = Snapshot.open(home.snapshot)
    items = item_features(read_table_of(home, "items"), snapshot.items)
    users = user_features(read_table_of(home, "users"), snapshot.users)
    with narrator.progress("graph") as progress:
        graph = build_graph(home, progress)
    prepared = Prepared(
        users=snapshot.user_count,
        items=snapshot.item_count,
        events=snapshot.event_count,
        cleaning=cleaning,
        item_columns=() if items is None else items.columns,
        user_columns=() if users is None else users.columns,
        graph=graph,
        wall_s=time.perf_counter() - started,
    )
    replace_text(home.reports / "prepare.json", json.dumps(prepared.to_json(), indent=1))
    return prepared


def _until(chunks: Iterator[pl.DataFrame], until_us: int) -> Iterator[pl.DataFrame]:
    for chunk in chunks:
        kept = chunk.filter(pl.col("time_us") <= until_us)
        if kept.height or not chunk.height:
            yield kept
