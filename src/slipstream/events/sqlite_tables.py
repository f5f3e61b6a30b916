"""The tables of the SQLite event store, every statement it runs, and the codes inside its rows.

Knows SQL and bytes, nothing about connections. `sqlite.py` says why the tables are as they are.
"""

# ruff: noqa: S608  the statements are put together from constants of this file only

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import polars as pl

from slipstream.events.event import DEFAULT_KIND

FORMAT = 1
APPLICATION = 0x736C6970  # "slip": tells our files from other SQLite files
NO_TIME = -(2**63)  # a null time: sorts before every other, and may stand in a primary key
OUTSIDE_BYTES = 15  # keys of ids that callers chose; those of 32 hex digits have 16

SCHEMA = (
    "CREATE TABLE users(number INTEGER PRIMARY KEY, id NOT NULL)",
    "CREATE TABLE user_hashes(hash INTEGER NOT NULL, number INTEGER NOT NULL,"
    " PRIMARY KEY(hash, number)) WITHOUT ROWID",
    "CREATE TABLE log(arrival INTEGER PRIMARY KEY, user INTEGER NOT NULL, time_us INTEGER NOT NULL,"
    " item TEXT NOT NULL, kind TEXT, value REAL, key BLOB NOT NULL UNIQUE)",
    "CREATE TABLE histories(user INTEGER NOT NULL, time_us INTEGER NOT NULL, arrival INTEGER NOT NULL,"
    " item TEXT NOT NULL, kind TEXT, value REAL, key BLOB NOT NULL,"
    " PRIMARY KEY(user, time_us, arrival)) WITHOUT ROWID",
    "CREATE TABLE outside_ids(arrival INTEGER PRIMARY KEY, id NOT NULL)",
    "CREATE TABLE state(one INTEGER PRIMARY KEY CHECK(one = 1), last_arrival INTEGER NOT NULL,"
    " folded INTEGER NOT NULL, events INTEGER NOT NULL, forgotten INTEGER NOT NULL)",
    "INSERT INTO state VALUES(1, 0, 0, 0, 0)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)

_FIELDS = "arrival, time_us, item, kind, value, key"
_ALL = f"{_FIELDS}, user"
Row = tuple[Any, ...]
"""What is read of an event: _FIELDS, and the number of its user where it can be anybody."""

ADD_EVENT = "INSERT OR IGNORE INTO log VALUES(?, ?, ?, ?, ?, ?, ?)"
ARRIVED = "SELECT arrival FROM log WHERE arrival > ?"
ADD_OUTSIDE = "INSERT INTO outside_ids VALUES(?, ?)"
ADD_USER = "INSERT INTO users VALUES(?, ?)"
ADD_HASH = "INSERT INTO user_hashes VALUES(?, ?)"
FOLD = (
    "INSERT INTO histories SELECT user, time_us, arrival, item, kind, value, key FROM log"
    " WHERE arrival > ? ORDER BY user, time_us, arrival"
)
MARKS = "SELECT last_arrival, folded, last_arrival - folded, forgotten, events FROM state"
STATE = "SELECT last_arrival, forgotten FROM state"
APPENDED = "UPDATE state SET last_arrival = ?, folded = ?, events = events + ?"

FIND_USER = "SELECT number FROM user_hashes JOIN users USING(number) WHERE hash = ? AND id = ?"
FIND_USERS = (
    "SELECT u.id, u.number FROM json_each(?) j CROSS JOIN user_hashes h ON h.hash = j.value"
    " CROSS JOIN users u ON u.number = h.number"
)
USER_NAMES = "SELECT number, id FROM users WHERE number IN (SELECT value FROM json_each(?))"
OUTSIDE_NAMES = "SELECT arrival, id FROM outside_ids WHERE arrival IN (SELECT value FROM json_each(?))"

BY_TIME = f"SELECT {_ALL} FROM log ORDER BY time_us, arrival"
BY_USER = (
    f"SELECT {_ALL} FROM histories UNION ALL SELECT {_ALL} FROM log"
    " WHERE arrival > (SELECT folded FROM state) ORDER BY user, time_us, arrival"
)
SINCE = f"SELECT {_ALL} FROM log WHERE arrival > ? ORDER BY arrival LIMIT ?"
NEWEST = f"SELECT {_FIELDS} FROM histories WHERE user = ? ORDER BY time_us DESC, arrival DESC LIMIT ?"
NEWEST_LEAN = NEWEST.replace("arrival, time_us", "time_us", 1)  # a column of 200 rows costs 20 us
OF_USER = f"SELECT {_FIELDS} FROM histories WHERE user = ? AND arrival > ?"
TAIL_OF_USER = f"SELECT {_FIELDS} FROM log WHERE arrival > ? AND user = ?"
COUNT = "SELECT events FROM state"
COUNT_OF_USER = (
    "SELECT (SELECT count(*) FROM histories WHERE user = :user)"
    " + (SELECT count(*) FROM log WHERE arrival > (SELECT folded FROM state) AND user = :user)"
)

WIPE_OUTSIDE = "UPDATE outside_ids SET id = zeroblob(length(CAST(id AS BLOB))) WHERE arrival = ?"
WIPE_USER = "UPDATE users SET id = zeroblob(length(CAST(id AS BLOB))) WHERE number = :user"
DROP_HASH = "DELETE FROM user_hashes WHERE hash = :hash AND number = :user"
DROP_EVENT = "DELETE FROM log WHERE arrival = ?"
DROP_HISTORY = "DELETE FROM histories WHERE user = :user"
FORGOTTEN = "UPDATE state SET forgotten = forgotten + 1, events = events - :events"

CHECKS = (
    "SELECT 'event ' || l.arrival || ' differs between log and histories' FROM log l LEFT JOIN histories h"
    " ON h.user = l.user AND h.time_us = l.time_us AND h.arrival = l.arrival WHERE h.arrival IS NULL"
    " OR h.item IS NOT l.item OR h.kind IS NOT l.kind OR h.value IS NOT l.value OR h.key IS NOT l.key"
    " LIMIT 1",
    "SELECT 'event ' || l.arrival || ' has no user' FROM log l LEFT JOIN users u ON u.number = l.user"
    " WHERE typeof(u.id) IS NOT 'text' LIMIT 1",
    "SELECT 'the counts differ' FROM state WHERE events != (SELECT count(*) FROM log)"
    " OR events != (SELECT count(*) FROM histories)",
)
"""Each gives a line of text where something kept twice is not the same twice."""
USERS = "SELECT number, id FROM users WHERE typeof(id) = 'text'"
UNDER_HASH = "SELECT 1 FROM user_hashes WHERE hash = ? AND number = ?"
OUTSIDE_AND_KEYS = "SELECT id, key FROM outside_ids JOIN log USING(arrival)"


def user_hashes(user_ids: Sequence[str]) -> list[int]:
    """64 bits of each id, by which users are found."""
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in user_ids)
    return list(struct.unpack(f">{len(user_ids)}q", digests))


