"""The id that content gives to an event, so that reading the same file twice stores nothing twice.

An id is 32 hex digits:

    12   the event's time in milliseconds (plus 2^47; zeros where there is no time)
    20   BLAKE2b-80 of (user, item, kind, value, time, occurrence number)

Two rows that are equal in all five fields are told apart by their occurrence number: the first is 0, the
next 1, counted over one file (or one batch). So two really identical rows inside one file both survive, and
reading that file again, or a longer file that begins with the same rows, meets only known ids. The price:
the same event met in two different files is one event. Give ids of your own where that is wrong.

The time in front keeps neighbours in time together in the store's index of ids; with plain hashes every
event touches its own page of it (measured: 1.6 times slower appends at a million events).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import NDArray

_ERA_MS = 1 << 47


class SeenHashes:
    """A growing set of 64-bit hashes in sorted runs: 8 bytes an entry, and some 80 MB while runs are merged.

    A lookup is one binary search per run. Runs double in size up to 4 million entries.
    """

    _longest = 1 << 22

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def contains(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        found = np.zeros(len(hashes), bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            found |= run[place] == hashes
        return found

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Add hashes; those already inside may be added again without harm."""
        run = np.unique(hashes)
        while self._runs and len(self._runs[-1]) <= max(2 * len(run), 4096):
            if len(self._runs[-1]) + len(run) > self._longest:
                break
            run = np.concatenate((self._runs.pop(), run))
            run.sort(kind="stable")  # which merges what is sorted already
        if len(run):
            self._runs.append(run)


class Occurrences:
    """Counts identical contents over the chunks of one file. Memory: see `SeenHashes`.

    Contents are told apart by 64 bits of their hash. Should two different contents ever share them, the
    later one gets occurrence 1 instead of 0: still an id of its own, and the same one on every reading.
    """

    def __init__(self) -> None:
        self._seen = SeenHashes()
        self._counts: dict[int, int] = {}

    def number(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How often each hash came before (in earlier calls or earlier in this one), [rows]."""
        numbers = np.zeros(len(hashes), np.int64)
        values, counts = np.unique(hashes, return_counts=True)
        again = values[(counts > 1) | self._seen.contains(values)]
        for row in np.flatnonzero(np.isin(hashes, again)):
            key = int(hashes[row])
            before = self._counts.get(key)
            if before is None:
                before = int(self._seen.contains(hashes[row : row + 1])[0])
            numbers[row] = before
            self._counts[key] = before + 1
        self._seen.add(values)
        return numbers


def content_ids(frame: pl.DataFrame, occurrences: Occurrences | None = None) -> pl.Series:
    """The id of each row of a frame in EVENT_SCHEMA. Cost about 1 us a row."""
    texts = _content(frame).to_list()
    digests = [blake2b(text.encode(), digest_size=10).digest() for text in texts]
    hashes = np.frombuffer(b"".join(d[:8] for d in digests), ">u8").astype(np.uint64)
    numbers = (occurrences or Occurrences()).number(hashes)
    for row in np.flatnonzero(numbers):
        digests[row] = _later(texts[row], int(numbers[row]))
    tails = pl.Series("tail", [digest.hex() for digest in digests], pl.String)
    return frame.select(
        event_id=pl.concat_str(pl.Series("head", _heads(frame["time_us"])), tails)
    ).to_series()


def content_id(
    user: str, item: str, kind: str, value: float | None, time_us: int | None, occurrence: int
) -> str:
    """The id of one event: the plain form of `content_ids`."""
    bits = "" if value is None else str(int(np.float64(value + 0.0).view(np.int64)))
    time = "" if time_us is None else str(time_us)
    lengths = (len(part.encode()) for part in (user, item, kind))
    text = ",".join(map(str, lengths)) + f",{user}{item}{kind},{bits},{time}"
    digest = _later(text, occurrence) if occurrence else blake2b(text.encode(), digest_size=10).digest()
    head = 0 if time_us is None else (time_us // 1000 + _ERA_MS) % (1 << 48)
    return f"{head:012x}{digest.hex()}"


def id_hashes(event_ids: pl.Series) -> NDArray[np.uint64]:
    """64 bits of every id, to see which came before, [rows]."""
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in event_ids.to_list())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _later(text: str, occurrence: int) -> bytes:
    return blake2b(f"{text}#{occurrence}".encode(), digest_size=10).digest()


def _content(frame: pl.DataFrame) -> pl.Series:
    """One text per row that two different rows never share: lengths first, then the fields."""
    names = ("user_id", "item_id", "kind")
    lengths = [pl.format("{},", pl.col(name).str.len_bytes()) for name in names]
    # The sum makes -0.0 and 0.0 one value; bits rather than digits, so that no formatting can change an id.
    bits = pl.Series("bits", (frame["value"].fill_null(0.0).to_numpy() + 0.0).view(np.int64))
    value = pl.when(pl.col("value").is_null()).then(pl.lit("")).otherwise(pl.col("bits").cast(pl.String))
    time = pl.col("time_us").cast(pl.String).fill_null("")
    text = pl.concat_str(*lengths, *names, pl.lit(","), value, pl.lit(","), time)
    return frame.with_columns(bits).select(text).to_series()


def _heads(time_us: pl.Series) -> list[str]:
    millis = time_us.to_numpy() // 1000 if not time_us.null_count() else None
    if millis is not None:
        return [f"{ms:012x}" for ms in ((millis + _ERA_MS) % (1 << 48)).tolist()]
    return [f"{0 if t is None else (t // 1000 + _ERA_MS) % (1 << 48):012x}" for t in time_us.to_list()]
