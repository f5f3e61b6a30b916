"""The event store in one SQLite file. No server, no settings; several threads and processes may share it.

Written for durable speed and short histories (LOG.md has the measurements):

- `log` is the truth: one row per event in order of arrival, so an append touches a few pages at its end.
- `keys` holds 16 bytes per event id, so that a repeated id is met at once.
- `histories` is the log once more, clustered by person and time: a history is one range of it. Keeping it in
  step with every batch would touch a page per event, so large batches leave a *tail* that is folded in,
  sorted, once it is 50,000 events long; readers add the tail themselves.
- A person is a number everywhere but in `users`. That table only ever grows at its end and its rows keep
  their size, because SQLite's page splits leave copies of what they move in unused bytes, `secure_delete` or
  not (measured: about 1 % of deleted ids could still be read). So forgetting overwrites the id where it
  stands. `outside_ids`, the event ids that callers chose, does the same: they may hold a person's id.

WAL mode with synchronous=FULL: a commit returns after its fsync.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import compress
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import sync_folder
from slipstream.errors import Busy, CorruptArtifact, SlipstreamError, StorageFull, Unavailable, UsageError
from slipstream.events import sqlite_tables as sql
from slipstream.events.event import DEFAULT_KIND, EventBatch
from slipstream.events.store import AppendResult, StoreState

FOLD_AT = 50_000  # events in the tail; looking through them costs a reader a few milliseconds
KNOWN_AT_MOST = 1 << 18  # user numbers kept in memory, about 30 MB
FOLD_NOW = 256  # so small a batch is folded at once, which keeps the tail of a live store empty
PAGE_BYTES = 4096
_RESTORE = "put back a copy of the file, or move it away and ingest again"


class SqliteEventStore:
    """An EventStore (see `store`) in the file `path`, made when it is not there.

    wait_s: how long to wait for another process before Busy. max_bytes: a bound for the file, for those
    who share a disk; reaching it is StorageFull, as a full disk is.
    """

    def __init__(self, path: Path | str, *, wait_s: float = 20.0, max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._wait_s = wait_s
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._known: dict[str, int] = {}  # user numbers, as of `forgotten` = _known_at; under the write lock
        self._known_at = 0
        self._closed = False
        with self._door():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            try:
                self._prepare(max_bytes)
                self._reader = self._connect()
            except BaseException:
                self._writer.close()
                raise
        with suppress(Busy):
            self.fold()

    # Appending

    def append(self, batch: EventBatch) -> AppendResult:
        frame = batch.frame
        if not frame.height:
            return AppendResult(0, 0, np.zeros(0, bool))
        keys, outside = sql.keys_of(frame["event_id"])
        with self._writing() as db:
            last, folded, pending, forgotten = db.execute(sql.MARKS).fetchone()
            is_new = self._claim(db, keys, last + 1)
            stored = int(is_new.sum())
            users: dict[str, int] = {}
            if stored:
                users = self._users_of(
                    db, frame if stored == frame.height else frame.filter(is_new), forgotten
                )
                self._insert(db, frame, keys, users, last + 1, None if stored == frame.height else is_new)
                self._keep_ids(db, frame["event_id"], [row for row in outside if is_new[row]], last + 1)
                last += frame.height
                if pending + stored >= FOLD_AT or (stored <= FOLD_NOW and pending <= 4 * FOLD_NOW):
                    db.execute(sql.FOLD, (folded,))
                    folded = last
                db.execute(sql.APPENDED, (last, folded, stored))
        self._remember(users, forgotten)
        return AppendResult(stored, frame.height - stored, is_new)

    def _claim(self, db: sqlite3.Connection, keys: Sequence[bytes], first: int) -> NDArray[np.bool_]:
        """Enter the keys; True where a key was not there before, neither stored nor earlier in the batch."""
        arrivals = range(first, first + len(keys))
        cursor = db.executemany(sql.CLAIM, zip(keys, arrivals, strict=True))
        if cursor.rowcount == len(keys):
            return np.ones(len(keys), bool)
        holders = (db.execute(sql.HOLDER, (key,)).fetchone()[0] for key in keys)
        return np.fromiter((h == a for h, a in zip(holders, arrivals, strict=True)), bool, len(keys))

    def _insert(
        self,
        db: sqlite3.Connection,
        frame: pl.DataFrame,
        keys: Sequence[bytes],
        users: dict[str, int],
        first: int,
        only: NDArray[np.bool_] | None,
    ) -> None:
        shaped = frame.select(
            pl.col("time_us").fill_null(sql.NO_TIME),
            "item_id",
            pl.when(pl.col("kind") != DEFAULT_KIND).then("kind"),
            "value",
        )
        numbers = map(users.get, frame["user_id"].to_list())
        columns = [column.to_list() for column in shaped.get_columns()]
        rows = zip(range(first, first + len(keys)), numbers, *columns, keys, strict=True)
        db.executemany(sql.ADD_EVENT, rows if only is None else compress(rows, only))

    def _keep_ids(self, db: sqlite3.Connection, event_ids: pl.Series, rows: list[int], first: int) -> None:
        if rows:
            kept = zip((row + first for row in rows), event_ids[rows].to_list(), strict=True)
            db.executemany(sql.ADD_OUTSIDE, kept)

    def _users_of(self, db: sqlite3.Connection, frame: pl.DataFrame, forgotten: int) -> dict[str, int]:
        """The numbers of a frame's users by id; unknown ones are entered and get the next."""
        names = frame["user_id"].unique(maintain_order=True).to_list()
        remembered = self._known if self._known_at == forgotten else {}
        known = {name: remembered[name] for name in names if name in remembered}
        hashes = {name: sql.user_hash(name) for name in names if name not in known}
        if hashes:
            found = db.execute(sql.FIND_USERS, (sql.json_list(hashes.values()),))
            known |= {name: number for name, number in found if name in hashes}
        fresh = [name for name in hashes if name not in known]
        if fresh:
            first = (db.execute("SELECT max(number) FROM users").fetchone()[0] or 0) + 1
            added = dict(zip(fresh, range(first, first + len(fresh)), strict=True))
            db.executemany(sql.ADD_USER, ((number, name) for name, number in added.items()))
            db.executemany(sql.ADD_HASH, ((hashes[name], number) for name, number in added.items()))
            known |= added
        return known

    def _remember(self, users: dict[str, int], forgotten: int) -> None:
        """Keep the numbers of a committed batch. They hold until somebody, anywhere, is forgotten."""
        with self._write_lock:
            if self._known_at != forgotten or len(self._known) + len(users) > KNOWN_AT_MOST:
                self._known, self._known_at = {}, forgotten
            self._known.update(users)

    def fold(self) -> None:
        """Fold the tail into the histories now. Good after a bulk load; opening and closing do it too."""
        with self._reading() as db:
            if not db.execute(sql.MARKS).fetchone()[2]:
                return
        with self._writing() as db:
            last, folded, _, _ = db.execute(sql.MARKS).fetchone()
            db.execute(sql.FOLD, (folded,))
            db.execute(sql.APPENDED, (last, last, 0))

    # Reading

    def scan(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        return self._stream(sql.BY_TIME, chunk_rows)

    def scan_by_user(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        return self._stream(sql.BY_USER, chunk_rows)

    def _stream(self, query: str, chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Chunks of one query, from a connection of its own, which sees one moment of the store."""
        with self._door():
            self._check_open()
            db = self._connect()
        try:
            with self._door():
                db.execute("BEGIN")
                cursor = db.execute(query)
            while True:
                with self._door():
                    rows = cursor.fetchmany(chunk_rows)
                    frame = self._frame(db, rows)
                if not rows:
                    return
                yield frame
        finally:
            db.close()

    def history(self, user_id: str, limit: int = 200) -> pl.DataFrame:
        with self._reading() as db:
            user = self._number(db, user_id)
            rows = db.execute(sql.NEWEST, (user, limit)).fetchall()
            if tail := self._tail(db, user):
                rows = sorted(rows + tail, key=lambda row: (row[2], row[0]), reverse=True)[:limit]
            return self._frame(db, rows, user_id)

    def changes_since(self, arrival: int, *, user_id: str | None = None, limit: int = 10_000) -> pl.DataFrame:
        with self._reading() as db:
            if user_id is None:
                rows = db.execute(sql.SINCE, (arrival, limit)).fetchall()
            else:
                rows = self._all_of(db, self._number(db, user_id), arrival)[:limit]
            return self._frame(db, rows, user_id, with_arrival=True)

    def event_count(self, user_id: str | None = None) -> int:
        with self._reading() as db:
            if user_id is None:
                return int(db.execute(sql.COUNT).fetchone()[0])
            return int(db.execute(sql.COUNT_OF_USER, {"user": self._number(db, user_id)}).fetchone()[0])

    def state(self) -> StoreState:
        with self._reading() as db:
            return StoreState(*db.execute(sql.STATE).fetchone())

    def _number(self, db: sqlite3.Connection, user_id: str) -> int:
        """The user's number; 0, which nobody has, for an unknown id."""
        found = db.execute(sql.FIND_USER, (sql.user_hash(user_id), user_id)).fetchone()
        return int(found[0]) if found else 0

    def _tail(self, db: sqlite3.Connection, user: int, after: int = 0) -> list[sql.Row]:
        """The person's events that are not folded in yet and arrived after `after`."""
        _, folded, pending, _ = db.execute(sql.MARKS).fetchone()
        return db.execute(sql.TAIL_OF_USER, (max(folded, after), user)).fetchall() if pending else []

    def _all_of(self, db: sqlite3.Connection, user: int, after: int = 0) -> list[sql.Row]:
        """All events of a person that arrived after `after`, in order of arrival."""
        return sorted(db.execute(sql.OF_USER, (user, after)).fetchall() + self._tail(db, user, after))

    def _frame(
        self,
        db: sqlite3.Connection,
        rows: Sequence[sql.Row],
        user_id: str | None = None,
        *,
        with_arrival: bool = False,
    ) -> pl.DataFrame:
        """Rows as a frame in EVENT_SCHEMA; all of `user_id`, or of the people whose numbers they hold."""
        raw = pl.DataFrame(rows, schema=sql.RAW, orient="row")
        if user_id is None:
            users = self._user_ids(db, raw["user"])
        else:
            users = pl.repeat(user_id, raw.height, dtype=pl.String, eager=True).alias("user_id")
        time_us = raw["time_us"]
        if rows and time_us.min() == sql.NO_TIME:
            time_us = raw.select(pl.when(pl.col("time_us") != sql.NO_TIME).then("time_us")).to_series()
        kind = raw["kind"].fill_null(DEFAULT_KIND)
        columns = [self._event_ids(db, raw), users, raw["item_id"], kind, raw["value"], time_us]
        return pl.DataFrame([*columns, raw["arrival"]] if with_arrival else columns)

    def _user_ids(self, db: sqlite3.Connection, numbers: pl.Series) -> pl.Series:
        known = dict(db.execute(sql.USER_NAMES, (sql.json_list(numbers.unique().to_list()),)))
        return pl.Series("user_id", [known[number] for number in numbers.to_list()], pl.String)

    def _event_ids(self, db: sqlite3.Connection, raw: pl.DataFrame) -> pl.Series:
        own = raw["key"].bin.encode("hex").alias("event_id")
        outside = raw["key"].bin.size() == sql.OUTSIDE_BYTES
        if not outside.any():
            return own
        arrivals = raw["arrival"].filter(outside).to_list()
        given = dict(db.execute(sql.OUTSIDE_NAMES, (sql.json_list(arrivals),)))
        both = zip(own.to_list(), raw["arrival"].to_list(), strict=True)
        return pl.Series("event_id", [given.get(arrival, text) for text, arrival in both], pl.String)

    # Forgetting, checking, closing

    def forget(self, user_id: str) -> int:
        with self._writing() as db:
            user = self._number(db, user_id)
            rows = self._all_of(db, user)
            if user:
                events = [{"arrival": row[0], "key": row[6]} for row in rows]
                for statement in sql.FORGET:
                    db.executemany(statement, events)
                person = {"user": user, "hash": sql.user_hash(user_id), "events": len(rows)}
                for statement in sql.FORGET_USER:
                    db.execute(statement, person)
        with self._write_lock, self._door():
            blocked = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if blocked:
            raise Busy(
                f"{self.path}: {len(rows)} events were removed, but a reader still holds old pages",
                hint="forget again when the scan in progress has ended",
            )
        return len(rows)

    def verify(self) -> int:
        """Read everything and compare what is kept twice. Returns the number of events; about 5 us each.

        The log and the histories hold each event, so a changed byte in either shows; ids are checked against
        their hashes. Raises CorruptArtifact with what was found.
        """
        self.fold()
        with self._reading() as db:
            faults = [row[0] for row in db.execute("PRAGMA integrity_check(1)") if row[0] != "ok"]
            faults += [row[0] for query in sql.CHECKS for row in db.execute(query)]
            for name, found in db.execute(sql.USERS_AND_HASHES):
                if found != sql.user_hash(name):
                    faults.append(f"user {name!r} is not under its hash")
            for name, key in db.execute(sql.OUTSIDE_AND_KEYS):
                if sql.keys_of(pl.Series([name]))[0] != [key]:
                    faults.append(f"event id {name!r} is not under its key")
            if faults:
                raise CorruptArtifact(f"{self.path} is damaged: {faults[0]}", hint=_RESTORE)
            return int(db.execute(sql.COUNT).fetchone()[0])

    def close(self) -> None:
        if self._closed:
            return
        with suppress(SlipstreamError):  # a tail is safe where it is; whoever opens the store next folds it
            self.fold()
        self._closed = True
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> SqliteEventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Connections

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=self._wait_s, isolation_level=None, check_same_thread=False)
        for pragma in ("synchronous = FULL", "fullfsync = ON", "secure_delete = ON", "cache_size = -65536"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def _prepare(self, max_bytes: int | None) -> None:
        """Make the tables in a new file, or see that the file is one of ours."""
        db = self._writer
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _patiently(lambda: db.execute("PRAGMA journal_mode = WAL"), self._wait_s)
        db.execute(f"PRAGMA wal_autocheckpoint = {(32 << 20) // PAGE_BYTES}")
        with self._writing():
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if (application, version) != (sql.APPLICATION, sql.FORMAT):
                self._make_tables(application, version)
        if max_bytes is not None:
            db.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE_BYTES)}")

    def _make_tables(self, application: int, version: int) -> None:
        if application == sql.APPLICATION:
            raise CorruptArtifact(
                f"{self.path} has format {version}, this version reads {sql.FORMAT}",
                hint="export the events with the version that wrote them, and ingest them again",
            )
        if self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise CorruptArtifact(f"{self.path} is a SQLite file, but not an event store")
        for statement in sql.SCHEMA:
            self._writer.execute(statement)
        sync_folder(self.path.parent)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all or nothing, durable when the block has ended."""
        with self._write_lock, self._door():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the store, for queries that must agree with each other."""
        with self._read_lock, self._door():
            self._check_open()
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("COMMIT")

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"the event store {self.path} was closed")

    @contextmanager
    def _door(self) -> Iterator[None]:
        """The one place where SQLite's errors become ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> SlipstreamError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Busy(f"{self.path}: another process held it for over {self._wait_s:g} s", hint="try again")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptArtifact(f"{self.path} cannot be read: {error}", hint=_RESTORE)
        full = code == sqlite3.SQLITE_IOERR and shutil.disk_usage(self.path.parent).free < 1 << 20
        if full or code == sqlite3.SQLITE_FULL:
            return StorageFull(
                f"{self.path}: no room for more events",
                hint="nothing of this batch was kept; free some space",
            )
        return Unavailable(f"{self.path}: {error}", hint="check that the folder is there and may be written")


def _patiently(call: Callable[[], object], wait_s: float) -> None:
    """Switching to WAL does not wait for other processes by itself."""
    until = time.monotonic() + wait_s
    while True:
        try:
            call()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
