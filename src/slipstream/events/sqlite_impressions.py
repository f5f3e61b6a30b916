"""Answers and feedback in one SQLite file beside the event store.

A table of each kind for each day (UTC, by the clock of the writer), written at its end only and without an
index, so an answer costs a few microseconds; retention drops whole tables. Forgetting overwrites what a
person left where it stands: SQLite moves no row then, so no copy stays behind (`sqlite.py` says more).
"""

# ruff: noqa: S608  the statements are put together from constants and day numbers only

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from slipstream.errors import Busy
from slipstream.events.impressions import DAY_US, FEEDBACK_SCHEMA, HOUR_US, SERVED_SCHEMA, person_of
from slipstream.events.sqlite_connections import Connection, Connections
from slipstream.events.sqlite_tables import Layout

_APPLICATION = 0x736C6971  # "sliq"
_LAYOUT = Layout(
    "impression store",
    _APPLICATION,
    1,
    (
        "CREATE TABLE forgotten(person INTEGER NOT NULL, time_us INTEGER NOT NULL)",
        f"PRAGMA application_id = {_APPLICATION}",
        "PRAGMA user_version = 1",
    ),
)
_LATER = ("propensities", "pool", "teams")
"""Columns that tables of an earlier version lack; None for what an answer does not have."""
_COLUMNS = {
    "served": "person INTEGER, time_us INTEGER, request_id, release TEXT, arm TEXT, tier TEXT, items, "
    "scores, " + ", ".join(_LATER),
    "feedback": "person INTEGER, time_us INTEGER, event_id, request_id, item_id, kind TEXT, value REAL, "
    "context",
}
_PRIVATE = {
    "served": ("request_id", "items", "pool"),
    "feedback": ("event_id", "request_id", "item_id", "context"),
}
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB ? ORDER BY name"
_GONE = -(2**63)
"""Stands for a person who was forgotten: of the size of a hash, so that the row does not move."""
_REMEMBERED_US = HOUR_US  # longer than any writer holds rows back


