"""From trained models to a live release, and the pipeline that answers from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere, UsageError
from slipstream.evaluation.budget import Budget
from slipstream.events.forgetting import check_nobody_forgotten
from slipstream.events.sqlite import SqliteEventStore
from slipstream.loop.forgetting import drop_releases
from slipstream.loop.knowledge import open_graph
from slipstream.loop.learning import train, trained_model, trained_models
from slipstream.loop.narrator import Narrator
from slipstream.loop.pricing import within_budget
from slipstream.loop.tables import read_table_of
from slipstream.recommend.live_release import current_release, list_releases, promote
from slipstream.recommend.newcomers import AddedItems
from slipstream.recommend.pipeline import Pipeline
from slipstream.recommend.release import (
    APPROXIMATE,
    Named,
    PipelineSettings,
    Release,
    release_name,
    write_release,
)
from slipstream.recommend.rules import Rules, read_rules

EXPLAINS = "path_reasoner"
FALLBACK = "popularity"


@dataclass(frozen=True)
class Released:
    """A release that was written."""

    name: str
    model: str
    path: Path
    bytes: int
    p50_ms: float
    live: bool
    told: tuple[str, ...] = ()  # which form of the model and why; what an approximate index finds

    def lines(self) -> list[str]:
        state = "live" if self.live else "not live"
        return [
            f"release {self.name} of {self.model}, {state}",
            *self.told,
            f"price: {self.bytes / 1e6:.1f} MB, p50 {self.p50_ms:.2f} ms an answer (without reasons)",
        ]


def make_release(
    home: Home,
    model: str | None,
    name: str | None,
    rules: Rules | None,
    pipeline: PipelineSettings | None,
    go_live: bool,
    narrator: Narrator,
    budget: Budget | None = None,
    mark: str = "",
    approximate: bool = False,
) -> Released:
    """Write a release of `model` (default: the trained one with the best validation NDCG@10) and promote it.

    Popularity answers strangers, so it is trained here if it was not; a trained path reasoner ships beside
    the model and gives the reasons. budget: the smallest form of the model that keeps it is released; raises
    OverBudget, before anything is written, where none does. mark: as of
    `check_nobody_forgotten`. approximate: see `write_release`.
    """
    check_nobody_forgotten(home, mark)
    trained = trained_models(home)
    chosen = model or _best(trained)
    primary: Any = trained_model(home, chosen)
    if FALLBACK not in trained or not _current(home, FALLBACK):
        train(home, FALLBACK, {}, 0, None, "cpu", narrator)
    explains = EXPLAINS in trained and chosen != EXPLAINS and _current(home, EXPLAINS)
    snapshot = Snapshot.open(home.snapshot)
    created_us = time.time_ns() // 1000
    given = name or release_name(created_us)
    if any(listed.name == given for listed in list_releases(home)):
        raise UsageError(f"there is a release {given!r} already", hint="give another --name, or none")
    record: Mapping[str, Any] | None = None
    if budget is not None:
        smaller = within_budget(home, chosen, budget, narrator)
        primary, record = smaller.model, smaller.record
    forgotten, added_bytes = _forgettings(home), AddedItems(home.catalogue).size()
    path = write_release(
        home.releases,
        given,
        snapshot=snapshot,
        primary=Named(chosen, primary),
        popularity=Named(FALLBACK, trained_model(home, FALLBACK)),
        path_reasoner=Named(EXPLAINS, trained_model(home, EXPLAINS)) if explains else None,
        items=read_table_of(home, "items"),
        people=read_table_of(home, "users"),
        graph=open_graph(home, snapshot),
        metrics={"validation_ndcg@10": trained.get(chosen, {}).get("validation_ndcg")},
        rules=rules or read_rules(home.root),
        settings=pipeline or PipelineSettings(),
        created_us=created_us,
        forgotten=forgotten,
        added_bytes=added_bytes,
        compression=record,
        approximate=approximate,
    )
    if go_live:
        promote(home.releases, given)
    drop_releases(home, forgotten=forgotten)
    release = Release.open(path)
    price: Mapping[str, Any] = release.meta["price"]
    told = [] if record is None else [f"{record['rung']}: {record['why']}"]
    if approximate:
        recall = [f"{name} {part:.4f}" for name, part in release.meta[APPROXIMATE].items()]
        told.append(f"approximate index, against the exact one: {', '.join(recall)}")
    return Released(given, chosen, path, int(price["bytes"]), float(price["p50_ms"]), go_live, tuple(told))


def _forgettings(home: Home) -> int:
    if not home.events.exists():
        return 0
    with SqliteEventStore(home.events) as store:
        return store.state().forgotten


def _best(trained: Mapping[str, Mapping[str, Any]]) -> str:
    measured = {n: m["validation_ndcg"] for n, m in trained.items() if m.get("validation_ndcg") is not None}
    if measured:
        return max(measured, key=lambda n: (measured[n], n))
    if trained:
        return sorted(trained)[0]
    raise NotThere("no model is trained in this home", hint="run `slipstream train MODEL` first")


def _current(home: Home, name: str) -> bool:
    try:
        trained_model(home, name)
    except NotThere:
        return False
    return True


def open_pipeline(home: Home) -> Pipeline:
    """The live release over the home's event store."""
    release = Release.open(current_release(home))
    store = SqliteEventStore(home.events) if home.events.exists() else None
    return Pipeline(release, store, home=home)
