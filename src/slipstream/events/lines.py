"""A file as blocks of whole lines, in bounded memory, whatever is in it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from slipstream.errors import BadInput, NotThere
from slipstream.events.chunks import SHOWN_CHARACTERS, Fault, shown
from slipstream.events.event import Reject

Stream = IO[bytes] | gzip.GzipFile
BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 100_000
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Whole lines, joined by \\n and ending in one; `first` is the number of the first, from 1.

    Lines that were too long to keep come as (number, bytes, beginning); they are not in `text`.
    """

    first: int
    text: bytes
    overlong: list[tuple[int, int, bytes]] = field(default_factory=list)

    def faults(self) -> list[Fault]:
        return [overlong(line, size, row) for line, size, row in self.overlong]


def overlong(line: int, size: int, row: bytes | str) -> Fault:
    detail = f"a line of {size:,} bytes, at most {MAX_LINE_BYTES:,} are read"
    return Fault(line, Reject.FIELD_TOO_LONG, detail, shown(row))


@contextmanager
def reading(path: Path) -> Iterator[tuple[Stream, IO[bytes]]]:
    """(the bytes of the file, unpacked if it is .gz; the file itself, whose position tells the progress)."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise NotThere(f"there is no file {path}") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        if path.suffix != ".gz":
            yield file, file
            return
        try:
            with gzip.open(file, "rb") as unpacked:
                yield unpacked, file
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(
                f"{path} is not a whole gzip file: {error}", hint="fetch the file again"
            ) from error


def blocks(stream: Stream, *, size: int = BLOCK_BYTES, limit: int = MAX_LINE_BYTES) -> Iterator[Block]:
    """The file in blocks of about `size` bytes. A line of more than max(size, limit) is passed by unread.

    \\r\\n becomes \\n and a byte order mark at the start is dropped. Memory: a few blocks.
    """
    rest, line = stream.read(size).removeprefix(_BOM), 1
    passed: list[tuple[int, int, bytes]] = []
    while rest:
        cut = rest.rfind(b"\n") + 1
        if not cut and len(rest) > limit:
            length, begin = len(rest), rest[:SHOWN_CHARACTERS]
            rest, passed_by = _after_line(stream, size)
            passed.append((line, length + passed_by, begin))
            line += 1
            continue
        more = stream.read(size)
        if not more:
            rest = rest if rest.endswith(b"\n") else rest + b"\n"
            cut = len(rest)
        if cut:
            text = rest[:cut].replace(b"\r\n", b"\n")
            yield Block(line, text, passed)
            line += text.count(b"\n")
            passed = []
        rest = rest[cut:] + more
    if passed:
        yield Block(line, b"", passed)


def _after_line(stream: Stream, size: int) -> tuple[bytes, int]:
    """What follows the next line end, and how many bytes came before it."""
    length = 0
    while more := stream.read(size):
        place = more.find(b"\n")
        if place >= 0:
            return more[place + 1 :] or stream.read(size), length + place
        length += len(more)
    return b"", length
