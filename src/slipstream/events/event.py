"""An event and a batch of events: the shape, the limits, and the id that content gives.

    event_id   String    names the event; the same id is the same event, however often it arrives
    user_id    String    1 to 512 bytes
    item_id    String    1 to 512 bytes
    kind       String    what happened ("click", "purchase", ...), 1 to 64 bytes
    value      Float64   a rating, a price, a number of plays; null where there is none
    time_us    Int64     microseconds since 1970 UTC; null where the data has no clock

This module does not know where events come from (`importers`, `rows`) or where they are kept (`store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from slipstream.errors import BadInput
from slipstream.events.identity import Occurrences, content_ids

EVENT_SCHEMA = pl.Schema(
    {
        "event_id": pl.String(),
        "user_id": pl.String(),
        "item_id": pl.String(),
        "kind": pl.String(),
        "value": pl.Float64(),
        "time_us": pl.Int64(),
    }
)
DEFAULT_KIND = "click"
MAX_ID_BYTES = 512
MAX_KIND_BYTES = 64
MAX_AHEAD_US = 86_400_000_000  # a clock may run one day ahead of ours


class Reject(StrEnum):
    """Why a row is not an event. The values are stable: they stand in rejects files and HTTP answers."""

    MISSING_USER = "missing-user"
    MISSING_ITEM = "missing-item"
    ID_TOO_LONG = "id-too-long"  # over 512 bytes
    BAD_ID = "bad-id"  # not text or a number, or text with a zero byte
    KIND_TOO_LONG = "kind-too-long"  # over 64 bytes
    BAD_VALUE = "bad-value"  # not a number
    NAN_VALUE = "nan-value"  # NaN or infinite
    BAD_TIME = "bad-time"  # not a time, or empty in a table that has times
    FUTURE_TIME = "future-time"  # more than a day ahead
    DUPLICATE_EVENT_ID = "duplicate-event-id"  # twice in one file
    BAD_ENCODING = "bad-encoding"  # not UTF-8
    FIELD_COUNT = "field-count"  # more or fewer fields than the header
    FIELD_TOO_LONG = "field-too-long"  # a line or record beyond the bound
    BAD_QUOTES = "bad-quotes"  # a quoted field that does not end
    BAD_JSON = "bad-json"  # a line that is not a JSON object


@dataclass(frozen=True)
class EventBatch:
    """Events that passed every check, in order of arrival. `frame` has exactly EVENT_SCHEMA."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return self.frame.height

    @classmethod
    def of(
        cls, frame: pl.DataFrame, *, now_us: int | None = None, occurrences: Occurrences | None = None
    ) -> EventBatch:
        """Check a frame and complete it. Cost about 1 us a row.

        Needs user_id and item_id; value, time_us, kind and event_id may be missing or null. A missing kind
        becomes "click", a missing id comes from the content (see `identity`). `occurrences` carries the
        count of identical rows over several batches of one file. Raises BadInput for the first bad row.
        """
        complete = completed(frame)
        judged = judge(complete, now_us=now_us)
        bad = judged.with_row_index("row").filter(pl.col("code").is_not_null())
        if bad.height:
            row, code, detail = bad.row(0)
            raise BadInput(
                f"row {row} is not an event ({code}: {detail})",
                hint=f"{bad.height} of {frame.height} rows are bad; `ingest` sets such rows aside",
            )
        return cls(named(complete, occurrences))

    @classmethod
    def empty(cls) -> EventBatch:
        return cls(pl.DataFrame(schema=EVENT_SCHEMA))


def completed(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with EVENT_SCHEMA's columns in order, nulls where a column was missing, default kinds."""
    for needed in ("user_id", "item_id"):
        if needed not in frame.columns:
            raise BadInput(f"events need a column {needed}, got {', '.join(frame.columns) or 'none'}")
    columns = [
        pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, kind).alias(name)
        for name, kind in EVENT_SCHEMA.items()
    ]
    try:
        shaped = frame.select(columns)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"the events do not fit the schema: {error}") from error
    return shaped.with_columns(pl.col("kind").replace("", None).fill_null(DEFAULT_KIND))


def named(frame: pl.DataFrame, occurrences: Occurrences | None = None) -> pl.DataFrame:
    """The frame with an id in every row: those that are missing come from the content."""
    missing = frame["event_id"].is_null()
    if not missing.any():
        return frame
    if missing.all():
        return frame.with_columns(content_ids(frame, occurrences))
    ids = content_ids(frame.filter(missing), occurrences)
    places = pl.DataFrame({"row": missing.arg_true(), "own": ids})
    numbered = frame.with_row_index("row").with_columns(pl.col("row").cast(places["row"].dtype))
    joined = numbered.join(places, on="row", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("event_id", "own").alias("event_id")).select(EVENT_SCHEMA.names())


def judge(frame: pl.DataFrame, *, now_us: int | None = None) -> pl.DataFrame:
    """Columns code and detail for each row of a completed frame; null where the row is an event.

    `now_us` is the time of the caller's clock; without it no time counts as future.
    """
    ahead = pl.lit(False) if now_us is None else pl.col("time_us") > now_us + MAX_AHEAD_US
    value = pl.col("value")
    checks: list[tuple[Reject, pl.Expr, pl.Expr]] = [
        (Reject.MISSING_USER, _missing("user_id"), pl.lit("the user id is empty")),
        (Reject.MISSING_ITEM, _missing("item_id"), pl.lit("the item id is empty")),
    ]
    for name, limit, code in _LENGTHS:
        size = pl.col(name).str.len_bytes()
        detail = pl.format(f"{name} has {{}} bytes, at most {limit} are kept", size)
        checks.append((code, size > limit, detail))
    for name in ("event_id", "user_id", "item_id", "kind"):
        held = pl.col(name).str.contains("\x00", literal=True)
        checks.append((Reject.BAD_ID, held, pl.lit(f"{name} holds a zero byte")))
    checks += [
        (Reject.BAD_ID, pl.col("event_id") == "", pl.lit("the event id is empty")),
        (Reject.NAN_VALUE, ~value.is_finite(), pl.format("the value is {}", value)),
        (Reject.FUTURE_TIME, ahead, pl.format("{} us is over a day ahead of the clock", "time_us")),
    ]
    return frame.select(_first(checks, 1).alias("code"), _first(checks, 2).alias("detail"))


_LENGTHS: tuple[tuple[str, int, Reject], ...] = (
    ("event_id", MAX_ID_BYTES, Reject.ID_TOO_LONG),
    ("user_id", MAX_ID_BYTES, Reject.ID_TOO_LONG),
    ("item_id", MAX_ID_BYTES, Reject.ID_TOO_LONG),
    ("kind", MAX_KIND_BYTES, Reject.KIND_TOO_LONG),
)


def _missing(name: str) -> pl.Expr:
    return pl.col(name).is_null() | (pl.col(name) == "")


def _first(checks: list[tuple[Reject, pl.Expr, pl.Expr]], part: int) -> pl.Expr:
    """The code (part 1) or the detail (part 2) of the first check that holds."""
    answers = [
        pl.when(holds).then(pl.lit(str(code)) if part == 1 else detail) for code, holds, detail in checks
    ]
    return pl.coalesce(answers)


def counts_text(counts: Mapping[str, int]) -> str:
    """`12 bad-time, 3 missing-user`, the commonest first."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count:,} {code}" for code, count in ranked) or "none"
