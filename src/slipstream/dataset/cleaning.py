"""Cleaning one batch of a log after another: which rows are bad, which the rules leave out, and the account.

A bad row never stops the work and never vanishes: it goes to a rejects file with its row number and the
reason, and is counted. Repeats and too-rare users and items are found later (`preparation.py`), counted in
the same report, and stay in the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import polars as pl
from pydantic import Field

from slipstream.config import Settings
from slipstream.errors import BadInput

TimeUnit = Literal["us", "ms", "s"]

YEAR_2100_US = 4_102_444_800_000_000
MICROSECONDS: Mapping[TimeUnit, int] = {"us": 1, "ms": 1_000, "s": 1_000_000}
LONGEST_REJECTED_TEXT = 200

KNOWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "time": ("time_us", "timestamp", "time"),
    "value": ("value", "rating", "weight"),
    "kind": ("kind",),
}


class LogColumns(Settings):
    """Which column is what. Without a name, time, value and kind are found by their usual names, if at all.

    time_unit: of a time in numbers; without it microseconds for a name ending in `_us`, else seconds.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    value: str | None = None
    kind: str | None = None
    time_unit: TimeUnit | None = None


class CleaningRules(Settings):
    """What stays in a snapshot. The defaults keep everything but bad rows and exact repeats."""

    keep_exact_repeats: bool = Field(
        default=False, description="keep events with the same user, item, kind and time"
    )
    keep: Literal["all", "first", "last"] = Field(
        default="all", description="which events of one user and item stay"
    )
    min_user_events: int = Field(default=1, ge=1, description="users with fewer events are left out")
    min_item_events: int = Field(default=1, ge=1, description="items with fewer events are left out")
    drop_kinds: tuple[str, ...] = Field(default=(), description="kinds of events to leave out")
    min_value: float | None = Field(default=None, description="events with a smaller value are left out")
    earliest_us: int = Field(default=0, description="an earlier time is a bad time")
    latest_us: int = Field(default=YEAR_2100_US, description="a later time is a bad time")
    arrival_is_order: bool = Field(default=False, description="without a clock, trust the order of the rows")


@dataclass
class CleaningReport:
    """The account of one preparation. Every row of the source is in exactly one of the counts.

    rows = events + rejected + other_kinds + below_minimum + exact_repeats + superseded + too_rare_events.
    """

    rows: int = 0
    users_found: int = 0
    items_found: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    rejects_file: str | None = None
    other_kinds: int = 0
    below_minimum: int = 0
    exact_repeats: int = 0
    superseded: int = 0
    too_rare_users: int = 0
    too_rare_items: int = 0
    too_rare_events: int = 0
    rounds: int = 0
    events: int = 0
    users: int = 0
    items: int = 0
    clock: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The account for people; nothing that is zero but the essentials."""
        lines = [f"{self.rows:>12,} rows read, {self.users_found:,} users, {self.items_found:,} items"]
        lines += [
            f"{-count:>12,} {reason}, written to {self.rejects_file}"
            for reason, count in self.rejected.items()
        ]
        left_out = [
            (self.other_kinds, "of a kind that the rules leave out"),
            (self.below_minimum, "with a value below the minimum"),
            (self.exact_repeats, "exact repeats (same user, item, kind and time)"),
            (self.superseded, "further events of the same user and item"),
            (
                self.too_rare_events,
                f"of {self.too_rare_users:,} users and {self.too_rare_items:,} items with too few events"
                f" ({self.rounds} rounds)",
            ),
        ]
        lines += [f"{-count:>12,} {why}; still in the source" for count, why in left_out if count]
        clock = "" if self.clock else "; no clock"
        lines.append(
            f"{self.events:>12,} events in the snapshot, {self.users:,} users, {self.items:,} items{clock}"
        )
        lines.append(
            f"{self.wall_s:>12.1f} s ({self.cpu_s:.1f} s of processor time), "
            f"peak memory {self.peak_rss_bytes / 1e6:,.0f} MB"
        )
        return lines


class Rejects:
    """A file of JSON lines for bad rows: row number in the source (from 0), reason, and the fields as text.

    It is written beside its place and renamed at the end, so it is never half there; without a bad row
    there is no file, and an old one goes away.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._beside = file.with_name(f".{file.name}.writing")
        self._stream: IO[bytes] | None = None
        self.counts: dict[str, int] = {}

    def add(self, rows: pl.DataFrame) -> None:
        """`rows` has the columns row and reason, and the fields."""
        if not rows.height:
            return
        if self._stream is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._beside.open("wb")
        for reason, count in rows["reason"].value_counts().iter_rows():
            self.counts[reason] = self.counts.get(reason, 0) + count
        fields = pl.exclude("row", "reason").cast(pl.String, strict=False).str.slice(0, LONGEST_REJECTED_TEXT)
        rows.select("row", "reason", fields).write_ndjson(self._stream)

    def finish(self) -> Path | None:
        if self._stream is None:
            self.file.unlink(missing_ok=True)
            return None
        self._stream.close()
        self._stream = None
        self._beside.replace(self.file)
        return self.file

    def abandon(self) -> None:
        """Remove what was not finished."""
        if self._stream is not None:
            self._stream.close()
            self._beside.unlink(missing_ok=True)


