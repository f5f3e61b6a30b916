"""Measure models on boards cut from the home's own events, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from slipstream.cluster.runner import LocalProcesses, Task
from slipstream.config import Home, thread_count
from slipstream.dataset.folder import DataFolder
from slipstream.dataset.snapshot import Snapshot
from slipstream.evaluation.suite import Suite, suite
from slipstream.events.sqlite import SqliteEventStore
from slipstream.loop.knowledge import open_graph
from slipstream.loop.narrator import Narrator
from slipstream.loop.tables import read_table_of
from slipstream.randomness import generator
from slipstream.recommend.rules import read_rules


@dataclass(frozen=True)
class Plan:
    """What is measured, the same on every board."""

    models: tuple[str, ...]
    overrides: dict[str, Any]
    seed: int
    k: int
    goal: str | None
    features_off: tuple[str, ...]


def evaluate(home: Home, plan: Plan, boards: Sequence[str], processes: int, narrator: Narrator) -> Suite:
    """All models on all boards; with several processes each board runs in its own, one thread each."""
    threads = 1 if processes > 1 else thread_count()
    tasks = [
        Task(
            f"board {name}",
            evaluate_board,
            {"root": str(home.root), "plan": plan, "board": name, "threads": threads},
        )
        for name in boards
    ]
    with narrator.progress("evaluate") as progress:
        suites = LocalProcesses(processes).run(tasks, progress)
    return _joined(suites)


def evaluate_board(root: str, plan: Plan, board: str, threads: int) -> Suite:
    """One board of a home: the task of a process."""
    home = Home(Path(root))
    data = home_data(home, plan.seed)
    run = partial(
        suite,
        data,
        overrides=plan.overrides,
        seed=plan.seed,
        k=plan.k,
        threads=threads,
        goal=plan.goal,
        repeat=read_rules(home.root).come_again,
        graph=partial(open_graph, home),
    )
    with_all = run(plan.models, [board])
    if not plan.features_off:
        return with_all
    others = set(plan.models) - set(plan.features_off)
    own = {key: value for key, value in plan.overrides.items() if key.partition(".")[0] not in others}
    return _joined([with_all, run(plan.features_off, [board], without=("items", "users"), overrides=own)])


def _joined(suites: Sequence[Suite]) -> Suite:
    return Suite([t for s in suites for t in s.trials], [f for s in suites for f in s.failures])


def boards_for(home: Home) -> tuple[str, ...]:
    """The board that says most of a home: what came later, where the events tell of before and after."""
    snapshot = Snapshot.open(home.snapshot)
    if snapshot.time_us is not None:
        return ("temporal",)
    return ("loo",) if snapshot.ordered else ("split",)


def home_data(home: Home, seed: int = 0) -> DataFolder:
    """The home's cleaned events and tables in the form of a data folder, in board order (time, arrival).

    A home has no published split, so the board `split` gets one: two random tenths, to test and to choose on.
    """
    snapshot = Snapshot.open(home.snapshot)
    clock = snapshot.time_us is not None
    frame = _cleaned_events(home, snapshot)
    dealt = generator(seed, "home", "split").random(frame.height)
    parts = np.where(dealt < 0.1, "test", np.where(dealt < 0.2, "valid", "train"))
    frame = frame.with_columns(pl.Series("split", parts.tolist(), pl.String))
    return DataFolder(
        path=home.root,
        interactions=frame if clock else frame.drop("time_us"),
        items=read_table_of(home, "items"),
        users=read_table_of(home, "users"),
        kg=None,
        item_links=None,
        has_time=clock,
        has_order=snapshot.ordered,
    )


KEYS = ("user_id", "item_id", "kind", "time_us")


def _cleaned_events(home: Home, snapshot: Snapshot) -> pl.DataFrame:
    """The stored events that are in the snapshot. It does not keep the order of arrival between users, and
    the cut of a board needs it where times are equal; so the store is read once more."""
    with SqliteEventStore(home.events) as store:
        stored = pl.concat([chunk.select(*KEYS, "value") for chunk in store.scan()])
    times = snapshot.time_us
    kept = pl.DataFrame(
        {
            "user_id": snapshot.users.series().gather(snapshot.user),
            "item_id": snapshot.items.series().gather(snapshot.item),
            "kind": pl.Series("kind", snapshot.kinds, pl.String).gather(snapshot.kind),
            "time_us": pl.Series(times)
            if times is not None
            else pl.Series([None] * snapshot.event_count, dtype=pl.Int64),
        }
    )
    keys = KEYS if times is not None else KEYS[:3]
    rows = stored.join(kept, on=keys, how="semi", maintain_order="left")
    if rows.height > snapshot.event_count:
        rows = rows.unique(keys, keep="first", maintain_order=True)
    return rows.with_columns(pl.col("value").cast(pl.Float32).fill_null(1.0))
