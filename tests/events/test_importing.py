"""Files and frames into the store: every form, every kind of bad row, and a kill in the middle."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from event_world import ListStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.errors import BadInput, NotThere
from slipstream.events.event import EVENT_SCHEMA
from slipstream.events.importers import (
    ColumnChoice,
    DelimitedForm,
    IngestReport,
    events_from_frame,
    export,
    ingest,
    ingest_frame,
)
from slipstream.events.rejects import forget_in_rejects
from slipstream.events.sqlite import SqliteEventStore

NOW_US = 1_750_000_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteEventStore]:
    with SqliteEventStore(tmp_path / "store" / "events.sqlite") as made:
        yield made


class Road:
    """A file to ingest, a store to hold it, and the rejects."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rejects, self.store = folder, folder / "rejects", ListStore()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def ingest(
        self, name: str, content: str | bytes, columns: ColumnChoice | None = None, **more
    ) -> IngestReport:
        path = self.write(name, content)
        return ingest(path, self.store, columns, rejects=self.rejects, now_us=NOW_US, **more)

    def events(self, *names: str) -> list[tuple]:
        rows = self.store.changes_since(0, limit=10**6)
        return rows.select(names or ("user_id", "item_id", "kind", "value", "time_us")).rows()

    def rejected(self, report: IngestReport) -> list[tuple[int, str]]:
        if report.rejects_file is None:
            return []
        rows = [json.loads(line) for line in report.rejects_file.read_text().splitlines()]
        return sorted((row["line"], row["code"]) for row in rows)


@pytest.fixture
def road(tmp_path: Path) -> Road:
    return Road(tmp_path)


EXPECTED = [
    ("u1", "i1", "click", 4.0, 1_000_000_000_000_000),
    ("u2", "i2", "click", None, 1_000_000_001_500_000),
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "user_id,item_id,rating,timestamp\nu1,i1,4,1000000000\nu2,i2,,1000000001.5\n"),
        ("a.csv", "\ufeffuserId;movieId;Score;Date\r\nu1;i1;4.0;2001-09-09T01:46:40Z\r\n"
                  "u2;i2;;1000000001500\r\n"),
        ("a.csv", 'uid,product,value,ts\n"u1","i1","4","1000000000"\n"u2","i2","","1000000001.5"'),
        ("a.tsv", "customer id\titem\tweight\ttime\nu1\ti1\t4\t1000000000\nu2\ti2\t\t1000000001.5\n"),
        ("a.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
                    "u1\ti1\t4\t1000000000\nu2\ti2\t\t1000000001.5\n"),
        ("a.jsonl", '{"user":"u1","item":"i1","value":4,"time":1000000000}\n\n'
                    '{"item":"i2","user":"u2","time":"1000000001.5","more":[1]}'),
        ("ratings.dat", "UserID::ItemID::Rating::Time\nu1::i1::4::1000000000\nu2::i2::::1000000001.5\n"),
        ("a.txt", "u1|i1|4|1000000000\nu2|i2||1000000001.5\n"),
    ],
)  # fmt: skip
def test_every_form_is_recognised(road: Road, name: str, content: str) -> None:
    report = road.ingest(name, content)
    assert road.events() == EXPECTED
    assert (report.rows, report.stored, report.repeated, dict(report.rejected)) == (2, 2, 0, {})
    assert report.rejects_file is None
    again = road.ingest(name, content)
    assert (again.stored, again.repeated) == (0, 2)
    packed = road.ingest(name + ".gz", gzip.compress(content.encode()))
    assert (packed.stored, packed.repeated) == (0, 2)


def test_parquet_and_frames_are_read_with_their_types(road: Road, store: SqliteEventStore) -> None:
    moments = pl.Series([1_000_000_000_000, 1_000_000_001_500]).cast(pl.Datetime("ms"))
    frame = pl.DataFrame({"user": ["u1", "u2"], "sku": ["i1", "i2"], "stars": [4, None], "when": moments})
    frame = frame.with_columns(pl.col("user").cast(pl.Categorical))
    frame.write_parquet(road.folder / "a.parquet")
    columns = ColumnChoice(time="when")
    report = ingest(road.folder / "a.parquet", road.store, columns, rejects=road.rejects, now_us=NOW_US)
    assert road.events() == EXPECTED
    assert report.columns.lines() == [
        "columns: user = user (guessed), item = sku (guessed), time = when, value = stars (guessed);"
        " none for kind"
    ]
    for table in (frame, frame.lazy(), frame.to_pandas(), frame.to_arrow()):
        report = ingest_frame(table, road.store, columns, rejects=road.rejects, now_us=NOW_US)
        assert (report.stored, report.repeated) == (0, 2)
        assert store.append(events_from_frame(table, columns, now_us=NOW_US)).stored in (0, 2)
    assert store.event_count() == 2
    with pytest.raises(BadInput, match="must be a Polars, pandas or Arrow table, got list"):
        events_from_frame([1])


