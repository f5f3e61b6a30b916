"""Events before they are stored: checks, ids from content, times, and rows of JSON."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import BadInput
from slipstream.events.event import EVENT_SCHEMA, MAX_AHEAD_US, EventBatch, Reject, completed, judge
from slipstream.events.identity import Occurrences, SeenHashes, content_id
from slipstream.events.rows import parse_events
from slipstream.events.times import parse_time, parse_times, time_text

NOW_US = 1_700_000_000_000_000


def frame(**columns: list) -> pl.DataFrame:
    height = max(map(len, columns.values()))
    return pl.DataFrame({"user_id": ["u"] * height, "item_id": ["i"] * height, **columns}, strict=False)


def codes(rows: pl.DataFrame) -> list[str | None]:
    return judge(completed(rows), now_us=NOW_US)["code"].to_list()


def test_a_batch_is_completed_to_the_schema() -> None:
    batch = EventBatch.of(frame(value=[None, 2]))
    assert batch.frame.schema == EVENT_SCHEMA
    assert batch.frame["kind"].to_list() == ["click", "click"]
    assert batch.frame["time_us"].to_list() == [None, None]
    assert batch.frame["event_id"].str.len_bytes().to_list() == [32, 32]


def test_every_fault_has_its_code() -> None:
    long, wide = "x" * 513, "k" * 65
    assert codes(frame(user_id=[None, "", "u" * 512, long, "a\x00"])) == [
        "missing-user", "missing-user", None, "id-too-long", "bad-id",
    ]  # fmt: skip
    assert codes(frame(item_id=[None, "", long])) == ["missing-item", "missing-item", "id-too-long"]
    assert codes(frame(item_id=["é" * 256, "é" * 257])) == [None, "id-too-long"]
    assert codes(frame(kind=[None, "", "k" * 64, wide])) == [None, None, None, "kind-too-long"]
    assert codes(frame(value=[None, 1.0, math.nan, math.inf])) == [None, None, "nan-value", "nan-value"]
    edge = NOW_US + MAX_AHEAD_US
    assert codes(frame(time_us=[None, edge, edge + 1])) == [None, None, "future-time"]
    assert codes(frame(event_id=[None, "e", "", long])) == [None, None, "bad-id", "id-too-long"]


def test_a_bad_batch_names_the_row_and_the_reason() -> None:
    with pytest.raises(BadInput, match=r"row 1 is not an event \(missing-item: the item id is empty\)"):
        EventBatch.of(frame(item_id=["a", None, None]))
    with pytest.raises(BadInput, match="events need a column item_id, got user_id"):
        EventBatch.of(pl.DataFrame({"user_id": ["a"]}))
    with pytest.raises(BadInput, match="do not fit the schema"):
        EventBatch.of(frame(time_us=["yesterday"]))


texts = st.text(min_size=1, max_size=5).filter(lambda t: "\x00" not in t)
contents = st.tuples(
    texts,
    texts,
    st.sampled_from(["click", "view", "a,b"]),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.integers(-(2**62), 2**62),
)
NAMES = ["user_id", "item_id", "kind", "value", "time_us"]


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(contents, min_size=1, max_size=12), doubled=st.integers(0, 11))
def test_ids_are_told_by_content_and_count_repeats(rows: list, doubled: int) -> None:
    rows = [*rows, rows[doubled % len(rows)]]
    table = pl.DataFrame(rows, schema={name: EVENT_SCHEMA[name] for name in NAMES}, orient="row")
    ids = EventBatch.of(table).frame["event_id"].to_list()
    met: dict[tuple, int] = {}
    for row, found in zip(rows, ids, strict=True):
        same = (*row[:3], None if row[3] is None else row[3] + 0.0, row[4])
        assert found == content_id(*row, met.get(same, 0))
        met[same] = met.get(same, 0) + 1
    assert len(set(ids)) == len(ids)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(contents, min_size=2, max_size=12), cut=st.integers(1, 11))
def test_a_file_in_two_parts_gets_the_ids_of_the_file_in_one(rows: list, cut: int) -> None:
    table = pl.DataFrame(rows + rows[:3], schema={name: EVENT_SCHEMA[name] for name in NAMES}, orient="row")
    whole = EventBatch.of(table).frame["event_id"]
    counts = Occurrences()
    parts = [EventBatch.of(part, occurrences=counts).frame["event_id"] for part in (table[:cut], table[cut:])]
    assert pl.concat(parts).to_list() == whole.to_list()


def test_ids_never_change_between_versions() -> None:
    """These ids are in people's stores: another formula would double every event."""
    assert (
        content_id("u1", "i1", "click", None, 1_700_000_000_000_000, 0) == "818bcfe568002f413ae0dade8dc03b16"
    )
    assert content_id("ü", "i", "rating", 4.5, None, 2) == "000000000000c0f7c1a0fad13d787c18"


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=30))
def test_seen_hashes_are_a_set(parts: list[list[int]]) -> None:
    seen, oracle = SeenHashes(), set[int]()
    for part in parts:
        asked = np.arange(61, dtype=np.uint64)
        assert set(asked[seen.contains(asked)].tolist()) == oracle
        seen.add(np.array(part, np.uint64))
        oracle |= set(part)
    assert len(seen) >= len(oracle)


