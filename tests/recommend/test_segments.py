"""Popularity within a segment: counted by hand, met over a pipeline, and gone with the person."""

from __future__ import annotations

import os
from pathlib import Path

import film_world
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.events.event import EventBatch
from slipstream.events.forgetting import forget_person
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import PipelineSettings, Release, write_release
from slipstream.recommend.rules import Rules
from slipstream.recommend.segments import FEWEST, PRIOR, Members, Segments, values_of

NORTH, SOUTH = 60, 130


def world() -> tuple[Snapshot, pl.DataFrame]:
    """Northerners like f6 and f1, southerners f0; the few of the west each something of their own."""
    taken = [(f"n{n}", item) for n in range(NORTH) for item in ("f6", "f1", "f1")[: 1 + n]]
    taken += [(f"s{n}", "f0") for n in range(SOUTH)]
    taken += [(f"w{n}", f"f{n}") for n in range(FEWEST - 1)]
    rows = [(user, item, place) for place, (user, item) in enumerate(taken)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    people = [(user, {"n": "north", "s": "south", "w": "west"}[user[0]]) for user, _ in dict.fromkeys(taken)]
    people += [("new", "north"), ("other", "south"), ("few", "west"), ("odd", "moon"), ("silent", None)]
    table = pl.DataFrame(list(dict(people).items()), schema=["user_id", "region"], orient="row")
    return snapshot_of(events, items=Vocabulary.of(film_world.FILMS["item_id"].to_list())), table


def served(folder: Path, *, rules: Rules | None = None) -> tuple[Pipeline, Home]:
    data, table = world()
    home = Home(folder)
    home.catalogue.mkdir(parents=True)
    table.write_parquet(home.people)
    model = film_world.popularity(data)
    write_release(
        home.releases,
        "r",
        snapshot=data,
        primary=model,
        popularity=model,
        items=film_world.FILMS,
        people=table,
        rules=Rules(segment="region") if rules is None else rules,
        settings=PipelineSettings(),
    )
    return Pipeline(Release.open(home.releases / "r"), SqliteEventStore(home.events), home=home), home


def first(pipeline: Pipeline, user_id: str | None, **more: object) -> str:
    slate = pipeline.recommend(Request(user_id=user_id, **more))  # type: ignore[arg-type]
    assert slate.tier == "popularity"
    return slate.items[0].item_id


def test_shares_are_counted_by_hand() -> None:
    data, table = world()
    segments = Segments.of(data, table, "region")
    assert segments is not None
    assert segments.values.to_list() == ["north", "south"]  # of the west there are too few
    everybody = NORTH + SOUTH + FEWEST - 1
    scores = segments.scores(segments.number("north"))
    assert scores[6] == pytest.approx((NORTH + PRIOR * NORTH / everybody) / (NORTH + PRIOR))
    assert scores[0] == pytest.approx((PRIOR * (SOUTH + 1) / everybody) / (NORTH + PRIOR))
    assert scores[1] == pytest.approx((NORTH - 1 + PRIOR * NORTH / everybody) / (NORTH + PRIOR))
    assert np.isnan(scores[7])  # nobody took it
    assert segments.touched(segments.number("north"), 1) == NORTH - 1  # repeats are one person
    assert [segments.number(value) for value in ("moon", None, ["north"], ["north", "south"], 5)] == [
        -1,
        -1,
        0,
        -1,
        -1,
    ]


@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 4)), min_size=1, max_size=120),
    st.lists(st.sampled_from(["a", "b", ""]), min_size=15, max_size=15),
)
def test_they_are_those_of_the_slow_way(pairs: list[tuple[int, int]], values: list[str]) -> None:
    rows = [(f"u{user}", f"i{item}", place) for place, (user, item) in enumerate(pairs)]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    table = pl.DataFrame({"user_id": [f"u{n}" for n in range(15)], "group": values})
    segments = Segments.of(
        snapshot_of(events, items=Vocabulary.of([f"i{n}" for n in range(5)])), table, "group"
    )
    active = {user for user, _ in pairs}
    members = {v: {u for u in active if values[u] == v} for v in ("a", "b")}
    large = [value for value, people in sorted(members.items()) if len(people) >= FEWEST]
    assert (segments.values.to_list() if segments else []) == large
    for place, value in enumerate(large):
        for item in range(5):
            takers = {user for user, taken in pairs if taken == item}
            share = (len(takers & members[value]) + PRIOR * len(takers) / len(active)) / (
                len(members[value]) + PRIOR
            )
            assert segments is not None
            assert segments.scores(place)[item] == pytest.approx(share if takers else np.nan, nan_ok=True)


