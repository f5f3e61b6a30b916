"""A log of any size into a snapshot: clean, drop repeats, k-core, number, sort, write; streaming.

    batches ── clean ──> numbers per event (12 to 17 bytes) ── sort by user ──> time order and repeats,
    in blocks of users ──> k-core to a fixed point ──> numbers of what stays ──> snapshot folder

Only whole columns of small integers are held, never a Python object or a text per event. Memory beside the
numbers is one batch and one more column. Ids are numbered in sorted order, so the same events give the
same snapshot whether the ids came as text or as whole numbers. Ties in time keep the order of arrival.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.config import Progress, silent
from slipstream.dataset.cleaning import Cleaner, CleaningReport, CleaningRules, LogColumns, Rejects
from slipstream.dataset.numbering import Numbering
from slipstream.dataset.ordering import find_repeats, gather, k_core, order_by_user, time_order, user_blocks
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import BadInput, NotThere

BATCH_ROWS = 1 << 17
MOST_KINDS = 256
REJECTS_FILE = "prepare.jsonl"

Source = pl.LazyFrame | pl.DataFrame | str | Path | Iterable[pl.DataFrame | str | Path]
"""A lazy or finished frame, a file, or several of them as they come (a scan of the event store). A pandas or
Arrow table is taken as well (anything with `__arrow_c_stream__`)."""


def prepare(
    source: Source,
    rules: CleaningRules,
    path: Path,
    progress: Progress = silent,
    *,
    columns: LogColumns | None = None,
    rejects: Path | None = None,
) -> CleaningReport:
    """Write the snapshot of `source` to `path`, all at once; until then an old one stays in its place.

    Bad rows go to `prepare.jsonl` in the folder `rejects` (default: `rejects` beside the snapshot). Some 35
    bytes of memory per event; time grows linearly. Raises BadInput where the source cannot be read or nothing
    is left; the old snapshot stays then.
    """
    started = time.perf_counter(), time.process_time()
    bad = Rejects((rejects or path.parent / "rejects") / REJECTS_FILE)
    columns = columns or LogColumns()
    cleaner, log = Cleaner(rules, columns, bad), _Log(columns)
    try:
        for frame in _batches(source):
            log.add(cleaner.clean(frame), bad)
            progress(cleaner.rows, None, "rows read")
        if not log.events:
            raise _nothing_left(cleaner.rows, "every row is bad or left out", bad)
        report = CleaningReport(
            rows=cleaner.rows, other_kinds=cleaner.other_kinds, below_minimum=cleaner.below_minimum
        )
        snapshot = _arrange(log, rules, report, progress)
        if not report.events:
            raise _nothing_left(cleaner.rows, "all users or items have too few events", bad)
        progress(report.events, report.events, "writing")
        file = bad.finish()
        report.rejected, report.rejects_file = bad.counts, str(file) if file else None
        snapshot.write(path, {"rules": rules.model_dump(mode="json"), "report": _finished(report, started)})
    finally:
        bad.abandon()
    _finished(report, started)
    return report


def _nothing_left(rows: int, why: str, bad: Rejects) -> BadInput:
    file = bad.finish()
    counts = ", ".join(f"{count} {reason}" for reason, count in bad.counts.items())
    what = f" ({counts}: see {file})" if file else ""
    return BadInput(
        f"nothing is left of {rows} rows: {why}{what}",
        hint="look at the rejects file, the column names and the rules",
    )


def _finished(report: CleaningReport, started: tuple[float, float]) -> dict[str, Any]:
    report.wall_s = time.perf_counter() - started[0]
    report.cpu_s = time.process_time() - started[1]
    report.peak_rss_bytes = _peak_rss_bytes()
    return report.to_json()


def _peak_rss_bytes() -> int:
    """The most memory this process ever held; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class _Log:
    """The accepted events in order of arrival, as lists of small arrays, one per batch."""

    columns: LogColumns
    users: Numbering = field(default_factory=Numbering)
    items: Numbering = field(default_factory=Numbering)
    kinds: Numbering = field(default_factory=Numbering)
    parts: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    events: int = 0
    clock: bool = False
    timeless: list[NDArray[Any]] = field(default_factory=list)
    """Rows of the source while none had a time; none of them may stay if one comes that has."""

    def add(self, clean: pl.DataFrame, bad: Rejects) -> None:
        if not clean.height:
            return
        if "time_us" in clean.columns:
            clean = self._demand_clock(clean, bad)
        self._append("user", self.users.numbers(clean["user"]))
        self._append("item", self.items.numbers(clean["item"]))
        if self.clock:
            self._append("time_us", clean["time_us"].to_numpy())
        if "value" in clean.columns:
            self._append("value", clean["value"].to_numpy())
        if "kind" in clean.columns:
            self._append("kind", self._kind_numbers(clean["kind"]))
        self.events += clean.height

    def _demand_clock(self, clean: pl.DataFrame, bad: Rejects) -> pl.DataFrame:
        """In a log with a clock a row without a time is bad; in a log without one, none is."""
        missing = clean["time_us"].null_count()
        if not self.clock and missing == clean.height:
            self.timeless.append(clean["row"].to_numpy())
            return clean
        if not self.clock and self.events:
            self._reject_all(bad)
        self.clock = True
        if not missing:
            return clean
        without = clean.filter(pl.col("time_us").is_null())
        self._reject(without["row"], without["user"], without["item"], bad)
        return clean.filter(pl.col("time_us").is_not_null())

    def _reject_all(self, bad: Rejects) -> None:
        """The first time appears: all rows so far had none."""
        for row, user, item in zip(self.timeless, self.parts["user"], self.parts["item"], strict=True):
            users, items = self.users.ids().gather(user), self.items.ids().gather(item)
            self._reject(pl.Series("row", row), users, items, bad)
        self.timeless, self.parts, self.events = [], {}, 0

    def _reject(self, row: pl.Series, user: pl.Series, item: pl.Series, bad: Rejects) -> None:
        names = user.alias(self.columns.user), item.alias(self.columns.item)
        bad.add(pl.DataFrame([row.alias("row"), *names]).with_columns(reason=pl.lit("missing time")))

    def _kind_numbers(self, kind: pl.Series) -> NDArray[np.uint8]:
        numbers = self.kinds.numbers(kind)
        if len(self.kinds) > MOST_KINDS:
            raise BadInput(f"the log has over {MOST_KINDS} kinds of events", hint="is it the right column?")
        return numbers.astype(np.uint8)

    def _append(self, name: str, values: NDArray[Any]) -> None:
        self.parts.setdefault(name, []).append(values)

    def take(self, name: str) -> NDArray[Any] | None:
        """The whole column, and its parts forgotten."""
        parts = self.parts.pop(name, None)
        return None if parts is None else np.concatenate(parts)


