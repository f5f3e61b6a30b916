"""Rows of CSV, TSV, `::` and RecBole atomic files, a block at a time.

A block without quotes is checked by counting separators on the bytes and parsed by the frame library; only
blocks with quotes are read line by line. Either way each line gets its own verdict: a line that is no row
becomes a fault with its number, and never spoils its neighbours.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.errors import BadInput
from slipstream.events.chunks import Chunk, Fault, shown
from slipstream.events.columns import looks_like_number, looks_like_time
from slipstream.events.event import Reject
from slipstream.events.lines import BLOCK_BYTES, MAX_LINE_BYTES, Block, Stream, blocks, overlong

_SEPARATORS = ("\t", "::", ",", ";", "|")
_UNIT = "\x1f"  # stands in for `::`, as parsers want one character
_TYPES = {"token", "token_seq", "float", "float_seq"}


@dataclass(frozen=True)
class DelimitedForm:
    """How a text table is written; None is found out from its first lines.

    quotes: whether a field may stand in double quotes (commas and line ends inside); not in files
    separated by tabs or `::`, where a quote is a letter like any other. block_bytes: read at a time.
    """

    separator: str | None = None
    has_header: bool | None = None
    quotes: bool | None = None
    block_bytes: int = BLOCK_BYTES


@dataclass(frozen=True)
class Head:
    """What the first lines say. `types[name]` is RecBole's type where the header gave one."""

    form: DelimitedForm
    names: list[str]
    types: dict[str, str]
    first: list[str]  # the first row of data, or nothing

    @property
    def separator(self) -> str:
        return self.form.separator or ","