def keys_of(event_ids: Sequence[str]) -> tuple[list[bytes], list[int]]:
    """16 bytes for an id of 32 hex digits, which they spell; for any other id 15 bytes of its hash.

    Second: the rows of those other ids, whose text has to be kept.
    """
    keys, others = [], []
    for row, name in enumerate(event_ids):
        key = _spelled(name)
        if key is None:
            key = blake2b(name.encode(), digest_size=OUTSIDE_BYTES).digest()
            others.append(row)
        keys.append(key)
    return keys, others


def _spelled(name: str) -> bytes | None:
    try:
        key = bytes.fromhex(name)
    except ValueError:
        return None
    return key if len(key) == 16 and key.hex() == name else None


def json_list(numbers: Iterable[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def frame_of(
    event_ids: Sequence[str],
    user_ids: Sequence[str],
    times: Sequence[int],
    items: Sequence[str],
    kinds: Sequence[str | None],
    values: Sequence[float | None],
    arrivals: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Columns as they are stored as a frame in EVENT_SCHEMA, with `arrival` if it is given.

    In plain Python: on 200 rows one expression of the frame library costs as much as all of this.
    """
    known = (
        [None if time_us == NO_TIME else time_us for time_us in times] if NO_TIME in times else list(times)
    )
    columns = [
        pl.Series("event_id", event_ids, pl.String()),
        pl.Series("user_id", user_ids, pl.String()),
        pl.Series("item_id", list(items), pl.String()),
        pl.Series("kind", [DEFAULT_KIND if kind is None else kind for kind in kinds], pl.String()),
        pl.Series("value", list(values), pl.Float64()),
        pl.Series("time_us", known, pl.Int64()),
    ]
    if arrivals is not None:
        columns.append(pl.Series("arrival", list(arrivals), pl.Int64()))
    return pl.DataFrame(columns)
