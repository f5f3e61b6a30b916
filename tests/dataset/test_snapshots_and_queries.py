"""Snapshots cut by a mask, the matrix, queries and their parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.queries import Holdout, queries_of, query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import UNKNOWN
from slipstream.errors import NotThere

EVENTS = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "a", "b"],
        "item_id": ["x", "y", "z", "x", "x"],
        "time_us": [5, 4, 3, 2, 5],
        "kind": ["buy", "click", "click", "click", "click"],
        "value": [1.0, 2.0, 3.0, 4.0, 5.0],
    }
)


def test_events_lie_by_user_time_and_arrival() -> None:
    snapshot = snapshot_of(EVENTS)
    assert (snapshot.user_count, snapshot.item_count, snapshot.event_count) == (2, 3, 5)
    assert snapshot.items.texts(snapshot.history(0)) == ["x", "y"]
    assert snapshot.items.texts(snapshot.history(1)) == ["z", "x", "x"]
    assert snapshot.value.tolist() == [4, 2, 3, 1, 5]
    assert [snapshot.kinds[k] for k in snapshot.kind] == ["click", "click", "click", "buy", "click"]
    assert snapshot.user.tolist() == [0, 0, 1, 1, 1]
    assert snapshot.item_counts.tolist() == [3, 1, 1]
    assert snapshot.matrix().toarray().tolist() == [[1, 1, 0], [1, 0, 1]]


@given(st.data())
def test_keep_leaves_the_masked_events_in_their_order(data: st.DataObject) -> None:
    users = data.draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30))
    frame = pl.DataFrame({"user_id": users, "item_id": ["x"] * len(users), "time_us": range(len(users))})
    snapshot = snapshot_of(frame)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(users), max_size=len(users))))
    kept = snapshot.keep(mask)
    assert snapshot.time_us is not None
    assert kept.time_us is not None
    assert kept.user.tolist() == snapshot.user[mask].tolist()
    assert kept.time_us.tolist() == snapshot.time_us[mask].tolist()
    assert kept.users is snapshot.users


def test_a_snapshot_is_written_and_opened(tmp_path: Path) -> None:
    for frame in (EVENTS, EVENTS.drop("time_us")):
        snapshot = snapshot_of(frame)
        snapshot.write(tmp_path / "s")
        opened = Snapshot.open(tmp_path / "s")
        assert opened.item.tolist() == snapshot.item.tolist()
        assert opened.kinds == snapshot.kinds
        assert (opened.time_us is None) == (snapshot.time_us is None)
    with pytest.raises(NotThere) as nothing:
        Snapshot.open(tmp_path / "other")
    assert "slipstream prepare" in nothing.value.hint


def test_queries_carry_whole_histories_and_an_unknown_user_an_empty_one() -> None:
    snapshot = snapshot_of(EVENTS)
    queries = queries_of(snapshot, np.array([1, UNKNOWN, 0]), now_us=np.array([9, 8, 7]))
    assert [queries.history(q).tolist() for q in range(3)] == [[2, 0, 0], [], [0, 1]]
    assert queries.rows().tolist() == [0, 0, 0, 2, 2]
    parts = list(queries.batches(2))
    assert [start for start, _ in parts] == [0, 2]
    last = parts[1][1]
    assert last.history(0).tolist() == [0, 1]
    assert last.now_us is not None
    assert last.time_us is not None
    assert (last.now_us.tolist(), last.time_us.tolist()) == ([7], [2, 4])


def test_a_single_request_and_a_holdout() -> None:
    query = query_of([3, UNKNOWN], times_us=[1, 2], now_us=5)
    assert (len(query), query.user.tolist(), query.history(0).tolist()) == (1, [UNKNOWN], [3, UNKNOWN])
    holdout = Holdout(query, np.array([0, 2]), np.array([7, 8], np.int32))
    assert (len(holdout), holdout.targets(0).tolist()) == (1, [7, 8])
