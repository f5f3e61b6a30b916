"""The catalogue of a home: one table of items, one of people, and tables and triples of other things.

A later row of the same id replaces the earlier one. Files are written beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from slipstream.config import Home
from slipstream.errors import BadInput, CorruptArtifact
from slipstream.events.shaping import id_texts
from slipstream.graph.columns import find_separator
from slipstream.recommend.newcomers import AddedItems

FOLDED = "added_bytes"  # of the log of added items, that a table already holds

Of = Literal["items", "users"]
ID_COLUMNS: dict[Of, tuple[str, ...]] = {
    "items": (
        "item_id",
        "itemId",
        "item",
        "movie_id",
        "movieId",
        "product_id",
        "productId",
        "sku",
        "asin",
        "id",
    ),
    "users": ("user_id", "userId", "user", "customer_id", "customerId", "uid", "id"),
}


@dataclass(frozen=True)
class TableReport:
    """What became of a table that was added."""

    of: str
    id_column: str
    rows: int
    new: int
    replaced: int
    without_id: int
    repeated: int  # rows whose id a later row of the same table has
    columns: tuple[str, ...]

    def lines(self) -> list[str]:
        what = f"{self.rows:,} rows by {self.id_column}: {self.new:,} new, {self.replaced:,} replaced"
        lost = f"; {self.without_id:,} without an id left out" if self.without_id else ""
        if self.repeated:
            lost += f"; {self.repeated:,} of an id that comes again: its last row counts"
        return [f"{self.of}: {what}{lost}", f"columns: {', '.join(self.columns)}"]


def table_path(home: Home, of: Of) -> Path:
    return home.catalogue / f"{of}.parquet"


def read_table_of(home: Home, of: Of) -> pl.DataFrame | None:
    """The table with its id column as text, or None if nothing was added yet.

    Items that a running server took in (`added.jsonl`) are laid over, so the next release holds them; those
    that were there when the table was written are in it already.
    """
    path = table_path(home, of)
    table, folded = None, 0
    if path.exists():
        table = read_kept(path)
        folded = int(pl.read_parquet_metadata(path).get(FOLDED, "0"))
    log = AddedItems(home.catalogue)
    added = log.read(folded if folded <= log.size() else 0)[0] if of == "items" else []
    return table if not added else _overlaid(table, added)


def read_kept(path: Path) -> pl.DataFrame:
    """A table that was written here. Raises CorruptArtifact by name if it cannot be read."""
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        hint = "put a copy of it back, or remove it and add its source again"
        raise CorruptArtifact(f"{path} was changed after it was written", hint=hint) from error


def _overlaid(table: pl.DataFrame | None, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The table with rows of JSON laid over: a column that a row names is replaced, the others stay.

    Values take the type of their column.
    """
    named = pl.Series("named", [row["item_id"] for row in rows], pl.String).implode()
    known = [] if table is None else table.filter(pl.col("item_id").is_in(named)).to_dicts()
    whole: dict[str, dict[str, Any]] = {row["item_id"]: row for row in known}
    for row in rows:
        whole[row["item_id"]] = {**whole.get(row["item_id"], {}), **row}
    latest = list(whole.values())
    names = list(dict.fromkeys(name for row in latest for name in row))
    schema = {} if table is None else dict(table.schema)
    columns = {n: _column_of([row.get(n) for row in latest], schema.get(n)) for n in names}
    fresh = pl.DataFrame(columns)
    if table is None:
        return fresh
    return _stacked(table, fresh, "item_id")


def _stacked(old: pl.DataFrame, new: pl.DataFrame, name: str) -> pl.DataFrame:
    """One table of both, the last row of each id; a column that is a list in one is a list of texts in it."""
    both = [old, new]
    for column in set(old.columns) & set(new.columns):
        if any(isinstance(frame.schema[column], pl.List) for frame in both):
            both = [frame.with_columns(_as_list(frame[column])) for frame in both]
    return pl.concat(both, how="diagonal_relaxed").unique(name, keep="last", maintain_order=True)


