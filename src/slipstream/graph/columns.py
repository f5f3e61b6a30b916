"""What a column of a table holds, and the values of each row as texts that two rows can share.

Lists are split, years become decades, numbers quantile buckets; free text and ids are left alone, because
no two rows share them. Every decision comes back with its reason, so that a person can overrule it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.config import Settings
from slipstream.errors import BadInput

Treatment = Literal["auto", "categories", "list", "decades", "buckets", "words", "left out"]

MISSING = ("", "N/A", "n/a", "\\N", "null", "nan", "NaN", "None")
LONGEST_VALUE = 300  # bytes; a longer one is text, not a name
SEPARATORS = ("|", ";", ", ")
_SHARED = 0.2  # share of cells whose value another row has too; titles have about .03, directors .75
_REUSED = 0.2  # share of the distinct parts of a split text that more than one row has
_CODES = 30  # so many different whole numbers can be codes
_ESCAPE = r"&#?\w+;"  # `&amp;` is no list
_YEARS = (1850, 2100)
_SAMPLE = 5_000  # rows looked at to find a separator


class ColumnRule(Settings):
    """What to do with one column; the default decides by what the column holds."""

    treat: Treatment = "auto"
    relation: str | None = None  # default: the name of the column
    type: str | None = (
        None  # default: the name of the column; give two columns one type to merge their values
    )
    separator: str | None = None  # of a list in a text; default: found out
    buckets: int = 5  # quantile buckets of a number


@dataclass(frozen=True)
class ColumnReport:
    """What was done with one column, and why."""

    column: str
    treatment: str
    why: str
    values: int = 0  # distinct
    cells: int = 0


@dataclass(frozen=True)
class ColumnValues:
    """cells: row (Int32), value (String); distinct, in row order."""

    cells: pl.DataFrame
    report: ColumnReport


def column_values(series: pl.Series, rule: ColumnRule | None = None) -> ColumnValues:
    """The shareable values of each row of a column. O(cells)."""
    rule = rule or ColumnRule()
    treat, why = (rule.treat, "asked") if rule.treat != "auto" else _choose(series)
    if treat == "left out":
        return ColumnValues(_cells([], []), ColumnReport(series.name, treat, why))
    cells = _treated(series, treat, rule)
    cells = cells.filter(~pl.col("value").is_in(MISSING) & (pl.col("value").str.len_bytes() <= LONGEST_VALUE))
    if rule.treat == "auto" and treat != "buckets":
        reason = _nothing_to_share(series, cells)
        if reason:
            return ColumnValues(_cells([], []), ColumnReport(series.name, "left out", reason))
    report = ColumnReport(series.name, treat, why, cells["value"].n_unique(), cells.height)
    return ColumnValues(cells, report)


def _choose(series: pl.Series) -> tuple[Treatment, str]:
    dtype = series.dtype
    if isinstance(dtype, pl.List | pl.Array):
        return "list", "a list"
    if dtype == pl.Boolean:
        return "categories", "yes or no"
    if dtype.is_temporal():
        return ("decades", "a date") if dtype in (pl.Date, pl.Datetime) else ("left out", "a time of day")
    if dtype.is_numeric():
        return _choose_number(series)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return _choose_text(series.cast(pl.String))
    return "left out", "empty" if dtype == pl.Null else f"cannot read a column of type {dtype}"


def _choose_number(series: pl.Series) -> tuple[Treatment, str]:
    values = series.drop_nulls()
    whole = values.cast(pl.Float64).filter(values.cast(pl.Float64).is_finite())
    if whole.is_empty():
        return "left out", "empty"
    integral = bool((whole == whole.floor()).all())
    if integral and _named_like_id(series.name):
        return "left out", "an id"
    low, high = np.quantile(whole.to_numpy(), [0.01, 0.99])
    if integral and _YEARS[0] <= low and high <= _YEARS[1]:
        return "decades", "years"
    if whole.n_unique() <= (_CODES if integral else _CODES // 3):
        return "categories", "few different numbers"
    return "buckets", "numbers"


def _choose_text(texts: pl.Series) -> tuple[Treatment, str]:
    filled = texts.drop_nulls().filter(~texts.drop_nulls().is_in(MISSING))
    if filled.is_empty():
        return "left out", "empty"
    if _share(filled.str.contains(r"^\d{4}-\d{2}-\d{2}")) >= 0.9:
        return "decades", "dates"
    if _share(filled.str.contains(r"^\w+://")) >= 0.5:
        return "left out", "addresses of pages"
    separator = find_separator(filled)
    if separator:
        return "list", f"lists separated by {separator!r}"
    if _named_like_id(texts.name) and filled.n_unique() > 0.9 * len(filled):
        return "left out", "an id"
    return "categories", "names"


def _named_like_id(name: str) -> bool:
    return bool(re.search(r"(^|_|[a-z])(id|ID|Id)$|^(uuid|guid|index)$", name))


def find_separator(filled: pl.Series) -> str | None:
    """The separator of lists in a text column, or None.

    A separator is real when the parts are names of their own: enough of the distinct parts occur in more
    than one row. `Usual Suspects, The` fails (each first part once), a cast passes.
    """
    sample = filled.head(_SAMPLE)
    for separator in SEPARATORS:
        split = sample.filter(sample.str.replace_all(_ESCAPE, "").str.contains(separator, literal=True))
        if len(split) < max(2, len(sample) // 100):
            continue
        parts = _split(split, separator)
        everywhere = _split(sample, separator)["value"].value_counts(name="rows")
        distinct = parts.select("value").unique().join(everywhere, on="value")
        if _mean(parts["value"].str.len_chars()) <= 40 and _share(distinct["rows"] > 1) >= _REUSED:
            return separator
    return None


def _share(mask: pl.Series) -> float:
    return float(mask.sum()) / max(1, len(mask))


def _mean(values: pl.Series) -> float:
    return float(values.sum()) / max(1, len(values))


def _nothing_to_share(series: pl.Series, cells: pl.DataFrame) -> str:
    """Why the values of a column cannot connect rows; empty if they can."""
    if cells.is_empty():
        return "empty"
    counts = cells.select(pl.len().over("value").alias("rows"))["rows"]
    if _share(counts > 1) < _SHARED and cells.height >= 10:
        text = _mean(cells["value"].str.count_matches(r"\s")) >= 1
        return "free text: hardly two rows share a value" if text else "like an id: all different"
    if cells["value"].n_unique() == 1 and cells.height == len(series) >= 10:
        return "the same value in every row"
    return ""


def _treated(series: pl.Series, treat: Treatment, rule: ColumnRule) -> pl.DataFrame:
    if treat == "list":
        return _list_cells(series, rule)
    if treat == "decades":
        return _decades(series)
    if treat == "buckets":
        return _buckets(series, rule.buckets)
    texts = _texts(series)
    if treat == "words":
        words = texts.str.to_lowercase().str.extract_all(r"[\pL\pN]{3,}")
        return _exploded(words)
    return _distinct(pl.DataFrame({"row": _rows(texts), "value": texts}))


def _texts(series: pl.Series) -> pl.Series:
    """Each value as text; whole numbers without `.0`."""
    if series.dtype.is_float():
        values = series.to_list()
        return pl.Series(series.name, [None if v is None or v != v else f"{v:g}" for v in values], pl.String)
    return series.cast(pl.String).str.strip_chars()


def _list_cells(series: pl.Series, rule: ColumnRule) -> pl.DataFrame:
    if isinstance(series.dtype, pl.List | pl.Array):
        return _exploded(series.cast(pl.List(pl.String)))
    texts = series.cast(pl.String)
    separator = rule.separator or find_separator(texts.drop_nulls()) or ","
    return _split(texts, separator)


def _split(texts: pl.Series, separator: str) -> pl.DataFrame:
    if separator == ";":
        texts = texts.str.replace_all(_ESCAPE, "\u0001")  # cannot be split well: such cells are dropped
    return _exploded(texts.str.split(separator))


def _exploded(lists: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"row": _rows(lists), "value": lists}).filter(pl.col("value").list.len() > 0)
    return _distinct(frame.explode("value"))


def _distinct(cells: pl.DataFrame) -> pl.DataFrame:
    cells = cells.with_columns(pl.col("value").str.strip_chars())
    return cells.filter(pl.col("value").is_not_null()).unique(maintain_order=True)


def _rows(series: pl.Series) -> NDArray[np.int32]:
    return np.arange(len(series), dtype=np.int32)


def _decades(series: pl.Series) -> pl.DataFrame:
    if series.dtype.is_numeric():
        years = series.cast(pl.Float64).cast(pl.Int64, strict=False)
    elif series.dtype in (pl.Date, pl.Datetime):
        years = series.dt.year().cast(pl.Int64)
    else:
        years = series.cast(pl.String).str.extract(r"(\d{4})").cast(pl.Int64, strict=False)
    frame = pl.DataFrame({"row": _rows(series), "year": years}).drop_nulls()
    decade = (pl.col("year") // 10 * 10).cast(pl.String) + "s"
    return frame.select("row", decade.alias("value"))


def _buckets(series: pl.Series, buckets: int) -> pl.DataFrame:
    if buckets < 2:
        raise BadInput(f"column {series.name}: a number needs at least 2 buckets, got {buckets}")
    values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    rows = np.flatnonzero(np.isfinite(values))
    if not len(rows):
        return _cells([], [])
    edges = np.unique(np.quantile(values[rows], np.linspace(0, 1, buckets + 1)[1:-1]))
    number = np.searchsorted(edges, values[rows], side="right")
    middle = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
    names = [f"under {edges[0]:g}", *middle, f"{edges[-1]:g} and over"]
    return _cells(rows.tolist(), [names[n] for n in number])


def _cells(rows: list[int], values: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"row": rows, "value": values}, schema={"row": pl.Int32, "value": pl.String})
