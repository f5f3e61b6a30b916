"""Connections to a SQLite file of ours: opening, transactions, and errors in our own words.

The only module of the stores that knows the driver.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slipstream.artifacts import sync_folder
from slipstream.errors import Busy, CorruptArtifact, SlipstreamError, StorageFull, Unavailable, UsageError
from slipstream.events import sqlite_tables as sql

Connection = sqlite3.Connection
PAGE_BYTES = 8192
CHECKPOINT_BYTES = 32 << 20  # of write-ahead log; larger groups write a page that changes often once
RESTORE = "put back a copy of the file, or move it away and ingest again"


class Connections:
    """One connection that writes, one that reads, and more for long scans; each behind a lock of its own.

    A reader never waits for a writer, in this process or another. Writers wait `wait_s` for each other.
    """

    def __init__(
        self, path: Path, *, wait_s: float, max_bytes: int | None = None, layout: sql.Layout = sql.EVENTS
    ) -> None:
        self.path = path
        self._layout = layout
        self.closed = False
        self.rollbacks = 0
        self._wait_s = wait_s
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        with self._door():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect(cache_mb=64)
            try:
                self._prepare(max_bytes)
                self._reader = self._connect(cache_mb=64)
            except BaseException:
                self._writer.close()
                raise

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all or nothing, durable when the block has ended."""
        with self._write_lock, self._door():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self.rollbacks += 1
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One moment of the store, for queries that must agree with each other."""
        with self._read_lock, self._door():
            self._check_open()
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("COMMIT")

    @contextmanager
    def looking(self) -> Iterator[Connection]:
        """For a single statement, read to its end: it sees one moment without a transaction around it."""
        with self._read_lock, self._door():
            self._check_open()
            yield self._reader

    @contextmanager
    def another(self) -> Iterator[Connection]:
        """A connection of one's own for a long look at one moment; it delays nobody but `truncate_log`."""
        with self._door():
            self._check_open()
            db = self._connect()
            try:
                db.execute("BEGIN")
                yield db
            finally:
                db.close()

    def truncate_log(self) -> bool:
        """Move the write-ahead log into the file and empty it; True when a reader kept us from it."""
        with self._write_lock, self._door():
            self._check_open()
            return bool(self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self.closed = True
            self._reader.close()
            self._writer.close()

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(f"the {self._layout.what} {self.path} was closed")

    def _connect(self, *, cache_mb: int = 16) -> Connection:
        db = sqlite3.connect(self.path, timeout=self._wait_s, isolation_level=None, check_same_thread=False)
        for pragma in ("synchronous = FULL", "fullfsync = ON", "secure_delete = ON"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"PRAGMA cache_size = {-1024 * cache_mb}")
        return db

    def _prepare(self, max_bytes: int | None) -> None:
        """Make the tables in a new file, or see that the file is one of ours."""
        db = self._writer
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _patiently(lambda: db.execute("PRAGMA journal_mode = WAL"), self._wait_s)
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES}")
        with self.writing():
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if (application, version) != (self._layout.application, self._layout.format):
                self._make_tables(application, version)
        if max_bytes is not None:
            db.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE_BYTES)}")

    def _make_tables(self, application: int, version: int) -> None:
        if application == self._layout.application:
            raise CorruptArtifact(
                f"{self.path} has format {version}, this version reads {self._layout.format}",
                hint="export the events with the version that wrote them, and ingest them again",
            )
        if self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise CorruptArtifact(f"{self.path} is a SQLite file, but not an {self._layout.what}")
        for statement in self._layout.schema:
            self._writer.execute(statement)
        sync_folder(self.path.parent)

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
            return CorruptArtifact(f"{self.path} cannot be read: {error}", hint=RESTORE)
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
