"""Files that hold tables: what form they have, their rows as they come, whole small ones, and Parquet out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from slipstream.artifacts import sync_folder
from slipstream.errors import BadInput, of_system
from slipstream.events.chunks import Chunk
from slipstream.events.columns import ColumnChoice, ColumnMap, map_columns, map_headerless
from slipstream.events.delimited import DelimitedForm, Head, read_head, read_rows
from slipstream.events.event import EVENT_SCHEMA
from slipstream.events.frames import frame_names, read_frame_rows, row_count, scan_parquet
from slipstream.events.json_lines import json_names, read_json_rows
from slipstream.events.lines import reading
from slipstream.events.rejects import RejectsFile

HEAD_BYTES = 1 << 16
_JSON = (".jsonl", ".ndjson", ".jl")
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Table:
    """An open table. `find` tells which column is what, `rows` reads the wanted columns once, in order.

    size: bytes where `position` tells how many were read, else rows.
    """

    name: str
    form: str
    size: int
    find: Callable[[ColumnChoice], ColumnMap]
    rows: Callable[[Sequence[str]], Iterator[Chunk]]
    position: Callable[[], int] | None = None


@contextmanager
def open_table(path: Path, form: DelimitedForm) -> Iterator[Table]:
    """Open a file of events; its form is told by its ending and its first lines."""
    if path.suffix.lower() in _PARQUET:
        yield _parquet(path)
        return
    with reading(path) as (stream, file):
        start = stream.read(HEAD_BYTES)
        stream.seek(0)
        size = path.stat().st_size
        if _is_json(path, start):
            find = partial(map_columns, path.name, json_names(path.name, start))
            yield Table(path.name, "JSON lines", size, find, partial(read_json_rows, stream), file.tell)
        else:
            head = read_head(path.name, start, form)
            find = partial(_find, path.name, head)
            yield Table(path.name, _described(head), size, find, partial(read_rows, stream, head), file.tell)


def _find(where: str, head: Head, choice: ColumnChoice) -> ColumnMap:
    if head.form.has_header:
        return map_columns(where, head.names, choice)
    return map_headerless(where, head.first, choice)


def _is_json(path: Path, start: bytes) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".json" in suffixes and start.lstrip(b"\xef\xbb\xbf \n\r").startswith(b"["):
        raise BadInput(f"{path.name} is one JSON array", hint="write one object a line: jq -c '.[]' FILE")
    return any(suffix in _JSON for suffix in suffixes) or start.lstrip(b"\xef\xbb\xbf \n\r").startswith(b"{")


def _described(head: Head) -> str:
    names = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", "::": "double colons"}
    separator = names.get(head.separator, repr(head.separator))
    header = "a header" if head.form.has_header else "no header"
    typed = " with types" if head.types else ""
    return f"{len(head.names)} columns separated by {separator}, {header}{typed}"


def _parquet(path: Path) -> Table:
    table = scan_parquet(path)
    names, rows = frame_names(table), row_count(table)
    find = partial(map_columns, path.name, names)
    return Table(path.name, f"Parquet, {len(names)} columns", rows, find, partial(read_frame_rows, table))


def has_types(file: Path) -> bool:
    """Whether a file says itself what is a number and what is text, as Parquet and JSON do."""
    path = Path(file)
    if path.suffix.lower() in _PARQUET:
        return True
    with reading(path) as (stream, _):
        return _is_json(path, stream.read(HEAD_BYTES))


def read_table(
    file: Path, *, rejects: Path | None = None, form: DelimitedForm | None = None, lists: bool = True
) -> pl.DataFrame:
    """A whole table of items, people or triples, in memory.

    Parquet and JSON lines keep their types. Text tables give strings, an empty cell null; columns that a
    RecBole header types `float` become numbers and `token_seq` and `float_seq` lists, split at blanks. The
    first line is the header unless `form` says otherwise. A line that is no row raises BadInput, or goes to
    a file in the folder `rejects` if one is given. With `lists` off, list columns stay text.
    """
    path = Path(file)
    if path.suffix.lower() in _PARQUET:
        return scan_parquet(path).collect()
    with reading(path) as (stream, _):
        start = stream.read(HEAD_BYTES)
        stream.seek(0)
        if _is_json(path, start):
            return _read_json(path, stream.read())
        head = read_head(path.name, start, form or DelimitedForm(has_header=True))
        bad = RejectsFile(rejects, path.name, str(path.resolve())) if rejects else None
        parts: list[pl.DataFrame] = []
        try:
            for chunk in read_rows(stream, head):
                parts.append(chunk.frame)
                if bad is not None:
                    bad.add(chunk.faults)
                elif chunk.faults:
                    fault = chunk.faults[0]
                    raise BadInput(
                        f"{path.name}, line {fault.line}: {fault.detail}", hint=f"the line: {fault.row}"
                    )
        finally:
            if bad is not None:
                bad.close()
    frame = pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(head.names, pl.String()))
    kinds = {name: kind for name, kind in head.types.items() if lists or not kind.endswith("_seq")}
    return frame.with_columns(_typed(name, kind) for name, kind in kinds.items())


def _read_json(path: Path, content: bytes) -> pl.DataFrame:
    try:
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise BadInput(
            f"{path.name} is not a table of JSON lines: {str(error).splitlines()[0][:200]}"
        ) from error


def _typed(name: str, kind: str) -> pl.Expr:
    column = pl.col(name)
    if kind == "float":
        return column.str.strip_chars().cast(pl.Float64, strict=False)
    if kind == "token":
        return column
    parts = column.str.strip_chars().str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    return parts.cast(pl.List(pl.Float64), strict=False) if kind == "float_seq" else parts


def write_parquet(path: Path, chunks: Iterable[pl.DataFrame]) -> int:
    """Write frames in EVENT_SCHEMA one after the other into a Parquet file, all at once. Returns the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        parts: list[Path] = []
        rows = 0
        for chunk in chunks:
            part = folder / f"{len(parts)}.parquet"
            chunk.write_parquet(part, compression="lz4")
            parts.append(part)
            rows += chunk.height
        whole = folder / "whole.parquet"
        if parts:
            pl.scan_parquet(parts).sink_parquet(whole, compression="zstd")
        else:
            pl.DataFrame(schema=EVENT_SCHEMA).write_parquet(whole)
        whole.replace(path)
        sync_folder(path.parent)
    except pl.exceptions.ComputeError as error:  # how a full disk reads while Polars streams
        raise of_system(OSError(str(error).splitlines()[0])) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return rows
