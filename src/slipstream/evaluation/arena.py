"""One data set cut into one board, with all that a model may learn from: shared by the models of a suite.

Features and graph come from the catalogue alone, never from test events; they hang on the vocabularies,
which are the same for every board of a folder, so several boards share them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from slipstream.dataset.folder import DataFolder, read_folder
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.splits import Board, board
from slipstream.errors import UnknownName
from slipstream.evaluation.stages import Stopwatch
from slipstream.features.items import item_features
from slipstream.features.users import user_features
from slipstream.graph.construction import build, triple_facts
from slipstream.graph.linked_graph import PERSON, LinkedGraph, join
from slipstream.models.recommender import TrainingData

SIDES = ("items", "users", "graph")
"""What a trial can leave out: item features, user features, the knowledge graph."""

GraphMaker = Callable[[Snapshot], LinkedGraph | None]
"""A graph for the items and users of a snapshot, from wherever the caller keeps it."""


@dataclass(frozen=True)
class Arena:
    """A board and its training data; the stopwatch holds what it cost to get here."""

    data_name: str
    board: Board
    data: TrainingData
    stopwatch: Stopwatch
    without: tuple[str, ...] = ()

    def past(self) -> TrainingData:
        """All that is known at the time of the test, for the models that are fitted again: no validation."""
        return replace(self.data, train=self.board.past, validation=None)


def open_arenas(
    data: DataFolder | str | Path,
    board_names: Collection[str],
    *,
    seed: int = 0,
    without: Collection[str] = (),
    graph: GraphMaker | None = None,
    goal: str | None = None,
    repeat: bool = False,
) -> list[Arena]:
    """One arena per board; reading, features and graph are done once, and every arena names their cost.

    graph: makes the knowledge graph; else it is the folder's own. goal: only events of this kind are targets.
    repeat: items of the history may come back, and are targets; with a goal they may come back anyway.
    Raises UnknownName for a wrong `without`.
    """
    for name in without:
        if name not in SIDES:
            raise UnknownName("side of the data", name, SIDES)
    stopwatch = Stopwatch()
    with stopwatch.stage("read"):
        folder = data if isinstance(data, DataFolder) else read_folder(data)
    side: TrainingData | None = None
    arenas = []
    for name in board_names:
        own = stopwatch.copy()
        with own.stage("split"):
            cut = board(folder, name, seed=seed, goal=goal, repeat=repeat)
        if side is None:
            side = _with_sides(folder, cut.train, own, without, graph)
            for stage in ("features", "graph"):
                stopwatch.costs[stage] = own.costs[stage]
        again = repeat or goal is not None  # what was only looked at can still be bought
        validation = None if cut.validation is None else replace(cut.validation, repeat=again)
        training = replace(side, train=cut.train, validation=validation, repeat=again)
        arenas.append(Arena(folder.name, cut, training, own, tuple(sorted(without))))
    return arenas


def _with_sides(
    folder: DataFolder,
    train: Snapshot,
    stopwatch: Stopwatch,
    without: Collection[str],
    maker: GraphMaker | None,
) -> TrainingData:
    with stopwatch.stage("features"):
        items = None if "items" in without else item_features(folder.items, train.items)
        users = None if "users" in without else user_features(folder.users, train.users)
    with stopwatch.stage("graph"):
        maker = maker or partial(linked_graph, folder)
        graph = None if "graph" in without else maker(train)
    return TrainingData(train, item_features=items, user_features=users, graph=graph)


def linked_graph(folder: DataFolder, snapshot: Snapshot) -> LinkedGraph | None:
    """The folder's triples and edges between people, joined with a snapshot, or None without any.

    Attributes of people are no part of it; a caller who has them as entities too hands in a GraphMaker.
    """
    facts, links = [], pl.DataFrame(schema={"item_id": pl.String, "entity_id": pl.String})
    if folder.kg is not None and folder.item_links is not None:
        facts, links = [triple_facts(folder.kg)], folder.item_links
    if folder.people_edges is None:
        return join(build(facts).graph, links, snapshot.items) if facts else None
    ends = ((pl.lit(PERSON) + pl.col(end)).alias(end) for end in ("head", "tail"))
    kinds = (pl.lit("user").alias(kind) for kind in ("head_type", "tail_type"))
    facts.append(triple_facts(folder.people_edges.with_columns(*ends, *kinds), source="people"))
    return join(build(facts).graph, links, snapshot.items, snapshot.users)
