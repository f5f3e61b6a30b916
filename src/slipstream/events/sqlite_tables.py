"""The tables of the SQLite event store, every statement it runs, and the codes inside its rows.

Knows SQL and bytes, nothing about connections. `sqlite.py` says why the tables are as they are.
"""

# ruff: noqa: S608  the statements are put together from constants of this file only

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.events.event import DEFAULT_KIND, EVENT_SCHEMA
from slipstream.events.store import NO_TIME_US

FORMAT = 1
APPLICATION = 0x736C6970  # "slip": tells our files from other SQLite files
OUTSIDE = 0x8000  # set in the kind of an event whose id the caller chose: its key is a hash
KINDS_AT_MOST = OUTSIDE
PACKED = np.dtype([("key", "V16"), ("value", "<f8"), ("kind", "<u2")])
_ROW = struct.Struct("<16sdH")
"""The fields of an event that no query asks for, as one column: reading a column of 200 rows costs 20 us.

key: 16 bytes of the event id. value: NaN for none. kind: its number in `kinds`, and OUTSIDE.
"""

SCHEMA = (
    "CREATE TABLE users(number INTEGER PRIMARY KEY, id NOT NULL)",
    "CREATE TABLE user_hashes(hash INTEGER NOT NULL, number INTEGER NOT NULL,"
    " PRIMARY KEY(hash, number)) WITHOUT ROWID",
    "CREATE TABLE kinds(number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    f"INSERT INTO kinds VALUES(0, '{DEFAULT_KIND}')",
    "CREATE TABLE log(arrival INTEGER PRIMARY KEY, user INTEGER NOT NULL, time_us INTEGER NOT NULL,"
    " item TEXT NOT NULL, packed BLOB NOT NULL)",
    "CREATE UNIQUE INDEX keys ON log(substr(packed, 1, 16))",
    "CREATE TABLE histories(user INTEGER NOT NULL, time_us INTEGER NOT NULL, arrival INTEGER NOT NULL,"
    " item TEXT NOT NULL, packed BLOB NOT NULL, PRIMARY KEY(user, time_us, arrival)) WITHOUT ROWID",
    "CREATE TABLE outside_ids(arrival INTEGER PRIMARY KEY, id NOT NULL)",
    "CREATE TABLE state(one INTEGER PRIMARY KEY CHECK(one = 1), last_arrival INTEGER NOT NULL,"
    " folded INTEGER NOT NULL, events INTEGER NOT NULL, forgotten INTEGER NOT NULL)",
    "INSERT INTO state VALUES(1, 0, 0, 0, 0)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {FORMAT}",
)


@dataclass(frozen=True)
class Layout:
    """What tells one of our files from others, and the statements that make a new one."""

    what: str
    application: int
    format: int
    schema: tuple[str, ...]


EVENTS = Layout("event store", APPLICATION, FORMAT, SCHEMA)

_FIELDS = "arrival, time_us, item, packed"
_ALL = f"{_FIELDS}, user"
Row = tuple[Any, ...]
"""What is read of an event: _FIELDS, and the number of its user where it can be anybody."""

ADD_EVENT = "INSERT OR IGNORE INTO log VALUES(?, ?, ?, ?, ?)"
ARRIVED = "SELECT arrival FROM log WHERE arrival > ?"
ADD_OUTSIDE = "INSERT INTO outside_ids VALUES(?, ?)"
ADD_USER = "INSERT INTO users VALUES(?, ?)"
ADD_HASH = "INSERT INTO user_hashes VALUES(?, ?)"
FOLD = (
    "INSERT INTO histories SELECT user, time_us, arrival, item, packed FROM log"
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
KINDS = "SELECT number, name FROM kinds"
ADD_KIND = "INSERT INTO kinds VALUES(?, ?)"
USER_NAMES = "SELECT number, id FROM users WHERE number IN (SELECT value FROM json_each(?))"
OUTSIDE_NAMES = "SELECT arrival, id FROM outside_ids WHERE arrival IN (SELECT value FROM json_each(?))"

BY_TIME = f"SELECT {_ALL} FROM log ORDER BY time_us, arrival"
BY_USER = (
    f"SELECT {_ALL} FROM histories UNION ALL SELECT {_ALL} FROM log"
    " WHERE arrival > (SELECT folded FROM state) ORDER BY user, time_us, arrival"
)
SINCE = f"SELECT {_ALL} FROM log WHERE arrival > ? ORDER BY arrival LIMIT ?"
SINCE_NAMED = SINCE.replace("user FROM log", "id FROM log LEFT JOIN users ON number = user")
NEWEST = f"SELECT {_FIELDS} FROM histories WHERE user = ? ORDER BY time_us DESC, arrival DESC LIMIT ?"
NEWEST_LEAN = NEWEST.replace("arrival, time_us", "time_us", 1)
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
    " OR h.item IS NOT l.item OR h.packed IS NOT l.packed LIMIT 1",
    "SELECT 'event ' || l.arrival || ' has no user' FROM log l LEFT JOIN users u ON u.number = l.user"
    " WHERE typeof(u.id) IS NOT 'text' LIMIT 1",
    "SELECT 'the counts differ' FROM state WHERE events != (SELECT count(*) FROM log)"
    " OR events != (SELECT count(*) FROM histories)",
)
"""Each gives a line of text where something kept twice is not the same twice."""
USERS = "SELECT number, id FROM users WHERE typeof(id) = 'text'"
UNDER_HASH = "SELECT 1 FROM user_hashes WHERE hash = ? AND number = ?"
OUTSIDE_AND_KEYS = "SELECT id, substr(packed, 1, 16) FROM outside_ids JOIN log USING(arrival)"


