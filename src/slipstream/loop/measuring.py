"""Measure models on boards cut from the home's own events, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from slipstream.artifacts import open_artifact
from slipstream.cluster.runner import LocalProcesses, Task
from slipstream.config import Home, thread_count
from slipstream.dataset.folder import DataFolder
from slipstream.dataset.snapshot import Snapshot
from slipstream.evaluation.suite import Suite, suite
from slipstream.loop.knowledge import open_graph
from slipstream.loop.narrator import Narrator
from slipstream.loop.tables import read_table_of


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
        Task(f"board {name}", evaluate_board, {"root": str(home.root), "plan": plan, "board": name, "threads": threads})
        for name in boards
    ]
    with narrator.progress("evaluate") as progress:
        suites = LocalProcesses(processes).run(tasks, progress)
    return _joined(suites)


def evaluate_board(root: str, plan: Plan, board: str, threads: int) -> Suite:
    """One board of a home: the task of a process."""
    home = Home(Path(root))
    data = home_data(home)
    run = partial(
        suite,
        data,
        overrides=plan.overrides,
        seed=plan.seed,
        k=plan.k,
        threads=threads,
        goal=plan.goal,
        graph=partial(open_graph, home),
    )
    with_all = run(plan.models, [board])
    if not plan.features_off:
        return with_all
    return _joined([with_all, run(plan.features_off, [board], without=("items", "users"))])


def _joined(suites: Sequence[Suite]) -> Suite:
    return Suite([t for s in suites for t in s.trials], [f for s in suites for f in s.failures])


def home_data(home: Home) -> DataFolder:
    """The home's cleaned events and tables in the form of a data folder, in board order (time, arrival)."""
    frame = events_of(Snapshot.open(home.snapshot), home)
    return DataFolder(
        path=home.root,
        interactions=frame,
        items=read_table_of(home, "items"),
        users=read_table_of(home, "users"),
        kg=None,
        item_links=None,
        has_time="time_us" in frame.columns,
        has_order="time_us" in frame.columns,
    )


def events_of(snapshot: Snapshot, home: Home) -> pl.DataFrame:
    """The events of a snapshot as a frame, in order of (time, arrival)."""
    kinds = pl.Series("kind", snapshot.kinds, pl.String)
    columns = {
        "user_id": snapshot.users.series().gather(snapshot.user),
        "item_id": snapshot.items.series().gather(snapshot.item),
        "value": pl.Series(snapshot.value),
        "kind": kinds.gather(snapshot.kind),
    }
    if snapshot.time_us is None:
        return pl.DataFrame(columns)
    arrival = open_artifact(home.snapshot, "snapshot").array("arrival")
    frame = pl.DataFrame({**columns, "time_us": pl.Series(snapshot.time_us), "arrival": pl.Series(arrival)})
    return frame.sort("time_us", "arrival").drop("arrival")
