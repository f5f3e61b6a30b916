"""Prepared snapshots against a slow, obvious reading of the rules; bad rows; any form of source."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.cleaning import CleaningReport, CleaningRules, LogColumns, read_rejects
from slipstream.dataset.preparation import prepare
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.errors import BadInput, CorruptArtifact, NotThere

START_US = 1_700_000_000_000_000


@dataclass(frozen=True)
class Event:
    user: str
    item: str
    time: int
    kind: str
    value: float


def plain_rules(events: list[Event], rules: CleaningRules) -> dict[str, list[Event]]:
    """Histories per user, oldest first, after all rules: row by row, as the docs put it."""
    events = [e for e in events if e.kind not in rules.drop_kinds]
    if rules.min_value is not None:
        events = [e for e in events if e.value >= rules.min_value]
    events = sorted(events, key=lambda e: e.time)  # stable: ties keep the order of arrival
    if not rules.keep_exact_repeats:
        first: dict[tuple[str, str, str, int], Event] = {}
        for e in events:
            first.setdefault((e.user, e.item, e.kind, e.time), e)
        events = list(first.values())
    if rules.keep != "all":
        numbered = list(enumerate(events))
        decisive = numbered if rules.keep == "last" else numbered[::-1]
        chosen = {(e.user, e.item): n for n, e in decisive}  # the last one written wins
        events = [e for n, e in numbered if chosen[e.user, e.item] == n]
    while True:
        users, items = Counter(e.user for e in events), Counter(e.item for e in events)
        left = [
            e
            for e in events
            if users[e.user] >= rules.min_user_events and items[e.item] >= rules.min_item_events
        ]
        if len(left) == len(events):
            break
        events = left
    mine: dict[str, list[Event]] = {}
    for e in events:
        mine.setdefault(e.user, []).append(e)
    return mine


def histories(snapshot: Snapshot) -> dict[str, list[Event]]:
    assert snapshot.time_us is not None
    found = {}
    for user in range(snapshot.user_count):
        rows = range(snapshot.offsets[user], snapshot.offsets[user + 1])
        name = snapshot.users[user]
        found[name] = [
            Event(
                name,
                snapshot.items[int(snapshot.item[r])],
                int(snapshot.time_us[r]),
                snapshot.kinds[snapshot.kind[r]],
                float(snapshot.value[r]),
            )
            for r in rows
        ]
    return found


def table(events: list[Event]) -> pl.DataFrame:
    columns = {
        "user_id": [e.user for e in events],
        "item_id": [e.item for e in events],
        "kind": [e.kind for e in events],
        "value": [e.value for e in events],
        "time_us": [e.time for e in events],
    }
    texts = {"user_id": pl.String, "item_id": pl.String, "kind": pl.String}
    return pl.DataFrame(columns, schema_overrides={**texts, "value": pl.Float64, "time_us": pl.Int64})


def prepared(source: Any, rules: CleaningRules, **options: Any) -> tuple[Snapshot, CleaningReport]:
    """The snapshot is read whole before its folder goes."""
    with tempfile.TemporaryDirectory() as place:
        report = prepare(source, rules, Path(place) / "snapshot", **options)
        opened = Snapshot.open(Path(place) / "snapshot")
        whole = {name: np.array(getattr(opened, name)) for name in ("offsets", "item", "value", "kind")}
        time_us = None if opened.time_us is None else np.array(opened.time_us)
        users = type(opened.users).of(opened.users.to_list())
        items = type(opened.items).of(opened.items.to_list())
        snapshot = Snapshot(
            users, items, **whole, kinds=opened.kinds, time_us=time_us, ordered=opened.ordered
        )
    return snapshot, report


def same(a: Snapshot, b: Snapshot) -> bool:
    return (
        a.users.to_list() == b.users.to_list()
        and a.items.to_list() == b.items.to_list()
        and (a.kinds, a.ordered) == (b.kinds, b.ordered)
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("offsets", "item", "kind"))
        and np.array_equal(a.value, b.value)
        and (a.time_us is b.time_us is None or np.array_equal(a.time_us, b.time_us))  # type: ignore[arg-type]
    )


EVENTS = st.builds(
    Event,
    st.sampled_from(["u1", "u2", "u3", "ünser", "10", "9"]),
    st.sampled_from(["i1", "i2", "i3", "i4", "映画"]),
    st.one_of(st.integers(0, 4).map(lambda s: START_US + s * 1_000_000), st.integers(0, 2**51)),
    st.sampled_from(["click", "buy"]),
    st.sampled_from([0.5, 1.0, 3.0]),
)
RULES = st.builds(
    CleaningRules,
    keep_exact_repeats=st.booleans(),
    keep=st.sampled_from(["all", "first", "last"]),
    min_user_events=st.integers(1, 4),
    min_item_events=st.integers(1, 4),
    drop_kinds=st.sampled_from([(), ("buy",)]),
    min_value=st.sampled_from([None, 1.0]),
)


@given(events=st.lists(EVENTS, min_size=1, max_size=50), rules=RULES, cut=st.integers(1, 20))
@settings(max_examples=120, deadline=None)
def test_a_snapshot_is_what_the_rules_say(events: list[Event], rules: CleaningRules, cut: int) -> None:
    expected = plain_rules(events, rules)
    batches = list(table(events).iter_slices(cut))
    if not expected:
        with pytest.raises(BadInput, match="nothing is left"):
            prepared(batches, rules)
        return
    snapshot, report = prepared(batches, rules)
    assert histories(snapshot) == expected
    left = [e for mine in expected.values() for e in mine]
    assert snapshot.users.to_list() == sorted(expected)
    assert snapshot.items.to_list() == sorted({e.item for e in left})
    assert list(snapshot.kinds) == sorted({e.kind for e in left})
    gone = report.other_kinds + report.below_minimum + report.exact_repeats + report.superseded
    assert report.rows == len(events) == report.events + gone + report.too_rare_events
    assert report.users == report.users_found - report.too_rare_users == snapshot.user_count
    assert report.items == report.items_found - report.too_rare_items == snapshot.item_count
    assert (report.events, report.clock) == (snapshot.event_count, True)


def test_a_large_log_equals_the_obvious_snapshot() -> None:
    """Many blocks of users, and one user who alone is more than a block; times to the microsecond."""
    random = np.random.default_rng(5)
    users = np.concatenate([random.integers(1_000, 9_000, 150_000), np.full(150_000, 77)])
    random.shuffle(users)
    for spread in (50, 2**50):  # many ties; and times too long to be packed into one word
        log = pl.DataFrame(
            {
                "user_id": users,
                "item_id": random.integers(0, 3_000, len(users)),
                "time_us": random.integers(0, spread, len(users)),
                "value": random.random(len(users)).astype(np.float32),
            }
        )
        found, report = prepared(log, CleaningRules(keep_exact_repeats=True))
        texts = log.with_columns(pl.col("user_id", "item_id").cast(pl.String))
        assert same(found, snapshot_of(texts))
        assert report.exact_repeats == report.too_rare_events == 0
        last, _ = prepared(log, CleaningRules(keep="last", keep_exact_repeats=True, min_item_events=20))
        newest = texts.sort("time_us", maintain_order=True).unique(["user_id", "item_id"], keep="last")
        newest = newest.filter(pl.len().over("item_id") >= 20)
        assert last.event_count == newest.height
        assert np.array_equal(last.time_us, snapshot_of(newest).time_us)  # type: ignore[arg-type]


def test_ids_as_text_and_as_whole_numbers_give_the_same_snapshot() -> None:
    log = pl.DataFrame({"user_id": [10, 9, 10, -3], "item_id": [2, 30, 30, 2], "timestamp": [4, 3, 2, 1]})
    numbers, _ = prepared(log, CleaningRules())
    texts, _ = prepared(log.with_columns(pl.col("user_id", "item_id").cast(pl.String)), CleaningRules())
    assert same(numbers, texts)
    assert numbers.users.to_list() == ["-3", "10", "9"]
    assert numbers.time_us is not None
    assert numbers.time_us.tolist() == [1_000_000, 2_000_000, 4_000_000, 3_000_000]


def test_every_form_of_a_log_gives_the_same_snapshot(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    log = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in random.integers(0, 20, 500)],
            "item_id": [f"0{n}" for n in random.integers(0, 9, 500)],
            "time_us": START_US + random.integers(0, 10**9, 500),
            "value": random.integers(1, 6, 500) / 2,
        }
    )
    log.write_parquet(tmp_path / "log.parquet")
    log.write_csv(tmp_path / "log.csv")
    log.write_csv(tmp_path / "log.tsv", separator="\t")
    log.write_ndjson(tmp_path / "log.jsonl")
    log[:300].write_parquet(tmp_path / "a.parquet")
    log[300:].write_parquet(tmp_path / "b.parquet")
    sources: list[Any] = [tmp_path / f"log.{form}" for form in ("parquet", "csv", "tsv", "jsonl")]
    sources += [str(tmp_path / "log.csv"), [tmp_path / "a.parquet", tmp_path / "b.parquet"]]
    sources += [log.lazy(), log.iter_slices(7), [log[:10], log[10:]], log.to_arrow(), log.to_pandas()]
    expected, _ = prepared(log, CleaningRules())
    assert expected.items[0] == "00"  # an id of digits keeps its leading zero
    for source in sources:
        assert same(prepared(source, CleaningRules())[0], expected), source


def test_times_survive_exactly_whatever_their_type() -> None:
    micros = [START_US + 1, START_US, 2**53 // 1000 * 1000 + 1]
    ids = {"user_id": ["a", "b", "c"], "item_id": ["1", "2", "3"]}
    moments = pl.Series(micros).cast(pl.Datetime("us", "UTC"))
    for time, unit in (
        (pl.Series(micros), "us"),
        (moments, None),
        (moments.dt.convert_time_zone("Asia/Shanghai"), None),
        (pl.Series([str(m) for m in micros]), "us"),
    ):
        snapshot, _ = prepared(
            pl.DataFrame({**ids, "when": time}),
            CleaningRules(latest_us=2**62),
            columns=LogColumns(time="when", time_unit=unit),
        )
        assert snapshot.time_us is not None
        assert snapshot.time_us.tolist() == micros
    seconds, _ = prepared(pl.DataFrame({**ids, "timestamp": ["5.25", "7", "6"]}), CleaningRules())
    assert seconds.time_us is not None
    assert seconds.time_us.tolist() == [5_250_000, 7_000_000, 6_000_000]


def test_bad_rows_go_to_the_rejects_with_row_and_reason(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {
            "user_id": ["a", None, "", "a", "a", "a", "a", "b", "a"],
            "item_id": ["1", "1", "1", None, "2", "3", "4", "5", "x" * 9_999],
            "timestamp": ["10", "10", "10", "10", "soon", "-1", "99999999999999", None, "nan"],
            "value": ["1", "1", "1", "1", "1", "1", "1", "1", "1"],
        }
    )
    report = prepare(log, CleaningRules(), tmp_path / "snapshot")
    assert report.rows == 9
    assert report.events == 1
    assert report.rejected == {"missing user": 2, "missing item": 1, "bad time": 4, "missing time": 1}
    assert report.rejects_file == str(tmp_path / "rejects" / "prepare.jsonl")
    rows = read_rejects(tmp_path / "rejects" / "prepare.jsonl")
    assert sorted(row["row"] for row in rows) == list(range(1, 9))
    soon = next(row for row in rows if row["row"] == 4)
    assert (soon["reason"], soon["timestamp"], soon["item_id"]) == ("bad time", "soon", "2")
    assert max(len(row["item_id"] or "") for row in rows) == 200
    assert any("missing user, written to" in line for line in report.lines())
    assert report.to_json()["rejected"]["bad time"] == 4
    clean = prepare(log[:1], CleaningRules(), tmp_path / "snapshot")
    assert clean.rejects_file is None
    assert not (tmp_path / "rejects" / "prepare.jsonl").exists()


@pytest.mark.parametrize("value", ["five", "inf", "NaN"])
def test_a_value_that_is_no_number_is_bad_and_a_missing_one_is_one(tmp_path: Path, value: str) -> None:
    log = pl.DataFrame({"user_id": ["a"] * 3, "item_id": ["1", "2", "3"], "value": ["2.5", value, None]})
    report = prepare(log, CleaningRules(), tmp_path / "snapshot")
    assert report.rejected == {"bad value": 1}
    assert Snapshot.open(tmp_path / "snapshot").value.tolist() == [2.5, 1.0]


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_without_a_clock_rows_stay_in_order_of_arrival_and_with_one_every_row_needs_a_time(
    tmp_path: Path, batch: int
) -> None:
    log = pl.DataFrame(
        {"user_id": ["a", "b", "a", "a"], "item_id": ["2", "1", "1", "2"], "time_us": [None] * 4},
        schema_overrides={"time_us": pl.Int64},
    )
    snapshot, report = prepared(log.iter_slices(batch), CleaningRules())
    assert (snapshot.time_us, snapshot.ordered, report.clock) == (None, False, False)
    assert snapshot.items.texts(snapshot.history(0)) == [
        "2",
        "1",
        "2",
    ]  # no clock: nothing is an exact repeat
    assert prepared(log, CleaningRules(arrival_is_order=True))[0].ordered
    later = pl.DataFrame({"user_id": ["c"], "item_id": ["9"], "time_us": [5]})
    report = prepare(pl.concat([log, later]).iter_slices(batch), CleaningRules(), tmp_path / "snapshot")
    assert report.rejected == {"missing time": 4}
    rows = read_rejects(tmp_path / "rejects" / "prepare.jsonl")
    assert sorted(row["row"] for row in rows) == [0, 1, 2, 3]
    opened = Snapshot.open(tmp_path / "snapshot")
    assert (opened.users.to_list(), opened.items.to_list()) == (["c"], ["9"])
    assert (report.users_found, report.items_found) == (1, 1)


def test_a_log_of_nothing_but_bad_rows_is_an_error_with_a_hint_and_keeps_the_old_snapshot(
    tmp_path: Path,
) -> None:
    good = pl.DataFrame({"user_id": ["a"], "item_id": ["1"], "time_us": [1]})
    prepare(good, CleaningRules(), tmp_path / "snapshot")
    bad = pl.DataFrame({"user_id": [None], "item_id": ["1"], "time_us": [1]})
    with pytest.raises(BadInput, match=r"nothing is left of 1 rows.*1 missing user") as nothing:
        prepare(bad, CleaningRules(), tmp_path / "snapshot")
    assert "rejects" in nothing.value.hint
    with pytest.raises(BadInput, match="too few events"):
        prepare(good, CleaningRules(min_user_events=2), tmp_path / "snapshot")
    with pytest.raises(BadInput, match="nothing is left of 0 rows"):
        prepare([], CleaningRules(), tmp_path / "snapshot")
    assert Snapshot.open(tmp_path / "snapshot").event_count == 1


def test_a_source_that_cannot_be_read_is_said_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=r"nowhere\.csv"):
        prepare(tmp_path / "nowhere.csv", CleaningRules(), tmp_path / "snapshot")
    (tmp_path / "log.xlsx").write_text("")
    with pytest.raises(BadInput, match=r"must be \.parquet, \.csv"):
        prepare(tmp_path / "log.xlsx", CleaningRules(), tmp_path / "snapshot")
    (tmp_path / "log.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BadInput, match="cannot be read"):
        prepare(tmp_path / "log.parquet", CleaningRules(), tmp_path / "snapshot")
    (tmp_path / "latin.csv").write_bytes("user_id,item_id\nJos\xe9,1\n".encode("latin-1"))
    with pytest.raises(BadInput, match="cannot be read"):
        prepare(tmp_path / "latin.csv", CleaningRules(), tmp_path / "snapshot")
    log = pl.DataFrame({"who": ["a"], "item_id": ["1"]})
    with pytest.raises(BadInput, match="no column 'user_id'; it has: who, item_id"):
        prepare(log, CleaningRules(), tmp_path / "snapshot")
    with pytest.raises(BadInput, match="no column 'day'"):
        prepare(log, CleaningRules(), tmp_path / "snapshot", columns=LogColumns(user="who", time="day"))
    flags = log.with_columns(time_us=True)
    with pytest.raises(BadInput, match="'time_us' is no time"):
        prepare(flags, CleaningRules(), tmp_path / "snapshot", columns=LogColumns(user="who"))
    many = pl.DataFrame(
        {"user_id": ["a"] * 300, "item_id": ["1"] * 300, "kind": [f"k{n}" for n in range(300)]}
    )
    with pytest.raises(BadInput, match="over 256 kinds"):
        prepare(many, CleaningRules(), tmp_path / "snapshot")
    assert not (tmp_path / "snapshot").exists()


def test_a_flipped_byte_in_any_file_is_refused_by_name(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["1", "2"], "time_us": [1, 2]})
    prepare(log, CleaningRules(), tmp_path / "snapshot")
    files = [p for p in (tmp_path / "snapshot").rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert len(files) == 10
    for file in files:
        content = file.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 0x10
            file.write_bytes(bytes(changed))
            with pytest.raises(CorruptArtifact, match=file.name):
                Snapshot.open(tmp_path / "snapshot")
        file.write_bytes(content)
    assert Snapshot.open(tmp_path / "snapshot").event_count == 2


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": list("abcab"), "item_id": list("12321"), "time_us": [5, 4, 3, 2, 1]})
    for name in ("one", "two"):
        prepare(log.iter_slices(2), CleaningRules(), tmp_path / name)
    for file in ("item.npy", "offsets.npy", "users.text.npy", "time_us.npy"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
