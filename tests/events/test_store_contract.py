"""What every event store promises. A new store is added to `stores` and to nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from event_world import ListStore, batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from slipstream.events.event import EVENT_SCHEMA, EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.store import EventStore

Maker = Callable[[Path], EventStore]


class LazyStore(SqliteEventStore):
    """Leaves everything in the tail: what a reader meets in the middle of a bulk load."""

    fold_now = -1


stores: dict[str, Maker] = {
    "list": lambda folder: ListStore(),
    "sqlite": lambda folder: SqliteEventStore(folder / "events.sqlite"),
    "sqlite, with a tail": lambda folder: LazyStore(folder / "events.sqlite"),
}


@pytest.fixture(params=list(stores))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    made = stores[request.param](tmp_path)
    yield made
    made.close()


def whole(store: EventStore) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=EVENT_SCHEMA), *store.scan()])


def test_an_empty_store_answers_everything_with_nothing(store: EventStore) -> None:
    assert store.event_count() == 0
    assert store.event_count("nobody") == 0
    assert store.history("nobody").schema == EVENT_SCHEMA
    assert len(store.recent("nobody")) == 0
    assert list(store.scan()) == []
    assert list(store.scan_by_user()) == []
    assert store.changes_since(0).height == 0
    assert store.changes_since(0, user_id="nobody").columns == [*EVENT_SCHEMA.names(), "arrival"]
    assert store.forget("nobody") == 0
    assert store.append(EventBatch.empty()).stored == 0
    assert (store.state().last_arrival, store.state().forgotten) == (0, 0)


def test_what_is_stored_comes_back_as_it_was(store: EventStore) -> None:
    sent = batch(
        ("ann", "a", 1, "purchase", 9.5),
        ("bob", "b", None, None, None),
        ("Ωmega 🙂", "it'em\"\n", -1e9, "view", -0.25, "an id of mine"),
    )
    result = store.append(sent)
    assert (result.stored, result.repeated, result.is_new.tolist()) == (3, 0, [True] * 3)
    assert_frame_equal(whole(store).sort("event_id"), sent.frame.sort("event_id"))


def test_the_same_event_id_twice_changes_nothing(store: EventStore) -> None:
    first = batch(("ann", "a", 1, None, None, "e1"), ("ann", "b", 2))
    store.append(first)
    before = whole(store)
    again = batch(("eve", "z", 9, None, None, "e1"), ("ann", "b", 2), ("ann", "c", 3))
    result = store.append(again)
    assert (result.stored, result.repeated, result.is_new.tolist()) == (1, 2, [False, False, True])
    assert_frame_equal(whole(store).head(2), before)
    assert store.event_count("eve") == 0
    assert store.append(first).stored == 0


def test_an_event_id_that_comes_twice_in_one_batch_is_stored_once(store: EventStore) -> None:
    result = store.append(batch(("ann", "a", 1, None, None, "x"), ("bob", "b", 2, None, None, "x")))
    assert result.is_new.tolist() == [True, False]
    assert whole(store)["user_id"].to_list() == ["ann"]


def test_two_really_identical_events_of_one_batch_both_survive(store: EventStore) -> None:
    rows = [("ann", "a", 1)] * 3
    assert store.append(batch(*rows)).stored == 3
    assert store.append(batch(*rows)).repeated == 3
    assert store.append(batch(*rows, *rows)).stored == 3


def test_a_scan_is_ordered_by_time_then_arrival_and_null_times_come_first(store: EventStore) -> None:
    store.append(batch(("u", "third", 5), ("u", "first", None), ("v", "fourth", 5)))
    store.append(batch(("w", "fifth", 6), ("v", "second", -9), ("w", "fourth and a half", 5)))
    order = ["first", "second", "third", "fourth", "fourth and a half", "fifth"]
    assert whole(store)["item_id"].to_list() == order
    assert [chunk.height for chunk in store.scan(chunk_rows=4)] == [4, 2]


def test_a_scan_by_user_keeps_people_together_and_each_in_order(store: EventStore) -> None:
    store.append(batch(("u", "2", 5), ("v", "1", 5), ("u", "1", None), ("v", "2", 5), ("u", "3", 7)))
    frame = pl.concat(store.scan_by_user(chunk_rows=2))
    assert frame.select("user_id", "item_id").rows() == [
        ("u", "1"), ("u", "2"), ("u", "3"), ("v", "1"), ("v", "2"),
    ]  # fmt: skip


def test_history_is_newest_first_and_sees_what_was_just_appended(store: EventStore) -> None:
    store.append(batch(*[("ann", f"{n}", n % 3) for n in range(9)], ("bob", "x", 99), ("ann", "old", None)))
    newest = ["8", "5", "2", "7", "4", "1", "6", "3", "0", "old"]
    assert store.history("ann")["item_id"].to_list() == newest
    assert store.history("ann", limit=4)["item_id"].to_list() == newest[:4]
    store.append(batch(("ann", "now", 3)))
    assert store.history("ann", limit=2)["item_id"].to_list() == ["now", "8"]
    assert store.history("bob")["user_id"].to_list() == ["bob"]
    assert store.recent("ann", 3).items == ["now", "8", "5"]


def test_changes_are_seen_in_order_of_arrival_by_all_and_by_person(store: EventStore) -> None:
    store.append(batch(("ann", "a", 9), ("bob", "b", 1)))
    seen = store.state().last_arrival
    assert store.changes_since(seen).height == 0
    store.append(batch(("ann", "c", 2), ("bob", "d", 8)))
    news = store.changes_since(seen)
    assert news["item_id"].to_list() == ["c", "d"]
    assert news["arrival"].max() == store.state().last_arrival > seen
    assert store.changes_since(seen, limit=1)["item_id"].to_list() == ["c"]
    assert store.changes_since(0, user_id="ann")["item_id"].to_list() == ["a", "c"]
    assert store.changes_since(seen, user_id="ann")["item_id"].to_list() == ["c"]
    store.append(batch(("ann", "a", 9)))
    assert store.changes_since(news["arrival"].max()).height == 0


def test_forgetting_removes_one_person_and_nobody_else(store: EventStore) -> None:
    store.append(batch(("ann", "a", 1), ("bob", "b", 2), ("ann", "c", 3, None, None, "mine")))
    assert store.forget("ann") == 2
    assert store.event_count() == store.event_count("bob") == 1
    assert store.history("ann").height == 0
    assert whole(store)["user_id"].to_list() == ["bob"]
    assert store.state().forgotten == 1
    assert store.forget("ann") == 0


def test_a_forgotten_person_may_come_back_and_arrivals_never_go_back(store: EventStore) -> None:
    events = batch(("bob", "b", 1), ("ann", "a", 2))
    store.append(events)
    last = store.state().last_arrival
    store.forget("ann")
    assert store.append(events).is_new.tolist() == [False, True]
    assert store.changes_since(last)["user_id"].to_list() == ["ann"]
    assert store.history("ann")["item_id"].to_list() == ["a"]


ids = st.sampled_from(["u1", "u2", "u10", "ü", " "])
events = st.tuples(
    ids,
    st.sampled_from(["i1", "i2", "i3"]),
    st.none() | st.integers(-3, 3),
    st.sampled_from([None, "click", "view"]),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.sampled_from(["e1", "e2", "0" * 32, "f" * 32]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(events, max_size=8)),
        st.tuples(st.just("forget"), ids),
    ),
    max_size=8,
)


@pytest.mark.parametrize("name", [name for name in stores if name != "list"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, limit=st.integers(1, 5))
def test_any_course_of_events_ends_as_in_the_list(
    name: str, steps: list, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    oracle, store = ListStore(), stores[name](tmp_path_factory.mktemp("course"))
    try:
        for what, value in steps:
            if what == "forget":
                assert store.forget(value) == oracle.forget(value)
            else:
                ours, theirs = store.append(batch(*value)), oracle.append(batch(*value))
                assert ours.is_new.tolist() == theirs.is_new.tolist()
        assert_frame_equal(whole(store), whole(oracle))
        for user in ("u1", "u10", "ü", "nobody"):
            assert store.event_count(user) == oracle.event_count(user)
            assert_frame_equal(store.history(user, limit), oracle.history(user, limit))
            lean, expected = store.recent(user, limit), oracle.recent(user, limit)
            assert (lean.items, lean.kinds) == (expected.items, expected.kinds)
            np.testing.assert_array_equal(lean.values, expected.values)
            np.testing.assert_array_equal(lean.times_us, expected.times_us)
        for made in (store, oracle):  # arrival numbers are each store's own, their order is not
            assert made.changes_since(0)["arrival"].is_sorted()
        everything = store.changes_since(0), oracle.changes_since(0)
        assert_frame_equal(everything[0].drop("arrival"), everything[1].drop("arrival"))
        for place in range(0, everything[0].height, 3):
            after, same = (int(frame["arrival"][place]) for frame in everything)
            lean_changes, expected_changes = store.arrivals_since(after, 5), oracle.arrivals_since(same, 5)
            assert list(lean_changes.arrivals) == store.changes_since(after, limit=5)["arrival"].to_list()
            assert list(lean_changes.items) == list(expected_changes.items)
            assert lean_changes.user_ids == expected_changes.user_ids
            assert lean_changes.kinds == expected_changes.kinds
            np.testing.assert_array_equal(lean_changes.values, expected_changes.values)
            assert list(lean_changes.times_us) == list(expected_changes.times_us)
            for user in ("u1", "u10", None):
                ours = store.changes_since(after, user_id=user, limit=3).drop("arrival")
                assert_frame_equal(ours, oracle.changes_since(same, user_id=user, limit=3).drop("arrival"))
    finally:
        store.close()