def _as_list(series: pl.Series) -> pl.Series:
    if isinstance(series.dtype, pl.List):
        return series.cast(pl.List(pl.String))
    texts = series.cast(pl.String)
    separator = find_separator(texts.drop_nulls())
    if separator:
        return texts.str.split(separator)
    return pl.Series(series.name, [None if text is None else [text] for text in texts], pl.List(pl.String))


def _column_of(values: list[Any], wanted: pl.DataType | None) -> pl.Series:
    lists = isinstance(wanted, pl.List) or (wanted is None and any(isinstance(v, list) for v in values))
    if lists:
        texts = [None if v is None else [str(x) for x in (v if isinstance(v, list) else [v])] for v in values]
        return pl.Series(texts, dtype=pl.List(pl.String))
    plain = [json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v for v in values]
    series = pl.Series(plain, strict=False)
    return series if wanted is None else series.cast(wanted, strict=False)


def add_rows(
    home: Home, of: Of, rows: pl.DataFrame, id_column: str | None = None, *, untyped: bool = False
) -> TableReport:
    """Add rows of attributes; a row of a known id replaces it. Raises BadInput without an id or rows.

    untyped: the rows come from a table of texts, so a column of nothing but numbers is made one.
    """
    chosen = _id_column(rows, of, id_column)
    name = "item_id" if of == "items" else "user_id"
    if chosen != name and name in rows.columns:
        raise BadInput(f"the table has a column {name!r} beside {chosen!r}", hint="rename or drop it")
    renamed = rows.rename({chosen: name}).with_columns(id_texts(rows[chosen]).alias(name))
    good = renamed.filter(pl.col(name).is_not_null() & (pl.col(name) != ""))
    if untyped:
        good = _with_numbers(good, but=name)
    if good.is_empty():
        raise BadInput(
            f"no row has an id in column {chosen!r}", hint=f"name the column: --id, of {rows.columns}"
        )
    folded = AddedItems(home.catalogue).size()
    old = read_table_of(home, of)
    known = 0 if old is None else int(good[name].unique().is_in(old[name].implode()).sum())
    merged = good.unique(name, keep="last", maintain_order=True) if old is None else _stacked(old, good, name)
    write_parquet(merged, table_path(home, of), {FOLDED: str(folded)})
    distinct = good[name].n_unique()
    return TableReport(
        of,
        chosen,
        rows.height,
        distinct - known,
        known,
        rows.height - good.height,
        good.height - distinct,
        tuple(merged.columns),
    )


_NUMBER = r"^-?(0|[1-9]\d{0,14})(\.\d{1,14})?$"  # no leading zeros: 01234 is a code


def _with_numbers(frame: pl.DataFrame, *, but: str) -> pl.DataFrame:
    """Text columns whose every filled cell is a number, as Int64 or Float64."""
    numbers = []
    for series in frame.drop(but):
        filled = series.drop_nulls()
        if series.dtype != pl.String or filled.is_empty() or not filled.str.contains(_NUMBER).all():
            continue
        fractions = filled.str.contains(".", literal=True).any()
        numbers.append(series.cast(pl.Float64 if fractions else pl.Int64))
    return frame.with_columns(numbers)


def _id_column(rows: pl.DataFrame, of: Of, given: str | None) -> str:
    names = (given,) if given else ID_COLUMNS[of]
    for name in names:
        if name in rows.columns:
            return name
    listed = ", ".join(rows.columns)
    raise BadInput(
        f"the table has no column {given!r}"
        if given
        else f"no column of the table looks like the id of {of}",
        hint=f"name it with --id; columns: {listed}",
    )


def write_parquet(frame: pl.DataFrame, path: Path, notes: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        frame.write_parquet(beside, metadata=notes)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)  # there only where the disk was full


def add_file(home: Home, frame: pl.DataFrame, kind: str) -> Path:
    """Keep a table of triples, links or entities; the same content twice is kept once."""
    digest = hashlib.sha256(
        frame.hash_rows(seed=0).to_numpy().tobytes() + str(frame.columns).encode()
    ).hexdigest()
    path = home.triples / f"{kind}-{digest[:12]}.parquet"
    write_parquet(frame, path)
    return path


def kept_files(home: Home, kind: str) -> list[Path]:
    return sorted(home.triples.glob(f"{kind}-*.parquet"))
