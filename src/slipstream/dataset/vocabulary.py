"""Outside ids (strings) to dense numbers and back.

Numbers are positions in the order of first appearance or whatever order the maker chose; strings are kept
as one UTF-8 blob with offsets, so a vocabulary of millions opens by memory map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NewType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter

UserId = NewType("UserId", str)
ItemId = NewType("ItemId", str)
UserNumber = NewType("UserNumber", int)
ItemNumber = NewType("ItemNumber", int)

UNKNOWN = -1

COLUMNAR_FROM = 4096
"""From this many ids on, a columnar lookup beats a Python dict even when its table must be built first."""


class Vocabulary:
    """A fixed, numbered set of distinct strings. Immutable."""

    def __init__(self, offsets: NDArray[np.int64], text: NDArray[np.uint8]) -> None:
        self._offsets = offsets
        self._text = text

    @classmethod
    def of(cls, ids: Iterable[str] | pl.Series) -> Vocabulary:
        """Numbered in the order given; the caller guarantees that they are distinct."""
        series = ids if isinstance(ids, pl.Series) else pl.Series("id", list(ids), pl.String)
        series = series.cast(pl.String)
        offsets = np.zeros(len(series) + 1, np.int64)
        np.cumsum(series.str.len_bytes().to_numpy(), out=offsets[1:])
        text = "".join(series) if len(series) < COLUMNAR_FROM else str(series.str.join("")[0])
        return cls(offsets, np.frombuffer(text.encode(), np.uint8))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise IndexError(f"number {number} is outside a vocabulary of {len(self)}")
        return bytes(self._text[self._offsets[number] : self._offsets[number + 1]]).decode()

    def __contains__(self, text: object) -> bool:
        return text in self._numbers

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.to_list())}

    @cached_property
    def _categories(self) -> pl.Enum:
        """The ids as a Polars type whose physical code is the number: a lookup without Python objects."""
        return pl.Enum(self.series())

    def number(self, text: str) -> int:
        """The number of one id, or UNKNOWN (-1)."""
        return self._numbers.get(text, UNKNOWN)

    def numbers(self, texts: Sequence[str] | pl.Series) -> NDArray[np.int32]:
        """The numbers of many ids, UNKNOWN (-1) where there is none. O(len(texts))."""
        if len(texts) >= COLUMNAR_FROM:
            series = texts if isinstance(texts, pl.Series) else pl.Series("id", texts, pl.String)
            codes = series.cast(self._categories, strict=False).to_physical().cast(pl.Int32)
            return codes.fill_null(UNKNOWN).to_numpy()
        get = self._numbers.get
        return np.fromiter((get(t, UNKNOWN) for t in texts), np.int32, len(texts))

    def texts(self, numbers: NDArray[Any] | Sequence[int]) -> list[str]:
        return [self[int(n)] for n in numbers]

    def to_list(self) -> list[str]:
        """All ids in the order of their numbers. One decoding of the whole text, then slices of it."""
        whole = bytes(self._text).decode()
        offsets = self._offsets
        if len(whole) != len(self._text):  # some characters take several bytes: count characters, not bytes
            starts = (self._text & 0xC0) != 0x80  # True at the first byte of each character
            offsets = np.concatenate([[0], np.cumsum(starts)])[offsets]
        ends = offsets.tolist()
        return [whole[a:b] for a, b in pairwise(ends)]

    def series(self, name: str = "id") -> pl.Series:
        return pl.Series(name, self.to_list(), pl.String)

    def write(self, writer: ArtifactWriter, name: str) -> None:
        writer.array(f"{name}.offsets", self._offsets)
        writer.array(f"{name}.text", self._text)

    @classmethod
    def read(cls, artifact: Artifact, name: str) -> Vocabulary:
        return cls(artifact.array(f"{name}.offsets"), artifact.array(f"{name}.text"))
