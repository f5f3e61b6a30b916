"""Raw columns to events: texts to times and numbers, and a verdict on every row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.errors import BadInput
from slipstream.events.chunks import Chunk, Fault
from slipstream.events.columns import ColumnMap, Role
from slipstream.events.event import Reject, completed, judge
from slipstream.events.times import parse_times


@dataclass(frozen=True)
class Shaped:
    """Rows that are events, ids still missing; `places[r]` is the row of the chunk that row r was."""

    frame: pl.DataFrame
    places: NDArray[np.int64]


def shape(chunk: Chunk, found: ColumnMap, now_us: int | None) -> tuple[Shaped, list[Fault]]:
    """The events of a chunk, and what was wrong with its other rows."""
    raw = chunk.frame
    columns = {
        "event_id": _texts(raw, found, "event_id", empty_is_null=True),
        "user_id": _texts(raw, found, "user"),
        "item_id": _texts(raw, found, "item"),
        "kind": _texts(raw, found, "kind", empty_is_null=True).fill_null(found.choice.default_kind),
        "value": _numbers(raw, found),
        "time_us": _times(raw, found),
    }
    frame = completed(pl.DataFrame(columns))
    judged = judge(frame, now_us=now_us)
    judged = _unreadable(judged, raw, frame["time_us"], found, "time", Reject.BAD_TIME)
    judged = _unreadable(judged, raw, frame["value"], found, "value", Reject.BAD_VALUE)
    good = judged["code"].is_null()
    if good.all():
        return Shaped(frame, np.arange(frame.height)), []
    bad = judged.with_row_index("row").filter(~good)
    faults = [chunk.fault(row, code, detail) for row, code, detail in bad.iter_rows()]
    return Shaped(frame.filter(good), np.flatnonzero(good.to_numpy())), faults


def _column(raw: pl.DataFrame, found: ColumnMap, role: Role) -> pl.Series | None:
    return raw[found.columns[role]] if role in found.columns else None


def _texts(raw: pl.DataFrame, found: ColumnMap, role: Role, *, empty_is_null: bool = False) -> pl.Series:
    column = _column(raw, found, role)
    if column is None:
        return pl.Series([None] * raw.height, dtype=pl.String)
    text = id_texts(column)
    return text.replace("", None) if empty_is_null else text


def id_texts(column: pl.Series) -> pl.Series:
    """Ids as text, untouched; a whole number in a float column loses its `.0`. Raises BadInput."""
    if column.dtype.is_float():
        column = _whole_numbers(column)
    try:
        return column.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"column {column.name!r} holds {column.dtype}, not an id") from error


def _whole_numbers(column: pl.Series) -> pl.Series:
    """Floats as text, 7.0 as "7": pandas turns whole ids into floats where one is missing."""
    x = pl.col("x")
    whole = x.cast(pl.Int64, strict=False)
    text = (
        pl.when(x == whole.cast(pl.Float64))
        .then(whole.cast(pl.String))
        .when(x.is_not_nan())
        .then(x.cast(pl.String))
    )
    return column.cast(pl.Float64).to_frame("x").select(text).to_series().alias(column.name)


def _numbers(raw: pl.DataFrame, found: ColumnMap) -> pl.Series:
    column = _column(raw, found, "value")
    if column is None:
        return pl.Series([None] * raw.height, dtype=pl.Float64)
    if column.dtype == pl.String:
        column = column.str.strip_chars(" \t")
    try:
        return column.cast(pl.Float64, strict=False)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"column {column.name!r} holds {column.dtype}, not a value") from error


def _times(raw: pl.DataFrame, found: ColumnMap) -> pl.Series:
    column = _column(raw, found, "time")
    if column is None:
        return pl.Series([None] * raw.height, dtype=pl.Int64)
    return parse_times(column, found.time_unit)


def _unreadable(
    judged: pl.DataFrame, raw: pl.DataFrame, result: pl.Series, found: ColumnMap, role: Role, code: Reject
) -> pl.DataFrame:
    """Mark rows where a cell gave nothing: any such time, and a value that was not empty."""
    column = _column(raw, found, role)
    if column is None:
        return judged
    empty = column.is_null() | (column == "" if column.dtype == pl.String else False)
    fault = result.is_null() & (~empty if role == "value" else True)
    if not fault.any():
        return judged
    what = "a time" if role == "time" else "a number"
    details: list[str | None] = [None] * raw.height
    for row in fault.arg_true().to_list():
        details[row] = f"the {role} is empty" if empty[row] else f"not {what}: {str(column[row])[:80]!r}"
    marked = pl.Series("own", details, pl.String)
    judged = judged.with_columns(marked)
    mine = pl.col("code").is_null() & pl.col("own").is_not_null()
    return judged.select(
        code=pl.when(mine).then(pl.lit(str(code))).otherwise("code"),
        detail=pl.when(mine).then("own").otherwise("detail"),
    )
