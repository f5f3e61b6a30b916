"""Impressions: kept as shown, joined by rule, removed by age and by person to the last byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.config import Home
from slipstream.errors import ConfigError, CorruptArtifact
from slipstream.events.forgetting import forget_person
from slipstream.events.impressions import (
    DAY_US,
    FEEDBACK_SCHEMA,
    HOUR_US,
    NOBODY,
    SERVED_SCHEMA,
    FeedbackSettings,
    attribute,
    is_sampled,
    person_of,
    read_feedback_settings,
)
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.sqlite_impressions import Feedback, Served, SqliteImpressionStore

NOW = 20_000 * DAY_US + 5 * HOUR_US


def answer(
    request: str, user: str | None = "ann", *, at: int = NOW, items: tuple[str, ...] = ("a", "b")
) -> Served:
    scores = [1.0 - n / 4 for n in range(len(items))]
    return Served(request, person_of(user), at, "r1", "", "model", items, scores)


def click(
    event: str, request: str, item: str = "a", user: str = "ann", *, at: int = NOW + 1, context: str = ""
) -> Feedback:
    return Feedback(event, person_of(user), at, request, item, "click", 2.5, context)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "impressions.sqlite"


def test_what_was_written_is_read_by_the_next_process(path: Path) -> None:
    with SqliteImpressionStore(path) as store:
        store.append([answer("q1"), answer("q2", None, items=())], [click("e1", "q1")], now_us=NOW)
        store.append([answer("q3", at=NOW + DAY_US)], [], now_us=NOW + DAY_US)
    with SqliteImpressionStore(path) as store:
        served, feedback = store.served(), store.feedback()
        assert store.served(NOW + 1)["request_id"].to_list() == ["q3"]
    assert served.schema == SERVED_SCHEMA
    assert feedback.schema == FEEDBACK_SCHEMA
    assert served.row(0) == (
        "q1",
        person_of("ann"),
        NOW,
        "r1",
        "",
        "model",
        ["a", "b"],
        [1.0, 0.75],
        [],
        [],
        "",
    )
    assert served.row(1)[1] == NOBODY
    assert served["items"].to_list()[1:] == [[], ["a", "b"]]
    assert feedback.row(0) == ("e1", person_of("ann"), "q1", "a", "click", 2.5, NOW + 1, "")


def test_propensities_are_kept_also_beside_answers_of_a_version_without_them(path: Path) -> None:
    with SqliteImpressionStore(path) as store:
        store.append([answer("q1")], [], now_us=NOW)
        with store._connections.writing() as db:  # as it was before there was the column
            for column in ("propensities", "pool", "teams"):
                db.execute(f"ALTER TABLE served_{NOW // DAY_US:08d} DROP COLUMN {column}")
        assert store.served().schema == SERVED_SCHEMA
        assert store.served()["propensities"].to_list() == [[]]
    with SqliteImpressionStore(path) as store:
        drawn = replace(answer("q2"), propensities=(1.0, 0.125), pool=("b", "c"), teams="ab")
        store.append([drawn], [], now_us=NOW)
        assert store.served()["propensities"].to_list() == [[], [1.0, 0.125]]
        assert store.served()["pool"].to_list() == [[], ["b", "c"]]
        assert store.served()["teams"].to_list() == ["", "ab"]


def test_an_empty_store_has_the_shapes(path: Path) -> None:
    with SqliteImpressionStore(path) as store:
        store.append([], [], now_us=NOW)
        assert store.served().schema == SERVED_SCHEMA
        assert store.feedback().schema == FEEDBACK_SCHEMA
        assert store.drop_before(NOW) == store.forget("ann") == 0
        joined = attribute(store.served(), store.feedback(), DAY_US)
    assert joined.events.height == 0
    assert joined.unattributed == {}


def test_retention_removes_whole_days(path: Path) -> None:
    with SqliteImpressionStore(path) as store:
        for day in range(4):
            at = NOW + day * DAY_US
            store.append([answer(f"q{day}", at=at)], [click(f"e{day}", f"q{day}", at=at)], now_us=at)
        assert store.drop_before(NOW + 2 * DAY_US) == 4
        assert store.served()["request_id"].to_list() == ["q2", "q3"]
        assert store.feedback()["event_id"].to_list() == ["e2", "e3"]


def test_a_forgotten_person_leaves_no_byte(path: Path) -> None:
    requests = [f"request-of-ann-{n:05d}" for n in range(150)]
    with SqliteImpressionStore(path) as store:
        for request in requests:
            shown = ("secret-taste", "b")
            store.append(
                [
                    replace(answer(request, items=shown), pool=("secret-taste",)),
                    answer(f"bob {request[-5:]}", "bob"),
                ],
                [click(f"event-of-{request}", request, "secret-taste", context='{"where":"at home"}')],
                now_us=NOW,
            )
        assert store.forget("ann", now_us=NOW + 5) == 300
        assert store.forget("ann", now_us=NOW + 6) == 0
        assert set(store.served()["person"]) == {person_of("bob")}
        assert store.served().height == 150
        assert store.feedback().height == 0
        assert store.served()["items"].to_list()[0] == ["a", "b"]
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for trace in (b"request-of-ann", b"secret-taste", b"at home", b"event-of"):
        assert trace not in left
    # the hash stands in `forgotten`, once for each call, so that no writer brings the person back
    assert left.count(person_of("ann").to_bytes(8, "big", signed=True)) == 2


def test_answers_held_back_while_a_person_is_forgotten_are_not_kept(path: Path) -> None:
    with SqliteImpressionStore(path) as store, SqliteImpressionStore(path) as other:
        store.forget("ann", now_us=NOW)
        other.append([answer("before", at=NOW - 1), answer("after", at=NOW + 1)], [], now_us=NOW + 2)
        assert store.served()["request_id"].to_list() == ["after"]


def test_forgetting_in_a_home_reaches_impressions(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with SqliteEventStore(home.events) as events:
        forget_person(home, events, "ann")
        assert not home.impressions.exists()
        with SqliteImpressionStore(home.impressions) as store:
            store.append([answer("q1"), answer("q2", "bob")], [], now_us=NOW)
        forget_person(home, events, "ann")
    with SqliteImpressionStore(home.impressions) as store:
        assert store.served()["request_id"].to_list() == ["q2"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with SqliteEventStore(tmp_path / "events.sqlite"):
        pass
    with pytest.raises(CorruptArtifact, match="not an impression store"):
        SqliteImpressionStore(tmp_path / "events.sqlite")


def joined(*rows: Feedback, window_us: int = HOUR_US) -> tuple[list[tuple[str, int]], dict[str, int]]:
    served = [answer("q1"), answer("q2", None, items=("c", "a", "c"))]
    frames = []
    for kind, schema in ((served, SERVED_SCHEMA), (rows, FEEDBACK_SCHEMA)):
        records = [{name: getattr(row, name) for name in schema} for row in kind]
        frames.append(pl.DataFrame(records, schema=schema))
    got = attribute(*frames, window_us)
    return got.events.select("event_id", "place").rows(), got.unattributed


def test_feedback_joins_the_answer_it_names() -> None:
    pairs, rest = joined(
        click("e1", "q1", "b"), click("e2", "q2", "a", "bob"), click("e3", "q2", "c"), click("e4", "q1", "a")
    )
    assert pairs == [("e1", 1), ("e2", 1), ("e3", 0), ("e4", 0)]
    assert rest == {}


def test_feedback_that_belongs_nowhere_is_counted_by_reason() -> None:
    pairs, rest = joined(
        click("again", "q1"),
        click("again", "q1"),
        click("e2", ""),
        click("e3", "q9"),
        click("e4", "q1", user="bob"),
        click("e5", "q1", "z"),
        click("e6", "q1", at=NOW - HOUR_US),
        click("e7", "q1", at=NOW + HOUR_US + 1),
        click("e8", "q1", at=NOW + HOUR_US),
        click("a bit early", "q1", at=NOW - 1_000_000),
    )
    assert sorted(event for event, _ in pairs) == ["a bit early", "again", "e8"]
    reasons = ("repeated", "no-request", "unknown-request", "other-person", "not-shown", "early", "late")
    assert rest == dict.fromkeys(reasons, 1)


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_sample_holds_every_smaller_sample(request_id: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert is_sampled(request_id, high) or not is_sampled(request_id, low)


def test_the_sample_has_its_size() -> None:
    kept = sum(is_sampled(f"request {n}", 0.2) for n in range(20_000))
    assert kept == pytest.approx(4000, abs=200)
    assert is_sampled("x", 1.0)
    assert not is_sampled("x", 0.0)


def test_settings_are_read_from_the_home(tmp_path: Path) -> None:
    assert read_feedback_settings(tmp_path) == FeedbackSettings()
    (tmp_path / "feedback.json").write_text('{"sample": 0.1, "keep_days": 7}')
    assert read_feedback_settings(tmp_path).keep_days == 7
    (tmp_path / "feedback.json").write_text('{"sample": 2}')
    with pytest.raises(ConfigError, match="sample"):
        read_feedback_settings(tmp_path)
    (tmp_path / "feedback.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_feedback_settings(tmp_path)
