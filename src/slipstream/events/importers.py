"""Events in from files and frames, and out to Parquet. Streams in bounded memory.

    report = ingest(Path("ratings.csv"), store, rejects=home.rejects)

A bad row never stops an ingest and never vanishes: it goes to a rejects file with line, code and reason, and
is counted. Ids come from content (see `identity`), and every batch is stored whole before the next is read,
so an ingest that was killed is simply run again: nothing is lost, nothing doubled.

Takes CSV, TSV, `::`, RecBole's atomic files (`.inter`), JSON lines and Parquet, text also as .gz.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from slipstream.config import Progress, silent
from slipstream.errors import BadInput
from slipstream.events.chunks import Chunk
from slipstream.events.columns import ColumnChoice, ColumnMap, map_columns
from slipstream.events.delimited import DelimitedForm
from slipstream.events.event import EventBatch, Reject, counts_text, named
from slipstream.events.frames import frame_names, read_frame_rows, row_count, to_polars
from slipstream.events.identity import Occurrences, SeenHashes, id_hashes
from slipstream.events.rejects import RejectsFile
from slipstream.events.shaping import shape
from slipstream.events.store import EventStore
from slipstream.events.tables import Table, open_table, read_table, write_parquet
from slipstream.events.times import time_text

__all__ = [
    "ColumnChoice",
    "DelimitedForm",
    "IngestReport",
    "events_from_frame",
    "export",
    "ingest",
    "ingest_frame",
    "read_table",
]

_YEAR_US = 365 * 86_400_000_000
HINTS: Mapping[str, str] = {
    Reject.MISSING_USER: "is the right column taken for the user?",
    Reject.MISSING_ITEM: "is the right column taken for the item?",
    Reject.BAD_TIME: "is the right column taken for the time? It is unix time (s, ms, µs) or begins with the "
    "year (2024-01-31 12:00). An empty name (--time '') reads none",
    Reject.FUTURE_TIME: "is the unit of the times right?",
    Reject.BAD_VALUE: "is the right column taken for the value? An empty name (--value '') reads none",
    Reject.FIELD_COUNT: "is the separator right?",
    Reject.BAD_ENCODING: "save the file as UTF-8",
    Reject.BAD_JSON: "every line must be one JSON object",
}


@dataclass(frozen=True)
class IngestReport:
    """What became of the rows: `rows = stored + repeated + sum(rejected)`."""

    source: str
    form: str
    columns: ColumnMap
    rows: int
    stored: int
    repeated: int
    rejected: Mapping[str, int]
    rejects_file: Path | None
    first_us: int | None
    last_us: int | None
    spent_s: float

    def lines(self) -> list[str]:
        """The report in words."""
        bad = sum(self.rejected.values())
        lines = [f"{self.source}: {self.form}", *self.columns.lines()]
        lines.append(
            f"{self.rows:,} rows: {self.stored:,} stored, {self.repeated:,} known already, {bad:,} rejected"
        )
        if bad:
            lines.append(f"rejected: {counts_text(self.rejected)}; see {self.rejects_file}")
        if self.first_us is not None and self.last_us is not None:
            days = (self.last_us - self.first_us) / 86_400_000_000
            lines.append(f"from {_day(self.first_us)} to {_day(self.last_us)}, {days:,.0f} days")
            if 0 < self.last_us < _YEAR_US:
                lines.append("every time is in 1970: are these days of a spreadsheet, or a counter?")
        return lines


def ingest(
    file: Path,
    store: EventStore,
    columns: ColumnChoice | None = None,
    *,
    rejects: Path,
    progress: Progress = silent,
    now_us: int | None = None,
    form: DelimitedForm | None = None,
) -> IngestReport:
    """Append the events of a file.

    columns: which column is what, where the guess by names is wrong. rejects: the folder for bad rows.
    now_us: the clock that far future is measured against; this machine's by default. form: separator,
    header and quotes of a text table, where they cannot be told from its first lines.

    Cost: about 10 us a row, most of it the store's. Memory: some 350 MB, plus 8 bytes a row to count
    identical rows. Raises BadInput when a chosen column is not there, or when no row is an event.
    """
    with open_table(Path(file), form or DelimitedForm()) as table:
        return _ingest(
            table, store, columns or ColumnChoice(), rejects, str(Path(file).resolve()), progress, now_us
        )


def ingest_frame(
    frame: Any,
    store: EventStore,
    columns: ColumnChoice | None = None,
    *,
    rejects: Path,
    progress: Progress = silent,
    now_us: int | None = None,
    name: str = "frame",
) -> IngestReport:
    """Append the events of a Polars (also lazy), pandas or Arrow table; otherwise as `ingest`."""
    table = _frame_table(frame, name)
    return _ingest(table, store, columns or ColumnChoice(), rejects, name, progress, now_us)


def _frame_table(frame: Any, name: str) -> Table:
    lazy = to_polars(frame)
    names = frame_names(lazy)
    find = partial(map_columns, name, names)
    return Table(
        name, f"a table of {len(names)} columns", row_count(lazy), find, partial(read_frame_rows, lazy)
    )


def events_from_frame(
    frame: Any, columns: ColumnChoice | None = None, *, now_us: int | None = None
) -> EventBatch:
    """The events of a Polars, pandas or Arrow table, all at once. Raises BadInput at the first bad row."""
    table = _frame_table(frame, "frame")
    found = table.find(columns or ColumnChoice())
    occurrences, parts = Occurrences(), []
    for chunk in table.rows(_wanted(found)):
        events, faults = shape(chunk, found, now_us)
        if faults:
            first = faults[0]
            raise BadInput(
                f"row {first.line} is not an event ({first.code}: {first.detail})",
                hint="`ingest_frame` sets bad rows aside",
            )
        parts.append(named(events.frame, occurrences))
    return EventBatch(pl.concat(parts)) if parts else EventBatch.empty()


def _wanted(found: ColumnMap) -> list[str]:
    return list(dict.fromkeys(found.columns.values()))


def _ingest(
    table: Table,
    store: EventStore,
    choice: ColumnChoice,
    folder: Path,
    place: str,
    progress: Progress,
    now_us: int | None,
) -> IngestReport:
    started = time.perf_counter()
    found = table.find(choice)
    now_us = time.time_ns() // 1000 if now_us is None else now_us
    bad = RejectsFile(folder, table.name, place)
    loader = _Loader(store, found, bad, now_us)
    try:
        for chunk in table.rows(_wanted(found)):
            loader.take(chunk)
            progress(table.position() if table.position else loader.rows, table.size, f"{loader.rows:,} rows")
    finally:
        bad.close()
    if not loader.stored + loader.repeated:
        raise _nothing(table.name, loader)
    return IngestReport(
        table.name,
        table.form,
        found,
        loader.rows,
        loader.stored,
        loader.repeated,
        dict(bad.counts),
        bad.path if bad.counts else None,
        loader.first_us,
        loader.last_us,
        time.perf_counter() - started,
    )


def _nothing(name: str, loader: _Loader) -> BadInput:
    counts = loader.bad.counts
    if not counts:
        return BadInput(f"{name} holds no rows", hint="is it the right file?")
    commonest = counts.most_common(1)[0][0]
    columns = loader.found.lines()[0]
    return BadInput(
        f"{name}: none of {loader.rows:,} rows is an event ({counts_text(counts)})",
        hint=f"{HINTS.get(commonest, 'look at the rows')}; {columns}; the rows are in {loader.bad.path}",
    )


class _Loader:
    """Takes chunks to the store and counts."""

    def __init__(self, store: EventStore, found: ColumnMap, bad: RejectsFile, now_us: int) -> None:
        self.store, self.found, self.bad, self._now_us = store, found, bad, now_us
        self.rows = self.stored = self.repeated = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self._occurrences, self._ids = Occurrences(), SeenHashes()

    def take(self, chunk: Chunk) -> None:
        self.rows += chunk.frame.height + len(chunk.faults)
        self.bad.add(chunk.faults)
        events, faults = shape(chunk, self.found, self._now_us)
        self.bad.add(faults)
        given = events.frame["event_id"].is_not_null().to_numpy()
        batch = EventBatch(named(events.frame, self._occurrences))
        result = self.store.append(batch)
        twice = self._met_before(batch, given) & ~result.is_new
        self.bad.add(
            chunk.fault(
                int(events.places[row]), Reject.DUPLICATE_EVENT_ID, "an earlier row of this file has the id"
            )
            for row in np.flatnonzero(twice)
        )
        self.stored += result.stored
        self.repeated += result.repeated - int(twice.sum())
        self._span(batch.frame["time_us"])

    def _met_before(self, batch: EventBatch, given: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
        """True where the file itself gave the row an id that an earlier row of the file had, [rows]."""
        again = np.zeros(len(given), bool)
        if given.any():
            hashes = id_hashes(batch.frame["event_id"].filter(given))
            first = np.zeros(len(hashes), bool)
            first[np.unique(hashes, return_index=True)[1]] = True
            again[given] = ~first | self._ids.contains(hashes)
            self._ids.add(hashes)
        return again

    def _span(self, times: pl.Series) -> None:
        low, high = times.min(), times.max()
        if isinstance(low, int) and isinstance(high, int):
            self.first_us = low if self.first_us is None else min(low, self.first_us)
            self.last_us = high if self.last_us is None else max(high, self.last_us)


def _day(time_us: int) -> str:
    return time_text(time_us)[:10]


def export(store: EventStore, path: Path, *, progress: Progress = silent) -> int:
    """Write all events to a Parquet file, ordered by (time, arrival). Returns how many.

    Columns as in EVENT_SCHEMA. Streams through parts beside the file, which appears when it is whole.
    """

    def chunks() -> Iterator[pl.DataFrame]:
        done, total = 0, store.event_count()
        for chunk in store.scan():
            done += chunk.height
            progress(done, total, "events")
            yield chunk

    return write_parquet(path, chunks())
