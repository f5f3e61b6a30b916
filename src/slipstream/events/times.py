"""Event times from text and numbers to integer microseconds since 1970 UTC.

A number is unix time; its unit is guessed from its size, value by value: below 1e11 seconds (until the year
5138), below 1e14 milliseconds, below 1e17 microseconds, below 1e19 nanoseconds. So a time in milliseconds
before March 1973 would be read as seconds: name the unit where that matters. Text is a number, a date, or
RFC 3339 (`2024-01-31T12:00:00.5+02:00`, a space for the T, no seconds, or no offset = UTC are all fine).

`parse_times` works on columns, `parse_time` on one value; they agree, and a test holds them to it.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import polars as pl

TimeUnit = Literal["guess", "s", "ms", "us"]

_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
_GUESSES = ((1e11, 1_000_000.0), (1e14, 1_000.0), (1e17, 1.0), (1e19, 0.001))
_BLANK = " \t\r\n"
_LIMIT = 9.2e18  # what an int64 holds
_EPOCH = date(1970, 1, 1)
_DAY_US = 86_400_000_000

# Only ASCII digits and at most nine of a fraction; both engines read this pattern alike.
_TEXT = (
    r"^([0-9]{4})[-/]([0-9]{2})[-/]([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"[ ]?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
_NUMBER = r"^[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?$"
_WHOLE = r"^[+-]?[0-9]{1,18}$"
_pattern, _number, _whole = re.compile(_TEXT), re.compile(_NUMBER), re.compile(_WHOLE)


def parse_times(values: pl.Series, unit: TimeUnit = "guess") -> pl.Series:
    """Microseconds (Int64) of a column of numbers, texts, dates or datetimes; null where there is none."""
    kind = values.dtype
    if isinstance(kind, pl.Datetime):
        zoned = values if kind.time_zone is None else values.dt.convert_time_zone("UTC")
        return zoned.dt.timestamp("us").cast(pl.Int64)
    if kind == pl.Date:
        return values.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Int64)
    if kind.is_integer() or kind.is_float() or kind.is_decimal():
        return _from_numbers(values, unit)
    if kind == pl.String:
        return _from_texts(values, unit)
    return pl.Series(values.name, [None] * len(values), pl.Int64)


def _from_numbers(values: pl.Series, unit: TimeUnit) -> pl.Series:
    """Whole numbers stay whole all the way; fractions go through float64 (exact to under a microsecond)."""
    frame = values.rename("x").to_frame()
    x = pl.col("x")
    if values.dtype.is_integer():
        whole = frame.select(pl.when(x.cast(pl.Float64).abs() < _LIMIT).then(x).cast(pl.Int64, strict=False))
        return whole.select(_scaled_whole(pl.col("x"), unit)).to_series().rename(values.name)
    real = frame.select(x.cast(pl.Float64))
    return real.select(_scaled_real(pl.col("x"), unit)).to_series().rename(values.name)


def _scaled_whole(x: pl.Expr, unit: TimeUnit) -> pl.Expr:
    size = x.cast(pl.Float64).abs()
    if unit != "guess":
        factor = _PER_UNIT[unit]
        return pl.when(size * factor < _LIMIT).then(x * factor)
    return (
        pl.when(size < 1e11).then(x * 1_000_000)
        .when(size < 1e14).then(x * 1_000)
        .when(size < 1e17).then(x)
        .when(size < 1e19).then(x // 1_000)
    )  # fmt: skip


def _scaled_real(x: pl.Expr, unit: TimeUnit) -> pl.Expr:
    scaled = x * float(_PER_UNIT[unit]) if unit != "guess" else _guessed_real(x)
    return (
        pl.when(x.is_finite() & (scaled.abs() < _LIMIT))
        .then((scaled + 0.5).floor())
        .cast(pl.Int64, strict=False)
    )


def _guessed_real(x: pl.Expr) -> pl.Expr:
    size = x.abs()
    (a, fa), (b, fb), (c, fc), (d, fd) = _GUESSES
    return (
        pl.when(size < a).then(x * fa).when(size < b).then(x * fb).when(size < c).then(x * fc)
        .when(size < d).then(x * fd)
    )  # fmt: skip


def _from_texts(values: pl.Series, unit: TimeUnit) -> pl.Series:
    frame = pl.DataFrame({"x": values.str.strip_chars(_BLANK)})
    text = pl.col("x")
    whole = pl.when(text.str.contains(_WHOLE)).then(text).cast(pl.Int64, strict=False)
    found = frame.select(us=_scaled_whole(whole, unit)).to_series()
    if _complete(found, values):
        return found.rename(values.name)
    real = pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)
    found = pl.select(found.fill_null(frame.select(us=_scaled_real(real, unit)).to_series())).to_series()
    if _complete(found, values):
        return found.rename(values.name)
    return pl.select(found.fill_null(_calendar(frame))).to_series().rename(values.name)


def _complete(found: pl.Series, values: pl.Series) -> bool:
    return found.null_count() == values.null_count()


def _calendar(frame: pl.DataFrame) -> pl.Series:
    names = ["year", "month", "day", "hour", "minute", "second", "fraction", "zone"]
    parts = frame.select(pl.col("x").str.extract_groups(_TEXT).struct.rename_fields(names)).unnest("x")

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Int64).fill_null(0)

    day = pl.concat_str("year", pl.lit("-"), "month", pl.lit("-"), "day").str.to_date(
        "%Y-%m-%d", strict=False
    )
    fraction = pl.col("fraction").str.pad_end(9, "0").str.slice(0, 6).cast(pl.Int64).fill_null(0)
    digits = pl.col("zone").str.replace(":", "", literal=True)
    offset = (
        digits.str.slice(1, 2).cast(pl.Int64, strict=False),
        digits.str.slice(3, 2).cast(pl.Int64, strict=False),
    )
    ahead = pl.when(digits.str.starts_with("-")).then(-1).otherwise(1) * (offset[0] * 60 + offset[1])
    clock = (number("hour") * 60 + number("minute") - ahead.fill_null(0)) * 60 + number("second")
    sane = (
        (number("hour") < 24) & (number("minute") < 60) & (number("second") <= 60)
        & (offset[0].fill_null(0) < 24) & (offset[1].fill_null(0) < 60) & (number("year") > 0)
    )  # fmt: skip
    micros = day.cast(pl.Int32).cast(pl.Int64) * _DAY_US + clock * 1_000_000 + fraction
    return parts.select(us=pl.when(sane).then(micros)).to_series()


def parse_time(value: Any, unit: TimeUnit = "guess") -> int | None:
    """Microseconds of one number, text, date or datetime; None where it is not a time."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(value, date):
        return (value - _EPOCH).days * _DAY_US
    if isinstance(value, int):
        return _whole_us(value, unit)
    if isinstance(value, float):
        return _real_us(value, unit)
    return _text_us(value.strip(_BLANK), unit) if isinstance(value, str) else None


