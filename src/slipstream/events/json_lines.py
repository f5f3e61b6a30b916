"""Rows of a JSON lines file: one object a line. Numbers and texts become text, so that every road is one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from slipstream.errors import BadInput
from slipstream.events.chunks import Chunk, Fault, shown
from slipstream.events.event import Reject
from slipstream.events.lines import MAX_LINE_BYTES, Block, Stream, blocks, overlong

_SAMPLE = 1_000  # objects whose keys make the columns


def json_names(where: str, start: bytes) -> list[str]:
    """The keys of the first objects, in order of appearance."""
    names: dict[str, None] = {}
    for line in start.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:_SAMPLE]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            names.update(dict.fromkeys(map(str, row)))
    if not names:
        raise BadInput(f"{where}: no line at its beginning is a JSON object")
    return list(names)


def read_json_rows(stream: Stream, wanted: Sequence[str]) -> Iterator[Chunk]:
    """The wanted keys of every object as text columns, in chunks of about a megabyte."""
    for block in blocks(stream):
        yield _chunk(block, wanted)


def _chunk(block: Block, wanted: Sequence[str]) -> Chunk:
    faults = block.faults()
    cells: list[list[str | None]] = []
    lines: list[int] = []
    texts: list[bytes] = []
    for number, line in enumerate(block.text.split(b"\n")[:-1], block.first):
        if not line.strip():
            continue
        found = _object(number, line)
        if isinstance(found, Fault):
            faults.append(found)
            continue
        cells.append([_text(found.get(name)) for name in wanted])
        lines.append(number)
        texts.append(line)
    frame = pl.DataFrame(cells, schema=dict.fromkeys(wanted, pl.String()), orient="row")
    return Chunk(frame, np.array(lines, np.int64), texts, faults)


def _object(number: int, line: bytes) -> dict[str, Any] | Fault:
    if len(line) > MAX_LINE_BYTES:
        return overlong(number, len(line), line)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Fault(number, Reject.BAD_ENCODING, "the line is not UTF-8", shown(line))
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(number, Reject.BAD_JSON, f"not JSON: {error}", shown(line))
    if not isinstance(row, dict):
        return Fault(
            number, Reject.BAD_JSON, f"an object was expected, got {type(row).__name__}", shown(line)
        )
    if b"\\u" in line and not _is_text(row):
        return Fault(number, Reject.BAD_ENCODING, "a text holds half a character", shown(line))
    return row


def _is_text(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)
