"""Rows of tables that have types already: Parquet files and frames in memory (Polars, pandas, Arrow)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from slipstream.errors import BadInput, NotThere
from slipstream.events.chunks import Chunk

CHUNK_ROWS = 1 << 16


def to_polars(frame: Any) -> pl.LazyFrame:
    """A lazy frame of a Polars, pandas or Arrow table; anything that gives itself as an Arrow stream."""
    if isinstance(frame, pl.LazyFrame):
        return frame
    if isinstance(frame, pl.DataFrame):
        return frame.lazy()
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        return _from_pandas(frame).lazy()
    if hasattr(frame, "__arrow_c_stream__"):
        with suppress(pl.exceptions.PolarsError):  # one column alone comes the same way, and is no table
            return pl.DataFrame(frame).lazy()
    raise BadInput(
        f"a table must be a Polars, pandas or Arrow table, got {type(frame).__name__}",
        hint="or the path of a file",
    )


def _from_pandas(frame: Any) -> pl.DataFrame:
    """NaN and NaT become nulls: they are how pandas writes a missing value."""
    try:
        return pl.from_pandas(frame)
    except (ImportError, ValueError, TypeError):  # no pyarrow, or a column of mixed types: value by value
        cells = {str(name): frame[name].tolist() for name in frame.columns}
        known = {name: [None if cell != cell else cell for cell in column] for name, column in cells.items()}
        return pl.DataFrame(known, strict=False)


def scan_parquet(path: Path) -> pl.LazyFrame:
    if not path.exists():
        raise NotThere(f"there is no file {path}")
    try:
        table = pl.scan_parquet(path)
        table.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from error
    return table


def frame_names(table: pl.LazyFrame) -> list[str]:
    return table.collect_schema().names()


def row_count(table: pl.LazyFrame) -> int:
    return int(table.select(pl.len()).collect().item())


def read_frame_rows(table: pl.LazyFrame, wanted: Sequence[str]) -> Iterator[Chunk]:
    """The wanted columns in chunks; a row's line is its number, from 1."""
    chosen = table.select(wanted)
    for start in range(0, row_count(table), CHUNK_ROWS):
        frame = chosen.slice(start, CHUNK_ROWS).collect()
        yield Chunk(frame, np.arange(start + 1, start + 1 + frame.height), _Rows(frame))


class _Rows(Sequence[str]):
    """Rows as JSON, written only when somebody looks."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return self._frame.height

    def __getitem__(self, row: Any) -> Any:
        cells = self._frame.row(row, named=True)
        short = {name: cell[:300] if isinstance(cell, str) else cell for name, cell in cells.items()}
        return json.dumps(short, ensure_ascii=False, default=str)
