"""What is known of a user: every acknowledged event, from any process, and nothing of the forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import film_world
import numpy as np
import polars as pl
import pytest

from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.live_users import LiveUsers
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import PipelineSettings
from slipstream.recommend.rules import Rules


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteEventStore]:
    with SqliteEventStore(tmp_path / "events.sqlite") as opened:
        yield opened


def live(store: SqliteEventStore, **more: object) -> LiveUsers:
    data = film_world.snapshot()
    counts = np.diff(data.offsets).astype(np.int32)
    return LiveUsers(store, data.items, data.users, counts, **more)  # type: ignore[arg-type]


def append(store: SqliteEventStore, *rows: tuple[str, str, int]) -> None:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    store.append(EventBatch.of(frame.with_columns(kind=pl.lit("watch"))))


def test_a_state_is_the_history_oldest_first_with_ties_as_they_came(store: SqliteEventStore) -> None:
    append(store, ("zoe", "f3", 20), ("zoe", "later", 20), ("zoe", "f1", 10), ("zoe", "f3", 30))
    state = live(store).state("zoe")
    assert state.item_ids == ("f1", "f3", "later", "f3")
    assert state.item.tolist() == [1, 3, -1, 3]
    assert state.known_ids([0, 1, 2]) == ["f1", "f3", "f3"]
    assert state.query().item.tolist() == [1, 3, 3]
    assert state.query(99).time_us.tolist() == [10, 20, 30]  # type: ignore[union-attr]
    assert state.query(99).now_us.tolist() == [99]  # type: ignore[union-attr]
    assert state.kind_of("f3") == "watch"
    assert state.kind_of("f7") is None
    assert state.number == -1


def test_an_acknowledged_event_is_in_the_next_state_whoever_wrote_it(
    store: SqliteEventStore, tmp_path: Path
) -> None:
    users = live(store)
    assert users.state("zoe").item_ids == ()
    append(store, ("zoe", "f1", 1))
    assert users.state("zoe").item_ids == ("f1",)
    with SqliteEventStore(tmp_path / "events.sqlite") as other:
        append(other, ("zoe", "f2", 2), ("amy", "f4", 3))
    assert users.state("zoe").item_ids == ("f1", "f2")
    kept = users.state("zoe")
    append(store, ("amy", "f5", 4))
    assert users.state("zoe") is kept  # somebody else's event changes nothing
    assert users.state("amy").item_ids == ("f4", "f5")
    append(store, ("zoe", "f0", 0))  # a late event takes its place in time
    assert users.state("zoe").item_ids == ("f0", "f1", "f2")


def test_states_are_right_under_many_scripts_of_writes_and_small_capacity(
    store: SqliteEventStore, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    users = live(store, budget_bytes=2_000)
    expected: dict[str, list[str]] = {name: [] for name in ("a", "b", "c", "d")}
    with SqliteEventStore(tmp_path / "events.sqlite") as other:
        for step in range(150):
            name = str(rng.choice(list(expected)))
            if rng.random() < 0.1:
                store.forget(name)
                expected[name] = []
            elif rng.random() < 0.6:
                item = f"f{rng.integers(8)}"
                append(store if rng.random() < 0.5 else other, (name, item, step))
                expected[name].append(item)
            asked = str(rng.choice(list(expected)))
            assert list(users.state(asked).item_ids) == expected[asked]


def test_a_forgotten_person_is_a_stranger_to_the_model_too(store: SqliteEventStore) -> None:
    for user, items in film_world.HISTORIES.items():
        append(store, *((user, item, place) for place, item in enumerate(items)))
    users = live(store)
    assert users.state("bob").number == film_world.snapshot().users.number("bob")
    store.forget("bob")
    assert users.state("bob").number == -1
    assert users.state("bob").item_ids == ()
    append(store, ("bob", "f6", 50))
    assert users.state("bob").number == -1  # fewer events than the release was trained on


def test_small_values_are_touched_but_no_history(store: SqliteEventStore, tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": ["z"] * 3, "item_id": ["f0", "f1", "f4"], "value": [5.0, 1.0, None]})
    store.append(EventBatch.of(rows))
    state = live(store, minimum_value=3.0).state("z")
    assert state.query().item.tolist() == [0, 4]
    release = film_world.release(tmp_path / "r", settings=PipelineSettings(minimum_value=3.0))
    slate = Pipeline(release, store).recommend(Request(user_id="z"))
    assert not {"f0", "f1", "f4"} & {item.item_id for item in slate.items}


def test_only_kinds_that_touch_hide_an_item(store: SqliteEventStore, tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": ["z"] * 2, "item_id": ["f0", "f1"], "kind": ["view", "purchase"]})
    store.append(EventBatch.of(rows))
    release = film_world.release(tmp_path / "r")
    shop = Pipeline(release, store, rules=Rules(touched_by=("purchase",)))
    found = [item.item_id for item in shop.recommend(Request(user_id="z")).items]
    assert "f0" in found
    assert "f1" not in found


def test_an_answer_as_of_a_moment_knows_nothing_later(store: SqliteEventStore, tmp_path: Path) -> None:
    append(store, ("z", "f0", 100), ("z", "f1", 200))
    pipeline = Pipeline(film_world.release(tmp_path / "r"), store)

    def ids(time_us: int) -> tuple[str, set[str]]:
        slate = pipeline.recommend(Request(user_id="z", time_us=time_us))
        return slate.tier, {item.item_id for item in slate.items}

    assert ids(50)[0] == "popularity"
    assert {"f0", "f1"} <= ids(50)[1]
    assert "f1" in ids(150)[1]
    assert "f0" not in ids(150)[1]
    assert not {"f0", "f1"} & ids(250)[1]