# Times

KNOWN = {
    "978300760": 978_300_760_000_000,
    "978300760.25": 978_300_760_250_000,
    "9.7830076e8": 978_300_760_000_000,
    "978300760123": 978_300_760_123_000,
    "978300760123456": 978_300_760_123_456,
    "978300760123456789": 978_300_760_123_456,
    "-5": -5_000_000,
    "1970-01-02": 86_400_000_000,
    "1970-01-01T00:00:01Z": 1_000_000,
    "1970-01-01 00:00:01.5": 1_500_000,
    "1970/01/01 02:00": 7_200_000_000,
    "1970-01-01T02:00:00+02:00": 0,
    "1970-01-01T00:00:00.123456789-0030": 1_800_123_456,
    " 1970-01-01t00:00:02z ": 2_000_000,
    "2016-12-31T23:59:60Z": 1_483_228_800_000_000,
}
NO_TIMES = [
    "", "soon", "2024-02-30", "2024-13-01", "2024-01-01T25:00", "2024-01-01T10:61", "12:30", "nan", "inf",
    "1e30", "2024-01-01Z", "0000-01-01", "١٢", "1_000", "2024-01-01T10:00+25:00",
]  # fmt: skip


def test_times_that_people_write() -> None:
    assert parse_times(pl.Series(list(KNOWN))).to_list() == list(KNOWN.values())
    assert parse_times(pl.Series(NO_TIMES)).to_list() == [None] * len(NO_TIMES)
    for text, micros in KNOWN.items():
        assert parse_time(text) == micros, text
    for text in NO_TIMES:
        assert parse_time(text) is None, text


def test_times_of_every_type_and_unit() -> None:
    zone = pl.Datetime("ms", "Europe/Berlin")
    moment = datetime(2024, 1, 31, 12, tzinfo=UTC)
    micros = int(moment.timestamp()) * 1_000_000
    assert parse_times(pl.Series([moment]).cast(zone)).to_list() == [micros]
    assert parse_times(pl.Series([moment.replace(tzinfo=None)])).to_list() == [micros]
    assert parse_times(pl.Series([date(2024, 1, 31), None])).to_list() == [micros - 43_200_000_000, None]
    assert parse_times(pl.Series([5, 5_000], dtype=pl.UInt16), "ms").to_list() == [5_000, 5_000_000]
    assert parse_times(pl.Series([5.5, math.nan]), "us").to_list() == [6, None]
    assert parse_times(pl.Series(["7", "7.5"]), "ms").to_list() == [7_000, 7_500]
    assert parse_times(pl.Series([2**63], dtype=pl.UInt64)).to_list() == [None]
    assert parse_times(pl.Series([True])).to_list() == [None]
    assert parse_time(moment) == micros
    assert parse_time(date(2024, 1, 31)) == micros - 43_200_000_000
    assert parse_time(True) is None
    assert time_text(micros) == "2024-01-31T12:00:00+00:00"
    assert time_text(2**62) == f"{2**62} us"


@settings(max_examples=50, deadline=None)
@given(value=st.integers(-(10**20), 10**20) | st.floats())
def test_numbers_are_read_alike_by_column_and_one_by_one(value: float) -> None:
    one = parse_time(value)
    if isinstance(value, float):
        assert parse_times(pl.Series([value])).to_list() == [one]
    elif abs(value) < 2**63:
        assert parse_times(pl.Series([value], dtype=pl.Int64)).to_list() == [one]
    assert parse_times(pl.Series([str(value)])).to_list() == [parse_time(str(value))]