def _whole_us(value: int, unit: TimeUnit) -> int | None:
    size = abs(value)
    if size >= _LIMIT:
        return None
    if unit != "guess":
        scaled = value * _PER_UNIT[unit]
        return scaled if abs(scaled) < _LIMIT else None
    if size < 1e11:
        return value * 1_000_000
    if size < 1e14:
        return value * 1_000
    return value if size < 1e17 else value // 1_000


def _real_us(value: float, unit: TimeUnit) -> int | None:
    if not math.isfinite(value):
        return None
    factor = float(_PER_UNIT[unit]) if unit != "guess" else _guessed_factor(abs(value))
    scaled = value * factor if factor else math.inf
    return math.floor(scaled + 0.5) if abs(scaled) < _LIMIT else None


def _guessed_factor(size: float) -> float:
    return next((factor for limit, factor in _GUESSES if size < limit), 0.0)


def _text_us(text: str, unit: TimeUnit) -> int | None:
    if _whole.match(text):
        return _whole_us(int(text), unit)
    if _number.match(text):
        return _real_us(float(text), unit)
    match = _pattern.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        days = (date(int(year), int(month), int(day)) - _EPOCH).days
    except ValueError:
        return None
    digits = (zone or "").replace(":", "")
    east, south = (int(digits[1:3]), int(digits[3:5])) if len(digits) == 5 else (0, 0)
    h, m, s = int(hour or 0), int(minute or 0), int(second or 0)
    if h > 23 or m > 59 or s > 60 or east > 23 or south > 59:
        return None
    ahead = (-1 if digits.startswith("-") else 1) * (east * 60 + south)
    micros = int((fraction or "").ljust(9, "0")[:6])
    return days * _DAY_US + ((h * 60 + m - ahead) * 60 + s) * 1_000_000 + micros


def time_text(time_us: int) -> str:
    """RFC 3339 of a time, for messages; the number itself where no calendar holds it."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).isoformat()
    except OverflowError:
        return f"{time_us} us"