def read_rejects(file: Path) -> list[dict[str, Any]]:
    """The rows of a rejects file, for people and tests; small files only."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@dataclass(frozen=True)
class _Fields:
    """How to read the columns of one log; made from the first batch's schema."""

    user: pl.Expr
    item: pl.Expr
    time_us: pl.Expr | None
    patient_time_us: pl.Expr | None
    value: pl.Expr | None
    kind: pl.Expr | None
    raw: tuple[pl.Expr, ...]
    schema: pl.Schema

    def clean(self) -> dict[str, pl.Expr]:
        """The clean columns, and whether a time or value was given at all: None then means unreadable."""
        named = {"user": self.user, "item": self.item, "time_us": self.time_us}
        named |= {"value": self.value, "kind": self.kind}
        given = {
            f"had_{what}": pl.col(expr.meta.root_names()[0]).is_not_null()
            for what, expr in (("time", self.time_us), ("value", self.value))
            if expr is not None
        }
        return {name: expr for name, expr in named.items() if expr is not None} | given


class Cleaner:
    """Turns raw batches into clean ones: row, user, item (text or Int64), and time_us, value, kind if any.

    A missing time (None) is left in: whether it is bad depends on whether the log has a clock at all.
    """

    def __init__(self, rules: CleaningRules, columns: LogColumns, rejects: Rejects) -> None:
        self.rules = rules
        self.columns = columns
        self.rejects = rejects
        self.rows = self.other_kinds = self.below_minimum = 0
        self._fields: _Fields | None = None

    def clean(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._fields is None or self._fields.schema != frame.schema:
            self._fields = _fields(frame.schema, self.columns)
        fields = self._fields
        first_row, self.rows = self.rows, self.rows + frame.height
        clean = frame.select(**fields.clean()).with_row_index("row", offset=first_row)
        if fields.patient_time_us is not None and clean["time_us"].null_count():
            clean = clean.with_columns(frame.select(time_us=fields.patient_time_us))
        bad = self._reasons(clean.schema)
        reason = clean.select(reason=bad).to_series() if clean.select(_any_bad(bad)).item() else None
        if reason is not None:
            raw = frame.select(fields.raw).with_columns(clean["row"], reason)
            self.rejects.add(raw.filter(pl.col("reason").is_not_null()))
            clean = clean.filter(reason.is_null())
        return self._apply_rules(clean)

    def _reasons(self, schema: pl.Schema) -> pl.Expr:
        """The first thing wrong with a row, or None."""
        cases = [(_missing("user", schema), "missing user"), (_missing("item", schema), "missing item")]
        if "time_us" in schema:
            time = pl.col("time_us")
            outside = ~time.is_between(self.rules.earliest_us, self.rules.latest_us)
            cases.append(((time.is_null() & pl.col("had_time")) | outside.fill_null(False), "bad time"))
        if "value" in schema:
            value = pl.col("value")
            unread = value.is_null() & pl.col("had_value")
            cases.append((unread | ~value.is_finite().fill_null(True), "bad value"))
        reason = pl.lit(None, pl.String)
        for wrong, name in reversed(cases):
            reason = pl.when(wrong).then(pl.lit(name)).otherwise(reason)
        return reason

    def _apply_rules(self, clean: pl.DataFrame) -> pl.DataFrame:
        height = clean.height
        if "kind" in clean.columns:
            clean = clean.with_columns(pl.col("kind").fill_null("click"))
            if self.rules.drop_kinds:
                clean = clean.filter(~pl.col("kind").is_in(list(self.rules.drop_kinds)))
                self.other_kinds += height - clean.height
        if "value" in clean.columns:
            clean = clean.with_columns(pl.col("value").fill_null(1.0))
            if self.rules.min_value is not None:
                height = clean.height
                clean = clean.filter(pl.col("value") >= self.rules.min_value)
                self.below_minimum += height - clean.height
        return clean.drop("had_time", "had_value", strict=False)


def _any_bad(reason: pl.Expr) -> pl.Expr:
    return reason.is_not_null().any()


def _missing(name: str, schema: pl.Schema) -> pl.Expr:
    missing = pl.col(name).is_null()
    return missing | (pl.col(name) == "") if schema[name] == pl.String else missing


def _fields(schema: pl.Schema, columns: LogColumns) -> _Fields:
    time = _named(schema, "time", columns.time)
    value = _named(schema, "value", columns.value)
    kind = _named(schema, "kind", columns.kind)
    for needed in (columns.user, columns.item):
        if needed not in schema:
            raise _no_column(needed, schema)
    names = [name for name in (columns.user, columns.item, time, value, kind) if name is not None]
    return _Fields(
        user=_id(columns.user, schema),
        item=_id(columns.item, schema),
        time_us=None if time is None else _time(time, schema, columns.time_unit),
        patient_time_us=_time_of_text(time, columns.time_unit)
        if time and schema[time] == pl.String
        else None,
        value=None if value is None else pl.col(value).cast(pl.Float32, strict=False),
        kind=None if kind is None else pl.col(kind).cast(pl.String),
        raw=tuple(pl.col(name) for name in names),
        schema=schema,
    )


def _named(schema: pl.Schema, role: str, given: str | None) -> str | None:
    if given is not None and given not in schema:
        raise _no_column(given, schema)
    return given or next((name for name in KNOWN_NAMES[role] if name in schema), None)


def _no_column(name: str, schema: pl.Schema) -> BadInput:
    return BadInput(
        f"the log has no column {name!r}; it has: {', '.join(schema.names())}",
        hint="say which column is the user, the item and the time",
    )


def _id(name: str, schema: pl.Schema) -> pl.Expr:
    """Ids stay as they are: whole numbers as Int64, everything else as text."""
    kind = schema[name]
    small = kind.is_integer() and kind not in (pl.UInt64, pl.Int128)
    return pl.col(name).cast(pl.Int64 if small else pl.String)


def _time(name: str, schema: pl.Schema, unit: TimeUnit | None) -> pl.Expr:
    """Microseconds since 1970 UTC, exactly; None for what cannot be read."""
    kind, time = schema[name], pl.col(name)
    if isinstance(kind, pl.Datetime | pl.Date):
        return time.cast(pl.Datetime("us", getattr(kind, "time_zone", None))).dt.epoch("us")
    if kind.is_integer() or kind in (pl.String, pl.Null):
        return _scaled(time.cast(pl.Int64, strict=False), _scale(name, unit))
    if kind.is_float():
        return (time * _scale(name, unit)).round().cast(pl.Int64, strict=False)
    raise BadInput(f"the column {name!r} is no time: it is {kind}", hint="unix seconds, or a date and time")


def _time_of_text(name: str, unit: TimeUnit | None) -> pl.Expr:
    """As above for text with parts of a second too; half as fast, so only for batches that need it."""
    time, scale = pl.col(name), _scale(name, unit)
    part = (time.cast(pl.Float64, strict=False) * scale).round().cast(pl.Int64, strict=False)
    return _scaled(time.cast(pl.Int64, strict=False), scale).fill_null(part)


def _scale(name: str, unit: TimeUnit | None) -> int:
    return MICROSECONDS[unit or ("us" if name.endswith("_us") else "s")]


def _scaled(whole: pl.Expr, scale: int) -> pl.Expr:
    """whole * scale, or None where that leaves 64 bits."""
    limit = ((1 << 63) - 1) // scale
    return pl.when(whole.is_between(-limit, limit)).then(whole * scale) if scale > 1 else whole