pieces = st.sampled_from(
    ["2024", "-", "/", "02", "30", "29", "T", " ", ":", "10", "61", ".", "5", "Z", "+", "e", "1970"]
)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda m: m.isoformat())
zoned = st.tuples(moments, st.sampled_from(["", "Z", "+05:30", "-11:00", "+00:00"])).map("".join)


@settings(max_examples=50, deadline=None)
@given(text=st.one_of(zoned, st.lists(pieces, max_size=12).map("".join), st.text(max_size=12)))
def test_texts_are_read_alike_by_column_and_one_by_one(text: str) -> None:
    assert parse_times(pl.Series([text], dtype=pl.String)).to_list() == [parse_time(text)]


@settings(max_examples=50, deadline=None)
@given(moment=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), minutes=st.integers(-1439, 1439))
def test_rfc_3339_is_read_as_the_standard_library_reads_it(moment: datetime, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    text = f"{moment.isoformat()}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    exact = (moment - timedelta(minutes=minutes)) - datetime(1970, 1, 1)
    assert parse_time(text) == exact // timedelta(microseconds=1)


# Rows of JSON


def test_rows_of_json_become_events_or_answers() -> None:
    rows = [
        {"user_id": "u", "item_id": "i", "time": "2023-11-14T00:00:00Z", "value": 3, "kind": "view"},
        {"user_id": "u", "item_id": 7},
        {"item_id": "i"},
        {"user_id": "u", "item_id": ["i"]},
        {"user_id": "u", "item_id": "i", "value": "3"},
        {"user_id": "u", "item_id": "i", "value": math.nan},
        {"user_id": "u", "item_id": "i", "time": "soon"},
        {"user_id": "u", "item_id": "i", "time": 1e10},
        {"user_id": "u", "item_id": "\ud800"},
        {"user_id": "u", "item_id": "i", "event_id": ""},
        "nonsense",
        {"user_id": "u", "item_id": "i", "kind": "k" * 65},
        {"user_id": "u", "item_id": "i", "value": True},
        {"user_id": "u", "item_id": "i", "value": 10**400},
        {"user_id": "u", "item_id": "i", "event_id": "mine", "request_id": "r", "context": {}},
    ]
    parsed = parse_events(rows, now_us=NOW_US)
    assert parsed.places == [0, 1, 14]
    assert parsed.batch.frame["item_id"].to_list() == ["i", "7", "i"]
    assert parsed.batch.frame["time_us"].to_list() == [1_699_920_000_000_000, NOW_US, NOW_US]
    assert parsed.batch.frame["event_id"].to_list()[2] == "mine"
    assert {row.index: row.code for row in parsed.rejected} == {
        2: "missing-user", 3: "bad-id", 4: "bad-value", 5: "nan-value", 6: "bad-time", 7: "future-time",
        8: "bad-encoding", 9: "bad-id", 10: "bad-json", 11: "kind-too-long", 12: "bad-value", 13: "bad-value",
    }  # fmt: skip


strange = st.none() | st.sampled_from(["", "u", "x" * 513, "é" * 256, "é" * 257, "a\x00b", "k" * 65])


@settings(max_examples=50, deadline=None)
@given(
    user=strange,
    item=strange,
    kind=strange,
    event_id=strange,
    value=st.none() | st.floats(),
    time=st.none() | st.integers(NOW_US - 10, NOW_US + 2 * MAX_AHEAD_US),
)
def test_one_row_is_judged_as_a_column_of_it_is(user, item, kind, event_id, value, time) -> None:
    row = {"event_id": event_id, "user_id": user, "item_id": item, "kind": kind, "value": value, "time": time}
    parsed = parse_events([row], now_us=NOW_US)
    columns = {**{name: [cell] for name, cell in row.items() if name != "time"}, "time_us": [time or NOW_US]}
    table = pl.DataFrame(columns, schema=EVENT_SCHEMA)
    judged = codes(table)[0]
    assert (judged is None) == (not parsed.rejected)
    if parsed.rejected:
        assert parsed.rejected[0].code in set(Reject)
    else:
        assert parsed.batch.frame.equals(EventBatch.of(table).frame)
