"""Reads a folder of data in the public form: interactions and, where there are, catalogue and graph.

    interactions.parquet    user_id, item_id; optional rating | weight, timestamp (unix s), seq, split, kind
    items.parquet           item_id and what is known of an item
    users.parquet           user_id and what is known of a user
    kg.parquet              head, relation, tail
    item_links.parquet      item_id, entity_id
    user_friends.parquet    two columns of user ids: who is a friend of whom
    trust.parquet           two columns of user ids: who trusts whom

Rows come out in the order of the boards: timestamp, then seq, then the row of the file. Repeated rows stay
(the boards count them). This file does not know what a board or a model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from slipstream.errors import BadInput, NotThere

MICROSECONDS = 1_000_000
PEOPLE_EDGES = {"user_friends": "friend", "trust": "trusts"}
"""Files of edges between people, and the relation of each."""
FORM_HINT = "a data folder holds interactions.parquet with the columns user_id and item_id"


@dataclass(frozen=True)
class DataFolder:
    """One data set in memory.

    interactions: user_id, item_id (String), value (Float32: rating, else weight, else 1), and where the data
      has them time_us (Int64, microseconds), split and kind (String); in board order.
    has_time: there is a shared clock. has_order: the order inside a user's history means something.
    dropped: rows without a user or an item, which were left out.
    people_edges: head, relation, tail (String) of edges between people, by user id.
    """

    path: Path
    interactions: pl.DataFrame
    items: pl.DataFrame | None
    users: pl.DataFrame | None
    kg: pl.DataFrame | None
    item_links: pl.DataFrame | None
    has_time: bool
    has_order: bool
    dropped: int = 0
    people_edges: pl.DataFrame | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_folder(path: str | Path, *, graph: str = "") -> DataFolder:
    """Read a data folder; `graph="mkr"` takes `kg_mkr.parquet` and its links instead of `kg.parquet`.

    Raises NotThere without a folder or an interactions file, BadInput where a file or column is not as above.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise NotThere(f"there is no data folder at {folder}", hint=FORM_HINT)
    suffix = f"_{graph}" if graph else ""
    raw = _read(folder / "interactions.parquet", ("user_id", "item_id"))
    if raw is None:
        raise NotThere(f"{folder} has no interactions.parquet", hint=FORM_HINT)
    rows = _ordered(raw)
    kept = rows.filter(pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null())
    kg = _read(folder / f"kg{suffix}.parquet", ("head", "relation", "tail"))
    if graph and kg is None:
        raise NotThere(
            f"{folder} has no kg{suffix}.parquet", hint="leave the graph's name out for kg.parquet"
        )
    return DataFolder(
        path=folder,
        interactions=_interactions(kept, folder),
        items=_read(folder / "items.parquet", ("item_id",)),
        users=_read(folder / "users.parquet", ("user_id",)),
        kg=kg,
        item_links=_read(folder / f"item_links{suffix}.parquet", ("item_id", "entity_id")),
        has_time="timestamp" in raw.columns,
        has_order=bool({"timestamp", "seq"} & set(raw.columns)),
        dropped=rows.height - kept.height,
        people_edges=_people_edges(folder),
    )


def _people_edges(folder: Path) -> pl.DataFrame | None:
    """Of all files of edges between people; a row without both ends is none."""
    tables = []
    for name, relation in PEOPLE_EDGES.items():
        file = folder / f"{name}.parquet"
        if (table := _read(file, ())) is None:
            continue
        if table.width < 2:
            raise BadInput(f"{file} needs two columns of user ids", hint=FORM_HINT)
        head, tail = (pl.col(column).cast(pl.String) for column in table.columns[:2])
        edges = table.select(head.alias("head"), pl.lit(relation).alias("relation"), tail.alias("tail"))
        tables.append(edges.drop_nulls())
    return pl.concat(tables) if tables else None


def _read(file: Path, needed: tuple[str, ...]) -> pl.DataFrame | None:
    """The table with its id columns as text, or None if there is no such file."""
    if not file.exists():
        return None
    try:
        table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{file} cannot be read as Parquet: {error}", hint="write it again") from error
    missing = [column for column in needed if column not in table.columns]
    if missing:
        listed = ", ".join(table.columns) or "none"
        raise BadInput(f"{file} has no column {missing[0]!r}; it has: {listed}", hint=FORM_HINT)
    return table.with_columns(pl.col(column).cast(pl.String) for column in needed)


def _ordered(rows: pl.DataFrame) -> pl.DataFrame:
    """Board order; rows without a time come first, as in the independent scorer."""
    keys = [column for column in ("timestamp", "seq") if column in rows.columns]
    return rows.sort(keys, maintain_order=True) if keys else rows


def _interactions(rows: pl.DataFrame, folder: Path) -> pl.DataFrame:
    file = folder / "interactions.parquet"
    if not rows.height:
        raise BadInput(f"{file} has no row with a user and an item", hint=FORM_HINT)
    columns = [pl.col("user_id"), pl.col("item_id"), _value(rows).alias("value")]
    if "timestamp" in rows.columns:
        columns.append(_time_us(rows, file).alias("time_us"))
    columns += [pl.col(name).cast(pl.String) for name in ("split", "kind") if name in rows.columns]
    return rows.select(columns)


def _value(rows: pl.DataFrame) -> pl.Expr:
    source = next((name for name in ("rating", "weight") if name in rows.columns), None)
    if source is None:
        return pl.lit(1.0, pl.Float32)
    return pl.col(source).cast(pl.Float32).fill_nan(None).fill_null(1.0)


def _time_us(rows: pl.DataFrame, file: Path) -> pl.Expr:
    """Unix seconds to microseconds. A missing time becomes the earliest known one: it sorts first anyway."""
    kind = rows.schema["timestamp"]
    time = pl.col("timestamp")
    if kind.is_integer():
        micros = time.cast(pl.Int64) * MICROSECONDS
    elif kind.is_float():
        micros = (time * MICROSECONDS).round().cast(pl.Int64, strict=False)  # NaN becomes missing
    elif isinstance(kind, pl.Datetime | pl.Date):
        micros = time.cast(pl.Datetime("us")).dt.epoch("us")
    else:
        raise BadInput(f"{file}: timestamp must be unix seconds, it is {kind}", hint="write int64 seconds")
    return micros.fill_null(micros.min()).fill_null(0)