def test_numbers_as_ids_are_written_as_whole_numbers(road: Road) -> None:
    frame = pl.DataFrame({"user": [7.0, None, 8.5], "item": [1, 2, 3], "value": [True, False, None]})
    report = ingest_frame(frame, road.store, rejects=road.rejects)
    assert road.events("user_id", "item_id", "value") == [("7", "1", 1.0), ("8.5", "3", None)]
    assert road.rejected(report) == [(2, "missing-user")]


def test_tables_without_a_header_are_told_by_their_numbers(road: Road) -> None:
    road.ingest("u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    road.ingest("beauty.csv", "A39H,B07,5.0,1369699200\n")
    road.ingest("pairs.csv", "1,2\n3,4\n")
    road.ingest("timed.csv", "5,6,2004-01-01\n")
    road.ingest("ratings.dat", "1::1193::5::978300760\n")
    assert road.events("user_id", "item_id", "value", "time_us") == [
        ("196", "242", 3.0, 881_250_949_000_000),
        ("186", "302", 3.0, 891_717_742_000_000),
        ("A39H", "B07", 5.0, 1_369_699_200_000_000),
        ("1", "2", None, None),
        ("3", "4", None, None),
        ("5", "6", None, 1_072_915_200_000_000),
        ("1", "1193", 5.0, 978_300_760_000_000),
    ]
    five = "9,1,1,1,1\n"
    with pytest.raises(BadInput, match=r"wide\.csv has no header and 5 fields") as fault:
        road.ingest("wide.csv", five)
    assert "--user 1 --item 2" in fault.value.hint
    report = road.ingest("wide.csv", five, ColumnChoice(user="5", item="1"))
    assert (report.stored, road.events("user_id", "item_id")[-1]) == (1, ("1", "9"))


def test_columns_are_named_guessed_or_left_out(road: Road) -> None:
    content = "buyer,user,item,rating,type,at,id\nb,u,i,9,cart,2001-01-01,e1\n"
    report = road.ingest("a.csv", content, ColumnChoice(user="buyer", value="", event_id="id"))
    assert road.events("user_id", "value", "kind", "time_us", "event_id") == [("b", None, "cart", None, "e1")]
    assert report.columns.columns == {"user": "buyer", "event_id": "id", "item": "item", "kind": "type"}
    assert report.columns.guessed == {"item", "kind"}
    with pytest.raises(BadInput, match=r"a\.csv has no column 'when' for the time") as fault:
        road.ingest("a.csv", content, ColumnChoice(time="when"))
    assert fault.value.hint == "the columns are: buyer, user, item, rating, type, at, id"
    with pytest.raises(BadInput, match=r"b\.csv: no column looks like the item") as fault:
        road.ingest("b.csv", "user,x\nu,1\n")
    assert fault.value.hint == "name it: --item COLUMN; the columns are: user, x"
    with pytest.raises(BadInput, match="cannot be both user and item"):
        road.ingest("a.csv", content, ColumnChoice(user="user", item="user"))


def test_kinds_and_units_can_be_given(road: Road) -> None:
    columns = ColumnChoice(default_kind="rating", time_unit="ms")
    road.ingest("a.csv", "user,item,time,kind\nu,i,5,\nu,i,6,view\n", columns)
    road.ingest("b.csv", "user,item,time_us\nu,j,7\n")
    assert road.events("kind", "time_us") == [("rating", 5_000), ("view", 6_000), ("click", 7)]


def bad_rows() -> tuple[bytes, list[tuple[int, str]]]:
    """A CSV file with every kind of bad row among good ones, and where each bad row stands."""
    rows: list[tuple[bytes, str | None]] = [
        (b"u1,i1,1,1000000000,e1", None),
        (b",i1,1,1000000000,e2", "missing-user"),
        (b"u1,,1,1000000000,e3", "missing-item"),
        (b"u1,i1,1,soon,e4", "bad-time"),
        (b"u1,i1,1,,e5", "bad-time"),
        (b"u1,i1,NaN,1000000000,e6", "nan-value"),
        (b"u1,i1,inf,1000000000,e7", "nan-value"),
        (b"u1,i1,many,1000000000,e8", "bad-value"),
        (b"u1,i1,,1000000000,e9", None),
        (b"u1," + b"x" * 10_000_000 + b",1,1000000000,e10", "field-too-long"),
        (b"u1,i\xe9,1,1000000000,e11", "bad-encoding"),
        (b"u1,i1,1,1000000000,e1", "duplicate-event-id"),
        (b"u1,i1,1,1750200000,e12", "future-time"),
        (b"u1,i1,1,1000000000", "field-count"),
        (b"u1,i1,1,1000000000,e13,more", "field-count"),
        (b"u1," + b"x" * 600 + b",1,1000000000,e14", "id-too-long"),
        (b"u\x00,i1,1,1000000000,e15", "bad-id"),
        (b"u2,i\xc3\xa9,1,1000000000,e16", None),
        (b"u1,i1,1,1000000000,", None),
        (b"", None),
        (b"u1,i1,1,1000000000,", None),
    ]
    text = b"user,item,value,time,event_id\n" + b"\n".join(row for row, _ in rows) + b"\n"
    return text, [(line, code) for line, (_, code) in enumerate(rows, 2) if code]


@pytest.mark.parametrize("quoted", [False, True])
def test_bad_rows_never_stop_an_ingest_and_never_vanish(road: Road, quoted: bool) -> None:
    content, expected = bad_rows()
    if quoted:  # the same on the road for quoted fields
        content = content.replace(b"u2,i", b'"u2",i')
    report = road.ingest("a.csv", content)
    assert road.rejected(report) == expected
    assert (report.stored, report.repeated, report.rows) == (5, 0, 5 + len(expected))
    assert sum(report.rejected.values()) == len(expected)
    assert report.rejects_file is not None
    assert report.rejects_file.stat().st_size < 20_000
    assert "rejected: 2 bad-time, 2 field-count, 2 nan-value, 1 bad-encoding" in report.lines()[3]
    again = road.ingest("a.csv", content)
    assert (again.stored, again.repeated) == (0, 5)
    assert road.rejected(again) == expected


def test_bad_lines_of_json(road: Road) -> None:
    rows = [
        b'{"user":"u","item":"i","value":NaN}',
        b'{"user":"u","item":"i"',
        b"[1]",
        b'{"user":"u","item":"\xff"}',
        b'{"user":"u","item":"\\ud800"}',
        b'{"user":null,"item":"i"}',
        b'{"user":"u","item":"' + b"x" * 200_000 + b'"}',
        b'{"user":"u","item":5.0}',
    ]
    content = b'{"user":"u","item":"\xc3\xa9 \\u00e9","value":1}\n' + b"\n".join(rows)
    report = road.ingest("a.jsonl", content)
    assert road.rejected(report) == [
        (2, "nan-value"), (3, "bad-json"), (4, "bad-json"), (5, "bad-encoding"), (6, "bad-encoding"),
        (7, "missing-user"), (8, "field-too-long"),
    ]  # fmt: skip
    assert road.events("item_id") == [("é é",), ("5",)]


def test_bad_rows_of_typed_tables(road: Road) -> None:
    frame = pl.DataFrame(
        {
            "user": ["u", None, "u", "u"],
            "item": ["i", "i", "x" * 10_000_000, "i"],
            "value": [1.0, 1.0, 1.0, float("nan")],
        }
    )
    frame.write_parquet(road.folder / "a.parquet")
    report = ingest(road.folder / "a.parquet", road.store, rejects=road.rejects)
    assert road.rejected(report) == [(2, "missing-user"), (3, "id-too-long"), (4, "nan-value")]
    with pytest.raises(BadInput, match=r"row 2 is not an event \(missing-user"):
        events_from_frame(frame)
    with pytest.raises(BadInput, match=r"column 'user' holds List"):
        ingest_frame(frame.with_columns(user=[[1]] * 4), road.store, rejects=road.rejects)


def test_a_file_of_nothing_but_bad_rows_is_an_error_with_a_hint(road: Road) -> None:
    with pytest.raises(BadInput, match=r"a\.csv: none of 2 rows is an event \(2 bad-time\)") as fault:
        road.ingest("a.csv", "user,item,time\nu,i,x\nu,i,y\n")
    assert "is the right column taken for the time?" in fault.value.hint
    assert "time = time (guessed)" in fault.value.hint
    assert len(list(road.rejects.iterdir())) == 1
    with pytest.raises(BadInput, match=r"b\.csv holds no rows"):
        road.ingest("b.csv", "user,item\n\n")
    for content in (b"", b"\xff\xfeu\x00s\x00", b"\x00\x01\x02\n\xfe\xff\x00\n"):
        with pytest.raises(BadInput, match=r"c\.csv"):
            road.ingest("c.csv", content)
    with pytest.raises(BadInput, match=r"c\.parquet is not a Parquet file"):
        road.ingest("c.parquet", "user,item\n")
    with pytest.raises(NotThere, match="there is no file"):
        ingest(road.folder / "absent.csv", road.store, rejects=road.rejects)
    packed = gzip.compress(b"user,item\n" + b"u,i\n" * 100_000)
    with pytest.raises(BadInput, match=r"d\.csv\.gz is not a whole gzip file"):
        road.ingest("d.csv.gz", packed[: len(packed) // 2])


def test_rejects_are_those_of_the_last_reading(road: Road) -> None:
    first = road.ingest("a.csv", "user,item\nu,\nu,i\n")
    assert first.rejects_file is not None
    second = road.ingest("a.csv", "user,item\nu,i\n")
    assert second.rejects_file is None
    assert not first.rejects_file.exists()


def test_a_person_can_be_taken_out_of_the_rejects(road: Road) -> None:
    road.ingest("a.csv", "user,item,time\nann,i,soon\nbob,i,soon\n\u2028,i,soon\nann,i,1\n")
    assert forget_in_rejects(road.rejects, "ann") == 1
    (file,) = road.rejects.iterdir()
    rows = [json.loads(line) for line in file.read_text().rstrip("\n").split("\n")]
    assert [(row["line"], row["code"]) for row in rows] == [(2, "bad-time"), (3, "bad-time"), (4, "bad-time")]
    assert [row["row"] for row in rows] == ["(forgotten)", "bob,i,soon", "\u2028,i,soon"]
    assert forget_in_rejects(road.rejects, "ann") == forget_in_rejects(road.folder / "none", "ann") == 0


def test_identical_rows_of_a_file_survive_and_count_once_more_over_many_chunks(
    road: Road,
) -> None:
    form = DelimitedForm(block_bytes=64)
    content = "user,item,time\n" + "u,i,5\n" * 50 + "u,j,5\n" + "u,i,5\n" * 50
    assert road.ingest("a.csv", content, form=form).stored == 101
    assert len(set(road.events("event_id"))) == 101
    assert road.ingest("a.csv", content).repeated == 101
    longer = road.ingest("a.csv", content + "u,i,5\n")
    assert (longer.stored, longer.repeated) == (1, 101)


def test_quoted_fields_may_hold_anything_and_a_stray_quote_costs_one_line(road: Road) -> None:
    content = (
        'user,item,note\nu,"a,b",x\nu,"c\n d ""e""",y\nu,5" pipe,z\nu,"never ends\n'
        'u,f,w\nu,g,"fine"\nu,"h"i,v\n'
    )
    report = road.ingest("a.csv", content)
    items = [item for (item,) in road.events("item_id")]
    assert items == ["a,b", 'c\n d "e"', '5" pipe', "f", "g", "hi"]
    assert road.rejected(report) == [(6, "bad-quotes")]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=12),
    size=st.sampled_from([16, 64, 1 << 20]),
)
def test_what_a_csv_writer_wrote_is_what_is_stored(
    rows: list[tuple[str, str, str]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    road = Road(tmp_path_factory.mktemp("written"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("user", "item", "note"), ("ann", "first", ""), *rows])
    report = road.ingest("a.csv", text.getvalue(), form=DelimitedForm(",", block_bytes=size))
    good = [(user, item) for user, item, _ in rows if user and item]
    assert road.events("user_id", "item_id") == [("ann", "first"), *good]
    assert sum(report.rejected.values()) == len(rows) - len(good)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(
        st.sampled_from(
            [b"u", b"i", b",", b'"', b"\n", b"\r\n", b"\xff", b"\xc3\xa9", b"1", b"x" * 40, b"\x00", b" "]
        ),
        max_size=40,
    ).map(b"".join),
    size=st.sampled_from([8, 32, 1 << 20]),
)
def test_no_bytes_whatever_break_an_ingest_or_lose_a_line(
    content: bytes, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    road = Road(tmp_path_factory.mktemp("noise"))
    report = road.ingest("a.csv", b"user,item\nu1,i1\n" + content, form=DelimitedForm(block_bytes=size))
    text = (b"user,item\nu1,i1\n" + content).replace(b"\r\n", b"\n")
    full = sum(bool(line) for line in text.split(b"\n")) - 1
    assert report.rows <= full
    assert report.rows == full or b'"' in content
    assert report.rows == report.stored + report.repeated + sum(report.rejected.values())


def test_export_writes_every_event_in_order(road: Road, store: SqliteEventStore) -> None:
    path = road.write("a.csv", "user,item,time,kind\nu,b,7,\nu,a,5,view\nv,c,,x\nu,b,7,\n")
    ingest(path, store, rejects=road.rejects)
    seen: list[tuple] = []
    out = road.folder / "deep" / "events.parquet"
    assert export(store, out, progress=lambda *step: seen.append(step)) == 3
    frame = pl.read_parquet(out)
    assert frame.schema == EVENT_SCHEMA
    assert frame["item_id"].to_list() == ["a", "b", "b"]
    assert frame.equals(pl.concat(store.scan()))
    assert seen[-1] == (3, 3, "events")
    assert [file.name for file in out.parent.iterdir()] == ["events.parquet"]
    with SqliteEventStore(road.folder / "empty.sqlite") as empty:
        assert export(empty, out) == 0
    assert pl.read_parquet(out).schema == EVENT_SCHEMA


def test_progress_reaches_the_end(road: Road) -> None:
    seen: list[tuple[int, int | None, str]] = []
    note = "x" * 60
    content = "user,item,note\n" + "".join(f"u,{n},{note}\n" for n in range(40_000))
    path = road.write("a.csv", content)
    with SqliteEventStore(road.folder / "e.sqlite") as store:
        ingest(path, store, rejects=road.rejects, progress=lambda *step: seen.append(step))
        assert store.event_count() == 40_000
    assert len(seen) > 2
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1] == (len(content), len(content), "40,000 rows")


INGEST = """
import sys
from pathlib import Path
from slipstream.events.importers import ingest
from slipstream.events.sqlite import SqliteEventStore
with SqliteEventStore(sys.argv[2]) as store:
    print("open", flush=True)
    report = ingest(Path(sys.argv[1]), store, rejects=Path(sys.argv[3]),
                    progress=lambda done, total, note: print(note, flush=True))
    print(report.stored, report.repeated, sum(report.rejected.values()), flush=True)
"""


def test_kill_minus_9_in_the_middle_and_again_loses_and_doubles_nothing(road: Road) -> None:
    rng = random.Random(7)
    rows = [f"u{rng.randrange(500)},i{rng.randrange(50)},{rng.randrange(3)}" for _ in range(60_000)]
    rows[::1000] = ["u,,1"] * 60
    note = "x" * 60
    path = road.write("a.csv", "user,item,time,note\n" + "".join(f"{row},{note}\n" for row in rows))
    command = [sys.executable, "-c", INGEST, str(path), str(road.folder / "e.sqlite"), str(road.rejects)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    acknowledged = int(process.stdout.readline().split()[0].replace(",", ""))
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with SqliteEventStore(road.folder / "e.sqlite") as store:
        survived = store.event_count()
        assert acknowledged - 60 <= survived < 59_940
    finished = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[-2]
    assert finished == f"{59_940 - survived} {survived} 60"
    with SqliteEventStore(road.folder / "e.sqlite") as store:
        stored = pl.concat(store.scan()).select("user_id", "item_id", pl.col("time_us") // 1_000_000)
        sent = [tuple(row.split(",")) for row in rows if row != "u,,1"]
        expected = pl.DataFrame(sent, schema=["user_id", "item_id", "time_us"], orient="row")
        expected = expected.with_columns(pl.col("time_us").cast(pl.Int64))
        order = ["user_id", "item_id", "time_us"]
        assert stored.sort(order).equals(expected.sort(order))


def test_a_form_can_be_given(road: Road) -> None:
    form = DelimitedForm(separator="\t", has_header=True, quotes=True)
    road.ingest("a.txt", 'user\t12\n"u"\ti\n', ColumnChoice(item="12"), form=form)
    assert road.events("user_id", "item_id") == [("u", "i")]
