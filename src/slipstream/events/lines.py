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

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 18
SHOWN_CHARACTERS = 300  # of a bad row
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Fault:
    """A line that is no row: where, why, and how it begins."""

    line: int
    code: str
    detail: str
    row: str


@dataclass(frozen=True)
class Block:
    """Whole lines, joined by \\n and ending in one; `first` is the number of the first, from 1.

    Lines that were too long to keep come as (number, bytes, beginning); they are not in `text`.
    """

    first: int
    text: bytes
    overlong: list[tuple[int, int, bytes]] = field(default_factory=list)


@contextmanager
def reading(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
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
            raise BadInput(f"{path} is not a whole gzip file: {error}", hint="fetch the file again") from error


def blocks(stream: IO[bytes], *, size: int = BLOCK_BYTES, limit: int = MAX_LINE_BYTES) -> Iterator[Block]:
    """The file in blocks of about `size` bytes. A line of more than max(size, limit) is passed by unread.

    \\r\\n becomes \\n and a byte order mark at the start is dropped. Memory: a few blocks.
    """
    rest, line = stream.read(size).removeprefix(_BOM), 1
    passed: list[tuple[int, int, bytes]] = []
    while rest:
        cut = rest.rfind(b"\n") + 1
        if not cut and len(rest) > limit:
            length, begin = len(rest), rest[:SHOWN_CHARACTERS]
            rest, more = _after_line(stream, size)
            passed.append((line, length + more, begin))
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


def _after_line(stream: IO[bytes], size: int) -> tuple[bytes, int]:
    """What follows the next line end, and how many bytes came before it."""
    length = 0
    while more := stream.read(size):
        place = more.find(b"\n")
        if place >= 0:
            return more[place + 1 :] or stream.read(size), length + place
        length += len(more)
    return b"", length


def shown(row: bytes | str) -> str:
    """A row as it is shown to people: text, shortened, unreadable bytes marked."""
    text = row[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace") if isinstance(row, bytes) else row
    text = text.rstrip("\r\n")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