def _arrange(log: _Log, rules: CleaningRules, report: CleaningReport, progress: Progress) -> Snapshot:
    """The accepted events as a snapshot, and the account of what the rules took out."""
    progress(0, log.events, "sorting")
    user_ids, user = _in_sorted_order(log.users, log.parts.pop("user"))
    offsets, order = order_by_user(user, len(user_ids))
    del user
    item_ids, item = _in_sorted_order(log.items, log.parts.pop("item"))
    columns: dict[str, NDArray[Any]] = {"item": gather(item, order)}
    del item
    log.users = log.items = Numbering()  # their tables are not needed any more
    for name in ("time_us", "value", "kind"):
        if (values := log.take(name)) is not None:
            columns[name] = gather(values, order)
            del values
    del order
    report.clock = log.clock
    report.users_found = int(np.count_nonzero(np.diff(offsets)))
    offsets = _sort_and_deduplicate(columns, offsets, rules, report, progress)
    return _core(columns, offsets, user_ids, item_ids, log.kinds.ids(), rules, report)


def _in_sorted_order(
    numbering: Numbering, parts: list[NDArray[np.int32]]
) -> tuple[pl.Series, NDArray[np.int32]]:
    """The ids sorted as text, and the events' numbers in that order."""
    ids, order = numbering.in_text_order()
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    numbers = np.empty(sum(map(len, parts)), np.int32)
    end = 0
    while parts:
        part = parts.pop(0)
        start, end = end, end + len(part)
        np.take(rank, part, out=numbers[start:end], mode="clip")
    return ids, numbers


def _sort_and_deduplicate(
    columns: dict[str, NDArray[Any]],
    offsets: NDArray[np.int64],
    rules: CleaningRules,
    report: CleaningReport,
    progress: Progress,
) -> NDArray[np.int64]:
    """Put each user's events in order of time and take repeats out, in place. Returns the new offsets."""
    lengths = np.diff(offsets)
    end = 0
    for first, last in user_blocks(offsets):
        a, b = int(offsets[first]), int(offsets[last])
        user = np.repeat(np.arange(last - first), lengths[first:last])
        block = {name: values[a:b] for name, values in columns.items()}
        order = time_order(user, block["time_us"]) if "time_us" in block else None
        if order is not None:
            block = {name: values[order] for name, values in block.items()}
        repeats = find_repeats(
            user,
            block["item"],
            block.get("kind"),
            block.get("time_us"),
            exact=not rules.keep_exact_repeats,
            keep=rules.keep,
        )
        stays = repeats.stays
        start, end = end, end + int(stays.sum())
        for name, values in block.items():
            columns[name][start:end] = values[stays]
        lengths[first:last] = np.bincount(user[stays], minlength=last - first)
        report.exact_repeats += repeats.exact
        report.superseded += repeats.superseded
        progress(b, int(offsets[-1]), "sorting")
    for name, values in columns.items():
        columns[name] = values[:end]
    return _offsets(lengths)