@dataclass(frozen=True, slots=True)
class Served:
    """One answer. items and scores: as shown, best first. The last three as in SERVED_SCHEMA."""

    request_id: str
    person: int
    time_us: int
    release: str
    arm: str
    tier: str
    items: Sequence[str]
    scores: Sequence[float]
    propensities: Sequence[float] = ()
    pool: Sequence[str] = ()
    teams: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One event that names an answer or brings a context (JSON, or empty)."""

    event_id: str
    person: int
    time_us: int
    request_id: str
    item_id: str
    kind: str
    value: float | None
    context: str


class SqliteImpressionStore:
    """The impressions of a home. Threads and processes may share the file. Errors as of the event store."""

    def __init__(self, path: Path | str, *, wait_s: float = 20.0) -> None:
        self.path = Path(path)
        self._connections = Connections(self.path, wait_s=wait_s, layout=_LAYOUT)
        self._wide: set[str] = set()

    def append(self, served: Iterable[Served], feedback: Iterable[Feedback], *, now_us: int) -> None:
        """Keep rows; durable when this returns. About 10 us a row and one fsync.

        Answers to a person who was forgotten after they were made are left out, whoever held them back.
        """
        day = now_us // DAY_US
        with self._connections.writing() as db:
            gone = dict(db.execute("SELECT person, max(time_us) FROM forgotten GROUP BY person"))
            answers = [_served_row(row) for row in served if row.time_us > gone.get(row.person, -1)]
            events = [_feedback_row(row) for row in feedback]
            for name, rows in (("served", answers), ("feedback", events)):
                if rows:
                    table = f"{name}_{day:08d}"
                    db.execute(f"CREATE TABLE IF NOT EXISTS {table}({_COLUMNS[name]})")
                    if name == "served":
                        self._widen(db, table)
                    names = ", ".join(_names(name))
                    places = ", ".join("?" * len(rows[0]))
                    db.executemany(f"INSERT INTO {table}({names}) VALUES({places})", rows)

    def _widen(self, db: Connection, table: str) -> None:
        """Today's table may have been made by a version that knew of fewer columns."""
        if table in self._wide:
            return
        for column in [c for c in _LATER if c not in _there(db, table, _LATER)]:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        self._wide.add(table)

    def served(self, since_us: int = 0) -> pl.DataFrame:
        """Answers since a moment, in SERVED_SCHEMA, in the order in which they were written."""
        rows = list(self._rows("served", since_us))
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(SERVED_SCHEMA)
        person, time_us, request_id, release, arm, tier, items, scores, chances, pool, teams = columns
        shown, drawn_from = ([text.split("\x00") if text else [] for text in c] for c in (items, pool))
        numbers = [[_unpacked(blob) for blob in column] for column in (scores, chances)]
        sides = [text or "" for text in teams]
        data = [request_id, person, time_us, release, arm, tier, shown, *numbers, drawn_from, sides]
        return pl.DataFrame(dict(zip(SERVED_SCHEMA, data, strict=True)), schema=SERVED_SCHEMA)

    def feedback(self, since_us: int = 0) -> pl.DataFrame:
        """Feedback since a moment, in FEEDBACK_SCHEMA; an event that was sent twice may stand there twice."""
        rows = list(self._rows("feedback", since_us))
        columns = list(zip(*rows, strict=True)) if rows else [()] * 8
        person, time_us, event_id, request_id, item_id, kind, value, context = columns
        data = [event_id, person, request_id, item_id, kind, value, time_us, context]
        return pl.DataFrame(dict(zip(FEEDBACK_SCHEMA, data, strict=True)), schema=FEEDBACK_SCHEMA)

    def _rows(self, name: str, since_us: int) -> Iterator[tuple[object, ...]]:
        """From a connection of its own: a report must not hold up the answers."""
        with self._connections.another() as db:
            for table in _tables(db, name):
                wanted = "time_us >= ? AND typeof(request_id) = 'text'"  # a blob: forgotten
                missing = set(_LATER) - set(_there(db, table, _LATER)) if name == "served" else ()
                columns = ", ".join("NULL" if column in missing else column for column in _names(name))
                yield from db.execute(
                    f"SELECT {columns} FROM {table} WHERE {wanted} ORDER BY rowid", (since_us,)
                )

    def newest_day(self) -> int | None:
        """The last day that has rows, in days since 1970 UTC; None for an empty store."""
        with self._connections.another() as db:
            days = [_day_of(table) for name in _PRIVATE for table in _tables(db, name)]
        return max(days, default=None)

    def drop_before(self, time_us: int) -> int:
        """Remove the days that ended before a moment. Returns how many tables went."""
        day = time_us // DAY_US
        with self._connections.writing() as db:
            old = [t for name in _PRIVATE for t in _tables(db, name) if _day_of(t) < day]
            for table in old:
                db.execute(f"DROP TABLE {table}")
            db.execute("DELETE FROM forgotten WHERE time_us < ?", (time_us,))
        return len(old)

    def forget(self, user_id: str, *, now_us: int | None = None) -> int:
        """Overwrite what a person was shown and did. Returns how many rows; reads every row once.

        Raises Busy when a reader holds old pages for too long: calling again finishes the wiping.
        """
        person, moment = person_of(user_id), time.time_ns() // 1000 if now_us is None else now_us
        wiped = 0
        with self._connections.writing() as db:
            db.execute("DELETE FROM forgotten WHERE time_us < ?", (moment - _REMEMBERED_US,))
            db.execute("INSERT INTO forgotten VALUES(?, ?)", (person, moment))
            for name, columns in _PRIVATE.items():
                for table in _tables(db, name):
                    blanks = ", ".join(map(_blank, _there(db, table, columns)))
                    wipe = f"UPDATE {table} SET person = {_GONE}, {blanks} WHERE person = ?"
                    done = db.execute(wipe, (person,))
                    wiped += done.rowcount
        if self._connections.truncate_log():
            raise Busy(
                f"{self.path}: what a person left was overwritten, but a reader still holds old pages",
                hint="forget again when the report in progress has ended",
            )
        return wiped

    def close(self) -> None:
        if not self._connections.closed:
            self._connections.close()

    def __enter__(self) -> SqliteImpressionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tables(db: Connection, name: str) -> list[str]:
    return [row[0] for row in db.execute(_TABLES, (f"{name}_*",))]


def _day_of(table: str) -> int:
    return int(table.rsplit("_", 1)[1])


def _names(name: str) -> list[str]:
    return [column.split()[0] for column in _COLUMNS[name].split(", ")]


def _there(db: Connection, table: str, columns: Sequence[str]) -> list[str]:
    """Those of the columns that a table has."""
    names = {row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()}
    return [column for column in columns if column in names]


def _blank(column: str) -> str:
    """As many zeros as there were bytes, so that the row stays where it is."""
    return f"{column} = CASE WHEN {column} NOT NULL THEN zeroblob(length(CAST({column} AS BLOB))) END"


def _served_row(row: Served) -> tuple[object, ...]:
    facts = row.person, row.time_us, row.request_id, row.release, row.arm, row.tier
    chances = _packed(row.propensities) if row.propensities else None
    pool = "\x00".join(row.pool) or None
    return *facts, "\x00".join(row.items), _packed(row.scores), chances, pool, row.teams or None


def _packed(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def _unpacked(blob: bytes | None) -> Sequence[float]:
    return struct.unpack(f"<{len(blob) // 4}f", blob) if blob else ()


def _feedback_row(row: Feedback) -> tuple[object, ...]:
    facts = row.event_id, row.request_id, row.item_id, row.kind, row.value, row.context
    return row.person, row.time_us, *facts