def read_head(where: str, start: bytes, form: DelimitedForm) -> Head:
    """Find separator and header in the beginning of a file. Raises BadInput where there is none to find."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInput(f"{where} is UTF-16", hint="save it as UTF-8")
    lines = start.decode("utf-8", "replace").removeprefix("\ufeff").split("\n")
    lines = [line.removesuffix("\r") for line in lines if line.strip("\r")]
    if not lines:
        raise BadInput(f"{where} is empty")
    if "\x00" in lines[0]:
        raise BadInput(f"{where} is no text: its first line holds zero bytes", hint="save it as CSV in UTF-8")
    if "\r" in lines[0]:
        raise BadInput(f"{where}: the first line holds a bare carriage return", hint="end lines with \\n")
    separator = form.separator or _separator(lines)
    quotes = form.quotes if form.quotes is not None else separator in (",", ";", "|")
    found = replace(form, separator=separator, quotes=quotes)
    fields = _fields(lines[0], found)
    if found.has_header is None:
        data = any(looks_like_number(field) or looks_like_time(field) for field in fields)
        found = replace(found, has_header=not data)
    if not found.has_header:
        return Head(found, [str(place) for place in range(1, len(fields) + 1)], {}, fields)
    names, types = _typed_names(fields)
    first = _fields(lines[1], found) if len(lines) > 1 else []
    return Head(found, names, types, first)


def _separator(lines: Sequence[str]) -> str:
    """The candidate that is in the first line and equally often in most of the next; a comma if none is."""
    sample = lines[:20]
    scores = []
    for candidate in _SEPARATORS:
        counts = [line.count(candidate) for line in sample]
        same = sum(count == counts[0] for count in counts)
        scores.append((counts[0] > 0, same, counts[0] > 1))
    best = max(range(len(_SEPARATORS)), key=lambda place: (scores[place], -place))
    return _SEPARATORS[best] if scores[best][0] else ","


def _fields(line: str, form: DelimitedForm) -> list[str]:
    if form.quotes:
        return next(csv.reader([line], delimiter=form.separator or ","), [])
    return line.split(form.separator)


def _typed_names(fields: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """`user_id:token` is a name and a type; a name that comes twice gets a number."""
    names: list[str] = []
    types: dict[str, str] = {}
    for place, field in enumerate(fields, 1):
        name, _, kind = field.strip().rpartition(":")
        if kind not in _TYPES or not name:
            name, kind = field.strip(), ""
        name = name or f"column_{place}"
        while name in names:
            name = f"{name}_{place}"
        names.append(name)
        if kind:
            types[name] = kind
    return names, types


def read_rows(stream: Stream, head: Head, wanted: Sequence[str] | None = None) -> Iterator[Chunk]:
    """The rows after the header, in chunks of about a megabyte; all columns, or the wanted ones."""
    chosen = [place for place, name in enumerate(head.names) if wanted is None or name in wanted]
    reader = _Quoted(head, chosen)
    skip = bool(head.form.has_header)
    for block in blocks(stream, size=head.form.block_bytes):
        if skip:
            block, skip = _without_header(block), False
        if head.form.quotes and (reader.waiting or b'"' in block.text):
            yield reader.read(block)
        else:
            yield _plain(block, head, chosen)
    if reader.waiting:
        yield reader.finish()


def _without_header(block: Block) -> Block:
    start = len(block.text) - len(block.text.lstrip(b"\n"))
    place = block.text.find(b"\n", start) + 1
    passed = block.text[:place].count(b"\n")
    return Block(block.first + passed, block.text[place:], block.overlong)


def _plain(block: Block, head: Head, chosen: list[int]) -> Chunk:
    """A block without quotes: counted and parsed as a whole."""
    mark = _UNIT if head.separator == "::" else head.separator
    whole = block.text.replace(b"::", _UNIT.encode()) if head.separator == "::" else block.text
    letters = np.frombuffer(whole, np.uint8)
    ends = np.flatnonzero(letters == 10)
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    marks = np.flatnonzero(letters == ord(mark))
    fields = np.searchsorted(marks, ends) - np.searchsorted(marks, starts) + 1
    texts = _Lines(whole, starts, ends)
    full = ends > starts
    long = ends - starts > MAX_LINE_BYTES
    wrong = full & ~long & (fields != len(head.names))
    garbled = full & ~long & ~wrong & _not_utf8(whole, texts)
    faults = block.faults()
    for line in np.flatnonzero(long | wrong | garbled):
        number, row = block.first + int(line), texts[line]
        if long[line]:
            faults.append(overlong(number, len(row), row))
        elif wrong[line]:
            faults.append(_field_count(number, int(fields[line]), head, row))
        else:
            faults.append(Fault(number, Reject.BAD_ENCODING, "the line is not UTF-8", shown(row)))
    good = full & ~(long | wrong | garbled)
    if not good.all():
        whole = letters[np.repeat(good, ends - starts + 1)].tobytes()
    rows = np.flatnonzero(good)
    frame = _parse(whole, mark, head.names, chosen, len(rows))
    return Chunk(frame, rows + block.first, _Lines(texts.text, starts[rows], ends[rows]), faults)


class _Lines(Sequence[bytes]):
    """Lines of a block, cut out only when somebody looks."""

    def __init__(self, text: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.text, self._starts, self._ends = text, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, line: Any) -> Any:
        return self.text[self._starts[line] : self._ends[line]].replace(_UNIT.encode(), b"::")


def _not_utf8(text: bytes, lines: _Lines) -> NDArray[np.bool_]:
    try:
        text.decode()
    except UnicodeDecodeError:
        return np.fromiter((not _is_utf8(line) for line in lines), bool, len(lines))
    return np.zeros(len(lines), bool)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(text: bytes, separator: str, names: Sequence[str], chosen: list[int], rows: int) -> pl.DataFrame:
    schema = dict.fromkeys(names, pl.String())
    wanted = [names[place] for place in chosen]
    if not rows:
        return pl.DataFrame(schema=schema).select(wanted)
    frame = pl.read_csv(
        text, has_header=False, separator=separator, quote_char=None, schema=schema, columns=chosen
    )
    if frame.height == rows:
        return frame
    # The library sees line ends where we see none; then its counting is not ours.
    cells = [[cell or None for cell in line.split(separator)] for line in text.decode().split("\n")[:-1]]
    return pl.DataFrame(cells, schema=schema, orient="row").select(wanted)


def _field_count(line: int, fields: int, head: Head, row: bytes | str) -> Fault:
    return Fault(line, Reject.FIELD_COUNT, f"{fields} fields, the table has {len(head.names)}", shown(row))


class _Quoted:
    """Reads lines where fields may be quoted. A record that does not end within the bound costs one line."""

    def __init__(self, head: Head, chosen: list[int]) -> None:
        self._head, self._chosen = head, chosen
        self._rows: list[tuple[int, list[str], str]] = []
        self._faults: list[Fault] = []
        self._open: list[tuple[int, str]] = []  # lines of a record whose quotes are still open
        self._size = 0

    @property
    def waiting(self) -> bool:
        return bool(self._open)

    def read(self, block: Block) -> Chunk:
        self._faults, self._rows = block.faults(), []
        for number, line in enumerate(block.text.split(b"\n")[:-1], block.first):
            try:
                self._take(number, line.decode())
            except UnicodeDecodeError:
                self._give_up()
                self._faults.append(Fault(number, Reject.BAD_ENCODING, "the line is not UTF-8", shown(line)))
        return self._chunk()

    def finish(self) -> Chunk:
        self._faults, self._rows = [], []
        while self._open:
            self._give_up()
        return self._chunk()

    def _chunk(self) -> Chunk:
        series = [
            pl.Series(
                self._head.names[place], [fields[place] or None for _, fields, _ in self._rows], pl.String
            )
            for place in self._chosen
        ]
        lines = np.array([line for line, _, _ in self._rows], np.int64)
        return Chunk(pl.DataFrame(series), lines, [text for _, _, text in self._rows], self._faults)

    def _take(self, number: int, line: str) -> None:
        if not line and not self._open:
            return
        if len(line) > MAX_LINE_BYTES:
            self._faults.append(overlong(number, len(line), line))
            return
        self._open.append((number, line))
        self._size += len(line) + 1
        if self._size > MAX_LINE_BYTES:
            self._give_up()
        elif len(self._open) == 1 or '"' in line:
            self._try()

    def _try(self) -> None:
        """Is the open record whole by now, and is it a row?"""
        text = "\n".join(line for _, line in self._open)
        try:
            fields = self._split(text)
        except csv.Error as error:
            self._give_up(f"the line cannot be read: {error}")
            return
        if fields is None:
            return
        if len(fields) != len(self._head.names) and len(self._open) > 1:
            self._give_up()
            return
        number = self._open[0][0]
        self._open, self._size = [], 0
        if len(fields) == len(self._head.names):
            self._rows.append((number, fields, text))
        else:
            self._faults.append(_field_count(number, len(fields), self._head, text))

    def _split(self, text: str) -> list[str] | None:
        """The fields; None while a quoted one has not ended."""
        if '"' not in text:
            return text.split(self._head.separator)
        lines = [line + "\n" for line in text.split("\n")]
        try:
            rows = list(csv.reader(lines, delimiter=self._head.separator, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                return None
            rows = list(csv.reader(lines, delimiter=self._head.separator))
        return rows[0] if len(rows) == 1 else []

    def _give_up(self, detail: str = "a quoted field does not end") -> None:
        """The first open line is no row; those after it get another chance of their own."""
        if not self._open:
            return
        (number, line), *rest = self._open
        self._open, self._size = [], 0
        self._faults.append(Fault(number, Reject.BAD_QUOTES, detail, shown(line)))
        for later, text in rest:
            self._take(later, text)
