"""What only the SQLite store has: a file that must outlive kills, sharing, damage and full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from event_world import batch

from slipstream.errors import Busy, CorruptArtifact, StorageFull, Unavailable, UsageError
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.sqlite_connections import PAGE_BYTES

WRITER = """
import sys
import polars as pl
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
path, name, batches, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = SqliteEventStore(path)
for number in range(batches):
    frame = pl.DataFrame({
        "event_id": [f"{name}-{number}-{row}" for row in range(rows)],
        "user_id": [f"user-{row % 97}" for row in range(rows)],
        "item_id": [f"{number}" for row in range(rows)],
        "time_us": [number * 1000 + row for row in range(rows)],
    })
    store.append(EventBatch.of(frame))
    print(number, flush=True)
store.close()
"""


def writer(path: Path, name: str, batches: int, rows: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(batches), str(rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def everything(store: SqliteEventStore) -> pl.DataFrame:
    return pl.concat(store.scan())


def test_every_acknowledged_batch_survives_kill_minus_9_and_none_is_there_in_part(tmp_path: Path) -> None:
    path, rows = tmp_path / "events.sqlite", 400
    process = writer(path, "w", 100_000, rows)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(6)][-1]
    time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    process.wait()
    process.stdout.close()
    with SqliteEventStore(path) as store:
        counts = everything(store).group_by("item_id").len()
        stored = {int(number): count for number, count in counts.rows()}
        assert set(range(acknowledged + 1)) <= set(stored)
        assert set(stored.values()) == {rows}
        assert store.verify() == store.event_count() == rows * len(stored)
    finishing = writer(path, "w", len(stored) + 2, rows)
    assert finishing.communicate()[0].split()[-1] == str(len(stored) + 1)
    with SqliteEventStore(path) as store:
        assert store.event_count() == rows * (len(stored) + 2)


def test_two_processes_append_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    pair = [writer(path, name, 15, 40) for name in ("left", "right")]
    for process in pair:
        assert process.communicate()[0].split() == [str(number) for number in range(15)]
        assert process.returncode == 0
    with SqliteEventStore(path) as store:
        assert store.event_count() == 2 * 15 * 40
        assert store.verify() == 2 * 15 * 40
        everything_since = store.changes_since(0)
        assert everything_since["arrival"].is_sorted()
        assert everything_since["event_id"].n_unique() == 2 * 15 * 40
        assert store.event_count("user-3") == 2 * 15


def test_threads_share_one_store(tmp_path: Path) -> None:
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        faults: list[BaseException] = []

        def work(name: str) -> None:
            try:
                for number in range(8):
                    store.append(batch((name, f"{number}", number), ("all", f"{name}{number}", number)))
                    assert store.history(name, 1)["item_id"].to_list() == [f"{number}"]
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert store.event_count("all") == 32
        assert store.verify() == 64


def test_the_other_process_sees_new_events_and_forgotten_people(tmp_path: Path) -> None:
    with SqliteEventStore(tmp_path / "e.sqlite") as here, SqliteEventStore(tmp_path / "e.sqlite") as there:
        here.append(batch(("ann", "a", 1), ("bob", "b", 2)))
        seen = there.state()
        assert there.history("ann").height == 1
        here.append(batch(("ann", "c", 3)))
        assert there.state().last_arrival > seen.last_arrival
        assert there.changes_since(seen.last_arrival, user_id="ann")["item_id"].to_list() == ["c"]
        here.forget("bob")
        assert there.state().forgotten == seen.forgotten + 1
        # `there` must not go on using the number that the forgotten person had
        there.append(batch(("bob", "again", 4)))
        here.append(batch(("bob", "and again", 5)))
        assert there.history("bob")["item_id"].to_list() == ["and again", "again"]
        assert here.verify() == 4


def test_a_batch_that_could_not_be_stored_leaves_no_numbers_behind(tmp_path: Path) -> None:
    with SqliteEventStore(tmp_path / "e.sqlite", max_bytes=200_000) as store:
        wide = batch(*[(f"user-{number}" * 20, f"item-{number}" * 20, number) for number in range(2_000)])
        with pytest.raises(StorageFull, match=r"e\.sqlite: no room"):
            store.append(wide)
        assert store.event_count() == 0
        few = EventBatch(wide.frame.head(50))
        assert store.append(few).stored == 50
        assert store.history("user-7" * 20).height == 1
        assert store.verify() == 50


def test_a_lock_that_is_held_for_too_long_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    with SqliteEventStore(path, wait_s=0.05) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match=r"e\.sqlite: another process held it for over 0\.05 s"):
            store.append(batch(("ann", "a", 1)))
        assert store.history("ann").height == 0  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert store.append(batch(("ann", "a", 1))).stored == 1


def test_forgetting_while_somebody_reads_says_busy_and_can_be_finished(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    with SqliteEventStore(path, wait_s=0.05) as store:
        store.append(batch(("ann-0123456789", "a", 1), ("bob", "b", 1)))
        scan = store.scan(chunk_rows=1)
        next(scan)
        with pytest.raises(Busy, match="1 events were removed"):
            store.forget("ann-0123456789")
        assert store.event_count() == 1
        scan.close()
        assert store.forget("ann-0123456789") == 0
        assert not traces(tmp_path, ["ann-0123456789"])


def traces(folder: Path, names: list[str]) -> list[str]:
    content = b"".join(file.read_bytes() for file in folder.iterdir())
    return [name for name in names if name.encode() in content]


@pytest.mark.parametrize("given_ids", [False, True])
def test_a_forgotten_person_leaves_no_trace_in_the_bytes(tmp_path: Path, given_ids: bool) -> None:
    """Page splits and merges leave copies of what they move; none of them may hold an id."""
    names = [f"person-{number * 7919 % 100_003:06d}" for number in range(600)]
    rows = [(names[n % 600], f"item-{n * 31 % 97}", n * 17 % 1000) for n in range(6_000)]
    if given_ids:
        rows = [(*row, None, None, f"{row[0]}/order/{n}") for n, row in enumerate(rows)]
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        for start in range(0, 6_000, 500):
            store.append(batch(*rows[start : start + 500]))
        assert traces(tmp_path, names) == names
        leaving, staying = names[::12], [name for place, name in enumerate(names) if place % 12]
        for name in leaving:
            assert store.forget(name) == 10
        assert traces(tmp_path, leaving) == []
        assert store.event_count() == store.verify() == 5_500
        assert {store.event_count(name) for name in staying} == {10}
        store.append(batch(*rows[:500]))
        store.forget(leaving[0])
        assert traces(tmp_path, leaving[:1]) == []
    assert traces(tmp_path, leaving[:1]) == []


def test_a_changed_byte_is_found_and_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    with SqliteEventStore(path) as store:
        store.append(batch(*[(f"u{n % 50}", f"some-item-{n}", n) for n in range(2_000)]))
        assert store.verify() == 2_000
    whole = path.read_bytes()
    first, second = whole.find(b"some-item-77"), whole.rfind(b"some-item-77")
    assert 0 < first < second  # the log and the histories
    for place in (first, second):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with SqliteEventStore(path) as store, pytest.raises(CorruptArtifact, match=r"events\.sqlite is dam"):
            store.verify()
    for place in (3, PAGE_BYTES * 3, PAGE_BYTES * 3 + 5):  # the file's head, the heads of pages
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtifact, match=r"events\.sqlite"), SqliteEventStore(path) as store:
            store.verify()


def test_files_that_are_no_event_store_are_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("user,item\n" * 1000)
    with pytest.raises(CorruptArtifact, match=r"notes\.txt cannot be read"):
        SqliteEventStore(text)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine(x)")
    other.close()
    with pytest.raises(CorruptArtifact, match=r"other\.sqlite is a SQLite file, but not an event store"):
        SqliteEventStore(tmp_path / "other.sqlite")
    SqliteEventStore(tmp_path / "new.sqlite").close()
    newer = sqlite3.connect(tmp_path / "new.sqlite")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(CorruptArtifact, match="has format 99, this version reads 1"):
        SqliteEventStore(tmp_path / "new.sqlite")
    (tmp_path / "a folder").mkdir()
    with pytest.raises(Unavailable, match="a folder"):
        SqliteEventStore(tmp_path / "a folder")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteEventStore(tmp_path / "e.sqlite")
    store.close()
    store.close()
    for call in (store.event_count, store.state, lambda: list(store.scan())):
        with pytest.raises(UsageError, match=r"e\.sqlite was closed"):
            call()


def test_a_large_load_is_folded_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    class Small(SqliteEventStore):
        fold_at = 1_000

    path = tmp_path / "e.sqlite"
    frame = pl.DataFrame({"user_id": [f"u{n % 7}" for n in range(3_500)], "time_us": range(3_500)})
    with Small(path) as store:
        for start in range(0, 3_500, 500):
            part = frame[start : start + 500].with_columns(item_id=pl.col("time_us").cast(pl.String))
            store.append(EventBatch.of(part))
            newest = store.history(f"u{(start + 499) % 7}", 3)["time_us"].to_list()
            assert newest == [start + 499, start + 492, start + 485]
        assert tail_length(path) == 500
    assert tail_length(path) == 0


def tail_length(path: Path) -> int:
    db = sqlite3.connect(path)
    last, folded = db.execute("SELECT last_arrival, folded FROM state").fetchone()
    db.close()
    return int(last - folded)
