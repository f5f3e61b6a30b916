"""Counting models: what is counted, how it fades, and ties."""

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.queries import Holdout, queries_of, query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.inference.retriever import top_k
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.simple.popularity import Popularity
from slipstream.models.simple.recency_popularity import (
    DAY_US,
    FADED,
    RecencyPopularity,
    RecencyPopularitySettings,
)


def log(rows: list[tuple[str, str, int]], *, times: bool = True) -> Snapshot:
    """Rows of (user, item, day)."""
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "day"], orient="row")
    frame = frame.with_columns(time_us=pl.col("day") * DAY_US).drop("day")
    return snapshot_of(frame if times else frame.drop("time_us"))


def test_popularity_counts_events_and_breaks_ties_by_number() -> None:
    train = log([("u", "c", 0), ("v", "a", 1), ("v", "b", 2), ("w", "b", 3)])
    model = Popularity.fit(TrainingData(train), Popularity.preset(TrainingData(train)), FitContext())
    scores = model.score(query_of([]))
    assert scores.tolist() == [[1.0, 2.0, 1.0]]
    assert top_k(scores, 3)[0].tolist() == [[1, 0, 2]]


def test_an_event_fades_by_half_in_a_half_life() -> None:
    train = log([("u", "old", 0), ("v", "old", 0), ("w", "old", 0), ("u", "new", 20), ("v", "mid", 10)])
    settings = RecencyPopularitySettings(half_life_days=10)
    model = RecencyPopularity.fit(TrainingData(train), settings, FitContext())
    scores = dict(zip(train.items.to_list(), model.score(query_of([]))[0], strict=True))
    assert scores == pytest.approx({"old": 0.75 + 3 * FADED, "new": 1 + FADED, "mid": 0.5 + FADED})


def test_the_half_life_is_chosen_where_taste_moves() -> None:
    """Every ten days everybody wants another item: what was wanted last is wanted next."""
    rows = [
        (f"u{p}", f"i{day // 10}", day) for day in range(0, 100, 10) for p in range(10 + (90 - day) // 10)
    ]
    train = log([*rows, *[(f"v{p}", "i9", 95) for p in range(5)]])
    people = np.array([n for n, u in enumerate(train.users.to_list()) if 9 not in train.history(n) and u])
    queries = queries_of(train, people)
    validation = Holdout(queries, np.arange(len(people) + 1), np.full(len(people), 9, np.int32))
    data = TrainingData(train, validation)
    model = RecencyPopularity.fit(data, RecencyPopularity.preset(data), FitContext())
    assert model.settings.half_life_days > 0
    assert model.score(query_of([]))[0].argmax() == 9


def test_without_a_clock_recency_is_popularity() -> None:
    train = log([("u", "a", 0), ("v", "b", 1), ("w", "b", 2)], times=False)
    data = TrainingData(train)
    recent = RecencyPopularity.fit(data, RecencyPopularity.preset(data), FitContext())
    plain = Popularity.fit(data, Popularity.preset(data), FitContext())
    np.testing.assert_array_equal(recent.score(query_of([])), plain.score(query_of([])))