def _core(
    columns: dict[str, NDArray[Any]],
    offsets: NDArray[np.int64],
    user_ids: pl.Series,
    item_ids: pl.Series,
    kind_ids: pl.Series,
    rules: CleaningRules,
    report: CleaningReport,
) -> Snapshot:
    """Take out the too rare, and number what stays without gaps."""
    item = columns["item"]
    before = np.bincount(item, minlength=len(item_ids))
    core = k_core(
        offsets,
        item,
        len(item_ids),
        min_user_events=rules.min_user_events,
        min_item_events=rules.min_item_events,
    )
    user_stays, item_stays = core.user_events > 0, core.item_events > 0
    report.items_found = int(np.count_nonzero(before))
    report.rounds, report.events = core.rounds, int(core.stays.sum())
    report.users, report.items = int(user_stays.sum()), int(item_stays.sum())
    report.too_rare_events = len(item) - report.events
    report.too_rare_users = report.users_found - report.users
    report.too_rare_items = report.items_found - report.items
    if report.too_rare_events:
        for name in list(columns):
            columns[name] = columns[name][core.stays]
    number = np.cumsum(item_stays, dtype=np.int32) - 1
    kind, kinds = _dense_kinds(columns.get("kind"), report.events, kind_ids)
    time_us, value = columns.get("time_us"), columns.get("value")
    return Snapshot(
        users=Vocabulary.of(user_ids.filter(pl.Series(user_stays))),
        items=Vocabulary.of(item_ids.filter(pl.Series(item_stays))),
        offsets=_offsets(core.user_events[user_stays]),
        item=gather(number, columns["item"]),
        value=np.ones(report.events, np.float32) if value is None else value,
        kind=kind,
        kinds=kinds,
        time_us=time_us,
        ordered=time_us is not None or rules.arrival_is_order,
    )


def _dense_kinds(
    kind: NDArray[np.uint8] | None, events: int, ids: pl.Series
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Kinds that still occur, in sorted order."""
    if kind is None:
        return np.zeros(events, np.uint8), ("click",)
    occurs = np.flatnonzero(np.bincount(kind, minlength=len(ids)))
    names = sorted(ids.gather(occurs).to_list())
    rank = np.array([names.index(name) if name in names else 0 for name in ids], np.uint8)
    return rank[kind], tuple(names)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _batches(source: Source) -> Iterator[pl.DataFrame]:
    """Frames of at most BATCH_ROWS rows."""
    try:
        for frame in _frames(source):
            yield from frame.iter_slices(BATCH_ROWS)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the log cannot be read: {str(error).splitlines()[0]}",
            hint="`slipstream ingest` reads such a file row by row and keeps the bad rows apart",
        ) from error


def _frames(source: Source) -> Iterator[pl.DataFrame]:
    if isinstance(source, pl.LazyFrame):
        yield from source.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
    elif isinstance(source, pl.DataFrame):
        yield source
    elif isinstance(source, str | Path):
        yield from _frames(_scan(Path(source)))
    elif hasattr(source, "__arrow_c_stream__"):
        yield pl.DataFrame(source)
    else:
        for part in source:
            yield from [part] if isinstance(part, pl.DataFrame) else _frames(_scan(Path(part)))


def _scan(file: Path) -> pl.LazyFrame:
    """A file as a lazy table. Text is read as text: an id of digits keeps its leading zeros."""
    if not file.exists():
        raise NotThere(f"there is no file {file}")
    match file.suffix.lower():
        case ".parquet":
            return pl.scan_parquet(file)
        case ".csv":
            return pl.scan_csv(file, infer_schema=False)
        case ".tsv":
            return pl.scan_csv(file, separator="\t", infer_schema=False)
        case ".jsonl" | ".ndjson":
            return pl.scan_ndjson(file)
    raise BadInput(
        f"{file} must be .parquet, .csv, .tsv or .jsonl", hint="`slipstream ingest` reads more forms"
    )
