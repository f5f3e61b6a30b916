"""The event store in one SQLite file. No server, no settings; several threads and processes may share it.

Written for durable speed and short histories (LOG.md has the measurements):

- `log` is the truth: one row per event in order of arrival, so an append touches a few pages at its end. It
  is unique by `key`, 16 bytes of the event id, so that a repeated id is met at once.
- `histories` is the log once more, clustered by person and time: a history is one range of it. Keeping it in
  step with every batch would touch a page per event, so large batches leave a *tail* that is folded in,
  sorted, once it is 100,000 events or longer; readers add the tail themselves.
- A person is a number everywhere but in `users`. That table only ever grows at its end and its rows keep
  their size, because SQLite's page splits leave copies of what they move in unused bytes, `secure_delete` or
  not (measured: about 1 % of deleted ids could still be read). So forgetting overwrites the id where it
  stands. `outside_ids`, the event ids that callers chose, does the same: they may hold a person's id.

WAL mode with synchronous=FULL: a commit returns after its fsync.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import compress
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.errors import BadInput, Busy, CorruptArtifact, SlipstreamError
from slipstream.events import sqlite_tables as sql
from slipstream.events.event import EventBatch
from slipstream.events.sqlite_connections import RESTORE, Connection, Connections
from slipstream.events.store import NO_TIME_US, AppendResult, Arrivals, Recent, StoreState

KNOWN_AT_MOST = 1 << 18  # user numbers kept in memory, about 30 MB


class SqliteEventStore:
    """An EventStore (see `store`) in the file `path`, made when it is not there.

    wait_s: how long to wait for another process before Busy. max_bytes: a bound for the file, for those
    who share a disk; reaching it is StorageFull, as a full disk is.
    """

    fold_at, fold_at_most = 100_000, 250_000
    """The tail is folded when it is an eighth of the store, within these bounds. A longer tail touches each
    page of the histories less often; looking through it costs a reader about 5 ms per 100,000 events."""
    fold_now = 256
    """So small a batch is folded at once, which keeps the tail of a live store empty."""

    def __init__(self, path: Path | str, *, wait_s: float = 20.0, max_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._connections = Connections(self.path, wait_s=wait_s, max_bytes=max_bytes)
        self._writing, self._reading = self._connections.writing, self._connections.reading
        self._known: dict[str, int] = {}  # user numbers; touched under the write lock only
        self._known_at = (0, 0)
        self._kinds: dict[int, str] = {}  # by number; kinds are never taken back
        with suppress(Busy):
            self.fold()

    # Appending

    def append(self, batch: EventBatch) -> AppendResult:
        frame = batch.frame
        if not frame.height:
            return AppendResult(0, 0, np.zeros(0, bool))
        ids = frame["event_id"].to_list()
        keys, outside = sql.keys_of(ids)
        names = frame["user_id"].to_list()
        with self._writing() as db:
            last, folded, pending, forgotten, events = db.execute(sql.MARKS).fetchone()
            fresh = self._enter(db, names, forgotten)
            kinds = self._kind_numbers(db, frame["kind"].to_list())
            for row in outside:
                kinds[row] |= sql.OUTSIDE
            packed = sql.pack(keys, frame["value"].to_list(), kinds)
            is_new = self._insert(db, frame, [self._known[name] for name in names], packed, last)
            stored = int(is_new.sum())
            if fresh and stored < frame.height:
                self._undo_users(db, fresh.difference(compress(names, is_new)))
            if stored:
                chosen = ((last + 1 + row, ids[row]) for row in outside if is_new[row])
                db.executemany(sql.ADD_OUTSIDE, chosen)
                last += frame.height
                if self._fold_is_due(stored, pending, events):
                    db.execute(sql.FOLD, (folded,))
                    folded = last
                db.execute(sql.APPENDED, (last, folded, stored))
        return AppendResult(stored, frame.height - stored, is_new)

    def _fold_is_due(self, stored: int, pending: int, events: int) -> bool:
        small = stored <= self.fold_now and pending <= 4 * self.fold_now
        return small or pending + stored >= min(max(self.fold_at, events // 8), self.fold_at_most)

    def _insert(
        self, db: Connection, frame: pl.DataFrame, users: list[int], packed: list[bytes], last: int
    ) -> NDArray[np.bool_]:
        """Write the rows to the log under arrivals `last + 1 …`, all but those whose key is there already.

        True where a row was written, [rows].
        """
        times = [NO_TIME_US if time_us is None else time_us for time_us in frame["time_us"].to_list()]
        arrivals = range(last + 1, last + 1 + len(users))
        rows = zip(arrivals, users, times, frame["item_id"].to_list(), packed, strict=True)
        written = db.executemany(sql.ADD_EVENT, rows).rowcount
        is_new = np.ones(len(users), bool)
        if written != len(users):
            is_new[:] = False
            for (arrival,) in db.execute(sql.ARRIVED, (last,)):
                is_new[arrival - last - 1] = True
        return is_new

    def _kind_numbers(self, db: Connection, names: Sequence[str]) -> list[int]:
        """The number of each kind, [rows]; a new kind gets the next."""
        known = {name: number for number, name in self._kinds.items()}
        if not known.keys() >= set(names):
            self._kinds = dict(db.execute(sql.KINDS))
            known = {name: number for number, name in self._kinds.items()}
            for name in dict.fromkeys(name for name in names if name not in known):
                if len(known) >= sql.KINDS_AT_MOST:
                    raise BadInput(
                        f"{self.path} holds {len(known):,} kinds of event, {name!r} is one too many"
                    )
                known[name] = len(known)
                db.execute(sql.ADD_KIND, (known[name], name))
        return [known[name] for name in names]

    def _kind_names(self, db: Connection, codes: Sequence[int]) -> list[str]:
        if not self._kinds.keys() >= set(codes):
            self._kinds = dict(db.execute(sql.KINDS))
        names = self._kinds
        return [names[code] for code in codes]

    def _enter(self, db: Connection, user_ids: Sequence[str], forgotten: int) -> set[str]:
        """Know the number of every user; those who had none get the next. Returns those."""
        # What we remember holds until somebody, anywhere, is forgotten, or a transaction of ours is undone.
        moment = (forgotten, self._connections.rollbacks)
        if self._known_at != moment or len(self._known) > KNOWN_AT_MOST:
            self._known, self._known_at = {}, moment
        names = list(dict.fromkeys(name for name in user_ids if name not in self._known))
        if not names:
            return set()
        hashes = sql.user_hashes(names)
        found = dict(db.execute(sql.FIND_USERS, (sql.json_list(hashes),)))
        self._known |= {name: found[name] for name in names if name in found}
        fresh = [(name, value) for name, value in zip(names, hashes, strict=True) if name not in found]
        first = (db.execute("SELECT max(number) FROM users").fetchone()[0] or 0) + 1
        db.executemany(sql.ADD_USER, ((number, name) for number, (name, _) in enumerate(fresh, first)))
        db.executemany(sql.ADD_HASH, ((value, number) for number, (_, value) in enumerate(fresh, first)))
        self._known |= {name: number for number, (name, _) in enumerate(fresh, first)}
        return {name for name, _ in fresh}

    def _undo_users(self, db: Connection, names: Iterable[str]) -> None:
        """Take back users who were entered for events that were there already under another user."""
        for name in names:
            number = self._known.pop(name)
            db.execute(sql.DROP_HASH, {"hash": sql.user_hashes([name])[0], "user": number})
            db.execute(sql.WIPE_USER, {"user": number})

    def fold(self) -> None:
        """Fold the tail into the histories now. Good after a bulk load; opening and closing do it too."""
        with self._reading() as db:
            if not db.execute(sql.MARKS).fetchone()[2]:
                return
        with self._writing() as db:
            last, folded, *_ = db.execute(sql.MARKS).fetchone()
            db.execute(sql.FOLD, (folded,))
            db.execute(sql.APPENDED, (last, last, 0))

    # Reading

    def scan(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        return self._stream(sql.BY_TIME, chunk_rows)

    def scan_by_user(self, *, chunk_rows: int = 65_536) -> Iterator[pl.DataFrame]:
        return self._stream(sql.BY_USER, chunk_rows)

    def _stream(self, query: str, chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Chunks of one query, from a connection of its own, which sees one moment of the store."""
        with self._connections.another() as db:
            cursor = db.execute(query)
            while rows := cursor.fetchmany(chunk_rows):
                yield self._frame(db, rows)

    def history(self, user_id: str, limit: int = 200) -> pl.DataFrame:
        with self._reading() as db:
            user = self._number(db, user_id)
            return self._frame(db, self._newest(db, user, limit, self._tail(db, user)), user_id)

    def recent(self, user_id: str, limit: int = 200) -> Recent:
        with self._reading() as db:
            user = self._number(db, user_id)
            as_of = int(db.execute(sql.STATE).fetchone()[0])
            if tail := self._tail(db, user):
                rows = [row[1:] for row in self._newest(db, user, limit, tail)]
            else:
                rows = db.execute(sql.NEWEST_LEAN, (user, limit)).fetchall()
            times, items, packed = zip(*rows, strict=True) if rows else [()] * 3
            with self._decoding():
                _, values, kinds = sql.unpack(packed)
                kind_names, times_us = self._kind_names(db, sql.kind_codes(kinds)), np.array(times, np.int64)
                return Recent(list(items), kind_names, values, times_us, as_of)

    def _newest(self, db: Connection, user: int, limit: int, tail: list[sql.Row]) -> list[sql.Row]:
        rows: list[sql.Row] = db.execute(sql.NEWEST, (user, limit)).fetchall()
        if tail:
            rows = sorted(rows + tail, key=lambda row: (row[1], row[0]), reverse=True)[:limit]
        return rows

    def changes_since(self, arrival: int, *, user_id: str | None = None, limit: int = 10_000) -> pl.DataFrame:
        with self._reading() as db:
            if user_id is None:
                rows = db.execute(sql.SINCE, (arrival, limit)).fetchall()
            else:
                rows = self._all_of(db, self._number(db, user_id), arrival)[:limit]
            return self._frame(db, rows, user_id, with_arrival=True)

    def arrivals_since(self, arrival: int, limit: int = 10_000) -> Arrivals:
        with self._connections.looking() as db:
            rows = db.execute(sql.SINCE_NAMED, (arrival, limit)).fetchall()
            arrivals, times, items, packed, people = zip(*rows, strict=True) if rows else [()] * 5
            with self._decoding():
                if None in people:
                    raise KeyError("an event belongs to nobody")
                values, kinds = sql.unpack_few(packed)
                names = self._kind_names(db, kinds)  # never taken back, so they may be of a later moment
                return Arrivals(arrivals, list(people), items, names, values, times)

    def event_count(self, user_id: str | None = None) -> int:
        with self._reading() as db:
            if user_id is None:
                return int(db.execute(sql.COUNT).fetchone()[0])
            return int(db.execute(sql.COUNT_OF_USER, {"user": self._number(db, user_id)}).fetchone()[0])

    def state(self) -> StoreState:
        with self._connections.looking() as db:
            ((last_arrival, forgotten),) = db.execute(sql.STATE).fetchall()
            return StoreState(last_arrival, forgotten)

    def _number(self, db: Connection, user_id: str) -> int:
        """The user's number; 0, which nobody has, for an unknown id."""
        found = db.execute(sql.FIND_USER, (sql.user_hashes([user_id])[0], user_id)).fetchone()
        return int(found[0]) if found else 0

    def _tail(self, db: Connection, user: int, after: int = 0) -> list[sql.Row]:
        """The person's events that are not folded in yet and arrived after `after`."""
        _, folded, pending, *_ = db.execute(sql.MARKS).fetchone()
        return db.execute(sql.TAIL_OF_USER, (max(folded, after), user)).fetchall() if pending else []

    def _all_of(self, db: Connection, user: int, after: int = 0) -> list[sql.Row]:
        """All events of a person that arrived after `after`, in order of arrival."""
        return sorted(db.execute(sql.OF_USER, (user, after)).fetchall() + self._tail(db, user, after))

    def _frame(
        self,
        db: Connection,
        rows: Sequence[sql.Row],
        user_id: str | None = None,
        *,
        with_arrival: bool = False,
    ) -> pl.DataFrame:
        """Rows as a frame in EVENT_SCHEMA; all of `user_id`, or of the people whose numbers they hold."""
        arrivals, times, items, packed, *users = zip(*rows, strict=True) if rows else [()] * 4
        with self._decoding():
            blob, values, kinds = sql.unpack(packed)
            return sql.frame_of(
                self._chosen_ids(db, sql.spelled(blob), kinds, arrivals),
                self._user_ids(db, users[0]) if users else [user_id or ""] * len(rows),
                items,
                self._kind_names(db, sql.kind_codes(kinds)),
                values,
                times,
                arrivals if with_arrival else None,
            )

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """A number that stands for nothing, or a row of another length, is damage."""
        try:
            yield
        except (KeyError, ValueError, struct.error) as error:
            raise CorruptArtifact(f"{self.path} is damaged: {error}", hint=RESTORE) from error

    def _user_ids(self, db: Connection, numbers: Sequence[int]) -> list[str]:
        known = dict(db.execute(sql.USER_NAMES, (sql.json_list(set(numbers)),)))
        return [known[number] for number in numbers]

    def _chosen_ids(
        self, db: Connection, ids: list[str], kinds: NDArray[np.uint16], arrivals: Sequence[int]
    ) -> list[str]:
        """The ids, those that callers chose as they wrote them."""
        rows = np.flatnonzero(kinds >= sql.OUTSIDE).tolist()
        if rows:
            given = dict(db.execute(sql.OUTSIDE_NAMES, (sql.json_list(arrivals[row] for row in rows),)))
            for row in rows:
                ids[row] = given[arrivals[row]]
        return ids

    # Forgetting, checking, closing

    def forget(self, user_id: str) -> int:
        with self._writing() as db:
            user = self._number(db, user_id)
            rows = self._all_of(db, user)
            if user:
                arrivals = [(row[0],) for row in rows]
                db.executemany(sql.WIPE_OUTSIDE, arrivals)
                db.executemany(sql.DROP_EVENT, arrivals)
                person = {"user": user, "hash": sql.user_hashes([user_id])[0], "events": len(rows)}
                for statement in (sql.DROP_HISTORY, sql.DROP_HASH, sql.WIPE_USER, sql.FORGOTTEN):
                    db.execute(statement, person)
        blocked = self._connections.truncate_log()
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
            for number, name in db.execute(sql.USERS):
                if not db.execute(sql.UNDER_HASH, (sql.user_hashes([name])[0], number)).fetchone():
                    faults.append(f"user {name!r} is not under its hash")
            for name, key in db.execute(sql.OUTSIDE_AND_KEYS):
                if sql.keys_of([name])[0] != [key]:
                    faults.append(f"event id {name!r} is not under its key")
            if faults:
                raise CorruptArtifact(f"{self.path} is damaged: {faults[0]}", hint=RESTORE)
            return int(db.execute(sql.COUNT).fetchone()[0])

    def close(self) -> None:
        if not self._connections.closed:
            with suppress(
                SlipstreamError
            ):  # a tail is safe where it is; whoever opens the store next folds it
                self.fold()
            self._connections.close()

    def __enter__(self) -> SqliteEventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