def user_hashes(user_ids: Sequence[str]) -> list[int]:
    """64 bits of each id, by which users are found."""
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in user_ids)
    return list(struct.unpack(f">{len(user_ids)}q", digests))


def keys_of(event_ids: Sequence[str]) -> tuple[list[bytes], list[int]]:
    """16 bytes of each id: an id of 32 hex digits spells them, of any other they are a hash.

    Second: the rows of those others, whose text has to be kept.
    """
    keys, others = [], []
    for row, name in enumerate(event_ids):
        key = _spelled(name)
        if key is None:
            key = blake2b(name.encode(), digest_size=16).digest()
            others.append(row)
        keys.append(key)
    return keys, others


def _spelled(name: str) -> bytes | None:
    try:
        key = bytes.fromhex(name)
    except ValueError:
        return None
    return key if len(key) == 16 and key.hex() == name else None


def pack(keys: Sequence[bytes], values: Sequence[float | None], kinds: Sequence[int]) -> list[bytes]:
    """One PACKED per row."""
    rows = np.empty(len(keys), PACKED)
    rows["key"] = np.frombuffer(b"".join(keys), "V16")
    rows["value"] = np.array(values, np.float64)  # None becomes NaN
    rows["kind"] = kinds
    blob, size = rows.tobytes(), PACKED.itemsize
    return [blob[start : start + size] for start in range(0, len(blob), size)]


def unpack(packed: Sequence[bytes]) -> tuple[bytes, NDArray[np.float64], NDArray[np.uint16]]:
    """(all rows in one, for `spelled`; values; kinds)."""
    blob = b"".join(packed)
    if len(blob) != PACKED.itemsize * len(packed):
        raise ValueError("a packed row has another length")
    rows = np.frombuffer(blob, PACKED)
    return blob, rows["value"].copy(), rows["kind"].copy()


def kind_codes(kinds: NDArray[np.uint16]) -> list[int]:
    """The kinds without the mark of chosen ids."""
    codes: list[int] = (kinds & ~np.uint16(OUTSIDE)).tolist()
    return codes


def unpack_few(packed: Sequence[bytes]) -> tuple[Sequence[float], Sequence[int]]:
    """(values, `kind_codes`) of `unpack`, without arrays."""
    rows = [_ROW.unpack(row) for row in packed]  # struct.error where a row has another length
    return [value for _, value, _ in rows], [kind & ~OUTSIDE for _, _, kind in rows]


def spelled(blob: bytes) -> list[str]:
    """The event ids that the keys of packed rows spell."""
    digits = blob.hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 2 * PACKED.itemsize)]


def json_list(numbers: Iterable[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def frame_of(
    event_ids: list[str],
    user_ids: list[str],
    items: Sequence[str],
    kinds: list[str],
    values: NDArray[np.float64],
    times: Sequence[int],
    arrivals: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Columns as a frame in EVENT_SCHEMA, with `arrival` if it is given.

    Without expressions: on 200 rows one of those costs as much as all of this.
    """
    if not event_ids:
        schema = EVENT_SCHEMA if arrivals is None else {**EVENT_SCHEMA, "arrival": pl.Int64()}
        return pl.DataFrame(schema=schema)
    columns = [
        pl.Series("event_id", event_ids),
        pl.Series("user_id", user_ids),
        pl.Series("item_id", items),
        pl.Series("kind", kinds),
        _value_column(values),
        _time_column(np.array(times, np.int64)),
    ]
    if arrivals is not None:
        columns.append(pl.Series("arrival", np.array(arrivals, np.int64)))
    return pl.DataFrame(columns)


def _value_column(values: NDArray[np.float64]) -> pl.Series:
    absent = np.isnan(values)
    if absent.any():
        filled = [None if none else value for none, value in zip(absent, values.tolist(), strict=True)]
        return pl.Series("value", filled, pl.Float64())
    return pl.Series("value", values)


def _time_column(times: NDArray[np.int64]) -> pl.Series:
    if times.min() == NO_TIME_US:
        known = [None if time_us == NO_TIME_US else time_us for time_us in times.tolist()]
        return pl.Series("time_us", known, pl.Int64())
    return pl.Series("time_us", times)