def test_a_new_person_gets_what_is_popular_with_people_alike(tmp_path: Path) -> None:
    pipeline, _ = served(tmp_path)
    for _ in range(2):  # also from the slate cache, which strangers share
        assert first(pipeline, "new") == "f6"
        assert [first(pipeline, user) for user in ("other", "few", "odd", "silent", "unheard of", None)] == [
            "f0"
        ] * 6
    assert first(pipeline, None, context={"region": "north"}) == "f6"
    assert first(pipeline, "other", context={"region": "north"}) == "f6"  # the request knows better
    assert first(pipeline, "new", context={"region": {"no": "value"}}) == "f0"
    assert first(pipeline, "new", history=[]) == "f6"
    assert pipeline.by_segment == 2 * 2 + 3


def test_the_reason_names_the_segment_and_its_count(tmp_path: Path) -> None:
    pipeline, _ = served(tmp_path)
    items = {i.item_id: i.reasons for i in pipeline.recommend(Request(user_id="new", explain=True)).items}
    assert items["f6"][0].text == "popular with 60 people (region: north)"
    assert items["f0"][0].text == "popular with 131 people"  # nobody of the north took it
    assert items["f6"] == pipeline.explain("new", "f6")
    plain = pipeline.recommend(Request(user_id="silent", explain=True)).items
    assert {i.item_id: i.reasons[0].text for i in plain}["f6"] == "popular with 60 people"


def test_a_person_with_a_history_is_left_to_the_model(tmp_path: Path) -> None:
    pipeline, home = served(tmp_path)
    assert first(pipeline, "new") == "f6"
    with SqliteEventStore(home.events) as store:
        row = {"user_id": ["new"], "item_id": ["f2"], "time_us": [10**15]}
        store.append(EventBatch.of(pl.DataFrame(row)))
    slate = pipeline.recommend(Request(user_id="new"))
    assert (slate.tier, slate.items[0].item_id) == ("model", "f0")


def test_the_table_is_read_again_when_it_changes_and_knows_nobody_who_was_forgotten(tmp_path: Path) -> None:
    pipeline, home = served(tmp_path)
    assert (first(pipeline, "new"), first(pipeline, "later")) == ("f6", "f0")
    table = pl.read_parquet(home.people)
    beside = home.people.with_name("beside.parquet")
    pl.concat([table, pl.DataFrame({"user_id": ["later"], "region": ["north"]})]).write_parquet(beside)
    beside.replace(home.people)
    assert first(pipeline, "later") == "f6"
    with SqliteEventStore(home.events) as store:
        forget_person(home, store, "later")
    assert (first(pipeline, "new"), first(pipeline, "later")) == ("f6", "f0")
    home.people.write_bytes(b"no table")
    assert first(pipeline, "new") == "f0"
    os.remove(home.people)
    assert first(pipeline, "new") == "f0"


def test_without_the_rule_there_is_none(tmp_path: Path) -> None:
    off, _ = served(tmp_path / "off", rules=Rules())
    assert off.release.segments is None
    assert first(off, "new", context={"region": "north"}) == "f0"
    on, home = served(tmp_path / "on")
    switched_off = Pipeline(on.release, home=home, rules=Rules())
    assert first(switched_off, "new") == "f0"
    nothing, _ = served(tmp_path / "nothing", rules=Rules(segment="shoe size"))
    assert nothing.release.segments is None


def test_cells_that_hold_no_single_value_say_nothing(tmp_path: Path) -> None:
    numbers = pl.DataFrame({"user_id": [1, 2, 3], "age": [1.0, float("nan"), None]})
    assert values_of(numbers, "age") == {"1": "1"}
    lists = pl.DataFrame({"user_id": ["a"], "tags": [["x", "y"]]})
    assert values_of(lists, "tags") == values_of(lists, "nothing") == values_of(None, "tags") == {}
    data, table = world()
    segments = Segments.of(data, table, "region")
    assert segments is not None
    assert Members(tmp_path / "nowhere.parquet", segments).number("new") == -1
